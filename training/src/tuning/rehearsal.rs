//! A run's cost before it is run: what would train is counted, and a few steps are made and thrown
//! away.

use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::config::TuneConfig;
use super::data::Sources;
use super::record::Trainable;
use super::run::Run;
use crate::Error;

/// Steps that are timed, after one that is not.
const STEPS: u64 = 2;

/// What a run would cost.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Rehearsal {
    /// Numbers that train.
    pub trainable: Trainable,
    /// Numbers of the whole model.
    pub model: usize,
    /// Training examples.
    pub examples: usize,
    /// Tokens of the training examples, without padding; images count one.
    pub tokens: usize,
    /// Steps of the run.
    pub steps: u64,
    /// Seconds of a step, measured.
    pub step_seconds: f64,
    /// Seconds of all steps, and of an evaluation after every epoch at a third of a step's cost for
    /// each example.
    pub seconds: f64,
    /// Bytes of weights, and of trained numbers with gradient and moments.
    pub state_bytes: usize,
    /// Bytes of a batch of the longest examples, estimated: inputs and outputs of every module.
    pub batch_bytes: usize,
    /// The most memory that this process has used, where the system tells it.
    pub peak_bytes: Option<u64>,
}

/// Makes a few steps of the run that `config` describes and keeps nothing of them.
///
/// # Errors
/// As [`super::tune`].
pub fn rehearse(config: &TuneConfig, sources: &Sources) -> Result<Rehearsal, Error> {
    crate::single_threaded_products();
    config.check("configuration")?;
    let mut run = Run::new(config, sources, config.device.open()?)?;
    let mut seconds = 0.0;
    for number in 0..=STEPS.min(run.steps.saturating_sub(1)) {
        let start = Instant::now();
        let made = run.rehearse(number);
        made.map_err(|error| run.explained(error))?;
        if number > 0 || run.steps == 1 {
            seconds += start.elapsed().as_secs_f64();
        }
    }
    let step_seconds = seconds / STEPS.min(run.steps).max(1) as f64;
    let examples = run.data.train.len();
    let evaluated: usize = run.data.evaluated.iter().map(|set| set.source.len()).sum();
    let size = config.schedule.examples();
    let evaluation = step_seconds / 3.0 * evaluated as f64 / size as f64;
    let trainable = run.trainable();
    let need = run.need();
    let tuned = &run.trainer.tuned;
    let weights = tuned.modules.0.iter().map(|module| module.declared.count());
    let weights: usize = weights.sum();
    Ok(Rehearsal {
        model: weights,
        examples,
        tokens: (0..examples).map(|at| run.data.train.tokens(at)).sum(),
        steps: run.steps,
        step_seconds,
        seconds: step_seconds * run.steps as f64 + evaluation * config.schedule.epochs as f64,
        state_bytes: need.state,
        batch_bytes: need.batch,
        trainable,
        peak_bytes: peak_bytes(),
    })
}

/// Linux only.
fn peak_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(1024 * line.trim().split(' ').next()?.parse::<u64>().ok()?)
}
