//! A run's data: items that are ready for a model, and what is needed to judge its outputs.

mod images;
mod squad;
mod texts;

use std::path::PathBuf;
use std::sync::Arc;

use rankwise_data::{
    Augment, GlueTask, ImageProcessor, ImageSet, Provenance, Question, SkipBad, Window, stream,
};

use super::batch::{Item, Target};
use super::config::{TaskSettings, TuneConfig};
use crate::Error;
use crate::metric::Metric;
use crate::model::Head;

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

    /// Tokens of the longest item.
    pub fn longest(&self) -> usize {
        let each = (0..self.len()).map(|index| self.tokens(index));
        each.max().unwrap_or(0)
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
            "squad" => squad::read(settings, model, &mut skip)?,
            "banking77" | "text" => texts::table(settings, model, &mut skip)?,
            "lm" => texts::language(settings, model)?,
            "cifar10" | "cifar100" | "food101" | "images" => {
                images::read(settings, model, seed, &mut skip)?
            }
            _ => match GlueTask::ALL.into_iter().find(|task| task.name() == name) {
                Some(task) => texts::glue(task, settings, model, &mut skip)?,
                None => {
                    let known = NAMES.split(", ").map(str::trim);
                    let nearest = crate::settings::nearest(name, known);
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
