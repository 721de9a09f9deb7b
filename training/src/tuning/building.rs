//! The building of a run: data, model, method and optimiser from a configuration.

use std::path::Path;

use candle_core::{DType, Device};
use rankwise_data::ImageProcessor;

use super::beginning::Beginning;
use super::classes::settle;
use super::config::{OptimizerName, TuneConfig, TunePrecision};
use super::data::{Source, Sources, TuneData};
use super::memory::explained_while_loading;
use super::order::steps_of_epoch;
use super::record::Trainable;
use super::run::Run;
use super::trainer::Trainer;
use super::{Prepared, Tuned};
use crate::Error;
use crate::engine::optimizer::Rule;
use crate::model::{Loaded, ModelConfig, PatchEmbedding};

impl<'a> Run<'a> {
    pub fn new(
        config: &'a TuneConfig,
        sources: &'a Sources,
        device: Device,
    ) -> Result<Self, Error> {
        let mut data = TuneData::read(&config.task, sources, config.seed)?;
        let (dtype, trained) = match config.precision {
            TunePrecision::F32 => (DType::F32, DType::F32),
            TunePrecision::F64 => (DType::F64, DType::F64),
            TunePrecision::Bf16 => (DType::BF16, DType::F32),
        };
        let loaded = Loaded::read(&sources.model, data.head, config.seed, dtype, &device);
        let mut loaded =
            loaded.map_err(|error| explained_while_loading(error, &config.device.to_string()))?;
        let mut beginning = match &config.model.adapter {
            Some(path) => Some(Beginning::read(path)?),
            None => None,
        };
        let model = ModelConfig::read(&sources.model)?;
        let settled = settle(config, &model, &mut data, &mut loaded, beginning.as_mut())?;
        let mut notes: Vec<String> = settled.into_iter().collect();
        notes.extend(data.class_notes());
        let mut drawn = std::mem::take(&mut loaded.drawn);
        if !loaded.unused.is_empty() {
            notes.push(format!(
                "not used of the checkpoint: {}",
                loaded.unused.join(", ")
            ));
        }
        if let Some(limit) = loaded.architecture.positions() {
            check_lengths(config, &data, limit)?;
        }
        match (&data.train, loaded.architecture.patches()) {
            (Source::Images { processor, .. }, Some(patches)) => {
                notes.extend(check_images(processor, patches, &sources.model)?);
            }
            (Source::Texts(_), None) => {}
            (images_or_texts, _) => {
                let reads = match images_or_texts {
                    Source::Images { .. } => "images",
                    Source::Texts(_) => "texts",
                };
                let task = &config.task.name;
                return Err(Error::Setting {
                    origin: sources.model.join("config.json").display().to_string(),
                    key: "model_type".to_owned(),
                    expected: format!("a model that reads {reads}, as the task {task} asks for"),
                    found: "one that does not".to_owned(),
                });
            }
        }
        let mut adapter = None;
        let tuned = match &beginning {
            None => Tuned::new(loaded, &config.method, config.seed, trained, &device)?,
            Some(beginning) => {
                adapter = Some(beginning.file().to_owned());
                let table = beginning.fitted(&config.method, &loaded.modules)?;
                let mut prepared = Prepared::new(loaded, &table, config.seed)?;
                notes.extend(beginning.fill(&mut prepared, &mut drawn)?);
                Tuned::of(prepared, trained, &device)?
            }
        };
        if !drawn.is_empty() {
            notes.push(format!("drawn from the seed: {}", drawn.join(", ")));
        }
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
        let per_epoch = steps_of_epoch(&*tuned.rule, data.train.len(), config.schedule.examples())?;
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
            trainer: Trainer::new(tuned, rule, o.learning_rate, o.clip_norm)?,
            per_epoch,
            notes,
            model: &sources.model,
            adapter,
        })
    }

    pub fn trainable(&self) -> Trainable {
        let mut trainable = Trainable::default();
        let tuned = &self.trainer.tuned;
        let modules = tuned.modules.0.iter().map(|module| &module.declared);
        let heads: Vec<_> = modules.filter(|declared| declared.is_head).collect();
        for (_, part) in tuned.parameters.parts() {
            let is_head = heads.iter().any(|head| head.owns(&part.name));
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
}

/// Whether what is read is no longer than the model's positions.
fn check_lengths(config: &TuneConfig, data: &TuneData, limit: usize) -> Result<(), Error> {
    if config.task.name == "squad" && config.task.max_length > limit {
        return Err(too_long(config.task.max_length, limit));
    }
    let sets = data.evaluated.iter().map(|set| &set.source);
    let longest = sets
        .chain([&data.train])
        .map(Source::longest)
        .max()
        .unwrap_or(0);
    if longest > limit {
        return Err(too_long(longest, limit));
    }
    Ok(())
}

/// More patches of one image are a mistake: each attends to each.
const MOST_PATCHES: usize = 1 << 14;

/// Whether images can be cut into the model's patches, and what is to be said of their size.
fn check_images(
    processor: &ImageProcessor,
    patches: &PatchEmbedding,
    model: &Path,
) -> Result<Option<String>, Error> {
    let (patch, width, height) = (patches.patch, processor.width, processor.height);
    let wrong = |expected: String| {
        Err(Error::Setting {
            origin: model.join("preprocessor_config.json").display().to_string(),
            key: "size".to_owned(),
            expected,
            found: format!("{width} × {height}"),
        })
    };
    if !(width.is_multiple_of(patch) && height.is_multiple_of(patch)) {
        return wrong(format!(
            "sides that are multiples of the model's patches of {patch}"
        ));
    }
    if (width / patch) * (height / patch) > MOST_PATCHES {
        return wrong(format!(
            "at most {MOST_PATCHES} of the model's patches of {patch}"
        ));
    }
    let side = patch * patches.side;
    Ok(((width, height) != (side, side)).then(|| {
        format!(
            "images of {width} × {height} pixels: the model's positions, learned for {side} × {side}, \
             are interpolated"
        )
    }))
}

fn too_long(found: usize, limit: usize) -> Error {
    Error::Setting {
        origin: "configuration".to_owned(),
        key: "task.max_length".to_owned(),
        expected: format!("at most the model's {limit} positions"),
        found: found.to_string(),
    }
}
