//! A rule over the flat buffer, with its moments.
//!
//! “Does not move” is meant literally: a row that a mask leaves out keeps its value and its moments
//! and gets no decay, and every row counts its own updates for the bias correction.

use candle_core::{DType, Result, Tensor, WithDType};

use super::host::{self, by_real};
use super::parameters::{Parameter, ParameterId, Parameters};
use super::tape::Gradients;
pub(crate) use super::update::Rule;
use super::update::Update;

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
            let update = Update {
                rule: self.rule.treated(part),
                rate: self.rate_of(part, rate)?,
                factor,
            };
            self.apply(parameters, part, &gradient, &stretches, update)?;
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
        update: Update,
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
                                    let range = stretch.at..stretch.at + stretch.length;
                                    update.run(
                                        stretch.updates,
                                        &mut values[range.clone()],
                                        &mut first[range.clone()],
                                        second.get_mut(range.clone()).unwrap_or_default(),
                                        &gradient[range],
                                    );
                                }
                            });
                        });
                    })
                })?
            });
        }
        let gradient = gradient.flatten_all()?;
        for stretch in stretches {
            let part = |buffer: &Tensor| match buffer.elem_count() {
                0 => Ok(buffer.clone()),
                _ => buffer.narrow(0, stretch.at, stretch.length),
            };
            let (values, first, second) = (part(&values)?, part(&first)?, part(&second)?);
            update.run_elsewhere(stretch.updates, &values, &first, &second, &part(&gradient)?)?;
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
