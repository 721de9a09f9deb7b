//! The run: epochs of steps, an evaluation and a measurement after each, checkpoints between them.
//!
//! Everything random is addressed by the number of the epoch or step, so that a killed run goes on
//! from its last checkpoint to the same bits, at any number of threads.

use std::path::{Path, PathBuf};
use std::time::Instant;

use candle_core::{DType, Device};
use rand::seq::SliceRandom;
use rankwise_data::{Prefetch, sha256_file, sha256_hex, stream};

use super::batch::Batch;
use super::beginning::Beginning;
use super::config::{OptimizerName, TuneConfig, TunePrecision};
use super::data::{Evaluated, Judged, Sources, TuneData};
use super::evaluate::evaluate;
use super::folder::{Checkpoint, Held, Notes, TuneFolder};
use super::ranks::ranks;
use super::record::{StepRecord, Trainable, TuneRecord, TuneStop, TuneSummary};
use super::{Prepared, Tuned, export};
use crate::Error;
use crate::engine::optimizer::{Optimizer, Rule, gradient_norm};
use crate::method::{Level, Made, Step, directional, moving};
use crate::metric::Metric;
use crate::model::Loaded;

/// Batches that are made ahead of their use, by each thread.
const AHEAD: usize = 2;

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
/// With a `folder`, the run is recorded there; a finished run is only read back, and a killed one
/// goes on from its last checkpoint to the same bits. Without one, nothing is written. Work is
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
    // A finished run is read back before anything else is; for any other the folder is taken only
    // when model, data and settings have turned out to fit.
    if let Some(path) = folder.filter(|path| path.join("run.json").exists())
        && let (_, Held::Whole(summary)) = TuneFolder::open(path, config, &device)?
    {
        return Ok(*summary);
    }
    let mut run = Run::new(config, sources, device.clone())?;
    let mut state = Progressed::default();
    let folder = match folder {
        Some(path) => {
            let (folder, held) = TuneFolder::open(path, config, &device)?;
            if let Held::Part(checkpoint) = held {
                run.restore(*checkpoint, &mut state)?;
            }
            Some(folder)
        }
        None => None,
    };
    let trainable = run.trainable();
    observe(TuneProgress::Begins {
        found: state.steps.len() as u64,
        of: run.steps,
        trainable,
    });
    let start = Instant::now();
    let stop = run.go(&mut state, folder.as_ref(), start, &mut observe)?;
    let summary = run.summary(&state, stop, trainable, folder.as_ref(), start)?;
    if let Some(folder) = &folder {
        folder.write_records(&state.notes.records, &state.steps, run.per_epoch)?;
        let is_whole = !matches!(summary.stop, TuneStop::Diverged { .. });
        if is_whole {
            export::write(
                &run.tuned,
                config,
                &run.data.classes,
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
struct Progressed {
    steps: Vec<StepRecord>,
    notes: Notes,
}

/// An item, or what is wrong with its image.
type ItemOrFault = Result<super::Item, rankwise_data::Error>;

pub(super) struct Run<'a> {
    config: &'a TuneConfig,
    device: Device,
    pub dtype: DType,
    pub data: TuneData,
    pub tuned: Tuned,
    optimizer: Optimizer,
    per_epoch: u64,
    pub steps: u64,
    notes: Vec<String>,
    model: &'a Path,
    /// The file of the adapter that it begins with.
    adapter: Option<PathBuf>,
}

impl<'a> Run<'a> {
    pub fn new(
        config: &'a TuneConfig,
        sources: &'a Sources,
        device: Device,
    ) -> Result<Self, Error> {
        let data = TuneData::read(&config.task, sources, config.seed)?;
        let (dtype, trained) = match config.precision {
            TunePrecision::F32 => (DType::F32, DType::F32),
            TunePrecision::F64 => (DType::F64, DType::F64),
            TunePrecision::Bf16 => (DType::BF16, DType::F32),
        };
        let loaded = Loaded::read(&sources.model, data.head, config.seed, dtype, &device)?;
        let mut notes = Vec::new();
        if !loaded.drawn.is_empty() {
            notes.push(format!("drawn from the seed: {}", loaded.drawn.join(", ")));
        }
        if !loaded.unused.is_empty() {
            notes.push(format!(
                "not used of the checkpoint: {}",
                loaded.unused.join(", ")
            ));
        }
        if let (Some(limit), "squad") = (loaded.architecture.positions(), config.task.name.as_str())
            && config.task.max_length > limit
        {
            return Err(too_long(config.task.max_length, limit));
        }
        if let Some(limit) = loaded.architecture.positions() {
            let longest = |source: &super::data::Source| {
                (0..source.len())
                    .map(|index| source.tokens(index))
                    .max()
                    .unwrap_or(0)
            };
            let sets = data.evaluated.iter().map(|set| &set.source);
            let longest = sets.chain([&data.train]).map(longest).max().unwrap_or(0);
            if longest > limit {
                return Err(too_long(longest, limit));
            }
        }
        let mut adapter = None;
        let tuned = match &config.model.adapter {
            None => Tuned::new(loaded, &config.method, config.seed, trained, &device)?,
            Some(path) => {
                let beginning = Beginning::read(path)?;
                adapter = Some(beginning.file().to_owned());
                let table = beginning.fitted(&config.method, &loaded.modules)?;
                let mut prepared = Prepared::new(loaded, &table, config.seed)?;
                notes.extend(beginning.fill(&mut prepared)?);
                Tuned::of(prepared, trained, &device)?
            }
        };
        let o = &config.optimizer;
        let rule = match o.name {
            OptimizerName::Adamw => Rule::AdamW {
                beta1: o.beta1,
                beta2: o.beta2,
                epsilon: o.epsilon,
                decay: o.weight_decay,
            },
            OptimizerName::Sgd => Rule::Sgd {
                momentum: o.momentum,
                decay: o.weight_decay,
            },
        };
        let rows = directional(&tuned.modules);
        let by_rows = |id| tuned.rule.by_rows() && rows.contains(&id);
        let optimizer = Optimizer::new(rule, &tuned.parameters, by_rows)?;
        let optimizer = optimizer.with_peak(config.optimizer.learning_rate);
        let size = config.schedule.batch_size * config.schedule.accumulation;
        let per_epoch = data.train.len().div_ceil(size) as u64;
        notes.extend(
            data.provenance
                .iter()
                .flat_map(|from| from.notes.iter().cloned()),
        );
        Ok(Self {
            steps: per_epoch * config.schedule.epochs as u64,
            config,
            device,
            dtype,
            data,
            tuned,
            optimizer,
            per_epoch,
            notes,
            model: &sources.model,
            adapter,
        })
    }

    fn restore(&mut self, checkpoint: Checkpoint, state: &mut Progressed) -> Result<(), Error> {
        self.tuned.parameters.restore(checkpoint.values)?;
        self.optimizer.restore(checkpoint.moments)?;
        let Tuned {
            rule,
            modules,
            parameters,
            ..
        } = &mut self.tuned;
        rule.restore(&checkpoint.rule, modules, parameters)?;
        state.steps = checkpoint.steps;
        state.notes = checkpoint.notes;
        Ok(())
    }

    pub fn trainable(&self) -> Trainable {
        let mut trainable = Trainable::default();
        let heads: Vec<String> = self
            .tuned
            .modules
            .0
            .iter()
            .filter(|module| module.declared.is_head)
            .map(|module| format!("{}.", module.declared.name))
            .collect();
        for (_, part) in self.tuned.parameters.parts() {
            let is_head = heads
                .iter()
                .any(|head| part.name.starts_with(head.as_str()));
            let count = part.count();
            if is_head {
                trainable.head += count;
            } else {
                trainable.update += count;
            }
            trainable.total += count;
        }
        trainable
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
                let Ok(found) = items;
                let mut items = Vec::with_capacity(found.len());
                for item in found {
                    items.extend(self.data.skip.take(item)?);
                }
                let step = Step {
                    number,
                    of: self.steps,
                    epoch,
                    seed: self.config.seed,
                };
                let record = match self.step(step, &items)? {
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
                if let Some(folder) = folder
                    && done.is_multiple_of(self.config.schedule.checkpoint_every as u64)
                    && !done.is_multiple_of(self.per_epoch)
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
                        &self.tuned,
                        self.config,
                        &self.data.classes,
                        &best,
                        self.model,
                    )?;
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

    /// The batches of an epoch after the first `done`, made in the background.
    fn batches(
        &self,
        epoch: u64,
        done: u64,
    ) -> Prefetch<Vec<ItemOrFault>, std::convert::Infallible> {
        let mut batches = self.order(epoch);
        batches.drain(..(done as usize).min(batches.len()));
        let source = self.data.train.clone();
        let threads = rayon::current_num_threads();
        Prefetch::new(batches, threads, AHEAD, move |_, indices| {
            let items = indices.iter();
            Ok(items
                .map(|index| source.item(*index, Some(epoch)))
                .collect())
        })
    }

    /// The examples of every step of an epoch: the training set once, shuffled; of a method with two
    /// levels each step's from its own part, gone through as often as it takes.
    fn order(&self, epoch: u64) -> Vec<Vec<usize>> {
        let seed = self.config.seed;
        let size = self.config.schedule.batch_size * self.config.schedule.accumulation;
        let shuffled = |mut items: Vec<usize>, name: &str, number: u64| {
            items.shuffle(&mut stream(seed, name, number));
            items
        };
        let all: Vec<usize> = (0..self.data.train.len()).collect();
        let Some(share) = self.tuned.rule.split() else {
            let order = shuffled(all, "shuffle", epoch);
            return order.chunks(size).map(<[usize]>::to_vec).collect();
        };
        // The same two parts in every epoch; neither is empty.
        let mut first = shuffled(all, "split", 0);
        let kept = (share * first.len() as f64).round() as usize;
        let second = first.split_off(first.len() - kept.clamp(1, first.len().max(2) - 1));
        let parts = [
            shuffled(first, "shuffle", epoch),
            shuffled(second, "shuffle second", epoch),
        ];
        let mut made = [0, 0];
        (0..self.per_epoch)
            .map(|number| {
                let step = Step {
                    number: epoch * self.per_epoch + number,
                    of: self.steps,
                    epoch,
                    seed,
                };
                let level = match self.tuned.rule.level(step) {
                    Level::First => 0,
                    Level::Second => 1,
                };
                let chunks = parts[level].len().div_ceil(size);
                let at = (made[level] % chunks) * size;
                made[level] += 1;
                parts[level].iter().skip(at).take(size).copied().collect()
            })
            .collect()
    }

    /// Makes step `number` of the first epoch, whatever comes of it.
    pub fn rehearse(&mut self, number: u64) -> Result<(), Error> {
        let Some(Ok(found)) = self.batches(0, number.min(self.per_epoch - 1)).next() else {
            return Ok(());
        };
        let mut items = Vec::with_capacity(found.len());
        for item in found {
            items.extend(self.data.skip.take(item)?);
        }
        let step = Step {
            number,
            of: self.steps,
            epoch: 0,
            seed: self.config.seed,
        };
        self.step(step, &items).map(drop)
    }

    /// One step; the name of what is not finite instead, if something is not.
    fn step(
        &mut self,
        step: Step,
        items: &[super::Item],
    ) -> Result<Result<StepRecord, String>, Error> {
        let Self {
            tuned,
            optimizer,
            config,
            ..
        } = self;
        tuned
            .rule
            .begin(step, &mut tuned.modules, &tuned.parameters)?;
        let on_gpu = !self.device.is_cpu();
        let batch = if on_gpu {
            // A batch of the configured size at a time, as memory was asked for.
            let parts = items.chunks(config.schedule.batch_size);
            Batch::of_parts(parts, self.dtype, &self.device)?
        } else {
            Batch::new(items, false, self.dtype, &self.device)?
        };
        let mut pull = tuned.pull(&batch, Some((config.seed, step.number)))?;
        let regulariser =
            tuned
                .rule
                .regularise(step, &tuned.modules, &tuned.parameters, &mut pull.gradients)?;
        let norm = gradient_norm(&tuned.parameters, &pull.gradients)?;
        if !(pull.loss.is_finite() && norm.is_finite()) {
            return Ok(Err(tuned.culprit(&batch, &pull.gradients)?));
        }
        let rate = config.optimizer.learning_rate * config.schedule.rate(step.number, step.of);
        let clip = config.optimizer.clip_norm;
        // As the reference clips: a norm at the limit is left alone up to its 10⁻⁶.
        let factor = if clip > 0.0 {
            (clip / (norm + 1e-6)).min(1.0)
        } else {
            1.0
        };
        let moving = moving(&tuned.modules);
        optimizer.step(
            &tuned.parameters,
            &pull.gradients,
            |id| moving.get(&id).map(Vec::as_slice),
            rate,
            factor,
        )?;
        let made = Made {
            step,
            rate,
            peak: config.optimizer.learning_rate,
            factor,
            gradients: &pull.gradients,
        };
        tuned
            .rule
            .settle(made, &mut tuned.modules, &tuned.parameters)?;
        Ok(Ok(StepRecord {
            loss: pull.loss,
            regulariser,
            gradient_norm: norm,
            learning_rate: rate,
        }))
    }

    fn measure(
        &mut self,
        epoch: u64,
        steps: &[StepRecord],
        train_seconds: f64,
    ) -> Result<TuneRecord, Error> {
        let clock = Instant::now();
        let size = self.config.evaluation.batch_size;
        let mut sets: Vec<Evaluated> = self.data.evaluated.clone();
        if self.config.evaluation.on_train
            && let Some(Judged::Outputs(metrics)) = sets.first().map(|set| set.judged.clone())
        {
            sets.push(Evaluated {
                name: "train".to_owned(),
                source: self.data.train.clone(),
                judged: Judged::Outputs(metrics),
            });
        }
        let scores = sets
            .iter()
            .map(|set| {
                let skip = &mut self.data.skip;
                evaluate(&self.tuned, set, skip, size, self.dtype, &self.device)
            })
            .collect::<Result<_, _>>()?;
        let evaluate_seconds = clock.elapsed().as_secs_f64();
        let clock = Instant::now();
        let ranks = match self.config.evaluation.ranks {
            true => ranks(&self.tuned)?,
            false => Vec::new(),
        };
        let own = &steps[(epoch * self.per_epoch) as usize..];
        let mean =
            |of: fn(&StepRecord) -> f64| own.iter().map(of).sum::<f64>() / own.len().max(1) as f64;
        Ok(TuneRecord {
            epoch: epoch as usize + 1,
            steps: steps.len() as u64,
            train_loss: mean(|step| step.loss),
            regulariser: mean(|step| step.regulariser),
            scores,
            ranks,
            train_seconds,
            evaluate_seconds,
            rank_seconds: clock.elapsed().as_secs_f64(),
        })
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
            values: self.tuned.parameters.values().clone(),
            moments: self.optimizer.moments(),
            rule: self.tuned.rule.state().into_iter().collect(),
            steps: state.steps.clone(),
            notes: state.notes.clone(),
        }
    }

    fn summary(
        &self,
        state: &Progressed,
        stop: TuneStop,
        trainable: Trainable,
        folder: Option<&TuneFolder>,
        start: Instant,
    ) -> Result<TuneSummary, Error> {
        let config = self.config;
        let hashes = |files: Vec<std::path::PathBuf>| -> Result<Vec<(String, String)>, Error> {
            files
                .into_iter()
                .map(|file| {
                    let name = file.file_name().unwrap_or_default().to_string_lossy();
                    Ok((name.into_owned(), sha256_file(&file)?))
                })
                .collect()
        };
        let data = self
            .data
            .provenance
            .iter()
            .flat_map(|from| from.files.clone());
        let mut weights: Vec<_> = std::fs::read_dir(self.model)
            .into_iter()
            .flatten()
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                name == "config.json" || name.ends_with(".safetensors") || name.ends_with(".bin")
            })
            .collect();
        weights.sort();
        weights.extend(self.adapter.clone());
        let passed_over = self.data.skip.skipped().iter();
        let passed_over = passed_over.map(|bad| format!("passed over: {bad}"));
        let earlier = match state.notes.records.last() {
            // `go` has added this sitting's seconds at the last epoch.
            Some(_) => state.notes.wall_seconds,
            None => start.elapsed().as_secs_f64(),
        };
        Ok(TuneSummary {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            method: config.method.method.key().to_owned(),
            rank: self
                .tuned
                .rule
                .adapts()
                .then_some(config.method.common.rank),
            task: config.task.name.clone(),
            seed: config.seed,
            config_sha256: match folder {
                Some(folder) => folder.config_sha256().to_owned(),
                None => sha256_hex(config.to_toml().as_bytes()),
            },
            data_sha256: hashes(data.collect())?,
            model_sha256: hashes(weights)?,
            platform: format!(
                "{}-{}-{}",
                std::env::consts::OS,
                std::env::consts::ARCH,
                config.device
            ),
            stop,
            steps: state.steps.len() as u64,
            trainable,
            best: state.notes.best,
            notes: self.notes.iter().cloned().chain(passed_over).collect(),
            wall_seconds: earlier,
            last: state.notes.records.last().cloned(),
        })
    }
}

/// Epochs since the deciding metric was best.
fn since_better(notes: &Notes) -> usize {
    match notes.best {
        Some((epoch, _)) => notes.records.len().saturating_sub(epoch),
        None => notes.records.len(),
    }
}

fn too_long(found: usize, limit: usize) -> Error {
    Error::Setting {
        origin: "configuration".to_owned(),
        key: "task.max_length".to_owned(),
        expected: format!("at most the model's {limit} positions"),
        found: found.to_string(),
    }
}
