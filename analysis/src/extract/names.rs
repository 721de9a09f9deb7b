//! What names tell of a module, where its tensors do not.

use std::path::{Path, PathBuf};

use rankwise_data::read_text;
use regex::Regex;
use serde_json::Value;

use crate::Error;

/// The layers that GPT-2 keeps as inputs × outputs, by the last part of their names.
const CONV1D: [&str; 4] = ["c_attn", "c_proj", "c_fc", "q_attn"];

/// Tables of embeddings whose names do not say so.
const EMBEDDINGS: [&str; 4] = ["wte", "wpe", "shared", "relative_attention_bias"];

/// An expression that has to match a whole name.
pub(super) fn whole_name(target: &str) -> Result<Regex, Error> {
    Regex::new(&format!("^(?:{target})$")).map_err(|error| Error::Mismatch {
        what: "target",
        expected: "a regular expression".to_owned(),
        found: format!("{target:?} ({error})"),
    })
}

fn last(module: &str) -> &str {
    module.rsplit('.').next().unwrap_or(module)
}

/// Whether a layer of GPT-2 keeps its weight as inputs × outputs.
pub(super) fn is_conv1d(module: &str) -> bool {
    CONV1D.contains(&last(module))
}

/// Whether a module of two dimensions is a table and no layer: only its name tells.
pub(super) fn is_embedding(module: &str) -> bool {
    let name = last(module).to_lowercase();
    name.contains("embed") || EMBEDDINGS.contains(&name.as_str())
}

/// What models with a head call the model inside it.
const FRAMES: [&str; 16] = [
    "albert",
    "bert",
    "camembert",
    "deberta",
    "distilbert",
    "electra",
    "esm",
    "gpt_neox",
    "longformer",
    "model",
    "mpnet",
    "roberta",
    "transformer",
    "vit",
    "wav2vec2",
    "xlnet",
];

/// Whether a prefix, with its dot, is what a model with a head calls the model inside it.
pub(super) fn is_frame(prefix: &str) -> bool {
    prefix
        .strip_suffix('.')
        .is_some_and(|name| FRAMES.contains(&name))
}

/// Whether a tensor's name begins so.
pub(super) fn has_frame(name: &str) -> bool {
    name.split_once('.')
        .is_some_and(|(first, _)| FRAMES.contains(&first))
}

/// Whether a class of transformers has a head.
pub(super) fn has_head(class: &str) -> bool {
    ["For", "LMHead", "DoubleHeads"]
        .iter()
        .any(|part| class.contains(part))
}

/// What the configuration in a model's folder says of the model.
#[derive(Debug, Default)]
pub(super) struct ModelConfig {
    /// `model_type`.
    pub kind: Option<String>,
    /// The first of `architectures`.
    pub class: Option<String>,
}

/// The configuration in a model's folder.
pub(super) fn model_config(model: &Path) -> Result<ModelConfig, Error> {
    let folder: PathBuf = if model.is_dir() {
        model.to_path_buf()
    } else {
        model.parent().unwrap_or(Path::new(".")).to_path_buf()
    };
    let path = folder.join("config.json");
    if !path.is_file() {
        return Ok(ModelConfig::default());
    }
    let config: Value = serde_json::from_str(&read_text(&path)?).map_err(|error| {
        Error::format(&path, "file", "a model's configuration", error.to_string())
    })?;
    let text = |value: &Value| value.as_str().map(str::to_owned);
    Ok(ModelConfig {
        kind: text(&config["model_type"]),
        class: text(&config["architectures"][0]),
    })
}
