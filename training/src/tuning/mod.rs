//! Fine-tuning of transformers: a model, a method, and the steps between them.

mod assembly;
mod batch;
mod bench;

pub(crate) use assembly::Tuned;
pub(crate) use batch::{Batch, Item, Part, Target};
pub use bench::StepBench;
