//! What the readers of text formats share: rows of cells, and columns by content.

use std::collections::HashSet;
use std::path::Path;

use crate::{Column, Error};

/// What was read: columns of equal length, and the name of each.
#[derive(Debug)]
pub(crate) struct Rows {
    pub names: Vec<String>,
    pub columns: Vec<Column>,
}

/// More columns are no table of metrics.
pub(crate) const MOST_COLUMNS: usize = 4096;
/// Rows × columns: bounds what a small file can ask for, such as JSON records that share no key.
pub(crate) const MOST_CELLS: usize = 20_000_000;

/// The bytes as UTF-8 without a byte order mark.
pub(crate) fn utf8<'a>(origin: &Path, bytes: &'a [u8]) -> Result<&'a str, Error> {
    let bytes = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes);
    std::str::from_utf8(bytes).map_err(|error| {
        let at = error.valid_up_to();
        let line = 1 + bytes[..at].iter().filter(|&&byte| byte == b'\n').count();
        let found = match bytes {
            [0xFF, 0xFE, ..] | [0xFE, 0xFF, ..] => "UTF-16".to_owned(),
            _ => format!("the byte 0x{:02X}", bytes[at]),
        };
        Error::format(origin, format!("line {line}"), "UTF-8", found)
    })
}

/// Refuses names that are empty or come twice, and too many of them.
pub(crate) fn check_names(origin: &Path, line: usize, names: &[String]) -> Result<(), Error> {
    if names.len() > MOST_COLUMNS {
        return Err(Error::format(
            origin,
            format!("line {line}"),
            format!("at most {MOST_COLUMNS} columns"),
            names.len().to_string(),
        ));
    }
    let mut seen = HashSet::new();
    for (index, name) in names.iter().enumerate() {
        let what = || format!("line {line}, column {}", index + 1);
        if name.is_empty() {
            let expected = "a name (pandas leaves out that of an index: write with index=False)";
            return Err(Error::format(origin, what(), expected, "nothing"));
        }
        if !seen.insert(name) {
            let found = format!("{name:?} again");
            return Err(Error::format(origin, what(), "another name", found));
        }
    }
    Ok(())
}
