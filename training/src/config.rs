use serde::{Deserialize, Serialize};

use crate::settings::{Configuration, Given, Key, commented, fields};
use crate::{DeviceName, Error, MethodConfig, TuneConfig};

rankwise_data::documented! {
/// Everything that decides a run's numbers: what `config.toml` in a run folder holds.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RunConfig {
    /// The seed of every random stream of the run.
    pub seed: u64,
    /// Where tensors live.
    pub device: DeviceName,
    /// The type of the numbers.
    pub precision: Precision,
    /// What is learnt.
    pub task: TaskConfig,
    /// What is trained.
    pub method: MethodConfig,
    /// AdamW.
    pub optimizer: OptimizerConfig,
    /// How long, and in what portions.
    pub schedule: ScheduleConfig,
}
}

/// The type of the numbers that are trained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// float32.
    #[default]
    F32,
    /// float64: for checks of gradients, and for features that are the same bits everywhere.
    F64,
}

impl Precision {
    pub(crate) fn dtype(self) -> candle_core::DType {
        match self {
            Self::F32 => candle_core::DType::F32,
            Self::F64 => candle_core::DType::F64,
        }
    }
}

rankwise_data::documented! {
/// The `[task]` part of a configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TaskConfig {
    /// `banking77` for the embedded features, or the path of a features file.
    pub features: String,
    /// What test metrics are measured on.
    pub evaluate_on: EvaluateOn,
    /// How many of each class's last training rows are held out for `evaluate_on = "validation"`.
    pub validation_per_class: usize,
}
}

impl Default for TaskConfig {
    fn default() -> Self {
        Self {
            features: "banking77".to_owned(),
            evaluate_on: EvaluateOn::Test,
            validation_per_class: 8,
        }
    }
}

/// What the columns called “test” are measured on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EvaluateOn {
    /// The test split; training uses every training row.
    #[default]
    Test,
    /// Training rows held out from training: for choosing settings.
    Validation,
}

rankwise_data::documented! {
/// The `[optimizer]` part of a configuration: AdamW (Loshchilov & Hutter 2019).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OptimizerConfig {
    /// η, the learning rate.
    pub learning_rate: f64,
    /// β₁ of AdamW.
    pub beta1: f64,
    /// β₂ of AdamW.
    pub beta2: f64,
    /// ε of AdamW.
    pub epsilon: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
}
}

impl Default for OptimizerConfig {
    fn default() -> Self {
        Self {
            learning_rate: 1e-3,
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            weight_decay: 0.0,
        }
    }
}

rankwise_data::documented! {
/// The `[schedule]` part of a configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ScheduleConfig {
    /// How often the training rows are gone through.
    pub epochs: usize,
    /// Rows a step; an epoch's last step takes what is left.
    pub batch_size: usize,
    /// A killed run loses at most that many epochs; the numbers do not depend on it.
    pub checkpoint_every: usize,
}
}

impl Default for ScheduleConfig {
    fn default() -> Self {
        Self {
            epochs: 60,
            batch_size: 64,
            checkpoint_every: 20,
        }
    }
}

impl RunConfig {
    /// Reads TOML that states differences from the defaults; `origin` names it in errors.
    ///
    /// # Errors
    /// [`Error::Setting`] for an unknown key (with the nearest known one) or a wrong value.
    pub fn from_toml(text: &str, origin: &str) -> Result<Self, Error> {
        Given::from_toml(text, origin)?.read()
    }

    /// The configuration as TOML with a comment for every key: what `--dump-config` prints.
    pub fn to_commented_toml(&self) -> String {
        let table = toml::Table::try_from(self).expect("numbers and names are TOML");
        commented(&table, &Self::keys(&table))
    }

    /// The configuration as TOML: what a run folder keeps.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("a configuration of numbers and names is TOML")
    }

    /// Checks every setting for a layer of `inputs` × `outputs` and writes out the defaults that
    /// depend on others.
    ///
    /// # Errors
    /// [`Error::Setting`] naming the first key out of its range.
    pub fn resolved(&self, origin: &str, inputs: usize, outputs: usize) -> Result<Self, Error> {
        let real = |key: &str, value: f64, low: f64, high: f64| {
            if value.is_finite() && value >= low && value < high {
                return Ok(());
            }
            Err(Error::Setting {
                origin: origin.to_owned(),
                key: format!("optimizer.{key}"),
                expected: format!("at least {low} and below {high}"),
                found: value.to_string(),
            })
        };
        let optimizer = &self.optimizer;
        real("learning_rate", optimizer.learning_rate, 0.0, f64::MAX)?;
        real("beta1", optimizer.beta1, 0.0, 1.0)?;
        real("beta2", optimizer.beta2, 0.0, 1.0)?;
        real("epsilon", optimizer.epsilon, 0.0, f64::MAX)?;
        real("weight_decay", optimizer.weight_decay, 0.0, f64::MAX)?;
        for (key, value) in [
            ("epochs", self.schedule.epochs),
            ("batch_size", self.schedule.batch_size),
            ("checkpoint_every", self.schedule.checkpoint_every),
        ] {
            if value == 0 {
                return Err(Error::Setting {
                    origin: origin.to_owned(),
                    key: format!("schedule.{key}"),
                    expected: "at least 1".to_owned(),
                    found: value.to_string(),
                });
            }
        }
        Ok(Self {
            method: self.method.resolved(origin, inputs, outputs)?,
            ..self.clone()
        })
    }
}

impl Configuration for RunConfig {
    fn keys(_: &toml::Table) -> Vec<Key> {
        [
            fields::<Self>(""),
            fields::<TaskConfig>("task."),
            fields::<MethodConfig>("method."),
            fields::<OptimizerConfig>("optimizer."),
            fields::<ScheduleConfig>("schedule."),
        ]
        .concat()
    }

    fn elsewhere(key: &str) -> Option<String> {
        let is_of_transformers = TuneConfig::every_key().any(|known| known.name == key);
        is_of_transformers.then(|| {
            "it is one of fine-tuning a transformer, which needs --model DIR, or path under [model]"
                .to_owned()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MethodName;

    #[test]
    fn toml_states_differences_and_round_trips() {
        let text = "seed = 3\n[method]\nname = \"rm-lora\"\nrank = 16\n";
        let config = RunConfig::from_toml(text, "test").unwrap();
        assert_eq!(config.seed, 3);
        assert_eq!(config.method.name, MethodName::RmLora);
        assert_eq!(config.optimizer, OptimizerConfig::default());
        let resolved = config.resolved("test", 384, 77).unwrap();
        let again = RunConfig::from_toml(&resolved.to_toml(), "test").unwrap();
        assert_eq!(again, resolved);
        assert_eq!(again.resolved("test", 384, 77).unwrap(), resolved);
    }

    #[test]
    fn faults_name_the_key_and_the_nearest_known_one() {
        let error = |text: &str| {
            RunConfig::from_toml(text, "run.toml")
                .unwrap_err()
                .to_string()
        };
        let unknown = error("[optimizer]\nlearning_rte = 1.0\n");
        assert!(
            unknown.contains("run.toml:2: key optimizer.learning_rte"),
            "{unknown}"
        );
        assert!(
            unknown.contains("did you mean \"learning_rate\"?"),
            "{unknown}"
        );
        let method = error("[method]\nname = \"gm-lorra\"\n");
        assert!(method.contains("did you mean \"gm-lora\"?"), "{method}");
        let kind = error("seed = \"x\"\n");
        assert!(kind.contains("seed"), "{kind}");
        assert!(error("seed = ").contains("TOML"));
    }

    #[test]
    fn ranges_are_checked() {
        let check = |text: &str| {
            let config = RunConfig::from_toml(text, "test").unwrap();
            config.resolved("test", 384, 77).unwrap_err().to_string()
        };
        assert!(check("[optimizer]\nbeta2 = 1.0\n").contains("optimizer.beta2"));
        assert!(check("[optimizer]\nlearning_rate = nan\n").contains("optimizer.learning_rate"));
        assert!(check("[schedule]\nepochs = 0\n").contains("schedule.epochs"));
    }
}
