//! Lines of fields between tabs, as GLUE has them: no field is quoted, and a quote is a character.
//!
//! Lines end where Python's text files end them (`\n`, `\r\n`, `\r`); nothing else does, whatever
//! Unicode says of it.

use std::path::{Path, PathBuf};

use crate::Error;
use crate::rows::utf8;

/// The whole of one file.
pub(super) struct Lines {
    path: PathBuf,
    text: String,
    /// The header's fields; none where the file has no header.
    names: Vec<String>,
}

/// A line that is not empty.
pub(super) struct Line<'a> {
    path: &'a Path,
    pub number: usize,
    fields: Vec<&'a str>,
}

impl Lines {
    pub(super) fn read(path: &Path, has_header: bool) -> Result<Self, Error> {
        let bytes = std::fs::read(path).map_err(Error::io(path, "read"))?;
        let text = utf8(path, &bytes)?.to_owned();
        let mut lines = Self {
            path: path.to_path_buf(),
            text,
            names: Vec::new(),
        };
        if has_header {
            let names = lines.iter().next().map(|line| line.fields);
            let Some(names) = names else {
                return Err(Error::format(path, "line 1", "a header", "nothing"));
            };
            lines.names = names.into_iter().map(str::to_owned).collect();
        }
        Ok(lines)
    }

    /// Where the header has one of these names.
    pub(super) fn column(&self, wanted: &[&str]) -> Result<usize, Error> {
        let place = |name| self.names.iter().position(|column| column == name);
        wanted.iter().copied().find_map(place).ok_or_else(|| {
            let expected = format!("column {}", wanted.join(" or "));
            Error::format(
                &self.path,
                "line 1",
                expected,
                format!("only {}", self.names.join(", ")),
            )
        })
    }

    /// The lines that are not empty, without the header.
    pub(super) fn iter(&self) -> impl Iterator<Item = Line<'_>> {
        let lines = self.text.split_inclusive(['\n', '\r']);
        let mut number = 1;
        let numbered = lines.filter_map(move |line| {
            let content = line.trim_end_matches(['\n', '\r']);
            // The second half of `\r\n` is a piece of its own, and no line.
            let found = Line {
                path: &self.path,
                number,
                fields: content.split('\t').collect(),
            };
            if line.ends_with('\n') {
                number += 1;
            }
            (!content.is_empty()).then_some(found)
        });
        numbered.skip(usize::from(!self.names.is_empty()))
    }
}

impl<'a> Line<'a> {
    pub(super) fn count(&self) -> usize {
        self.fields.len()
    }

    /// The field of a column, from 0.
    pub(super) fn field(&self, column: usize) -> Result<&'a str, Error> {
        self.fields.get(column).copied().ok_or_else(|| {
            let expected = format!("at least {} fields between tabs", column + 1);
            self.error(expected, self.fields.len().to_string())
        })
    }

    pub(super) fn error(&self, expected: impl Into<String>, found: String) -> Error {
        Error::format(self.path, format!("line {}", self.number), expected, found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8], has_header: bool) -> Result<Lines, Error> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.tsv");
        std::fs::write(&path, bytes).unwrap();
        Lines::read(&path, has_header)
    }

    #[test]
    fn quotes_are_characters_and_numbers_are_of_the_file() {
        let text = "\u{feff}a\tb\r\n\"x\ty\" z\u{2028}w\r\n\n\"\tq\n";
        let lines = read(text.as_bytes(), true).unwrap();
        assert_eq!(lines.column(&["c", "b"]).unwrap(), 1);
        let found: Vec<_> = lines
            .iter()
            .map(|line| (line.number, line.fields))
            .collect();
        assert_eq!(
            found,
            [(2, vec!["\"x", "y\" z\u{2028}w"]), (4, vec!["\"", "q"])]
        );
        let line = lines.iter().nth(1).unwrap();
        let fault = line.field(2).unwrap_err().to_string();
        assert!(
            fault.ends_with("t.tsv: line 4: expected at least 3 fields between tabs, found 2"),
            "{fault}"
        );
        let fault = lines.column(&["label"]).unwrap_err().to_string();
        assert!(
            fault.contains("expected column label, found only a, b"),
            "{fault}"
        );
        assert!(
            read(b"", true)
                .err()
                .unwrap()
                .to_string()
                .contains("a header")
        );
        assert!(
            read(b"a\n\xFF", true)
                .err()
                .unwrap()
                .to_string()
                .contains("line 2")
        );
    }
}
