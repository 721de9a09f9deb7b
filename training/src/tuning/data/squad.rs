//! SQuAD: questions about paragraphs, cut into windows.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rankwise_data::{Part, SkipBad, Squad, Windowing, parquet_files};

use super::{Evaluated, Judged, NO_TOKEN, Source, TuneData, tokenizer};
use crate::Error;
use crate::model::Head;
use crate::tuning::batch::{Item, Target};
use crate::tuning::config::TaskSettings;

pub(super) fn read(
    settings: &TaskSettings,
    model: &Path,
    skip: &mut SkipBad,
) -> Result<TuneData, Error> {
    let tokenizer = tokenizer(model)?;
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
        let mut squad = match files.as_slice() {
            [file] if !is_parquet(file) => Squad::read(file, skip)?,
            files => Squad::parquet(files, skip)?,
        };
        // Which of several shards it is in is not known.
        let origin = match squad.provenance.files.as_slice() {
            [file] => file.clone(),
            _ => settings.data.clone(),
        };
        let mut windows = Vec::new();
        let mut questions = Vec::with_capacity(squad.questions.len());
        for question in squad.questions {
            let found = windowing.windows(&tokenizer, &question)?;
            let found = match found.iter().any(|window| window.encoding.is_empty()) {
                false => Ok(found),
                true => Err(rankwise_data::Error::Format {
                    path: origin.clone(),
                    what: format!("question {}", question.id),
                    expected: NO_TOKEN.to_owned(),
                    found: format!("{:?}", [&*question.question, &question.context].concat()),
                }),
            };
            if let Some(found) = skip.take(found)? {
                let index = questions.len();
                windows.extend(found.into_iter().map(|window| (index, window)));
                questions.push(question);
            }
        }
        squad.questions = questions;
        if windows.is_empty() {
            return Err(Error::Model {
                path: origin,
                what: "questions".to_owned(),
                expected: "at least one that may be read".to_owned(),
                found: "none".to_owned(),
            });
        }
        let items = windows.iter().map(|(_, window)| {
            let tokens = &window.encoding;
            let target = Target::Span(window.start as u32, window.end as u32);
            Item::text(tokens.ids.clone(), tokens.types.clone(), target)
        });
        let source = Source::Texts(Arc::new(items.collect()));
        Ok((source, windows, squad))
    };
    let (train, _, mut train_squad) = read(find(settings.train.as_ref(), "train", Part::Train)?)?;
    let (source, windows, dev) =
        read(find(settings.validation.as_ref(), "dev", Part::Validation)?)?;
    train_squad
        .provenance
        .notes
        .extend_from_slice(tokenizer.notes());
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
