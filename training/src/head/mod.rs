//! The last-layer protocol: a frozen random head over fixed features, and its update.

mod folder;
#[cfg(test)]
mod gradients;
mod kernels;
mod method;
mod model;
mod record;
mod run;
mod task;

pub use method::{Initialisation, MaskPeriod, MethodConfig, MethodName};
pub use record::{EpochRecord, RunSummary, StopReason};
pub use run::{Progress, train};
pub use task::Task;
