//! Parquet as data sets on the Hub have it: read row group by row group, the names of classes in the
//! footer.
//!
//! The Hub's library keeps its description of the columns as JSON under the key `huggingface` of the
//! file's metadata: `{"info": {"features": {"label": {"_type": "ClassLabel", "names": […]}}}}`.
//!
//! Sizes in the footer are checked and a panic of the decoder becomes an error; a run length forged
//! inside a page can still ask it for more memory than there is, which ends the process.

use std::fs::File;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use polars::prelude::{Column, DataFrame, DataType, ParquetReader, SerReader};

use crate::Error;
#[cfg(feature = "texts")]
use crate::task::label::truth;

/// Bytes of one row group when decompressed.
const MOST_IN_GROUP: u64 = 2 << 30;
/// Rows of one file.
const MOST_ROWS: usize = 1 << 28;
/// Whole numbers up to here are floats of their own, 2⁵³.
const MOST_WHOLE: f64 = 9_007_199_254_740_992.0;

/// One Parquet file whose footer has been read.
pub(crate) struct Shard {
    path: PathBuf,
    names: Vec<String>,
    /// The rows of every row group.
    groups: Vec<Range<usize>>,
    /// The JSON under `huggingface`.
    description: Option<serde_json::Value>,
}

impl Shard {
    pub(crate) fn open(path: &Path) -> Result<Self, Error> {
        guarded(path, || {
            let mut reader = reader(path)?;
            let wrong = |found: String| not_parquet(path, found);
            let schema = reader.schema().map_err(|error| wrong(error.to_string()))?;
            let names = schema.iter_names().map(|name| name.to_string()).collect();
            let metadata = reader
                .get_metadata()
                .map_err(|error| wrong(error.to_string()))?;
            let mut groups = Vec::new();
            let mut end = 0_usize;
            for group in &metadata.row_groups {
                let columns = group.parquet_columns().iter();
                let sizes = columns.map(|column| column.uncompressed_size().max(0) as u64);
                let size = sizes.fold(0, u64::saturating_add);
                let start = end;
                end = end.saturating_add(group.num_rows());
                if size > MOST_IN_GROUP || end > MOST_ROWS {
                    let expected =
                        format!("at most {MOST_IN_GROUP} bytes, {MOST_ROWS} rows to its end");
                    let found = format!("{size} bytes, row {end}");
                    let what = format!("row group {}", groups.len() + 1);
                    return Err(Error::format(path, what, expected, found));
                }
                groups.push(start..end);
            }
            let pairs = metadata.key_value_metadata().iter().flatten();
            let mut values = pairs.filter(|pair| pair.key == "huggingface");
            let description = values.next().and_then(|pair| pair.value.as_ref());
            Ok(Self {
                path: path.to_path_buf(),
                names,
                groups,
                description: description.and_then(|text| serde_json::from_str(text).ok()),
            })
        })
    }

    /// The first of these that is a column, or the only one asked for.
    pub(crate) fn column(&self, asked: Option<&str>, usual: &[&str]) -> Result<String, Error> {
        let wanted: Vec<&str> = asked.map_or(usual.to_vec(), |asked| vec![asked]);
        let has = |name: &&&str| self.names.iter().any(|column| column == *name);
        match wanted.iter().find(has) {
            Some(name) => Ok((*name).to_owned()),
            None => {
                let expected = format!("column {}", wanted.join(" or "));
                let found = format!("only {}", self.names.join(", "));
                Err(Error::format(&self.path, "columns", expected, found))
            }
        }
    }

    /// The classes that the Hub's library wrote down for a column.
    pub(crate) fn classes(&self, column: &str) -> Option<Vec<String>> {
        let features = self.description.as_ref()?.get("info")?.get("features")?;
        let names = features.get(column)?.get("names")?.as_array()?;
        names
            .iter()
            .map(|name| name.as_str().map(str::to_owned))
            .collect()
    }

    pub(crate) fn groups(&self) -> &[Range<usize>] {
        &self.groups
    }

    /// Some columns of one row group.
    pub(crate) fn read(&self, rows: &Range<usize>, columns: &[&str]) -> Result<DataFrame, Error> {
        guarded(&self.path, || {
            let columns = columns.iter().map(|&name| name.to_owned()).collect();
            let frame = reader(&self.path)?
                .with_slice(Some((rows.start, rows.len())))
                .with_columns(Some(columns))
                .finish();
            let frame = frame.map_err(|error| not_parquet(&self.path, error.to_string()))?;
            match frame.height() == rows.len() {
                true => Ok(frame),
                false => {
                    let expected = format!("{} as the footer says", rows.len());
                    let found = frame.height().to_string();
                    Err(Error::format(
                        &self.path,
                        "rows of a group",
                        expected,
                        found,
                    ))
                }
            }
        })
    }
}

/// What a column of labels holds.
#[derive(Debug, PartialEq)]
pub(crate) enum Labels {
    Whole(Vec<Option<i64>>),
    Names(Vec<Option<String>>),
}

impl Labels {
    pub(crate) fn of(path: &Path, column: &Column) -> Result<Self, Error> {
        let wrong = || {
            let what = format!("column {}", column.name());
            let found = column.dtype().to_string();
            Error::format(path, what, "whole numbers or texts", found)
        };
        match column.dtype() {
            DataType::String => {
                let names = column.str().map_err(|_| wrong())?;
                let names = names.iter().map(|name| name.map(str::to_owned));
                Ok(Self::Names(names.collect()))
            }
            dtype if dtype.is_integer() || *dtype == DataType::Boolean => {
                let whole = column.cast(&DataType::Int64).map_err(|_| wrong())?;
                let whole = whole.i64().map_err(|_| wrong())?;
                Ok(Self::Whole(whole.iter().collect()))
            }
            // pandas makes floats of whole numbers where some are missing.
            dtype if dtype.is_float() => {
                let numbers = column.cast(&DataType::Float64).map_err(|_| wrong())?;
                let numbers = numbers.f64().map_err(|_| wrong())?;
                let whole = |number: f64| {
                    let is_whole = number.fract() == 0.0 && number.abs() <= MOST_WHOLE;
                    is_whole.then_some(number as i64)
                };
                let numbers = numbers.iter().map(|number| match number {
                    Some(number) if !number.is_nan() => whole(number).map(Some).ok_or_else(wrong),
                    _ => Ok(None),
                });
                Ok(Self::Whole(numbers.collect::<Result<_, _>>()?))
            }
            _ => Err(wrong()),
        }
    }
}

#[cfg(feature = "images")]
impl Labels {
    /// Names without spaces around them; one of nothing is none.
    pub(crate) fn trimmed(self) -> Self {
        match self {
            Self::Whole(_) => self,
            Self::Names(names) => {
                let trimmed = |name: String| Some(name.trim().to_owned()).filter(|n| !n.is_empty());
                Self::Names(
                    names
                        .into_iter()
                        .map(|name| name.and_then(trimmed))
                        .collect(),
                )
            }
        }
    }
}

#[cfg(feature = "texts")]
impl Labels {
    /// A column as texts: numbers and truth values only where it `is_label`.
    pub(crate) fn texts(
        path: &Path,
        column: &Column,
        is_label: bool,
    ) -> Result<Vec<Option<String>>, Error> {
        let wrong = |expected: &str| {
            let what = format!("column {}", column.name());
            Error::format(path, what, expected, column.dtype().to_string())
        };
        if is_label && *column.dtype() == DataType::Boolean {
            let values = column.bool().map_err(|_| wrong("truth values"))?;
            let text = |value: Option<bool>| value.map(|value| truth(value).to_owned());
            return Ok(values.iter().map(text).collect());
        }
        // Each width by itself: 0.1 of 32 bits is another number in 64.
        if is_label && *column.dtype() == DataType::Float32 {
            let numbers = column.f32().map_err(|_| wrong("numbers"))?;
            let text = |number: Option<f32>| number.map(|number| number.to_string());
            return Ok(numbers.iter().map(text).collect());
        }
        if is_label && column.dtype().is_float() {
            let numbers = column.cast(&DataType::Float64);
            let numbers = numbers.map_err(|_| wrong("numbers"))?;
            let numbers = numbers.f64().map_err(|_| wrong("numbers"))?;
            let text = |number: Option<f64>| number.map(|number| number.to_string());
            return Ok(numbers.iter().map(text).collect());
        }
        match Self::of(path, column)? {
            Self::Names(names) => Ok(names),
            Self::Whole(_) if !is_label => Err(wrong("texts")),
            Self::Whole(numbers) => {
                let text = |number: Option<i64>| number.map(|number| number.to_string());
                Ok(numbers.into_iter().map(text).collect())
            }
        }
    }
}

fn reader(path: &Path) -> Result<ParquetReader<File>, Error> {
    let file = File::open(path).map_err(Error::io(path, "open"))?;
    Ok(ParquetReader::new(file).set_low_memory(true))
}

fn not_parquet(path: &Path, found: String) -> Error {
    Error::format(path, "file", "Parquet", found)
}

/// The decoder panics at some damaged files.
fn guarded<T>(path: &Path, read: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
    let read = catch_unwind(AssertUnwindSafe(read));
    read.unwrap_or_else(|_| Err(not_parquet(path, "a damaged file".to_owned())))
}
