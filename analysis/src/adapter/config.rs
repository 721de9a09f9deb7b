//! PEFT's `adapter_config.json`: what of it decides the update's scale and orientation.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::path::Path;

use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use super::pattern::{Match, Pattern, bounded};
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
    /// AdaLoRA's R before pruning, by which it goes on dividing.
    pub init_r: Option<f64>,
    pub lora_alpha: Option<f64>,
    /// LoHa's and LoKr's α.
    pub alpha: Option<f64>,
    pub use_rslora: Option<bool>,
    pub use_dora: Option<bool>,
    pub use_qalora: Option<bool>,
    pub use_bdlora: Option<Value>,
    /// Which biases were trained beside the factors: none, all, or those of the adapted layers.
    pub bias: Option<Value>,
    /// aLoRA: the tokens from which on the update acts.
    pub alora_invocation_tokens: Option<Value>,
    /// Arrow: a router that mixes several adapters for every token.
    pub arrow_config: Option<Value>,
    /// Ranges of the base's layers, one after another: the layers that the adapter stands on.
    pub layer_replication: Option<Vec<(usize, usize)>>,
    /// What the model is for, in PEFT's words.
    pub task_type: Option<Value>,
    pub kasa_config: Option<Value>,
    pub fan_in_fan_out: Option<bool>,
    pub init_lora_weights: Option<Value>,
    #[serde(deserialize_with = "perhaps")]
    pub rank_pattern: Pattern,
    #[serde(deserialize_with = "perhaps")]
    pub alpha_pattern: Pattern,
    /// The ends of the modules' names, or one regular expression of whole names.
    pub target_modules: Option<Value>,
    pub target_parameters: Option<Vec<String>>,
    /// Unsloth: how B's columns are ordered among experts,
    #[serde(rename = "lora_B_layout")]
    pub lora_b_layout: Option<Value>,
    /// and the same for every parameter by itself.
    pub unsloth_fused_expert_lora: Option<Value>,
    pub auto_mapping: Option<Value>,
    /// The modules whose inputs (IA)³ scales, by name or as one regular expression.
    pub feedforward_modules: Option<Value>,
    /// Rows of the embedding that were trained: a list, or one for every embedding by name.
    pub trainable_token_indices: Option<Value>,
    /// The same, as the method for tokens alone calls it.
    pub token_indices: Option<Value>,
    /// Modules that were trained as a whole, by the ends of their names.
    pub modules_to_save: Option<Vec<String>>,
    /// Whether what is tied to a trained table was kept tied to it.
    pub ensure_weight_tying: Option<bool>,
    /// Of VeRA's random projections, where they are not in the file.
    pub projection_prng_key: Option<u64>,
    /// mlx-lm's settings; its scale multiplies B A as it is.
    pub lora_parameters: Option<MlxParameters>,
    /// mlx-lm: lora, dora or full.
    pub fine_tune_type: Option<String>,
}

/// The order of B's columns among experts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Columns {
    /// Column j is expert j mod E's: PEFT's own.
    ExpertFastest,
    /// Column j is expert ⌊j/R⌋'s.
    ExpertSlowest,
}

/// What mlx-lm keeps in its configuration of that name.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct MlxParameters {
    pub rank: Option<Value>,
    pub scale: Option<f64>,
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
        match self.alpha_pattern.first_match(module) {
            Match::General => Ok(self.lora_alpha.or(self.alpha)),
            Match::Special(value) => match value.as_f64() {
                Some(alpha) => Ok(Some(alpha)),
                None => Err(format!("alpha_pattern: expected a number, found {value}")),
            },
            Match::Unread(key) => Err(format!(
                "alpha_pattern: expected a regular expression that is understood here, found {key:?}, \
                 so the scale is unknown"
            )),
        }
    }

    /// R of a module as configured, if that can be said. AdaLoRA's pattern lists which of its
    /// directions were kept; before it prunes, R is `init_r`, and `r` means nothing.
    pub fn rank(&self, module: &str) -> Option<usize> {
        let value = match self.rank_pattern.first_match(module) {
            Match::General if self.peft_type.as_deref() == Some("ADALORA") => {
                return self.init_r.filter(|r| r.fract() == 0.0).map(|r| r as usize);
            }
            Match::General => self.r.as_ref()?,
            Match::Special(value) => value,
            Match::Unread(_) => return None,
        };
        match value {
            Value::Array(kept) => Some(kept.iter().filter(|&k| k.as_bool() == Some(true)).count()),
            _ => usize::try_from(value.as_u64()?).ok(),
        }
    }

    /// Whether (IA)³ scales a module's inputs rather than its outputs.
    pub fn is_feedforward(&self, module: &str) -> Option<bool> {
        match self.feedforward_modules.as_ref()? {
            Value::Array(names) => Some(
                names
                    .iter()
                    .filter_map(Value::as_str)
                    .any(|name| ends_in(module, name)),
            ),
            Value::String(pattern) => {
                let pattern = bounded(&format!("^(?:{pattern})$"))?;
                Some(pattern.is_match(module))
            }
            _ => None,
        }
    }

    /// The rows of the embedding `module` that were trained.
    pub fn tokens(&self, module: &str) -> Option<Vec<usize>> {
        let rows = |value: &Value| -> Option<Vec<usize>> {
            let row = |v: &Value| v.as_u64().and_then(|v| usize::try_from(v).ok());
            value.as_array()?.iter().map(row).collect()
        };
        let given = self.trainable_token_indices.as_ref();
        match given
            .filter(|v| !v.is_null())
            .or(self.token_indices.as_ref())?
        {
            Value::Object(modules) => {
                let (_, value) = modules.iter().find(|(name, _)| ends_in(module, name))?;
                rows(value)
            }
            value => rows(value),
        }
    }

    /// Whether the tensor at `path` belongs to a module that was trained as a whole.
    pub fn is_saved(&self, path: &str) -> bool {
        let mut owners = path.match_indices('.').map(|(dot, _)| &path[..dot]);
        let saved = || self.modules_to_save.iter().flatten();
        // PEFT compares the ends of the names, wherever their dots are.
        owners.any(|owner| saved().any(|name| owner.ends_with(name.as_str())))
    }

    /// The initialisation's name, if it changed the base weight.
    pub fn changed_base(&self) -> Option<&str> {
        let name = self.init_lora_weights.as_ref()?.as_str()?;
        let lower = name.to_lowercase();
        CHANGED_BASES
            .iter()
            .any(|known| lower.starts_with(known))
            .then_some(name)
    }

    /// A variant of LoRA by which the update is not s B A, if one is switched on.
    pub fn variant(&self) -> Option<&'static str> {
        let is_set = |value: &Value| !matches!(value, Value::Null | Value::Bool(false));
        [
            (self.use_qalora == Some(true), "QALoRA"),
            (self.use_bdlora.as_ref().is_some_and(is_set), "BD-LoRA"),
            (self.kasa_config.as_ref().is_some_and(is_set), "KaSA"),
        ]
        .into_iter()
        .find_map(|(is_on, name)| is_on.then_some(name))
    }

    /// Which biases were trained, in PEFT's word.
    pub fn trained_biases(&self) -> Option<&str> {
        self.bias.as_ref()?.as_str()
    }

    /// Why no single weight does what the adapter does, if so.
    pub fn acts_on_some_tokens(&self) -> Option<&'static str> {
        let is_set = |value: &Option<Value>| value.as_ref().is_some_and(|value| !value.is_null());
        if is_set(&self.alora_invocation_tokens) {
            return Some(
                "aLoRA (alora_invocation_tokens): the update acts from its invocation tokens on only",
            );
        }
        is_set(&self.arrow_config)
            .then_some("Arrow (arrow_config): a router weights the updates anew for every token")
    }

    /// The tensor or module of the base model that `module` stands on: another layer's where
    /// `layer_replication` repeats layers, as PEFT counts them.
    pub fn of_base<'a>(&self, module: &'a str) -> Result<Cow<'a, str>, String> {
        let Some(ranges) = &self.layer_replication else {
            return Ok(Cow::Borrowed(module));
        };
        let Some((begin, number)) = replicated_layer(module) else {
            return Ok(Cow::Borrowed(module));
        };
        let mut left = number;
        for &(from, to) in ranges {
            let count = to.saturating_sub(from);
            if left < count {
                let end = begin + number.to_string().len();
                let (before, after) = (&module[..begin], &module[end..]);
                return Ok(Cow::Owned(format!("{before}{}{after}", from + left)));
            }
            left -= count;
        }
        let counts = ranges.iter().map(|&(from, to)| to.saturating_sub(from));
        let count = counts.fold(0, usize::saturating_add);
        Err(format!(
            "layer_replication: expected a layer below {count}, found {module}"
        ))
    }

    /// The parameters that `target_parameters` names, by their last names: those of `module`, and those
    /// without a module's name, which are parameters of any module that has them.
    pub fn parameters_of(&self, module: &str) -> (Vec<&str>, Vec<&str>) {
        let (mut own, mut bare) = (BTreeSet::new(), BTreeSet::new());
        for name in self.target_parameters.iter().flatten() {
            match name.rsplit_once('.') {
                Some((parent, parameter)) if ends_in(module, parent) => own.insert(parameter),
                Some(_) => continue,
                None => bare.insert(&name[..]),
            };
        }
        let bare = bare.difference(&own).copied().collect();
        (own.into_iter().collect(), bare)
    }

    /// Whether `target_modules` names a module, if it is there and understood.
    pub fn is_target(&self, module: &str) -> Option<bool> {
        match self.target_modules.as_ref()? {
            Value::Array(names) => {
                let mut names = names.iter().filter_map(Value::as_str);
                Some(names.any(|name| ends_in(module, name)))
            }
            Value::String(pattern) if pattern != "all-linear" => {
                Some(bounded(&format!("^(?:{pattern})$"))?.is_match(module))
            }
            _ => None,
        }
    }

    /// How many experts Unsloth notes for a parameter.
    pub fn experts(&self, parameter: &str) -> Option<usize> {
        let count = self.noted(parameter, "num_experts")?.as_u64()?;
        usize::try_from(count).ok()
    }

    /// The order of B's columns among the experts of a parameter. PEFT has one order; Unsloth trains the
    /// parameters that it fuses by code of its own, which had another one before it began to note it.
    pub fn columns(&self, parameter: &str, is_fused: bool) -> Result<Columns, String> {
        let noted = self.noted(parameter, "lora_B_layout");
        let noted = noted.or(self.lora_b_layout.as_ref().filter(|value| !value.is_null()));
        let is_unsloth = || {
            let fixed = self.auto_mapping.as_ref()?.get("unsloth_fixed")?;
            fixed.as_bool()
        };
        match noted.map(|value| value.as_str()) {
            Some(Some("rank_major")) => Ok(Columns::ExpertFastest),
            Some(Some("grouped_by_expert")) => Ok(Columns::ExpertSlowest),
            None if is_fused && is_unsloth() == Some(true) => Err(
                "target_parameters: an adapter of Unsloth without lora_B_layout: whether B's columns \
                 are ordered by expert (as Unsloth trained them until September 2026) or by rank (as \
                 PEFT reads them) is unknown"
                    .to_owned(),
            ),
            None => Ok(Columns::ExpertFastest),
            Some(_) => Err(format!(
                "lora_B_layout: expected \"rank_major\" or \"grouped_by_expert\", found {}",
                noted.unwrap_or(&Value::Null)
            )),
        }
    }

    /// What Unsloth notes about a parameter.
    fn noted(&self, parameter: &str, field: &str) -> Option<&Value> {
        let notes = self.unsloth_fused_expert_lora.as_ref()?;
        notes.get("parameters")?.get(parameter)?.get(field)
    }

    /// Whether no bias was trained, by the configuration.
    pub fn has_no_bias(&self) -> bool {
        self.trained_biases() == Some("none")
    }
}

/// Where the number of a layer stands in a name, and the number: PEFT replicates `layers`, BERT's
/// `encoder.layer` and Falcon's `h`.
fn replicated_layer(module: &str) -> Option<(usize, usize)> {
    let (mut begin, mut before) = (0, ["", ""]);
    for segment in module.split('.') {
        let is_list = matches!(before, [_, "layers" | "h"] | ["encoder", "layer"]);
        // As it was written: no other number has these digits.
        if let Some(number) = segment.parse::<usize>().ok().filter(|_| is_list)
            && number.to_string() == segment
        {
            return Some((begin, number));
        }
        begin += segment.len() + 1;
        before = [before[1], segment];
    }
    None
}

/// What may be null: nothing.
fn perhaps<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Pattern, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
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
    fn regular_expressions_match_as_in_peft() {
        let config = config(serde_json::json!({
            "lora_alpha": 16,
            "alpha_pattern": { "q": 5, "layers\\.[01]\\.k": 7, "^model.v": 9, "(?=x)o": 3 },
            "rank_pattern": { "(q|k)": 2 },
        }));
        assert_eq!(config.alpha("layers.0.q"), Ok(Some(5.0)));
        assert_eq!(config.alpha("m.layers.1.k"), Ok(Some(7.0)));
        assert_eq!(config.alpha("model.v"), Ok(Some(9.0)));
        // Look-ahead is Python's, not understood here: only what comes after it is in doubt.
        let doubt = config.alpha("a.model.v").unwrap_err();
        assert!(doubt.contains("regular expression"), "{doubt}");
        assert_eq!((config.rank("a.k"), config.rank("kk")), (Some(2), None));
        assert_eq!(config.rank_pattern.unread(), None);
    }

    #[test]
    fn a_key_of_a_whole_name_fits_that_name_alone() {
        let config = config(serde_json::json!({
            "lora_alpha": 16,
            "alpha_pattern": { "^layers\\.0\\.q": 5, "^q": 7, "^layers.1.q": 9 },
        }));
        assert_eq!(config.alpha("layers.0.q"), Ok(Some(5.0)));
        assert_eq!(config.alpha("m.layers.0.q"), Ok(Some(16.0)));
        assert_eq!(config.alpha("layers-0.q"), Ok(Some(16.0)));
        assert_eq!(config.alpha("q"), Ok(Some(7.0)));
        assert_eq!(config.alpha("layers.2.q"), Ok(Some(16.0)));
        // A bare dot is any character.
        assert_eq!(config.alpha("layers_1.q"), Ok(Some(9.0)));
    }

    #[test]
    fn kept_directions_of_adalora_are_counted() {
        let config = config(serde_json::json!({
            "r": 8, "rank_pattern": { "layers.0.q.lora_E": [true, false, true] },
        }));
        assert_eq!(
            (config.rank("m.layers.0.q"), config.rank("v")),
            (Some(2), Some(8))
        );
    }

    #[test]
    fn adalora_has_its_first_rank_until_it_prunes() {
        let config = config(serde_json::json!({ "peft_type": "ADALORA", "r": 8, "init_r": 6 }));
        assert_eq!(config.rank("q"), Some(6));
    }

    #[test]
    fn parameters_without_a_module_are_any_modules() {
        let config = config(serde_json::json!({
            "target_parameters": ["down_proj", "mlp.gate.weight", "experts.gate_up_proj"],
            "target_modules": ["q_proj"],
        }));
        let of = |module| config.parameters_of(module);
        assert_eq!(of("l.0.mlp.gate"), (vec!["weight"], vec!["down_proj"]));
        assert_eq!(
            of("l.0.mlp.experts"),
            (vec!["gate_up_proj"], vec!["down_proj"])
        );
        assert_eq!(config.is_target("l.0.q_proj"), Some(true));
        assert_eq!(config.is_target("l.0.mlp.experts"), Some(false));
    }

    #[test]
    fn columns_of_experts_are_as_unsloth_notes_them() {
        let of = |json: Value| config(json).columns("down_proj", true);
        let grouped = serde_json::json!({ "lora_B_layout": "grouped_by_expert" });
        assert_eq!(of(grouped), Ok(Columns::ExpertSlowest));
        let own = serde_json::json!({ "lora_B_layout": "grouped_by_expert", "unsloth_fused_expert_lora": {
            "parameters": { "down_proj": { "lora_B_layout": "rank_major", "num_experts": 4 } },
        } });
        assert_eq!(config(own.clone()).experts("down_proj"), Some(4));
        assert_eq!(of(own), Ok(Columns::ExpertFastest));
        assert_eq!(of(serde_json::json!({})), Ok(Columns::ExpertFastest));
        let doubt = of(serde_json::json!({ "auto_mapping": { "unsloth_fixed": true } }));
        assert!(doubt.unwrap_err().contains("without lora_B_layout"));
        let unknown = of(serde_json::json!({ "lora_B_layout": "expert_major" }));
        assert!(unknown.unwrap_err().ends_with("found \"expert_major\""));
    }

    #[test]
    fn scaled_inputs_and_trained_tokens_are_found() {
        let config = config(serde_json::json!({
            "feedforward_modules": ["w2"],
            "trainable_token_indices": { "embed": [3, 1] }, "token_indices": [7],
        }));
        assert_eq!(config.is_feedforward("h.0.w2"), Some(true));
        assert_eq!(config.is_feedforward("h.0.k"), Some(false));
        assert_eq!(config.tokens("model.embed"), Some(vec![3, 1]));
        assert_eq!(config.tokens("other"), None);
    }

    #[test]
    fn saved_modules_are_found_by_the_ends_of_their_names() {
        let config = config(serde_json::json!({ "modules_to_save": ["head", "out_proj"] }));
        assert!(config.is_saved("lm_head.weight") && config.is_saved("head.dense.bias"));
        assert!(config.is_saved("classifier.out_proj.weight"));
        assert!(!config.is_saved("header.weight") && !config.is_saved("head"));
    }

    #[test]
    fn a_repeated_layer_stands_on_the_bases() {
        let config = config(serde_json::json!({ "layer_replication": [[0, 3], [1, 4]] }));
        // As PEFT's `replicate_layers` lists them: 0, 1, 2, 1, 2, 3.
        for (layer, of_base) in [0, 1, 2, 1, 2, 3].into_iter().enumerate() {
            for (begin, end) in [
                ("model.layers", "mlp.experts.4.up"),
                ("h", "q"),
                ("bert.encoder.layer", "q"),
            ] {
                assert_eq!(
                    config.of_base(&format!("{begin}.{layer}.{end}")).unwrap(),
                    format!("{begin}.{of_base}.{end}")
                );
            }
        }
        assert_eq!(config.of_base("lm_head").unwrap(), "lm_head");
        let beyond = config.of_base("model.layers.6.q").unwrap_err();
        assert!(beyond.contains("below 6"), "{beyond}");
    }

    #[test]
    fn changed_bases_and_expert_parameters_are_seen() {
        let config = config(serde_json::json!({
            "init_lora_weights": "pissa_niter_16",
            "target_parameters": ["mlp.experts.gate_up_proj"],
        }));
        assert_eq!(config.changed_base(), Some("pissa_niter_16"));
        let (own, bare) = config.parameters_of("model.layers.0.mlp.experts");
        assert_eq!((own, bare.len()), (vec!["gate_up_proj"], 0));
        assert!(config.parameters_of("model.layers.0.mlp.gate").0.is_empty());
    }
}
