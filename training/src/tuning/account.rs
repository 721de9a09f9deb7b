//! What a run says of itself: every epoch's evaluation and ranks, and at the end what it read and
//! came to.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use rankwise_data::{is_model_file, sha256_hex, sha256_path};

use super::beginning::Beginning;
use super::config::TuneConfig;
use super::data::{Evaluated, Judged, Sources, TuneData};
use super::evaluate::evaluate;
use super::folder::{Inputs, TuneFolder};
use super::ranks::ranks;
use super::record::{StepRecord, Trainable, TuneRecord, TuneStop, TuneSummary};
use super::run::{Progressed, Run};
use crate::Error;

impl Run<'_> {
    pub(super) fn measure(
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
                evaluate(
                    &self.trainer.tuned,
                    set,
                    self.data.order.as_deref(),
                    skip,
                    size,
                    self.dtype,
                    &self.device,
                )
            })
            .collect::<Result<_, _>>()?;
        let evaluate_seconds = clock.elapsed().as_secs_f64();
        let clock = Instant::now();
        let ranks = match self.config.evaluation.ranks {
            true => ranks(&self.trainer.tuned)?,
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

    pub(super) fn summary(
        &self,
        state: &Progressed,
        stop: TuneStop,
        trainable: Trainable,
        folder: Option<&TuneFolder>,
        start: Instant,
    ) -> TuneSummary {
        let config = self.config;
        let rule = &self.trainer.tuned.rule;
        let still = state
            .steps
            .iter()
            .filter(|step| step.learning_rate == 0.0)
            .count();
        let still = (still > 0).then(|| {
            format!(
                "{still} of {} steps had a learning rate of 0 and trained nothing",
                state.steps.len()
            )
        });
        let earlier = match state.notes.records.last() {
            // `go` has added this sitting's seconds at the last epoch.
            Some(_) => state.notes.wall_seconds,
            None => start.elapsed().as_secs_f64(),
        };
        TuneSummary {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            method: config.method.method.key().to_owned(),
            rank: rule.adapts().then_some(config.method.common.rank),
            task: config.task.name.clone(),
            seed: config.seed,
            config_sha256: match folder {
                Some(folder) => folder.config_sha256().to_owned(),
                None => sha256_hex(config.to_toml().as_bytes()),
            },
            data_sha256: state.notes.inputs.data.clone(),
            model_sha256: state.notes.inputs.model.clone(),
            classes: self.data.classes.clone(),
            platform: config.device.platform(),
            stop,
            steps: state.steps.len() as u64,
            trainable,
            best: state.notes.best,
            notes: self.notes().into_iter().chain(still).collect(),
            wall_seconds: earlier,
            last: state.notes.records.last().cloned(),
        }
    }

    /// What there is to say so far, with what was passed over.
    pub(super) fn notes(&self) -> Vec<String> {
        let passed_over = self.data.skip.skipped().iter();
        let passed_over = passed_over.map(|bad| format!("passed over: {bad}"));
        self.notes.iter().cloned().chain(passed_over).collect()
    }

    /// What the run reads.
    ///
    /// # Errors
    /// [`Error::Data`] if a file cannot be read any more.
    pub(super) fn inputs(&self) -> Result<Inputs, Error> {
        inputs(&self.data, self.model, self.adapter.as_deref())
    }
}

/// Of a run that is finished what it would read now.
///
/// # Errors
/// [`Error::Data`] if a file cannot be read any more.
pub(super) fn inputs_of(config: &TuneConfig, sources: &Sources) -> Result<Inputs, Error> {
    let data = TuneData::read(&config.task, sources, config.seed)?;
    let beginning = config
        .model
        .adapter
        .as_deref()
        .map(Beginning::read)
        .transpose()?;
    inputs(
        &data,
        &sources.model,
        beginning.as_ref().map(Beginning::file),
    )
}

fn inputs(data: &TuneData, model: &Path, adapter: Option<&Path>) -> Result<Inputs, Error> {
    let hashes = |files: Vec<PathBuf>| -> Result<Vec<(String, String)>, Error> {
        files
            .into_iter()
            .map(|file| {
                let name = file.file_name().unwrap_or_default().to_string_lossy();
                Ok((name.into_owned(), sha256_path(&file)?))
            })
            .collect()
    };
    let data = data.provenance.iter().flat_map(|from| from.files.clone());
    let mut model: Vec<_> = fs::read_dir(model)
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| is_model_file(&path.file_name().unwrap_or_default().to_string_lossy()))
        .collect();
    model.sort();
    model.extend(adapter.map(Path::to_path_buf));
    Ok(Inputs {
        data: hashes(data.collect())?,
        model: hashes(model)?,
    })
}
