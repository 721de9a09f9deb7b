//! Methods of fine-tuning, each in its own file with its rule and the rule's source above the code.
//!
//! A method attaches parameters to modules, and may choose directions before a step, add the
//! gradient of a term of its own, and settle things after the optimiser's step. It knows no model;
//! models know no method. A new one is a file here and a line in `methods!`.

mod adalora;
mod allocation;
mod bilora;
mod bitfit;
mod delta_lora;
mod dora;
mod dylora;
mod full;
mod gm_lora;
mod lora;
mod lora_plus;
mod mask;
mod olora;
mod orthogonality;
mod pissa;
mod prilora;
mod product;
mod r_lora;
mod residual;
mod rm_lora;
mod rs_lora;
mod sora;
mod targets;
#[cfg(test)]
mod tests;
mod vera;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use candle_core::{DType, Tensor};
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::engine::parameters::{Gathering, Parameter, Parameters, Treatment};
use crate::engine::{Gradients, ParameterId};
use crate::module::{Declared, Kind, Module, ModuleId, Modules, Value};

pub use targets::Targets;
pub(crate) use targets::adapted;

/// Where a run stands: steps from 0.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Step {
    /// The step that is about to be made, or has just been made.
    pub number: u64,
    /// All steps of the run.
    pub of: u64,
    /// The epoch that it belongs to, from 0.
    pub epoch: u64,
    /// The run's seed.
    pub seed: u64,
}

impl Step {
    /// How much of the run is done, from 0 to 1.
    pub fn share(self) -> f64 {
        self.number as f64 / self.of.max(1) as f64
    }
}

/// A step that the optimiser has just made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Made<'a> {
    pub step: Step,
    /// The run's learning rate in it, and at its peak.
    pub rate: f64,
    pub peak: f64,
    /// What the gradients were multiplied by first (clipping).
    pub factor: f64,
    /// As they were before.
    pub gradients: &'a Gradients,
}

impl Made<'_> {
    /// The learning rate of a parameter of that treatment.
    fn rate_of(&self, treatment: &Treatment) -> f64 {
        match treatment.peak {
            None => self.rate * treatment.rate,
            Some(own) if self.peak > 0.0 => own * (self.rate / self.peak),
            Some(_) => 0.0,
        }
    }
}

/// Which of two problems a step works on (BiLoRA).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Level {
    /// Its batches come from the first part of the training data.
    First,
    /// Its batches come from the second part.
    Second,
}

/// A module that is about to get an update.
#[derive(Debug)]
pub(crate) struct Planned<'a> {
    pub module: &'a Module,
    /// R: the setting's, or what the rule makes of it.
    pub rank: usize,
    /// Whether R was set for this module by name.
    pub is_set: bool,
}

/// A module that gets an update, and where its parameters go.
pub(crate) struct Site<'a> {
    pub module: &'a mut Module,
    pub gathering: &'a mut Gathering,
    /// R of this module.
    pub rank: usize,
    /// α of this module.
    pub alpha: f64,
    /// Probability of dropout on the update's input.
    pub dropout: f64,
    /// The run's seed.
    pub seed: u64,
}

/// A method's rule. What is left out does nothing.
pub(crate) trait Rule: fmt::Debug + Send + Sync {
    /// Whether modules get an update; otherwise [`Rule::choose`] says which of their own tensors
    /// train.
    fn adapts(&self) -> bool {
        true
    }

    /// For methods that train the model's own tensors.
    ///
    /// # Errors
    /// [`Error::Setting`] if nothing would train.
    fn choose(&self, _modules: &mut Modules, _gathering: &mut Gathering) -> Result<(), Error> {
        Ok(())
    }

    /// Sees all modules that are to get an update before the first one does, in the order of
    /// [`Rule::attach`]; may change their ranks.
    ///
    /// # Errors
    /// [`Error::Setting`] if they do not fit the method.
    fn prepare(&mut self, _plan: &mut [Planned<'_>]) -> Result<(), Error> {
        Ok(())
    }

    /// The largest rank that the method can give a module: the smaller side of its map, and for an
    /// embedding any.
    fn largest_rank(&self, declared: &Declared) -> usize {
        match declared.kind {
            Kind::Embedding => usize::MAX,
            _ => declared.inputs().min(declared.outputs()),
        }
    }

    /// Gives one module its update.
    ///
    /// # Errors
    /// [`Error::Setting`] if the module is not one that the method can adapt.
    fn attach(&mut self, _site: Site<'_>) -> Result<(), Error> {
        Ok(())
    }

    /// How the optimiser treats a parameter, the head's among them.
    fn treatment(&self, parameter: &Parameter) -> Treatment {
        parameter.treatment
    }

    /// Whether updates move direction by direction, so that the optimiser has to count the steps of
    /// every one ([`directional`] says of which parameters).
    fn by_rows(&self) -> bool {
        false
    }

    /// The share of the training examples that is kept for [`Level::Second`]; `None`: no split.
    fn split(&self) -> Option<f64> {
        None
    }

    /// Which part of the training data a step takes its batch from.
    fn level(&self, _step: Step) -> Level {
        Level::First
    }

    /// Before a step: chooses directions.
    fn begin(
        &mut self,
        _step: Step,
        _modules: &mut Modules,
        _parameters: &Parameters,
    ) -> Result<(), Error> {
        Ok(())
    }

    /// After the backward pass and before clipping: adds the gradient of the method's own term, and
    /// forgets those of parameters that stand still in this step; returns the term's value.
    fn regularise(
        &self,
        _step: Step,
        _modules: &Modules,
        _parameters: &Parameters,
        _gradients: &mut Gradients,
    ) -> Result<f64, Error> {
        Ok(0.0)
    }

    /// After the optimiser's step; leaves the modules as they are to be evaluated and saved.
    fn settle(
        &mut self,
        _made: Made<'_>,
        _modules: &mut Modules,
        _parameters: &Parameters,
    ) -> Result<(), Error> {
        Ok(())
    }

    /// What a checkpoint keeps of the method itself, beside parameters and moments.
    fn state(&self) -> Vec<(String, Tensor)> {
        Vec::new()
    }

    /// Goes back to a kept state; `parameters` have gone back to theirs already.
    ///
    /// # Errors
    /// If it is not one of this method.
    fn restore(
        &mut self,
        state: &BTreeMap<String, Tensor>,
        _modules: &mut Modules,
        _parameters: &Parameters,
    ) -> Result<(), Error> {
        match state.keys().next() {
            None => Ok(()),
            Some(name) => Err(unknown_state(name)),
        }
    }

    /// Factors (A: R × in, Bᵀ: R × out) whose product, times the adapter's scale, was taken off the
    /// module's weight at the beginning.
    fn taken_off(&self, _module: ModuleId) -> Option<&(Tensor, Tensor)> {
        None
    }

    /// What PEFT's `adapter_config.json` calls the method: `peft_type` and the keys that differ
    /// from plain LoRA's.
    fn peft(&self) -> Peft {
        Peft::default()
    }
}

/// A method in the words of PEFT.
#[derive(Debug, Clone, Default)]
pub(crate) struct Peft {
    /// `None`: LoRA.
    pub kind: Option<&'static str>,
    /// Further keys of the configuration.
    pub keys: Vec<(&'static str, serde_json::Value)>,
}

impl Peft {
    fn with(mut self, key: &'static str, value: impl Into<serde_json::Value>) -> Self {
        self.keys.push((key, value.into()));
        self
    }
}

/// Declares the methods: name in configurations, name in tables, the settings' type.
macro_rules! methods {
    ($($variant:ident, $key:literal, $title:literal, $settings:ty;)*) => {
        /// A method of fine-tuning with its settings.
        #[derive(Debug, Clone, PartialEq)]
        pub enum Method {
            $(#[doc = $title] $variant($settings),)*
        }

        impl Method {
            /// Names in configurations and on the command line, in the order of tables.
            pub const KEYS: [&'static str; [$($key),*].len()] = [$($key),*];

            /// The method's name, such as `rm-lora`.
            pub fn key(&self) -> &'static str {
                match self { $(Self::$variant(_) => $key,)* }
            }

            /// The method's name in tables and legends, such as `RM-LoRA`.
            pub fn title(&self) -> &'static str {
                match self { $(Self::$variant(_) => $title,)* }
            }

            /// The method of that name with settings of its own, everything else left out.
            fn read(key: &str, own: toml::Table) -> Result<Self, String> {
                match key {
                    $($key => own
                        .try_into::<$settings>()
                        .map(Self::$variant)
                        .map_err(|error| error.message().to_owned()),)*
                    _ => Err(unknown(key)),
                }
            }

            /// Its own settings, every one written out.
            pub(crate) fn settings(&self) -> toml::Table {
                match self {
                    $(Self::$variant(settings) => toml::Table::try_from(settings)
                        .expect("settings of numbers and names are TOML"),)*
                }
            }

            /// The rule for a run, after its settings were checked.
            ///
            /// # Errors
            /// [`Error::Setting`] naming a setting out of its range.
            pub(crate) fn rule(&self, common: &Common) -> Result<Box<dyn Rule>, Error> {
                match self { $(Self::$variant(settings) => settings.rule(common),)* }
            }
        }
    };
}

methods! {
    Full, "full", "Full fine-tuning", full::Settings;
    BitFit, "bitfit", "BitFit", bitfit::Settings;
    Lora, "lora", "LoRA", lora::Settings;
    RsLora, "rs-lora", "rsLoRA", rs_lora::Settings;
    LoraPlus, "lora-plus", "LoRA+", lora_plus::Settings;
    Dora, "dora", "DoRA", dora::Settings;
    Pissa, "pissa", "PiSSA", pissa::Settings;
    Olora, "olora", "OLoRA", olora::Settings;
    Vera, "vera", "VeRA", vera::Settings;
    AdaLora, "adalora", "AdaLoRA", adalora::Settings;
    Sora, "sora", "SoRA", sora::Settings;
    DyLora, "dylora", "DyLoRA", dylora::Settings;
    PriLora, "prilora", "PRILoRA", prilora::Settings;
    DeltaLora, "delta-lora", "Delta-LoRA", delta_lora::Settings;
    BiLora, "bilora", "BiLoRA", bilora::Settings;
    RLora, "r-lora", "R-LoRA", r_lora::Settings;
    GmLora, "gm-lora", "GM-LoRA", gm_lora::Settings;
    RmLora, "rm-lora", "RM-LoRA", rm_lora::Settings;
}

fn unknown(key: &str) -> String {
    let nearest = crate::config::nearest(key, Method::KEYS);
    format!(
        "unknown method {key:?}{nearest}; known: {}",
        Method::KEYS.join(", ")
    )
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.title())
    }
}

impl FromStr for Method {
    type Err = String;

    /// The method of that name with its default settings.
    fn from_str(text: &str) -> Result<Self, String> {
        Self::read(text, toml::Table::new())
    }
}

/// Settings that low-rank methods share.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Common {
    /// R.
    pub rank: usize,
    /// α; `None`: R, so that LoRA's scale is 1 as in the paper's Eq. 4.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alpha: Option<f64>,
    /// Probability of dropout on the updates' inputs.
    pub dropout: f64,
    /// Modules that get an update: ends of names, or regular expressions for whole names. Empty:
    /// every linear layer of the pretrained part.
    pub targets: Vec<String>,
    /// R of single modules, by name or regular expression.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub rank_pattern: BTreeMap<String, usize>,
    /// α of single modules, by name or regular expression.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub alpha_pattern: BTreeMap<String, f64>,
    /// Further modules that train as they are, beside the task's head.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub train_also: Vec<String>,
}

impl Default for Common {
    fn default() -> Self {
        Self {
            rank: 8,
            alpha: None,
            dropout: 0.0,
            targets: Vec::new(),
            rank_pattern: BTreeMap::new(),
            alpha_pattern: BTreeMap::new(),
            train_also: Vec::new(),
        }
    }
}

impl Common {
    /// α of a module of rank `rank`.
    pub(crate) fn alpha_of(&self, rank: usize) -> f64 {
        self.alpha.unwrap_or(rank as f64)
    }
}

/// The `[method]` part of a configuration: a name, the common settings, the method's own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "toml::Table", into = "toml::Table")]
pub struct MethodTable {
    /// Which method, with its own settings.
    pub method: Method,
    /// What low-rank methods share.
    pub common: Common,
}

impl Default for MethodTable {
    fn default() -> Self {
        Self {
            method: Method::Lora(lora::Settings::default()),
            common: Common::default(),
        }
    }
}

impl TryFrom<toml::Table> for MethodTable {
    type Error = String;

    fn try_from(mut table: toml::Table) -> Result<Self, String> {
        let name = match table.remove("name") {
            None => "lora".to_owned(),
            Some(toml::Value::String(name)) => name,
            Some(other) => return Err(format!("name: expected a method's name, found {other}")),
        };
        let shared = toml::Table::try_from(Common {
            alpha: Some(1.0),
            rank_pattern: BTreeMap::from([(String::new(), 1)]),
            alpha_pattern: BTreeMap::from([(String::new(), 1.0)]),
            train_also: vec![String::new()],
            ..Common::default()
        });
        let shared = shared.expect("settings of numbers and names are TOML");
        let (common, own): (toml::Table, toml::Table) = table
            .into_iter()
            .partition(|(key, _)| shared.contains_key(key));
        let common = common
            .try_into()
            .map_err(|error: toml::de::Error| error.message().to_owned())?;
        Ok(Self {
            method: Method::read(&name, own)?,
            common,
        })
    }
}

impl From<MethodTable> for toml::Table {
    fn from(table: MethodTable) -> Self {
        let mut result = Self::new();
        result.insert("name".to_owned(), table.method.key().into());
        let mut common =
            Self::try_from(table.common).expect("settings of numbers and names are TOML");
        if matches!(table.method, Method::Full(_) | Method::BitFit(_)) {
            // Nothing has a rank there.
            common.retain(|key, _| key == "train_also");
        }
        result.extend(common);
        result.extend(table.method.settings());
        result
    }
}

/// An error about a setting of a method.
pub(crate) fn setting(key: &str, expected: impl Into<String>, found: impl fmt::Display) -> Error {
    Error::Setting {
        origin: "configuration".to_owned(),
        key: format!("method.{key}"),
        expected: expected.into(),
        found: found.to_string(),
    }
}

/// Checks that `value` lies in `low..high`.
pub(crate) fn within(key: &str, value: f64, low: f64, high: f64) -> Result<(), Error> {
    if value.is_finite() && value >= low && value < high {
        Ok(())
    } else {
        Err(setting(
            key,
            format!("at least {low} and below {high}"),
            value,
        ))
    }
}

/// The rows that move of every parameter that a mask holds back.
pub(crate) fn moving(modules: &Modules) -> BTreeMap<ParameterId, Vec<u32>> {
    let mut moving = BTreeMap::new();
    for adapter in modules
        .0
        .iter()
        .filter_map(|module| module.adapter.as_ref())
    {
        let Some(rows) = adapter.moving.as_ref().filter(|_| !adapter.drifts) else {
            continue;
        };
        for value in [Some(&adapter.a), Some(&adapter.b), adapter.gate.as_ref()] {
            if let Some(id) = value.and_then(|value| value.parameter()) {
                moving.insert(id, rows.clone());
            }
        }
    }
    moving
}

/// The parameters whose rows (or numbers) are an update's directions.
pub(crate) fn directional(modules: &Modules) -> BTreeSet<ParameterId> {
    let adapters = modules
        .0
        .iter()
        .filter_map(|module| module.adapter.as_ref());
    adapters
        .flat_map(|adapter| [Some(&adapter.a), Some(&adapter.b), adapter.gate.as_ref()])
        .flatten()
        .filter_map(Value::parameter)
        .collect()
}

/// An error about a kept state.
fn unknown_state(name: &str) -> Error {
    let message = format!("checkpoint: the method keeps no state of this name, found {name}");
    candle_core::Error::msg(message).into()
}

/// A kept tensor by its name.
fn kept<'a>(state: &'a BTreeMap<String, Tensor>, name: &str) -> Result<&'a Tensor, Error> {
    state.get(name).ok_or_else(|| {
        candle_core::Error::msg(format!(
            "checkpoint: expected {name} of the method, found none"
        ))
        .into()
    })
}

/// A parameter as float64 numbers on the host.
pub(crate) fn numbers(tensor: &Tensor) -> Result<Vec<f64>, Error> {
    Ok(tensor.flatten_all()?.to_dtype(DType::F64)?.to_vec1()?)
}
