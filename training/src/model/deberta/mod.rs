//! DeBERTa v2 and v3 (He et al. 2021, 2023): post-norm blocks whose attention reads relative
//! positions from one table, shared by all blocks.
//!
//! ```text
//! h ← LN(h + drop(W_o attention(W_q h, W_k h, W_v h; W_q r, W_k r)))      r = LN(table)
//! h ← LN(h + drop(W_2 f(W_1 h)))
//! ```
//!
//! With `share_att_key` the projections of contents (their updates too) project the table, otherwise
//! it has its own. Scores are divided by √(d·terms), the terms counted from `pos_att_type` even
//! where `relative_attention` is off, as in the reference.

mod convolution;
mod relative;

use candle_core::Result as TensorResult;

use self::convolution::Convolution;
use self::relative::{RelativeTable, Terms};
use super::block::{Design, Rest};
use super::config::ModelConfig;
use super::{Head, Inputs, Pass};
use crate::Error;
use crate::engine::disentangled::Relative;
use crate::engine::distances::Distances;
use crate::engine::{Activation, Var};
use crate::module::{Declaration, ModuleId};

#[derive(Debug, Clone)]
pub(crate) struct Deberta {
    design: Design,
    /// Of the scores.
    scale: f64,
    positions: usize,
    words: ModuleId,
    position_table: Option<ModuleId>,
    type_table: Option<ModuleId>,
    widening: Option<ModuleId>,
    norm: ModuleId,
    relative: Option<RelativeTable>,
    blocks: Vec<Block>,
    convolution: Option<Convolution>,
    head: TaskHead,
}

#[derive(Debug, Clone)]
struct Block {
    query: ModuleId,
    key: ModuleId,
    value: ModuleId,
    /// What projects the relative positions to keys and to queries.
    relative_key: Option<ModuleId>,
    relative_query: Option<ModuleId>,
    rest: Rest,
}

#[derive(Debug, Clone, Copy)]
enum TaskHead {
    /// Dense, a non-linearity, projection of the first token.
    First {
        dense: ModuleId,
        project: ModuleId,
        activation: Activation,
        pooler_dropout: f64,
        dropout: f64,
    },
    /// A projection of every token.
    Every { project: ModuleId },
}

impl Deberta {
    pub fn declare(
        config: &ModelConfig,
        head: Head,
        modules: &mut Declaration,
    ) -> Result<Self, Error> {
        let width = config.size("hidden_size")?;
        let design = Design::as_in_bert(config, false, 1e-7, "gelu", 0.1)?;
        let heads = design.heads;
        config.only("attention_head_size", &(width / heads).to_string())?;
        let inner = config.size("intermediate_size")?;
        let positions = config.size_or("max_position_embeddings", Some(512))?;
        let terms = Terms::read(config)?;
        let is_relative = config.flag_or("relative_attention", false)?;
        let shares_keys = config.flag_or("share_att_key", false)?;

        let name = |part: &str| format!("deberta.embeddings.{part}");
        let embedded = config.size_or("embedding_size", Some(width))?;
        let words = modules.embedding(
            &name("word_embeddings"),
            config.size("vocab_size")?,
            embedded,
        );
        let position_table = config
            .flag_or("position_biased_input", true)?
            .then(|| modules.embedding(&name("position_embeddings"), positions, embedded));
        let type_table = match config.integer_or("type_vocab_size", 0)? {
            0 => None,
            _ => Some(modules.embedding(
                &name("token_type_embeddings"),
                config.size("type_vocab_size")?,
                embedded,
            )),
        };
        let widening = (embedded != width)
            .then(|| modules.linear_with(&name("embed_proj"), embedded, width, false));
        let norm = modules.norm(&name("LayerNorm"), width);

        let blocks = (0..config.layers("num_hidden_layers")?)
            .map(|layer| {
                let name = |part: &str| format!("deberta.encoder.layer.{layer}.{part}");
                let query = modules.linear(&name("attention.self.query_proj"), width, width);
                let key = modules.linear(&name("attention.self.key_proj"), width, width);
                let value = modules.linear(&name("attention.self.value_proj"), width, width);
                let mut projecting = |wanted: bool, shared: ModuleId, part: &str| {
                    (wanted && is_relative).then(|| match shares_keys {
                        true => shared,
                        false => modules.linear(&name(part), width, width),
                    })
                };
                Block {
                    relative_key: projecting(
                        terms.content_to_position,
                        key,
                        "attention.self.pos_key_proj",
                    ),
                    relative_query: projecting(
                        terms.position_to_content,
                        query,
                        "attention.self.pos_query_proj",
                    ),
                    query,
                    key,
                    value,
                    rest: Rest::as_in_bert(modules, name, width, inner),
                }
            })
            .collect();
        let relative = RelativeTable::declare(config, is_relative, positions, width, modules)?;
        let convolution = Convolution::declare(config, width, design, modules)?;
        let head = match head {
            Head::Classes(classes) => {
                let dense = modules.linear("pooler.dense", width, width);
                let project = modules.linear("classifier", width, classes);
                modules.head_from(dense);
                TaskHead::First {
                    dense,
                    project,
                    activation: config.activation_or("pooler_hidden_act", "gelu")?,
                    pooler_dropout: config.probability_or("pooler_dropout", 0.0)?,
                    dropout: config.probability_or("cls_dropout", design.dropout)?,
                }
            }
            Head::Span => {
                let project = modules.linear("qa_outputs", width, 2);
                modules.head_from(project);
                TaskHead::Every { project }
            }
            Head::NextToken => {
                return Err(config.wrong(
                    "model_type",
                    "a language model (gpt2) for this task",
                    "deberta-v2",
                ));
            }
        };
        Ok(Self {
            design,
            scale: 1.0 / ((width / heads * terms.count()) as f64).sqrt(),
            positions,
            words,
            position_table,
            type_table,
            widening,
            norm,
            relative,
            blocks,
            convolution,
            head,
        })
    }

    /// The longest sequence, where absolute positions limit it.
    pub fn positions(&self) -> Option<usize> {
        self.position_table.map(|_| self.positions)
    }

    pub fn forward(&self, pass: Pass<'_>, inputs: &Inputs) -> TensorResult<Var> {
        let tape = pass.tape;
        let embedded = self.embed(pass, inputs)?;
        let relative = match &self.relative {
            Some(relative) => Some(relative.rows(pass, inputs, self.design.epsilon)?),
            None => None,
        };
        let firsts = match self.head {
            TaskHead::First { .. } => Some(inputs.lengths.firsts()),
            TaskHead::Every { .. } => None,
        };
        let mut hidden = embedded.clone();
        for (index, block) in self.blocks.iter().enumerate() {
            let convolution = self.convolution.as_ref().filter(|_| index == 0);
            // Of the last block only what the head reads is computed.
            let rows = firsts
                .as_deref()
                .filter(|_| index + 1 == self.blocks.len() && convolution.is_none());
            hidden = block.rest.around(pass, self.design, &hidden, rows, |x| {
                self.attend(pass, block, x, inputs, relative.as_ref())
            })?;
            if let Some(convolution) = convolution {
                hidden = convolution.forward(pass, &embedded, &hidden, inputs)?;
            }
        }
        match self.head {
            TaskHead::Every { project } => pass.linear(project, &hidden),
            TaskHead::First {
                dense,
                project,
                activation,
                pooler_dropout,
                dropout,
            } => {
                let first = match hidden.value.dim(0)? == inputs.lengths.count() {
                    true => hidden,
                    false => tape.gather(&hidden, &inputs.lengths.firsts())?,
                };
                let first = pass.dropout(dense, pooler_dropout, &first)?;
                let pooled = tape.activation(&pass.linear(dense, &first)?, activation)?;
                let pooled = pass.dropout(project, dropout, &pooled)?;
                pass.linear(project, &pooled)
            }
        }
    }

    fn embed(&self, pass: Pass<'_>, inputs: &Inputs) -> TensorResult<Var> {
        let tape = pass.tape;
        let mut embedded = pass.embedding(self.words, &inputs.ids)?;
        if let Some(table) = self.position_table {
            let places = pass.embedding(table, &inputs.lengths.places())?;
            embedded = tape.add(&embedded, &places)?;
        }
        if let Some(table) = self.type_table {
            embedded = tape.add(&embedded, &pass.types(table, inputs)?)?;
        }
        if let Some(widening) = self.widening {
            embedded = pass.linear(widening, &embedded)?;
        }
        let embedded = pass.norm(self.norm, self.design.epsilon, &embedded)?;
        pass.dropout(self.norm, self.design.dropout, &embedded)
    }

    /// What the tokens `x` of every sequence attend to.
    fn attend(
        &self,
        pass: Pass<'_>,
        block: &Block,
        x: &Var,
        inputs: &Inputs,
        relative: Option<&(Var, Distances)>,
    ) -> TensorResult<Var> {
        let tape = pass.tape;
        let how = self.design.attention(pass, self.scale, block.query);
        let query = pass.linear(block.query, x)?;
        let key = pass.linear(block.key, x)?;
        let value = pass.linear(block.value, x)?;
        let Some((table, distances)) = relative else {
            return tape.attention(&query, &key, &value, &inputs.lengths, how);
        };
        let table = pass.dropout(block.key, self.design.dropout, table)?;
        let project =
            |id: Option<ModuleId>| id.map(|id| pass.linear_again(id, &table, 1)).transpose();
        let (relative_key, relative_query) =
            (project(block.relative_key)?, project(block.relative_query)?);
        let relative = Relative {
            key: relative_key.as_ref(),
            query: relative_query.as_ref(),
            distances,
        };
        tape.disentangled_attention([&query, &key, &value], relative, &inputs.lengths, how)
    }
}
