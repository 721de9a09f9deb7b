use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Result, bail};
use rankwise_data::read_text;
use serde::Deserialize;

use crate::tuning::records::{LeftOut, reasons};

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
        bail!(
            "{}: expected a line of JSON for every run, found none{}",
            path.display(),
            reasons(&left_out)
        );
    }
    Ok((runs, left_out))
}
