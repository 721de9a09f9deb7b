use rankwise_data::{Column, Table};
use serde::{Deserialize, Serialize};

use super::evaluate::Scores;
use super::ranks::ModuleRank;

/// What is known of a run after one epoch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TuneRecord {
    /// Counted from 1.
    pub epoch: usize,
    /// Steps made so far.
    pub steps: u64,
    /// Mean of the steps' losses in this epoch, in training mode, without the method's own term.
    pub train_loss: f64,
    /// Mean of the method's own term in this epoch.
    pub regulariser: f64,
    /// Evaluations, the deciding set first.
    pub scores: Vec<Scores>,
    /// Every module's rank.
    pub ranks: Vec<ModuleRank>,
    /// Seconds of the epoch's steps.
    pub train_seconds: f64,
    /// Seconds of its evaluation.
    pub evaluate_seconds: f64,
    /// Seconds of measuring ranks.
    pub rank_seconds: f64,
}

/// One step, for the log.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepRecord {
    /// The task's loss.
    pub loss: f64,
    /// The method's own term.
    pub regulariser: f64,
    /// ‖gradient‖₂ before clipping.
    pub gradient_norm: f64,
    /// η.
    pub learning_rate: f64,
}

/// Why a run ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "reason")]
pub enum TuneStop {
    /// Every epoch was trained.
    Completed,
    /// The deciding metric did not get better for as many epochs as the patience allows.
    NoBetter,
    /// A loss or gradient is no finite number any more; what was trained last and was finite is in
    /// the last checkpoint.
    Diverged {
        /// The step, from 1.
        step: u64,
        /// The first module whose output is not finite, or the first parameter whose gradient is
        /// not.
        module: String,
    },
}

/// What `run.json` says of a finished run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TuneSummary {
    /// The version of rankwise.
    pub version: String,
    /// The method's name, such as `rm-lora`.
    pub method: String,
    /// R, for low-rank methods.
    pub rank: Option<usize>,
    /// The task.
    pub task: String,
    /// The seed.
    pub seed: u64,
    /// SHA-256 of the resolved configuration's TOML.
    pub config_sha256: String,
    /// SHA-256 of every file of data that was read, by name; of a folder of images one of them all.
    pub data_sha256: Vec<(String, String)>,
    /// SHA-256 of the checkpoint's configuration and weights, by name.
    pub model_sha256: Vec<(String, String)>,
    /// The classes' names in the order of the outputs; none where it is no classification.
    #[serde(default)]
    pub classes: Vec<String>,
    /// Operating system, processor and device.
    pub platform: String,
    /// Why the run ended.
    pub stop: TuneStop,
    /// Steps made.
    pub steps: u64,
    /// Numbers that train: in updates, in the head, in all.
    pub trainable: Trainable,
    /// The epoch whose deciding metric is the best, and the metric.
    pub best: Option<(usize, f64)>,
    /// Names of head tensors drawn from the seed, tensors of the checkpoint that were not used, bad
    /// lines that were passed over, and what the data's readers had to say.
    pub notes: Vec<String>,
    /// Seconds over all sittings.
    pub wall_seconds: f64,
    /// The last epoch's record.
    pub last: Option<TuneRecord>,
}

/// Numbers that train.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Trainable {
    /// In updates (full fine-tuning: in the pretrained part).
    pub update: usize,
    /// In the task's head.
    pub head: usize,
    /// Both.
    pub total: usize,
}

impl TuneRecord {
    /// Mean of a measure over the modules, where it is defined.
    pub fn mean_rank(&self, of: impl Fn(&ModuleRank) -> Option<f64>) -> Option<f64> {
        let values: Vec<f64> = self.ranks.iter().filter_map(of).collect();
        (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
    }

    /// The metric that decides: the first of the first set.
    pub fn deciding(&self) -> Option<(&str, Option<f64>)> {
        let (key, value) = self.scores.first()?.metrics.first()?;
        Some((key, *value))
    }
}

/// One row an epoch: `epochs.parquet`.
pub(super) fn epochs_table(records: &[TuneRecord]) -> Result<Table, rankwise_data::Error> {
    let real =
        |of: &dyn Fn(&TuneRecord) -> Option<f64>| -> Column { records.iter().map(of).collect() };
    let mut columns: Vec<(String, Column)> = vec![
        (
            "epoch".to_owned(),
            records.iter().map(|r| r.epoch).collect(),
        ),
        (
            "steps".to_owned(),
            records.iter().map(|r| r.steps as usize).collect(),
        ),
        ("train_loss".to_owned(), real(&|r| Some(r.train_loss))),
        ("regulariser".to_owned(), real(&|r| Some(r.regulariser))),
        ("train_seconds".to_owned(), real(&|r| Some(r.train_seconds))),
        (
            "evaluate_seconds".to_owned(),
            real(&|r| Some(r.evaluate_seconds)),
        ),
        ("rank_seconds".to_owned(), real(&|r| Some(r.rank_seconds))),
    ];
    for (at, set) in records
        .first()
        .map_or(&[][..], |record| &record.scores)
        .iter()
        .enumerate()
    {
        // `train_loss` is that of the steps, as the weights moved and with dropout.
        let evaluated = match set.set.as_str() {
            "train" => "train_evaluated_loss".to_owned(),
            other => format!("{other}_loss"),
        };
        columns.push((evaluated, real(&|r| Some(r.scores.get(at)?.loss))));
        // A language model's metric is its loss.
        let metrics = set.metrics.iter().enumerate();
        for (number, (key, _)) in metrics.filter(|(_, (key, _))| key != "loss") {
            let of = |r: &TuneRecord| r.scores.get(at)?.metrics.get(number)?.1;
            columns.push((format!("{}_{key}", set.set), real(&of)));
        }
    }
    type Measure = fn(&ModuleRank) -> Option<f64>;
    let means: [(&str, Measure); 5] = [
        ("mean_numerical_rank", |m| {
            Some(m.measures.numerical_rank as f64)
        }),
        ("mean_energy_rank_99", |m| {
            Some(m.measures.energy_rank_99 as f64)
        }),
        ("mean_stable_rank", |m| m.measures.stable_rank),
        ("mean_effective_rank", |m| m.measures.effective_rank),
        ("mean_frobenius_norm", |m| Some(m.measures.frobenius_norm)),
    ];
    for (name, of) in means {
        columns.push((name.to_owned(), real(&|r| r.mean_rank(of))));
    }
    table(columns)
}

/// One row a module and epoch: `ranks.parquet`.
pub(super) fn ranks_table(records: &[TuneRecord]) -> Result<Table, rankwise_data::Error> {
    let rows: Vec<(usize, &ModuleRank)> = records
        .iter()
        .flat_map(|record| record.ranks.iter().map(|rank| (record.epoch, rank)))
        .collect();
    let real = |of: fn(&ModuleRank) -> Option<f64>| -> Column {
        rows.iter().map(|(_, rank)| of(rank)).collect()
    };
    let whole = |of: fn(&ModuleRank) -> usize| -> Column {
        rows.iter().map(|(_, rank)| of(rank)).collect()
    };
    table(vec![
        (
            "epoch".to_owned(),
            rows.iter().map(|(epoch, _)| *epoch).collect(),
        ),
        (
            "module".to_owned(),
            rows.iter().map(|(_, rank)| rank.module.clone()).collect(),
        ),
        (
            "budget".to_owned(),
            real(|r| r.budget.map(|budget| budget as f64)),
        ),
        ("inputs".to_owned(), whole(|r| r.shape.0)),
        ("outputs".to_owned(), whole(|r| r.shape.1)),
        ("tau".to_owned(), real(|r| Some(r.measures.tau))),
        (
            "numerical_rank".to_owned(),
            whole(|r| r.measures.numerical_rank),
        ),
        (
            "energy_rank_90".to_owned(),
            whole(|r| r.measures.energy_rank_90),
        ),
        (
            "energy_rank_95".to_owned(),
            whole(|r| r.measures.energy_rank_95),
        ),
        (
            "energy_rank_99".to_owned(),
            whole(|r| r.measures.energy_rank_99),
        ),
        ("stable_rank".to_owned(), real(|r| r.measures.stable_rank)),
        (
            "effective_rank".to_owned(),
            real(|r| r.measures.effective_rank),
        ),
        (
            "effective_rank_energy".to_owned(),
            real(|r| r.measures.effective_rank_energy),
        ),
        (
            "participation_ratio".to_owned(),
            real(|r| r.measures.participation_ratio),
        ),
        (
            "nuclear_ratio".to_owned(),
            real(|r| r.measures.nuclear_ratio),
        ),
        (
            "frobenius_norm".to_owned(),
            real(|r| Some(r.measures.frobenius_norm)),
        ),
        (
            "spectral_norm".to_owned(),
            real(|r| Some(r.measures.spectral_norm)),
        ),
    ])
}

/// One row a step: `steps.parquet`.
pub(super) fn steps_table(
    steps: &[StepRecord],
    per_epoch: u64,
) -> Result<Table, rankwise_data::Error> {
    let real = |of: fn(&StepRecord) -> f64| -> Column { steps.iter().map(of).collect() };
    table(vec![
        ("step".to_owned(), (1..=steps.len()).collect()),
        (
            "epoch".to_owned(),
            (0..steps.len())
                .map(|at| at / per_epoch.max(1) as usize + 1)
                .collect(),
        ),
        ("loss".to_owned(), real(|s| s.loss)),
        ("regulariser".to_owned(), real(|s| s.regulariser)),
        ("gradient_norm".to_owned(), real(|s| s.gradient_norm)),
        ("learning_rate".to_owned(), real(|s| s.learning_rate)),
    ])
}

fn table(columns: Vec<(String, Column)>) -> Result<Table, rankwise_data::Error> {
    Table::new(
        columns
            .iter()
            .map(|(name, column)| (name.as_str(), column.clone()))
            .collect(),
    )
}
