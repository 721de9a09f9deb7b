//! How numbers that move together are updated: AdamW (Loshchilov & Hutter 2019, Algorithm 2), SGD with
//! momentum.
//!
//! | symbol | identifier |
//! |---|---|
//! | η | `rate` |
//! | m, v | `first`, `second` |
//! | k, updates so far | `updates` |

use candle_core::{Result, Tensor};

use super::host::Real;

/// The rule by which parameters move.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Rule {
    /// m ← β₁m + (1 − β₁)g, v ← β₂v + (1 − β₂)g², p ← (1 − ηw)p − η m̂/(√v̂ + ε).
    AdamW {
        beta1: f64,
        beta2: f64,
        epsilon: f64,
        decay: f64,
    },
    /// m ← μm + g + w p, p ← p − ηm.
    Sgd { momentum: f64, decay: f64 },
}

/// One update of any numbers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Update {
    pub rule: Rule,
    pub rate: f64,
    /// What gradients are multiplied by first.
    pub factor: f64,
}

impl Update {
    /// Moves `values` and their moments against `gradient`, for the time `updates`; SGD has no
    /// second moments.
    pub fn run<T: Real>(
        self,
        updates: u64,
        values: &mut [T],
        first: &mut [T],
        second: &mut [T],
        gradient: &[T],
    ) {
        let number = T::from_f64;
        let factor = number(self.factor);
        let moved = values.iter_mut().zip(first).zip(gradient);
        match self.rule {
            Rule::AdamW {
                beta1,
                beta2,
                epsilon,
                decay,
            } => {
                let (correction1, correction2) = corrections(beta1, beta2, updates);
                let keep = number(1.0 - self.rate * decay);
                let (rest1, rest2) = (number(1.0 - beta1), number(1.0 - beta2));
                let (beta1, beta2) = (number(beta1), number(beta2));
                let size = number(self.rate / correction1);
                let root = number(1.0 / correction2.sqrt());
                let epsilon = number(epsilon);
                let moved = moved.zip(second);
                pulp::Arch::new().dispatch(
                    #[inline(always)]
                    || {
                        for (((p, m), g), v) in moved {
                            let g = *g * factor;
                            *m = beta1 * *m + rest1 * g;
                            *v = beta2 * *v + rest2 * g * g;
                            *p = keep * *p - size * *m / (v.sqrt() * root + epsilon);
                        }
                    },
                );
            }
            Rule::Sgd { momentum, decay } => {
                let (momentum, decay) = (number(momentum), number(decay));
                let size = number(self.rate);
                for ((p, m), g) in moved {
                    *m = momentum * *m + *g * factor + decay * *p;
                    *p -= size * *m;
                }
            }
        }
    }

    /// The same through tensor operations, on views into the buffers.
    pub fn run_elsewhere(
        self,
        updates: u64,
        values: &Tensor,
        first: &Tensor,
        second: &Tensor,
        gradient: &Tensor,
    ) -> Result<()> {
        let g = (gradient * self.factor)?;
        let write = |buffer: &Tensor, new: Tensor| buffer.slice_set(&new, 0, 0);
        match self.rule {
            Rule::AdamW {
                beta1,
                beta2,
                epsilon,
                decay,
            } => {
                let (correction1, correction2) = corrections(beta1, beta2, updates);
                let m = ((first * beta1)? + (&g * (1.0 - beta1))?)?;
                let v = ((second * beta2)? + (g.sqr()? * (1.0 - beta2))?)?;
                let denominator = ((v.sqrt()? / correction2.sqrt())? + epsilon)?;
                let decayed = (values * (1.0 - self.rate * decay))?;
                let p = (decayed - ((&m / denominator)? * (self.rate / correction1))?)?;
                write(values, p)?;
                write(first, m)?;
                write(second, v)
            }
            Rule::Sgd { momentum, decay } => {
                let m = (((first * momentum)? + g)? + (values * decay)?)?;
                write(values, (values - (&m * self.rate)?)?)?;
                write(first, m)
            }
        }
    }
}

/// `1 − β₁ᵏ` and `1 − β₂ᵏ`.
fn corrections(beta1: f64, beta2: f64, updates: u64) -> (f64, f64) {
    let after = |beta: f64| 1.0 - beta.powf(updates as f64);
    (after(beta1), after(beta2))
}
