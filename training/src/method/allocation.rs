//! AdaLoRA's budget and what directions are worth, see `adalora`.
//!
//! | symbol | identifier |
//! |---|---|
//! | Ī, U | `sensitivity`, `uncertainty` |
//! | t_i, T − t_f | `initial`, `end` |

use super::{Made, numbers};
use crate::Error;
use crate::engine::{ParameterId, Parameters};

/// The directions that may stay at a step: all `first` up to `initial`, `target` from `end` on.
pub(super) fn budget(step: u64, initial: u64, end: u64, first: usize, target: usize) -> usize {
    if step <= initial {
        return first;
    }
    if step >= end {
        return target;
    }
    let left = 1.0 - (step - initial) as f64 / (end - initial) as f64;
    ((first - target) as f64 * left.powf(3.0) + target as f64) as usize
}

/// Ī and U of a parameter.
#[derive(Debug)]
pub(super) struct Importance {
    pub id: ParameterId,
    pub sensitivity: Vec<f64>,
    pub uncertainty: Vec<f64>,
}

impl Importance {
    /// Of a parameter of `count` numbers.
    pub fn new(id: ParameterId, count: usize) -> Self {
        Self {
            id,
            sensitivity: vec![0.0; count],
            uncertainty: vec![0.0; count],
        }
    }

    /// Takes in a step.
    pub fn update(
        &mut self,
        made: Made<'_>,
        parameters: &Parameters,
        beta1: f64,
        beta2: f64,
    ) -> Result<(), Error> {
        let values = numbers(parameters.view(self.id))?;
        let gradient = match made.gradients.parameter(self.id) {
            Some(gradient) => numbers(gradient)?,
            None => vec![0.0; values.len()],
        };
        let kept = self.sensitivity.iter_mut().zip(&mut self.uncertainty);
        for ((value, gradient), (mean, spread)) in values.iter().zip(&gradient).zip(kept) {
            let now = (value * gradient * made.factor).abs();
            *mean = beta1 * *mean + (1.0 - beta1) * now;
            *spread = beta2 * *spread + (1.0 - beta2) * (now - *mean).abs();
        }
        Ok(())
    }

    /// The mean score of every row.
    pub fn scores(&self, rows: usize) -> Vec<f64> {
        let width = self.sensitivity.len() / rows.max(1);
        let products: Vec<_> = self
            .sensitivity
            .iter()
            .zip(&self.uncertainty)
            .map(|(mean, spread)| mean * spread)
            .collect();
        products
            .chunks(width.max(1))
            .map(|row| row.iter().sum::<f64>() / row.len() as f64)
            .collect()
    }

    /// Back to the beginning.
    pub fn forget(&mut self) {
        self.sensitivity.fill(0.0);
        self.uncertainty.fill(0.0);
    }
}

/// Which directions stay: those above the k-th smallest of all scores, k being how many are beyond
/// the budget.
pub(super) fn staying(scores: &[Vec<f64>], budget: usize) -> Vec<Vec<bool>> {
    let mut all: Vec<f64> = scores.iter().flatten().copied().collect();
    all.sort_by(f64::total_cmp);
    let beyond = all.len().saturating_sub(budget);
    let threshold = match beyond {
        0 => f64::NEG_INFINITY,
        beyond => all[beyond - 1],
    };
    let stays = |scores: &Vec<f64>| scores.iter().map(|score| *score > threshold).collect();
    scores.iter().map(stays).collect()
}
