//! SQuAD: questions about paragraphs, cut into windows.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rankwise_data::{Part, SkipBad, Squad, Tokenizer, Windowing, parquet_files};

use super::{Evaluated, Judged, Source, TuneData};
use crate::Error;
use crate::model::Head;
use crate::tuning::batch::{Item, Target};
use crate::tuning::config::TaskSettings;

pub(super) fn read(
    settings: &TaskSettings,
    model: &Path,
    skip: &mut SkipBad,
) -> Result<TuneData, Error> {
    let tokenizer = Tokenizer::load(model)?;
    let windowing = Windowing {
        max_length: settings.max_length,
        stride: settings.stride,
    };
    // Given, or the official JSON in the folder, or the Hub's Parquet.
    let find = |given: Option<&PathBuf>, name: &str, part: Part| -> Result<Vec<PathBuf>, Error> {
        if let Some(path) = given {
            return Ok(vec![path.clone()]);
        }
        let mut found: Vec<_> = std::fs::read_dir(&settings.data)
            .into_iter()
            .flatten()
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| {
                let file = path.file_name().unwrap_or_default().to_string_lossy();
                file.starts_with(name) && file.ends_with(".json")
            })
            .collect();
        found.sort();
        found.truncate(1);
        if found.is_empty() && settings.data.is_dir() {
            found = parquet_files(&settings.data, part)?;
        }
        match found.is_empty() {
            false => Ok(found),
            true => Err(Error::Setting {
                origin: "configuration".to_owned(),
                key: "task.data".to_owned(),
                expected: format!("a folder with {name}-v1.1.json, or {part} in Parquet"),
                found: settings.data.display().to_string(),
            }),
        }
    };
    let mut read = |files: Vec<PathBuf>| -> Result<_, Error> {
        let is_parquet = |path: &PathBuf| path.extension().is_some_and(|end| end == "parquet");
        let squad = match files.as_slice() {
            [file] if !is_parquet(file) => Squad::read(file, skip)?,
            files => Squad::parquet(files, skip)?,
        };
        let mut windows = Vec::new();
        for (index, question) in squad.questions.iter().enumerate() {
            for window in windowing.windows(&tokenizer, question)? {
                windows.push((index, window));
            }
        }
        let items = windows.iter().map(|(_, window)| {
            let tokens = &window.encoding;
            let target = Target::Span(window.start as u32, window.end as u32);
            Item::text(tokens.ids.clone(), tokens.types.clone(), target)
        });
        let source = Source::Texts(Arc::new(items.collect()));
        Ok((source, windows, squad))
    };
    let (train, _, train_squad) = read(find(settings.train.as_ref(), "train", Part::Train)?)?;
    let (source, windows, dev) =
        read(find(settings.validation.as_ref(), "dev", Part::Validation)?)?;
    Ok(TuneData {
        head: Head::Span,
        classes: Vec::new(),
        order: None,
        train,
        evaluated: vec![Evaluated {
            name: "validation".to_owned(),
            source,
            judged: Judged::Answers {
                questions: Arc::new(dev.questions),
                windows: Arc::new(windows),
            },
        }],
        provenance: vec![train_squad.provenance, dev.provenance],
        skip: SkipBad::default(),
    })
}
