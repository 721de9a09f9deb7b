//! Copies of the base model's tensors in an adapter's file: they were not trained, so they are neither
//! updates nor parts of the model that the adapter makes.
//!
//! | who writes them | names |
//! |---|---|
//! | PEFT itself, where a table of embeddings is adapted (`save_embedding_layers`) | `X.base_layer.weight` |
//! | trainers that keep the whole state (FSDP, ZeRO) | `X.base_layer.…`, `X.original_module.…`, all other layers |
//! | PEFT, where the vocabulary grew and the table is in `modules_to_save` | `X.original_module.…`; `X.modules_to_save.…` beside `X.weight`, which is loaded |
//!
//! In a whole state what was trained lies under `X.modules_to_save.NAME.…`, NAME the adapter's; PEFT
//! takes both words out of the names that it writes itself.

use std::collections::{BTreeMap, BTreeSet};

use super::config::AdapterConfig;
use super::key::{Key, Part, without_adapter};
use crate::container::TensorInfo;

const FRAME: &str = "base_model.model.";
const BASE: &str = ".base_layer.";
const ORIGINAL: &str = ".original_module.";
const TRAINED: &str = ".modules_to_save.";

/// Which tensors of a file are copies.
#[derive(Debug, Default)]
pub(crate) struct Copies {
    names: BTreeSet<String>,
    /// Those of what was trained: the file has it under two names, and this one is not loaded.
    second: BTreeSet<String>,
    /// The adapters' names as far as the factors' names have them.
    adapters: BTreeSet<String>,
    /// Whether the file is the whole state of a model with adapters.
    pub is_whole: bool,
}

impl Copies {
    pub fn new(tensors: &BTreeMap<String, TensorInfo>, config: Option<&AdapterConfig>) -> Self {
        let mut copies = Self {
            adapters: BTreeSet::from(["default".to_owned()]),
            ..Self::default()
        };
        let mut has_adapter_names = false;
        for name in tensors.keys() {
            if let Key::Part {
                adapter: Some(adapter),
                ..
            } = Key::parse(name)
            {
                copies.adapters.insert(adapter.to_owned());
                has_adapter_names = true;
            }
        }
        let is_of_model = |name: &&String| {
            matches!(
                Key::parse(name),
                Key::Full
                    | Key::Part {
                        part: Part::Bias,
                        ..
                    }
            ) && !is_factor(name)
        };
        let own: Vec<&String> = tensors.keys().filter(is_of_model).collect();
        let has_twin = |name: &str| {
            copies
                .plain(name)
                .is_some_and(|twin| tensors.contains_key(&twin))
        };
        let is_whole = own.iter().any(|name| {
            (name.ends_with(".base_layer.weight") && (has_adapter_names || is_in_a_layer(name)))
                || (name.contains(ORIGINAL) && has_adapter_names && !has_twin(name))
        });
        let names = own.into_iter().filter(|name| {
            if name.ends_with(".base_layer.bias") {
                let beside = name.replace(".base_layer.bias", ".base_layer.weight");
                return match config.map(AdapterConfig::trained_biases) {
                    Some(Some(bias)) => bias == "none",
                    Some(None) | None => tensors.contains_key(&beside),
                };
            }
            if name.contains(BASE) || name.contains(ORIGINAL) {
                return true;
            }
            if name.contains(TRAINED) {
                return has_twin(name);
            }
            if !is_whole {
                return false;
            }
            let path = copies.path(name);
            let is_trained_bias = config.is_some_and(|c| c.trained_biases() == Some("all"));
            !(config.is_some_and(|c| c.is_saved(&path))
                || is_trained_bias && path.ends_with(".bias"))
        });
        let is_second = |name: &String| name.contains(TRAINED);
        let (second, names) = names.cloned().partition(is_second);
        (copies.second, copies.names, copies.is_whole) = (second, names, is_whole);
        copies
    }

    pub fn contains(&self, name: &str) -> bool {
        self.names.contains(name) || self.second.contains(name)
    }

    /// The name under which PEFT loads a tensor: without the adapter's name, without the wrapper of a
    /// module that was trained as a whole, and without what a trainer puts before the model's.
    pub fn loaded(&self, name: &str) -> String {
        if self.contains(name) {
            return name.to_owned();
        }
        let name = match name.find(&format!(".{FRAME}")) {
            Some(dot) => &name[dot + 1..],
            None => name,
        };
        let own = name.contains(TRAINED).then(|| self.plain(name)).flatten();
        own.unwrap_or_else(|| without_adapter(name))
    }

    /// Those of the base model's tensors.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(String::as_str)
    }

    /// How many there are and of which kind, in words.
    pub fn described(&self) -> Option<String> {
        let counted = |names: &BTreeSet<String>, what: &str| {
            let first = names.first()?;
            Some(format!(
                "tensors left out, {what}: {} ({first})",
                names.len()
            ))
        };
        let parts = [
            counted(&self.names, "frozen copies of the base model's"),
            counted(&self.second, "second copies of what was trained as a whole"),
        ];
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        (!parts.is_empty()).then(|| parts.join("; "))
    }

    /// The model's own name of a tensor that PEFT keeps as a whole.
    pub fn path(&self, name: &str) -> String {
        let name = name.strip_prefix("base_model.model.").unwrap_or(name);
        let name = name.replace(".token_adapter.base_layer.", ".");
        let name = self.plain(&name).unwrap_or(name);
        name.replace(BASE, ".")
    }

    /// The name without PEFT's wrapper of a module that is trained as a whole; `None` if there is none.
    fn plain(&self, name: &str) -> Option<String> {
        if let Some((module, rest)) = name.split_once(ORIGINAL) {
            return Some(format!("{module}.{rest}"));
        }
        let (module, rest) = name.split_once(TRAINED)?;
        let rest = match rest.split_once('.') {
            Some((adapter, rest)) if self.adapters.contains(adapter) => rest,
            _ => rest,
        };
        Some(format!("{module}.{rest}"))
    }
}

/// Whether it is a factor's bias: its name has no wrapper but the factor.
fn is_factor(name: &str) -> bool {
    name.contains(".lora_")
}

/// Whether a name is of a numbered layer, as no table of embeddings is.
fn is_in_a_layer(name: &str) -> bool {
    let is_number = |segment: &str| segment.parse::<u32>().is_ok();
    name.split('.').any(is_number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrappers_of_whole_modules_are_taken_off() {
        let copies = Copies {
            adapters: BTreeSet::from(["default".to_owned(), "mine".to_owned()]),
            ..Copies::default()
        };
        for (name, own) in [
            ("base_model.model.classifier.weight", "classifier.weight"),
            (
                "base_model.model.classifier.modules_to_save.default.bias",
                "classifier.bias",
            ),
            ("score.modules_to_save.weight", "score.weight"),
            (
                "pooler.modules_to_save.mine.dense.bias",
                "pooler.dense.bias",
            ),
            ("pooler.modules_to_save.dense.bias", "pooler.dense.bias"),
            ("lm_head.original_module.weight", "lm_head.weight"),
            ("embed.token_adapter.base_layer.weight", "embed.weight"),
            (
                "base_model.model.h.0.attn.base_layer.weight",
                "h.0.attn.weight",
            ),
        ] {
            assert_eq!(copies.path(name), own);
        }
    }

    #[test]
    fn names_are_those_that_are_loaded() {
        let copies = Copies {
            adapters: BTreeSet::from(["default".to_owned()]),
            ..Copies::default()
        };
        for (name, own) in [
            ("q.lora_A.default.weight", "q.lora_A.weight"),
            ("q.lora_embedding_A.default", "q.lora_embedding_A"),
            ("q.lora_A.weight", "q.lora_A.weight"),
            ("head.modules_to_save.default.weight", "head.weight"),
            ("head.weight", "head.weight"),
        ] {
            let framed = |name: &str| format!("base_model.model.{name}");
            assert_eq!(copies.loaded(&framed(name)), framed(own));
            let wrapped = format!("model.{}", framed(name));
            assert_eq!(copies.loaded(&wrapped), framed(own));
        }
    }
}
