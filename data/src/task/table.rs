//! Tables of texts with labels: CSV, TSV, JSON and Parquet with columns of any name.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Target, TextExample, TextSet};
use crate::csv::Records;
use crate::rows::utf8;
use crate::shard::{Labels, Shard};
use crate::{Error, Provenance, SkipBad};

/// Which columns hold what.
///
/// ```
/// use rankwise_data::{SkipBad, Target, TextColumns};
/// let folder = tempfile::tempdir()?;
/// let path = folder.path().join("train.csv");
/// std::fs::write(&path, "text,label\n\"No, thanks\",negative\nI \"like\" it ,positive\n")?;
/// let set = TextColumns::default().read(&[path], &mut SkipBad::default())?;
/// assert_eq!(set.classes, ["negative", "positive"]);
/// assert_eq!(set.examples[1].first, "I \"like\" it ");
/// assert_eq!(set.examples[1].target, Target::Class(1));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TextColumns {
    /// The text, or the first of two.
    pub text: String,
    /// The second text.
    pub text_pair: Option<String>,
    /// The label: a class, or a number in a regression.
    pub label: String,
    /// Whether labels are numbers to be predicted.
    pub regression: bool,
    /// The classes in the order of their indices; a label is one of them or the index of one. By
    /// default the file's own (as the Hub's library writes them into Parquet), or the labels that
    /// there are: sorted, as numbers if all are whole.
    pub classes: Option<Vec<String>>,
}

impl Default for TextColumns {
    fn default() -> Self {
        Self {
            text: "text".to_owned(),
            text_pair: None,
            label: "label".to_owned(),
            regression: false,
            classes: None,
        }
    }
}

/// An example whose label is still a text.
struct Raw {
    origin: (usize, String),
    first: String,
    second: Option<String>,
    label: String,
}

/// Everything of one file that reading adds to.
struct Reading<'a> {
    columns: &'a TextColumns,
    file: usize,
    path: &'a Path,
    skip: &'a mut SkipBad,
    raws: &'a mut Vec<Raw>,
}

impl TextColumns {
    /// The columns of Banking77's CSV files.
    pub fn banking77() -> Self {
        Self {
            label: "category".to_owned(),
            ..Self::default()
        }
    }

    /// Reads files one after another, each by its ending: `.csv`, `.tsv` (tabs between the fields),
    /// `.json` (an array of objects), `.jsonl` or `.ndjson` (one object a line) or `.parquet`.
    ///
    /// Fields of CSV and TSV are quoted as RFC 4180 says (a field that begins with a quote ends with
    /// one); others are taken as they are, with their spaces.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Format`] naming the file and the column that is missing, or the line,
    /// record or row that is wrong or whose label is none of the classes.
    pub fn read(&self, files: &[PathBuf], skip: &mut SkipBad) -> Result<TextSet, Error> {
        let mut raws = Vec::new();
        let mut known = self.classes.clone();
        for (file, path) in files.iter().enumerate() {
            let ending = path.extension().unwrap_or_default().to_string_lossy();
            let mut reading = Reading {
                columns: self,
                file,
                path,
                skip,
                raws: &mut raws,
            };
            match ending.to_ascii_lowercase().as_str() {
                "csv" => reading.csv(',')?,
                "tsv" => reading.csv('\t')?,
                "json" => reading.json()?,
                "jsonl" | "ndjson" => reading.json_lines()?,
                "parquet" => {
                    let named = reading.parquet()?;
                    known = known.or(named);
                }
                other => {
                    let expected =
                        "one that ends in .csv, .tsv, .json, .jsonl, .ndjson or .parquet";
                    let found = format!("the ending {other:?}");
                    return Err(Error::format(path, "file name", expected, found));
                }
            }
        }
        if raws.is_empty() {
            let path = files.first().map_or(Path::new("."), PathBuf::as_path);
            return Err(Error::format(path, "examples", "at least one", "none"));
        }
        let classes = match self.regression {
            true => Vec::new(),
            false => known.unwrap_or_else(|| collect(&raws)),
        };
        let mut examples = Vec::with_capacity(raws.len());
        for raw in raws {
            let target = self.target(&raw.label, &classes).map_err(|expected| {
                let (file, what) = raw.origin;
                Error::format(
                    &files[file],
                    what,
                    expected,
                    format!("the label {:?}", raw.label),
                )
            });
            if let Some(target) = skip.take(target)? {
                examples.push(TextExample {
                    first: raw.first,
                    second: raw.second,
                    target,
                });
            }
        }
        Ok(TextSet {
            examples,
            classes,
            provenance: Provenance {
                files: files.to_vec(),
                notes: Vec::new(),
            },
        })
    }

    /// What a label means, or what was expected.
    fn target(&self, label: &str, classes: &[String]) -> Result<Target, String> {
        if self.regression {
            let score: Option<f32> = label.trim().parse().ok();
            let score = score.filter(|score| score.is_finite());
            return score.map(Target::Score).ok_or("a number".to_owned());
        }
        let index = classes.iter().position(|class| class == label);
        // Where the names are numbers, a number is a name.
        let are_words = || classes.iter().all(|class| class.parse::<i64>().is_err());
        let index = index.or_else(|| label.trim().parse().ok().filter(|_| are_words()));
        match index.filter(|&index| index < classes.len()) {
            Some(index) => Ok(Target::Class(index as u32)),
            None => Err(format!("one of {} classes or its index", classes.len())),
        }
    }
}

/// Every label once, in order: as numbers if all are whole.
fn collect(raws: &[Raw]) -> Vec<String> {
    let labels: BTreeSet<&str> = raws.iter().map(|raw| raw.label.as_str()).collect();
    // `007` is a name.
    let number = |label: &&str| {
        label
            .parse()
            .ok()
            .filter(|n: &i64| n.to_string() == **label)
    };
    let whole: Option<BTreeSet<i64>> = labels.iter().map(number).collect();
    match whole {
        Some(mut whole) if whole.first() == Some(&0) && whole.len() > 1 => {
            // Indices: a class without an example keeps its place, so that they are not shifted.
            let last = whole.last().copied().unwrap_or(0);
            if last < 4 * whole.len() as i64 {
                whole.extend(0..last);
            }
            whole.iter().map(i64::to_string).collect()
        }
        Some(whole) => whole.iter().map(i64::to_string).collect(),
        None => labels.into_iter().map(str::to_owned).collect(),
    }
}

impl Reading<'_> {
    fn bytes(&self) -> Result<Vec<u8>, Error> {
        std::fs::read(self.path).map_err(Error::io(self.path, "read"))
    }

    /// The columns that are wanted, in order: text, label, second text.
    fn wanted(&self) -> impl Iterator<Item = &str> {
        let columns = self.columns;
        [
            Some(&columns.text),
            Some(&columns.label),
            columns.text_pair.as_ref(),
        ]
        .into_iter()
        .flatten()
        .map(String::as_str)
    }

    fn push(&mut self, what: String, mut cells: Vec<String>) {
        let second = (cells.len() > 2).then(|| cells.remove(2));
        let label = cells.pop().unwrap_or_default();
        self.raws.push(Raw {
            origin: (self.file, what),
            first: cells.pop().unwrap_or_default(),
            second,
            label,
        });
    }

    fn csv(&mut self, separator: char) -> Result<(), Error> {
        let bytes = self.bytes()?;
        let mut records = Records::new(self.path, utf8(self.path, &bytes)?, separator, true);
        let Some((line, names)) = records.next()? else {
            return Err(Error::format(self.path, "line 1", "a header", "nothing"));
        };
        let place = |wanted: &str| {
            let place = names.iter().position(|name| name.trim() == wanted);
            place.ok_or_else(|| {
                let expected = format!("column {wanted}");
                let found = format!("only {}", names.join(", "));
                Error::format(self.path, format!("line {line}"), expected, found)
            })
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

    fn json_lines(&mut self) -> Result<(), Error> {
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

    fn json(&mut self) -> Result<(), Error> {
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
            let is_label = wanted == self.columns.label;
            match record.get(wanted) {
                Some(Value::String(text)) => Ok(text.clone()),
                Some(Value::Number(number)) if is_label => Ok(number.to_string()),
                Some(Value::Bool(truth)) if is_label => Ok(u8::from(*truth).to_string()),
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
    fn parquet(&mut self) -> Result<Option<Vec<String>>, Error> {
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
                Labels::texts(self.path, column, *name == self.columns.label)
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
