//! One step of training: the method begins it, the batch gives gradients, the optimiser moves what
//! trains, the method settles it.

use super::Tuned;
use super::batch::Batch;
use super::record::StepRecord;
use crate::Error;
use crate::engine::optimizer::{Moments, Optimizer, Rule, gradient_norm};
use crate::method::{Made, Step, directional, moving};

/// A model that is being fine-tuned, and what moves it.
pub(super) struct Trainer {
    pub tuned: Tuned,
    optimizer: Optimizer,
    /// The highest learning rate.
    peak: f64,
    /// The largest norm of the gradient; 0: any.
    clip: f64,
}

impl Trainer {
    pub fn new(tuned: Tuned, rule: Rule, peak: f64, clip: f64) -> Result<Self, Error> {
        let rows = directional(&tuned.modules);
        let by_rows = |id| tuned.rule.by_rows() && rows.contains(&id);
        let optimizer = Optimizer::new(rule, &tuned.parameters, by_rows)?;
        Ok(Self {
            optimizer: optimizer.with_peak(peak),
            tuned,
            peak,
            clip,
        })
    }

    pub fn moments(&self) -> Moments {
        self.optimizer.moments()
    }

    pub fn restore(&mut self, moments: Moments) -> Result<(), Error> {
        Ok(self.optimizer.restore(moments)?)
    }

    /// One step at the learning rate `rate`; the name of what is not finite instead, if something is
    /// not. `earlier` is the number and the batch of the step that the method looks back to.
    pub fn step(
        &mut self,
        step: Step,
        batch: &Batch,
        earlier: Option<(u64, &Batch)>,
        rate: f64,
    ) -> Result<Result<StepRecord, String>, Error> {
        let Self {
            tuned, optimizer, ..
        } = self;
        tuned
            .rule
            .begin(step, &mut tuned.modules, &tuned.parameters)?;
        let mut pull = tuned.pull(batch, Some((step.seed, step.number)))?;
        if let Some((number, batch)) = earlier {
            let earlier = || Ok(tuned.pull(batch, Some((step.seed, number)))?.gradients);
            tuned
                .rule
                .respond(&tuned.parameters, &mut pull.gradients, &earlier)?;
        }
        let regulariser =
            tuned
                .rule
                .regularise(step, &tuned.modules, &tuned.parameters, &mut pull.gradients)?;
        let norm = gradient_norm(&tuned.parameters, &pull.gradients)?;
        if !(pull.loss.is_finite() && norm.is_finite()) {
            return Ok(Err(tuned.culprit(batch, &pull.gradients)?));
        }
        // As the reference clips: a norm at the limit is left alone up to its 10⁻⁶.
        let factor = if self.clip > 0.0 {
            (self.clip / (norm + 1e-6)).min(1.0)
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
            peak: self.peak,
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
}
