//! Adapters trained through candle: the methods, the step, the sentence encoder.
//!
//! ```
//! use rankwise_training::{MethodName, RunConfig};
//! let text = "[method]\nname = \"rm-lora\"\nrank = 16\n";
//! let config = RunConfig::from_toml(text, "doc")?.resolved("doc", 384, 77)?;
//! assert_eq!(config.method.name, MethodName::RmLora);
//! assert_eq!(config.method.directions, Some(12));
//! # Ok::<(), rankwise_training::Error>(())
//! ```

mod config;
mod count;
mod device;
mod draw;
mod encoder;
mod engine;
mod error;
mod folder;
mod head;
mod method;
mod metric;
mod model;
mod module;
mod settings;
mod tuning;

pub use config::{EvaluateOn, OptimizerConfig, Precision, RunConfig, ScheduleConfig, TaskConfig};
pub use count::{KindCount, ParameterCount, count_parameters};
pub use device::DeviceName;
pub use encoder::SentenceEncoder;
pub use error::Error;
pub use head::{
    EpochRecord, Initialisation, MaskPeriod, MethodConfig, MethodName, Progress, RunSummary,
    StopReason, Task, train,
};
pub use method::{Common, Method, MethodTable};
pub use metric::{
    Answer, AnswerOptions, AnswerScores, AnswerWindow, Direction, GoldAnswers, Metric, accuracy,
    answer_f1, best_answers, chosen_answer, evaluate_answers, f1, glue_metrics, is_exact_match,
    matthews, normalized_answer, pearson,
};
pub use model::KNOWN as KNOWN_MODELS;
pub use settings::{Configuration, Given, Key};
pub use tuning::{
    DeviceAgreement, EvaluationSettings, ModelSettings, ModuleRank, OptimizerName,
    OptimizerSettings, Rehearsal, ScheduleSettings, Scores, Shape, Sources, StepBench, StepRecord,
    StepTime, TaskSettings, Trainable, TuneConfig, TunePrecision, TuneProgress, TuneRecord,
    TuneStop, TuneSummary, compare_devices, cpu_seconds, rehearse, tune,
};

/// Keeps every matrix product of the CPU on the thread that asks for it.
///
/// Work is shared out a run or a batch of texts at a time, which scales better than splitting
/// products of this size, and leaves the bits independent of the number of threads. The setting is
/// one of the product's library, for the whole process.
fn single_threaded_products() {
    gemm::set_threading_threshold(usize::MAX);
}
