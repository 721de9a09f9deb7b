//! Readers of tables of texts: each adds the wanted columns of a file, record by record, so that a bad
//! one can be passed over.

use std::path::Path;

use serde_json::Value;

use super::{TextColumns, label};
use crate::csv::Records;
use crate::rows::utf8;
use crate::shard::{Labels, Shard};
use crate::{Error, SkipBad};

/// An example whose label is still a text.
pub(super) struct Raw {
    pub origin: (usize, String),
    pub first: String,
    pub second: Option<String>,
    pub label: String,
}

/// Everything of one file that reading adds to.
pub(super) struct Reading<'a> {
    pub columns: &'a TextColumns,
    /// Whether there are labels and second texts, or texts alone.
    pub is_labelled: bool,
    pub file: usize,
    pub path: &'a Path,
    pub skip: &'a mut SkipBad,
    pub raws: &'a mut Vec<Raw>,
}

impl Reading<'_> {
    fn bytes(&self) -> Result<Vec<u8>, Error> {
        std::fs::read(self.path).map_err(Error::io(self.path, "read"))
    }

    /// The columns that are wanted, in order: text, label, second text.
    fn wanted(&self) -> impl Iterator<Item = &str> {
        let columns = self.columns;
        let others = [Some(&columns.label), columns.text_pair.as_ref()];
        let others = others.into_iter().flatten().filter(|_| self.is_labelled);
        [&columns.text]
            .into_iter()
            .chain(others)
            .map(String::as_str)
    }

    fn push(&mut self, what: String, mut cells: Vec<String>) {
        let second = (cells.len() > 2).then(|| cells.remove(2));
        let label = (cells.len() > 1).then(|| cells.remove(1));
        self.raws.push(Raw {
            origin: (self.file, what),
            first: cells.pop().unwrap_or_default(),
            second,
            label: label.unwrap_or_default(),
        });
    }

    pub(super) fn csv(&mut self, separator: char) -> Result<(), Error> {
        let bytes = self.bytes()?;
        let mut records = Records::new(self.path, utf8(self.path, &bytes)?, separator, true);
        let Some((line, names)) = records.next()? else {
            return Err(Error::format(self.path, "line 1", "a header", "nothing"));
        };
        let place = |wanted: &str| {
            let is_wanted = |(_, name): &(usize, &String)| name.trim() == wanted;
            let mut places = (1..).zip(&names).filter(is_wanted).map(|(place, _)| place);
            let (expected, found) = match (places.next(), places.next()) {
                (Some(place), None) => return Ok(place - 1),
                (Some(first), Some(second)) => (
                    format!("column {wanted} once"),
                    format!("it in columns {first} and {second}"),
                ),
                (None, _) => (
                    format!("column {wanted}"),
                    format!("only {}", names.join(", ")),
                ),
            };
            let what = format!("line {line}");
            Err(Error::format(self.path, what, expected, found))
        };
        let places = self.wanted().map(place).collect::<Result<Vec<_>, _>>()?;
        loop {
            let before = records.place();
            let record = records.next().and_then(|record| match record {
                Some((line, fields)) if fields.len() != names.len() => {
                    let expected = format!("{} fields as in the header", names.len());
                    let found = fields.len().to_string();
                    Err(Error::format(
                        self.path,
                        format!("line {line}"),
                        expected,
                        found,
                    ))
                }
                other => Ok(other),
            });
            match self.skip.take(record)? {
                None => records.resume(before),
                Some(None) => return Ok(()),
                Some(Some((line, mut fields))) => {
                    let cell = |&place: &usize| std::mem::take(&mut fields[place]);
                    let cells = places.iter().map(cell).collect();
                    self.push(format!("line {line}"), cells);
                }
            }
        }
    }

    pub(super) fn json_lines(&mut self) -> Result<(), Error> {
        let bytes = self.bytes()?;
        let text = utf8(self.path, &bytes)?;
        for (number, line) in text.lines().enumerate() {
            if line.trim().is_empty() {
                continue;
            }
            let what = format!("line {}", number + 1);
            let value = serde_json::from_str(line).map_err(|error| {
                Error::format(self.path, &*what, "a JSON object", error.to_string())
            });
            let cells = value.and_then(|value| self.cells(&what, &value));
            if let Some(cells) = self.skip.take(cells)? {
                self.push(what, cells);
            }
        }
        Ok(())
    }

    pub(super) fn json(&mut self) -> Result<(), Error> {
        let bytes = self.bytes()?;
        let records: Vec<Value> =
            serde_json::from_str(utf8(self.path, &bytes)?).map_err(|error| {
                let expected = "an array of JSON objects";
                Error::format(self.path, "file", expected, error.to_string())
            })?;
        for (index, record) in records.iter().enumerate() {
            let what = format!("record {}", index + 1);
            let cells = self.cells(&what, record);
            if let Some(cells) = self.skip.take(cells)? {
                self.push(what, cells);
            }
        }
        Ok(())
    }

    /// Texts as they are; of labels, numbers and truth values too.
    fn cells(&self, what: &str, record: &Value) -> Result<Vec<String>, Error> {
        let cell = |wanted: &str| {
            let is_label = self.is_labelled && wanted == self.columns.label;
            match record.get(wanted) {
                Some(Value::String(text)) => Ok(text.clone()),
                Some(Value::Number(number)) if is_label => Ok(number.to_string()),
                Some(Value::Bool(value)) if is_label => Ok(label::truth(*value).to_owned()),
                found => {
                    let found = match found {
                        None => "none".to_owned(),
                        Some(Value::Object(_)) => "an object".to_owned(),
                        Some(Value::Array(_)) => "an array".to_owned(),
                        Some(other) => other.to_string(),
                    };
                    let expected = match is_label {
                        true => format!("key {wanted} with a text or number"),
                        false => format!("key {wanted} with a text"),
                    };
                    Err(Error::format(self.path, what, expected, found))
                }
            }
        };
        self.wanted().map(cell).collect()
    }

    /// Adds the rows; the classes that the file names, if it does.
    pub(super) fn parquet(&mut self) -> Result<Option<Vec<String>>, Error> {
        let shard = Shard::open(self.path)?;
        let names = self.wanted().map(|name| shard.column(Some(name), &[]));
        let names = names.collect::<Result<Vec<_>, _>>()?;
        let wanted: Vec<&str> = names.iter().map(String::as_str).collect();
        for rows in shard.groups() {
            let frame = shard.read(rows, &wanted)?;
            let columns = wanted.iter().map(|name| {
                let column = frame.column(name).map_err(|error| {
                    let what = format!("column {name}");
                    Error::format(self.path, what, "present", error.to_string())
                })?;
                let is_label = self.is_labelled && *name == self.columns.label;
                Labels::texts(self.path, column, is_label)
            });
            let columns = columns.collect::<Result<Vec<_>, _>>()?;
            for (index, row) in rows.clone().enumerate() {
                let what = format!("row {}", row + 1);
                let cell = |(column, name): (&Vec<Option<String>>, &&str)| {
                    column[index].clone().ok_or_else(|| {
                        let what = format!("column {name}, {what}");
                        Error::format(self.path, what, "a text", "nothing")
                    })
                };
                let cells = columns.iter().zip(&wanted).map(cell);
                if let Some(cells) = self.skip.take(cells.collect::<Result<Vec<_>, _>>())? {
                    self.push(what, cells);
                }
            }
        }
        Ok(shard.classes(&self.columns.label))
    }
}
