//! A model with a method's parameters in it, and what one step of it computes.

use candle_core::{DType, Device, Tensor};
use rayon::prelude::*;

use super::batch::{Batch, Part};
use crate::Error;
use crate::engine::dropout::Noise;
use crate::engine::loss::loss;
use crate::engine::parameters::{Gathering, Parameters};
use crate::engine::{Gradients, Tape};
use crate::method::{MethodTable, Planned, Rule, Site, Targets, adapted, setting};
use crate::model::{Architecture, Loaded, Pass};
use crate::module::Modules;

/// A model that is being fine-tuned.
pub(crate) struct Tuned {
    pub architecture: Architecture,
    pub modules: Modules,
    pub parameters: Parameters,
    pub rule: Box<dyn Rule>,
    /// Numbers of the modules with an update.
    pub adapted: Vec<usize>,
}

/// What one pass over a batch gave.
pub(crate) struct Pull {
    /// The task's loss.
    pub loss: f64,
    pub gradients: Gradients,
}

impl Tuned {
    /// Puts the method's parameters into the model; the head trains as it is.
    ///
    /// # Errors
    /// [`Error::Setting`] if a setting does not fit the model.
    pub fn new(
        loaded: Loaded,
        table: &MethodTable,
        seed: u64,
        dtype: DType,
        device: &Device,
    ) -> Result<Self, Error> {
        let mut rule = table.method.rule(&table.common)?;
        let Loaded {
            architecture,
            mut modules,
            ..
        } = loaded;
        let mut gathering = Gathering::default();
        let mut sites = Vec::new();
        if rule.adapts() {
            sites = attach(&mut *rule, &mut modules, &mut gathering, table, seed)?;
        } else {
            rule.choose(&mut modules, &mut gathering)?;
        }
        let also = Targets::new(
            "train_also",
            table.common.train_also.iter().map(String::as_str),
        )?;
        // A module with an update keeps its weight: methods take it for what it was.
        for module in sites.iter().map(|at: &usize| &modules.0[*at].declared) {
            if also.fits(&module.name) {
                let expected = "modules that get no update";
                return Err(setting("train_also", expected, &module.name));
            }
        }
        modules.train(&mut gathering, |module, _| {
            module.is_head || also.fits(&module.name)
        });
        gathering.treat(|parameter| rule.treatment(parameter));
        Ok(Self {
            architecture,
            modules,
            parameters: gathering.finish(dtype, device)?,
            rule,
            adapted: sites,
        })
    }

    /// The loss of a batch and its gradients, the task's part; `noise` is the run's seed and the
    /// step's number, for dropout.
    ///
    /// # Errors
    /// [`Error::Tensor`].
    pub fn pull(&self, batch: &Batch, noise: Option<(u64, u64)>) -> Result<Pull, Error> {
        let parts: Vec<_> = batch
            .parts
            .par_iter()
            .enumerate()
            .map(|(index, part)| {
                let noise = noise.map(|(seed, step)| Noise::new(seed, step, index));
                self.pull_part(part, batch.items, noise)
            })
            .collect::<Result<_, Error>>()?;
        // Added in order, so that the bits do not depend on which thread was first.
        let mut whole = Pull {
            loss: 0.0,
            gradients: Gradients::none(&self.parameters),
        };
        for part in parts {
            whole.loss += part.loss;
            whole.gradients.merge(part.gradients)?;
        }
        Ok(whole)
    }

    fn pull_part(&self, part: &Part, items: usize, noise: Option<Noise>) -> Result<Pull, Error> {
        let tape = Tape::new(&self.parameters, noise);
        let output = self.architecture.forward(self.pass(&tape), &part.inputs)?;
        let loss = loss(&output.value, &part.targets, &part.inputs.lengths, items)?;
        Ok(Pull {
            loss: loss.value,
            gradients: tape.backward(&output, loss.gradient)?,
        })
    }

    /// The head's outputs for the parts of a batch, in order.
    ///
    /// # Errors
    /// [`Error::Tensor`].
    pub fn outputs(&self, batch: &Batch) -> Result<Vec<Tensor>, Error> {
        batch
            .parts
            .par_iter()
            .map(|part| {
                let tape = Tape::inference(&self.parameters);
                Ok(self
                    .architecture
                    .forward(self.pass(&tape), &part.inputs)?
                    .value)
            })
            .collect()
    }

    fn pass<'a>(&'a self, tape: &'a Tape<'a>) -> Pass<'a> {
        Pass {
            tape,
            modules: &self.modules,
        }
    }
}

/// Gives every target its update; returns their numbers.
fn attach(
    rule: &mut dyn Rule,
    modules: &mut Modules,
    gathering: &mut Gathering,
    table: &MethodTable,
    seed: u64,
) -> Result<Vec<usize>, Error> {
    let common = &table.common;
    let declared: Vec<_> = modules
        .0
        .iter()
        .map(|module| module.declared.clone())
        .collect();
    let sites = adapted(&declared, &common.targets)?;
    let ranks = Targets::new(
        "rank_pattern",
        common.rank_pattern.keys().map(String::as_str),
    )?;
    let alphas = Targets::new(
        "alpha_pattern",
        common.alpha_pattern.keys().map(String::as_str),
    )?;
    let mut plan = Vec::new();
    for module in sites.iter().map(|at| &modules.0[*at]) {
        let name = &module.declared.name;
        if module.declared.is_head {
            let expected = "modules of the pretrained part (the head trains as it is)";
            return Err(setting("targets", expected, name));
        }
        let special = ranks
            .find(name)
            .and_then(|index| common.rank_pattern.values().nth(index));
        plan.push(Planned {
            module,
            rank: *special.unwrap_or(&common.rank),
            is_set: special.is_some(),
        });
    }
    rule.prepare(&mut plan)?;
    let planned: Vec<_> = plan.iter().map(|planned| planned.rank).collect();
    for (at, rank) in sites.iter().zip(planned) {
        let module = &mut modules.0[*at];
        let declared = &module.declared;
        let name = &declared.name;
        let largest = rule.largest_rank(declared);
        if rank == 0 || rank > largest {
            let (inputs, outputs) = (declared.inputs(), declared.outputs());
            let expected = format!("between 1 and {largest} ({name} is {outputs} × {inputs})");
            return Err(setting("rank", expected, rank));
        }
        let special = alphas
            .find(name)
            .and_then(|index| common.alpha_pattern.values().nth(index));
        let alpha = special.copied().unwrap_or(common.alpha_of(rank));
        if !(alpha.is_finite() && alpha > 0.0) {
            return Err(setting("alpha", "above 0", alpha));
        }
        rule.attach(Site {
            module,
            gathering,
            rank,
            alpha,
            dropout: common.dropout,
            seed,
        })?;
    }
    Ok(sites)
}
