//! The parts of a data set, and where their files are.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::Error;

/// A part of a data set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// What is trained on.
    Train,
    /// What is measured on while training: GLUE's `dev`, for MNLI the matched one.
    Validation,
    /// MNLI's second validation part, of other genres than the training part.
    Mismatched,
    /// What is measured on at the end.
    Test,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Train => "train",
            Self::Validation => "validation",
            Self::Mismatched => "mismatched",
            Self::Test => "test",
        })
    }
}

/// The files of a folder whose names are wanted, sorted by name.
pub(crate) fn list(folder: &Path, wanted: impl Fn(&str) -> bool) -> Result<Vec<PathBuf>, Error> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(Error::io(folder, "list"))? {
        let entry = entry.map_err(Error::io(folder, "list"))?;
        if wanted(&entry.file_name().to_string_lossy()) && entry.path().is_file() {
            found.push(entry.path());
        }
    }
    found.sort();
    Ok(found)
}

/// The Parquet files of a part in `folder`, in its `data`, or in the only one of its folders that has
/// some, as data sets on the Hub have them: `train-00000-of-00004.parquet` and so on, or
/// `train.parquet`. None is no error.
///
/// # Errors
/// [`Error::Io`] if a folder cannot be listed.
pub fn parquet_files(folder: &Path, part: Part) -> Result<Vec<PathBuf>, Error> {
    for folder in [folder.to_path_buf(), folder.join("data")] {
        if folder.is_dir() {
            let files = inside(&folder, part)?;
            if !files.is_empty() {
                return Ok(files);
            }
        }
    }
    let mut found = Vec::new();
    if folder.is_dir() {
        for entry in std::fs::read_dir(folder).map_err(Error::io(folder, "list"))? {
            let path = entry.map_err(Error::io(folder, "list"))?.path();
            let files = match path.is_dir() {
                true => inside(&path, part)?,
                false => Vec::new(),
            };
            if !files.is_empty() {
                found.push(files);
            }
        }
    }
    Ok(match found.len() {
        1 => found.remove(0),
        _ => Vec::new(),
    })
}

fn inside(folder: &Path, part: Part) -> Result<Vec<PathBuf>, Error> {
    let names: &[&str] = match part {
        Part::Train => &["train"],
        Part::Validation => &["validation", "validation_matched", "dev", "val"],
        Part::Mismatched => &["validation_mismatched"],
        Part::Test => &["test"],
    };
    for name in names {
        let files = list(folder, |file| {
            let rest = file
                .strip_prefix(name)
                .and_then(|rest| rest.strip_suffix(".parquet"));
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with("-0"))
        })?;
        if !files.is_empty() {
            return Ok(files);
        }
    }
    Ok(Vec::new())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_in_order_and_of_one_part() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        std::fs::create_dir(&data).unwrap();
        for name in [
            "train-00001-of-00002.parquet",
            "train-00000-of-00002.parquet",
            "training.parquet",
            "validation_mismatched-00000-of-00001.parquet",
            "test.parquet",
        ] {
            std::fs::write(data.join(name), "").unwrap();
        }
        let names = |part| {
            let files = parquet_files(folder.path(), part).unwrap();
            let name = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().into_owned();
            files.iter().map(name).collect::<Vec<_>>()
        };
        assert_eq!(
            names(Part::Train),
            [
                "train-00000-of-00002.parquet",
                "train-00001-of-00002.parquet"
            ]
        );
        assert!(names(Part::Validation).is_empty());
        assert_eq!(
            names(Part::Mismatched),
            ["validation_mismatched-00000-of-00001.parquet"]
        );
        assert_eq!(names(Part::Test), ["test.parquet"]);
        // `data` found by its content, as a configuration's folder is.
        let above = tempfile::tempdir().unwrap();
        std::fs::rename(folder.path(), above.path().join("x")).unwrap();
        std::fs::rename(above.path().join("x/data"), above.path().join("plain_text")).unwrap();
        assert_eq!(parquet_files(above.path(), Part::Test).unwrap().len(), 1);
        std::fs::write(above.path().join("x/test.parquet"), "").unwrap();
        assert!(parquet_files(above.path(), Part::Test).unwrap().is_empty());
    }
}
