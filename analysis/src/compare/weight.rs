//! An update beside the weight that it changes: what it amplifies, and which directions it brings in.
//!
//! | symbol | identifier |
//! |---|---|
//! | ‖ΔW‖_F / ‖Uᵀ W V‖_F, with ΔW's own first r directions | [`Amplification::factor`] |
//! | the same with W's own first r directions: ‖UᵀWV‖_F = √Σ_{i≤r} σᵢ(W)² | [`Amplification::weight`] |
//! | the same with random directions: √E‖UᵀWV‖²_F = r ‖W‖_F/√(mn) | [`Amplification::random`] |
//! | j ≤ k with max_i \|⟨u_j(W + ΔW), u_i(W)⟩\| < ε | [`Intruder`] |
//!
//! The random directions of the paper's Table 7 are one draw; here the root mean square over all draws
//! takes its place, which needs none: for a uniformly random U with r columns E UUᵀ = (r/m)·I, so
//! E‖UᵀWV‖²_F = (r/m)(r/n)‖W‖²_F.
//!
//! Cost: one dense decomposition of W for all adapters that change it and one of W + ΔW for each, about
//! 20 mn·min(m, n) operations apiece; all left singular vectors of W are needed, so no partial
//! decomposition would do for W.
//!
//! Sources: E. J. Hu et al., “LoRA”, 2021, section 7.3 and Table 7; R. Shuttleworth et al., “LoRA vs
//! Full Fine-tuning: An Illusion of Equivalence”, 2024 (k = 10, ε = 0.5; left singular vectors).

use ndarray::{Array2, Axis};
use serde::Serialize;

use super::directions::{Directions, norm};
use super::subspace::leading;
use crate::Error;
use crate::linalg::{Svd, check_finite, svd};

/// What counts as an intruder dimension.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct IntruderRule {
    /// How many of the first left singular vectors of W + ΔW are looked at.
    pub k: usize,
    /// A vector whose cosine to every one of W's is smaller is an intruder.
    pub epsilon: f64,
}

impl Default for IntruderRule {
    fn default() -> Self {
        Self {
            k: 10,
            epsilon: 0.5,
        }
    }
}

/// How strong an update is in the directions that it changes, beside the weight.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Amplification {
    /// r, the update's numerical rank.
    pub rank: usize,
    /// ‖ΔW‖_F.
    pub update_norm: f64,
    /// ‖W‖_F.
    pub weight_norm: f64,
    /// ‖UᵀWV‖_F with the first r directions of ΔW.
    pub projected: f64,
    /// With those of W.
    pub projected_weight: f64,
    /// Root mean square with random ones.
    pub projected_random: f64,
    /// ‖ΔW‖_F over `projected`; `None` if W has nothing there.
    pub factor: Option<f64>,
    /// ‖ΔW‖_F over `projected_weight`.
    pub weight: Option<f64>,
    /// ‖ΔW‖_F over `projected_random`.
    pub random: Option<f64>,
}

/// A direction of the tuned weight that the weight did not have.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Intruder {
    /// Its place among the singular vectors of W + ΔW, from 1.
    pub place: usize,
    /// σ of W + ΔW there.
    pub singular_value: f64,
    /// The largest |cosine| to a left singular vector of W.
    pub cosine: f64,
    /// Which of W's that is, from 1.
    pub nearest: usize,
}

/// An update against the weight that it changes.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AgainstWeight {
    /// The amplification factor; `None` for a zero update.
    pub amplification: Option<Amplification>,
    /// The first k directions of W + ΔW: the nearest of W's to each.
    pub directions: Vec<Intruder>,
    /// How many of them are intruders.
    pub intruders: usize,
}

/// A weight and its decomposition.
pub(super) struct Weight {
    matrix: Array2<f64>,
    svd: Svd,
    /// Singular values above rounding: past it, the vectors are arbitrary.
    rank: usize,
}

impl Weight {
    pub fn new(matrix: Array2<f64>) -> Result<Self, Error> {
        check_finite("base weight", matrix.view())?;
        let svd = svd(matrix.view())?;
        let (m, n) = matrix.dim();
        let floor = m.max(n) as f64 * f64::EPSILON * svd.s.first().copied().unwrap_or(0.0);
        let rank = svd.s.iter().filter(|&&sigma| sigma > floor).count();
        Ok(Self { matrix, svd, rank })
    }

    pub fn against(&self, update: &Directions, rule: IntruderRule) -> Result<AgainstWeight, Error> {
        let directions = self.nearest(update, rule.k)?;
        Ok(AgainstWeight {
            amplification: self.amplification(update),
            intruders: directions
                .iter()
                .filter(|direction| direction.cosine < rule.epsilon)
                .count(),
            directions,
        })
    }

    fn amplification(&self, update: &Directions) -> Option<Amplification> {
        let r = update.rank();
        if r == 0 {
            return None;
        }
        let (m, n) = self.matrix.dim();
        let update_norm = update.measures.frobenius_norm;
        let weight_norm = norm(&self.svd.s);
        let core = update.left(r).t().dot(&self.matrix).dot(&update.right(r));
        let projected = norm(core.iter());
        let projected_weight = norm(&self.svd.s[..r.min(self.svd.s.len())]);
        let projected_random = r as f64 * weight_norm / ((m as f64).sqrt() * (n as f64).sqrt());
        let factor = |size: f64| (size > 0.0).then(|| update_norm / size);
        Some(Amplification {
            rank: r,
            update_norm,
            weight_norm,
            projected,
            projected_weight,
            projected_random,
            factor: factor(projected),
            weight: factor(projected_weight),
            random: factor(projected_random),
        })
    }

    fn nearest(&self, update: &Directions, k: usize) -> Result<Vec<Intruder>, Error> {
        let tuned = svd((&self.matrix + &update.dense()).view())?;
        let first = leading(&tuned.u, k);
        let cosines = leading(&self.svd.u, self.rank).t().dot(&first);
        let directions = cosines.axis_iter(Axis(1)).enumerate().map(|(j, column)| {
            let (nearest, cosine) =
                column
                    .iter()
                    .enumerate()
                    .fold((0, 0.0_f64), |best, (i, cosine)| {
                        if cosine.abs() > best.1 {
                            (i + 1, cosine.abs())
                        } else {
                            best
                        }
                    });
            Intruder {
                place: j + 1,
                singular_value: tuned.s[j],
                cosine: cosine.min(1.0),
                nearest,
            }
        });
        Ok(directions.collect())
    }
}
