use std::fs::File;
use std::path::Path;

use polars::prelude::{CsvReadOptions, DataFrame, SerReader};

use crate::Error;

/// Labelled texts, in the order of their file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TextTable {
    /// The texts.
    pub texts: Vec<String>,
    /// The label of every text.
    pub labels: Vec<String>,
}

impl TextTable {
    /// Reads two columns of a quoted CSV file with a header.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be opened; [`Error::Format`] naming the column that is
    /// missing, or the first row without a text or label.
    pub fn read_csv(path: &Path, text: &str, label: &str) -> Result<Self, Error> {
        let file = File::open(path).map_err(Error::io(path, "open"))?;
        let not_csv = |error: polars::error::PolarsError| {
            Error::format(path, "file", "CSV with a header", error.to_string())
        };
        // Everything is text: a label that looks like a number stays as it was written.
        let frame = CsvReadOptions::default()
            .with_has_header(true)
            .with_infer_schema_length(Some(0))
            .into_reader_with_file_handle(file)
            .finish()
            .map_err(not_csv)?;
        let table = Self {
            texts: column(path, &frame, text)?,
            labels: column(path, &frame, label)?,
        };
        if table.texts.is_empty() {
            return Err(Error::format(path, "rows", "at least one", "none"));
        }
        Ok(table)
    }

    /// The distinct labels, sorted: the order of class indices.
    pub fn classes(&self) -> Vec<String> {
        let mut classes = self.labels.clone();
        classes.sort();
        classes.dedup();
        classes
    }

    /// The first `per_class` rows of every class, in file order.
    #[must_use]
    pub fn first_per_class(&self, per_class: usize) -> Self {
        let mut seen = std::collections::HashMap::<&str, usize>::new();
        let (texts, labels) = self
            .texts
            .iter()
            .zip(&self.labels)
            .filter(|(_, label)| {
                let count = seen.entry(label.as_str()).or_default();
                *count += 1;
                *count <= per_class
            })
            .map(|(text, label)| (text.clone(), label.clone()))
            .unzip();
        Self { texts, labels }
    }

    /// The index in `classes` of every row's label.
    ///
    /// # Errors
    /// [`Error::Format`] naming `origin` and the first label that is not among them.
    pub fn label_indices(&self, origin: &Path, classes: &[String]) -> Result<Vec<u32>, Error> {
        self.labels
            .iter()
            .enumerate()
            .map(|(row, label)| match classes.binary_search(label) {
                Ok(index) => Ok(u32::try_from(index).expect("fewer than 2³² classes")),
                Err(_) => Err(Error::format(
                    origin,
                    format!("label of row {}", row + 1),
                    format!("one of the {} training classes", classes.len()),
                    format!("{label:?}"),
                )),
            })
            .collect()
    }
}

fn column(path: &Path, frame: &DataFrame, name: &str) -> Result<Vec<String>, Error> {
    let Ok(column) = frame.column(name) else {
        let names: Vec<_> = frame
            .get_column_names()
            .iter()
            .map(|name| name.to_string())
            .collect();
        let found = format!("only {}", names.join(", "));
        return Err(Error::format(
            path,
            format!("column {name}"),
            "present",
            found,
        ));
    };
    let texts = column.str().map_err(|error| {
        Error::format(path, format!("column {name}"), "text", error.to_string())
    })?;
    texts
        .iter()
        .enumerate()
        .map(|(row, text)| match text {
            Some(text) => Ok(text.to_owned()),
            None => {
                let what = format!("column {name}, row {}", row + 1);
                Err(Error::format(path, what, "a text", "nothing"))
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(content: &str) -> Result<TextTable, Error> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("table.csv");
        std::fs::write(&path, content).unwrap();
        TextTable::read_csv(&path, "text", "category")
    }

    #[test]
    fn quotes_line_breaks_and_numbers_survive() {
        let table = read("text,category\n\"a, \"\"b\"\"\nc\",07\nplain,x\n").unwrap();
        assert_eq!(table.texts, ["a, \"b\"\nc", "plain"]);
        assert_eq!(table.labels, ["07", "x"]);
        assert_eq!(
            table
                .label_indices(Path::new("t"), &table.classes())
                .unwrap(),
            [0, 1]
        );
    }

    #[test]
    fn the_first_of_every_class_in_file_order() {
        let table = read("text,category\n1,b\n2,a\n3,b\n4,b\n5,a\n")
            .unwrap()
            .first_per_class(2);
        assert_eq!(table.texts, ["1", "2", "3", "5"]);
    }

    #[test]
    fn faults_are_named() {
        let wrong = read("query,category\na,b\n").unwrap_err().to_string();
        assert!(
            wrong.contains("column text: expected present, found only query, category"),
            "{wrong}"
        );
        let empty = read("text,category\n").unwrap_err().to_string();
        assert!(empty.contains("rows: expected at least one"), "{empty}");
        let hole = read("text,category\na,b\nc,\n").unwrap_err().to_string();
        assert!(hole.contains("column category, row 2"), "{hole}");
        let table = read("text,category\na,b\n").unwrap();
        let label = table
            .label_indices(Path::new("t"), &["c".into()])
            .unwrap_err()
            .to_string();
        assert!(label.contains("\"b\""), "{label}");
    }
}
