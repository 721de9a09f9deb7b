//! The BERT encoder (Devlin et al. 2019) for inference: post-norm blocks, learned absolute
//! positions, exact (erf) GELU.
//!
//! A batch is packed: the tokens of all sequences stand one below the other (tokens × hidden), so
//! no padding is ever computed; attention runs sequence by sequence.
//!
//! | symbol | identifier |
//! |---|---|
//! | hidden states, tokens × hidden | `hidden` |
//! | `softmax(Q Kᵀ / √d_k) V` | [`attend`] |

use std::collections::HashMap;
use std::path::Path;

use candle_core::{D, DType, Device, Tensor};
use serde::Deserialize;

use crate::Error;

/// The keys of `config.json` that the forward pass depends on.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct BertConfig {
    pub hidden_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    pub intermediate_size: usize,
    pub max_position_embeddings: usize,
    pub vocab_size: usize,
    #[serde(default = "two")]
    pub type_vocab_size: usize,
    pub layer_norm_eps: f64,
    pub hidden_act: String,
    #[serde(default = "absolute")]
    pub position_embedding_type: String,
}

fn two() -> usize {
    2
}

fn absolute() -> String {
    "absolute".to_owned()
}

struct Linear {
    /// in × out: the stored (out × in) weight, transposed as a view.
    weight: Tensor,
    bias: Tensor,
}

impl Linear {
    fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        x.matmul(&self.weight)?.broadcast_add(&self.bias)
    }
}

struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
    epsilon: f64,
}

impl LayerNorm {
    fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
        let variance = centred.sqr()?.mean_keepdim(D::Minus1)?;
        let unit = centred.broadcast_div(&(variance + self.epsilon)?.sqrt()?)?;
        unit.broadcast_mul(&self.weight)?.broadcast_add(&self.bias)
    }
}

struct Block {
    query: Linear,
    key: Linear,
    value: Linear,
    attention_output: Linear,
    attention_norm: LayerNorm,
    intermediate: Linear,
    output: Linear,
    output_norm: LayerNorm,
}

pub(crate) struct Bert {
    pub config: BertConfig,
    words: Tensor,
    positions: Tensor,
    token_type: Tensor,
    norm: LayerNorm,
    blocks: Vec<Block>,
}

impl Bert {
    pub fn load(folder: &Path, dtype: DType, device: &Device) -> Result<Self, Error> {
        let config_path = folder.join("config.json");
        let text = rankwise_data::read_text(&config_path)?;
        let model_error = |path: &Path, what: &str, expected: &str, found: String| Error::Model {
            path: path.to_path_buf(),
            what: what.to_owned(),
            expected: expected.to_owned(),
            found,
        };
        let config: BertConfig = serde_json::from_str(&text).map_err(|error| {
            model_error(
                &config_path,
                "configuration",
                "a BERT config.json",
                error.to_string(),
            )
        })?;
        for (key, expected, found) in [
            ("hidden_act", "gelu", &config.hidden_act),
            (
                "position_embedding_type",
                "absolute",
                &config.position_embedding_type,
            ),
        ] {
            if found != expected {
                return Err(model_error(&config_path, key, expected, found.clone()));
            }
        }
        if config.num_attention_heads == 0
            || !config
                .hidden_size
                .is_multiple_of(config.num_attention_heads)
        {
            let found = config.num_attention_heads.to_string();
            let expected = format!("a divisor of hidden_size {}", config.hidden_size);
            return Err(model_error(
                &config_path,
                "num_attention_heads",
                &expected,
                found,
            ));
        }
        let path = folder.join("model.safetensors");
        // Opened first, so that a missing file is named as one.
        rankwise_data::sha256_file(&path)?;
        let tensors = candle_core::safetensors::load(&path, device).map_err(|error| {
            model_error(&path, "file", "a whole safetensors file", error.to_string())
        })?;
        Loader {
            path: &path,
            tensors,
            dtype,
        }
        .bert(config)
    }

    /// Hidden states of the last layer, tokens × hidden, of the packed `sequences`.
    ///
    /// Every sequence must have between 1 and `max_position_embeddings` ids below `vocab_size`.
    pub fn forward(&self, sequences: &[&[u32]]) -> candle_core::Result<Tensor> {
        let device = self.words.device();
        let ids = Tensor::new(sequences.concat(), device)?;
        let positions: Vec<u32> = sequences
            .iter()
            .flat_map(|ids| 0..ids.len() as u32)
            .collect();
        let positions = Tensor::new(positions, device)?;
        let embedded = (self.words.index_select(&ids, 0)?
            + self.positions.index_select(&positions, 0)?)?
        .broadcast_add(&self.token_type)?;
        let mut hidden = self.norm.forward(&embedded)?;
        for block in &self.blocks {
            hidden = self.block(block, &hidden, sequences)?;
        }
        Ok(hidden)
    }

    fn block(
        &self,
        block: &Block,
        hidden: &Tensor,
        sequences: &[&[u32]],
    ) -> candle_core::Result<Tensor> {
        let query = block.query.forward(hidden)?;
        let key = block.key.forward(hidden)?;
        let value = block.value.forward(hidden)?;
        let mut start = 0;
        let mut attended = Vec::with_capacity(sequences.len());
        for ids in sequences {
            let part = |x: &Tensor| x.narrow(0, start, ids.len());
            let heads = self.config.num_attention_heads;
            attended.push(attend(&part(&query)?, &part(&key)?, &part(&value)?, heads)?);
            start += ids.len();
        }
        let attended = block
            .attention_output
            .forward(&Tensor::cat(&attended, 0)?)?;
        let hidden = block.attention_norm.forward(&(attended + hidden)?)?;
        let inner = block.intermediate.forward(&hidden)?.gelu_erf()?;
        block
            .output_norm
            .forward(&(block.output.forward(&inner)? + hidden)?)
    }
}

/// Multi-head attention of one sequence (length × hidden each); Vaswani et al. 2017, Eq. 1.
fn attend(
    query: &Tensor,
    key: &Tensor,
    value: &Tensor,
    heads: usize,
) -> candle_core::Result<Tensor> {
    let (length, hidden) = query.dims2()?;
    let width = hidden / heads;
    let split = |x: &Tensor| {
        x.reshape((length, heads, width))?
            .transpose(0, 1)?
            .contiguous()
    };
    let scores = split(query)?.matmul(&split(key)?.transpose(1, 2)?)?;
    let scores = (scores / (width as f64).sqrt())?;
    let scores = scores
        .broadcast_sub(&scores.max_keepdim(D::Minus1)?)?
        .exp()?;
    let weights = scores.broadcast_div(&scores.sum_keepdim(D::Minus1)?)?;
    weights
        .matmul(&split(value)?)?
        .transpose(0, 1)?
        .reshape((length, hidden))
}

/// Takes tensors out of a checkpoint by name, checking shapes; knows the optional `bert.` prefix.
struct Loader<'a> {
    path: &'a Path,
    tensors: HashMap<String, Tensor>,
    dtype: DType,
}

impl Loader<'_> {
    fn bert(mut self, config: BertConfig) -> Result<Bert, Error> {
        let hidden = config.hidden_size;
        let inner = config.intermediate_size;
        let epsilon = config.layer_norm_eps;
        let words = self.take(
            "embeddings.word_embeddings.weight",
            &[config.vocab_size, hidden],
        )?;
        let positions = self.take(
            "embeddings.position_embeddings.weight",
            &[config.max_position_embeddings, hidden],
        )?;
        let token_types = self.take(
            "embeddings.token_type_embeddings.weight",
            &[config.type_vocab_size, hidden],
        )?;
        let norm = self.layer_norm("embeddings.LayerNorm", hidden, epsilon)?;
        let blocks = (0..config.num_hidden_layers)
            .map(|layer| {
                let name = |part: &str| format!("encoder.layer.{layer}.{part}");
                Ok(Block {
                    query: self.linear(&name("attention.self.query"), hidden, hidden)?,
                    key: self.linear(&name("attention.self.key"), hidden, hidden)?,
                    value: self.linear(&name("attention.self.value"), hidden, hidden)?,
                    attention_output: self.linear(
                        &name("attention.output.dense"),
                        hidden,
                        hidden,
                    )?,
                    attention_norm: self.layer_norm(
                        &name("attention.output.LayerNorm"),
                        hidden,
                        epsilon,
                    )?,
                    intermediate: self.linear(&name("intermediate.dense"), hidden, inner)?,
                    output: self.linear(&name("output.dense"), inner, hidden)?,
                    output_norm: self.layer_norm(&name("output.LayerNorm"), hidden, epsilon)?,
                })
            })
            .collect::<Result<_, Error>>()?;
        Ok(Bert {
            words,
            positions,
            // Single texts are of token type 0 throughout.
            token_type: token_types.narrow(0, 0, 1)?,
            norm,
            blocks,
            config,
        })
    }

    fn linear(&mut self, name: &str, inputs: usize, outputs: usize) -> Result<Linear, Error> {
        Ok(Linear {
            weight: self
                .take(&format!("{name}.weight"), &[outputs, inputs])?
                .t()?,
            bias: self.take(&format!("{name}.bias"), &[outputs])?,
        })
    }

    fn layer_norm(&mut self, name: &str, width: usize, epsilon: f64) -> Result<LayerNorm, Error> {
        Ok(LayerNorm {
            weight: self.take(&format!("{name}.weight"), &[width])?,
            bias: self.take(&format!("{name}.bias"), &[width])?,
            epsilon,
        })
    }

    fn take(&mut self, name: &str, shape: &[usize]) -> Result<Tensor, Error> {
        let wrong = |found: String| Error::Model {
            path: self.path.to_path_buf(),
            what: format!("tensor {name}"),
            expected: format!("shape {shape:?}"),
            found,
        };
        let tensor = self
            .tensors
            .remove(name)
            .or_else(|| self.tensors.remove(&format!("bert.{name}")))
            .ok_or_else(|| wrong("no such tensor".to_owned()))?;
        if tensor.dims() != shape {
            return Err(wrong(format!("{:?}", tensor.dims())));
        }
        Ok(tensor.to_dtype(self.dtype)?)
    }
}
