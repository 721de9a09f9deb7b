//! Names that one tensor has in several places: what a program calls it in memory, and so an adapter,
//! and what the checkpoint calls it.
//!
//! | in memory | in the checkpoint |
//! |---|---|
//! | `vit.layers.N.attention.q_proj` (transformers 5) | `vit.encoder.layer.N.attention.attention.query` |
//! | `….LayerNorm.weight`, `….LayerNorm.bias` | `….LayerNorm.gamma`, `….LayerNorm.beta` (the first checkpoints) |
//!
//! Source: `conversion_mapping.py` of huggingface/transformers 5.

/// Parts of a layer of a vision transformer: in memory, in the checkpoint.
const PARTS: [(&str, &str); 6] = [
    ("attention.q_proj", "attention.attention.query"),
    ("attention.k_proj", "attention.attention.key"),
    ("attention.v_proj", "attention.attention.value"),
    ("attention.o_proj", "attention.output.dense"),
    ("mlp.fc1", "intermediate.dense"),
    ("mlp.fc2", "output.dense"),
];

/// The other names that the tensor `name` may have in a checkpoint.
pub(super) fn others(name: &str) -> impl Iterator<Item = String> {
    [vision(name), norm(name)].into_iter().flatten()
}

fn vision(name: &str) -> Option<String> {
    let (outer, inner) = match name.strip_prefix("vit.") {
        Some(inner) => ("vit.", inner),
        None => ("", name),
    };
    let (layer, part) = inner.strip_prefix("layers.")?.split_once('.')?;
    layer.parse::<u32>().ok()?;
    if part.starts_with("layernorm_") {
        return Some(format!("{outer}encoder.layer.{layer}.{part}"));
    }
    PARTS.into_iter().find_map(|(memory, file)| {
        let rest = part.strip_prefix(memory)?;
        let is_whole = rest.is_empty() || rest.starts_with('.');
        is_whole.then(|| format!("{outer}encoder.layer.{layer}.{file}{rest}"))
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
