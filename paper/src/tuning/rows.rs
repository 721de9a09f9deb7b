//! Runs as rows, and what the seeds of one setting say together.

use std::collections::BTreeMap;

use rankwise_training::{ModuleRank, TuneRecord, TuneStop, TuneSummary};
use serde::Serialize;

use super::findings::tuning_findings;
use super::records::{LeftOut, TuningRuns, TuningSetting, is_higher_better};
use super::settings::{Settings, beside_the_seed, made_with};
use crate::statistics::Spread;

/// The end of a run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TuningRow {
    /// The folder's name.
    pub name: String,
    /// Task, method and R.
    #[serde(flatten)]
    pub setting: TuningSetting,
    /// The seed.
    pub seed: u64,
    /// Numbers that train.
    pub trained: usize,
    /// Epochs trained.
    pub epochs: usize,
    /// `completed`, `no-better` or `diverged`.
    pub stop: &'static str,
    /// The deciding metric's key.
    pub metric: Option<String>,
    /// The deciding metric after the last epoch.
    pub last: Option<f64>,
    /// Its best value.
    pub best: Option<f64>,
    /// The epoch of that.
    pub best_epoch: Option<usize>,
    /// Mean loss of the last epoch's steps.
    pub train_loss: Option<f64>,
    /// Loss of the deciding set.
    pub validation_loss: Option<f64>,
    /// The deciding metric's difference between training and deciding set, the larger the worse;
    /// `None` where the training examples were not evaluated.
    pub gap: Option<f64>,
    /// Mean over modules, as all ranks here.
    pub numerical_rank: Option<f64>,
    /// Directions that hold 99 % of ΔW's energy.
    pub energy_rank_99: Option<f64>,
    /// ‖ΔW‖_F² / σ₁².
    pub stable_rank: Option<f64>,
    /// exp H(σ/Σσ).
    pub effective_rank: Option<f64>,
    /// Seconds over all sittings.
    pub seconds: f64,
    /// Every metric of the deciding set after the last epoch.
    pub metrics: BTreeMap<String, Option<f64>>,
    /// What it was made with; nothing where only its summary is known.
    #[serde(skip)]
    pub(super) settings: Settings,
}

impl TuningRow {
    /// Of a run's summary.
    pub fn new(name: &str, summary: &TuneSummary) -> Self {
        let last = summary.last.as_ref();
        let deciding = last.and_then(|record| record.scores.first());
        let rank = |of: fn(&ModuleRank) -> Option<f64>| last.and_then(|last| last.mean_rank(of));
        let metric = last.and_then(TuneRecord::deciding);
        Self {
            name: name.to_owned(),
            setting: TuningSetting::new(&summary.task, &summary.method, summary.rank),
            seed: summary.seed,
            trained: summary.trainable.total,
            epochs: last.map_or(0, |record| record.epoch),
            stop: match summary.stop {
                TuneStop::Completed => "completed",
                TuneStop::NoBetter => "no-better",
                TuneStop::Diverged { .. } => "diverged",
            },
            metric: metric.map(|(key, _)| key.to_owned()),
            last: metric.and_then(|(_, value)| value),
            best: summary.best.map(|(_, value)| value),
            best_epoch: summary.best.map(|(epoch, _)| epoch),
            train_loss: last.map(|record| record.train_loss),
            validation_loss: deciding.map(|scores| scores.loss),
            gap: last.and_then(gap),
            numerical_rank: rank(|module| Some(module.measures.numerical_rank as f64)),
            energy_rank_99: rank(|module| Some(module.measures.energy_rank_99 as f64)),
            stable_rank: rank(|module| module.measures.stable_rank),
            effective_rank: rank(|module| module.measures.effective_rank),
            seconds: summary.wall_seconds,
            metrics: deciding.map_or_else(BTreeMap::new, |scores| {
                scores.metrics.iter().cloned().collect()
            }),
            settings: Settings::new(),
        }
    }
}

/// The deciding metric on the training examples against the deciding set: the larger the worse.
fn gap(record: &TuneRecord) -> Option<f64> {
    let (key, value) = record.deciding()?;
    let train = record.scores.iter().find(|scores| scores.set == "train")?;
    let (_, trained) = train.metrics.iter().find(|(other, _)| other == key)?;
    let difference = (*trained)? - value?;
    Some(if is_higher_better(key) {
        difference
    } else {
        -difference
    })
}

/// What a summary has of every run: name, heading, decimals, value.
pub(crate) type Measure = (
    &'static str,
    &'static str,
    usize,
    fn(&TuningRow) -> Option<f64>,
);

/// In the order of tables.
pub(crate) const MEASURES: [Measure; 9] = [
    ("last", "last", 4, |row| row.last),
    ("best", "best", 4, |row| row.best),
    ("train_loss", "train loss", 4, |row| row.train_loss),
    ("gap", "gap", 4, |row| row.gap),
    ("numerical_rank", "num.", 2, |row| row.numerical_rank),
    ("energy_rank_99", "energy rank 99 %", 2, |row| {
        row.energy_rank_99
    }),
    ("stable_rank", "stable", 2, |row| row.stable_rank),
    ("effective_rank", "effective", 2, |row| row.effective_rank),
    ("seconds", "seconds", 0, |row| Some(row.seconds)),
];

/// The runs of one setting together; runs that diverged are counted and left out of every mean.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TuningGroup {
    /// Task, method and R.
    #[serde(flatten)]
    pub setting: TuningSetting,
    /// Of the runs that count.
    pub seeds: Vec<u64>,
    /// Runs that do not.
    pub diverged: usize,
    /// The deciding metric's key.
    pub metric: Option<String>,
    /// Settings in which the runs that count differ beside the seed, `model_sha256` and `data_sha256`
    /// for their files: then a mean is of unlike runs.
    pub differing: Vec<String>,
    /// Mean and standard error over runs by name; absent where no run has the number.
    pub measures: BTreeMap<&'static str, Spread>,
}

impl TuningGroup {
    /// Mean and spread of a measure.
    pub fn measure(&self, name: &str) -> Option<&Spread> {
        self.measures.get(name)
    }
}

/// Everything that tables and the page say of a folder of runs.
#[derive(Debug, Clone, Serialize)]
pub struct TuningReport {
    /// The runs.
    pub runs: Vec<TuningRow>,
    /// Task × method × R over seeds.
    pub summary: Vec<TuningGroup>,
    /// Sentences computed from the numbers.
    pub findings: Vec<String>,
    /// Folders that are no finished runs.
    pub left_out: Vec<LeftOut>,
}

impl TuningReport {
    /// Of all runs of a folder.
    pub fn new(all: &TuningRuns) -> Self {
        let rows = all.runs.iter();
        let rows: Vec<_> = rows
            .map(|run| TuningRow {
                settings: made_with(&run.config, &run.summary),
                ..TuningRow::new(&run.name, &run.summary)
            })
            .collect();
        let mut summary = Vec::new();
        for (setting, _) in all.by_setting() {
            let own: Vec<&TuningRow> = rows.iter().filter(|row| row.setting == *setting).collect();
            summary.push(group(setting, &own));
        }
        let findings = tuning_findings(&rows, &summary);
        Self {
            runs: rows,
            summary,
            findings,
            left_out: all.left_out.clone(),
        }
    }
}

fn group(setting: &TuningSetting, rows: &[&TuningRow]) -> TuningGroup {
    let whole: Vec<&&TuningRow> = rows.iter().filter(|row| row.stop != "diverged").collect();
    let mut measures = BTreeMap::new();
    for (name, _, _, value) in MEASURES {
        let values: Vec<f64> = whole.iter().filter_map(|row| value(row)).collect();
        if !values.is_empty() {
            measures.insert(name, Spread::of(values));
        }
    }
    let settings: Vec<&Settings> = whole.iter().map(|row| &row.settings).collect();
    TuningGroup {
        setting: setting.clone(),
        seeds: whole.iter().map(|row| row.seed).collect(),
        diverged: rows.len() - whole.len(),
        metric: rows.iter().find_map(|row| row.metric.clone()),
        differing: beside_the_seed(&settings),
        measures,
    }
}
