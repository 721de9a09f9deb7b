//! GPT-2 (Radford et al. 2019): pre-norm blocks over learned absolute positions, every token seeing
//! itself and what stands before it.
//!
//! ```text
//! h ← h + drop(W_o attention(W_qkv LN(h)))
//! h ← h + drop(W_2 f(W_1 LN(h)))
//! ```
//!
//! Weights are stored inputs × outputs, queries, keys and values as columns of one. The head of the
//! language model is the word embedding again. Positions count the tokens of a sequence: padding, on
//! whichever side, is not there. (The reference counts columns unless it is given positions, so its
//! outputs for padding on the left without them are not reproduced.)

use candle_core::Result as TensorResult;

use super::block::{Block, Blocks, Design, Projections, Rest};
use super::config::ModelConfig;
use super::{Head, Inputs, Pass};
use crate::Error;
use crate::engine::Var;
use crate::module::{Declaration, ModuleId};

#[derive(Debug, Clone)]
pub(crate) struct Gpt2 {
    positions: usize,
    padding: Option<u32>,
    embedding_dropout: f64,
    words: ModuleId,
    position_table: ModuleId,
    blocks: Blocks,
    norm: ModuleId,
    head: TaskHead,
}

#[derive(Debug, Clone, Copy)]
enum TaskHead {
    /// A projection of the last token.
    Last { project: ModuleId },
    /// A projection of every token.
    Every { project: ModuleId },
    /// The word embedding's transpose.
    Tied,
}

impl Gpt2 {
    pub fn declare(
        config: &ModelConfig,
        head: Head,
        modules: &mut Declaration,
    ) -> Result<Self, Error> {
        config.only("reorder_and_upcast_attn", "false")?;
        config.only("add_cross_attention", "false")?;
        let width = config.size("n_embd")?;
        let heads = config.heads("n_head", width)?;
        let inner = config.size_or("n_inner", Some(4 * width))?;
        let positions = config.size("n_positions")?;
        let scales = config.flag_or("scale_attn_weights", true)?;
        let scales_by_layer = config.flag_or("scale_attn_by_inverse_layer_idx", false)?;
        let name = |part: &str| format!("transformer.{part}");
        let words = modules.embedding(&name("wte"), config.size("vocab_size")?, width);
        let position_table = modules.embedding(&name("wpe"), positions, width);
        let blocks = (0..config.layers("n_layer")?)
            .map(|layer| {
                let name = |part: &str| format!("transformer.h.{layer}.{part}");
                let by_width = if scales {
                    ((width / heads) as f64).sqrt()
                } else {
                    1.0
                };
                let by_layer = if scales_by_layer {
                    (layer + 1) as f64
                } else {
                    1.0
                };
                let attention_norm = modules.norm(&name("ln_1"), width);
                let packed = modules.conv1d(&name("attn.c_attn"), width, 3 * width);
                Block {
                    projections: Projections::Packed(packed),
                    scale: 1.0 / (by_width * by_layer),
                    rest: Rest {
                        attention_output: modules.conv1d(&name("attn.c_proj"), width, width),
                        attention_norm,
                        output_norm: modules.norm(&name("ln_2"), width),
                        intermediate: modules.conv1d(&name("mlp.c_fc"), width, inner),
                        output: modules.conv1d(&name("mlp.c_proj"), inner, width),
                    },
                }
            })
            .collect();
        let norm = modules.norm(&name("ln_f"), width);
        let head = match head {
            Head::Classes(classes) => {
                let project = modules.linear_with("score", width, classes, false);
                modules.head_from(project);
                TaskHead::Last { project }
            }
            Head::Span => {
                let project = modules.linear("qa_outputs", width, 2);
                modules.head_from(project);
                TaskHead::Every { project }
            }
            Head::NextToken => {
                config.only("tie_word_embeddings", "true")?;
                TaskHead::Tied
            }
        };
        Ok(Self {
            positions,
            padding: config.id("pad_token_id")?,
            embedding_dropout: config.probability_or("embd_pdrop", 0.1)?,
            words,
            position_table,
            blocks: Blocks {
                design: Design {
                    is_pre_norm: true,
                    heads,
                    is_causal: true,
                    epsilon: config.number_or("layer_norm_epsilon", 1e-5)?,
                    activation: config.activation_or("activation_function", "gelu_new")?,
                    dropout: config.probability_or("resid_pdrop", 0.1)?,
                    attention_dropout: config.probability_or("attn_pdrop", 0.1)?,
                },
                blocks,
            },
            norm,
            head,
        })
    }

    /// The longest sequence.
    pub fn positions(&self) -> usize {
        self.positions
    }

    pub fn forward(&self, pass: Pass<'_>, inputs: &Inputs) -> TensorResult<Var> {
        let tape = pass.tape;
        let places = inputs.lengths.places();
        let words = pass.embedding(self.words, &inputs.ids)?;
        let embedded = tape.add(&words, &pass.embedding(self.position_table, &places)?)?;
        let hidden = pass.dropout(self.words, self.embedding_dropout, &embedded)?;
        let lasts = match self.head {
            TaskHead::Last { .. } => Some(self.lasts(inputs)),
            TaskHead::Every { .. } | TaskHead::Tied => None,
        };
        let hidden = self
            .blocks
            .forward(pass, hidden, &inputs.lengths, lasts.as_deref())?;
        let hidden = pass.norm(self.norm, self.blocks.design.epsilon, &hidden)?;
        match self.head {
            TaskHead::Last { project } | TaskHead::Every { project } => {
                pass.linear(project, &hidden)
            }
            TaskHead::Tied => pass.tied(self.words, &hidden),
        }
    }

    /// The rows that are classified: every sequence's last token whose id is not the padding's. The
    /// first where there is none, as in the reference.
    fn lasts(&self, inputs: &Inputs) -> Vec<u32> {
        let Some(padding) = self.padding else {
            return inputs.lengths.lasts();
        };
        inputs
            .lengths
            .iter()
            .map(|(start, length)| {
                let ids = &inputs.ids[start..start + length];
                let last = ids.iter().rposition(|id| *id != padding);
                (start + last.unwrap_or(0)) as u32
            })
            .collect()
    }
}
