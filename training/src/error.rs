use std::path::PathBuf;

/// What can go wrong in training, in a configuration or in a model's files.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A setting is unknown, of the wrong type or outside its range.
    #[error("{origin}: key {key}: expected {expected}, found {found}")]
    Setting {
        /// The file or flag that the setting came from.
        origin: String,
        /// The dotted key, such as `method.rank`.
        key: String,
        /// What is allowed there.
        expected: String,
        /// What was given.
        found: String,
    },
    /// A model file lacks something or has it in the wrong shape.
    #[error("{}: {what}: expected {expected}, found {found}", path.display())]
    Model {
        /// The file.
        path: PathBuf,
        /// The key or tensor.
        what: String,
        /// What the architecture asks for.
        expected: String,
        /// What the file has.
        found: String,
    },
    /// A run folder belongs to something else, so nothing in it was touched.
    #[error("{}: {what}; nothing was changed there, choose another folder or remove it", path.display())]
    ForeignFolder {
        /// The folder.
        path: PathBuf,
        /// Why it is not this run's.
        what: String,
    },
    /// The device is not there, or not in this build.
    #[error("device {device}: {reason}")]
    Device {
        /// As it was asked for.
        device: String,
        /// Why it cannot be used.
        reason: String,
    },
    /// A metric is not defined for what it was given.
    #[error("metric {metric}: expected {expected}, found {found}")]
    Metric {
        /// The metric's name.
        metric: &'static str,
        /// What it is defined for.
        expected: String,
        /// What it was given.
        found: String,
    },
    /// No answer can be read out of these logits and offsets.
    #[error("answer: {what}: expected {expected}, found {found}")]
    Answer {
        /// The part that is wrong.
        what: String,
        /// What belongs there.
        expected: String,
        /// What is there.
        found: String,
    },
    /// A tensor operation failed.
    #[error("tensor operation: {0}")]
    Tensor(#[from] candle_core::Error),
    /// The data or a record could not be read or written.
    #[error(transparent)]
    Data(#[from] rankwise_data::Error),
    /// A spectrum could not be computed, or an adapter not be written.
    #[error(transparent)]
    Analysis(#[from] rankwise_analysis::Error),
}
