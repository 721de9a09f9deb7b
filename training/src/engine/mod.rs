//! The training step: a tape of whole operations, each with its own backward pass.
//!
//! A model is written in terms of these operations and says *what* is computed; how is decided here,
//! once for the CPU (fused loops over slices) and once for any other device (the same arithmetic
//! through tensor operations). Three things follow from the shape of low-rank adaptation:
//!
//! - hidden states are packed, tokens × hidden: the sequences of a batch stand one below the other
//!   and no padding is ever computed ([`Lengths`] says where they begin);
//! - a frozen weight gets no gradient: the backward pass of a linear layer with an adapter is one
//!   product with the frozen weight and four thin ones;
//! - what nothing trainable lies before is not recorded, so there is no backward pass below the
//!   first adapted layer.
//!
//! | room | what is in it |
//! |---|---|
//! | `tape` | values, records, the way back |
//! | `parameters` | all that trains, in one flat buffer |
//! | `update`, `optimizer` | AdamW and SGD, and either over that buffer |
//! | `linear`, `low_rank`, `decomposed`, `embedding`, `norm`, `activation`, `attention`, `disentangled` (with `distances`), `rows`, `dropout`, `loss` | the operations |
//! | `host` | numbers and loops of the CPU |

pub(crate) mod activation;
pub(crate) mod attention;
pub(crate) mod decomposed;
#[cfg(test)]
mod differences;
pub(crate) mod disentangled;
pub(crate) mod distances;
pub(crate) mod dropout;
mod embedding;
pub(crate) mod host;
pub(crate) mod linear;
pub(crate) mod loss;
mod low_rank;
pub(crate) mod norm;
pub(crate) mod optimizer;
pub(crate) mod parameters;
pub(crate) mod rows;
pub(crate) mod tape;
pub(crate) mod update;

pub(crate) use activation::Activation;
pub(crate) use decomposed::row_lengths;
pub(crate) use parameters::{ParameterId, Parameters};
pub(crate) use rows::Lengths;
pub(crate) use tape::{Gradients, Tape, Var};
