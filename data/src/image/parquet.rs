//! Images in Parquet, as data sets on the Hub have them: a struct of `bytes` and `path`, or bytes.

use std::path::{Path, PathBuf};

use polars::prelude::{Column, DataType, Series};

use super::set::{ImageColumns, ImageSet, Source, Store};
use crate::shard::{Labels, Shard};
use crate::{Error, Provenance, SkipBad};

const IMAGES: [&str; 3] = ["image", "img", "pixel_values"];
const LABELS: [&str; 3] = ["label", "fine_label", "labels"];
/// Whole numbers above this are no class indices.
const MOST_CLASSES: i64 = 1 << 16;

/// A label before the classes are known.
enum Label {
    Index(i64),
    Name(String),
}

pub(super) fn read(
    files: &[PathBuf],
    columns: &ImageColumns,
    skip: &mut SkipBad,
) -> Result<ImageSet, Error> {
    let Some(first) = files.first() else {
        let expected = "at least one Parquet file";
        return Err(Error::format(Path::new("."), "files", expected, "none"));
    };
    let mut store = Store::new(files.to_vec())?;
    let mut labels = Vec::new();
    let mut named = columns.classes.clone();
    for (number, path) in files.iter().enumerate() {
        let shard = Shard::open(path)?;
        let image_column = shard.column(columns.image.as_deref(), &IMAGES)?;
        let label_column = shard.column(columns.label.as_deref(), &LABELS)?;
        if number == 0 {
            named = named.or_else(|| shard.classes(&label_column));
        }
        for rows in shard.groups() {
            let frame = shard.read(rows, &[&image_column, &label_column])?;
            let column = |name: &str| frame.column(name).map_err(|error| missing(path, &error));
            let images = encoded(path, column(&image_column)?)?;
            let images = images.binary().map_err(|error| missing(path, &error))?;
            let found = Labels::of(path, column(&label_column)?)?.trimmed();
            for (index, row) in rows.clone().enumerate() {
                let item = item(
                    path,
                    row + 1,
                    images.get(index),
                    &found,
                    index,
                    named.as_deref(),
                );
                if let Some((bytes, label)) = skip.take(item)? {
                    store.push(number, row + 1, bytes)?;
                    labels.push(label);
                }
            }
        }
    }
    if labels.is_empty() {
        return Err(Error::format(first, "images", "at least one", "none"));
    }
    let classes = named.unwrap_or_else(|| classes(&labels));
    let index = |label: Label| match label {
        // Checked where the classes were known, and else what they were made of.
        Label::Index(index) => index as u32,
        Label::Name(name) => classes.iter().position(|class| *class == name).unwrap_or(0) as u32,
    };
    Ok(ImageSet {
        labels: labels.into_iter().map(index).collect(),
        source: Source::Stored(store),
        classes,
        provenance: Provenance {
            files: files.to_vec(),
            notes: Vec::new(),
        },
    })
}

/// The names in order, or a number for every index up to the greatest.
fn classes(labels: &[Label]) -> Vec<String> {
    let mut names = Vec::new();
    let mut count = 0;
    for label in labels {
        match label {
            Label::Index(index) => count = count.max(index + 1),
            Label::Name(name) => names.push(name.clone()),
        }
    }
    names.sort();
    names.dedup();
    match names.is_empty() {
        true => (0..count).map(|class| class.to_string()).collect(),
        false => names,
    }
}

fn missing(path: &Path, error: &polars::error::PolarsError) -> Error {
    Error::format(path, "columns", "as in the footer", error.to_string())
}

/// The bytes in a column of images.
fn encoded(path: &Path, column: &Column) -> Result<Series, Error> {
    let wrong = |found: String| {
        let what = format!("column {}", column.name());
        Error::format(path, what, "bytes, or a struct with a field bytes", found)
    };
    let series = match column.dtype() {
        DataType::Struct(_) => {
            let fields = column.struct_().map_err(|error| wrong(error.to_string()))?;
            let bytes = fields.field_by_name("bytes");
            bytes.map_err(|_| wrong(column.dtype().to_string()))?
        }
        _ => column.as_materialized_series().clone(),
    };
    match series.dtype() {
        DataType::Binary => Ok(series),
        other => Err(wrong(other.to_string())),
    }
}

fn item<'a>(
    path: &Path,
    row: usize,
    bytes: Option<&'a [u8]>,
    labels: &Labels,
    index: usize,
    classes: Option<&[String]>,
) -> Result<(&'a [u8], Label), Error> {
    let wrong = |part: &str, expected: String, found: String| {
        Error::format(path, format!("{part} of row {row}"), expected, found)
    };
    let Some(bytes) = bytes else {
        return Err(wrong("image", "bytes".to_owned(), "nothing".to_owned()));
    };
    let known = classes.map_or(MOST_CLASSES, |classes| classes.len() as i64);
    let label = match labels {
        Labels::Whole(labels) => match labels[index] {
            Some(label) if (0..known).contains(&label) => Label::Index(label),
            found => {
                let found = found.map_or("nothing".to_owned(), |label| label.to_string());
                return Err(wrong("label", format!("0 to {}", known - 1), found));
            }
        },
        Labels::Names(labels) => match (&labels[index], classes) {
            (Some(name), None) => Label::Name(name.clone()),
            (Some(name), Some(classes)) if classes.contains(name) => Label::Name(name.clone()),
            (found, _) => {
                let found = found
                    .as_ref()
                    .map_or("nothing".to_owned(), |name| format!("{name:?}"));
                return Err(wrong("label", format!("one of {known} classes"), found));
            }
        },
    };
    Ok((bytes, label))
}
