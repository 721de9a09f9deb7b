use candle_core::{D, Result, Tensor};

use super::Value;
use crate::engine::ParameterId;

/// A map from a gate's kept numbers θ to g (BiLoRA's).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Squash {
    /// g = θ.
    None,
    /// gᵢ = exp θᵢ / Σ exp θⱼ.
    Softmax,
    /// g = 1/(1 + exp(−θ)).
    Sigmoid,
}

impl Squash {
    /// g.
    pub fn apply(self, kept: &Tensor) -> Result<Tensor> {
        match self {
            Self::None => Ok(kept.clone()),
            Self::Softmax => {
                let raised = kept.broadcast_sub(&kept.max_keepdim(D::Minus1)?)?.exp()?;
                raised.broadcast_div(&raised.sum_keepdim(D::Minus1)?)
            }
            Self::Sigmoid => (kept.neg()?.exp()? + 1.0)?.recip(),
        }
    }

    /// ∂L/∂θ from g and ∂L/∂g.
    pub fn backward(self, gate: &Tensor, gradient: &Tensor) -> Result<Tensor> {
        match self {
            Self::None => Ok(gradient.clone()),
            Self::Softmax => {
                let along = (gate * gradient)?.sum_keepdim(D::Minus1)?;
                gate * gradient.broadcast_sub(&along)?
            }
            Self::Sigmoid => gradient * (gate - gate.sqr()?)?,
        }
    }
}

/// A low-rank update beside a module's weight:
/// `ΔW = s · diag(o) · B · diag(g) · A`, where g and o are ones if absent.
///
/// Direction i is row i of both factors as they are kept here. A method decides which parts train
/// and, step by step, which directions are used and which move.
#[derive(Debug, Clone)]
pub(crate) struct Adapter {
    /// A, R × inputs.
    pub a: Value,
    /// Bᵀ, R × outputs.
    pub b: Value,
    /// g, one number a direction (AdaLoRA, SoRA, BiLoRA, VeRA's d).
    pub gate: Option<Value>,
    /// What is done to the kept numbers before they are g.
    pub squash: Squash,
    /// o, one number an output (VeRA's b).
    pub output_gate: Option<Value>,
    /// DoRA's m, one number an output: the rows of W + ΔW are scaled to these lengths.
    pub magnitude: Option<ParameterId>,
    /// ‖W‖² of the outputs' own weights, which do not change, so that nobody sums them again.
    pub squares: Option<Tensor>,
    /// Whether the lengths that m is divided by are no constant on the way back.
    pub norm_goes_along: bool,
    /// s.
    pub scale: f64,
    /// Probability of dropout on the update's input.
    pub dropout: f64,
    /// How many of the first directions the forward pass uses; `None`: all (DyLoRA).
    pub used: Option<usize>,
    /// Directions that move in this step, ascending; `None`: all (Algorithm 1). Of the others no
    /// gradient is computed.
    pub moving: Option<Vec<u32>>,
    /// Whether the others get a gradient of zero instead of none at all, so that what is left of
    /// their momentum moves them.
    pub drifts: bool,
    /// Whether the factors move in this step, and whether the gates do (BiLoRA's levels).
    pub factors_move: bool,
    pub gate_moves: bool,
    /// Whether the backward pass sums the squares of every input (PRILoRA).
    pub observes: bool,
}

impl Adapter {
    /// A plain product whose factors train.
    pub fn product(a: ParameterId, b: ParameterId, scale: f64, dropout: f64) -> Self {
        Self::of(Value::Trained(a), Value::Trained(b), scale, dropout)
    }

    /// A plain product.
    pub fn of(a: Value, b: Value, scale: f64, dropout: f64) -> Self {
        Self {
            a,
            b,
            gate: None,
            squash: Squash::None,
            output_gate: None,
            magnitude: None,
            squares: None,
            norm_goes_along: false,
            scale,
            dropout,
            used: None,
            moving: None,
            drifts: false,
            factors_move: true,
            gate_moves: true,
            observes: false,
        }
    }
}
