//! Names that one tensor has in several places: what a program calls it in memory, and so an adapter,
//! and what the checkpoint calls it. An adapter that is to be loaded by both programs has its tensors
//! under both names.
//!
//! | in memory | in the checkpoint |
//! |---|---|
//! | `vit.layers.N.attention.q_proj` (transformers 5) | `vit.encoder.layer.N.attention.attention.query` |
//! | `….LayerNorm.weight`, `….LayerNorm.bias` | `….LayerNorm.gamma`, `….LayerNorm.beta` (the first checkpoints) |
//!
//! Source: `conversion_mapping.py` of huggingface/transformers 5.

use crate::Error;
use crate::container::Container;

/// Parts of a layer of a vision transformer: in memory, in the checkpoint.
const PARTS: [(&str, &str); 6] = [
    ("attention.q_proj", "attention.attention.query"),
    ("attention.k_proj", "attention.attention.key"),
    ("attention.v_proj", "attention.attention.value"),
    ("attention.o_proj", "attention.output.dense"),
    ("mlp.fc1", "intermediate.dense"),
    ("mlp.fc2", "output.dense"),
];

/// What PEFT's names begin with.
const FRAME: &str = "base_model.model.";

/// The other names that the tensor `name` may have in a checkpoint.
pub(super) fn others(name: &str) -> impl Iterator<Item = String> {
    [vision(name), in_memory(name), norm(name)]
        .into_iter()
        .flatten()
}

/// Leaves aside what an adapter's file has a second time under the name in memory; whether it has.
///
/// # Errors
/// [`Error::File`] if the file cannot be read.
pub(super) fn leave_twins_out(weights: &mut Container) -> Result<bool, Error> {
    let (mut one, mut other) = (Vec::new(), Vec::new());
    let mut twins = Vec::new();
    for (name, tensor) in weights.tensors() {
        let frame = if name.starts_with(FRAME) { FRAME } else { "" };
        let Some(twin) = vision(&name[frame.len()..]) else {
            continue;
        };
        let twin = format!("{frame}{twin}");
        let like = weights.tensors().get(&twin);
        if like.is_some_and(|like| (&like.shape, like.dtype) == (&tensor.shape, tensor.dtype)) {
            weights.read_raw(name, &mut one)?;
            weights.read_raw(&twin, &mut other)?;
            // Two that differ are no twins: both stay, and are seen to be one too many.
            if one == other {
                twins.push(name.clone());
            }
        }
    }
    twins.iter().for_each(|name| weights.leave_out(name));
    Ok(!twins.is_empty())
}

/// The name in memory of what an adapter's file has under the checkpoint's, with PEFT's frame or
/// without.
pub(crate) fn twin(name: &str) -> Option<String> {
    let frame = if name.starts_with(FRAME) { FRAME } else { "" };
    Some(format!("{frame}{}", in_memory(&name[frame.len()..])?))
}

fn vision(name: &str) -> Option<String> {
    let (outer, layer, part) = of_layer(name, "layers.")?;
    let part = renamed(part, PARTS)?;
    Some(format!("{outer}encoder.layer.{layer}.{part}"))
}

fn in_memory(name: &str) -> Option<String> {
    let (outer, layer, part) = of_layer(name, "encoder.layer.")?;
    let part = renamed(part, PARTS.map(|(memory, file)| (file, memory)))?;
    Some(format!("{outer}layers.{layer}.{part}"))
}

/// The outer name, the number of the layer and what is inside.
fn of_layer<'a>(name: &'a str, layers: &str) -> Option<(&'static str, &'a str, &'a str)> {
    let (outer, inner) = match name.strip_prefix("vit.") {
        Some(inner) => ("vit.", inner),
        None => ("", name),
    };
    let (layer, part) = inner.strip_prefix(layers)?.split_once('.')?;
    layer.parse::<u32>().ok()?;
    Some((outer, layer, part))
}

fn renamed(part: &str, names: [(&str, &str); 6]) -> Option<String> {
    if part.starts_with("layernorm_") {
        return Some(part.to_owned());
    }
    names.into_iter().find_map(|(from, to)| {
        let rest = part.strip_prefix(from)?;
        let is_whole = rest.is_empty() || rest.starts_with('.');
        is_whole.then(|| format!("{to}{rest}"))
    })
}

fn norm(name: &str) -> Option<String> {
    let (module, part) = name.rsplit_once('.')?;
    let part = match part {
        "weight" => "gamma",
        "bias" => "beta",
        _ => return None,
    };
    let is_norm = module.rsplit('.').next() == Some("LayerNorm");
    is_norm.then(|| format!("{module}.{part}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_memory_lead_to_the_checkpoints() {
        let all = |name| others(name).collect::<Vec<_>>();
        for (memory, file) in [
            (
                "vit.layers.11.attention.q_proj.weight",
                "vit.encoder.layer.11.attention.attention.query.weight",
            ),
            ("layers.0.mlp.fc2.bias", "encoder.layer.0.output.dense.bias"),
            (
                "vit.layers.3.layernorm_before.weight",
                "vit.encoder.layer.3.layernorm_before.weight",
            ),
            (
                "bert.embeddings.LayerNorm.weight",
                "bert.embeddings.LayerNorm.gamma",
            ),
        ] {
            assert_eq!(all(memory), [file]);
        }
        for (memory, file) in [
            (
                "vit.layers.11.attention.q_proj.lora_A.weight",
                "vit.encoder.layer.11.attention.attention.query.lora_A.weight",
            ),
            (
                "layers.0.attention.o_proj",
                "encoder.layer.0.attention.output.dense",
            ),
            ("layers.0.mlp.fc2.bias", "encoder.layer.0.output.dense.bias"),
        ] {
            assert_eq!(all(file), [memory]);
            let framed = |name: &str| format!("base_model.model.{name}");
            assert_eq!(twin(&framed(file)), Some(framed(memory)));
        }
        for same in [
            "model.layers.0.mlp.fc1.weight",
            "vit.layers.x.mlp.fc1.weight",
            "vit.layers.0.mlp.fc12.weight",
            "classifier.weight",
        ] {
            assert!(all(same).is_empty(), "{same}");
        }
    }
}
