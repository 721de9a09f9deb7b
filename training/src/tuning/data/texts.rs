//! Texts: GLUE's tasks, tables of texts, plain text for language models.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rankwise_data::{GlueTask, Part, Provenance, SkipBad, Target as Given, TextColumns, TextSet};

use super::{Evaluated, Judged, NO_TOKEN, Source, TuneData, tokenizer};
use crate::Error;
use crate::metric::{Metric, glue_metrics};
use crate::model::Head;
use crate::tuning::batch::{Item, Target};
use crate::tuning::config::TaskSettings;

/// What files of a part are called, and how they end.
const TRAIN: [&str; 1] = ["train"];
const VALIDATION: [&str; 4] = ["validation", "dev", "val", "test"];
const TABLES: [&str; 6] = ["csv", "tsv", "jsonl", "ndjson", "json", "parquet"];
const LANGUAGE: [&str; 7] = ["txt", "csv", "tsv", "jsonl", "ndjson", "json", "parquet"];

pub(super) fn glue(
    task: GlueTask,
    settings: &TaskSettings,
    model: &Path,
    skip: &mut SkipBad,
) -> Result<TuneData, Error> {
    let mut parts = vec![Part::Train, Part::Validation];
    if task == GlueTask::Mnli {
        parts.push(Part::Mismatched);
    }
    let mut sets = Vec::new();
    for part in parts {
        // A copy of MNLI may be without its second validation set.
        if part != Part::Mismatched || task.has(&settings.data, part)? {
            sets.push((part.to_string(), task.read(&settings.data, part, skip)?));
        }
    }
    texts(sets, glue_metrics(task).to_vec(), settings, model, skip)
}

pub(super) fn table(
    settings: &TaskSettings,
    model: &Path,
    skip: &mut SkipBad,
) -> Result<TuneData, Error> {
    let mut columns = match settings.name.as_str() {
        "banking77" => TextColumns::banking77(),
        _ => settings.columns.clone(),
    };
    let train = file(settings, settings.train.as_ref(), &TRAIN, &TABLES)?;
    let validation = file(settings, settings.validation.as_ref(), &VALIDATION, &TABLES)?;
    let train = columns.read(&[train], skip)?;
    if !columns.regression {
        // Both parts have the training part's classes.
        columns.classes = Some(train.classes.clone());
    }
    let validation = columns.read(&[validation], skip)?;
    let metrics = if columns.regression {
        vec![Metric::Pearson, Metric::Spearman]
    } else {
        vec![Metric::Accuracy]
    };
    let sets = vec![
        ("train".to_owned(), train),
        ("validation".to_owned(), validation),
    ];
    texts(sets, metrics, settings, model, skip)
}

/// The given file, or the first of the folder that is called so.
fn file(
    settings: &TaskSettings,
    given: Option<&PathBuf>,
    names: &[&str],
    endings: &[&str],
) -> Result<PathBuf, Error> {
    if let Some(path) = given {
        return Ok(path.clone());
    }
    for name in names {
        for ending in endings {
            let path = settings.data.join(format!("{name}.{ending}"));
            if path.is_file() {
                return Ok(path);
            }
        }
    }
    Err(Error::Setting {
        origin: "configuration".to_owned(),
        key: "task.data".to_owned(),
        expected: format!(
            "a folder with a file called {} that ends in {}",
            names.join(", "),
            endings.join(", ")
        ),
        found: settings.data.display().to_string(),
    })
}

/// Tokenises sets of texts, the training one first.
fn texts(
    sets: Vec<(String, TextSet)>,
    metrics: Vec<Metric>,
    settings: &TaskSettings,
    model: &Path,
    skip: &mut SkipBad,
) -> Result<TuneData, Error> {
    let tokenizer = tokenizer(model)?;
    let mut sources = Vec::new();
    let mut provenance = Vec::new();
    let (outputs, classes) = match sets.first() {
        Some((_, train)) => (train.outputs(), train.classes.clone()),
        None => (1, Vec::new()),
    };
    for (name, mut set) in sets {
        if provenance.is_empty() {
            set.provenance.notes.extend_from_slice(tokenizer.notes());
        }
        let mut items = Vec::with_capacity(set.examples.len());
        for example in &set.examples {
            let second = example.second.as_deref();
            let tokens = tokenizer.encode(&example.first, second, settings.max_length)?;
            let target = match example.target {
                Given::Class(class) => Target::Class(class),
                Given::Score(value) => Target::Value(value),
            };
            let item = match tokens.is_empty() {
                false => Ok(Item::text(tokens.ids, tokens.types, target)),
                true => {
                    let text = format!("{:?}", [&example.first, second.unwrap_or("")].concat());
                    Err(set.error(example, NO_TOKEN, &text))
                }
            };
            items.extend(skip.take(item)?);
        }
        if items.is_empty() {
            let file = &set.provenance.files[0];
            return Err(Error::Model {
                path: file.clone(),
                what: "examples".to_owned(),
                expected: "at least one that may be read".to_owned(),
                found: "none".to_owned(),
            });
        }
        sources.push((name, Source::Texts(Arc::new(items))));
        provenance.push(set.provenance);
    }
    let mut sources = sources.into_iter();
    let Some((_, train)) = sources.next() else {
        return Err(candle_core::Error::msg("no training data").into());
    };
    let evaluated = sources.map(|(name, source)| Evaluated {
        name,
        source,
        judged: Judged::Outputs(metrics.clone()),
    });
    Ok(TuneData {
        head: Head::Classes(outputs),
        classes,
        order: None,
        train,
        evaluated: evaluated.collect(),
        provenance,
        skip: SkipBad::default(),
    })
}

/// Text as one sequence of tokens, cut into blocks that predict their next tokens: a plain file's
/// lines, or a table's column of texts, a line each.
pub(super) fn language(
    settings: &TaskSettings,
    model: &Path,
    skip: &mut SkipBad,
) -> Result<TuneData, Error> {
    let tokenizer = tokenizer(model)?;
    let mut provenance = Vec::new();
    let mut read = |given: Option<&PathBuf>, names: &[&str]| -> Result<Source, Error> {
        let path = file(settings, given, names, &LANGUAGE)?;
        let mut notes = match provenance.is_empty() {
            true => tokenizer.notes().to_vec(),
            false => Vec::new(),
        };
        let texts = if TextColumns::is_table(&path) {
            let column = &settings.columns.text;
            notes.push(format!(
                "{}: the column {column} of each record, as a line of its own",
                path.display()
            ));
            let texts = settings.columns.texts(std::slice::from_ref(&path), skip)?;
            texts.into_iter().map(|text| text + "\n").collect()
        } else {
            // Line by line, as a text of any length is no single sequence for a tokenizer.
            let text = rankwise_data::read_text(&path)?;
            let lines = text.split_inclusive('\n');
            lines.map(str::to_owned).collect::<Vec<_>>()
        };
        let mut ids = Vec::new();
        for text in &texts {
            ids.extend(tokenizer.encode(text, None, usize::MAX)?.ids);
        }
        let blocks = ids
            .chunks(settings.max_length)
            .filter(|block| block.len() > 1);
        let items: Vec<_> = blocks
            .map(|block| Item::text(block.to_vec(), Vec::new(), Target::NextToken))
            .collect();
        if items.is_empty() {
            return Err(Error::Model {
                path,
                what: "text".to_owned(),
                expected: "at least two tokens".to_owned(),
                found: format!("{} in {} lines", ids.len(), texts.len()),
            });
        }
        provenance.push(Provenance {
            files: vec![path],
            notes,
        });
        Ok(Source::Texts(Arc::new(items)))
    };
    let train = read(settings.train.as_ref(), &TRAIN)?;
    let validation = read(settings.validation.as_ref(), &VALIDATION)?;
    Ok(TuneData {
        head: Head::NextToken,
        classes: Vec::new(),
        order: None,
        train,
        evaluated: vec![Evaluated {
            name: "validation".to_owned(),
            source: validation,
            judged: Judged::Outputs(vec![Metric::Loss]),
        }],
        provenance,
        skip: SkipBad::default(),
    })
}
