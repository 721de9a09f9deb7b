//! A fine-tuning run's configuration: TOML that states differences from the defaults.

use std::path::PathBuf;

use rankwise_data::{RandomCrop, TextColumns};
use serde::{Deserialize, Serialize};

use super::beginning::Beginning;
use crate::method::{Method, MethodTable};
use crate::settings::{Configuration, Given, Key, commented, fields};
use crate::{DeviceName, Error, RunConfig};

rankwise_data::documented! {
/// Everything that a fine-tuning run depends on.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TuneConfig {
    /// Where all chance comes from.
    pub seed: u64,
    /// Where it is computed.
    pub device: DeviceName,
    /// The type of frozen weights and hidden states; what trains is float32 (float64 under f64).
    pub precision: TunePrecision,
    /// The pretrained model.
    pub model: ModelSettings,
    /// The task and its data.
    pub task: TaskSettings,
    /// How it is fine-tuned.
    pub method: MethodTable,
    /// The optimiser.
    pub optimizer: OptimizerSettings,
    /// How long and in what steps.
    pub schedule: ScheduleSettings,
    /// What is measured, and when to stop.
    pub evaluation: EvaluationSettings,
}
}

/// The type of frozen weights and hidden states.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TunePrecision {
    /// float32.
    #[default]
    F32,
    /// float64, for checks; CPU only.
    F64,
    /// bfloat16 with float32 adapters; GPU only.
    Bf16,
}

rankwise_data::documented! {
/// The `[model]` part.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ModelSettings {
    /// A checkpoint folder, or an id of the Hub (`owner/name`).
    pub path: String,
    /// The id's branch, tag or commit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// A trained adapter, a file or folder, whose numbers the run begins with. It says which modules
    /// are adapted, R and α.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adapter: Option<PathBuf>,
    /// Whether the layer of the task's outputs is drawn from the seed, whatever the checkpoint and the
    /// adapter have.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub new_head: bool,
}
}

rankwise_data::documented! {
/// The `[task]` part.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TaskSettings {
    /// `cola`, `sst2`, `mrpc`, `stsb`, `qqp`, `mnli`, `qnli`, `rte`, `wnli`, `squad`, `banking77`,
    /// `text`, `lm`, `cifar10`, `cifar100`, `food101` or `images`.
    pub name: String,
    /// Folder of the data.
    pub data: PathBuf,
    /// Training file, for `text` (default: `train.*` in the folder).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub train: Option<PathBuf>,
    /// Validation file, for `text` (default: `validation.*`, `dev.*` or `test.*` in the folder).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub validation: Option<PathBuf>,
    /// Columns, for `text`.
    pub columns: TextColumns,
    /// Tokens of the longest sequence; longer ones are cut (SQuAD: into windows).
    pub max_length: usize,
    /// Tokens that neighbouring windows share (SQuAD).
    pub stride: usize,
    /// Only the first so many training examples; 0: all.
    pub limit: usize,
    /// How many bad lines or images are passed over.
    pub skip_bad: usize,
    /// Whether training images are flipped at random.
    pub flip: bool,
    /// Random parts of training images instead of the whole (torchvision's `RandomResizedCrop`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub random_crop: Option<RandomCrop>,
}
}

impl Default for TaskSettings {
    fn default() -> Self {
        Self {
            name: "mrpc".to_owned(),
            data: PathBuf::new(),
            train: None,
            validation: None,
            columns: TextColumns::default(),
            max_length: 128,
            stride: 128,
            limit: 0,
            skip_bad: 0,
            flip: false,
            random_crop: None,
        }
    }
}

/// The optimiser by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OptimizerName {
    /// AdamW (Loshchilov & Hutter 2019).
    #[default]
    Adamw,
    /// Gradient descent with momentum.
    Sgd,
}

rankwise_data::documented! {
/// The `[optimizer]` part.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OptimizerSettings {
    /// The rule.
    pub name: OptimizerName,
    /// η, the learning rate at its highest.
    pub learning_rate: f64,
    /// β₁ of AdamW.
    pub beta1: f64,
    /// β₂ of AdamW.
    pub beta2: f64,
    /// ε of AdamW.
    pub epsilon: f64,
    /// μ of SGD.
    pub momentum: f64,
    /// Weight decay; not on biases, norms and gates.
    pub weight_decay: f64,
    /// The gradients' norm is cut to this; 0: not at all.
    pub clip_norm: f64,
}
}

impl Default for OptimizerSettings {
    fn default() -> Self {
        Self {
            name: OptimizerName::default(),
            learning_rate: 5e-4,
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            momentum: 0.9,
            weight_decay: 0.0,
            clip_norm: 1.0,
        }
    }
}

/// How the learning rate goes through a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Shape {
    /// Straight down to zero.
    #[default]
    Linear,
    /// Down half a cosine.
    Cosine,
    /// The same throughout.
    Constant,
}

rankwise_data::documented! {
/// The `[schedule]` part.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ScheduleSettings {
    /// How often the training examples are gone through.
    pub epochs: usize,
    /// Examples of a batch.
    pub batch_size: usize,
    /// Batches of a step: their gradients are averaged over all their examples.
    pub accumulation: usize,
    /// How the learning rate goes after the warm-up.
    pub shape: Shape,
    /// The share of all steps in which the learning rate rises from zero, rounded up to a step.
    pub warmup_ratio: f64,
    /// Steps between two checkpoints within an epoch; every epoch ends with one as well.
    pub checkpoint_every: usize,
}
}

impl Default for ScheduleSettings {
    fn default() -> Self {
        Self {
            epochs: 3,
            batch_size: 32,
            accumulation: 1,
            shape: Shape::default(),
            warmup_ratio: 0.06,
            checkpoint_every: 200,
        }
    }
}

rankwise_data::documented! {
/// The `[evaluation]` part.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EvaluationSettings {
    /// Examples that are evaluated together.
    pub batch_size: usize,
    /// Whether the training examples are evaluated as well, for the generalisation error.
    pub on_train: bool,
    /// Whether every module's rank is measured every epoch.
    pub ranks: bool,
    /// Epochs without a better deciding metric after which a run stops; 0: never.
    pub patience: usize,
}
}

impl Default for EvaluationSettings {
    fn default() -> Self {
        Self {
            batch_size: 64,
            on_train: false,
            ranks: true,
            patience: 0,
        }
    }
}

impl TuneConfig {
    /// Names of the tasks, in the order of messages.
    pub const TASKS: &[&str] = &[
        "cola",
        "sst2",
        "mrpc",
        "stsb",
        "qqp",
        "mnli",
        "qnli",
        "rte",
        "wnli",
        "squad",
        "banking77",
        "text",
        "lm",
        "cifar10",
        "cifar100",
        "food101",
        "images",
    ];

    /// Reads TOML that states differences from the defaults; `origin` names it in errors.
    ///
    /// # Errors
    /// [`Error::Setting`] for an unknown key or a wrong value.
    pub fn from_toml(text: &str, origin: &str) -> Result<Self, Error> {
        Given::from_toml(text, origin)?.read()
    }

    /// The configuration as TOML with a comment for every key: what `--dump-config` prints.
    pub fn to_commented_toml(&self) -> String {
        let table = toml::Table::try_from(self).expect("numbers and names are TOML");
        let mut keys = Self::keys(&table);
        if !self.method.method.has_rank() {
            let own = self.method.method.fields();
            keys.retain(|key| match key.name.strip_prefix("method.") {
                Some(name) => {
                    ["name", "train_also"].contains(&name)
                        || own.iter().any(|(own, _)| *own == name)
                }
                None => true,
            });
        }
        commented(&table, &keys)
    }

    /// The keys under any method.
    pub(crate) fn every_key() -> impl Iterator<Item = Key> {
        let methods = Method::KEYS
            .iter()
            .filter_map(|key| key.parse::<Method>().ok());
        Self::outside_method()
            .into_iter()
            .chain(methods.flat_map(|method| MethodTable::keys(&method)))
    }

    fn outside_method() -> Vec<Key> {
        [
            fields::<Self>(""),
            fields::<ModelSettings>("model."),
            fields::<TaskSettings>("task."),
            fields::<TextColumns>("task.columns."),
            fields::<RandomCrop>("task.random_crop."),
            fields::<OptimizerSettings>("optimizer."),
            fields::<ScheduleSettings>("schedule."),
            fields::<EvaluationSettings>("evaluation."),
        ]
        .concat()
    }

    /// The configuration as TOML: what a run's folder keeps.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("a configuration of numbers and names is TOML")
    }

    /// How many of a run's `of` steps have a learning rate of 0: they train nothing.
    fn still_steps(&self, of: u64) -> u64 {
        if self.optimizer.learning_rate == 0.0 {
            return of;
        }
        let still = |number: &u64| self.schedule.rate(*number, of) == 0.0;
        (0..of).filter(still).count() as u64
    }

    /// What to say of a run of `of` steps that trains nothing, if that is one.
    pub fn said_of_stillness(&self, of: u64) -> Option<String> {
        if of == 0 || self.still_steps(of) < of {
            return None;
        }
        let why = match self.optimizer.learning_rate == 0.0 {
            true => "optimizer.learning_rate is 0".to_owned(),
            false => format!(
                "the warm-up (schedule.warmup_ratio = {}) begins at 0 and the run ends in its first \
                 step: set schedule.warmup_ratio=0, or train for more steps",
                self.schedule.warmup_ratio
            ),
        };
        Some(format!(
            "nothing is trained: the learning rate is 0 in {of} of {of} steps, as {why}"
        ))
    }

    /// Sets R to that of the adapter that the run begins with, if there is one; AdaLoRA's is its
    /// budget and stays.
    ///
    /// # Errors
    /// [`Error::Analysis`] if there is no adapter that could train on.
    pub fn with_adapters_rank(mut self) -> Result<Self, Error> {
        if let Some(path) = &self.model.adapter
            && !matches!(self.method.method, Method::AdaLora(_))
        {
            self.method.common.rank = Beginning::read(path)?.rank();
        }
        Ok(self)
    }

    /// Checks every setting that does not depend on the model.
    ///
    /// # Errors
    /// [`Error::Setting`] naming the first one out of its range.
    pub fn check(&self, origin: &str) -> Result<(), Error> {
        let wrong = |key: &str, expected: String, found: String| Error::Setting {
            origin: origin.to_owned(),
            key: key.to_owned(),
            expected,
            found,
        };
        let (o, s) = (&self.optimizer, &self.schedule);
        for (key, value, low, high) in [
            ("optimizer.learning_rate", o.learning_rate, 0.0, f64::MAX),
            ("optimizer.beta1", o.beta1, 0.0, 1.0),
            ("optimizer.beta2", o.beta2, 0.0, 1.0),
            ("optimizer.epsilon", o.epsilon, 0.0, f64::MAX),
            ("optimizer.momentum", o.momentum, 0.0, 1.0),
            ("optimizer.weight_decay", o.weight_decay, 0.0, f64::MAX),
            ("optimizer.clip_norm", o.clip_norm, 0.0, f64::MAX),
            (
                "schedule.warmup_ratio",
                s.warmup_ratio,
                0.0,
                1.0 + f64::EPSILON,
            ),
            ("method.dropout", self.method.common.dropout, 0.0, 1.0),
        ] {
            if !(value.is_finite() && value >= low && value < high) {
                let expected = crate::method::between(low, high);
                return Err(wrong(key, expected, value.to_string()));
            }
        }
        for (key, value) in [
            ("schedule.epochs", s.epochs),
            ("schedule.batch_size", s.batch_size),
            ("schedule.accumulation", s.accumulation),
            ("schedule.checkpoint_every", s.checkpoint_every),
            ("evaluation.batch_size", self.evaluation.batch_size),
            ("task.max_length", self.task.max_length),
        ] {
            if value == 0 {
                return Err(wrong(key, "at least 1".to_owned(), value.to_string()));
            }
        }
        let task = &self.task;
        match task.name.as_str() {
            "squad" if task.stride >= task.max_length => {
                let expected = format!("below task.max_length, {}", task.max_length);
                return Err(wrong("task.stride", expected, task.stride.to_string()));
            }
            "text" => {
                let columns = &task.columns;
                let pair = columns.text_pair.as_ref();
                for (key, column, others) in [
                    ("label", Some(&columns.label), [Some(&columns.text), pair]),
                    ("text_pair", pair, [Some(&columns.text), None]),
                ] {
                    if let Some(column) = column.filter(|column| others.contains(&Some(*column))) {
                        let key = format!("task.columns.{key}");
                        let expected = "a column that has no other role".to_owned();
                        return Err(wrong(&key, expected, format!("{column:?}")));
                    }
                }
            }
            "lm" if task.max_length < 2 => {
                let expected = "at least 2, as every token is predicted from those before it";
                return Err(wrong(
                    "task.max_length",
                    expected.to_owned(),
                    "1".to_owned(),
                ));
            }
            _ => {}
        }
        if let Some(RandomCrop { scale, ratio }) = task.random_crop {
            for (key, [low, high], most, kind) in [
                ("task.random_crop.scale", scale, 1.0, "shares of an area"),
                ("task.random_crop.ratio", ratio, f64::MAX, "shapes"),
            ] {
                if !(low > 0.0 && low <= high && high <= most) {
                    let expected = format!("two {kind}, above 0 and in order");
                    return Err(wrong(key, expected, format!("{low}, {high}")));
                }
            }
        }
        let on_gpu = self.device != DeviceName::Cpu;
        match self.precision {
            TunePrecision::Bf16 if !on_gpu => {
                let expected = "f32 or f64 on the CPU (bf16 is for a GPU)".to_owned();
                Err(wrong("precision", expected, "bf16".to_owned()))
            }
            TunePrecision::F64 if on_gpu => {
                let expected = "f32 or bf16 on a GPU".to_owned();
                Err(wrong("precision", expected, "f64".to_owned()))
            }
            _ => Ok(()),
        }
    }
}

impl Configuration for TuneConfig {
    fn keys(given: &toml::Table) -> Vec<Key> {
        let name = given.get("method").and_then(|method| method.get("name"));
        let method = name.and_then(|name| name.as_str()?.parse().ok());
        let method = method.unwrap_or(MethodTable::default().method);
        [Self::outside_method(), MethodTable::keys(&method)].concat()
    }

    fn elsewhere(key: &str) -> Option<String> {
        if let Some(own) = key.strip_prefix("method.")
            && let Some(said) = Method::with_setting(own)
        {
            return Some(said);
        }
        let is_of_heads = RunConfig::keys(&toml::Table::new())
            .iter()
            .any(|known| known.name == key);
        is_of_heads
            .then(|| "it is one of heads over fixed features, which have no model".to_owned())
    }
}

impl ScheduleSettings {
    /// Examples of a step.
    pub(crate) fn examples(&self) -> usize {
        self.batch_size * self.accumulation
    }

    /// The learning rate of step `number` (from 0) of `of`, as a share of the highest.
    pub(crate) fn rate(&self, number: u64, of: u64) -> f64 {
        let warmup = (self.warmup_ratio * of as f64).ceil();
        let (at, of) = (number as f64, of as f64);
        if at < warmup {
            return at / warmup;
        }
        let done = (at - warmup) / (of - warmup).max(1.0);
        match self.shape {
            Shape::Linear => (1.0 - done).max(0.0),
            Shape::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * done).cos()),
            Shape::Constant => 1.0,
        }
    }
}
