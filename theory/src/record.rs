use serde::Serialize;

use crate::verification::{Measurement, Outcome, Verification};
use crate::{Aim, Cell, Family};

/// One row of the results: a cell at one rank, flat for tables.
///
/// What needs constructed adapters is `None` when the construction met a singular product.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CellRecord {
    /// D.
    pub width: usize,
    /// L̄.
    pub target_layers: usize,
    /// L.
    pub frozen_layers: usize,
    /// How the networks were drawn.
    pub family: Family,
    /// The expected norm of the target's biases.
    pub bias_scale: f64,
    /// What the adapters were constructed for.
    pub aim: Aim,
    /// The draw.
    pub seed: u64,
    /// R of every layer.
    pub rank: usize,
    /// e_i of every target layer.
    pub e: Vec<f64>,
    /// Eq. 8 as printed.
    pub bound_literal: f64,
    /// Eq. 8 with √tr Σ for √‖Σ‖_F.
    pub bound_trace: f64,
    /// Eq. 8 with the β that its proof needs.
    pub bound_corrected: f64,
    /// The recursion in spectral norms.
    pub bound_spectral: f64,
    /// The a posteriori bound.
    pub bound_tail: Option<f64>,
    /// E‖f(x) − f̄(x)‖₂ over the sample.
    pub measured: Option<f64>,
    /// How much of it rounding may have added.
    pub rounding: Option<f64>,
    /// The largest relative defect of a block's product.
    pub defect: Option<f64>,
    /// Whether every block's budget reaches its discrepancy's rank.
    pub exact: bool,
    /// Whether the measured error exceeds Eq. 8 as printed.
    pub violated_literal: Option<bool>,
    /// Whether it exceeds Eq. 8 with √tr Σ.
    pub violated_trace: Option<bool>,
    /// Whether it exceeds Eq. 8 with the β that its proof needs.
    pub violated_corrected: Option<bool>,
    /// Whether it exceeds the recursion in spectral norms.
    pub violated_spectral: Option<bool>,
    /// Whether it exceeds the a posteriori bound.
    pub violated_tail: Option<bool>,
    /// How the verification ended.
    pub stop: Stop,
    /// The singular product's worst layer, from 1.
    pub singular_layer: Option<usize>,
    /// The singular product's condition number.
    pub condition: Option<f64>,
}

/// How a cell ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Stop {
    /// The error was measured.
    Measured,
    /// The construction met a singular product.
    Singular,
}

impl CellRecord {
    pub(crate) fn new(cell: &Cell, rank: usize, result: Verification) -> Self {
        let (measured, singular) = match result.outcome {
            Outcome::Measured(measurement) => (Some(measurement), None),
            Outcome::Singular { layer, condition } => (None, Some((layer, condition))),
        };
        let largest = |m: &Measurement| m.defects.iter().copied().fold(0.0, f64::max);
        let measured = measured.as_ref();
        Self {
            width: cell.width,
            target_layers: cell.target_layers,
            frozen_layers: cell.frozen_layers,
            family: cell.family,
            bias_scale: cell.bias_scale,
            aim: cell.strategy.aim,
            seed: cell.seed,
            rank,
            e: result.layer_errors,
            bound_literal: result.bounds.literal,
            bound_trace: result.bounds.trace,
            bound_corrected: result.bounds.corrected,
            bound_spectral: result.bounds.spectral,
            bound_tail: measured.map(|m| m.tail),
            measured: measured.map(|m| m.error),
            rounding: measured.map(|m| m.rounding),
            defect: measured.map(largest),
            exact: result.exact,
            violated_literal: measured.map(|m| m.violated.literal),
            violated_trace: measured.map(|m| m.violated.trace),
            violated_corrected: measured.map(|m| m.violated.corrected),
            violated_spectral: measured.map(|m| m.violated.spectral),
            violated_tail: measured.map(|m| m.violated.tail),
            stop: if measured.is_some() {
                Stop::Measured
            } else {
                Stop::Singular
            },
            singular_layer: singular.map(|(layer, _)| layer),
            condition: singular.map(|(_, condition)| condition),
        }
    }
}
