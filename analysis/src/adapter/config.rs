//! PEFT's `adapter_config.json`: what of it decides the update's scale and orientation.

use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::Error;

/// Larger than any real configuration by three orders of magnitude.
const LONGEST_CONFIG: u64 = 16_000_000;

/// Initialisations that take the adapter's first value out of the base weight, so that B A alone is
/// not what training changed (PiSSA, OLoRA, CorDA, LoftQ, LoRA-GA).
const CHANGED_BASES: [&str; 5] = ["pissa", "olora", "corda", "loftq", "lora_ga"];

/// The fields that matter here; PEFT adds others with every release.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct AdapterConfig {
    pub peft_type: Option<String>,
    pub base_model_name_or_path: Option<String>,
    pub r: Option<Value>,
    pub lora_alpha: Option<f64>,
    pub use_rslora: Option<bool>,
    pub use_dora: Option<bool>,
    pub use_qalora: Option<bool>,
    pub use_bdlora: Option<Value>,
    pub fan_in_fan_out: Option<bool>,
    pub init_lora_weights: Option<Value>,
    pub rank_pattern: Option<Map<String, Value>>,
    pub alpha_pattern: Option<Map<String, Value>>,
    pub target_parameters: Option<Vec<String>>,
}

/// What a `rank_pattern` or `alpha_pattern` says of a module.
#[derive(Debug, PartialEq)]
pub(crate) enum Match<'a> {
    /// No key fits; the configuration's general value holds.
    General,
    /// The value of the first key that fits.
    Special(&'a Value),
    /// Whether this key fits cannot be said: it is a regular expression.
    Unread(&'a str),
}

impl AdapterConfig {
    /// Reads the file; `None` if there is none.
    ///
    /// # Errors
    /// [`Error::File`] if it cannot be read or is not an object with fields of the right types.
    pub fn read(path: &Path) -> Result<Option<Self>, Error> {
        let size = match std::fs::metadata(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::io(path, "examine")(error)),
            Ok(metadata) => metadata.len(),
        };
        if size > LONGEST_CONFIG {
            let expected = format!("at most {LONGEST_CONFIG} bytes");
            return Err(Error::format(path, "file", expected, format!("{size}")));
        }
        let text = std::fs::read(path).map_err(Error::io(path, "read"))?;
        Self::parse(path, &text).map(Some)
    }

    /// Takes the text of the file at `path` apart.
    ///
    /// # Errors
    /// [`Error::File`] if it is not an object with fields of the right types.
    pub fn parse(path: &Path, text: &[u8]) -> Result<Self, Error> {
        // By way of a map: a list would pass for a structure.
        serde_json::from_slice::<Map<String, Value>>(text)
            .and_then(|fields| serde_json::from_value(Value::Object(fields)))
            .map_err(|error| {
                let expected = "PEFT's adapter configuration";
                Error::format(path, "file", expected, error.to_string())
            })
    }

    /// α of a module: its own by `alpha_pattern`, or the general one.
    pub fn alpha(&self, module: &str) -> Result<Option<f64>, String> {
        match first_match(self.alpha_pattern.as_ref(), module) {
            Match::General => Ok(self.lora_alpha),
            Match::Special(value) => match value.as_f64() {
                Some(alpha) => Ok(Some(alpha)),
                None => Err(format!("alpha_pattern: expected a number, found {value}")),
            },
            Match::Unread(key) => Err(format!(
                "alpha_pattern: {key:?} is a regular expression, which is not read, so the scale is \
                 unknown"
            )),
        }
    }

    /// R of a module as configured, if that can be said.
    pub fn rank(&self, module: &str) -> Option<usize> {
        let value = match first_match(self.rank_pattern.as_ref(), module) {
            Match::General => self.r.as_ref()?,
            Match::Special(value) => value,
            Match::Unread(_) => return None,
        };
        usize::try_from(value.as_u64()?).ok()
    }

    /// The first key of `rank_pattern` that is a regular expression.
    pub fn unread_rank_pattern(&self) -> Option<&str> {
        let mut keys = self
            .rank_pattern
            .iter()
            .flat_map(Map::keys)
            .map(String::as_str);
        keys.find(|key| !is_literal(key))
    }

    /// The initialisation's name, if it changed the base weight.
    pub fn changed_base(&self) -> Option<&str> {
        let name = self.init_lora_weights.as_ref()?.as_str()?;
        CHANGED_BASES
            .iter()
            .any(|known| name.starts_with(known))
            .then_some(name)
    }

    /// A variant of LoRA by which the update is not s B A, if one is switched on.
    pub fn variant(&self) -> Option<&'static str> {
        let is_set = |value: &Value| !matches!(value, Value::Null | Value::Bool(false));
        [
            (self.use_dora == Some(true), "DoRA"),
            (self.use_qalora == Some(true), "QALoRA"),
            (self.use_bdlora.as_ref().is_some_and(is_set), "BD-LoRA"),
        ]
        .into_iter()
        .find_map(|(is_on, name)| is_on.then_some(name))
    }

    /// Whether a module's factors stand for the several matrices of a parameter (experts).
    pub fn targets_parameter_of(&self, module: &str) -> bool {
        let module = module.trim_end_matches(".base_layer");
        let parents = self.target_parameters.iter().flatten();
        parents
            .filter_map(|name| name.rsplit_once('.'))
            .any(|(parent, _)| ends_in(module, parent))
    }
}

/// PEFT's rule: the first key with `re.match(r"(.*\.)?(KEY)$", module)`. Keys with no sign of a
/// regular expression but the dot are taken literally.
fn first_match<'a>(pattern: Option<&'a Map<String, Value>>, module: &str) -> Match<'a> {
    for (key, value) in pattern.into_iter().flatten() {
        if !is_literal(key) {
            return Match::Unread(key);
        }
        if ends_in(module, key) {
            return Match::Special(value);
        }
    }
    Match::General
}

fn is_literal(key: &str) -> bool {
    !key.contains([
        '^', '$', '*', '+', '?', '(', ')', '[', ']', '{', '}', '|', '\\',
    ])
}

/// Whether `end` is the last part of a dotted name, or all of it.
fn ends_in(module: &str, end: &str) -> bool {
    module
        .strip_suffix(end)
        .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(json: Value) -> AdapterConfig {
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn the_first_key_that_fits_the_end_wins() {
        let config = config(serde_json::json!({
            "r": 8, "lora_alpha": 16,
            "alpha_pattern": { "layers.1.q": 3, "q": 5, "k_proj": 7 },
            "rank_pattern": { "q": 4 },
        }));
        assert_eq!(config.alpha("model.layers.1.q"), Ok(Some(3.0)));
        assert_eq!(config.alpha("model.layers.11.q"), Ok(Some(5.0)));
        assert_eq!(config.alpha("q"), Ok(Some(5.0)));
        assert_eq!(config.alpha("model.qq"), Ok(Some(16.0)));
        assert_eq!((config.rank("a.q"), config.rank("a.v")), (Some(4), Some(8)));
    }

    #[test]
    fn a_regular_expression_is_refused_only_where_it_may_decide() {
        let config = config(serde_json::json!({
            "lora_alpha": 16, "alpha_pattern": { "q": 5, "layers\\.[01]\\.k": 7 },
            "rank_pattern": { "(q|k)": 2 },
        }));
        assert_eq!(config.alpha("layers.0.q"), Ok(Some(5.0)));
        assert!(
            config
                .alpha("layers.0.k")
                .unwrap_err()
                .contains("regular expression")
        );
        assert_eq!(
            (config.rank("q"), config.unread_rank_pattern()),
            (None, Some("(q|k)"))
        );
    }

    #[test]
    fn changed_bases_and_expert_parameters_are_seen() {
        let config = config(serde_json::json!({
            "init_lora_weights": "pissa_niter_16",
            "target_parameters": ["mlp.experts.gate_up_proj"],
        }));
        assert_eq!(config.changed_base(), Some("pissa_niter_16"));
        assert!(config.targets_parameter_of("model.layers.0.mlp.experts.base_layer"));
        assert!(!config.targets_parameter_of("model.layers.0.mlp.gate"));
    }
}
