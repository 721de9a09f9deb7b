//! Adapters joined with the metrics of the runs that trained them, by the runs' folders.
//!
//! Heads and fine-tuning runs may lie side by side. An adapter below a run's folder is that run's; one
//! below its `best/` stands with the metrics of the best epoch, every other with those of the last.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use rankwise_data::{Column, Table};

use crate::metrics::{AdapterRanks, Join, MetricColumns, join};
use crate::records::Run;
use crate::tuning::{LeftOut, TuningRun, reasons};

/// Names that a note shows.
const NAMED: usize = 5;

/// What a head's run has on record, in the order of its table.
const HEAD_METRICS: [&str; 4] = ["train_loss", "train_accuracy", "test_loss", "test_accuracy"];

/// A run of either kind.
enum AnyRun {
    Head(Box<Run>),
    Tuning(Box<TuningRun>),
}

/// One adapter with its run.
struct Row {
    adapter: usize,
    name: String,
    configuration: String,
    method: String,
    seed: u64,
    metrics: BTreeMap<String, f64>,
}

/// Joins audited adapters with the runs in `folder`, or with the one run whose folder it is.
///
/// # Errors
/// If there is no finished run or none of an audited adapter; as [`join`].
pub fn join_runs(ranks: &[AdapterRanks], folder: &Path, columns: &MetricColumns) -> Result<Join> {
    let (runs, left_out) = read(folder)?;
    let is_mixed = {
        let tuning = runs
            .iter()
            .filter(|(_, run)| matches!(run, AnyRun::Tuning(_)));
        (1..runs.len()).contains(&tuning.count())
    };
    let places: Vec<Option<PathBuf>> = ranks
        .iter()
        .map(|ranks| fs::canonicalize(&ranks.path).ok())
        .collect();
    let (mut rows, mut alone) = (Vec::new(), Vec::new());
    for (path, run) in &runs {
        let path = fs::canonicalize(path).with_context(|| path.display().to_string())?;
        let before = rows.len();
        for (adapter, place) in places.iter().enumerate() {
            let Some(part) = place
                .as_ref()
                .and_then(|place| place.strip_prefix(&path).ok())
            else {
                continue;
            };
            let is_best = part.starts_with("best");
            rows.push(run.row(adapter, is_best, is_mixed)?);
        }
        if rows.len() == before {
            alone.push(run.name());
        }
    }
    if rows.is_empty() {
        bail!(
            "expected a run whose adapter was audited, found none among {}{}",
            named(&alone),
            reasons(&left_out)
        );
    }
    tell_configurations_apart(&mut rows, &runs);
    // What the run calls itself names its adapter.
    let mut renamed = ranks.to_vec();
    for row in &rows {
        row.name.clone_into(&mut renamed[row.adapter].path);
    }
    let mut joined = join(&renamed, &table(&rows)?, columns)?;
    for adapter in &mut joined.adapters {
        if let Some(row) = rows.iter().find(|row| row.name == adapter.path) {
            ranks[row.adapter].path.clone_into(&mut adapter.path);
        }
    }
    joined.notes.extend(notes(&runs, is_mixed, &rows));
    if !alone.is_empty() {
        joined.notes.push(format!(
            "Runs without an audited adapter: {}.",
            named(&alone)
        ));
    }
    let told = |one: &LeftOut| format!("Left out: {}.", one.told());
    joined.notes.extend(left_out.iter().map(told));
    Ok(joined)
}

/// The runs with their folders, and what is none.
type Found = (Vec<(PathBuf, AnyRun)>, Vec<LeftOut>);

/// Every finished run, and what is there and is none.
fn read(folder: &Path) -> Result<Found> {
    let mut folders = vec![folder.to_path_buf()];
    if !is_run(folder) {
        let listing = fs::read_dir(folder)
            .with_context(|| format!("{}: expected a folder of runs", folder.display()))?;
        let paths = listing.map(|entry| Ok(entry?.path()));
        folders = paths
            .collect::<Result<_, std::io::Error>>()
            .with_context(|| folder.display().to_string())?;
        folders.retain(|path| is_run(path));
        folders.sort();
    }
    let (mut runs, mut left_out) = (Vec::new(), Vec::new());
    for path in folders {
        let run = match path.join("metrics.parquet").is_file() {
            true => Run::read(&path).map(|run| AnyRun::Head(Box::new(run))),
            false => TuningRun::read(&path).map(|run| AnyRun::Tuning(Box::new(run))),
        };
        match run {
            Ok(run) => runs.push((path, run)),
            Err(error) => left_out.push(LeftOut {
                name: path
                    .file_name()
                    .unwrap_or_default()
                    .to_string_lossy()
                    .into_owned(),
                reason: format!("{error:#}"),
            }),
        }
    }
    if runs.is_empty() {
        bail!(
            "expected folders of finished runs, found none{}",
            reasons(&left_out)
        );
    }
    Ok((runs, left_out))
}

fn is_run(folder: &Path) -> bool {
    ["config.toml", "run.json"]
        .iter()
        .any(|name| folder.join(name).is_file())
}

impl AnyRun {
    fn name(&self) -> &str {
        match self {
            Self::Head(run) => &run.name,
            Self::Tuning(run) => &run.name,
        }
    }

    fn row(&self, adapter: usize, is_best: bool, is_mixed: bool) -> Result<Row> {
        let name = match is_best {
            true => format!("{}/best", self.name()),
            false => self.name().to_owned(),
        };
        Ok(match self {
            Self::Head(run) => {
                let metrics = HEAD_METRICS.map(|name| -> Result<(String, f64)> {
                    Ok((name.to_owned(), run.last(name)?))
                });
                Row {
                    adapter,
                    name,
                    configuration: run.configuration.to_string(),
                    method: run.configuration.method.to_string(),
                    seed: run.config.seed,
                    metrics: metrics.into_iter().collect::<Result<_>>()?,
                }
            }
            Self::Tuning(run) => Row {
                adapter,
                name,
                configuration: format!("{}, {}", run.setting.task, run.setting.label()),
                method: run.setting.title(),
                seed: run.summary.seed,
                metrics: tuning_metrics(run, is_best, is_mixed),
            },
        })
    }

    /// Everything that was chosen but the seed.
    fn settings(&self) -> String {
        match self {
            Self::Head(run) => {
                let mut config = run.config.clone();
                config.seed = 0;
                config.to_toml()
            }
            Self::Tuning(run) => {
                let mut config = run.config.clone();
                config.seed = 0;
                config.to_toml()
            }
        }
    }
}

/// Losses and metrics of every evaluated set after the epoch that is meant. Beside heads the deciding
/// set is called as theirs, and shares are per cent.
fn tuning_metrics(run: &TuningRun, is_best: bool, is_mixed: bool) -> BTreeMap<String, f64> {
    let epoch = match (is_best, run.summary.best) {
        (true, Some((epoch, _))) => epoch,
        _ => run.last.epoch,
    };
    let value = |column: &str| {
        let series = run.series(column)?;
        series.get(epoch - 1).copied()
    };
    let mut metrics = BTreeMap::new();
    let mut keep = |name: &str, value: Option<f64>| {
        metrics.extend(value.map(|value| (name.to_owned(), value)));
    };
    // In evaluation mode where it was measured, as the other sets' losses are.
    keep(
        "train_loss",
        value("train_evaluated_loss").or_else(|| value("train_loss")),
    );
    for (place, scores) in run.last.scores.iter().enumerate() {
        let set = &scores.set;
        let shown = match is_mixed && place == 0 {
            true => "test",
            false => set,
        };
        if set != "train" {
            keep(&format!("{shown}_loss"), value(&format!("{set}_loss")));
        }
        for (key, _) in scores.metrics.iter().filter(|(key, _)| key != "loss") {
            let factor = if is_mixed && key == "accuracy" {
                100.0
            } else {
                1.0
            };
            let value = value(&format!("{set}_{key}"));
            keep(&format!("{shown}_{key}"), value.map(|value| factor * value));
        }
    }
    metrics
}

/// Settings that differ in more than method, R and task (a rate, say) are no seeds of one another.
fn tell_configurations_apart(rows: &mut [Row], runs: &[(PathBuf, AnyRun)]) {
    let settings: BTreeMap<&str, String> = runs
        .iter()
        .map(|(_, run)| (run.name(), run.settings()))
        .collect();
    let of = |row: &Row| {
        let name = row.name.strip_suffix("/best").unwrap_or(&row.name);
        settings.get(name).cloned().unwrap_or_default()
    };
    let mut known: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for row in rows {
        let settings = of(row);
        let own = known.entry(row.configuration.clone()).or_default();
        let place = own.iter().position(|other| *other == settings);
        let place = place.unwrap_or_else(|| {
            own.push(settings);
            own.len() - 1
        });
        if place > 0 {
            row.configuration += &format!(", settings {}", place + 1);
        }
    }
}

fn table(rows: &[Row]) -> Result<Table> {
    let names: BTreeSet<&String> = rows.iter().flat_map(|row| row.metrics.keys()).collect();
    let text =
        |of: fn(&Row) -> &String| -> Column { rows.iter().map(|row| of(row).clone()).collect() };
    let mut columns = vec![
        ("adapter", text(|row| &row.name)),
        ("configuration", text(|row| &row.configuration)),
        ("method", text(|row| &row.method)),
        ("seed", rows.iter().map(|row| row.seed as usize).collect()),
    ];
    for name in names {
        let values = rows.iter().map(|row| row.metrics.get(name).copied());
        columns.push((name.as_str(), values.collect()));
    }
    Ok(Table::new(columns)?)
}

/// What must be known to read the numbers.
fn notes(runs: &[(PathBuf, AnyRun)], is_mixed: bool, rows: &[Row]) -> Vec<String> {
    let tuning = runs.iter().filter_map(|(_, run)| match run {
        AnyRun::Tuning(run) => Some(&**run),
        AnyRun::Head(_) => None,
    });
    let tuning: Vec<_> = tuning
        .filter(|run| {
            let is_own =
                |row: &Row| row.name.strip_suffix("/best").unwrap_or(&row.name) == run.name;
            rows.iter().any(is_own)
        })
        .collect();
    let mut notes = Vec::new();
    let is_evaluated = |run: &&&TuningRun| run.series("train_evaluated_loss").is_some();
    let evaluated = tuning.iter().filter(is_evaluated).count();
    if evaluated < tuning.len() {
        notes.push(format!(
            "The train loss of {} of {} fine-tuning runs is the mean over the epoch's steps, in training \
             mode: evaluation.on_train = true measures it as the others are.",
            tuning.len() - evaluated,
            tuning.len()
        ));
    }
    let tasks: BTreeSet<&str> = tuning.iter().map(|run| &run.setting.task[..]).collect();
    if tasks.len() > 1 {
        notes.push(format!(
            "The runs are of {} tasks ({}): a link over all of them may be one between tasks.",
            tasks.len(),
            tasks.into_iter().collect::<Vec<_>>().join(", ")
        ));
    }
    if is_mixed {
        notes.push(
            "Heads and fine-tuning runs stand together: the deciding set of the latter counts as the \
             test set, and accuracies are per cent."
                .to_owned(),
        );
    }
    notes
}

fn named(names: &[&str]) -> String {
    let shown = names.iter().take(NAMED).copied().collect::<Vec<_>>();
    let shown = shown.join(", ");
    match names.len().saturating_sub(NAMED) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}
