//! A model with a method's parameters in it, and what one step of it computes.

use candle_core::{DType, Device, Tensor};
use rayon::prelude::*;

use super::batch::{Batch, Part};
use crate::Error;
use crate::engine::dropout::Noise;
use crate::engine::loss::loss;
use crate::engine::parameters::{Gathering, Parameters};
use crate::engine::tape::is_finite;
use crate::engine::{Gradients, Tape};
use crate::method::{MethodTable, Planned, Rule, Site, Targets, adapted, setting};
use crate::model::{Architecture, Loaded, Pass};
use crate::module::{Module, Modules, Value};

/// A model that is being fine-tuned.
pub(crate) struct Tuned {
    pub architecture: Architecture,
    pub modules: Modules,
    pub parameters: Parameters,
    pub rule: Box<dyn Rule>,
    /// The modules whose weight is updated, by number, with the pretrained weight.
    pub initial: Vec<(usize, Tensor)>,
}

/// A model with a method in it, before its parameters are laid into one buffer.
pub(crate) struct Prepared {
    pub architecture: Architecture,
    pub modules: Modules,
    pub gathering: Gathering,
    pub rule: Box<dyn Rule>,
    pub initial: Vec<(usize, Tensor)>,
}

impl Prepared {
    /// Attaches the method's parameters to the modules.
    ///
    /// # Errors
    /// [`Error::Setting`] if a setting does not fit the model.
    pub fn new(loaded: Loaded, table: &MethodTable, seed: u64) -> Result<Self, Error> {
        let mut rule = table.method.rule(&table.common)?;
        let Loaded {
            architecture,
            mut modules,
            ..
        } = loaded;
        let mut gathering = Gathering::default();
        let before: Vec<_> = modules.0.iter().map(frozen).collect();
        let updated = if rule.adapts() {
            attach(&mut *rule, &mut modules, &mut gathering, table, seed)?
        } else {
            rule.choose(&mut modules, &mut gathering)?;
            let matrix = |module: &Module| {
                module.declared.kind.takes_adapter()
                    && !module.declared.is_head
                    && module.weight.parameter().is_some()
            };
            let all = modules.0.iter().enumerate();
            all.filter(|(_, module)| matrix(module))
                .map(|(at, _)| at)
                .collect()
        };
        let also = table.common.train_also.iter().map(String::as_str);
        let also = Targets::new("train_also", also)?;
        also.check("train_also", &modules.declared())?;
        // A module with an update keeps its weight: methods take it for what it was.
        let adapted = modules.0.iter().filter(|module| module.adapter.is_some());
        for module in adapted.map(|module| &module.declared) {
            if also.fits(&module.name) {
                let expected = "modules that get no update";
                return Err(setting("train_also", expected, &module.name));
            }
        }
        let initial = updated
            .into_iter()
            .filter_map(|at| Some((at, before[at].clone()?)))
            .collect();
        modules.train(&mut gathering, |module, _| {
            module.is_head || also.fits(&module.name)
        });
        gathering.treat(|parameter| rule.treatment(parameter));
        Ok(Self {
            architecture,
            modules,
            gathering,
            rule,
            initial,
        })
    }
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
        Self::of(Prepared::new(loaded, table, seed)?, dtype, device)
    }

    /// The same of what is prepared.
    ///
    /// # Errors
    /// [`Error::Tensor`].
    pub fn of(prepared: Prepared, dtype: DType, device: &Device) -> Result<Self, Error> {
        Ok(Self {
            architecture: prepared.architecture,
            modules: prepared.modules,
            parameters: prepared.gathering.finish(dtype, device)?,
            rule: prepared.rule,
            initial: prepared.initial,
        })
    }

    /// The loss of a batch and its gradients, the task's part; `noise` is the run's seed and the
    /// step's number, for dropout.
    ///
    /// # Errors
    /// [`Error::Tensor`].
    pub fn pull(&self, batch: &Batch, noise: Option<(u64, u64)>) -> Result<Pull, Error> {
        let mut whole = Pull {
            loss: 0.0,
            gradients: Gradients::none(&self.parameters),
        };
        let pull = |index: usize, part: &Part| {
            let noise = noise.map(|(seed, step)| Noise::new(seed, step, index));
            self.pull_part(part, batch.items, noise)
        };
        in_order(&batch.parts, self.are_threads_free(), pull, |part| {
            whole.loss += part.loss;
            Ok(whole.gradients.merge(part.gradients)?)
        })?;
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
        let mut outputs = Vec::new();
        let output = |_: usize, part: &Part| {
            let tape = Tape::inference(&self.parameters);
            let output = self.architecture.forward(self.pass(&tape), &part.inputs)?;
            Ok(output.value)
        };
        in_order(&batch.parts, self.are_threads_free(), output, |output| {
            outputs.push(output);
            Ok(())
        })?;
        Ok(outputs)
    }

    /// The first module whose output is not finite, or else the first parameter whose gradient is
    /// not.
    ///
    /// # Errors
    /// [`Error::Tensor`].
    pub fn culprit(&self, batch: &Batch, gradients: &Gradients) -> Result<String, Error> {
        for part in &batch.parts {
            let tape = Tape::watching(&self.parameters);
            self.architecture.forward(self.pass(&tape), &part.inputs)?;
            if let Some(name) = tape.first_not_finite() {
                return Ok(name);
            }
        }
        for (id, part) in self.parameters.parts() {
            if let Some(gradient) = gradients.parameter(id)
                && !is_finite(gradient)?
            {
                return Ok(part.name.clone());
            }
        }
        Ok("the loss".to_owned())
    }

    /// The first parameter whose values are not all finite.
    ///
    /// # Errors
    /// [`Error::Tensor`].
    pub fn not_finite(&self) -> Result<Option<String>, Error> {
        // One at a time: each is copied to be added up.
        for (id, part) in self.parameters.parts() {
            if !is_finite(self.parameters.view(id))? {
                return Ok(Some(part.name.clone()));
            }
        }
        Ok(None)
    }

    /// Whether any thread may compute: on the CPU.
    fn are_threads_free(&self) -> bool {
        self.parameters.values().device().is_cpu()
    }

    fn pass<'a>(&'a self, tape: &'a Tape<'a>) -> Pass<'a> {
        Pass {
            tape,
            modules: &self.modules,
        }
    }
}

/// Computes something of every part and takes the results in the parts' order, so that sums have the
/// same bits whichever thread was first.
///
/// Parts are shared out to threads where those are free. A GPU has a stream of commands for every
/// thread, and one stream does not wait for what another writes: there the calling thread, whose
/// stream has written the parameters, computes one part after the other and takes each at once.
fn in_order<P: Sync, T: Send>(
    parts: &[P],
    are_threads_free: bool,
    of: impl Fn(usize, &P) -> Result<T, Error> + Sync,
    mut take: impl FnMut(T) -> Result<(), Error>,
) -> Result<(), Error> {
    if !are_threads_free {
        let mut numbered = parts.iter().enumerate();
        return numbered.try_for_each(|(index, part)| take(of(index, part)?));
    }
    let numbered = parts.par_iter().enumerate();
    let all = numbered.map(|(index, part)| of(index, part));
    all.collect::<Result<Vec<_>, _>>()?
        .into_iter()
        .try_for_each(take)
}

/// A module's own weight, if it does not train.
fn frozen(module: &Module) -> Option<Tensor> {
    match &module.weight {
        Value::Frozen(weight) => Some(weight.clone()),
        Value::Trained(_) => None,
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
    let declared = modules.declared();
    let sites = adapted(&declared, &common.targets)?;
    let ranks = Targets::new(
        "rank_pattern",
        common.rank_pattern.keys().map(String::as_str),
    )?;
    let alphas = Targets::new(
        "alpha_pattern",
        common.alpha_pattern.keys().map(String::as_str),
    )?;
    ranks.check("rank_pattern", &declared)?;
    alphas.check("alpha_pattern", &declared)?;
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

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn a_device_with_streams_is_asked_by_one_thread() {
        let parts: Vec<usize> = (0..64).collect();
        for are_threads_free in [false, true] {
            let mut taken = Vec::new();
            let of = |index: usize, part: &usize| Ok((index, *part, thread::current().id()));
            in_order(&parts, are_threads_free, of, |one| {
                taken.push(one);
                Ok(())
            })
            .unwrap();
            // The same order either way, and without free threads only the one that asked.
            assert!(
                taken
                    .iter()
                    .enumerate()
                    .all(|(at, (index, part, _))| at == *index && at == *part)
            );
            let asked = thread::current().id();
            assert!(are_threads_free || taken.iter().all(|(.., by)| *by == asked));
        }
    }

    #[test]
    fn a_part_is_taken_before_the_next_is_computed() {
        let computed = std::sync::Mutex::new(0);
        let of = |index: usize, _: &usize| {
            *computed.lock().unwrap() += 1;
            Ok(index)
        };
        let take = |index: usize| {
            assert_eq!(*computed.lock().unwrap(), index + 1);
            Ok(())
        };
        in_order(&[0, 1, 2, 3], false, of, take).unwrap();
    }
}
