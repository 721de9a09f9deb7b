use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use serde::Serialize;

use super::runs::PeerRun;
use crate::statistics::Spread;
use crate::tuning::records::{LeftOut, TuningRun, TuningRuns, TuningSetting};

/// How many standard errors a difference from a peer may have.
pub(super) const STANDARD_ERRORS: f64 = 2.0;

/// What a difference comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum PeerVerdict {
    /// At most two standard errors from zero.
    Within,
    /// More.
    Beyond,
    /// One side has fewer than two seeds, or no spread.
    TooLittle,
}

/// A metric of one task and method, ours and the peer's.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PeerRow {
    /// Task, method and our R.
    #[serde(flatten)]
    pub setting: TuningSetting,
    /// The metric's key, or `train_loss`.
    pub metric: String,
    /// Whether it decides.
    pub decides: bool,
    /// Our seeds' values after the last epoch.
    pub our_values: Vec<f64>,
    /// The peer's.
    pub peer_values: Vec<f64>,
    /// Over our seeds.
    pub ours: Spread,
    /// Over the peer's.
    pub peer: Spread,
    /// Ours less the peer's.
    pub difference: f64,
    /// Of the difference; `None` if one side has a single seed.
    pub standard_error: Option<f64>,
    /// The difference in standard errors; `None` where there is too little.
    pub standard_errors: Option<f64>,
    /// What that comes to.
    pub verdict: PeerVerdict,
}

impl PeerRow {
    /// Of the values of both sides, each of at least one seed.
    fn new(setting: &TuningSetting, metric: &str, ours: Vec<f64>, peer: Vec<f64>) -> Option<Self> {
        if ours.is_empty() || peer.is_empty() {
            return None;
        }
        let (own, other) = (
            Spread::of(ours.iter().copied()),
            Spread::of(peer.iter().copied()),
        );
        let difference = own.mean - other.mean;
        let errors = own.standard_error().zip(other.standard_error());
        let error = errors.map(|(own, other)| own.hypot(other));
        // Seeds that all give the same number say nothing of how far others would lie.
        let is_known = errors.is_some_and(|(own, other)| own > 0.0 && other > 0.0);
        let standard_errors = error.filter(|_| is_known).map(|error| difference / error);
        let verdict = match standard_errors {
            None => PeerVerdict::TooLittle,
            Some(errors) if errors.abs() <= STANDARD_ERRORS => PeerVerdict::Within,
            Some(_) => PeerVerdict::Beyond,
        };
        Some(Self {
            setting: setting.clone(),
            metric: metric.to_owned(),
            decides: false,
            our_values: ours,
            peer_values: peer,
            ours: own,
            peer: other,
            difference,
            standard_error: error,
            standard_errors,
            verdict,
        })
    }

    /// The verdict in words.
    pub fn told(&self) -> String {
        match self.verdict {
            PeerVerdict::Within => "within two standard errors".to_owned(),
            PeerVerdict::Beyond => "beyond two standard errors".to_owned(),
            PeerVerdict::TooLittle => {
                let least = self.ours.count.min(self.peer.count);
                match least {
                    0 | 1 => "too little: one seed".to_owned(),
                    _ => "too little: seeds without spread".to_owned(),
                }
            }
        }
    }
}

/// All that can be compared.
#[derive(Debug, Clone, Serialize)]
pub struct PeerComparison {
    /// By task, method and metric, the deciding one first.
    pub rows: Vec<PeerRow>,
    /// What stands against a row, and what had no counterpart.
    pub notes: Vec<String>,
    /// Runs of ours and lines of the peer's that could not be read.
    pub left_out: Vec<LeftOut>,
}

/// Puts our runs and a peer's side by side, at the last epoch of each.
///
/// # Errors
/// If there is no task and method that both have.
pub fn compare_with_peer(
    all: &TuningRuns,
    peer: &[PeerRun],
    left_out: &[LeftOut],
) -> Result<PeerComparison> {
    let (mut rows, mut notes) = (Vec::new(), Vec::new());
    let mut used = vec![false; peer.len()];
    let groups = all.by_setting();
    for (setting, runs) in &groups {
        let is_one_of = |other: &TuningSetting| {
            (&other.task, &other.method) == (&setting.task, &setting.method)
        };
        let ranks = groups.iter().filter(|(other, _)| is_one_of(other)).count();
        let whole: Vec<&TuningRun> = runs.iter().copied().filter(|run| run.is_whole()).collect();
        let is_theirs = |run: &PeerRun| {
            (&run.task, &run.method) == (&setting.task, &setting.method)
                && match run.rank {
                    Some(rank) => Some(rank) == setting.rank,
                    // Which R a peer without one means is only clear where there is one.
                    None => ranks == 1,
                }
        };
        let mut theirs: Vec<&PeerRun> = Vec::new();
        for (run, used) in peer.iter().zip(&mut used) {
            if is_theirs(run) {
                *used = true;
                theirs.push(run);
            }
        }
        let name = format!("{}, {}", setting.task, setting.label());
        if theirs.is_empty() {
            notes.push(format!("{name}: the peer has no run of it."));
            continue;
        }
        let (Some(first), Some(other)) = (whole.first(), theirs.first()) else {
            notes.push(format!("{name}: all of our runs diverged."));
            continue;
        };
        let ours = whole.iter().map(|run| run.last.epoch);
        let lengths = ours.chain(theirs.iter().map(|run| run.epochs.len()));
        let (least, most) = (lengths.clone().min(), lengths.max());
        if least != most {
            notes.push(format!(
                "{name}: not all runs are of one length ({} to {} epochs), and each is compared at its \
                 own end.",
                least.unwrap_or(0),
                most.unwrap_or(0),
            ));
        }
        let deciding = first.last.scores.first();
        let keys = deciding.into_iter().flat_map(|scores| &scores.metrics);
        let keys = keys.map(|(key, _)| &key[..]).chain(["train_loss"]);
        for (place, key) in keys.enumerate() {
            let own = whole.iter().filter_map(|run| own_value(run, key)).collect();
            let others = theirs.iter().filter_map(|run| peer_value(run, key));
            match PeerRow::new(setting, key, own, others.collect()) {
                Some(row) => rows.push(PeerRow {
                    decides: place == 0 && key != "train_loss",
                    ..row
                }),
                None => notes.push(format!(
                    "{name}: no number of {key} on one side; the peer has {}.",
                    known(other)
                )),
            }
        }
    }
    for (run, used) in peer.iter().zip(used) {
        if !used {
            notes.push(format!(
                "{}, {} with seed {}: the peer's run has no counterpart of ours.",
                run.task, run.method, run.seed
            ));
        }
    }
    ensure!(
        !rows.is_empty(),
        "peer: expected a task and method that both have, found none: {}",
        notes.join(" ")
    );
    Ok(PeerComparison {
        rows,
        notes,
        left_out: all.left_out.iter().chain(left_out).cloned().collect(),
    })
}

fn own_value(run: &TuningRun, key: &str) -> Option<f64> {
    if key == "train_loss" {
        return Some(run.last.train_loss);
    }
    let metrics = &run.last.scores.first()?.metrics;
    metrics.iter().find(|(other, _)| other == key)?.1
}

fn peer_value(run: &PeerRun, key: &str) -> Option<f64> {
    let value = *run.epochs.last()?.get(key)?;
    value.filter(|value| value.is_finite())
}

fn known(run: &PeerRun) -> String {
    let keys = run.epochs.last().into_iter().flat_map(BTreeMap::keys);
    keys.cloned().collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(ours: &[f64], peer: &[f64]) -> PeerRow {
        let setting = TuningSetting::new("rte", "lora", Some(8));
        PeerRow::new(&setting, "accuracy", ours.to_vec(), peer.to_vec()).unwrap()
    }

    #[test]
    fn the_difference_in_closed_form() {
        // Means 2 and 5; deviations 1 and 2, so standard errors 1/√3 and 2/√3.
        let row = row(&[1.0, 2.0, 3.0], &[3.0, 5.0, 7.0]);
        assert_eq!(row.difference, -3.0);
        let error = (1.0_f64 / 3.0 + 4.0 / 3.0).sqrt();
        // A few roundings of numbers near 1.
        assert!((row.standard_error.unwrap() - error).abs() < 1e-15);
        assert!((row.standard_errors.unwrap() + 3.0 / error).abs() < 1e-14);
        assert_eq!(row.verdict, PeerVerdict::Beyond);
        assert_eq!(row.told(), "beyond two standard errors");
    }

    #[test]
    fn two_standard_errors_are_the_limit() {
        // Deviations √2: standard errors 1, of the difference √2.
        let at = |difference: f64| {
            let own = [difference - 1.0, difference + 1.0];
            row(&own, &[-1.0, 1.0]).verdict
        };
        let limit = 2.0 * 2.0_f64.sqrt();
        assert_eq!(at(limit - 1e-9), PeerVerdict::Within);
        assert_eq!(at(limit + 1e-9), PeerVerdict::Beyond);
        assert_eq!(at(-limit - 1e-9), PeerVerdict::Beyond);
    }

    #[test]
    fn too_little_is_said() {
        let one = row(&[1.0], &[3.0, 5.0]);
        assert_eq!(
            (one.standard_error, one.verdict),
            (None, PeerVerdict::TooLittle)
        );
        assert_eq!(one.told(), "too little: one seed");
        let flat = row(&[1.0, 1.0], &[3.0, 5.0]);
        assert_eq!(
            (flat.standard_error, flat.standard_errors),
            (Some(1.0), None)
        );
        assert_eq!(flat.told(), "too little: seeds without spread");
    }
}
