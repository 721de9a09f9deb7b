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
pub(crate) mod mask;
mod olora;
pub(crate) mod orthogonality;
mod pissa;
mod prilora;
pub(crate) mod product;
mod r_lora;
mod residual;
mod resolved;
mod rm_lora;
mod rs_lora;
mod rule;
mod sora;
mod targets;
#[cfg(test)]
mod tests;
mod vera;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use candle_core::{DType, Tensor};
use rankwise_data::Documented;
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::engine::ParameterId;
use crate::module::{Modules, Value};
use crate::settings::{Configuration, Fault, Key, check_keys, documented, fields};
use crate::tuning::TuneConfig;

pub(crate) use rule::{Level, Made, Peft, Planned, Rule, Site, Step};
use rule::{kept, unknown_state};
pub use targets::Targets;
pub(crate) use targets::adapted;

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

            /// Its own settings' names and what they are.
            pub(crate) fn fields(&self) -> &'static [(&'static str, &'static str)] {
                match self { $(Self::$variant(_) => <$settings as Documented>::FIELDS,)* }
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
    let nearest = crate::settings::nearest(key, Method::KEYS);
    format!(
        "unknown method {key:?}{nearest}; known: {}",
        Method::KEYS.join(", ")
    )
}

impl Method {
    /// Which methods have a setting of their own called `key`, if any does.
    pub(crate) fn with_setting(key: &str) -> Option<String> {
        let has = |name: &&&str| {
            let method = name.parse::<Self>();
            method.is_ok_and(|method| method.fields().iter().any(|(own, _)| *own == key))
        };
        let names: Vec<&str> = Self::KEYS.iter().filter(has).copied().collect();
        (!names.is_empty()).then(|| format!("{key} is a setting of {}", names.join(", ")))
    }

    /// Whether its updates have an R; others train the model's own tensors.
    pub fn has_rank(&self) -> bool {
        !matches!(self, Self::Full(_) | Self::BitFit(_))
    }
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

rankwise_data::documented! {
/// Settings that low-rank methods share.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Common {
    /// R: the directions of an update.
    pub rank: usize,
    /// α: an update's scale is α/R; by default R, so that LoRA's scale is 1 as in the paper's Eq. 4.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alpha: Option<f64>,
    /// Probability of dropout on the updates' inputs.
    pub dropout: f64,
    /// Modules that get an update: ends of names, or regular expressions for whole names. Empty:
    /// every linear layer of the blocks.
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

impl MethodTable {
    /// The keys of a method, the common ones among them.
    pub(crate) fn keys(method: &Method) -> Vec<Key> {
        let name = Key {
            name: "method.name".to_owned(),
            about: "The method.",
        };
        let own = documented("method.", method.fields());
        [vec![name], fields::<Common>("method."), own].concat()
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
        let method: Method = name.parse()?;
        let given: Vec<String> = table.keys().map(|key| format!("method.{key}")).collect();
        let given = given.iter().map(String::as_str).zip(table.values());
        check_keys(given, &Self::keys(&method), TuneConfig::elsewhere).map_err(
            |Fault {
                 key,
                 expected,
                 found,
             }| format!("{key}: expected {expected}, found {found}"),
        )?;
        let is_shared = |key: &str| Common::FIELDS.iter().any(|(name, _)| *name == key);
        let (common, own): (toml::Table, toml::Table) =
            table.into_iter().partition(|(key, _)| is_shared(key));
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
        if !table.method.has_rank() {
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
        Err(setting(key, between(low, high), value))
    }
}

/// `at least …`, and below what, if anything.
pub(crate) fn between(low: f64, high: f64) -> String {
    match high {
        f64::MAX => format!("a finite number of at least {low}"),
        // An upper bound that is allowed itself.
        _ if high > 1.0 && high - 1.0 < 1e-9 => format!("at least {low} and at most 1"),
        _ => format!("at least {low} and below {high}"),
    }
}

/// The rows that move of every parameter that a mask holds back.
pub(crate) fn moving(modules: &Modules) -> BTreeMap<ParameterId, Vec<u32>> {
    let mut moving = BTreeMap::new();
    for adapter in modules.adapters() {
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
    modules
        .adapters()
        .flat_map(|adapter| [Some(&adapter.a), Some(&adapter.b), adapter.gate.as_ref()])
        .flatten()
        .filter_map(Value::parameter)
        .collect()
}

/// A parameter as float64 numbers on the host.
pub(crate) fn numbers(tensor: &Tensor) -> Result<Vec<f64>, Error> {
    Ok(tensor.flatten_all()?.to_dtype(DType::F64)?.to_vec1()?)
}
