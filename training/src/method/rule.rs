//! What a method may do in a run, and what it is told.

use std::collections::BTreeMap;
use std::fmt;

use candle_core::Tensor;

use crate::Error;
use crate::engine::Gradients;
use crate::engine::parameters::{Gathering, Parameter, Parameters, Treatment};
use crate::module::{Declared, Kind, Module, ModuleId, Modules};

/// Where a run stands: steps from 0.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Step {
    /// The step that is about to be made, or has just been made.
    pub number: u64,
    /// All steps of the run.
    pub of: u64,
    /// The epoch that it belongs to, from 0.
    pub epoch: u64,
    /// The run's seed.
    pub seed: u64,
}

impl Step {
    /// How much of the run is done, from 0 to 1.
    pub fn share(self) -> f64 {
        self.number as f64 / self.of.max(1) as f64
    }
}

/// A step that the optimiser has just made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Made<'a> {
    pub step: Step,
    /// The run's learning rate in it, and at its peak.
    pub rate: f64,
    pub peak: f64,
    /// What the gradients were multiplied by first (clipping).
    pub factor: f64,
    /// As they were before.
    pub gradients: &'a Gradients,
}

impl Made<'_> {
    /// The learning rate of a parameter of that treatment.
    pub fn rate_of(&self, treatment: &Treatment) -> f64 {
        match treatment.peak {
            None => self.rate * treatment.rate,
            Some(own) if self.peak > 0.0 => own * (self.rate / self.peak),
            Some(_) => 0.0,
        }
    }
}

/// Which of two problems a step works on (BiLoRA).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Level {
    /// Its batches come from the first part of the training data.
    First,
    /// Its batches come from the second part.
    Second,
}

/// A module that is about to get an update.
#[derive(Debug)]
pub(crate) struct Planned<'a> {
    pub module: &'a Module,
    /// R: the setting's, or what the rule makes of it.
    pub rank: usize,
    /// Whether R was set for this module by name.
    pub is_set: bool,
}

/// A module that gets an update, and where its parameters go.
pub(crate) struct Site<'a> {
    pub module: &'a mut Module,
    pub gathering: &'a mut Gathering,
    /// R of this module.
    pub rank: usize,
    /// α of this module.
    pub alpha: f64,
    /// Probability of dropout on the update's input.
    pub dropout: f64,
    /// The run's seed.
    pub seed: u64,
}

/// A method's rule. What is left out does nothing.
pub(crate) trait Rule: fmt::Debug + Send + Sync {
    /// Whether modules get an update; otherwise [`Rule::choose`] says which of their own tensors
    /// train.
    fn adapts(&self) -> bool {
        true
    }

    /// For methods that train the model's own tensors.
    ///
    /// # Errors
    /// [`Error::Setting`] if nothing would train.
    fn choose(&self, _modules: &mut Modules, _gathering: &mut Gathering) -> Result<(), Error> {
        Ok(())
    }

    /// Sees all modules that are to get an update before the first one does, in the order of
    /// [`Rule::attach`]; may change their ranks.
    ///
    /// # Errors
    /// [`Error::Setting`] if they do not fit the method.
    fn prepare(&mut self, _plan: &mut [Planned<'_>]) -> Result<(), Error> {
        Ok(())
    }

    /// The largest rank that the method can give a module: the smaller side of its map, and for an
    /// embedding any.
    fn largest_rank(&self, declared: &Declared) -> usize {
        match declared.kind {
            Kind::Embedding => usize::MAX,
            _ => declared.inputs().min(declared.outputs()),
        }
    }

    /// s of an update of this α and R.
    fn scale(&self, alpha: f64, rank: usize) -> f64 {
        alpha / rank as f64
    }

    /// Gives one module its update.
    ///
    /// # Errors
    /// [`Error::Setting`] if the module is not one that the method can adapt.
    fn attach(&mut self, _site: Site<'_>) -> Result<(), Error> {
        Ok(())
    }

    /// How the optimiser treats a parameter, the head's among them.
    fn treatment(&self, parameter: &Parameter) -> Treatment {
        parameter.treatment
    }

    /// Whether updates move direction by direction, so that the optimiser has to count the steps of
    /// every one ([`directional`] says of which parameters).
    fn by_rows(&self) -> bool {
        false
    }

    /// The share of the training examples that is kept for [`Level::Second`]; `None`: no split.
    fn split(&self) -> Option<f64> {
        None
    }

    /// Which part of the training data a step takes its batch from.
    fn level(&self, _step: Step) -> Level {
        Level::First
    }

    /// All steps of an epoch with `first` steps of [`Level::First`].
    fn with_second(&self, first: u64) -> u64 {
        first
    }

    /// The earlier step whose batch this step needs again, for [`Rule::respond`].
    fn looks_back(&self, _step: Step) -> Option<u64> {
        None
    }

    /// Before a step: chooses directions.
    fn begin(
        &mut self,
        _step: Step,
        _modules: &mut Modules,
        _parameters: &Parameters,
    ) -> Result<(), Error> {
        Ok(())
    }

    /// After the backward pass of a step that looks back: adds the part of the gradient that the
    /// earlier batch has in it. `earlier` gives that batch's gradients at the values that the
    /// parameters have when it is called; they are to be put back.
    fn respond(
        &self,
        _parameters: &Parameters,
        _gradients: &mut Gradients,
        _earlier: &dyn Fn() -> Result<Gradients, Error>,
    ) -> Result<(), Error> {
        Ok(())
    }

    /// After the backward pass and before clipping: adds the gradient of the method's own term, and
    /// forgets those of parameters that stand still in this step; returns the term's value.
    fn regularise(
        &self,
        _step: Step,
        _modules: &Modules,
        _parameters: &Parameters,
        _gradients: &mut Gradients,
    ) -> Result<f64, Error> {
        Ok(0.0)
    }

    /// After the optimiser's step; leaves the modules as they are to be evaluated and saved.
    fn settle(
        &mut self,
        _made: Made<'_>,
        _modules: &mut Modules,
        _parameters: &Parameters,
    ) -> Result<(), Error> {
        Ok(())
    }

    /// What a checkpoint keeps of the method itself, beside parameters and moments.
    fn state(&self) -> Vec<(String, Tensor)> {
        Vec::new()
    }

    /// Goes back to a kept state; `parameters` have gone back to theirs already.
    ///
    /// # Errors
    /// If it is not one of this method.
    fn restore(
        &mut self,
        state: &BTreeMap<String, Tensor>,
        _modules: &mut Modules,
        _parameters: &Parameters,
    ) -> Result<(), Error> {
        match state.keys().next() {
            None => Ok(()),
            Some(name) => Err(unknown_state(name)),
        }
    }

    /// Factors (A: R × in, Bᵀ: R × out) whose product, times the adapter's scale, was taken off the
    /// module's weight at the beginning.
    fn taken_off(&self, _module: ModuleId) -> Option<&(Tensor, Tensor)> {
        None
    }

    /// What PEFT's `adapter_config.json` calls the method: `peft_type` and the keys that differ
    /// from plain LoRA's.
    fn peft(&self) -> Peft {
        Peft::default()
    }
}

/// A method in the words of PEFT.
#[derive(Debug, Clone, Default)]
pub(crate) struct Peft {
    /// `None`: LoRA.
    pub kind: Option<&'static str>,
    /// Further keys of the configuration.
    pub keys: Vec<(&'static str, serde_json::Value)>,
}

impl Peft {
    /// With a further key.
    pub fn with(mut self, key: &'static str, value: impl Into<serde_json::Value>) -> Self {
        self.keys.push((key, value.into()));
        self
    }
}

/// An error about a kept state.
pub(super) fn unknown_state(name: &str) -> Error {
    let message = format!("checkpoint: the method keeps no state of this name, found {name}");
    candle_core::Error::msg(message).into()
}

/// A kept tensor by its name.
pub(super) fn kept<'a>(
    state: &'a BTreeMap<String, Tensor>,
    name: &str,
) -> Result<&'a Tensor, Error> {
    state.get(name).ok_or_else(|| {
        candle_core::Error::msg(format!(
            "checkpoint: expected {name} of the method, found none"
        ))
        .into()
    })
}
