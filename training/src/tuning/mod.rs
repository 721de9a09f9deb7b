//! Fine-tuning of transformers: a model, a method, data, and the run that brings them together.

mod account;
mod agreement;
mod assembly;
mod batch;
mod beginning;
mod bench;
mod building;
mod change;
mod classes;
mod config;
mod data;
mod evaluate;
mod export;
mod folder;
mod memory;
mod order;
mod peft;
mod ranks;
mod record;
mod rehearsal;
mod resolved;
mod run;
mod snapshot;
mod trainer;

pub use agreement::{DeviceAgreement, compare_devices};
pub(crate) use assembly::{Prepared, Tuned};
pub(crate) use batch::Item;
pub use bench::{StepBench, StepTime, cpu_seconds};
pub use config::{
    EvaluationSettings, ModelSettings, OptimizerName, OptimizerSettings, ScheduleSettings, Shape,
    TaskSettings, TuneConfig, TunePrecision,
};
pub use data::Sources;
pub use evaluate::Scores;
pub use ranks::ModuleRank;
pub use record::{StepRecord, Trainable, TuneRecord, TuneStop, TuneSummary};
pub use rehearsal::{Rehearsal, rehearse};
pub use run::{TuneProgress, tune};
#[cfg(test)]
pub(crate) use {
    assembly::Pull,
    batch::{Batch, Part},
    beginning::Beginning,
    peft::write_adapter,
};
