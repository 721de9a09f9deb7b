//! A linear classifier over fixed features, and its update.
//!
//! `logits = (W₀ + ΔW) x + b` with W₀ (out × in) frozen and b trained. The last-layer protocol of
//! the paper's section 5.2 on any features.
//!
//! | symbol | identifier |
//! |---|---|
//! | W₀ | `frozen` |
//! | A (R × in) | [`Factors::a`] |
//! | Bᵀ (R × out) | [`Factors::b_transposed`]: direction i is row i of both |
//! | s = α/R | `scale` |
//! | λ, r̂ | `lambda`, the length of `selected` |
//!
//! All that trains lies in one flat buffer, parameters then both moments, so that an optimiser
//! step, a checkpoint and a resume are one pass each. With dY the gradient of the logits:
//!
//! ```text
//! dB[:,S] = s dYᵀ (A[S,:] X)ᵀ          dA[S,:] = s (B[:,S]ᵀ dYᵀ) X
//! ```
//!
//! plus `4λ(P Pᵀ − I)P` for P = A and P = Bᵀ (the gradient of Eq. 10), of which likewise only the
//! rows S are computed.

use candle_core::{Device, Result, Tensor};

use super::kernels::{self, Moving};
use super::method::Initialisation;
use crate::RunConfig;
use crate::draw::{normal, uniform};
use crate::engine::update::{Rule, Update};

/// Labelled rows: features (rows × in), their frozen logits `W₀ x` (rows × out), labels.
#[derive(Debug, Clone)]
pub(super) struct Rows {
    pub features: Tensor,
    pub base: Option<Tensor>,
    pub labels: Vec<u32>,
}

impl Rows {
    pub fn slice(&self, start: usize, length: usize) -> Result<Self> {
        Ok(Self {
            features: self.features.narrow(0, start, length)?,
            base: self
                .base
                .as_ref()
                .map(|base| base.narrow(0, start, length))
                .transpose()?,
            labels: self.labels[start..start + length].to_vec(),
        })
    }
}

#[derive(Debug)]
pub(super) struct Head {
    inputs: usize,
    outputs: usize,
    /// W₀, out × in.
    frozen: Tensor,
    low_rank: Option<LowRank>,
    /// Parameters, first moments, second moments; see [`Head::views`] for the order within.
    state: Tensor,
    /// How often each part moved: every direction, then the bias (full: the weight, then the bias).
    updates: Vec<u64>,
}

#[derive(Debug, Clone, Copy)]
struct LowRank {
    rank: usize,
    scale: f64,
    lambda: f64,
}

/// The factors of ΔW = s·B·A.
pub(super) struct Factors {
    pub a: Tensor,
    pub b_transposed: Tensor,
    pub scale: f64,
}

/// The trained matrix, as views into the state.
enum Trained {
    Weight(Tensor),
    Factors(Factors),
}

/// Gradients by part; those of the factors have a row for every selected direction.
#[derive(Debug)]
pub(super) struct Gradients {
    matrices: Vec<Tensor>,
    bias: Tensor,
}

#[cfg(test)]
impl Gradients {
    /// In the state's order.
    pub fn flat(&self) -> Vec<f64> {
        let parts = self.matrices.iter().chain([&self.bias]);
        parts
            .flat_map(|part| part.flatten_all().unwrap().to_vec1::<f64>().unwrap())
            .collect()
    }
}

impl Head {
    /// W₀ and b uniform in ±1/√in (PyTorch's `Linear`), A as configured, B zero: each from its own
    /// stream of the seed. `config` is resolved.
    pub fn new(config: &RunConfig, inputs: usize, outputs: usize, device: &Device) -> Result<Self> {
        let bound = 1.0 / (inputs as f64).sqrt();
        let seed = config.seed;
        let frozen = uniform(seed, "head weight", outputs * inputs, bound);
        let bias = uniform(seed, "head bias", outputs, bound);
        let method = &config.method;
        let low_rank = method.rank.map(|rank| LowRank {
            rank,
            scale: method.alpha.unwrap_or(rank as f64) / rank as f64,
            lambda: method.lambda.unwrap_or(0.0),
        });
        let mut state = match low_rank {
            None => frozen.clone(),
            Some(LowRank { rank, .. }) => {
                let mut factors = match method.initialisation.unwrap_or_default() {
                    Initialisation::KaimingUniform => uniform(seed, "lora A", rank * inputs, bound),
                    Initialisation::Gaussian => {
                        normal(seed, "lora A", rank * inputs, 1.0 / rank as f64)
                    }
                };
                factors.resize(rank * (inputs + outputs), 0.0);
                factors
            }
        };
        state.extend(bias);
        state.resize(3 * state.len(), 0.0);
        let dtype = config.precision.dtype();
        Ok(Self {
            inputs,
            outputs,
            frozen: Tensor::from_vec(frozen, (outputs, inputs), device)?.to_dtype(dtype)?,
            low_rank,
            state: Tensor::new(state, device)?.to_dtype(dtype)?,
            updates: vec![0; low_rank.map_or(1, |low_rank| low_rank.rank) + 1],
        })
    }

    pub fn frozen(&self) -> &Tensor {
        &self.frozen
    }

    /// What a checkpoint keeps: the flat state, and how often each part moved.
    pub fn state(&self) -> (&Tensor, &[u64]) {
        (&self.state, &self.updates)
    }

    /// Goes back to a kept state of the same configuration.
    ///
    /// # Errors
    /// If the sizes or types differ from this head's.
    pub fn restore(&mut self, state: Tensor, updates: Vec<u64>) -> Result<()> {
        let (own, kept) = (
            (self.state.dims(), self.state.dtype()),
            (state.dims(), state.dtype()),
        );
        if own != kept || self.updates.len() != updates.len() {
            candle_core::bail!("kept state: expected {own:?}, found {kept:?}");
        }
        self.state = state;
        self.updates = updates;
        Ok(())
    }

    /// The trained bias, as it was drawn before training.
    pub fn initial_bias(config: &RunConfig, inputs: usize, outputs: usize) -> Vec<f64> {
        uniform(
            config.seed,
            "head bias",
            outputs,
            1.0 / (inputs as f64).sqrt(),
        )
    }

    /// Adds the frozen logits to rows that have none; full fine-tuning needs none.
    pub fn prepare(&self, features: Tensor, labels: Vec<u32>) -> Result<Rows> {
        let base = match self.low_rank {
            Some(_) => Some(features.matmul(&self.frozen.t()?)?),
            None => None,
        };
        Ok(Rows {
            features,
            base,
            labels,
        })
    }

    /// The trained weight (out × in), full fine-tuning only.
    pub fn weight(&self) -> Result<Option<Tensor>> {
        Ok(match self.views()?.0 {
            Trained::Weight(weight) => Some(weight),
            Trained::Factors(_) => None,
        })
    }

    /// The factors, low-rank methods only.
    pub fn factors(&self) -> Result<Option<Factors>> {
        Ok(match self.views()?.0 {
            Trained::Weight(_) => None,
            Trained::Factors(factors) => Some(factors),
        })
    }

    pub fn bias(&self) -> Result<Tensor> {
        Ok(self.views()?.1)
    }

    /// Sum of cross-entropies and number of right predictions.
    pub fn score(&self, rows: &Rows) -> Result<(f64, usize)> {
        let (trained, bias) = self.views()?;
        let (products, scale) = trained.products(&rows.features)?;
        kernels::score(&products, rows.base.as_ref(), &bias, &rows.labels, scale)
    }

    /// `‖A Aᵀ − I‖²_F + ‖Bᵀ B − I‖²_F` (Eq. 10, without λ); `None` for full fine-tuning.
    pub fn regulariser(&self) -> Result<Option<f64>> {
        let Some(factors) = self.factors()? else {
            return Ok(None);
        };
        let term = |p: &Tensor| {
            let p = p.to_dtype(candle_core::DType::F64)?;
            let gram = p.matmul(&p.t()?)?;
            let identity = Tensor::eye(gram.dim(0)?, gram.dtype(), gram.device())?;
            (gram - identity)?.sqr()?.sum_all()?.to_scalar::<f64>()
        };
        Ok(Some(term(&factors.a)? + term(&factors.b_transposed)?))
    }

    /// Gradients of the mean loss over `rows`, for the directions `selected` (ascending; `None`:
    /// all).
    pub fn gradients(&self, rows: &Rows, selected: Option<&[u32]>) -> Result<Gradients> {
        let (trained, bias) = self.views()?;
        let x = &rows.features;
        let logits_gradient = |products: Tensor, scale: f64| {
            kernels::softmax_gradient(products, rows.base.as_ref(), &bias, &rows.labels, scale)
        };
        let (matrices, dy) = match &trained {
            Trained::Weight(weight) => {
                let dy = logits_gradient(x.matmul(&weight.t()?)?, 1.0)?;
                (vec![dy.t()?.matmul(x)?], dy)
            }
            Trained::Factors(Factors {
                a,
                b_transposed,
                scale,
            }) => {
                let down = a.matmul(&x.t()?)?;
                let dy = logits_gradient(down.t()?.matmul(b_transposed)?, *scale)?;
                let directions = selected
                    .map(|selected| Tensor::new(selected, x.device()))
                    .transpose()?;
                let choose = |p: &Tensor| match &directions {
                    Some(directions) => p.index_select(directions, 0),
                    None => Ok(p.clone()),
                };
                let scaled = |p: Tensor| if *scale == 1.0 { Ok(p) } else { p * *scale };
                let up = scaled(choose(b_transposed)?.matmul(&dy.t()?)?)?;
                let mut da = up.matmul(x)?;
                let mut db = scaled(choose(&down)?.matmul(&dy)?)?;
                let lambda = self.low_rank.map_or(0.0, |low_rank| low_rank.lambda);
                if lambda > 0.0 {
                    let identity = choose(&Tensor::eye(a.dim(0)?, a.dtype(), a.device())?)?;
                    let term = |p: &Tensor| {
                        let defect = (choose(p)?.matmul(&p.t()?)? - &identity)?;
                        (defect * (4.0 * lambda))?.matmul(p)
                    };
                    da = (da + term(a)?)?;
                    db = (db + term(b_transposed)?)?;
                }
                (vec![da, db], dy)
            }
        };
        // A product with ones: the same kernel on every device, and no strided sum.
        let ones = Tensor::ones((1, dy.dim(0)?), dy.dtype(), dy.device())?;
        Ok(Gradients {
            matrices,
            bias: ones.matmul(&dy)?,
        })
    }

    /// One step. Directions that are not `selected` keep value and moments, get no decay,
    /// and their bias corrections count only their own updates.
    pub fn apply(
        &mut self,
        gradients: &Gradients,
        selected: Option<&[u32]>,
        update: Update,
    ) -> Result<()> {
        let last = self.updates.len() - 1;
        let moving: Vec<usize> = match selected {
            Some(selected) => selected
                .iter()
                .map(|&direction| direction as usize)
                .collect(),
            None => (0..last).collect(),
        };
        for &part in moving.iter().chain([&last]) {
            self.updates[part] += 1;
        }
        let mut at = 0;
        for gradient in &gradients.matrices {
            // Full fine-tuning's one part is the whole matrix.
            let width = match self.low_rank {
                Some(_) => gradient.dim(1)?,
                None => gradient.elem_count(),
            };
            let parts: Vec<_> = moving
                .iter()
                .map(|&part| Moving {
                    at: at + part * width,
                    updates: self.updates[part],
                })
                .collect();
            kernels::step(&self.state, gradient, &parts, update)?;
            at += width * last;
        }
        let bias = Moving {
            at,
            updates: self.updates[last],
        };
        kernels::step(&self.state, &gradients.bias, &[bias], update)
    }

    /// The state's order: the weight, or A then Bᵀ; then the bias.
    fn views(&self) -> Result<(Trained, Tensor)> {
        let view = |at: usize, rows: usize, columns: usize| {
            self.state
                .narrow(0, at, rows * columns)?
                .reshape((rows, columns))
        };
        let (trained, at) = match self.low_rank {
            None => {
                let weight = view(0, self.outputs, self.inputs)?;
                (Trained::Weight(weight), self.outputs * self.inputs)
            }
            Some(LowRank { rank, scale, .. }) => {
                let a = view(0, rank, self.inputs)?;
                let b_transposed = view(rank * self.inputs, rank, self.outputs)?;
                let factors = Factors {
                    a,
                    b_transposed,
                    scale,
                };
                (
                    Trained::Factors(factors),
                    rank * (self.inputs + self.outputs),
                )
            }
        };
        Ok((trained, self.state.narrow(0, at, self.outputs)?))
    }
}

impl Trained {
    /// Rows × out, and the scale that is still to be applied.
    fn products(&self, features: &Tensor) -> Result<(Tensor, f64)> {
        Ok(match self {
            Self::Weight(weight) => (features.matmul(&weight.t()?)?, 1.0),
            Self::Factors(Factors {
                a,
                b_transposed,
                scale,
            }) => {
                let down = features.matmul(&a.t()?)?;
                (down.matmul(b_transposed)?, *scale)
            }
        })
    }
}

impl RunConfig {
    pub(super) fn update(&self) -> Update {
        Update {
            rule: Rule::AdamW {
                beta1: self.optimizer.beta1,
                beta2: self.optimizer.beta2,
                epsilon: self.optimizer.epsilon,
                decay: self.optimizer.weight_decay,
            },
            rate: self.optimizer.learning_rate,
            factor: 1.0,
        }
    }
}
