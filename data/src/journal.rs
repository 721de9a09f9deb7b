//! What this process is writing, and what it has written.
//!
//! A program that is interrupted cannot reach into the calls that are under way: here it finds the
//! temporary names that they write under, and the results that are whole.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::{fs, io, mem};

struct Journal {
    unfinished: BTreeSet<PathBuf>,
    written: BTreeSet<PathBuf>,
}

impl Journal {
    fn written_below(&self, path: &Path) -> Vec<PathBuf> {
        let below = self.written.iter();
        below
            .filter(|file| file.starts_with(path) && file.is_file())
            .cloned()
            .collect()
    }
}

static JOURNAL: Mutex<Journal> = Mutex::new(Journal {
    unfinished: BTreeSet::new(),
    written: BTreeSet::new(),
});

/// A panic elsewhere leaves sets of paths as they are.
fn journal() -> MutexGuard<'static, Journal> {
    JOURNAL.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The files at or below `path` that this process has written whole, sorted, without those that are
/// gone again.
pub fn written_files(path: &Path) -> Vec<PathBuf> {
    journal().written_below(path)
}

/// Removes what is unfinished, as far as that is possible, and returns the files at or below `path`
/// that are whole.
///
/// From then on nothing is finished any more: whoever would rename a result, or give one up, waits
/// for ever. This is for the handler of a signal, which then ends the process.
pub fn abandon_unfinished(path: &Path) -> Vec<PathBuf> {
    let journal = journal();
    for name in &journal.unfinished {
        // A folder may be given another file while it is emptied.
        for _ in 0..3 {
            let removed = match name.is_dir() {
                true => fs::remove_dir_all(name),
                false => fs::remove_file(name),
            };
            match removed {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {}
                _ => break,
            }
        }
    }
    let written = journal.written_below(path);
    mem::forget(journal);
    written
}

/// A temporary name under which something is being written.
pub(crate) struct Unfinished(PathBuf);

impl Unfinished {
    pub fn new(name: &Path) -> Self {
        journal().unfinished.insert(name.to_path_buf());
        Self(name.to_path_buf())
    }

    /// Renames it to `path` by `rename`, in one step as seen by an interruption.
    pub fn finish<E>(self, path: &Path, rename: impl FnOnce() -> Result<(), E>) -> Result<(), E> {
        let mut journal = journal();
        rename()?;
        // What was written into a temporary folder has that folder's new name.
        let written = mem::take(&mut journal.written).into_iter();
        journal.written = written
            .map(|file| match file.strip_prefix(&self.0) {
                Ok(rest) => path.join(rest),
                Err(_) => file,
            })
            .collect();
        journal.written.insert(path.to_path_buf());
        Ok(())
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        journal().unfinished.remove(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{write_atomic, write_folder};

    #[test]
    fn what_is_written_is_known_by_its_last_name() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let write = |path: &Path| write_atomic(path, |out| out.write_all(b"x"));
        write(&at("b")).unwrap();
        write(&at("a")).unwrap();
        write(&at("a")).unwrap();
        write_folder(&at("made"), |inside| write(&inside.join("c"))).unwrap();
        let failed = write_folder(&at("failed"), |inside| {
            write(&inside.join("d"))?;
            write_atomic(
                &inside.join("e"),
                |_| Err(io::ErrorKind::StorageFull.into()),
            )
        });
        assert!(failed.is_err());
        assert_eq!(
            written_files(folder.path()),
            [at("a"), at("b"), at("made/c")]
        );
        assert_eq!(written_files(&at("made")), [at("made/c")]);
        assert_eq!(written_files(&at("a")), [at("a")]);
        fs::remove_file(at("a")).unwrap();
        assert!(written_files(&at("a")).is_empty());
        // `a` is no part of `another`.
        assert!(written_files(&at("mad")).is_empty());
        let own = |path: &PathBuf| path.starts_with(folder.path());
        assert!(!journal().unfinished.iter().any(own));
    }
}
