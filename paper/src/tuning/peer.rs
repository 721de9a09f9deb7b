//! Our runs beside a peer's: means over seeds, and whether their difference is more than its standard
//! error allows for.
//!
//! | symbol | what |
//! |---|---|
//! | x̄, s, n | mean, sample standard deviation and number of seeds, ours and the peer's |
//! | s.e. = s/√n | standard error of a mean |
//! | d = x̄ − x̄′ | difference, ours less the peer's |
//! | √(s.e.² + s.e.′²) | its standard error: the two samples share nothing |
//!
//! Seeds of two programs are not the same chance, so nothing is paired.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Result, bail, ensure};
use rankwise_data::{Column, Table, read_text};
use rankwise_figures::{Figure, Marker, PALETTE, Sample, Strip, strips};
use serde::{Deserialize, Serialize};

use super::records::{LeftOut, TuningRun, TuningRuns, TuningSetting, metric_title};
use super::rows::{estimate, standard_error, told};
use crate::findings::STANDARD_ERRORS;
use crate::records::Spread;
use crate::tables::Cells;

/// A peer's run: a line of its file.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct PeerRun {
    /// The task's name.
    pub task: String,
    /// The method's name.
    pub method: String,
    /// R, where the peer says it.
    #[serde(default)]
    pub rank: Option<usize>,
    /// The seed.
    pub seed: u64,
    /// What is known after every epoch; `train_loss`, `loss` and metrics by their keys.
    pub epochs: Vec<BTreeMap<String, Option<f64>>>,
}

/// Reads a peer's runs, one JSON object a line. Lines that are none, as the last one of a file that is
/// still written, and runs that come twice are left out by their number.
///
/// # Errors
/// If the file cannot be read or has no run.
pub fn peer_runs(path: &Path) -> Result<(Vec<PeerRun>, Vec<LeftOut>)> {
    let (mut runs, mut left_out): (Vec<PeerRun>, Vec<LeftOut>) = (Vec::new(), Vec::new());
    for (number, line) in read_text(path)?.lines().enumerate() {
        if line.trim().is_empty() {
            continue;
        }
        let is_same = |run: &PeerRun, other: &PeerRun| {
            (&run.task, &run.method, run.rank, run.seed)
                == (&other.task, &other.method, other.rank, other.seed)
        };
        let read = match serde_json::from_str::<PeerRun>(line) {
            Err(error) => Err(format!(
                "expected an object with task, method, seed and epochs of numbers, found {error}"
            )),
            Ok(run) if run.epochs.is_empty() => Err("expected an epoch, found none".to_owned()),
            Ok(run) if runs.iter().any(|other| is_same(&run, other)) => Err(format!(
                "expected every run once, found {} {} with seed {} again",
                run.task, run.method, run.seed
            )),
            Ok(run) => Ok(run),
        };
        match read {
            Ok(run) => runs.push(run),
            Err(reason) => left_out.push(LeftOut {
                name: format!("{} line {}", path.display(), number + 1),
                reason,
            }),
        }
    }
    if runs.is_empty() {
        let reasons: Vec<String> = left_out.iter().map(LeftOut::told).collect();
        bail!(
            "{}: expected a line of JSON for every run, found none{}{}",
            path.display(),
            if reasons.is_empty() { "" } else { "; " },
            reasons.join("; ")
        );
    }
    Ok((runs, left_out))
}

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
    #[serde(serialize_with = "estimate")]
    pub ours: Spread,
    /// Over the peer's.
    #[serde(serialize_with = "estimate")]
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
        let errors = standard_error(&own).zip(standard_error(&other));
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

/// One row a task, method and metric.
pub fn peer_cells(comparison: &PeerComparison) -> Cells {
    let header = vec![
        "task",
        "method",
        "metric",
        "ours",
        "n",
        "peer",
        "n",
        "difference",
        "its s.e.",
        "in s.e.",
        "verdict",
    ];
    let number = |value: Option<f64>, digits: usize| {
        value.map_or("–".to_owned(), |value| format!("{value:.digits$}"))
    };
    let rows = comparison.rows.iter().map(|row| {
        vec![
            row.setting.task.clone(),
            row.setting.label(),
            row.metric.clone(),
            told(Some(&row.ours), 4),
            row.ours.count.to_string(),
            told(Some(&row.peer), 4),
            row.peer.count.to_string(),
            format!("{:+.4}", row.difference),
            number(row.standard_error, 4),
            row.standard_errors
                .map_or("–".to_owned(), |errors| format!("{errors:+.2}")),
            row.told(),
        ]
    });
    (header, rows.collect())
}

/// One row a task, method and metric, as columns.
///
/// # Errors
/// Never: the columns are made of the same rows.
pub fn peer_table(comparison: &PeerComparison) -> Result<Table> {
    let rows = &comparison.rows;
    let text = |of: fn(&PeerRow) -> String| -> Column { rows.iter().map(of).collect() };
    let whole = |of: fn(&PeerRow) -> usize| -> Column { rows.iter().map(of).collect() };
    let real = |of: fn(&PeerRow) -> Option<f64>| -> Column { rows.iter().map(of).collect() };
    Ok(Table::new(vec![
        ("task", text(|row| row.setting.task.clone())),
        ("method", text(|row| row.setting.method.clone())),
        ("rank", real(|row| Some(row.setting.rank? as f64))),
        ("metric", text(|row| row.metric.clone())),
        ("our_mean", real(|row| Some(row.ours.mean))),
        ("our_standard_error", real(|row| standard_error(&row.ours))),
        ("our_count", whole(|row| row.ours.count)),
        ("peer_mean", real(|row| Some(row.peer.mean))),
        ("peer_standard_error", real(|row| standard_error(&row.peer))),
        ("peer_count", whole(|row| row.peer.count)),
        ("difference", real(|row| Some(row.difference))),
        ("standard_error", real(|row| row.standard_error)),
        ("standard_errors", real(|row| row.standard_errors)),
        ("verdict", text(PeerRow::told)),
    ])?)
}

/// How many differences are within two standard errors, which are not, and how many would not be by
/// chance.
pub fn peer_findings(comparison: &PeerComparison) -> Vec<String> {
    let is = |verdict: PeerVerdict| comparison.rows.iter().filter(move |r| r.verdict == verdict);
    let (within, beyond) = (
        is(PeerVerdict::Within).count(),
        is(PeerVerdict::Beyond).count(),
    );
    let known = within + beyond;
    let mut findings = Vec::new();
    if known > 0 {
        // Seeds of both sides, of equal spread: t with n + n' − 2 degrees of freedom.
        let judged = comparison
            .rows
            .iter()
            .filter(|row| row.standard_errors.is_some());
        let expected: f64 = judged
            .map(|row| beyond_by_chance(row.ours.count + row.peer.count - 2))
            .sum();
        findings.push(format!(
            "{within} of {known} differences between our means and the peer's are within two standard \
             errors; with so few seeds about {expected:.1} would not be, if both were the same."
        ));
    }
    for row in is(PeerVerdict::Beyond) {
        findings.push(format!(
            "{}, {}: {} {} here, {} there: {} by {:.1} standard errors.",
            row.setting.task,
            row.setting.label(),
            row.metric,
            told(Some(&row.ours), 4),
            told(Some(&row.peer), 4),
            if row.difference > 0.0 {
                "higher"
            } else {
                "lower"
            },
            row.standard_errors.unwrap_or(f64::NAN).abs(),
        ));
    }
    let little = is(PeerVerdict::TooLittle).count();
    if little > 0 {
        findings.push(format!(
            "Of {little} differences there is too little to say: fewer than two seeds on one side, or \
             seeds that all gave the same number."
        ));
    }
    findings
}

/// P(|t| > 2) for Student's t of ν degrees of freedom, by the finite series in cos θ, θ = arctan(2/√ν)
/// (Abramowitz & Stegun 26.7.3 and 26.7.4).
fn beyond_by_chance(freedom: usize) -> f64 {
    let theta = (STANDARD_ERRORS / (freedom as f64).sqrt()).atan();
    let (sin, cos) = theta.sin_cos();
    // Σ over the terms that follow the first, each from the one before.
    let series = |first: f64, start: usize| {
        let mut term = first;
        let mut sum = first;
        for k in (start..freedom.saturating_sub(2)).step_by(2) {
            term *= cos * cos * (k + 1) as f64 / (k + 2) as f64;
            sum += term;
        }
        sum
    };
    let within = match (freedom, freedom % 2) {
        (0, _) => return f64::NAN,
        (1, _) => theta / std::f64::consts::FRAC_PI_2,
        (_, 1) => (theta + sin * series(cos, 1)) / std::f64::consts::FRAC_PI_2,
        _ => sin * series(1.0, 0),
    };
    1.0 - within
}

/// The deciding metric of every task, ours beside the peer's: a point a seed, the mean, and a bar of two
/// standard errors.
///
/// # Errors
/// If no deciding metric could be compared.
pub fn peer_figure(comparison: &PeerComparison) -> Result<Figure> {
    let mut charts: Vec<Strip> = Vec::new();
    let mut tasks: Vec<&str> = Vec::new();
    for row in comparison.rows.iter().filter(|row| row.decides) {
        let task = &row.setting.task[..];
        if tasks.last() != Some(&task) {
            tasks.push(task);
            charts.push(Strip {
                title: format!("{task}: {}", metric_title(&row.metric)),
                y_label: metric_title(&row.metric),
                note: "points: seeds; bars: mean ± 2 standard errors".to_owned(),
                places: Vec::new(),
            });
        }
        let sample = |label: &str, place: usize, marker, values: &[f64], spread: &Spread| Sample {
            label: label.to_owned(),
            color: PALETTE[place],
            marker,
            values: values.to_vec(),
            mean: spread.mean,
            reach: standard_error(spread).map(|error| STANDARD_ERRORS * error),
        };
        if let Some(chart) = charts.last_mut() {
            chart.places.push((
                row.setting.label(),
                vec![
                    sample("rankwise", 0, Marker::Circle, &row.our_values, &row.ours),
                    sample("peer", 1, Marker::Square, &row.peer_values, &row.peer),
                ],
            ));
        }
    }
    ensure!(
        !charts.is_empty(),
        "peer: expected a deciding metric that both have, found none"
    );
    let columns = charts.len().min(2);
    Ok(strips(&charts, columns)?)
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

    #[test]
    fn students_t_at_two() {
        // Closed forms for ν = 1, 2 and 4; from tables for 3 and 10; the normal distribution's 0.0455.
        let cauchy = 1.0 - 2.0 / std::f64::consts::PI * 2.0_f64.atan();
        for (freedom, expected, tolerance) in [
            (1, cauchy, 1e-15),
            (2, 1.0 - 2.0 / 6.0_f64.sqrt(), 1e-15),
            (3, 0.139_326, 1e-6),
            (4, 1.0 - 5.0 / (4.0 * 2.0_f64.sqrt()), 1e-15),
            (10, 0.073_388, 1e-6),
            (100_000, 0.045_503, 1e-5),
        ] {
            let found = beyond_by_chance(freedom);
            assert!((found - expected).abs() < tolerance, "{freedom}: {found}");
        }
    }
}
