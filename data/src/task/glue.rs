//! The nine tasks of GLUE.
//!
//! Columns, parts and the order of labels are those of the data set `nyu-mll/glue`, in two layouts:
//! the official folders of TSV files (CoLA's without a header, QQP's with a few broken lines that the
//! reference leaves out too), and the Hub's Parquet files. Of a folder that holds only part of a set
//! (`train.subset-8999.tsv`, `train.heldout-1000.tsv` where there is no `dev.tsv`) the notes say so.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::lines::{Line, Lines};
use super::{Target, TextExample, TextSet, label};
use crate::part::list;
use crate::shard::{Labels, Shard};
use crate::{Error, Part, Provenance, SkipBad, parquet_files};

/// A task of GLUE.
///
/// ```
/// use rankwise_data::GlueTask;
/// assert_eq!(GlueTask::Mnli.classes(), ["entailment", "neutral", "contradiction"]);
/// assert_eq!(GlueTask::Stsb.outputs(), 1);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GlueTask {
    /// Whether a sentence is acceptable English.
    Cola,
    /// Whether a phrase of a film review is positive.
    Sst2,
    /// Whether two sentences of news say the same.
    Mrpc,
    /// How alike two sentences are, from 0 to 5.
    Stsb,
    /// Whether two questions are the same.
    Qqp,
    /// Whether a hypothesis follows from a premise, contradicts it or neither.
    Mnli,
    /// Whether a sentence answers a question.
    Qnli,
    /// Whether a hypothesis follows from a text.
    Rte,
    /// Whether a sentence with its pronoun replaced follows.
    Wnli,
}

/// What a layout calls its columns: the first text, the second, the label.
type Columns = (&'static str, Option<&'static str>, &'static str);

/// Where a part is.
enum Files {
    Tsv(PathBuf),
    Parquet(Vec<PathBuf>),
    None,
}

impl GlueTask {
    /// The nine.
    pub const ALL: [Self; 9] = [
        Self::Cola,
        Self::Sst2,
        Self::Mrpc,
        Self::Stsb,
        Self::Qqp,
        Self::Mnli,
        Self::Qnli,
        Self::Rte,
        Self::Wnli,
    ];

    /// The name on the Hub, such as `sst2`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cola => "cola",
            Self::Sst2 => "sst2",
            Self::Mrpc => "mrpc",
            Self::Stsb => "stsb",
            Self::Qqp => "qqp",
            Self::Mnli => "mnli",
            Self::Qnli => "qnli",
            Self::Rte => "rte",
            Self::Wnli => "wnli",
        }
    }

    /// The name of the official folder, such as `SST-2`.
    pub fn folder(self) -> &'static str {
        match self {
            Self::Cola => "CoLA",
            Self::Sst2 => "SST-2",
            Self::Mrpc => "MRPC",
            Self::Stsb => "STS-B",
            Self::Qqp => "QQP",
            Self::Mnli => "MNLI",
            Self::Qnli => "QNLI",
            Self::Rte => "RTE",
            Self::Wnli => "WNLI",
        }
    }

    /// The labels' names in the order of their indices; none for STS-B.
    pub fn classes(self) -> &'static [&'static str] {
        match self {
            Self::Cola => &["unacceptable", "acceptable"],
            Self::Sst2 => &["negative", "positive"],
            Self::Mrpc => &["not_equivalent", "equivalent"],
            Self::Stsb => &[],
            Self::Qqp => &["not_duplicate", "duplicate"],
            Self::Mnli => &["entailment", "neutral", "contradiction"],
            Self::Qnli | Self::Rte => &["entailment", "not_entailment"],
            Self::Wnli => &["not_entailment", "entailment"],
        }
    }

    /// Whether the target is a score.
    pub fn is_regression(self) -> bool {
        self == Self::Stsb
    }

    /// The number of outputs that a model needs.
    pub fn outputs(self) -> usize {
        self.classes().len().max(1)
    }

    /// The examples of the official part.
    pub fn official(self, part: Part) -> Option<usize> {
        let [train, validation] = match self {
            Self::Cola => [8551, 1043],
            Self::Sst2 => [67_349, 872],
            Self::Mrpc => [3668, 408],
            Self::Stsb => [5749, 1500],
            Self::Qqp => [363_846, 40_430],
            Self::Mnli => [392_702, 9815],
            Self::Qnli => [104_743, 5463],
            Self::Rte => [2490, 277],
            Self::Wnli => [635, 71],
        };
        match part {
            Part::Train => Some(train),
            Part::Validation => Some(validation),
            Part::Mismatched => (self == Self::Mnli).then_some(9832),
            Part::Test => None,
        }
    }

    /// Reads a part from `folder`, or from the task's folder inside it.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Format`] naming the folder without such files (GLUE's test parts have
    /// no labels), the column that is missing, or the line or row whose label is none.
    pub fn read(self, folder: &Path, part: Part, skip: &mut SkipBad) -> Result<TextSet, Error> {
        let mut notes = Vec::new();
        let (files, examples) = match self.found(folder, part)? {
            Files::Tsv(path) => {
                let examples = self.read_tsv(&path, skip, &mut notes)?;
                (vec![path], examples)
            }
            Files::Parquet(files) => {
                let mut examples = Vec::new();
                for (file, path) in files.iter().enumerate() {
                    self.read_parquet((file, path), skip, &mut examples)?;
                }
                (files, examples)
            }
            Files::None => {
                let expected = "train or validation files of GLUE, as TSV or Parquet";
                let found = format!("none for {part}");
                return Err(Error::format(folder, self.folder(), expected, found));
            }
        };
        if examples.is_empty() {
            return Err(Error::format(&files[0], "examples", "at least one", "none"));
        }
        if let Some(official) = self.official(part).filter(|&rows| rows != examples.len()) {
            let names = files.iter().filter_map(|path| path.file_name());
            let names: Vec<_> = names.map(|name| name.to_string_lossy()).collect();
            notes.push(format!(
                "{}: {} of the official {official} examples of {part}",
                names.join(", "),
                examples.len()
            ));
        }
        Ok(TextSet {
            examples,
            classes: self
                .classes()
                .iter()
                .map(|&class| class.to_owned())
                .collect(),
            provenance: Provenance { files, notes },
        })
    }

    /// Whether `folder`, or the task's folder inside it, has files of a part that can be read.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn has(self, folder: &Path, part: Part) -> Result<bool, Error> {
        Ok(!matches!(self.found(folder, part)?, Files::None))
    }

    fn found(self, folder: &Path, part: Part) -> Result<Files, Error> {
        let inside = [self.folder(), self.name()].map(|name| folder.join(name));
        let inside = inside.into_iter().find(|folder| folder.is_dir());
        let folder = inside.as_deref().unwrap_or(folder);
        if let Some(path) = self.tsv(folder, part)? {
            return Ok(Files::Tsv(path));
        }
        let files = parquet_files(folder, part)?;
        Ok(match files.is_empty() || part == Part::Test {
            true => Files::None,
            false => Files::Parquet(files),
        })
    }

    /// The official file of a part, or what stands for it.
    fn tsv(self, folder: &Path, part: Part) -> Result<Option<PathBuf>, Error> {
        let (names, instead): (&[&str], _) = match (self, part) {
            (_, Part::Train) => (&["train.tsv"], "train.subset-"),
            (Self::Mnli, Part::Validation) => (&["dev_matched.tsv", "dev.tsv"], "train.heldout-"),
            (_, Part::Validation) => (&["dev.tsv"], "train.heldout-"),
            (Self::Mnli, Part::Mismatched) => (&["dev_mismatched.tsv"], "\0"),
            _ => return Ok(None),
        };
        let mut paths = names.iter().map(|name| folder.join(name));
        if let Some(path) = paths.find(|path| path.is_file()) {
            return Ok(Some(path));
        }
        let others = list(folder, |name| {
            name.starts_with(instead) && name.ends_with(".tsv")
        })?;
        Ok(others.into_iter().next_back())
    }

    fn tsv_columns(self) -> Columns {
        match self {
            Self::Cola => ("3", None, "1"),
            Self::Sst2 => ("sentence", None, "label"),
            Self::Mrpc => ("#1 String", Some("#2 String"), "Quality"),
            Self::Stsb => ("sentence1", Some("sentence2"), "score"),
            Self::Qqp => ("question1", Some("question2"), "is_duplicate"),
            Self::Mnli => ("sentence1", Some("sentence2"), "gold_label"),
            Self::Qnli => ("question", Some("sentence"), "label"),
            Self::Rte | Self::Wnli => ("sentence1", Some("sentence2"), "label"),
        }
    }

    fn read_tsv(
        self,
        path: &Path,
        skip: &mut SkipBad,
        notes: &mut Vec<String>,
    ) -> Result<Vec<TextExample>, Error> {
        let has_header = self != Self::Cola;
        let lines = Lines::read(path, has_header)?;
        let (first, second, label) = self.tsv_columns();
        let column = |name: &str| match has_header {
            true => lines.column(&[name]),
            false => Ok(usize::from(name == "1") + 3 * usize::from(name == "3")),
        };
        let first = column(first)?;
        let second = second.map(column).transpose()?;
        let label = column(label)?;
        let last = first.max(label).max(second.unwrap_or(0));
        let mut examples = Vec::new();
        let mut broken = 0;
        for line in lines.iter() {
            if self == Self::Qqp && line.count() <= last {
                broken += 1;
                continue;
            }
            if let Some(example) = skip.take(self.of_line(&line, first, second, label))? {
                examples.push(example);
            }
        }
        if broken > 0 {
            notes.push(format!(
                "{broken} lines with missing fields left out, as the reference does"
            ));
        }
        Ok(examples)
    }

    fn of_line(
        self,
        line: &Line<'_>,
        first: usize,
        second: Option<usize>,
        label: usize,
    ) -> Result<TextExample, Error> {
        let target = self.target(line.field(label)?);
        let text = |column| line.field(column).map(str::to_owned);
        Ok(TextExample {
            first: text(first)?,
            second: second.map(text).transpose()?,
            target: target.map_err(|(expected, found)| line.error(expected, found))?,
            origin: (0, format!("line {}", line.number)),
        })
    }

    /// What a label's text means: a class by its name or its index, or a score.
    fn target(self, text: &str) -> Result<Target, (String, String)> {
        let found = || format!("the label {text:?}");
        if self.is_regression() {
            let score = text.trim().parse().ok();
            let score = score.filter(|score: &f32| (0.0..=5.0).contains(score));
            let expected = || "a score from 0 to 5".to_owned();
            return score
                .map(Target::Score)
                .ok_or_else(|| (expected(), found()));
        }
        let classes = self.classes();
        let index = label::place(text, classes).or_else(|| label::index(text));
        // Truth values of a column are indices.
        let index = index.or_else(|| label::value(text).map(usize::from));
        match index.filter(|&index| index < classes.len()) {
            Some(index) => Ok(Target::Class(index as u32)),
            None => Err((format!("one of {}", classes.join(", ")), found())),
        }
    }

    fn read_parquet(
        self,
        (file, path): (usize, &Path),
        skip: &mut SkipBad,
        examples: &mut Vec<TextExample>,
    ) -> Result<(), Error> {
        let (first, second) = match self {
            Self::Cola | Self::Sst2 => ("sentence", None),
            Self::Qqp => ("question1", Some("question2")),
            Self::Mnli => ("premise", Some("hypothesis")),
            Self::Qnli => ("question", Some("sentence")),
            _ => ("sentence1", Some("sentence2")),
        };
        let shard = Shard::open(path)?;
        let mut columns = vec![shard.column(Some(first), &[])?];
        if let Some(second) = second {
            columns.push(shard.column(Some(second), &[])?);
        }
        columns.push(shard.column(Some("label"), &[])?);
        let columns: Vec<&str> = columns.iter().map(String::as_str).collect();
        for rows in shard.groups() {
            let frame = shard.read(rows, &columns)?;
            let get = |name: &str| {
                let missing = |error: polars::error::PolarsError| {
                    Error::format(path, format!("column {name}"), "present", error.to_string())
                };
                frame.column(name).map_err(missing)
            };
            let texts = |name: &str| Labels::texts(path, get(name)?, name == "label");
            let firsts = texts(first)?;
            let seconds = second.map(texts).transpose()?;
            let targets = texts("label")?;
            for (index, row) in rows.clone().enumerate() {
                let row = format!("row {}", row + 1);
                let text = |name: &str, texts: &[Option<String>]| {
                    texts[index].clone().ok_or_else(|| {
                        Error::format(path, format!("column {name}, {row}"), "a text", "nothing")
                    })
                };
                let example = || -> Result<TextExample, Error> {
                    let second = second.zip(seconds.as_deref());
                    let target = self.target(targets[index].as_deref().unwrap_or_default());
                    Ok(TextExample {
                        first: text(first, &firsts)?,
                        second: second.map(|(name, texts)| text(name, texts)).transpose()?,
                        target: target.map_err(|(expected, found)| {
                            Error::format(path, &*row, expected, found)
                        })?,
                        origin: (file, row.clone()),
                    })
                };
                examples.extend(skip.take(example())?);
            }
        }
        Ok(())
    }
}
