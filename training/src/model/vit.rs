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

use candle_core::Result as TensorResult;

use super::config::ModelConfig;
use super::patches::PatchEmbedding;
use super::{Head, Inputs, Pass};
use crate::Error;
use crate::engine::attention::Attention;
use crate::engine::{Activation, Lengths, Var};
use crate::module::{Declaration, ModuleId};

#[derive(Debug, Clone)]
pub(crate) struct Vit {
    heads: usize,
    width: usize,
    epsilon: f64,
    activation: Activation,
    dropout: f64,
    attention_dropout: f64,
    embedding: PatchEmbedding,
    blocks: Vec<Block>,
    norm: ModuleId,
    classifier: ModuleId,
}

#[derive(Debug, Clone)]
struct Block {
    query: ModuleId,
    key: ModuleId,
    value: ModuleId,
    attention_output: ModuleId,
    attention_norm: ModuleId,
    inner_norm: ModuleId,
    intermediate: ModuleId,
    output: ModuleId,
}

/// Parts of a block: as checkpoints have them, and as transformers 5 calls them in memory.
const PARTS: [(&str, &str); 6] = [
    ("attention.attention.query", "attention.q_proj"),
    ("attention.attention.key", "attention.k_proj"),
    ("attention.attention.value", "attention.v_proj"),
    ("attention.output.dense", "attention.o_proj"),
    ("intermediate.dense", "mlp.fc1"),
    ("output.dense", "mlp.fc2"),
];

impl Vit {
    pub fn declare(
        config: &ModelConfig,
        head: Head,
        modules: &mut Declaration,
    ) -> Result<Self, Error> {
        let Head::Classes(classes) = head else {
            return Err(config.wrong("model_type", "a model of text for this task", "vit"));
        };
        let width = config.size("hidden_size")?;
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
        let class_token = modules.table(&name("cls_token"), &[1, 1, width]);
        let positions = modules.table(&name("position_embeddings"), &[1, 1 + side * side, width]);
        let project = modules.patches(
            &name("patch_embeddings.projection"),
            [width, channels, patch, patch],
        );
        let blocks = (0..config.size("num_hidden_layers")?)
            .map(|layer| {
                let name = |part: &str| format!("vit.encoder.layer.{layer}.{part}");
                let mut attending = |part: &str| {
                    let name = name(&format!("attention.attention.{part}"));
                    modules.linear_with(&name, width, width, has_bias)
                };
                Block {
                    query: attending("query"),
                    key: attending("key"),
                    value: attending("value"),
                    attention_output: modules.linear(&name("attention.output.dense"), width, width),
                    intermediate: modules.linear(&name("intermediate.dense"), width, inner),
                    output: modules.linear(&name("output.dense"), inner, width),
                    attention_norm: modules.norm(&name("layernorm_before"), width),
                    inner_norm: modules.norm(&name("layernorm_after"), width),
                }
            })
            .collect();
        let norm = modules.norm("vit.layernorm", width);
        let classifier = modules.linear("classifier", width, classes);
        modules.head_from(classifier);
        Ok(Self {
            heads: config.heads("num_attention_heads", width)?,
            width,
            epsilon: config.number_or("layer_norm_eps", 1e-12)?,
            activation: config.activation_or("hidden_act", "gelu")?,
            dropout: config.probability_or("hidden_dropout_prob", 0.0)?,
            attention_dropout: config.probability_or("attention_probs_dropout_prob", 0.0)?,
            embedding: PatchEmbedding {
                patch,
                side,
                project,
                class_token,
                positions,
            },
            blocks,
            norm,
            classifier,
        })
    }

    /// The name that transformers 5 has in memory for a checkpoint's module or tensor, where it is
    /// another: adapters made with it use it.
    pub fn alias(name: &str) -> Option<String> {
        let (layer, part) = name.strip_prefix("vit.encoder.layer.")?.split_once('.')?;
        let renamed = PARTS.into_iter().find_map(|(own, alias)| {
            let rest = part.strip_prefix(own)?;
            (rest.is_empty() || rest.starts_with('.')).then(|| format!("{alias}{rest}"))
        });
        let part = renamed.unwrap_or_else(|| part.to_owned());
        Some(format!("vit.layers.{layer}.{part}"))
    }

    pub fn forward(&self, pass: Pass<'_>, inputs: &Inputs) -> TensorResult<Var> {
        let Some(pixels) = &inputs.pixels else {
            candle_core::bail!("a vision transformer: expected images, found none");
        };
        let (embedded, lengths) = self.embedding.forward(pass, pixels)?;
        let mut hidden = pass.dropout(self.embedding.project, self.dropout, &embedded)?;
        let firsts = lengths.firsts();
        for (index, block) in self.blocks.iter().enumerate() {
            // Of the last block only the class token is read.
            let rows = (index + 1 == self.blocks.len()).then_some(firsts.as_slice());
            hidden = self.block(pass, block, &hidden, &lengths, rows)?;
        }
        let hidden = pass.norm(self.norm, self.epsilon, &hidden)?;
        pass.linear(self.classifier, &hidden)
    }

    fn block(
        &self,
        pass: Pass<'_>,
        block: &Block,
        hidden: &Var,
        lengths: &Lengths,
        rows: Option<&[u32]>,
    ) -> TensorResult<Var> {
        let tape = pass.tape;
        let how = Attention {
            heads: self.heads,
            scale: 1.0 / ((self.width / self.heads) as f64).sqrt(),
            is_causal: false,
            dropout: self.attention_dropout,
            site: pass.modules[block.query].output_site(),
        };
        let normed = pass.norm(block.attention_norm, self.epsilon, hidden)?;
        let attended = tape.attention(
            &pass.linear(block.query, &normed)?,
            &pass.linear(block.key, &normed)?,
            &pass.linear(block.value, &normed)?,
            lengths,
            how,
        )?;
        let (attended, hidden) = match rows {
            Some(rows) => (tape.gather(&attended, rows)?, tape.gather(hidden, rows)?),
            None => (attended, hidden.clone()),
        };
        let attended = pass.linear(block.attention_output, &attended)?;
        let attended = pass.dropout(block.attention_output, self.dropout, &attended)?;
        let hidden = tape.add(&attended, &hidden)?;
        let normed = pass.norm(block.inner_norm, self.epsilon, &hidden)?;
        let inner = pass.linear(block.intermediate, &normed)?;
        let inner = tape.activation(&inner, self.activation)?;
        let output = pass.linear(block.output, &inner)?;
        let output = pass.dropout(block.output, self.dropout, &output)?;
        tape.add(&output, &hidden)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_memory_are_those_of_adapters() {
        let alias = |name| Vit::alias(name);
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
