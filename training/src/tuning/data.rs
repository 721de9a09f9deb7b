//! A run's data: items that are ready for a model, and what is needed to judge its outputs.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rankwise_data::{
    Augment, Cifar, GlueTask, ImageColumns, ImageProcessor, ImageSet, Part, Provenance, Question,
    SkipBad, Squad, Target as Given, TextColumns, TextSet, Tokenizer, Window, Windowing,
    parquet_files, stream,
};

use super::batch::{Item, Target};
use super::config::{TaskSettings, TuneConfig};
use crate::Error;
use crate::metric::{Metric, glue_metrics};
use crate::model::{Head, ModelConfig};

/// Names of the tasks, for messages.
const NAMES: &str = "cola, sst2, mrpc, stsb, qqp, mnli, qnli, rte, wnli, squad, banking77, text, \
                     lm, cifar10, cifar100, food101, images";

/// The folders that a run reads: where `model.path` and `task.data` were found, which may be ids of
/// the Hub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sources {
    /// The checkpoint's folder.
    pub model: PathBuf,
    /// The data's folder.
    pub data: PathBuf,
}

impl Sources {
    /// Where the configuration says, if these are folders.
    pub fn of(config: &TuneConfig) -> Self {
        Self {
            model: PathBuf::from(&config.model.path),
            data: config.task.data.clone(),
        }
    }
}

/// What is predicted, and how it is judged.
#[derive(Debug, Clone)]
pub(crate) enum Judged {
    /// Classes or one number, by these metrics; the first decides.
    Outputs(Vec<Metric>),
    /// Answers: for every window the question that it belongs to.
    Answers {
        questions: Arc<Vec<Question>>,
        windows: Arc<Vec<(usize, Window)>>,
    },
}

/// Items of one part of a data set, made when they are asked for.
#[derive(Debug, Clone)]
pub(crate) enum Source {
    Texts(Arc<Vec<Item>>),
    Images {
        set: Arc<ImageSet>,
        processor: Arc<ImageProcessor>,
        augment: Augment,
        seed: u64,
    },
}

/// A named set to evaluate on.
#[derive(Debug, Clone)]
pub(crate) struct Evaluated {
    /// `validation`, `mismatched`, `train`.
    pub name: String,
    pub source: Source,
    pub judged: Judged,
}

/// Everything that a run reads.
#[derive(Debug, Clone)]
pub(crate) struct TuneData {
    pub head: Head,
    pub classes: Vec<String>,
    pub train: Source,
    pub evaluated: Vec<Evaluated>,
    pub provenance: Vec<Provenance>,
    /// Bad lines and images that were passed over, and how many more may be.
    pub skip: SkipBad,
}

impl Source {
    pub fn len(&self) -> usize {
        match self {
            Self::Texts(items) => items.len(),
            Self::Images { set, .. } => set.len(),
        }
    }

    /// Tokens of an item, for the batches' cost; images are all alike.
    pub fn tokens(&self, index: usize) -> usize {
        match self {
            Self::Texts(items) => items[index].ids.len(),
            Self::Images { .. } => 1,
        }
    }

    /// One item; `visit` is where it is met (an epoch), for augmentation, or none for evaluation.
    ///
    /// # Errors
    /// If an image is damaged, naming it.
    pub fn item(&self, index: usize, visit: Option<u64>) -> Result<Item, rankwise_data::Error> {
        match self {
            Self::Texts(items) => Ok(items[index].clone()),
            Self::Images {
                set,
                processor,
                augment,
                seed,
            } => {
                let (image, origin) = (set.image(index)?, set.origin(index));
                let pixels = match visit {
                    None => processor.process(origin, &image)?,
                    Some(visit) => {
                        let mut rng = stream(*seed, &format!("augment {visit}"), index as u64);
                        let image = augment.apply(origin, &image, processor, &mut rng)?;
                        processor.numbers(&image)
                    }
                };
                Ok(Item {
                    ids: Vec::new(),
                    types: Vec::new(),
                    pixels,
                    shape: [3, processor.height, processor.width],
                    target: Target::Class(set.labels()[index]),
                })
            }
        }
    }

    fn first(&self, limit: usize) -> Self {
        match self {
            Self::Texts(items) if limit > 0 && limit < items.len() => {
                Self::Texts(Arc::new(items[..limit].to_vec()))
            }
            other => other.clone(),
        }
    }
}

impl TuneData {
    /// Reads the task's data with the model's tokenizer or image processor, which lie in the model's folder.
    ///
    /// # Errors
    /// [`Error::Setting`] for an unknown task; [`Error::Data`] naming the file and line at fault.
    pub fn read(settings: &TaskSettings, sources: &Sources, seed: u64) -> Result<Self, Error> {
        // From here on the data are where they were found.
        let settings = &TaskSettings {
            data: sources.data.clone(),
            ..settings.clone()
        };
        let model = sources.model.as_path();
        let mut skip = SkipBad::new(settings.skip_bad);
        let name = settings.name.as_str();
        let mut data = match name {
            "squad" => squad(settings, model, &mut skip)?,
            "banking77" | "text" => table(settings, model, &mut skip)?,
            "lm" => language(settings, model)?,
            "cifar10" | "cifar100" | "food101" | "images" => {
                images(settings, model, seed, &mut skip)?
            }
            _ => match GlueTask::ALL.into_iter().find(|task| task.name() == name) {
                Some(task) => glue(task, settings, model, &mut skip)?,
                None => {
                    let known = NAMES.split(", ").map(str::trim);
                    let nearest = crate::config::nearest(name, known);
                    return Err(Error::Setting {
                        origin: "configuration".to_owned(),
                        key: "task.name".to_owned(),
                        expected: format!("one of {NAMES}"),
                        found: format!("{name:?}{nearest}"),
                    });
                }
            },
        };
        data.train = data.train.first(settings.limit);
        data.skip = skip;
        Ok(data)
    }
}

fn glue(
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
        match task.read(&settings.data, part, skip) {
            Ok(set) => sets.push((part.to_string(), set)),
            // A copy of MNLI without its second validation set.
            Err(_) if part == Part::Mismatched => {}
            Err(error) => return Err(error.into()),
        }
    }
    texts(sets, glue_metrics(task).to_vec(), settings, model)
}

fn table(settings: &TaskSettings, model: &Path, skip: &mut SkipBad) -> Result<TuneData, Error> {
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
        train,
        evaluated: evaluated.collect(),
        provenance,
        skip: SkipBad::default(),
    })
}

/// Plain text as one sequence of tokens, cut into blocks that predict their next tokens.
fn language(settings: &TaskSettings, model: &Path) -> Result<TuneData, Error> {
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

fn squad(settings: &TaskSettings, model: &Path, skip: &mut SkipBad) -> Result<TuneData, Error> {
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

fn images(
    settings: &TaskSettings,
    model: &Path,
    seed: u64,
    skip: &mut SkipBad,
) -> Result<TuneData, Error> {
    let processor = Arc::new(match ImageProcessor::load(model)? {
        Some(processor) => processor,
        None => ModelConfig::read(model)?.image_processor()?,
    });
    let folder = &settings.data;
    let mut read = |part: Part| -> Result<ImageSet, Error> {
        let files = parquet_files(folder, part)?;
        if !files.is_empty() {
            return Ok(ImageSet::parquet(&files, &ImageColumns::default(), skip)?);
        }
        Ok(match settings.name.as_str() {
            "cifar10" => ImageSet::cifar(folder, Cifar::Ten, part, skip)?,
            "cifar100" => ImageSet::cifar(folder, Cifar::Hundred, part, skip)?,
            "food101" => ImageSet::food101(folder, part, skip)?,
            _ => {
                let names: &[&str] = match part {
                    Part::Train => &["train"],
                    _ => &["validation", "val", "test"],
                };
                let found = names.iter().map(|name| folder.join(name));
                let found = found.into_iter().find(|path| path.is_dir());
                ImageSet::folder(&found.unwrap_or_else(|| folder.join(names[0])), None)?
            }
        })
    };
    let (train, test) = (read(Part::Train)?, read(Part::Test)?);
    let classes = train.classes().to_vec();
    if let Some(label) = test
        .labels()
        .iter()
        .find(|label| **label as usize >= classes.len())
    {
        return Err(Error::Setting {
            origin: folder.display().to_string(),
            key: "labels".to_owned(),
            expected: format!("one of the training part's {} classes", classes.len()),
            found: label.to_string(),
        });
    }
    let provenance = vec![train.provenance().clone(), test.provenance().clone()];
    let source = |set: ImageSet, augment: Augment| Source::Images {
        set: Arc::new(set),
        processor: Arc::clone(&processor),
        augment,
        seed,
    };
    let augment = Augment {
        flip: settings.flip,
        crop: None,
    };
    Ok(TuneData {
        head: Head::Classes(classes.len()),
        classes,
        train: source(train, augment),
        evaluated: vec![Evaluated {
            name: "validation".to_owned(),
            source: source(test, Augment::default()),
            judged: Judged::Outputs(vec![Metric::Accuracy]),
        }],
        provenance,
        skip: SkipBad::default(),
    })
}
