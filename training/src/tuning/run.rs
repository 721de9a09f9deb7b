//! The run: epochs of steps, an evaluation and a measurement after each, checkpoints between them.
//!
//! Everything random is addressed by the number of the epoch or step, so that a killed run goes on
//! from its last checkpoint to the same bits, at any number of threads.

use std::path::{Path, PathBuf};
use std::time::Instant;

use candle_core::{DType, Device};
use rankwise_data::sha256_path;

use super::account::inputs_of;
use super::batch::{Batch, Item};
use super::config::TuneConfig;
use super::data::{Sources, TuneData};
use super::folder::{Checkpoint, Held, Inputs, Notes, TuneFolder};
use super::record::{StepRecord, Trainable, TuneRecord, TuneStop, TuneSummary};
use super::trainer::Trainer;
use super::{Tuned, export};
use crate::Error;
use crate::method::Step;
use crate::metric::Metric;

/// What [`tune`] tells of its progress.
#[derive(Debug, Clone, Copy)]
pub enum TuneProgress<'a> {
    /// The run begins, or goes on: steps made already, and all steps.
    Begins {
        /// Steps found in the folder.
        found: u64,
        /// All steps.
        of: u64,
        /// Numbers that train.
        trainable: Trainable,
        /// What a reader of the results should know: what was left out, drawn or passed over.
        notes: &'a [String],
    },
    /// A step was made.
    Step {
        /// Its number, from 1.
        number: u64,
        /// What it gave.
        record: &'a StepRecord,
    },
    /// An epoch was trained, evaluated and measured.
    Epoch(&'a TuneRecord),
}

/// Fine-tunes as `config` says, with the model and the data in `sources`.
///
/// With a `folder`, the run is recorded there; a finished run is only read back, if its files are
/// still the same, and a killed one goes on from its last checkpoint to the same bits. Without one, nothing is written. Work is
/// shared out to the threads of the pool that this is called in.
///
/// # Errors
/// [`Error::Setting`] if a setting does not fit the model or the data; [`Error::Model`];
/// [`Error::ForeignFolder`]; [`Error::Device`]; [`Error::Data`].
pub fn tune(
    config: &TuneConfig,
    sources: &Sources,
    folder: Option<&Path>,
    mut observe: impl FnMut(TuneProgress<'_>),
) -> Result<TuneSummary, Error> {
    crate::single_threaded_products();
    config.check("configuration")?;
    let device = config.device.open()?;
    // Of a finished run only what it read is looked at again; for any other the folder is taken only
    // when model, data and settings have turned out to fit.
    if let Some(path) = folder.filter(|path| path.join("run.json").exists())
        && let (_, Held::Whole(summary)) = TuneFolder::open(path, config, &device)?
    {
        let begun = Inputs {
            data: summary.data_sha256.clone(),
            model: summary.model_sha256.clone(),
        };
        begun.check(&inputs_of(config, sources)?, path)?;
        return Ok(*summary);
    }
    let mut run = Run::new(config, sources, device.clone())?;
    let inputs = run.inputs()?;
    let mut state = Progressed::default();
    let folder = match folder {
        Some(path) => {
            let (folder, held) = TuneFolder::open(path, config, &device)?;
            if let Held::Part(checkpoint) = held {
                checkpoint.notes.inputs.check(&inputs, path)?;
                run.restore(*checkpoint, &mut state)?;
            }
            Some(folder)
        }
        None => None,
    };
    state.notes.inputs = inputs;
    let trainable = run.trainable();
    observe(TuneProgress::Begins {
        found: state.steps.len() as u64,
        of: run.steps,
        trainable,
        notes: &run.notes(),
    });
    let start = Instant::now();
    let stop = run.go(&mut state, folder.as_ref(), start, &mut observe);
    let stop = stop.map_err(|error| run.explained(error))?;
    let summary = run.summary(&state, stop, trainable, folder.as_ref(), start);
    if let Some(folder) = &folder {
        // Not before: a run that was killed while it wrote them writes them again.
        state.notes.check_best(folder.path())?;
        folder.write_records(&state.notes.records, &state.steps, run.per_epoch)?;
        let is_whole = !matches!(summary.stop, TuneStop::Diverged { .. });
        if is_whole {
            export::write(
                &run.trainer.tuned,
                config,
                run.data.outputs().as_ref(),
                folder.path(),
                &sources.model,
            )?;
        }
        folder.finish(&summary, is_whole)?;
    }
    Ok(summary)
}

/// What a run has come to.
#[derive(Default)]
pub(super) struct Progressed {
    pub steps: Vec<StepRecord>,
    pub notes: Notes,
}

pub(super) struct Run<'a> {
    pub config: &'a TuneConfig,
    pub device: Device,
    pub dtype: DType,
    pub data: TuneData,
    pub trainer: Trainer,
    pub per_epoch: u64,
    pub steps: u64,
    pub notes: Vec<String>,
    pub model: &'a Path,
    /// The file of the adapter that it begins with.
    pub adapter: Option<PathBuf>,
}

impl Run<'_> {
    fn restore(&mut self, checkpoint: Checkpoint, state: &mut Progressed) -> Result<(), Error> {
        self.trainer.restore(checkpoint.moments)?;
        let Tuned {
            rule,
            modules,
            parameters,
            ..
        } = &mut self.trainer.tuned;
        parameters.restore(checkpoint.values)?;
        rule.restore(&checkpoint.rule, modules, parameters)?;
        state.steps = checkpoint.steps;
        state.notes = checkpoint.notes;
        Ok(())
    }

    fn go(
        &mut self,
        state: &mut Progressed,
        folder: Option<&TuneFolder>,
        start: Instant,
        observe: &mut impl FnMut(TuneProgress<'_>),
    ) -> Result<TuneStop, Error> {
        let earlier = state.notes.wall_seconds;
        let mut since_better = since_better(&state.notes);
        while (state.steps.len() as u64) < self.steps {
            let first = state.steps.len() as u64;
            let epoch = first / self.per_epoch;
            let mut batches = self.batches(epoch, first % self.per_epoch);
            let numbers = first..(epoch + 1) * self.per_epoch;
            let mut clock = Instant::now();
            for (number, items) in numbers.zip(batches.by_ref()) {
                let Ok(mut found) = items;
                let items = self.take(&mut found)?;
                let record = match self.step(self.at(number), &items, found.earlier)? {
                    Ok(record) => record,
                    Err(module) => {
                        let step = number + 1;
                        return Ok(TuneStop::Diverged { step, module });
                    }
                };
                state.steps.push(record);
                observe(TuneProgress::Step {
                    number: number + 1,
                    record: &record,
                });
                let done = state.steps.len() as u64;
                // What was made of the last step is not looked at by a next one.
                let is_last = done.is_multiple_of(self.per_epoch);
                let is_kept = done.is_multiple_of(self.config.schedule.checkpoint_every as u64);
                if (is_last || is_kept)
                    && let Some(module) = self.trainer.tuned.not_finite()?
                {
                    return Ok(TuneStop::Diverged { step: done, module });
                }
                if let Some(folder) = folder
                    && is_kept
                    && !is_last
                {
                    state.notes.train_seconds += clock.elapsed().as_secs_f64();
                    clock = Instant::now();
                    state.notes.wall_seconds = earlier + start.elapsed().as_secs_f64();
                    folder.write_checkpoint(&self.checkpoint(state))?;
                }
            }
            drop(batches);
            let train_seconds = state.notes.train_seconds + clock.elapsed().as_secs_f64();
            state.notes.train_seconds = 0.0;
            let record = self.measure(epoch, &state.steps, train_seconds)?;
            let is_better = self.is_better(&record, state.notes.best);
            since_better = if is_better { 0 } else { since_better + 1 };
            if is_better && let Some((_, Some(value))) = record.deciding() {
                state.notes.best = Some((record.epoch, value));
            }
            observe(TuneProgress::Epoch(&record));
            state.notes.records.push(record);
            state.notes.wall_seconds = earlier + start.elapsed().as_secs_f64();
            if let Some(folder) = folder {
                if is_better {
                    let best = folder.path().join("best");
                    export::write(
                        &self.trainer.tuned,
                        self.config,
                        self.data.outputs().as_ref(),
                        &best,
                        self.model,
                    )?;
                    state.notes.best_sha256 = Some(sha256_path(&best)?);
                }
                folder.write_records(&state.notes.records, &state.steps, self.per_epoch)?;
                folder.write_checkpoint(&self.checkpoint(state))?;
            }
            let patience = self.config.evaluation.patience;
            if patience > 0 && since_better >= patience {
                return Ok(TuneStop::NoBetter);
            }
        }
        Ok(TuneStop::Completed)
    }

    /// Makes step `number` of the first epoch, whatever comes of it.
    pub fn rehearse(&mut self, number: u64) -> Result<(), Error> {
        let Some(Ok(mut found)) = self.batches(0, number.min(self.per_epoch - 1)).next() else {
            return Ok(());
        };
        let items = self.take(&mut found)?;
        let step = Step {
            epoch: 0,
            ..self.at(number)
        };
        self.step(step, &items, found.earlier).map(drop)
    }

    /// One step; the name of what is not finite instead, if something is not.
    fn step(
        &mut self,
        step: Step,
        items: &[Item],
        earlier: Option<(u64, Vec<Item>)>,
    ) -> Result<Result<StepRecord, String>, Error> {
        let config = self.config;
        let batch = |items: &[Item]| match self.device.is_cpu() {
            true => Batch::new(items, false, self.dtype, &self.device),
            false => {
                // A batch of the configured size at a time, as memory was asked for.
                let parts = items.chunks(config.schedule.batch_size);
                Batch::of_parts(parts, self.dtype, &self.device)
            }
        };
        let now = batch(items)?;
        let earlier = match earlier {
            Some((number, items)) => Some((number, batch(&items)?)),
            None => None,
        };
        let earlier = earlier.as_ref().map(|(number, batch)| (*number, batch));
        let rate = config.optimizer.learning_rate * config.schedule.rate(step.number, step.of);
        self.trainer.step(step, &now, earlier, rate)
    }

    fn is_better(&self, record: &TuneRecord, best: Option<(usize, f64)>) -> bool {
        let Some((key, value)) = record.deciding() else {
            return false;
        };
        let metric = Metric::ALL.into_iter().find(|metric| metric.key() == key);
        metric.is_some_and(|metric| metric.is_better(value, best.map(|(_, value)| value)))
    }

    fn checkpoint(&self, state: &Progressed) -> Checkpoint {
        Checkpoint {
            values: self.trainer.tuned.parameters.values().clone(),
            moments: self.trainer.moments(),
            rule: self.trainer.tuned.rule.state().into_iter().collect(),
            steps: state.steps.clone(),
            notes: state.notes.clone(),
        }
    }
}

/// Epochs since the deciding metric was best.
fn since_better(notes: &Notes) -> usize {
    match notes.best {
        Some((epoch, _)) => notes.records.len().saturating_sub(epoch),
        None => notes.records.len(),
    }
}
