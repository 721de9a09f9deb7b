//! Transformers, each read from its ordinary checkpoint folder.
//!
//! An architecture is a list of modules (names and shapes, from `config.json` alone) and a forward
//! pass over them. What trains is the modules' affair, how it is computed the engine's.

mod bert;
mod config;
mod loading;
#[cfg(test)]
pub(crate) mod parity;

use candle_core::{DType, Device, Result as TensorResult, Tensor};

use crate::Error;
use crate::engine::norm::Norm;
use crate::engine::{Activation, Lengths, Tape, Var};
use crate::module::{Declaration, ModuleId, Modules};

pub(crate) use config::ModelConfig;
pub(crate) use loading::Loaded;

/// What a model is asked for: which head it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Head {
    /// Logits of that many classes, one row a sequence or image; one output is a regression's.
    Classes(usize),
    /// Logits of the first and the last token of an answer, one row a token.
    Span,
    /// Logits of the next token, one row a token.
    NextToken,
}

/// A part of a batch, without padding.
#[derive(Debug, Clone)]
pub(crate) struct Inputs {
    /// Token ids of all sequences, one below the other; empty for images.
    pub ids: Vec<u32>,
    /// Token types, as many as ids, or none: all zero.
    pub types: Vec<u32>,
    /// Where the sequences begin; for images one row each.
    pub lengths: Lengths,
    /// Images × channels × height × width.
    pub pixels: Option<Tensor>,
}

/// An architecture: module numbers and what the forward pass depends on.
#[derive(Debug, Clone)]
pub(crate) enum Architecture {
    Bert(bert::Bert),
}

impl Architecture {
    /// The architecture that a configuration describes, with the modules that it is made of.
    ///
    /// # Errors
    /// [`Error::Model`] for an unknown model type or a value that is not supported.
    pub fn declare(config: &ModelConfig, head: Head) -> Result<(Self, Declaration), Error> {
        let mut modules = Declaration::default();
        let architecture = match config.model_type()? {
            "bert" | "roberta" => Self::Bert(bert::Bert::declare(config, head, &mut modules)?),
            other => {
                return Err(config.wrong(
                    "model_type",
                    "one of bert, roberta",
                    format!("{other:?}"),
                ));
            }
        };
        Ok((architecture, modules))
    }

    /// The outputs of the head: rows × outputs.
    pub fn forward(&self, pass: Pass<'_>, inputs: &Inputs) -> TensorResult<Var> {
        match self {
            Self::Bert(bert) => bert.forward(pass, inputs),
        }
    }

    /// The prefix that task checkpoints put before the names of the pretrained part.
    pub fn prefix(&self) -> &'static str {
        match self {
            Self::Bert(bert) => bert.prefix(),
        }
    }

    /// The longest sequence, if there is a limit.
    pub fn positions(&self) -> Option<usize> {
        match self {
            Self::Bert(bert) => Some(bert.positions()),
        }
    }
}

/// A model on its way through a tape.
#[derive(Clone, Copy)]
pub(crate) struct Pass<'a> {
    pub tape: &'a Tape<'a>,
    pub modules: &'a Modules,
}

impl Pass<'_> {
    /// x through a linear layer.
    pub fn linear(self, id: ModuleId, x: &Var) -> TensorResult<Var> {
        self.tape.linear(x, &self.modules[id])
    }

    /// The rows of x normalised.
    pub fn norm(self, id: ModuleId, epsilon: f64, x: &Var) -> TensorResult<Var> {
        let module = &self.modules[id];
        let Some(bias) = &module.bias else {
            candle_core::bail!(
                "{}: a layer normalisation without a bias",
                module.declared.name
            );
        };
        let weight = &module.weight;
        self.tape.layer_norm(
            x,
            Norm {
                weight,
                bias,
                epsilon,
            },
        )
    }

    /// Dropout on what module `id` put out.
    pub fn dropout(self, id: ModuleId, probability: f64, x: &Var) -> TensorResult<Var> {
        let site = self.modules[id].output_site();
        self.tape.dropout(x, site, probability)
    }

    /// Rows of an embedding.
    pub fn embedding(self, id: ModuleId, indices: &[u32]) -> TensorResult<Var> {
        self.tape.embedding(&self.modules[id], indices)
    }
}
