//! Runs of `rankwise train --model`, from their folders alone.

use std::fs;
use std::path::Path;
use std::str::FromStr;

use anyhow::{Context, Result, bail, ensure};
use rankwise_data::{Table, read_text};
use rankwise_training::{Direction, Method, Metric, TuneConfig, TuneRecord, TuneStop, TuneSummary};
use serde::Serialize;

/// A method at one R on one task: what is repeated over seeds.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct TuningSetting {
    /// The task's name.
    pub task: String,
    /// The method's place among all, which is the order of tables.
    #[serde(skip)]
    place: usize,
    /// The method's name in configurations.
    pub method: String,
    /// R; `None` where nothing has one.
    pub rank: Option<usize>,
}

impl TuningSetting {
    /// Of the names in a record.
    pub fn new(task: &str, method: &str, rank: Option<usize>) -> Self {
        let place = Method::KEYS.iter().position(|key| *key == method);
        Self {
            task: task.to_owned(),
            place: place.unwrap_or(Method::KEYS.len()),
            method: method.to_owned(),
            rank,
        }
    }

    /// The method as in legends, without its R: `RM-LoRA`.
    pub fn title(&self) -> String {
        match Method::from_str(&self.method) {
            Ok(method) => method.title().to_owned(),
            Err(_) => self.method.clone(),
        }
    }

    /// The method and R as in legends: `RM-LoRA (R = 8)`.
    pub fn label(&self) -> String {
        match self.rank {
            Some(rank) => format!("{} (R = {rank})", self.title()),
            None => self.title(),
        }
    }
}

/// A finished run that has at least one epoch on record.
#[derive(Debug, Clone)]
pub struct TuningRun {
    /// The folder's name.
    pub name: String,
    /// Task, method and R.
    pub setting: TuningSetting,
    /// Resolved.
    pub config: TuneConfig,
    /// How it ended.
    pub summary: TuneSummary,
    /// The last epoch's record.
    pub last: TuneRecord,
    epochs: Table,
}

/// The runs of one setting.
pub type TuningSeeds<'a> = (&'a TuningSetting, Vec<&'a TuningRun>);

/// A folder of runs.
#[derive(Debug, Clone, Default)]
pub struct TuningRuns {
    /// By task, method, R and seed.
    pub runs: Vec<TuningRun>,
    /// What is there and could not be taken.
    pub left_out: Vec<LeftOut>,
}

/// A folder that is no finished run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LeftOut {
    /// Its name; of a peer's runs, the line.
    pub name: String,
    /// What was expected and what is there.
    pub reason: String,
}

impl TuningRuns {
    /// Whether a folder below `folder` is of a fine-tuning run, finished or not: its configuration
    /// names a model, or it has a table of epochs.
    pub fn are_in(folder: &Path) -> bool {
        folders(folder).is_ok_and(|folders| folders.iter().any(|path| is_tuning(path)))
    }

    /// Reads every run below `folder`. Runs that are still going, damaged folders and other runs are
    /// left out by name.
    ///
    /// # Errors
    /// If the folder cannot be read or no finished run is in it.
    pub fn read(folder: &Path) -> Result<Self> {
        let mut all = Self::default();
        for path in folders(folder)? {
            if !path.join("config.toml").is_file() && !path.join("run.json").is_file() {
                continue;
            }
            match TuningRun::read(&path) {
                Ok(run) => all.runs.push(run),
                Err(error) => all.left_out.push(LeftOut {
                    name: folder_name(&path),
                    reason: format!("{error:#}"),
                }),
            }
        }
        if all.runs.is_empty() {
            bail!(
                "{}: expected folders of finished fine-tuning runs, found none{}",
                folder.display(),
                reasons(&all.left_out)
            );
        }
        let key = |run: &TuningRun| (run.setting.clone(), run.summary.seed, run.name.clone());
        all.runs.sort_by_key(key);
        Ok(all)
    }

    /// The runs of every setting, in the order of tables.
    pub fn by_setting(&self) -> Vec<TuningSeeds<'_>> {
        let mut groups: Vec<TuningSeeds<'_>> = Vec::new();
        for run in &self.runs {
            match groups.last_mut() {
                Some((setting, own)) if **setting == run.setting => own.push(run),
                _ => groups.push((&run.setting, vec![run])),
            }
        }
        groups
    }

    /// The settings of every task.
    pub fn by_task(&self) -> Vec<(&str, Vec<TuningSeeds<'_>>)> {
        let mut tasks: Vec<(&str, Vec<_>)> = Vec::new();
        for group in self.by_setting() {
            match tasks.last_mut() {
                Some((task, own)) if *task == group.0.task => own.push(group),
                _ => tasks.push((&group.0.task, vec![group])),
            }
        }
        tasks
    }
}

impl LeftOut {
    /// Name and reason.
    pub fn told(&self) -> String {
        format!("{}: {}", self.name, self.reason)
    }
}

impl TuningRun {
    /// Reads one run's folder.
    ///
    /// # Errors
    /// If a file is missing or damaged, if files are of different runs, or if there is no epoch on
    /// record.
    pub fn read(folder: &Path) -> Result<Self> {
        if folder.join("metrics.parquet").is_file() {
            bail!("expected a fine-tuning run, found a head's (metrics.parquet)");
        }
        let text = read_text(&folder.join("config.toml"))?;
        let config = TuneConfig::from_toml(&text, "config.toml")?;
        let summary_path = folder.join("run.json");
        if !summary_path.is_file() {
            bail!("expected run.json, found none: the run is still going, or was stopped");
        }
        let summary: TuneSummary =
            serde_json::from_str(&read_text(&summary_path)?).context("run.json")?;
        let (ours, theirs) = (
            (&*config.task.name, config.method.method.key(), config.seed),
            (&*summary.task, &*summary.method, summary.seed),
        );
        ensure!(
            ours == theirs,
            "expected run.json of config.toml's run {ours:?}, found {theirs:?}"
        );
        let Some(last) = summary.last.clone() else {
            match &summary.stop {
                TuneStop::Diverged { step, module } => {
                    bail!("diverged before its first record, in step {step}, first in {module}")
                }
                stop => bail!("expected an epoch on record, found none ({stop:?})"),
            }
        };
        let epochs = Table::read_parquet(&folder.join("epochs.parquet"))?;
        ensure!(
            epochs.rows() == last.epoch,
            "expected epochs.parquet of run.json's {} epochs, found {} rows",
            last.epoch,
            epochs.rows()
        );
        Ok(Self {
            name: folder_name(folder),
            setting: TuningSetting::new(&summary.task, &summary.method, summary.rank),
            config,
            summary,
            last,
            epochs,
        })
    }

    /// Whether every number was finite to the end.
    pub fn is_whole(&self) -> bool {
        !matches!(self.summary.stop, TuneStop::Diverged { .. })
    }

    /// A column of the epochs' table, one number an epoch, NaN where it is not defined; `None` if
    /// there is no such column of numbers.
    pub fn series(&self, column: &str) -> Option<Vec<f64>> {
        self.epochs.numbers(column).ok()
    }

    /// The deciding metric by epoch.
    pub fn deciding_series(&self) -> Option<Vec<f64>> {
        let set = &self.last.scores.first()?.set;
        let (key, _) = self.last.deciding()?;
        self.series(&format!("{set}_{key}"))
    }

    /// The set that decides and its metric's key, such as `validation` and `accuracy`.
    pub fn decides(&self) -> Option<(&str, &str)> {
        let (key, _) = self.last.deciding()?;
        Some((&self.last.scores.first()?.set, key))
    }
}

/// The first few reasons, for the end of a message.
pub(crate) fn reasons(left_out: &[LeftOut]) -> String {
    const SHOWN: usize = 3;
    let shown = left_out.iter().take(SHOWN);
    let mut text: String = shown.map(|one| format!("; {}", one.told())).collect();
    if left_out.len() > SHOWN {
        text += &format!("; and {} more", left_out.len() - SHOWN);
    }
    text
}

/// A metric's name in legends: `Matthews`.
pub(crate) fn metric_title(key: &str) -> String {
    match metric(key) {
        Some(metric) => metric.to_string(),
        None => key.to_owned(),
    }
}

/// Whether larger values are better.
pub(crate) fn is_higher_better(key: &str) -> bool {
    metric(key).is_none_or(|metric| metric.direction() == Direction::Higher)
}

fn metric(key: &str) -> Option<Metric> {
    Metric::ALL.into_iter().find(|metric| metric.key() == key)
}

fn folder_name(folder: &Path) -> String {
    let name = folder.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

/// The folders below one, by name.
fn folders(folder: &Path) -> Result<Vec<std::path::PathBuf>> {
    let listing = fs::read_dir(folder)
        .with_context(|| format!("{}: expected a folder of runs", folder.display()))?;
    let mut paths = Vec::new();
    for entry in listing {
        let path = entry.with_context(|| folder.display().to_string())?.path();
        if path.is_dir() {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

fn is_tuning(folder: &Path) -> bool {
    folder.join("epochs.parquet").is_file()
        || read_text(&folder.join("config.toml")).is_ok_and(|text| {
            let table = text.parse::<toml::Table>();
            table.is_ok_and(|table| table.contains_key("model"))
        })
}
