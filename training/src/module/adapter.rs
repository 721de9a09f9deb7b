use super::Value;
use crate::engine::ParameterId;

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
    /// o, one number an output (VeRA's b).
    pub output_gate: Option<Value>,
    /// DoRA's m, one number an output: the rows of W + ΔW are scaled to these lengths.
    pub magnitude: Option<ParameterId>,
    /// s.
    pub scale: f64,
    /// Probability of dropout on the update's input.
    pub dropout: f64,
    /// How many of the first directions the forward pass uses; `None`: all (DyLoRA).
    pub used: Option<usize>,
    /// Directions that move in this step, ascending; `None`: all (Algorithm 1). Of the others no
    /// gradient is computed.
    pub moving: Option<Vec<u32>>,
}

impl Adapter {
    /// A plain product whose factors train.
    pub fn product(a: ParameterId, b: ParameterId, scale: f64, dropout: f64) -> Self {
        Self {
            a: Value::Trained(a),
            b: Value::Trained(b),
            gate: None,
            output_gate: None,
            magnitude: None,
            scale,
            dropout,
            used: None,
            moving: None,
        }
    }
}
