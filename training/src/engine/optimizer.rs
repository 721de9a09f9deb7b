//! AdamW (Loshchilov & Hutter 2019, Algorithm 2) and SGD with momentum over the flat buffer.
//!
//! “Does not move” is meant literally: a row that a mask leaves out keeps its value and its moments
//! and gets no decay, and every row counts its own updates for the bias correction.
//!
//! | symbol | identifier |
//! |---|---|
//! | η | `rate` |
//! | m, v | `first`, `second` |
//! | k, updates so far | `updates` |

use candle_core::{DType, Result, Tensor, WithDType};

use super::host::{self, Real, by_real};
use super::parameters::{Parameter, ParameterId, Parameters};
use super::tape::Gradients;

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

/// A rule with its moments.
#[derive(Debug, Clone)]
pub(crate) struct Optimizer {
    pub rule: Rule,
    first: Tensor,
    second: Tensor,
    /// The run's peak learning rate, which parameters with one of their own are held against.
    peak: Option<f64>,
    /// Updates of every row of every parameter that can move by rows, else one number a parameter.
    updates: Vec<Vec<u64>>,
}

/// What a checkpoint keeps of an optimiser.
#[derive(Debug, Clone)]
pub(crate) struct Moments {
    pub first: Tensor,
    pub second: Tensor,
    pub updates: Vec<Vec<u64>>,
}

impl Optimizer {
    /// Zero moments. `by_rows` says which parameters may move row by row.
    pub fn new(
        rule: Rule,
        parameters: &Parameters,
        by_rows: impl Fn(ParameterId) -> bool,
    ) -> Result<Self> {
        let updates = parameters
            .parts()
            .map(|(id, part)| vec![0; if by_rows(id) { part.rows() } else { 1 }])
            .collect();
        let zeros = parameters.values().zeros_like()?;
        let second = match rule {
            Rule::AdamW { .. } => zeros.zeros_like()?,
            Rule::Sgd { .. } => Tensor::zeros(0, zeros.dtype(), zeros.device())?,
        };
        Ok(Self {
            rule,
            first: zeros,
            second,
            peak: None,
            updates,
        })
    }

    /// With the run's peak learning rate.
    pub fn with_peak(mut self, peak: f64) -> Self {
        self.peak = Some(peak);
        self
    }

    /// What a checkpoint keeps.
    pub fn moments(&self) -> Moments {
        Moments {
            first: self.first.clone(),
            second: self.second.clone(),
            updates: self.updates.clone(),
        }
    }

    /// Goes back to kept moments.
    ///
    /// # Errors
    /// If they are of other parameters.
    pub fn restore(&mut self, moments: Moments) -> Result<()> {
        let sizes = |updates: &[Vec<u64>]| updates.iter().map(Vec::len).collect::<Vec<_>>();
        let same = self.first.dims() == moments.first.dims()
            && self.second.dims() == moments.second.dims()
            && self.first.dtype() == moments.first.dtype()
            && sizes(&self.updates) == sizes(&moments.updates);
        if !same {
            candle_core::bail!("kept moments are of other parameters");
        }
        self.first = moments.first;
        self.second = moments.second;
        self.updates = moments.updates;
        Ok(())
    }

    /// Moves every parameter that has a gradient, `moving` being the rows of it that move (`None`:
    /// all); gradients are multiplied by `factor` first.
    pub fn step<'m>(
        &mut self,
        parameters: &Parameters,
        gradients: &Gradients,
        moving: impl Fn(ParameterId) -> Option<&'m [u32]>,
        rate: f64,
        factor: f64,
    ) -> Result<()> {
        for (id, part) in parameters.parts() {
            let Some(gradient) = gradients.parameter(id) else {
                continue;
            };
            let gradient = gradient
                .to_dtype(parameters.values().dtype())?
                .contiguous()?;
            let updates = &mut self.updates[id.index()];
            let width = part.count() / part.rows().max(1);
            let stretches: Vec<Stretch> = match moving(id) {
                Some(rows) => rows
                    .iter()
                    .map(|row| {
                        let row = *row as usize;
                        updates[row] += 1;
                        Stretch {
                            at: row * width,
                            length: width,
                            updates: updates[row],
                        }
                    })
                    .collect(),
                None => {
                    let pieces = updates.len();
                    let length = part.count() / pieces;
                    updates
                        .iter_mut()
                        .enumerate()
                        .map(|(index, updates)| {
                            *updates += 1;
                            Stretch {
                                at: index * length,
                                length,
                                updates: *updates,
                            }
                        })
                        .collect()
                }
            };
            let step = Step {
                rule: self.rule.treated(part),
                rate: self.rate_of(part, rate)?,
                factor,
            };
            self.apply(parameters, part, &gradient, &stretches, step)?;
        }
        Ok(())
    }

    /// The learning rate of one parameter where the run's is `rate`.
    fn rate_of(&self, part: &Parameter, rate: f64) -> Result<f64> {
        match (part.treatment.peak, self.peak) {
            (None, _) => Ok(rate * part.treatment.rate),
            (Some(own), Some(peak)) if peak > 0.0 => Ok(own * (rate / peak)),
            (Some(own), _) => candle_core::bail!(
                "{}: its learning rate of {own} needs the run's peak, found {:?}",
                part.name,
                self.peak
            ),
        }
    }

    fn apply(
        &self,
        parameters: &Parameters,
        part: &Parameter,
        gradient: &Tensor,
        stretches: &[Stretch],
        step: Step,
    ) -> Result<()> {
        let own = |buffer: &Tensor| {
            if buffer.elem_count() == 0 {
                Ok(buffer.clone())
            } else {
                buffer.narrow(0, part.start, part.count())
            }
        };
        let values = own(parameters.values())?;
        let (first, second) = (own(&self.first)?, own(&self.second)?);
        if host::is_host(&values) {
            return by_real!(values, |T| {
                host::read::<T, _>(gradient, |gradient| {
                    host::modify::<T>(&values, |values| {
                        // Nothing inside can fail: the buffers are of one type and contiguous.
                        let _ = host::modify::<T>(&first, |first| {
                            let _ = host::modify::<T>(&second, |second| {
                                for stretch in stretches {
                                    step.run(*stretch, values, first, second, gradient);
                                }
                            });
                        });
                    })
                })?
            });
        }
        let gradient = gradient.flatten_all()?;
        for stretch in stretches {
            step.run_elsewhere(*stretch, &values, &first, &second, &gradient)?;
        }
        Ok(())
    }
}

impl Rule {
    /// The rule for one parameter.
    fn treated(self, part: &Parameter) -> Self {
        let keep = |decay| if part.treatment.decays { decay } else { 0.0 };
        match self {
            Self::AdamW {
                beta1,
                beta2,
                epsilon,
                decay,
            } => Self::AdamW {
                beta1,
                beta2,
                epsilon: part.treatment.epsilon.unwrap_or(epsilon),
                decay: keep(decay),
            },
            Self::Sgd { momentum, decay } => Self::Sgd {
                momentum,
                decay: keep(decay),
            },
        }
    }
}

/// Numbers of a parameter that move together, updated `updates` times including this one.
#[derive(Debug, Clone, Copy)]
struct Stretch {
    at: usize,
    length: usize,
    updates: u64,
}

/// One step of one parameter.
#[derive(Debug, Clone, Copy)]
struct Step {
    rule: Rule,
    rate: f64,
    factor: f64,
}

impl Step {
    fn run<T: Real>(
        self,
        stretch: Stretch,
        values: &mut [T],
        first: &mut [T],
        second: &mut [T],
        gradient: &[T],
    ) {
        let range = stretch.at..stretch.at + stretch.length;
        let number = T::from_f64;
        let factor = number(self.factor);
        let moved = values[range.clone()]
            .iter_mut()
            .zip(&mut first[range.clone()])
            .zip(&gradient[range.clone()]);
        match self.rule {
            Rule::AdamW {
                beta1,
                beta2,
                epsilon,
                decay,
            } => {
                let (correction1, correction2) = corrections(beta1, beta2, stretch.updates);
                let keep = number(1.0 - self.rate * decay);
                let (rest1, rest2) = (number(1.0 - beta1), number(1.0 - beta2));
                let (beta1, beta2) = (number(beta1), number(beta2));
                let size = number(self.rate / correction1);
                let root = number(1.0 / correction2.sqrt());
                let epsilon = number(epsilon);
                let moved = moved.zip(&mut second[range]);
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

    /// The same through tensor operations.
    fn run_elsewhere(
        self,
        stretch: Stretch,
        values: &Tensor,
        first: &Tensor,
        second: &Tensor,
        gradient: &Tensor,
    ) -> Result<()> {
        let part = |buffer: &Tensor| buffer.narrow(0, stretch.at, stretch.length);
        let (p, m) = (part(values)?, part(first)?);
        let g = (part(gradient)? * self.factor)?;
        let write = |buffer: &Tensor, new: Tensor| buffer.slice_set(&new, 0, stretch.at);
        match self.rule {
            Rule::AdamW {
                beta1,
                beta2,
                epsilon,
                decay,
            } => {
                let (correction1, correction2) = corrections(beta1, beta2, stretch.updates);
                let m = ((m * beta1)? + (&g * (1.0 - beta1))?)?;
                let v = ((part(second)? * beta2)? + (g.sqr()? * (1.0 - beta2))?)?;
                let denominator = ((v.sqrt()? / correction2.sqrt())? + epsilon)?;
                let decayed = (p * (1.0 - self.rate * decay))?;
                let p = (decayed - ((&m / denominator)? * (self.rate / correction1))?)?;
                write(values, p)?;
                write(first, m)?;
                write(second, v)
            }
            Rule::Sgd { momentum, decay } => {
                let m = (((m * momentum)? + g)? + (&p * decay)?)?;
                write(values, (p - (&m * self.rate)?)?)?;
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

/// ‖g‖₂ over all parameters, in float64.
pub(crate) fn gradient_norm(parameters: &Parameters, gradients: &Gradients) -> Result<f64> {
    let mut sum = 0.0;
    for (id, _) in parameters.parts() {
        let Some(gradient) = gradients.parameter(id) else {
            continue;
        };
        let gradient = gradient.contiguous()?;
        sum += if host::is_host(&gradient) {
            by_real!(gradient, |T| {
                host::read::<T, _>(&gradient, |g| {
                    g.iter().map(|g| g.to_f64() * g.to_f64()).sum::<f64>()
                })?
            })
        } else {
            let square = gradient.to_dtype(host::wide(gradient.dtype()))?.sqr()?;
            square.sum_all()?.to_dtype(DType::F64)?.to_scalar()?
        };
    }
    Ok(sum.sqrt())
}
