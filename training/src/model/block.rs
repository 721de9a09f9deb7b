//! The blocks of a transformer: attention, then two linear layers with a non-linearity between, each
//! half with dropout, a residual and a normalisation of its own.
//!
//! ```text
//! post-norm  h ← LN(h + drop(W_o attention(h)))         h ← LN(h + drop(W_2 f(W_1 h)))
//! pre-norm   h ← h + drop(W_o attention(LN(h)))         h ← h + drop(W_2 f(W_1 LN(h)))
//! ```
//!
//! | symbol | identifier |
//! |---|---|
//! | W_q, W_k, W_v | [`Projections`] |
//! | W_o, W_1, W_2 | `attention_output`, `intermediate`, `output` |
//! | f | `activation` |

use candle_core::Result as TensorResult;

use super::Pass;
use super::config::ModelConfig;
use crate::Error;
use crate::engine::attention::Attention;
use crate::engine::{Activation, Lengths, Var};
use crate::module::{Declaration, ModuleId};

/// What all blocks of a model have in common.
#[derive(Debug, Clone, Copy)]
pub(super) struct Design {
    /// Whether a half normalises what it reads; otherwise what it puts out.
    pub is_pre_norm: bool,
    pub heads: usize,
    /// Whether a token sees only itself and what stands before it.
    pub is_causal: bool,
    pub epsilon: f64,
    pub activation: Activation,
    pub dropout: f64,
    pub attention_dropout: f64,
}

/// What makes queries, keys and values.
#[derive(Debug, Clone, Copy)]
pub(super) enum Projections {
    Apart {
        query: ModuleId,
        key: ModuleId,
        value: ModuleId,
    },
    /// One, which puts them beside each other.
    Packed(ModuleId),
}

/// A block whose tokens attend to each other by their contents alone.
#[derive(Debug, Clone, Copy)]
pub(super) struct Block {
    pub projections: Projections,
    /// Of the scores.
    pub scale: f64,
    pub rest: Rest,
}

/// A block but for its attention.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rest {
    pub attention_output: ModuleId,
    pub attention_norm: ModuleId,
    pub intermediate: ModuleId,
    pub output: ModuleId,
    pub output_norm: ModuleId,
}

/// Blocks one after the other.
#[derive(Debug, Clone)]
pub(super) struct Blocks {
    pub design: Design,
    pub blocks: Vec<Block>,
}

impl Blocks {
    pub fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    /// `hidden` through all blocks; of the last one only what the head reads is computed, if that is
    /// some `rows`.
    pub fn forward(
        &self,
        pass: Pass<'_>,
        mut hidden: Var,
        lengths: &Lengths,
        rows: Option<&[u32]>,
    ) -> TensorResult<Var> {
        for (index, block) in self.blocks.iter().enumerate() {
            let rows = rows.filter(|_| index + 1 == self.blocks.len());
            hidden = block.rest.around(pass, self.design, &hidden, rows, |x| {
                block.attend(pass, self.design, x, lengths)
            })?;
        }
        Ok(hidden)
    }
}

impl Block {
    fn attend(
        &self,
        pass: Pass<'_>,
        design: Design,
        x: &Var,
        lengths: &Lengths,
    ) -> TensorResult<Var> {
        match self.projections {
            Projections::Apart { query, key, value } => pass.tape.attention(
                &pass.linear(query, x)?,
                &pass.linear(key, x)?,
                &pass.linear(value, x)?,
                lengths,
                design.attention(pass, self.scale, query),
            ),
            Projections::Packed(packed) => pass.tape.packed_attention(
                &pass.linear(packed, x)?,
                lengths,
                design.attention(pass, self.scale, packed),
            ),
        }
    }
}

impl Design {
    /// What a configuration says under the keys that BERT's has; `epsilon`, `activation` and
    /// `dropout` where it is silent.
    pub fn as_in_bert(
        config: &ModelConfig,
        is_pre_norm: bool,
        epsilon: f64,
        activation: &str,
        dropout: f64,
    ) -> Result<Self, Error> {
        Ok(Self {
            is_pre_norm,
            heads: config.heads("num_attention_heads", config.size("hidden_size")?)?,
            is_causal: false,
            epsilon: config.number_or("layer_norm_eps", epsilon)?,
            activation: config.activation_or("hidden_act", activation)?,
            dropout: config.probability_or("hidden_dropout_prob", dropout)?,
            attention_dropout: config.probability_or("attention_probs_dropout_prob", dropout)?,
        })
    }

    /// The scores' ordinary scale, 1/√(width of a head).
    pub fn scale(self, width: usize) -> f64 {
        1.0 / ((width / self.heads) as f64).sqrt()
    }

    /// How queries meet keys; the dropout on the weights is that of module `site`.
    pub fn attention(self, pass: Pass<'_>, scale: f64, site: ModuleId) -> Attention {
        Attention {
            heads: self.heads,
            scale,
            is_causal: self.is_causal,
            dropout: self.attention_dropout,
            site: pass.modules[site].output_site(),
        }
    }
}

impl Rest {
    /// Declares the modules under the names that BERT gave them; `name` puts a block's before a
    /// part's.
    pub fn as_in_bert(
        modules: &mut Declaration,
        name: impl Fn(&str) -> String,
        width: usize,
        inner: usize,
    ) -> Self {
        Self {
            attention_output: modules.linear(&name("attention.output.dense"), width, width),
            attention_norm: modules.norm(&name("attention.output.LayerNorm"), width),
            intermediate: modules.linear(&name("intermediate.dense"), width, inner),
            output: modules.linear(&name("output.dense"), inner, width),
            output_norm: modules.norm(&name("output.LayerNorm"), width),
        }
    }

    /// The block around its attention; only `rows` of what that puts out are gone on with, if some
    /// are given.
    pub fn around(
        self,
        pass: Pass<'_>,
        design: Design,
        hidden: &Var,
        rows: Option<&[u32]>,
        attend: impl FnOnce(&Var) -> TensorResult<Var>,
    ) -> TensorResult<Var> {
        let tape = pass.tape;
        // Each normalisation stands before its half of the block or after it.
        let norm = |id: ModuleId, x: &Var, is_here: bool| match is_here {
            true => pass.norm(id, design.epsilon, x),
            false => Ok(x.clone()),
        };
        let (before, after) = (design.is_pre_norm, !design.is_pre_norm);
        let attended = attend(&norm(self.attention_norm, hidden, before)?)?;
        let (attended, hidden) = match rows {
            Some(rows) => (tape.gather(&attended, rows)?, tape.gather(hidden, rows)?),
            None => (attended, hidden.clone()),
        };
        let attended = pass.linear(self.attention_output, &attended)?;
        let attended = pass.dropout(self.attention_output, design.dropout, &attended)?;
        let hidden = tape.add(&attended, &hidden)?;
        let hidden = norm(self.attention_norm, &hidden, after)?;
        let inner = norm(self.output_norm, &hidden, before)?;
        let inner = pass.linear(self.intermediate, &inner)?;
        let inner = tape.activation(&inner, design.activation)?;
        let output = pass.linear(self.output, &inner)?;
        let output = pass.dropout(self.output, design.dropout, &output)?;
        norm(self.output_norm, &tape.add(&output, &hidden)?, after)
    }
}
