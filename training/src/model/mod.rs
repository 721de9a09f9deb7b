//! Transformers, each read from its ordinary checkpoint folder.
//!
//! An architecture is a list of modules (names and shapes, from `config.json` alone) and a forward
//! pass over them. What trains is the modules' affair, how it is computed the engine's.

mod bert;
mod block;
mod config;
mod deberta;
mod gpt2;
mod known;
mod loading;
#[cfg(test)]
pub(crate) mod parity;
mod patches;
#[cfg(test)]
mod refusals;
mod small_vit;
mod vision;
mod vit;

use candle_core::{Result as TensorResult, Tensor};

use crate::Error;
use crate::engine::norm::Norm;
use crate::engine::{Lengths, Tape, Var};
use crate::module::{Declaration, ModuleId, Modules};

pub(crate) use config::ModelConfig;
pub use known::KNOWN;
pub(crate) use known::known;
pub(crate) use loading::Loaded;
pub(crate) use patches::PatchEmbedding;

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

/// Values of `model_type` that are supported.
const MODEL_TYPES: [&str; 7] = [
    "bert",
    "deberta-v2",
    "gpt2",
    "roberta",
    "vit",
    small_vit::POST_NORM,
    small_vit::PRE_NORM,
];

/// An architecture: module numbers and what the forward pass depends on.
#[derive(Debug, Clone)]
pub(crate) enum Architecture {
    Bert(bert::Bert),
    Deberta(deberta::Deberta),
    Gpt2(gpt2::Gpt2),
    Vit(vision::VisionTransformer),
    SmallVit(vision::VisionTransformer),
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
            "deberta-v2" => Self::Deberta(deberta::Deberta::declare(config, head, &mut modules)?),
            "gpt2" => Self::Gpt2(gpt2::Gpt2::declare(config, head, &mut modules)?),
            "vit" => Self::Vit(vit::declare(config, head, &mut modules)?),
            other if small_vit::Layout::of(other).is_some() => {
                Self::SmallVit(small_vit::declare(config, head, &mut modules)?)
            }
            other => {
                return Err(config.wrong(
                    "model_type",
                    format!("one of {}", MODEL_TYPES.join(", ")),
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
            Self::Deberta(deberta) => deberta.forward(pass, inputs),
            Self::Gpt2(gpt2) => gpt2.forward(pass, inputs),
            Self::Vit(vit) | Self::SmallVit(vit) => vit.forward(pass, inputs),
        }
    }

    /// The prefix that task checkpoints put before the names of the pretrained part.
    pub fn prefix(&self) -> &'static str {
        match self {
            Self::Bert(bert) => bert.prefix(),
            Self::Deberta(_) => "deberta.",
            Self::Gpt2(_) => "transformer.",
            Self::Vit(_) => "vit.",
            Self::SmallVit(_) => "",
        }
    }

    /// The longest sequence, if there is a limit.
    pub fn positions(&self) -> Option<usize> {
        match self {
            Self::Bert(bert) => Some(bert.positions()),
            Self::Deberta(deberta) => deberta.positions(),
            Self::Gpt2(gpt2) => Some(gpt2.positions()),
            Self::Vit(_) | Self::SmallVit(_) => None,
        }
    }

    /// What makes sequences of images, if it reads them.
    pub fn patches(&self) -> Option<&PatchEmbedding> {
        match self {
            Self::Vit(vision) | Self::SmallVit(vision) => Some(&vision.embedding),
            Self::Bert(_) | Self::Deberta(_) | Self::Gpt2(_) => None,
        }
    }

    /// Where transformers has the models of this architecture, and what their names begin with.
    pub fn library(&self) -> Option<(&'static str, &'static str)> {
        Some(match self {
            Self::Bert(bert) if bert.is_roberta() => {
                ("transformers.models.roberta.modeling_roberta", "Roberta")
            }
            Self::Bert(_) => ("transformers.models.bert.modeling_bert", "Bert"),
            Self::Deberta(_) => (
                "transformers.models.deberta_v2.modeling_deberta_v2",
                "DebertaV2",
            ),
            Self::Gpt2(_) => ("transformers.models.gpt2.modeling_gpt2", "GPT2"),
            Self::Vit(_) => ("transformers.models.vit.modeling_vit", "ViT"),
            Self::SmallVit(_) => return None,
        })
    }

    /// The name that newer programs have for a module or tensor, where it is not the checkpoint's:
    /// adapters made with them use it.
    pub fn alias(&self, name: &str) -> Option<String> {
        match self {
            Self::Vit(_) => vit::alias(name),
            Self::Bert(_) | Self::Deberta(_) | Self::Gpt2(_) | Self::SmallVit(_) => None,
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
        let module = &self.modules[id];
        let output = self.tape.linear(x, module)?;
        self.tape.watch(&module.declared.name, &output)?;
        Ok(output)
    }

    /// x through a linear layer that this pass has used before, for the time `turn`.
    pub fn linear_again(self, id: ModuleId, x: &Var, turn: usize) -> TensorResult<Var> {
        let module = &self.modules[id];
        let output = self.tape.linear_again(x, module, turn)?;
        self.tape.watch(&module.declared.name, &output)?;
        Ok(output)
    }

    /// x times the transpose of an embedding.
    pub fn tied(self, id: ModuleId, x: &Var) -> TensorResult<Var> {
        let module = &self.modules[id];
        let output = self.tape.tied(x, module)?;
        self.tape.watch(&module.declared.name, &output)?;
        Ok(output)
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
        let norm = Norm {
            weight: &module.weight,
            bias,
            epsilon,
        };
        let output = self.tape.layer_norm(x, norm)?;
        self.tape.watch(&module.declared.name, &output)?;
        Ok(output)
    }

    /// Dropout on what module `id` put out.
    pub fn dropout(self, id: ModuleId, probability: f64, x: &Var) -> TensorResult<Var> {
        let site = self.modules[id].output_site();
        self.tape.dropout(x, site, probability)
    }

    /// The tokens' types as rows of an embedding.
    pub fn types(self, id: ModuleId, inputs: &Inputs) -> TensorResult<Var> {
        match inputs.types.as_slice() {
            [] => self.embedding(id, &vec![0; inputs.ids.len()]),
            types => self.embedding(id, types),
        }
    }

    /// Rows of an embedding.
    pub fn embedding(self, id: ModuleId, indices: &[u32]) -> TensorResult<Var> {
        let module = &self.modules[id];
        let output = self.tape.embedding(module, indices)?;
        self.tape.watch(&module.declared.name, &output)?;
        Ok(output)
    }
}
