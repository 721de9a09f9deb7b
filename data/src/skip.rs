//! Bad lines and images: how many are passed over, and which they were.

use std::collections::HashSet;
use std::path::PathBuf;

use crate::Error;

/// An allowance of bad lines and images, shared by everything that one run reads.
///
/// What is wrong with a *file* (it is missing, of another format, or the disk fails) is never passed
/// over; what is wrong with one of its lines, records or images is, as often as allowed. An item that
/// is met again, such as a damaged image in a later epoch, counts once.
///
/// ```
/// use rankwise_data::{Error, SkipBad};
/// let bad = |line| Error::Format {
///     path: "t.csv".into(),
///     what: format!("line {line}"),
///     expected: "2 fields".into(),
///     found: "1".into(),
/// };
/// let mut skip = SkipBad::new(1);
/// assert_eq!(skip.take(Ok(7))?, Some(7));
/// assert_eq!(skip.take::<i32>(Err(bad(3)))?, None);
/// assert_eq!(skip.take::<i32>(Err(bad(3)))?, None);
/// assert_eq!(
///     skip.take::<i32>(Err(bad(5))).unwrap_err().to_string(),
///     "t.csv: line 5: expected 2 fields, found 1 (bad items allowed: 1)"
/// );
/// # Ok::<(), Error>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct SkipBad {
    allowed: usize,
    skipped: Vec<String>,
    seen: HashSet<String>,
}

impl SkipBad {
    /// Allows `allowed` bad lines or images.
    pub fn new(allowed: usize) -> Self {
        Self {
            allowed,
            ..Self::default()
        }
    }

    /// The value, or `None` where one more bad item is allowed.
    ///
    /// # Errors
    /// The one in `result` if it is none of a line or image, or [`Error::TooManyBad`] with it if the
    /// allowance is used up (the error itself where nothing was allowed).
    pub fn take<T>(&mut self, result: Result<T, Error>) -> Result<Option<T>, Error> {
        let error = match result {
            Ok(value) => return Ok(Some(value)),
            Err(error @ Error::Format { .. }) => error,
            Err(other) => return Err(other),
        };
        let named = error.to_string();
        if self.seen.contains(&named) {
            return Ok(None);
        }
        if self.skipped.len() < self.allowed {
            self.skipped.push(named.clone());
            self.seen.insert(named);
            return Ok(None);
        }
        if self.allowed == 0 {
            return Err(error);
        }
        Err(Error::TooManyBad {
            allowed: self.allowed,
            bad: Box::new(error),
        })
    }

    /// What was passed over: file, line or record, what was expected and what was found.
    pub fn skipped(&self) -> &[String] {
        &self.skipped
    }

    /// How many bad items are allowed.
    pub fn allowed(&self) -> usize {
        self.allowed
    }
}

/// Where a loaded set came from, for a run's record.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Provenance {
    /// The files that were read, in order.
    pub files: Vec<PathBuf>,
    /// What a reader of the results should know, such as that only part of a set was there.
    pub notes: Vec<String>,
}
