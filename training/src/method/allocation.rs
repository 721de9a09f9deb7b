//! AdaLoRA's budget and what directions are worth, see `adalora`.
//!
//! | symbol | identifier |
//! |---|---|
//! | Ī, U | `sensitivity`, `uncertainty` |
//! | t_i, T − t_f | `initial`, `end` |

use std::collections::BTreeMap;

use candle_core::{Device, Tensor};

use super::{Made, kept, numbers, unknown_state};
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
    sensitivity: Vec<f64>,
    uncertainty: Vec<f64>,
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
    fn scores(&self, rows: usize) -> Vec<f64> {
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

/// One module's directions.
#[derive(Debug)]
pub(super) struct Triplets {
    pub name: String,
    /// R₀.
    pub rank: usize,
    pub a: Importance,
    pub b: Importance,
    pub e: Importance,
    /// Which directions stay for good.
    pub pattern: Option<Vec<bool>>,
}

impl Triplets {
    pub fn parts(&mut self) -> [&mut Importance; 3] {
        [&mut self.a, &mut self.b, &mut self.e]
    }

    /// What every direction is worth.
    pub fn scores(&self) -> Vec<f64> {
        let [e, a, b] = [&self.e, &self.a, &self.b].map(|part| part.scores(self.rank));
        let sum = e.into_iter().zip(a).zip(b);
        sum.map(|((e, a), b)| e + (a + b)).collect()
    }

    /// Sets E to zero where a direction does not stay.
    pub fn mask(&self, pattern: &[bool], parameters: &Parameters) -> Result<(), Error> {
        let gate = parameters.view(self.e.id);
        let values = numbers(gate)?.into_iter().zip(pattern);
        let masked: Vec<_> = values
            .map(|(value, stays)| if *stays { value } else { 0.0 })
            .collect();
        let masked = Tensor::from_vec(masked, gate.dims(), &Device::Cpu)?;
        Ok(parameters.set(self.e.id, &masked.to_device(gate.device())?)?)
    }

    /// What a checkpoint keeps.
    pub fn state(&self) -> Vec<(String, Tensor)> {
        let name = &self.name;
        let mut state = Vec::new();
        let mut keep = |what: String, values: &[f64]| {
            if let Ok(tensor) = Tensor::from_slice(values, values.len(), &Device::Cpu) {
                state.push((format!("{name}.{what}"), tensor));
            }
        };
        for (part, kept) in [("A", &self.a), ("B", &self.b), ("E", &self.e)] {
            keep(format!("sensitivity_{part}"), &kept.sensitivity);
            keep(format!("uncertainty_{part}"), &kept.uncertainty);
        }
        if let Some(pattern) = &self.pattern {
            let pattern: Vec<_> = pattern.iter().map(|stays| f64::from(*stays)).collect();
            keep("pattern".to_owned(), &pattern);
        }
        state
    }

    /// Goes back to it; returns how many tensors there were.
    pub fn restore(&mut self, state: &BTreeMap<String, Tensor>) -> Result<usize, Error> {
        let read = |name: &str, count: usize| -> Result<Vec<f64>, Error> {
            let values = numbers(kept(state, name)?)?;
            if values.len() != count {
                return Err(unknown_state(&format!(
                    "{name} of {} numbers",
                    values.len()
                )));
            }
            Ok(values)
        };
        let name = &self.name;
        for (part, kept) in [("A", &mut self.a), ("B", &mut self.b), ("E", &mut self.e)] {
            let count = kept.sensitivity.len();
            kept.sensitivity = read(&format!("{name}.sensitivity_{part}"), count)?;
            kept.uncertainty = read(&format!("{name}.uncertainty_{part}"), count)?;
        }
        let pattern = format!("{name}.pattern");
        self.pattern = match state.contains_key(&pattern) {
            true => {
                let values = read(&pattern, self.rank)?;
                Some(values.into_iter().map(|value| value != 0.0).collect())
            }
            false => None,
        };
        Ok(6 + usize::from(self.pattern.is_some()))
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
