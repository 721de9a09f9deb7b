//! The theorem put to the test: construct, measure, compare with every bound.
//!
//! | symbol | identifier |
//! |---|---|
//! | e_i | `layer_errors` |
//! | E‖f(x) − f̄(x)‖₂ | `Measurement::error` |
//! | E‖f(x) − f_{P+N}(x)‖₂ | `Measurement::rounding` |
//!
//! # When a bound counts as violated
//! The bounds speak of exact arithmetic. Writing f_{P+N} for the network whose blocks are exactly
//! ReLU((P + N) z + b̄), the triangle inequality gives E‖f − f̄‖ ≤ E‖f_{P+N} − f̄‖ + E‖f − f_{P+N}‖:
//! the theorem bounds the first term, the second is rounding of the adapted layers, and both are
//! measured. So a bound is violated when the error exceeds it by more than that second term and
//! [`ROUNDING`] of the target's output scale.

use rankwise_analysis::linalg::singular_values;
use serde::Serialize;

use crate::bounds::tail;
use crate::{Bounds, Error, Lift, Problem, Sample, SecondMoment, Strategy, measured_error};

/// Rounding allowed in sums of D terms over L layers, relative to the larger of one and the bound
/// on E‖f̄(x)‖₂: it exceeds D L ε as long as D L is below 4500.
pub const ROUNDING: f64 = 1e-12;

/// What came of one choice of ranks.
#[derive(Debug, Clone, PartialEq)]
pub struct Verification {
    /// e_i of every target layer.
    pub layer_errors: Vec<f64>,
    /// The bounds that need no adapters.
    pub bounds: Bounds,
    /// Whether every block's budget reaches its discrepancy's rank.
    pub exact: bool,
    /// The comparison, or why there is none.
    pub outcome: Outcome,
}

/// How a verification ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// The adapters were constructed and their error measured.
    Measured(Measurement),
    /// The construction had to invert a singular product.
    Singular {
        /// The worst conditioned layer of that product, from 1.
        layer: usize,
        /// The product's σ₁/σ_D; may be infinite.
        condition: f64,
    },
}

/// What the constructed adapters do on the sample.
#[derive(Debug, Clone, PartialEq)]
pub struct Measurement {
    /// E‖f(x) − f̄(x)‖₂.
    pub error: f64,
    /// How much of the error rounding may have added: E‖f(x) − f_{P+N}(x)‖₂.
    pub rounding: f64,
    /// ‖∏Ŵ − (P + N)‖_F / ‖P + N‖_F of every block.
    pub defects: Vec<f64>,
    /// ‖∏Ŵ − W̄_i‖₂ of every block: e_i as achieved.
    pub achieved: Vec<f64>,
    /// The a posteriori bound.
    pub tail: f64,
    /// Which bounds the error exceeds.
    pub violated: Violations,
}

/// Which bounds a measured error exceeds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Violations {
    /// Eq. 8 as printed.
    pub literal: bool,
    /// Eq. 8 with √tr Σ.
    pub trace: bool,
    /// Eq. 8 with the β of its proof.
    pub corrected: bool,
    /// The recursion in spectral norms.
    pub spectral: bool,
    /// The a posteriori bound.
    pub tail: bool,
}

impl Problem {
    /// Constructs adapters of these ranks and compares their error on `sample` with the bounds for
    /// `sigma`, the second moment of that sample. The bounds that need no adapters are about the
    /// plain aim; for another only the tail bound is proved.
    ///
    /// A singular product is an outcome here, not an error.
    ///
    /// # Errors
    /// As [`Problem::construct`] otherwise.
    pub fn verify(
        &self,
        ranks: &[usize],
        sample: &Sample,
        sigma: &SecondMoment,
        lift: Lift,
        strategy: Strategy,
    ) -> Result<Verification, Error> {
        let bounds = self.bounds(ranks, sigma)?;
        let outcome = match self.measure(ranks, sample, sigma, &bounds, lift, strategy) {
            Ok(measurement) => Outcome::Measured(measurement),
            Err(Error::Singular {
                layer, condition, ..
            }) => Outcome::Singular { layer, condition },
            Err(error) => return Err(error),
        };
        Ok(Verification {
            layer_errors: self.layer_errors(ranks)?,
            bounds,
            exact: self.is_exact(ranks)?,
            outcome,
        })
    }

    fn measure(
        &self,
        ranks: &[usize],
        sample: &Sample,
        sigma: &SecondMoment,
        bounds: &Bounds,
        lift: Lift,
        strategy: Strategy,
    ) -> Result<Measurement, Error> {
        let construction = self.construct_with(ranks, lift.domain(sample), strategy)?;
        let error = measured_error(construction.adapted(), self.target(), sample)?;
        let rounding = measured_error(construction.adapted(), construction.collapsed(), sample)?;
        let tail = tail(self.target(), self.norms(), &construction, sample);
        let mut achieved = Vec::with_capacity(self.target().depth());
        for (block, w) in construction.blocks().iter().zip(self.target().weights()) {
            achieved.push(singular_values((&block.product - w).view())?[0]);
        }
        let scale = self.norms().output_scale(sigma.trace().sqrt());
        let allowance = rounding + ROUNDING * scale.max(1.0);
        let exceeds = |bound: f64| error > bound + allowance;
        Ok(Measurement {
            error,
            rounding,
            defects: construction
                .blocks()
                .iter()
                .map(|block| block.defect)
                .collect(),
            achieved,
            tail,
            violated: Violations {
                literal: exceeds(bounds.literal),
                trace: exceeds(bounds.trace),
                corrected: exceeds(bounds.corrected),
                spectral: exceeds(bounds.spectral),
                tail: exceeds(tail),
            },
        })
    }
}
