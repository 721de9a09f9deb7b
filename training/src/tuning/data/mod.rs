//! A run's data: items that are ready for a model, and what is needed to judge its outputs.

mod images;
mod squad;
mod texts;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rankwise_data::{
    Augment, GlueTask, ImageProcessor, ImageSet, Provenance, Question, SkipBad, Tokenizer, Window,
    stream,
};

use super::batch::{Item, Target};
use super::config::{TaskSettings, TuneConfig};
use crate::Error;
use crate::metric::Metric;
use crate::model::{Head, ModelConfig};

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
        /// The output of each class, where it is not the class's own number.
        order: Option<Arc<[u32]>>,
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
    /// The classes in the order of the outputs.
    pub classes: Vec<String>,
    /// The output of each of the task's classes, where a head has them in another order: metrics are
    /// defined on the task's.
    pub order: Option<Arc<[u32]>>,
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
                order,
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
                    target: Target::Class(placed(order.as_deref(), set.labels()[index])),
                })
            }
        }
    }

    /// The class of each item that has one.
    pub fn classes(&self) -> Box<dyn Iterator<Item = u32> + '_> {
        match self {
            Self::Texts(items) => Box::new(items.iter().filter_map(|item| match item.target {
                Target::Class(class) => Some(class),
                Target::Value(_) | Target::Span(..) | Target::NextToken => None,
            })),
            Self::Images { set, order, .. } => {
                let labels = set.labels().iter();
                Box::new(labels.map(|label| placed(order.as_deref(), *label)))
            }
        }
    }

    /// Gives every class the number of its output.
    fn reorder(&mut self, new: &Arc<[u32]>) {
        match self {
            Self::Texts(items) => {
                for item in Arc::make_mut(items) {
                    if let Target::Class(class) = &mut item.target {
                        *class = placed(Some(new), *class);
                    }
                }
            }
            Self::Images { order, .. } => *order = Some(Arc::clone(new)),
        }
    }

    /// Leaves the first `count` items.
    fn truncate(&mut self, count: usize) {
        match self {
            Self::Texts(items) => *items = Arc::new(items[..count].to_vec()),
            Self::Images { set, .. } => {
                // It is shared with nothing before a run begins.
                if let Some(set) = Arc::get_mut(set) {
                    set.truncate(count);
                }
            }
        }
    }
}

/// What a text must have where the tokenizer adds nothing to it.
const NO_TOKEN: &str = "a text with at least one token (the tokenizer adds none of its own)";

/// The model's tokenizer, which gives no id that the model has no row for.
fn tokenizer(model: &Path) -> Result<Tokenizer, Error> {
    let tokenizer = Tokenizer::load(model)?;
    let rows = ModelConfig::read(model)?.size_or("vocab_size", Some(usize::MAX))?;
    Ok(tokenizer.with_rows(rows))
}

/// The output of a class.
fn placed(order: Option<&[u32]>, class: u32) -> u32 {
    let place = order.and_then(|order| order.get(class as usize));
    place.copied().unwrap_or(class)
}

impl TuneData {
    /// Puts the outputs into another order: `order` has the output of each class.
    pub fn reorder(&mut self, order: Vec<u32>) {
        let order: Arc<[u32]> = order.into();
        let mut classes = self.classes.clone();
        for (class, place) in self.classes.iter().zip(&*order) {
            classes[*place as usize].clone_from(class);
        }
        self.classes = classes;
        self.train.reorder(&order);
        for set in &mut self.evaluated {
            set.source.reorder(&order);
        }
        self.order = Some(order);
    }

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
            "lm" => texts::language(settings, model, &mut skip)?,
            "cifar10" | "cifar100" | "food101" | "images" => {
                images::read(settings, model, seed, &mut skip)?
            }
            _ => match GlueTask::ALL.into_iter().find(|task| task.name() == name) {
                Some(task) => texts::glue(task, settings, model, &mut skip)?,
                None => {
                    let known = TuneConfig::TASKS;
                    let nearest = crate::settings::nearest(name, known.iter().copied());
                    return Err(Error::Setting {
                        origin: "configuration".to_owned(),
                        key: "task.name".to_owned(),
                        expected: format!("one of {}", known.join(", ")),
                        found: format!("{name:?}{nearest}"),
                    });
                }
            },
        };
        if let [only] = data.classes.as_slice() {
            return Err(Error::Setting {
                origin: settings.data.display().to_string(),
                key: "labels".to_owned(),
                expected: "at least two classes in the training data".to_owned(),
                found: format!("one, {only}, whose probability is 1 whatever is trained"),
            });
        }
        data.limit(settings.limit);
        data.skip = skip;
        Ok(data)
    }

    /// Leaves the first `limit` training examples; 0: all. What is then without an example is said.
    fn limit(&mut self, limit: usize) {
        let all = self.train.len();
        if limit == 0 || limit >= all {
            return;
        }
        self.train.truncate(limit);
        let mut note = format!("task.limit: the first {limit} of {all} training examples");
        let present: BTreeSet<u32> = self.train.classes().collect();
        let absent = self.classes.iter().zip(0..);
        let absent = absent.filter(|(_, index)| !present.contains(index));
        let absent: Vec<_> = absent.map(|(name, _)| name.as_str()).collect();
        if !absent.is_empty() {
            note += &format!(
                ", none of {} of the {} classes",
                absent.len(),
                self.classes.len()
            );
        }
        if let Some(first) = self.provenance.first_mut() {
            first.notes.push(note);
        }
    }
}
