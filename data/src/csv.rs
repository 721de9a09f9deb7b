//! A strict reader of small CSV files: what is wrong is said with its line.

use std::path::Path;

use crate::rows::{MOST_CELLS, Rows, check_names, utf8};
use crate::{Column, Error};

/// What stands for nothing among numbers.
const MISSING: [&str; 5] = ["", "na", "nan", "null", "none"];

pub(crate) fn read(origin: &Path, bytes: &[u8], separator: char) -> Result<Rows, Error> {
    let mut records = Records::new(origin, utf8(origin, bytes)?, separator, false);
    let Some((line, names)) = records.next()? else {
        return Err(Error::format(origin, "line 1", "a header", "nothing"));
    };
    check_names(origin, line, &names)?;
    let mut columns: Vec<Vec<String>> = vec![Vec::new(); names.len()];
    let mut cells = 0;
    while let Some((line, fields)) = records.next()? {
        cells += fields.len();
        if cells > MOST_CELLS {
            let expected = format!("at most {MOST_CELLS} cells");
            return Err(Error::format(origin, "size", expected, "more"));
        }
        if fields.len() != names.len() {
            let expected = format!("{} fields as in the header", names.len());
            let found = fields.len().to_string();
            return Err(Error::format(
                origin,
                format!("line {line}"),
                expected,
                found,
            ));
        }
        for (column, field) in columns.iter_mut().zip(fields) {
            column.push(field);
        }
    }
    let columns = columns.into_iter().map(by_content).collect();
    Ok(Rows { names, columns })
}

/// Whole numbers, numbers or texts: the first that all fields are.
fn by_content(fields: Vec<String>) -> Column {
    let whole: Option<Vec<i64>> = fields.iter().map(|field| whole(field)).collect();
    if let Some(values) = whole.filter(|values| !values.is_empty()) {
        return Column::Whole(values);
    }
    let real: Option<Vec<Option<f64>>> = fields
        .iter()
        .map(|field| {
            let is_missing = MISSING.iter().any(|word| field.eq_ignore_ascii_case(word));
            if is_missing {
                Some(None)
            } else {
                real(field).map(Some)
            }
        })
        .collect();
    match real {
        // A column of nothing but `None` is one of texts that say so.
        Some(values) if values.iter().any(Option::is_some) => Column::Real(values),
        Some(values) if fields.iter().all(String::is_empty) => Column::Real(values),
        _ => Column::Text(fields),
    }
}

fn whole(field: &str) -> Option<i64> {
    is_plain(field).then(|| field.parse().ok()).flatten()
}

fn real(field: &str) -> Option<f64> {
    is_plain(field).then(|| field.parse().ok()).flatten()
}

/// Whether a number is written as one: `007` is a name.
fn is_plain(field: &str) -> bool {
    let digits = field.trim_start_matches(['-', '+']).as_bytes();
    !matches!(digits, [b'0', b'0'..=b'9', ..])
}

/// The records of a text, one after another.
pub(crate) struct Records<'a> {
    origin: &'a Path,
    rest: &'a str,
    separator: char,
    /// Whether fields are texts to be kept as they are: spaces around them, and quotes inside of a
    /// field that does not begin with one.
    verbatim: bool,
    /// Of the next character, from 1.
    line: usize,
}

impl<'a> Records<'a> {
    pub(crate) fn new(origin: &'a Path, text: &'a str, separator: char, verbatim: bool) -> Self {
        Self {
            origin,
            rest: text,
            separator,
            verbatim,
            line: 1,
        }
    }

    /// Goes to the line after the one where a record that could not be read begins, which is the next
    /// that [`next`](Self::next) reads.
    #[cfg(feature = "texts")]
    pub(crate) fn resume(&mut self, before: (&'a str, usize)) {
        (self.rest, self.line) = before;
        // Behind empty lines, as the record was.
        loop {
            let end = self.rest.find(['\n', '\r']).unwrap_or(self.rest.len());
            self.rest = &self.rest[end..];
            self.end_line();
            if end > 0 || self.rest.is_empty() {
                break;
            }
        }
    }

    /// Where the next record begins, for [`resume`](Self::resume).
    #[cfg(feature = "texts")]
    pub(crate) fn place(&self) -> (&'a str, usize) {
        (self.rest, self.line)
    }

    /// The line and fields of the next record that is not an empty line.
    pub(crate) fn next(&mut self) -> Result<Option<(usize, Vec<String>)>, Error> {
        while !self.rest.is_empty() {
            let line = self.line;
            let mut fields = Vec::new();
            let mut is_empty = true;
            loop {
                let (field, was_quoted) = self.field(fields.len() + 1)?;
                is_empty &= field.is_empty() && !was_quoted;
                fields.push(field);
                if !self.skip(self.separator) {
                    break;
                }
                is_empty = false;
            }
            self.end_line();
            if !is_empty {
                return Ok(Some((line, fields)));
            }
        }
        Ok(None)
    }

    fn field(&mut self, column: usize) -> Result<(String, bool), Error> {
        let spaces = match self.verbatim {
            true => 0,
            false => self.rest.len() - self.rest.trim_start_matches(' ').len(),
        };
        if self.rest[spaces..].starts_with('"') {
            self.rest = &self.rest[spaces + 1..];
            return self.quoted(column).map(|field| (field, true));
        }
        let end = self
            .rest
            .find([self.separator, '\n', '\r'])
            .unwrap_or(self.rest.len());
        let (field, rest) = self.rest.split_at(end);
        if self.verbatim {
            self.rest = rest;
            return Ok((field.to_owned(), false));
        }
        if field.contains('"') {
            let expected = "quotes around the whole field";
            return Err(self.error(column, expected, format!("{field:?}")));
        }
        self.rest = rest;
        Ok((field.trim().to_owned(), false))
    }

    /// What is between an opening quote, which is behind, and its closing one.
    fn quoted(&mut self, column: usize) -> Result<String, Error> {
        let mut field = String::new();
        let opened = self.line;
        loop {
            let Some(end) = self.rest.find('"') else {
                self.line = opened;
                return Err(self.error(
                    column,
                    "a closing quote",
                    "the end of the file".to_owned(),
                ));
            };
            let piece = &self.rest[..end];
            self.line += piece.matches('\n').count();
            field.push_str(piece);
            self.rest = &self.rest[end + 1..];
            if !self.skip('"') {
                break;
            }
            field.push('"');
        }
        self.rest = self.rest.trim_start_matches(' ');
        match self.rest.chars().next() {
            None | Some('\n' | '\r') => Ok(field),
            Some(next) if next == self.separator => Ok(field),
            Some(next) => {
                let expected = format!("{:?} or a line end after a quote", self.separator);
                Err(self.error(column, expected, format!("{next:?}")))
            }
        }
    }

    fn skip(&mut self, character: char) -> bool {
        let rest = self.rest.strip_prefix(character);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    /// Goes past `\n`, `\r\n` or `\r`.
    fn end_line(&mut self) {
        let returned = self.skip('\r');
        if self.skip('\n') || returned {
            self.line += 1;
        }
    }

    fn error(&self, column: usize, expected: impl Into<String>, found: String) -> Error {
        let what = format!("line {}, column {column}", self.line);
        Error::format(self.origin, what, expected, found)
    }
}

#[cfg(all(test, feature = "tables"))]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{ColumnKind, Table};

    fn read(text: &str) -> Result<Table, Error> {
        Table::from_csv(Path::new("m.csv"), text.as_bytes(), ',')
    }

    fn fault(bytes: &[u8]) -> String {
        let fault = super::read(Path::new("m.csv"), bytes, ',').unwrap_err();
        fault.to_string()
    }

    #[test]
    fn columns_have_the_kind_of_their_content() {
        let table = read(
            "\u{feff}name,seed,loss,id,note,empty\r\n\
             a, 1 ,0.5,007,\"1, \"\"x\"\"\r\ny\",\r\n\
             \r\n\
             b,-2,NA,08,,\r\n\
             c,3,1e-3,9,z,",
        )
        .unwrap();
        assert_eq!(
            table.names(),
            ["name", "seed", "loss", "id", "note", "empty"]
        );
        let kinds = ["seed", "loss", "id", "note", "empty"].map(|name| table.kind(name).unwrap());
        use ColumnKind::{Real, Text, Whole};
        assert_eq!(kinds, [Whole, Real, Text, Text, Real]);
        assert_eq!(table.numbers("seed").unwrap(), [1.0, -2.0, 3.0]);
        let loss = table.numbers("loss").unwrap();
        assert_eq!((loss[0], loss[1].is_nan(), loss[2]), (0.5, true, 1e-3));
        assert_eq!(table.texts("id").unwrap(), ["007", "08", "9"]);
        assert_eq!(table.texts("note").unwrap(), ["1, \"x\"\r\ny", "", "z"]);
        assert_eq!(table.labels("seed").unwrap(), ["1", "-2", "3"]);
        assert_eq!(table.labels("loss").unwrap(), ["0.5", "", "0.001"]);
        assert!(table.numbers("empty").unwrap().iter().all(|x| x.is_nan()));
    }

    #[test]
    fn faults_name_their_line() {
        let cases: [(&[u8], &str); 10] = [
            (b"", "line 1: expected a header, found nothing"),
            (b"\n\n", "line 1: expected a header"),
            (
                b"a,b\n1,2\n\n3\n",
                "line 4: expected 2 fields as in the header, found 1",
            ),
            (
                b"a,b\n\"x\ny\",2\n3,4,5\n",
                "line 4: expected 2 fields as in the header, found 3",
            ),
            (
                b"a, a\n",
                "line 1, column 2: expected another name, found \"a\" again",
            ),
            (b",a\n0,1\n", "line 1, column 1: expected a name"),
            (
                b"a\n1\n\"2\n\n",
                "line 3, column 1: expected a closing quote",
            ),
            (
                b"a,b\n1,\"2\"x\n",
                "line 2, column 2: expected ',' or a line end after a quote, found 'x'",
            ),
            (
                b"a\n5\" disk\n",
                "line 2, column 1: expected quotes around the whole field",
            ),
            (
                b"a\n\n\xE9\n",
                "line 3: expected UTF-8, found the byte 0xE9",
            ),
        ];
        for (bytes, expected) in cases {
            let found = fault(bytes);
            assert!(
                found.starts_with("m.csv: ") && found.contains(expected),
                "{found}"
            );
        }
        assert!(fault(b"\xFF\xFEa\0").contains("expected UTF-8, found UTF-16"));
    }

    proptest! {
        /// What is written by the rules is read back, whatever the texts are.
        #[test]
        fn quoted_texts_survive(texts in prop::collection::vec("[a-z\",\r\n é]{1,8}", 1..6)) {
            let mut file = "text,n\n".to_owned();
            for text in &texts {
                file.push_str(&format!("\"x{}\",1\r\n", text.replace('"', "\"\"")));
            }
            let expected: Vec<String> = texts.iter().map(|text| format!("x{text}")).collect();
            prop_assert_eq!(read(&file).unwrap().texts("text").unwrap(), expected);
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = super::read(Path::new("m.csv"), &bytes, ',');
        }

        /// Bytes of which CSV is made, so that the reader gets past the header.
        #[test]
        fn any_text_is_read_or_refused(text in "[a1\",\r\n ;é-]{0,60}") {
            let table = read(&text);
            if let Ok(table) = table {
                let rows = table.rows();
                prop_assert!(table.names().iter().all(|n| table.labels(n).unwrap().len() == rows));
            }
        }
    }
}
