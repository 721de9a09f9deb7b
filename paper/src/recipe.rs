use std::path::Path;

use anyhow::{Context, Result};
use rankwise_training::{MethodName, Progress, RunConfig, RunSummary, Task, train};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::protocol::seeds;

/// A family of runs: every method × rank × seed over one base configuration.
#[derive(Debug, Clone)]
pub struct Recipe {
    /// What all runs share.
    pub base: RunConfig,
    /// The methods; full fine-tuning runs once a seed, since it has no rank.
    pub methods: Vec<MethodName>,
    /// R.
    pub ranks: Vec<usize>,
    /// The seeds.
    pub seeds: Vec<u64>,
}

impl Recipe {
    /// The runs of the paper's Figure 1 in the last-layer protocol on the embedded task: every
    /// method, R ∈ {16, 32, 64}, three seeds that no other `seed` gives; 39 runs.
    ///
    /// # Errors
    /// If `seed` is too large.
    pub fn figure1(seed: u64) -> Result<Self> {
        Ok(Self {
            base: RunConfig::default(),
            methods: MethodName::ALL.to_vec(),
            ranks: vec![16, 32, 64],
            seeds: seeds(seed, 3)?,
        })
    }

    /// One checked configuration a run. Settings of the base that a method does not have, such as
    /// λ for LoRA, are left out for it, unless it is the only method.
    ///
    /// # Errors
    /// If a setting does not fit the task.
    pub fn configurations(&self) -> Result<Vec<RunConfig>> {
        let task = Task::load(&self.base.task)?;
        let mut configs = Vec::new();
        for &method in &self.methods {
            let ranks: Vec<Option<usize>> = match method.is_low_rank() {
                true => self.ranks.iter().copied().map(Some).collect(),
                false => vec![None],
            };
            for rank in ranks {
                for &seed in &self.seeds {
                    let mut config = RunConfig {
                        seed,
                        ..self.base.clone()
                    };
                    config.method.name = method;
                    config.method.rank = rank;
                    if self.methods.len() > 1 {
                        let shared = &mut config.method;
                        shared.alpha = shared.alpha.filter(|_| method.is_low_rank());
                        shared.initialisation =
                            shared.initialisation.filter(|_| method.is_low_rank());
                        shared.lambda = shared.lambda.filter(|_| method.is_regularised());
                        shared.directions = shared.directions.filter(|_| method.is_masked());
                        shared.mask = shared.mask.filter(|_| method.is_masked());
                    }
                    let origin = format!("configuration of {}", run_name(&config));
                    configs.push(config.resolved(&origin, task.inputs(), task.outputs())?);
                }
            }
        }
        Ok(configs)
    }
}

/// A run with its configuration and what came of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RunResult {
    /// The run's folder, below the folder of all.
    pub name: String,
    /// Resolved.
    pub config: RunConfig,
    /// The last epoch, why it stopped, how long it took.
    pub summary: RunSummary,
}

/// `rm-lora-r32-s0`: the folder of a run below the folder of all.
pub fn run_name(config: &RunConfig) -> String {
    let method = config.method.name.key();
    match config.method.rank {
        Some(rank) => format!("{method}-r{rank}-s{}", config.seed),
        None => format!("{method}-s{}", config.seed),
    }
}

/// Trains every configuration into its own folder below `out`, side by side on all threads, and
/// returns the results in the order of `configs`. Finished runs are read back, killed ones go on.
/// `done` is told how many epochs are behind.
///
/// # Errors
/// The first run's that failed; the others' folders stay as they are, and can be gone on with.
pub fn train_all(
    configs: &[RunConfig],
    out: &Path,
    done: impl Fn(usize) + Sync,
) -> Result<Vec<RunResult>> {
    let Some(first) = configs.first() else {
        return Ok(Vec::new());
    };
    let task = Task::load(&first.task)?;
    let mut results = configs
        .iter()
        .enumerate()
        .par_bridge()
        .map(|(index, config)| {
            let name = run_name(config);
            let observe = |progress: Progress<'_>| match progress {
                Progress::Found(epochs) => done(epochs),
                Progress::Epoch(_) => done(1),
            };
            let summary = train(config, &name, &task, Some(&out.join(&name)), observe)
                .with_context(|| format!("run {name}"))?;
            Ok((
                index,
                RunResult {
                    name,
                    config: config.clone(),
                    summary,
                },
            ))
        })
        .collect::<Result<Vec<_>>>()?;
    results.sort_by_key(|(index, _)| *index);
    Ok(results.into_iter().map(|(_, result)| result).collect())
}
