//! Tables of texts with labels: CSV, TSV, JSON and Parquet with columns of any name.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::records::{Raw, Reading};
use super::{Target, TextExample, TextSet, label};
use crate::{Error, Provenance, SkipBad, first_names};

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
    /// there are: sorted, as numbers if all are whole. Spaces around a label are no part of it, and
    /// `1.0` is `1`.
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
    /// record or row that is wrong, has no label or one that is none of the classes; or if the labels
    /// are scores and no regression was asked for.
    pub fn read(&self, files: &[PathBuf], skip: &mut SkipBad) -> Result<TextSet, Error> {
        let (raws, named) = self.raws(files, true, skip)?;
        let known = self.classes.clone().or(named);
        let wrong = |raw: &Raw, expected: String| {
            let (file, what) = &raw.origin;
            let found = match raw.label.trim() {
                "" => "nothing".to_owned(),
                _ => format!("the label {:?}", raw.label),
            };
            Error::format(&files[*file], &**what, expected, found)
        };
        let mut labelled = Vec::with_capacity(raws.len());
        for raw in raws {
            let raw = match self.is_label(&raw.label, known.as_deref()) {
                true => Ok(raw),
                false => Err(wrong(&raw, "a label".to_owned())),
            };
            labelled.extend(skip.take(raw)?);
        }
        let classes = match (self.regression, known) {
            (true, _) => Vec::new(),
            (false, Some(known)) => known,
            (false, None) => {
                if let Some(raw) = score(&labelled) {
                    let expected = "a class (task.columns.regression = true if the labels are \
                                    scores to be predicted, task.columns.classes if they are names)";
                    return Err(wrong(raw, expected.to_owned()));
                }
                collect(&labelled)
            }
        };
        let mut examples = Vec::with_capacity(labelled.len());
        let mut indices = vec![0_usize; files.len()];
        for raw in labelled {
            let target = self.target(&raw.label, &classes);
            let target = target.map_err(|expected| wrong(&raw, expected));
            if let Some((target, is_index)) = skip.take(target)? {
                indices[raw.origin.0] += usize::from(is_index);
                examples.push(TextExample {
                    first: raw.first,
                    second: raw.second,
                    target,
                    origin: raw.origin,
                });
            }
        }
        let read_as = files.iter().zip(indices).filter(|(_, count)| *count > 0);
        let notes = read_as.map(|(path, count)| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let (first, last) = (classes.first(), classes.last());
            let ends = first.zip(last).map_or(String::new(), |(first, last)| {
                format!(": 0 is {first}, {} is {last}", classes.len() - 1)
            });
            format!("{name}: {count} labels were read as numbers of classes{ends}")
        });
        let notes = notes.collect();
        if examples.is_empty() {
            return Err(Error::format(&files[0], "examples", "at least one", "none"));
        }
        Ok(TextSet {
            examples,
            classes,
            provenance: Provenance {
                files: files.to_vec(),
                notes,
            },
        })
    }

    /// Whether a file is a table by its ending.
    pub fn is_table(path: &Path) -> bool {
        ending(path).is_some_and(|ending| ENDINGS.contains(&&*ending))
    }

    /// Reads the texts alone, as [`read`](Self::read) does, whatever else the files hold.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn texts(&self, files: &[PathBuf], skip: &mut SkipBad) -> Result<Vec<String>, Error> {
        let (raws, _) = self.raws(files, false, skip)?;
        Ok(raws.into_iter().map(|raw| raw.first).collect())
    }

    /// The records of the files, with their labels or with the text alone, and the classes that a
    /// file names.
    fn raws(
        &self,
        files: &[PathBuf],
        is_labelled: bool,
        skip: &mut SkipBad,
    ) -> Result<(Vec<Raw>, Option<Vec<String>>), Error> {
        let mut raws = Vec::new();
        let mut known = None;
        for (file, path) in files.iter().enumerate() {
            let mut reading = Reading {
                columns: self,
                is_labelled,
                file,
                path,
                skip,
                raws: &mut raws,
            };
            match ending(path).unwrap_or_default().as_str() {
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
        Ok((raws, known))
    }

    /// Whether the text is a label at all.
    fn is_label(&self, text: &str, known: Option<&[String]>) -> bool {
        let is_known = || known.is_some_and(|known| label::place(text, known).is_some());
        !label::is_missing(text) || (!text.trim().is_empty() && (self.regression || is_known()))
    }

    /// What a label means, and whether it is a class's number; or what was expected.
    fn target(&self, text: &str, classes: &[String]) -> Result<(Target, bool), String> {
        if self.regression {
            let score: Option<f32> = text.trim().parse().ok();
            let score = score.filter(|score| score.is_finite());
            let score = score.map(|score| (Target::Score(score), false));
            return score.ok_or("a number".to_owned());
        }
        if let Some(place) = label::place(text, classes) {
            return Ok((Target::Class(place as u32), false));
        }
        // Where the names are numbers, a number is a name.
        let are_words = || classes.iter().all(|class| class.parse::<f64>().is_err());
        let index = label::index(text).filter(|_| are_words());
        match index.filter(|&index| index < classes.len()) {
            Some(index) => Ok((Target::Class(index as u32), true)),
            None => Err(match are_words() {
                true => format!("one of {} classes or its index", classes.len()),
                false => format!("one of the classes {}", first_names(classes)),
            }),
        }
    }
}

/// How the names of tables end.
const ENDINGS: [&str; 6] = ["csv", "tsv", "json", "jsonl", "ndjson", "parquet"];

/// What is behind the last point of a file's name, in small letters.
fn ending(path: &Path) -> Option<String> {
    Some(path.extension()?.to_string_lossy().to_ascii_lowercase())
}

/// The first label that is a number and not whole, if all are numbers.
fn score(raws: &[Raw]) -> Option<&Raw> {
    let number = |raw: &Raw| -> Option<f64> {
        let number = raw.label.trim().parse().ok();
        number.filter(|number: &f64| number.is_finite())
    };
    let are_numbers = raws.iter().all(|raw| number(raw).is_some());
    let is_score = |raw: &&Raw| number(raw).is_some_and(|number| number.fract() != 0.0);
    raws.iter().find(is_score).filter(|_| are_numbers)
}

/// Every label once, in order: as numbers if all are whole. Truth values among numbers are numbers.
fn collect(raws: &[Raw]) -> Vec<String> {
    let labels: BTreeSet<Cow<'_, str>> = raws.iter().map(|raw| label::plain(&raw.label)).collect();
    // `007` is a name.
    let number = |label: &str| label.parse().ok().filter(|n: &i64| n.to_string() == label);
    let truth = |label: &str| label::value(label).map(i64::from);
    let has_numbers = labels.iter().any(|label| number(label).is_some());
    let whole: Option<BTreeSet<i64>> = labels
        .iter()
        .map(|label| number(label).or_else(|| truth(label).filter(|_| has_numbers)))
        .collect();
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
        None => {
            let mut names: Vec<String> = Vec::with_capacity(labels.len());
            for label in labels {
                // `true` and `True` are one class.
                let same = |name: &String| truth(&label).is_some() && truth(name) == truth(&label);
                if !names.iter().any(same) {
                    names.push(label.into_owned());
                }
            }
            names
        }
    }
}
