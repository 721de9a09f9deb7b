use rankwise_analysis::linalg::singular_values;
use serde::Serialize;

use crate::sample::frobenius;
use crate::verification::Outcome;
use crate::{
    Case, Domain, Error, Lift, Problem, SecondMoment, Strategy, Violations, best_partition,
};

/// Everything that is to be said about one case, under the names of its file format.
///
/// What does not apply is left out, and an infinite number prints as `null`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CaseReport {
    /// The case's name.
    pub id: String,
    /// rank E_i to working precision.
    #[serde(rename = "rank_E")]
    pub rank_e: Vec<usize>,
    /// e_i.
    pub e: Vec<f64>,
    /// ‖W̄_i‖_F.
    #[serde(rename = "F")]
    pub f: Vec<f64>,
    /// ‖Σ‖_F.
    #[serde(rename = "norm_Sigma_F")]
    pub norm_sigma_f: f64,
    /// tr Σ.
    #[serde(rename = "trace_Sigma")]
    pub trace_sigma: f64,
    /// β as printed.
    pub beta_literal: f64,
    /// β with √tr Σ for √‖Σ‖_F.
    pub beta_trace: f64,
    /// β as the proof needs it.
    pub beta_corrected: f64,
    /// Eq. 8 as printed.
    pub bound_literal: f64,
    /// Eq. 8 with `beta_trace`.
    pub bound_trace: f64,
    /// Eq. 8 with `beta_corrected`.
    pub bound_corrected: f64,
    /// The recursion in spectral norms.
    pub bound_spectral: f64,
    /// The a posteriori bound; without points only for L̄ = 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bound_tail: Option<f64>,
    /// Whether every block's budget reaches its rank E_i.
    #[serde(rename = "exact_with_given_R")]
    pub exact_with_given_r: bool,
    /// The smallest uniform rank that is exact.
    #[serde(rename = "R_star_uniform")]
    pub r_star_uniform: usize,
    /// The relative defect of every block's product.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub defect: Option<Vec<f64>>,
    /// E‖f(x) − f̄(x)‖₂ of the construction over the points.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub measured: Option<f64>,
    /// Which bounds it exceeds beyond rounding.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub violated: Option<Violations>,
    /// L̄ = 1: √tr((E − N) Σ (E − N)ᵀ) for the best N by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub linear_rms_plain: Option<f64>,
    /// L̄ = 1: the same for the N that is best for Σ.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub linear_rms_sigma_aware: Option<f64>,
    /// The largest difference to a second library's singular values of E_i, relative to σ₁; where
    /// it was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oracle_difference: Option<f64>,
    /// The partition of the same layers, at the same ranks, with the least spectral bound.
    pub best_partition: BestPartition,
    /// The ranks of the same total, on the given partition, with the least spectral bound.
    pub best_ranks: BestRanks,
    /// The singular factor that the construction met, if it did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub construction: Option<SingularFactor>,
}

/// What the search over partitions found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BestPartition {
    /// Layers of every block, from 1.
    pub partition: Vec<Vec<usize>>,
    /// The spectral bound with it.
    pub bound_spectral: f64,
}

/// What the search over ranks found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BestRanks {
    /// A rank for every frozen layer.
    #[serde(rename = "R")]
    pub ranks: Vec<usize>,
    /// The spectral bound with them.
    pub bound_spectral: f64,
}

/// A product that had to be inverted and has no inverse.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct SingularFactor {
    /// Its worst conditioned layer, from 1.
    pub singular_layer: usize,
    /// Its σ₁/σ_D.
    pub condition: f64,
}

impl Case {
    /// Verifies the case: bounds, construction and, if there are points, the measured error.
    ///
    /// A singular product is reported, not an error.
    ///
    /// # Errors
    /// [`Error::Linalg`] if a decomposition fails, [`Error::Invalid`] if an activation overflows.
    pub fn verify(&self) -> Result<CaseReport, Error> {
        let (problem, ranks) = (&self.problem, &self.ranks);
        let bounds = problem.bounds(ranks, &self.sigma)?;
        let gaps = problem.discrepancies();
        let (best, best_bound) =
            best_partition(problem.target(), problem.frozen(), ranks, &self.sigma)?;
        let blocks = best.blocks().iter();
        let (best_ranks, ranks_bound) = problem.best_ranks(
            ranks.iter().fold(0, |a: usize, b| a.saturating_add(*b)),
            &self.sigma,
        )?;
        let mut report = CaseReport {
            id: self.id.clone(),
            rank_e: gaps.iter().map(|gap| gap.rank()).collect(),
            e: problem.layer_errors(ranks)?,
            f: problem.norms().frobenius.clone(),
            norm_sigma_f: self.sigma.frobenius_norm(),
            trace_sigma: self.sigma.trace(),
            beta_literal: bounds.betas.literal,
            beta_trace: bounds.betas.trace,
            beta_corrected: bounds.betas.corrected,
            bound_literal: bounds.literal,
            bound_trace: bounds.trace,
            bound_corrected: bounds.corrected,
            bound_spectral: bounds.spectral,
            bound_tail: None,
            exact_with_given_r: problem.is_exact(ranks)?,
            r_star_uniform: problem.exact_uniform_rank(),
            defect: None,
            measured: None,
            violated: None,
            linear_rms_plain: None,
            linear_rms_sigma_aware: None,
            oracle_difference: None,
            best_partition: BestPartition {
                partition: blocks.map(|b| (b.start + 1..=b.end).collect()).collect(),
                bound_spectral: best_bound,
            },
            best_ranks: BestRanks {
                ranks: best_ranks,
                bound_spectral: ranks_bound,
            },
            construction: None,
        };
        if let [_] = gaps {
            let (plain, aware) = linear_errors(problem, ranks, &self.sigma)?;
            report.linear_rms_plain = Some(plain);
            report.linear_rms_sigma_aware = Some(aware);
        }
        match &self.sample {
            Some(sample) => {
                match problem
                    .verify(
                        ranks,
                        sample,
                        &self.sigma,
                        Lift::Sample,
                        Strategy::default(),
                    )?
                    .outcome
                {
                    Outcome::Measured(measurement) => {
                        report.bound_tail = Some(measurement.tail);
                        report.defect = Some(measurement.defects);
                        report.measured = Some(measurement.error);
                        report.violated = Some(measurement.violated);
                    }
                    Outcome::Singular { layer, condition } => {
                        report.construction = Some(SingularFactor {
                            singular_layer: layer,
                            condition,
                        });
                    }
                }
            }
            None => self.construct_only(&mut report)?,
        }
        Ok(report)
    }

    /// Without points: defects, and the tail bound where it needs no activations.
    fn construct_only(&self, report: &mut CaseReport) -> Result<(), Error> {
        let domain = Domain::Ball {
            radius: self.sigma.trace().sqrt(),
        };
        match self.problem.construct(&self.ranks, domain) {
            Ok(construction) => {
                let blocks = construction.blocks();
                report.defect = Some(blocks.iter().map(|block| block.defect).collect());
                if let ([block], [w]) = (blocks, self.problem.target().weights()) {
                    let delta = &block.product - w;
                    report.bound_tail = Some(frobenius(delta.dot(&self.sigma.root()).view()));
                }
            }
            Err(Error::Singular {
                layer, condition, ..
            }) => {
                report.construction = Some(SingularFactor {
                    singular_layer: layer,
                    condition,
                });
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

/// √E‖(E − N) x‖² for one target layer: with the best N of its rank, and with the N that is best
/// for Σ, U_r U_rᵀ E with U_r the leading left singular vectors of E C, Σ = C Cᵀ, which leaves the
/// smaller singular values of E C.
fn linear_errors(
    problem: &Problem,
    ranks: &[usize],
    sigma: &SecondMoment,
) -> Result<(f64, f64), Error> {
    let gap = &problem.discrepancies()[0];
    let budget = problem.budgets(ranks)?[0];
    let plain = frobenius(gap.residual(budget).dot(&sigma.root()).view());
    let weighted = singular_values(gap.matrix().dot(&sigma.root()).view())?;
    let rest = weighted.iter().skip(budget);
    // Not `sum`, of which none is -0.
    Ok((plain, rest.fold(0.0, |sum, s| sum + s * s).sqrt()))
}
