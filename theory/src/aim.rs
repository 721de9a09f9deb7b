//! What a block's update aims at: the nearest matrix, or the best fit to the inputs it will see.
//!
//! | symbol | identifier |
//! |---|---|
//! | N = X Yᵀ | `Update::x`, `Update::y` |
//! | z, z̄ | `inputs`, `target_inputs`: what enters the block and the target's layer |
//! | S = E[z zᵀ] | second moment of `inputs` |
//!
//! - **plain**: the best approximation of E of rank r by Eckart–Young; the theorem's own.
//! - **second moment**: N = U_r U_rᵀ E with U_r the leading left singular vectors of E C, S = C Cᵀ,
//!   which is (E S^{1/2})_r S^{−1/2} without an inverse: the least E‖(E − N) z‖² for rank r.
//! - **regression**: reduced-rank regression of W̄ z̄ + b̄ − P z on z with an intercept, which also
//!   makes up for what the earlier blocks left. With the fit Ŷ = Z M on centred data and Q_r its
//!   leading right singular vectors, N = Q_r Q_rᵀ Mᵀ (Izenman 1975), and the bias takes the means.
//!
//! None is worse than plain on the first block's pre-activations; the theorem's a priori bounds are
//! about plain alone.

use ndarray::{Array1, Array2, ArrayView2, Axis};
use rankwise_analysis::linalg::{qr, svd};
use serde::{Deserialize, Serialize};

use crate::{Discrepancy, Error};

/// What the update of a block is chosen for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Aim {
    /// The matrix nearest to E: the theorem's construction.
    #[default]
    Plain,
    /// The least mean square of (E − N) z over the block's inputs.
    SecondMoment,
    /// The least mean square of the block's pre-activation against the target's.
    Regression,
}

/// N = X Yᵀ for one block, and the bias that goes with it.
pub(crate) struct Update {
    /// D × r.
    pub x: Array2<f64>,
    /// D × r.
    pub y: Array2<f64>,
    /// D: what the block's last layer adds in place of b̄.
    pub bias: Array1<f64>,
}

impl Update {
    pub(crate) fn plain(gap: &Discrepancy, budget: usize, bias: &Array1<f64>) -> Self {
        let (x, y) = gap.best_factors(budget);
        let bias = bias.clone();
        Self { x, y, bias }
    }

    /// `inputs`: n × D with `probabilities`.
    pub(crate) fn for_second_moment(
        gap: &Discrepancy,
        budget: usize,
        bias: &Array1<f64>,
        inputs: ArrayView2<'_, f64>,
        probabilities: &Array1<f64>,
    ) -> Result<Self, Error> {
        let root = triangle(&weighted(inputs, probabilities));
        let rank = budget.min(gap.rank());
        let u = svd(gap.matrix().dot(&root.t()).view())?.u;
        let x = u.view().split_at(Axis(1), rank.min(u.ncols())).0.to_owned();
        Ok(Self {
            y: gap.matrix().t().dot(&x),
            x,
            bias: bias.clone(),
        })
    }

    /// `wanted`: n × D, the target's pre-activations for the points that enter as `inputs`.
    pub(crate) fn by_regression(
        gap: &Discrepancy,
        budget: usize,
        wanted: ArrayView2<'_, f64>,
        inputs: ArrayView2<'_, f64>,
        probabilities: &Array1<f64>,
    ) -> Result<Self, Error> {
        let missing = &wanted - &inputs.dot(&gap.frozen_product().t());
        let mean_input = probabilities.dot(&inputs);
        let mean_missing = probabilities.dot(&missing);
        let z = weighted((&inputs - &mean_input).view(), probabilities);
        let y = weighted((&missing - &mean_missing).view(), probabilities);
        let basis = svd(z.view())?;
        // Directions in which the inputs do not vary, to rounding, carry no information.
        let floor = z.len() as f64 * f64::EPSILON * basis.s.first().copied().unwrap_or(0.0);
        let varying = basis.s.iter().filter(|&&s| s > floor).count();
        let u = basis.u.view().split_at(Axis(1), varying).0;
        let vt = basis.vt.view().split_at(Axis(0), varying).0;
        let fitted = u.t().dot(&y);
        let scales: Array1<f64> = basis.s[..varying].iter().map(|s| s.recip()).collect();
        let directions = svd(fitted.view())?;
        let scale = frobenius_scale(&wanted) + frobenius_scale(&inputs);
        let rounding = wanted.ncols() as f64 * f64::EPSILON * scale;
        let rank = directions.s.iter().filter(|&&s| s > rounding).count();
        let rank = rank.min(budget);
        let x = directions.vt.t().split_at(Axis(1), rank).0.to_owned();
        let coefficients = (vt.t().to_owned() * &scales).dot(&fitted);
        let y = coefficients.dot(&x);
        let bias = mean_missing - x.dot(&y.t().dot(&mean_input));
        Ok(Self { x, y, bias })
    }
}

/// Rows times the roots of their probabilities.
fn weighted(rows: ArrayView2<'_, f64>, probabilities: &Array1<f64>) -> Array2<f64> {
    &rows * &probabilities.mapv(f64::sqrt).insert_axis(Axis(1))
}

/// R with Rᵀ R = Mᵀ M.
fn triangle(matrix: &Array2<f64>) -> Array2<f64> {
    qr(matrix.view()).r
}

/// The largest row norm.
fn frobenius_scale(rows: &ArrayView2<'_, f64>) -> f64 {
    let norms = rows.rows().into_iter().map(|row| row.dot(&row).sqrt());
    norms.fold(0.0, f64::max)
}
