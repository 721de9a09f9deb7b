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

use super::config::ModelConfig;
use super::{Head, Inputs, Pass};
use crate::Error;
use crate::engine::attention::Attention;
use crate::engine::{Activation, Var};
use crate::module::{Declaration, ModuleId};

#[derive(Debug, Clone)]
pub(crate) struct Bert {
    is_roberta: bool,
    heads: usize,
    width: usize,
    positions: usize,
    padding: u32,
    epsilon: f64,
    activation: Activation,
    dropout: f64,
    attention_dropout: f64,
    head_dropout: f64,
    words: ModuleId,
    position_table: ModuleId,
    type_table: ModuleId,
    norm: ModuleId,
    blocks: Vec<Block>,
    head: TaskHead,
}

#[derive(Debug, Clone)]
struct Block {
    query: ModuleId,
    key: ModuleId,
    value: ModuleId,
    attention_output: ModuleId,
    attention_norm: ModuleId,
    intermediate: ModuleId,
    output: ModuleId,
    output_norm: ModuleId,
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
        let inner = config.size("intermediate_size")?;
        let positions = config.size("max_position_embeddings")?;
        let dropout = config.probability_or("hidden_dropout_prob", 0.1)?;
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
                    query: modules.linear(&name("attention.self.query"), width, width),
                    key: modules.linear(&name("attention.self.key"), width, width),
                    value: modules.linear(&name("attention.self.value"), width, width),
                    attention_output: modules.linear(&name("attention.output.dense"), width, width),
                    attention_norm: modules.norm(&name("attention.output.LayerNorm"), width),
                    intermediate: modules.linear(&name("intermediate.dense"), width, inner),
                    output: modules.linear(&name("output.dense"), inner, width),
                    output_norm: modules.norm(&name("output.LayerNorm"), width),
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
            heads: config.heads("num_attention_heads", width)?,
            width,
            positions,
            padding: config.integer_or("pad_token_id", if is_roberta { 1 } else { 0 })? as u32,
            epsilon: config.number_or("layer_norm_eps", 1e-12)?,
            activation: config.activation_or("hidden_act", "gelu")?,
            dropout,
            attention_dropout: config.probability_or("attention_probs_dropout_prob", 0.1)?,
            head_dropout: config.probability_or("classifier_dropout", dropout)?,
            words,
            position_table,
            type_table,
            norm,
            blocks,
            head,
        })
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
        let types = match inputs.types.as_slice() {
            [] => pass.embedding(self.type_table, &vec![0; inputs.ids.len()])?,
            types => pass.embedding(self.type_table, types)?,
        };
        let tape = pass.tape;
        let embedded = tape.add(&tape.add(&words, &types)?, &places)?;
        let embedded = pass.norm(self.norm, self.epsilon, &embedded)?;
        let mut hidden = pass.dropout(self.norm, self.dropout, &embedded)?;
        let firsts = match self.head {
            TaskHead::First { .. } => Some(inputs.lengths.firsts()),
            TaskHead::Every { .. } => None,
        };
        for (index, block) in self.blocks.iter().enumerate() {
            // Of the last block only what the head reads is computed.
            let rows = firsts.as_deref().filter(|_| index + 1 == self.blocks.len());
            hidden = self.block(pass, block, &hidden, inputs, rows)?;
        }
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
        let sequences = inputs.lengths.iter();
        if !self.is_roberta {
            return sequences.flat_map(|(_, length)| 0..length as u32).collect();
        }
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

    fn block(
        &self,
        pass: Pass<'_>,
        block: &Block,
        hidden: &Var,
        inputs: &Inputs,
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
        let attended = tape.attention(
            &pass.linear(block.query, hidden)?,
            &pass.linear(block.key, hidden)?,
            &pass.linear(block.value, hidden)?,
            &inputs.lengths,
            how,
        )?;
        let (attended, hidden) = match rows {
            Some(rows) => (tape.gather(&attended, rows)?, tape.gather(hidden, rows)?),
            None => (attended, hidden.clone()),
        };
        let attended = pass.linear(block.attention_output, &attended)?;
        let attended = pass.dropout(block.attention_output, self.dropout, &attended)?;
        let hidden = tape.add(&attended, &hidden)?;
        let hidden = pass.norm(block.attention_norm, self.epsilon, &hidden)?;
        let inner = pass.linear(block.intermediate, &hidden)?;
        let inner = tape.activation(&inner, self.activation)?;
        let output = pass.linear(block.output, &inner)?;
        let output = pass.dropout(block.output, self.dropout, &output)?;
        pass.norm(
            block.output_norm,
            self.epsilon,
            &tape.add(&output, &hidden)?,
        )
    }
}
