//! BERT (Devlin et al. 2019) and RoBERTa (Liu et al. 2019): post-norm blocks over learned absolute
//! positions.
//!
//! ```text
//! h ← LN(h + drop(W_o attention(W_q h, W_k h, W_v h)))
//! h ← LN(h + drop(W_2 f(W_1 h)))
//! ```
//!
//! RoBERTa differs in its positions, which begin after the padding id and skip padding, and in its
//! classification head (dense, tanh, projection of the first token; BERT: pooler and classifier).

use candle_core::Result as TensorResult;

use super::block::{Block, Blocks, Design, Projections, Rest};
use super::config::ModelConfig;
use super::{Head, Inputs, Pass};
use crate::Error;
use crate::engine::{Activation, Var};
use crate::module::{Declaration, ModuleId};

#[derive(Debug, Clone)]
pub(crate) struct Bert {
    is_roberta: bool,
    positions: usize,
    padding: u32,
    head_dropout: f64,
    words: ModuleId,
    position_table: ModuleId,
    type_table: ModuleId,
    norm: ModuleId,
    blocks: Blocks,
    head: TaskHead,
}

#[derive(Debug, Clone, Copy)]
enum TaskHead {
    /// Dense, tanh, projection of the first token.
    First { dense: ModuleId, project: ModuleId },
    /// A projection of every token.
    Every { project: ModuleId },
}

impl Bert {
    pub fn declare(
        config: &ModelConfig,
        head: Head,
        modules: &mut Declaration,
    ) -> Result<Self, Error> {
        let is_roberta = config.model_type()? == "roberta";
        config.only("position_embedding_type", "absolute")?;
        config.only("is_decoder", "false")?;
        let width = config.size("hidden_size")?;
        let design = Design::as_in_bert(config, false, 1e-12, "gelu", 0.1)?;
        let inner = config.size("intermediate_size")?;
        let positions = config.size("max_position_embeddings")?;
        let prefix = if is_roberta { "roberta" } else { "bert" };
        let name = |part: &str| format!("{prefix}.embeddings.{part}");
        let words = modules.embedding(&name("word_embeddings"), config.size("vocab_size")?, width);
        let position_table = modules.embedding(&name("position_embeddings"), positions, width);
        let types = config.size_or("type_vocab_size", Some(2))?;
        let type_table = modules.embedding(&name("token_type_embeddings"), types, width);
        let norm = modules.norm(&name("LayerNorm"), width);
        let blocks = (0..config.layers("num_hidden_layers")?)
            .map(|layer| {
                let name = |part: &str| format!("{prefix}.encoder.layer.{layer}.{part}");
                Block {
                    projections: Projections::Apart {
                        query: modules.linear(&name("attention.self.query"), width, width),
                        key: modules.linear(&name("attention.self.key"), width, width),
                        value: modules.linear(&name("attention.self.value"), width, width),
                    },
                    scale: design.scale(width),
                    rest: Rest::as_in_bert(modules, name, width, inner),
                }
            })
            .collect();
        let head = match (head, is_roberta) {
            (Head::Classes(classes), false) => {
                let dense = modules.linear("bert.pooler.dense", width, width);
                let project = modules.linear("classifier", width, classes);
                modules.head_from(project);
                TaskHead::First { dense, project }
            }
            (Head::Classes(classes), true) => {
                let dense = modules.linear("classifier.dense", width, width);
                modules.head_from(dense);
                let project = modules.linear("classifier.out_proj", width, classes);
                modules.head_from(dense);
                TaskHead::First { dense, project }
            }
            (Head::Span, _) => {
                let project = modules.linear("qa_outputs", width, 2);
                modules.head_from(project);
                TaskHead::Every { project }
            }
            (Head::NextToken, _) => {
                return Err(config.wrong(
                    "model_type",
                    "a language model (gpt2) for this task",
                    prefix,
                ));
            }
        };
        Ok(Self {
            is_roberta,
            positions,
            padding: config.integer_or("pad_token_id", if is_roberta { 1 } else { 0 })? as u32,
            head_dropout: config.probability_or("classifier_dropout", design.dropout)?,
            words,
            position_table,
            type_table,
            norm,
            blocks: Blocks { design, blocks },
            head,
        })
    }

    pub fn is_roberta(&self) -> bool {
        self.is_roberta
    }

    pub fn prefix(&self) -> &'static str {
        if self.is_roberta { "roberta." } else { "bert." }
    }

    /// The longest sequence.
    pub fn positions(&self) -> usize {
        match self.is_roberta {
            true => self.positions.saturating_sub(self.padding as usize + 1),
            false => self.positions,
        }
    }

    pub fn forward(&self, pass: Pass<'_>, inputs: &Inputs) -> TensorResult<Var> {
        let words = pass.embedding(self.words, &inputs.ids)?;
        let places = pass.embedding(self.position_table, &self.places(inputs))?;
        let types = pass.types(self.type_table, inputs)?;
        let tape = pass.tape;
        let design = self.blocks.design;
        let embedded = tape.add(&tape.add(&words, &types)?, &places)?;
        let embedded = pass.norm(self.norm, design.epsilon, &embedded)?;
        let hidden = pass.dropout(self.norm, design.dropout, &embedded)?;
        let firsts = match self.head {
            TaskHead::First { .. } => Some(inputs.lengths.firsts()),
            TaskHead::Every { .. } => None,
        };
        let hidden = self
            .blocks
            .forward(pass, hidden, &inputs.lengths, firsts.as_deref())?;
        match self.head {
            TaskHead::Every { project } => pass.linear(project, &hidden),
            TaskHead::First { dense, project } => {
                let first = if self.blocks.is_empty() {
                    tape.gather(&hidden, &inputs.lengths.firsts())?
                } else {
                    hidden
                };
                let first = match self.is_roberta {
                    true => pass.dropout(dense, self.head_dropout, &first)?,
                    false => first,
                };
                let pooled = tape.activation(&pass.linear(dense, &first)?, Activation::Tanh)?;
                let pooled = pass.dropout(project, self.head_dropout, &pooled)?;
                pass.linear(project, &pooled)
            }
        }
    }

    /// Position ids. RoBERTa counts the tokens that are no padding, from the padding id on.
    fn places(&self, inputs: &Inputs) -> Vec<u32> {
        if !self.is_roberta {
            return inputs.lengths.places();
        }
        let sequences = inputs.lengths.iter();
        sequences
            .flat_map(|(start, length)| {
                let mut seen = 0;
                inputs.ids[start..start + length].iter().map(move |id| {
                    if *id == self.padding {
                        return self.padding;
                    }
                    seen += 1;
                    self.padding + seen
                })
            })
            .collect()
    }
}
