use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use rankwise_data::{Table, read_text};
use rankwise_training::{MethodName, RunConfig, RunSummary};
use serde::Serialize;

/// A method at one R: what is repeated over seeds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Configuration {
    /// The method.
    pub method: MethodName,
    /// R; `None` for full fine-tuning.
    pub rank: Option<usize>,
}

impl std::fmt::Display for Configuration {
    /// As in the paper's legends: `GM-LoRA (R = 32)`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.rank {
            Some(rank) => f.pad(&format!("{} (R = {rank})", self.method)),
            None => f.pad(&self.method.to_string()),
        }
    }
}

/// A finished run, read back from its folder.
#[derive(Debug, Clone)]
pub struct Run {
    /// The folder's name.
    pub name: String,
    /// Its method and R.
    pub configuration: Configuration,
    /// Resolved.
    pub config: RunConfig,
    /// How it ended.
    pub summary: RunSummary,
    metrics: Table,
}

impl Run {
    /// Reads one run's folder.
    ///
    /// # Errors
    /// If a file is missing, damaged, or has no epoch on record.
    pub fn read(folder: &Path) -> Result<Self> {
        let config_path = folder.join("config.toml");
        let origin = config_path.display().to_string();
        let config = RunConfig::from_toml(&read_text(&config_path)?, &origin)?;
        let summary_path = folder.join("run.json");
        let summary = serde_json::from_str(&read_text(&summary_path)?)
            .with_context(|| summary_path.display().to_string())?;
        let metrics = Table::read_parquet(&folder.join("metrics.parquet"))?;
        if metrics.rows() == 0 {
            bail!(
                "{}: the run diverged before its first record",
                folder.display()
            );
        }
        let name = folder
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let configuration = Configuration {
            method: config.method.name,
            rank: config.method.rank,
        };
        Ok(Self {
            name,
            configuration,
            config,
            summary,
            metrics,
        })
    }

    /// Reads every finished run below `folder`, by method, R and seed.
    ///
    /// # Errors
    /// If there is none, or one cannot be read.
    pub fn read_all(folder: &Path) -> Result<Vec<Self>> {
        let listing = fs::read_dir(folder)
            .with_context(|| format!("{}: expected a folder of runs", folder.display()))?;
        let mut runs = Vec::new();
        for entry in listing {
            let path = entry.with_context(|| folder.display().to_string())?.path();
            if path.join("run.json").is_file() {
                runs.push(Self::read(&path)?);
            }
        }
        if runs.is_empty() {
            bail!(
                "{}: expected folders of finished runs, found none",
                folder.display()
            );
        }
        runs.sort_by_key(|run| (run.configuration, run.config.seed));
        Ok(runs)
    }

    /// A column of the metrics, one number an epoch; NaN where it is not defined.
    ///
    /// # Errors
    /// If there is no such column of numbers.
    pub fn series(&self, column: &str) -> Result<Vec<f64>> {
        self.metrics
            .numbers(column)
            .with_context(|| format!("run {}: metrics.parquet", self.name))
    }

    /// The last epoch's number of a column.
    ///
    /// # Errors
    /// As [`series`](Self::series).
    pub fn last(&self, column: &str) -> Result<f64> {
        Ok(*self
            .series(column)?
            .last()
            .expect("a run that was read has a record"))
    }
}

/// The runs of every configuration, in the order of the paper's legend: GM, RM, R, LoRA for every
/// R, then full fine-tuning.
pub fn by_configuration<'a>(
    runs: impl IntoIterator<Item = &'a Run>,
) -> Vec<(Configuration, Vec<&'a Run>)> {
    let place = |method: MethodName| match method {
        MethodName::GmLora => 0,
        MethodName::RmLora => 1,
        MethodName::RLora => 2,
        MethodName::Lora => 3,
        MethodName::Full => 4,
    };
    let runs: Vec<&Run> = runs.into_iter().collect();
    let mut configurations: Vec<Configuration> = runs.iter().map(|run| run.configuration).collect();
    configurations.sort_by_key(|c| (c.rank.is_none(), place(c.method), c.rank));
    configurations.dedup();
    configurations
        .into_iter()
        .map(|c| {
            let own = runs.iter().filter(|run| run.configuration == c);
            (c, own.copied().collect())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configurations_read_as_in_the_paper() {
        let gm = Configuration {
            method: MethodName::GmLora,
            rank: Some(32),
        };
        assert_eq!(gm.to_string(), "GM-LoRA (R = 32)");
        let full = Configuration {
            method: MethodName::Full,
            rank: None,
        };
        assert_eq!(full.to_string(), "Full fine-tuning");
    }
}
