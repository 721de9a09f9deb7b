//! Models whose output layer is their table of embeddings: one tensor in the checkpoint, two in the model.
//!
//! | in `config.json` | output layer in the checkpoint | it is |
//! |---|---|---|
//! | `tie_word_embeddings` is false | – | a tensor of its own |
//! | true | – | the table, whatever else is in the file |
//! | nothing | none | the table, if the architecture has an output layer |
//! | nothing | there | a tensor of its own |
//!
//! The key lies in the configuration or in that of the part that is a language model. Source:
//! `PreTrainedModel.tie_weights` of huggingface/transformers.

use serde_json::{Map, Value};

use crate::container::Container;

/// Output layers by the ends of their names.
const HEADS: [&str; 6] = [
    "lm_head",
    "lm_head.decoder",
    "cls.predictions.decoder",
    "predictions.decoder",
    "generator_lm_head",
    "vocab_projector",
];

/// Output layers by their whole names, which are others' ends.
const WHOLE_HEADS: [&str; 4] = ["decoder", "embed_out", "output_projection", "proj_out"];

/// Tables of the tokens by the last part of their names; a model with the first has the others as
/// further names of it.
const TABLES: [&str; 6] = [
    "shared",
    "embed_tokens",
    "wte",
    "word_embeddings",
    "tok_embeddings",
    "embed_in",
];

/// Architectures with an output layer, by the ends of their names.
const MASKED_MODELS: [&str; 2] = ["ForMaskedLM", "ForPreTraining"];
const LANGUAGE_MODELS: [&str; 5] = [
    "ForCausalLM",
    "LMHeadModel",
    "ForConditionalGeneration",
    "MTModel",
    "EncoderDecoderModel",
];

/// Output layers with names of their own, by the type of the model.
const OWN: [(&str, &str); 4] = [
    ("gpt_neox", "embed_out"),
    ("gpt_neox_japanese", "embed_out"),
    ("trocr", "output_projection"),
    ("whisper", "proj_out"),
];

/// Types of models whose output layer has a name that is not known here.
const ELSEWHERE: [&str; 10] = [
    "chatglm",
    "encoder-decoder",
    "flaubert",
    "fsmt",
    "internlm2",
    "prophetnet",
    "speech-encoder-decoder",
    "vision-encoder-decoder",
    "xlm",
    "xlnet",
];

/// The output layer of a masked language model, by what else the checkpoint has of the head.
const MASKED: [(&str, &str); 6] = [
    (
        "cls.predictions.transform.dense.weight",
        "cls.predictions.decoder",
    ),
    ("lm_head.dense.weight", "lm_head.decoder"),
    ("vocab_transform.weight", "vocab_projector"),
    ("predictions.dense.weight", "predictions.decoder"),
    ("generator_predictions.dense.weight", "generator_lm_head"),
    ("head.dense.weight", "decoder"),
];

/// Types of models that multiply the output layer's inputs by another number where it is not tied.
const SCALED_WHERE_TIED: [&str; 7] = [
    "t5",
    "mt5",
    "umt5",
    "longt5",
    "switch_transformers",
    "udop",
    "pop2piano",
];

/// An output layer without a tensor of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tie {
    /// The tensor of the table.
    pub table: String,
    /// The output layer's own name, if the architecture is one whose output layer is known.
    pub head: Option<String>,
    /// Whether the architecture has an output layer whose name is not known.
    pub is_unnamed: bool,
    /// The type of a model that would compute something else with an output layer of its own.
    pub scales: Option<String>,
    /// Whether the table is the encoder's and the decoder's too, which have no tensors of their own.
    pub is_shared: bool,
}

impl Tie {
    /// Of a model whose configuration lies beside its weights.
    pub fn of(weights: &Container) -> Option<Self> {
        let folder = weights.path().parent()?;
        let text = rankwise_data::read_text(&folder.join("config.json")).ok()?;
        let config: Map<String, Value> = serde_json::from_str(&text).ok()?;
        let names = || weights.tensors().keys().map(String::as_str);
        let has_head =
            names().any(|name| name.strip_suffix(".weight").is_some_and(is_output_layer));
        match stated(&config) {
            Some(false) => return None,
            None if has_head => return None,
            Some(true) | None => {}
        }
        let table = TABLES.iter().find_map(|table| {
            let is_table = |name: &&str| {
                let module = name.strip_suffix(".weight");
                module.is_some_and(|module| module.rsplit('.').next() == Some(table))
            };
            let mut found = names().filter(is_table);
            // Two tables of one name are of two models in one.
            match (found.next(), found.next()) {
                (Some(one), None) => Some(one),
                _ => None,
            }
        })?;
        let model_type = config.get("model_type").and_then(Value::as_str);
        let head = head(&config, table, names);
        let has = |end: &str| names().any(|name| name.ends_with(end));
        let sides = ["encoder.embed_tokens.weight", "decoder.embed_tokens.weight"];
        Some(Self {
            is_unnamed: head.is_none() && has_output_layer(&config),
            is_shared: ends_in(table, &["shared.weight"]) && !sides.into_iter().all(has),
            head,
            table: table.to_owned(),
            scales: model_type
                .filter(|name| SCALED_WHERE_TIED.contains(name))
                .map(str::to_owned),
        })
    }
}

/// The output layer's weight by the architecture.
fn head<'a, I: Iterator<Item = &'a str>>(
    config: &Map<String, Value>,
    table: &str,
    names: impl Fn() -> I,
) -> Option<String> {
    if !has_output_layer(config) {
        return None;
    }
    let has = |mark: &str| names().any(|name| name == mark);
    if let Some((_, head)) = MASKED.iter().find(|(mark, _)| has(mark)) {
        return Some(format!("{head}.weight"));
    }
    let kind = config.get("model_type").and_then(Value::as_str);
    let is_masked = architecture(config).is_some_and(|name| ends_in_any(name, &MASKED_MODELS));
    if is_masked || kind.is_some_and(|kind| ELSEWHERE.contains(&kind)) {
        return None;
    }
    let own = OWN.iter().find(|(own, _)| kind == Some(*own));
    if let Some((_, head)) = own {
        return Some(format!("{head}.weight"));
    }
    // Where the language model is a whole within another, its head is inside too.
    let outer = table.strip_prefix("language_model.model.");
    Some(match outer {
        Some(_) => "language_model.lm_head.weight".to_owned(),
        None => "lm_head.weight".to_owned(),
    })
}

fn architecture(config: &Map<String, Value>) -> Option<&str> {
    config.get("architectures")?.get(0)?.as_str()
}

fn ends_in_any(architecture: &str, ends: &[&str]) -> bool {
    ends.iter().any(|end| architecture.ends_with(end))
}

/// Whether the architecture predicts tokens.
fn has_output_layer(config: &Map<String, Value>) -> bool {
    architecture(config).is_some_and(|name| {
        ends_in_any(name, &MASKED_MODELS) || ends_in_any(name, &LANGUAGE_MODELS)
    })
}

/// Whether a module is a model's output layer, by its name.
pub(crate) fn is_output_layer(module: &str) -> bool {
    ends_in(module, &HEADS) || WHOLE_HEADS.contains(&module)
}

/// Whether a module's name is one of these, or ends in one as a part of its own.
pub(crate) fn ends_in(module: &str, names: &[&str]) -> bool {
    names.iter().any(|name| {
        let rest = module.strip_suffix(name);
        rest.is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    })
}

/// What a configuration says of the tie.
fn stated(config: &Map<String, Value>) -> Option<bool> {
    let own = config.get("tie_word_embeddings").and_then(Value::as_bool);
    own.or_else(|| {
        let mut parts = tied_configurations(config).into_iter();
        parts.find_map(|part| config[part].get("tie_word_embeddings")?.as_bool())
    })
}

/// The parts of a configuration that say whether a model's output layer is tied.
pub(crate) fn tied_configurations(config: &Map<String, Value>) -> Vec<&str> {
    let has_tie = |(_, value): &(&String, &Value)| value.get("tie_word_embeddings").is_some();
    let parts = config.iter().filter(has_tie);
    parts.map(|(name, _)| name.as_str()).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_tie_is_the_languages() {
        let of = |config: Value| stated(config.as_object().unwrap());
        assert_eq!(of(json!({})), None);
        assert_eq!(of(json!({"tie_word_embeddings": false})), Some(false));
        assert_eq!(
            of(json!({"text_config": {"tie_word_embeddings": true}})),
            Some(true)
        );
        assert!(is_output_layer("language_model.lm_head") && !is_output_layer("my_lm_head"));
        assert!(is_output_layer("proj_out") && !is_output_layer("blocks.0.proj_out"));
    }
}
