//! The configuration beside a resized adapter: the old one, word for word and in its order, but for
//! what states ranks and scales.
//!
//! The most common rank and α are the general ones, `r` and `lora_alpha`; every other module has its
//! own in `rank_pattern` and `alpha_pattern`. PEFT takes the first key with
//! `re.match(r"(.*\.)?(KEY)$", module)`: a key `^layers\.1\.q` fits that module and no other one, not
//! even `decoder.layers.1.q`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rankwise_data::{read_text, write_atomic};
use serde_json::{Map, Value, json};

use crate::Error;
use crate::adapter::twin;

/// What PEFT's configurations of all methods have in common, and a LoRA keeps when it takes the place
/// of another method.
const COMMON: [&str; 13] = [
    "auto_mapping",
    "base_model_name_or_path",
    "bias",
    "exclude_modules",
    "fan_in_fan_out",
    "inference_mode",
    "layers_pattern",
    "layers_to_transform",
    "modules_to_save",
    "peft_version",
    "revision",
    "target_modules",
    "task_type",
];

/// A module's rank and α, under the name that the model itself has for it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Setting {
    pub name: String,
    pub rank: usize,
    pub alpha: f64,
}

/// A configuration file as it is.
#[derive(Debug, Clone)]
pub(super) struct Configuration {
    path: PathBuf,
    pub fields: Map<String, Value>,
}

impl Configuration {
    /// Reads the file beside an adapter; `None` if there is none.
    ///
    /// # Errors
    /// [`Error::File`] if it cannot be read or is no JSON object.
    pub fn beside(file: &Path) -> Result<Option<Self>, Error> {
        let path = file.with_file_name("adapter_config.json");
        if !path.is_file() {
            return Ok(None);
        }
        let text = read_text(&path)?;
        match serde_json::from_str(&text) {
            Ok(fields) => Ok(Some(Self { path, fields })),
            Err(error) => {
                let expected = "PEFT's adapter configuration";
                Err(Error::format(&path, "file", expected, error.to_string()))
            }
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// PEFT's name of the method.
    pub fn method(&self) -> Option<&str> {
        self.fields.get("peft_type")?.as_str()
    }

    pub fn is(&self, field: &str) -> bool {
        self.fields.get(field) == Some(&Value::Bool(true))
    }

    /// mlx-lm's settings.
    pub fn mlx(&mut self) -> Option<&mut Map<String, Value>> {
        self.fields.get_mut("lora_parameters")?.as_object_mut()
    }

    /// Becomes the configuration of a plain LoRA.
    pub fn become_lora(&mut self) {
        let is_common = |name: &str| COMMON.contains(&name) || name == "peft_type";
        self.fields.retain(|name, _| is_common(name));
        for (name, value) in [
            ("peft_type", json!("LORA")),
            ("lora_dropout", json!(0.0)),
            ("init_lora_weights", json!(true)),
            ("use_rslora", json!(false)),
            ("use_dora", json!(false)),
        ] {
            self.fields.insert(name.to_owned(), value);
        }
    }

    /// Writes it into a folder.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn write(&self, folder: &Path) -> Result<(), Error> {
        write_json(&folder.join("adapter_config.json"), &self.fields)
    }
}

/// Writes a JSON file as PEFT does: two spaces, a line's end at the end.
pub(crate) fn write_json(path: &Path, value: &impl serde::Serialize) -> Result<(), Error> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|error| Error::format(path, "record", "JSON", error.to_string()))?;
    Ok(write_atomic(path, |out| writeln!(out, "{text}"))?)
}

/// States ranks and α in the fields that begin with `prefix`. With `others`, there are modules beside
/// these for which the old fields go on to hold.
pub(crate) fn set_ranks(
    fields: &mut Map<String, Value>,
    prefix: &str,
    settings: &[Setting],
    others: bool,
) {
    let field = |name: &str| format!("{prefix}{name}");
    let general_rank = most_common(settings.iter().map(|s| s.rank as f64));
    let general_alpha = most_common(settings.iter().map(|s| s.alpha));
    let mut set = |name: &str, value: Value| {
        fields.insert(field(name), value);
    };
    let is_general = |value: f64, general: Option<f64>| !others && Some(value) == general;
    if let (false, Some(rank), Some(alpha)) = (others, general_rank, general_alpha) {
        set("r", number(rank));
        set("lora_alpha", number(alpha));
    }
    let mut ranks = Map::new();
    let mut alphas = Map::new();
    for setting in settings {
        let (rank, alpha) = (setting.rank as f64, setting.alpha);
        if !is_general(rank, general_rank) {
            ranks.insert(only(&setting.name), number(rank));
        }
        if !is_general(alpha, general_alpha) {
            alphas.insert(only(&setting.name), number(alpha));
        }
    }
    for (name, mut new) in [("rank_pattern", ranks), ("alpha_pattern", alphas)] {
        if others && let Some(Value::Object(old)) = fields.get(&field(name)) {
            // The first key that fits counts: the new ones are before the old.
            for (key, value) in old {
                new.entry(key.clone()).or_insert_with(|| value.clone());
            }
        }
        fields.insert(field(name), Value::Object(new));
    }
}

/// Has the keys that are whole names fit the names in memory too, of modules that have others there.
pub(crate) fn name_twins(fields: &mut Map<String, Value>) {
    for name in ["rank_pattern", "alpha_pattern"] {
        let Some(Value::Object(pattern)) = fields.get_mut(name) else {
            continue;
        };
        *pattern = std::mem::take(pattern)
            .into_iter()
            .map(|(key, value)| {
                let own = key.strip_prefix('^').map(|own| own.replace('\\', ""));
                let twin = own.as_deref().and_then(twin);
                let both = twin.map(|twin| format!("^(?:{}|{})", &key[1..], &only(&twin)[1..]));
                (both.unwrap_or(key), value)
            })
            .collect();
    }
}

/// The pattern that fits this name and no other.
fn only(name: &str) -> String {
    let mut key = String::from("^");
    for c in name.chars() {
        if r".^$*+?{}[]\|()".contains(c) {
            key.push('\\');
        }
        key.push(c);
    }
    key
}

/// A whole number without a point, as the libraries write it.
fn number(value: f64) -> Value {
    // Exact up to 2⁵³.
    if value.fract() == 0.0 && value.abs() < 9_007_199_254_740_992.0 {
        json!(value as i64)
    } else {
        json!(value)
    }
}

/// The value that is there most often, the largest of several.
fn most_common(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut counts: BTreeMap<u64, (usize, f64)> = BTreeMap::new();
    for value in values {
        counts.entry(value.to_bits()).or_insert((0, value)).0 += 1;
    }
    counts
        .into_values()
        .max_by(|x, y| x.0.cmp(&y.0).then(x.1.total_cmp(&y.1)))
        .map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(list: &[(&str, usize, f64)]) -> Vec<Setting> {
        let setting = |&(name, rank, alpha): &(&str, usize, f64)| Setting {
            name: name.to_owned(),
            rank,
            alpha,
        };
        list.iter().map(setting).collect()
    }

    fn object(value: Value) -> Map<String, Value> {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn the_most_common_is_general_and_the_order_stays() {
        let mut fields = object(json!({
            "z": 1, "r": 16, "a": [2.5], "rank_pattern": {"q": 3}, "lora_alpha": 32,
        }));
        let list = [("l.0.q", 4, 8.0), ("q", 2, 4.0), ("l.0.v", 4, 0.5)];
        set_ranks(&mut fields, "", &settings(&list), false);
        let expected = r#"{"z":1,"r":4,"a":[2.5],"rank_pattern":{"^q":2},"lora_alpha":8,"alpha_pattern":{"^q":4,"^l\\.0\\.v":0.5}}"#;
        assert_eq!(Value::Object(fields).to_string(), expected);
    }

    #[test]
    fn beside_others_every_module_has_its_own_key_before_theirs() {
        let mut fields = object(json!({
            "u.r": 16, "u.lora_alpha": 32, "u.rank_pattern": {"q": 3}, "u.alpha_pattern": {},
        }));
        set_ranks(&mut fields, "u.", &settings(&[("a+b", 4, 8.0)]), true);
        let expected = r#"{"u.r":16,"u.lora_alpha":32,"u.rank_pattern":{"^a\\+b":4,"q":3},"u.alpha_pattern":{"^a\\+b":8}}"#;
        assert_eq!(Value::Object(fields).to_string(), expected);
    }

    #[test]
    fn another_method_leaves_only_what_all_have_in_common() {
        let mut configuration = Configuration {
            path: PathBuf::new(),
            fields: object(json!({
                "alpha": 3, "peft_type": "LOHA", "r": 8, "task_type": null, "module_dropout": 0.0,
            })),
        };
        configuration.become_lora();
        let names: Vec<&str> = configuration.fields.keys().map(String::as_str).collect();
        assert_eq!(names[..2], ["peft_type", "task_type"]);
        assert_eq!(configuration.method(), Some("LORA"));
        assert!(!configuration.fields.contains_key("alpha"));
    }
}
