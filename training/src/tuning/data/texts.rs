//! Texts: GLUE's tasks, tables of texts, plain text for language models.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rankwise_data::{
    GlueTask, Part, Provenance, SkipBad, Target as Given, TextColumns, TextSet, Tokenizer,
};

use super::{Evaluated, Judged, Source, TuneData};
use crate::Error;
use crate::metric::{Metric, glue_metrics};
use crate::model::Head;
use crate::tuning::batch::{Item, Target};
use crate::tuning::config::TaskSettings;

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
    texts(sets, glue_metrics(task).to_vec(), settings, model)
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
    let train = file(settings, settings.train.as_ref(), &["train"])?;
    let validation = file(
        settings,
        settings.validation.as_ref(),
        &["validation", "dev", "val", "test"],
    )?;
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
    texts(sets, metrics, settings, model)
}

/// The given file, or the first of the folder that is called so.
fn file(
    settings: &TaskSettings,
    given: Option<&PathBuf>,
    names: &[&str],
) -> Result<PathBuf, Error> {
    if let Some(path) = given {
        return Ok(path.clone());
    }
    for name in names {
        for ending in ["csv", "tsv", "jsonl", "json", "parquet"] {
            let path = settings.data.join(format!("{name}.{ending}"));
            if path.is_file() {
                return Ok(path);
            }
        }
    }
    Err(Error::Setting {
        origin: "configuration".to_owned(),
        key: "task.data".to_owned(),
        expected: format!("a folder with a table called {}", names.join(", ")),
        found: settings.data.display().to_string(),
    })
}

/// Tokenises sets of texts, the training one first.
fn texts(
    sets: Vec<(String, TextSet)>,
    metrics: Vec<Metric>,
    settings: &TaskSettings,
    model: &Path,
) -> Result<TuneData, Error> {
    let tokenizer = Tokenizer::load(model)?;
    let mut sources = Vec::new();
    let mut provenance = Vec::new();
    let (outputs, classes) = match sets.first() {
        Some((_, train)) => (train.outputs(), train.classes.clone()),
        None => (1, Vec::new()),
    };
    for (name, set) in sets {
        let items = set
            .examples
            .iter()
            .map(|example| {
                let second = example.second.as_deref();
                let tokens = tokenizer.encode(&example.first, second, settings.max_length)?;
                let target = match example.target {
                    Given::Class(class) => Target::Class(class),
                    Given::Score(value) => Target::Value(value),
                };
                Ok(Item::text(tokens.ids, tokens.types, target))
            })
            .collect::<Result<Vec<_>, Error>>()?;
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

/// Plain text as one sequence of tokens, cut into blocks that predict their next tokens.
pub(super) fn language(settings: &TaskSettings, model: &Path) -> Result<TuneData, Error> {
    let tokenizer = Tokenizer::load(model)?;
    let mut provenance = Vec::new();
    let mut read = |given: Option<&PathBuf>, name: &str| -> Result<Source, Error> {
        let path = match given {
            Some(path) => path.clone(),
            None => settings.data.join(format!("{name}.txt")),
        };
        let text = rankwise_data::read_text(&path)?;
        // Line by line, as a text of any length is no single sequence for a tokenizer.
        let mut ids = Vec::new();
        for line in text.split_inclusive('\n') {
            ids.extend(tokenizer.encode(line, None, usize::MAX)?.ids);
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
                found: format!("{} in {} characters", ids.len(), text.chars().count()),
            });
        }
        provenance.push(Provenance {
            files: vec![path],
            notes: Vec::new(),
        });
        Ok(Source::Texts(Arc::new(items)))
    };
    let train = read(settings.train.as_ref(), "train")?;
    let validation = read(settings.validation.as_ref(), "validation")?;
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
