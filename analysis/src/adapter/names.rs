//! How modules are called: as the base model names them, without what a layout puts around.

use std::collections::BTreeSet;

use super::key::Format;
use super::sorted::Sorted;

/// What the names of whole pipelines begin with, and how that part of the pipeline is called where
/// the rest of a name does not tell.
const PIPELINE_PREFIXES: [(&str, &str); 16] = [
    ("lora_unet_", "unet"),
    ("lora_te1_", "te1"),
    ("lora_te2_", "te2"),
    ("lora_te3_", "te3"),
    ("lora_te_", "te"),
    ("lora_transformer_", "transformer"),
    ("lora_prior_unet_", "prior"),
    ("lycoris_", "lycoris"),
    ("unet.", "unet"),
    ("transformer.", "transformer"),
    ("transformer_2.", "transformer_2"),
    ("text_encoder.", "text_encoder"),
    ("text_encoder_2.", "text_encoder_2"),
    ("text_encoder_3.", "text_encoder_3"),
    ("prior.", "prior"),
    ("controlnet.", "controlnet"),
];

/// How names are shown: without the pipeline's part that they begin with, unless the names of two
/// parts are then the same; and without PEFT's wrappers.
pub(super) struct Names {
    ambiguous: BTreeSet<String>,
    is_pipeline: bool,
}

impl Names {
    pub fn new(sorted: &Sorted<'_>, format: Format) -> Self {
        let is_pipeline = matches!(format, Format::Kohya | Format::Lycoris | Format::Diffusers);
        let (mut seen, mut ambiguous) = (BTreeSet::new(), BTreeSet::new());
        let modules: BTreeSet<&str> = sorted.groups.keys().map(|(raw, _)| raw.as_ref()).collect();
        for raw in modules {
            let (_, name) = without_prefix(raw);
            if !seen.insert(name) {
                ambiguous.insert(name.to_owned());
            }
        }
        Self {
            ambiguous,
            is_pipeline,
        }
    }

    pub fn shown(&self, raw: &str) -> String {
        if !self.is_pipeline {
            return raw.replace(".base_layer.", ".");
        }
        match without_prefix(raw) {
            (Some(part), name) if self.ambiguous.contains(name) => format!("{part}.{name}"),
            (_, name) => name.to_owned(),
        }
    }
}

pub(super) fn without_prefix(raw: &str) -> (Option<&'static str>, &str) {
    let stripped = PIPELINE_PREFIXES
        .iter()
        .find_map(|(prefix, part)| Some((Some(*part), raw.strip_prefix(prefix)?)));
    stripped.unwrap_or((None, raw))
}
