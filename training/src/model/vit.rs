//! The vision transformer (Dosovitskiy et al. 2021): pre-norm blocks over the patches of an image and
//! a class token.
//!
//! ```text
//! h ← h + drop(W_o attention(W_q LN(h), W_k LN(h), W_v LN(h)))
//! h ← h + drop(W_2 f(W_1 LN(h)))
//! ```
//!
//! The class token, normalised once more, is classified. Images of another size than the
//! checkpoint's get resized positions.

use super::Head;
use super::block::{Block, Blocks, Design, Projections, Rest};
use super::config::ModelConfig;
use super::patches::PatchEmbedding;
use super::vision::VisionTransformer;
use crate::Error;
use crate::module::Declaration;

/// Parts of a block: as checkpoints have them, and as transformers 5 calls them in memory.
const PARTS: [(&str, &str); 6] = [
    ("attention.attention.query", "attention.q_proj"),
    ("attention.attention.key", "attention.k_proj"),
    ("attention.attention.value", "attention.v_proj"),
    ("attention.output.dense", "attention.o_proj"),
    ("intermediate.dense", "mlp.fc1"),
    ("output.dense", "mlp.fc2"),
];

/// The model that a configuration describes.
pub(crate) fn declare(
    config: &ModelConfig,
    head: Head,
    modules: &mut Declaration,
) -> Result<VisionTransformer, Error> {
    let Head::Classes(classes) = head else {
        return Err(config.wrong("model_type", "a model of text for this task", "vit"));
    };
    let width = config.size("hidden_size")?;
    let design = Design::as_in_bert(config, true, 1e-12, "gelu", 0.0)?;
    let inner = config.size("intermediate_size")?;
    let has_bias = config.flag_or("qkv_bias", true)?;
    let channels = config.size_or("num_channels", Some(3))?;
    let patch = config.size_or("patch_size", Some(16))?;
    let image = config.size_or("image_size", Some(224))?;
    if patch > image {
        return Err(config.wrong(
            "patch_size",
            format!("at most the image_size {image}"),
            patch.to_string(),
        ));
    }
    let side = image / patch;
    let name = |part: &str| format!("vit.embeddings.{part}");
    let embedding = PatchEmbedding::declare(
        modules,
        [
            &name("cls_token"),
            &name("position_embeddings"),
            &name("patch_embeddings.projection"),
        ],
        width,
        channels,
        patch,
        side,
    );
    let blocks = (0..config.layers("num_hidden_layers")?)
        .map(|layer| {
            let name = |part: &str| format!("vit.encoder.layer.{layer}.{part}");
            let mut attending = |part: &str| {
                let name = name(&format!("attention.attention.{part}"));
                modules.linear_with(&name, width, width, has_bias)
            };
            Block {
                projections: Projections::Apart {
                    query: attending("query"),
                    key: attending("key"),
                    value: attending("value"),
                },
                scale: design.scale(width),
                rest: Rest {
                    attention_output: modules.linear(&name("attention.output.dense"), width, width),
                    intermediate: modules.linear(&name("intermediate.dense"), width, inner),
                    output: modules.linear(&name("output.dense"), inner, width),
                    attention_norm: modules.norm(&name("layernorm_before"), width),
                    output_norm: modules.norm(&name("layernorm_after"), width),
                },
            }
        })
        .collect();
    let norm = modules.norm("vit.layernorm", width);
    let classifier = modules.linear("classifier", width, classes);
    modules.head_from(classifier);
    Ok(VisionTransformer {
        embedding,
        blocks: Blocks { design, blocks },
        norm,
        classifier,
    })
}

/// The name that transformers 5 has in memory for a checkpoint's module or tensor, where it is
/// another: adapters made with it use it.
pub(crate) fn alias(name: &str) -> Option<String> {
    let (layer, part) = name.strip_prefix("vit.encoder.layer.")?.split_once('.')?;
    let renamed = PARTS.into_iter().find_map(|(own, alias)| {
        let rest = part.strip_prefix(own)?;
        (rest.is_empty() || rest.starts_with('.')).then(|| format!("{alias}{rest}"))
    });
    let part = renamed.unwrap_or_else(|| part.to_owned());
    Some(format!("vit.layers.{layer}.{part}"))
}

#[cfg(test)]
mod tests {
    use super::alias;

    #[test]
    fn names_in_memory_are_those_of_adapters() {
        assert_eq!(
            alias("vit.encoder.layer.11.attention.attention.query").as_deref(),
            Some("vit.layers.11.attention.q_proj")
        );
        assert_eq!(
            alias("vit.encoder.layer.0.attention.output.dense.weight").as_deref(),
            Some("vit.layers.0.attention.o_proj.weight")
        );
        assert_eq!(
            alias("vit.encoder.layer.0.output.dense").as_deref(),
            Some("vit.layers.0.mlp.fc2")
        );
        assert_eq!(
            alias("vit.encoder.layer.0.layernorm_before").as_deref(),
            Some("vit.layers.0.layernorm_before")
        );
        assert_eq!(alias("classifier"), None);
    }
}
