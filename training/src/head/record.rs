use rankwise_analysis::{Measures, Orthogonality};
use rankwise_data::{Column, Table};
use serde::{Deserialize, Serialize};

/// What is known of a run after one epoch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EpochRecord {
    /// Counted from 1.
    pub epoch: usize,
    /// Mean cross-entropy over the training rows, without the regulariser.
    pub train_loss: f64,
    /// Per cent.
    pub train_accuracy: f64,
    /// Mean cross-entropy over the test rows.
    pub test_loss: f64,
    /// Per cent.
    pub test_accuracy: f64,
    /// Eq. 10 without λ; `None` for full fine-tuning.
    pub regulariser: Option<f64>,
    /// Rank measures of ΔW.
    pub measures: Measures,
    /// ‖ΔW ΔWᵀ − I‖²_F on the side of the classes.
    pub orthogonality: Orthogonality,
}

impl EpochRecord {
    /// Train minus test accuracy, percentage points.
    pub fn generalization_error(&self) -> f64 {
        self.train_accuracy - self.test_accuracy
    }
}

/// The records as columns, one row an epoch: what `metrics.parquet` holds.
pub(super) fn metrics_table(records: &[EpochRecord]) -> Result<Table, rankwise_data::Error> {
    let real = |value: fn(&EpochRecord) -> f64| -> Column { records.iter().map(value).collect() };
    let maybe =
        |value: fn(&EpochRecord) -> Option<f64>| -> Column { records.iter().map(value).collect() };
    let whole =
        |value: fn(&EpochRecord) -> usize| -> Column { records.iter().map(value).collect() };
    Table::new(vec![
        ("epoch", whole(|r| r.epoch)),
        ("train_loss", real(|r| r.train_loss)),
        ("train_accuracy", real(|r| r.train_accuracy)),
        ("test_loss", real(|r| r.test_loss)),
        ("test_accuracy", real(|r| r.test_accuracy)),
        (
            "generalization_error",
            real(EpochRecord::generalization_error),
        ),
        ("regulariser", maybe(|r| r.regulariser)),
        ("tau", real(|r| r.measures.tau)),
        ("numerical_rank", whole(|r| r.measures.numerical_rank)),
        ("energy_rank_90", whole(|r| r.measures.energy_rank_90)),
        ("energy_rank_95", whole(|r| r.measures.energy_rank_95)),
        ("energy_rank_99", whole(|r| r.measures.energy_rank_99)),
        ("stable_rank", maybe(|r| r.measures.stable_rank)),
        ("effective_rank", maybe(|r| r.measures.effective_rank)),
        (
            "effective_rank_energy",
            maybe(|r| r.measures.effective_rank_energy),
        ),
        (
            "participation_ratio",
            maybe(|r| r.measures.participation_ratio),
        ),
        ("nuclear_ratio", maybe(|r| r.measures.nuclear_ratio)),
        ("frobenius_norm", real(|r| r.measures.frobenius_norm)),
        ("spectral_norm", real(|r| r.measures.spectral_norm)),
        ("orthogonality_loss", real(|r| r.orthogonality.loss)),
        ("orthogonality_floor", real(|r| r.orthogonality.floor)),
        ("orthogonality_excess", real(|r| r.orthogonality.excess)),
    ])
}

/// Why a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StopReason {
    /// Every epoch was trained.
    Completed,
    /// A loss or a parameter stopped being a finite number; the records end before that epoch.
    Diverged,
}

/// What `run.json` says of a finished run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunSummary {
    /// The version of rankwise.
    pub version: String,
    /// The seed.
    pub seed: u64,
    /// SHA-256 of the features file.
    pub data_sha256: String,
    /// SHA-256 of the resolved configuration's TOML.
    pub config_sha256: String,
    /// Processor of the machine, operating system and device.
    pub platform: String,
    /// Why the run ended.
    pub stop_reason: StopReason,
    /// Epochs on record.
    pub epochs: usize,
    /// Numbers that training moves: the update's and the bias.
    pub trainable_parameters: usize,
    /// Seconds of training, evaluation and measuring, over all sittings.
    pub wall_seconds: f64,
    /// The last epoch's record.
    pub last: Option<EpochRecord>,
}
