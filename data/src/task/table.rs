//! Tables of texts with labels: CSV, TSV, JSON and Parquet with columns of any name.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::records::{Raw, Reading};
use super::{Target, TextExample, TextSet};
use crate::{Error, Provenance, SkipBad};

crate::documented! {
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
        if examples.is_empty() {
            return Err(Error::format(&files[0], "examples", "at least one", "none"));
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
