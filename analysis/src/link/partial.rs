//! Rank correlation with other quantities held fixed.

use serde::{Deserialize, Serialize};

use super::{kendall_tau_b, mean_ranks};

/// What is left of a column after least squares counts as nothing below this share of it. Ranks of
/// n ≤ 10⁶ values projected twice keep some 10⁻¹⁵·√n of rounding; a share that is truly there is at
/// least of the order 1/n.
const NOTHING: f64 = 1e-9;

/// A partial rank correlation.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Partial {
    /// In [−1, 1].
    pub rho: f64,
    /// n − 2 − the covariates that are independent of each other and not constant.
    pub degrees_of_freedom: usize,
}

/// Spearman's ρ of x and y given covariates, columns as long as x.
///
/// Ranks replace all values, least squares with an intercept takes the covariates' ranks out of
/// those of x and y (QR by Gram–Schmidt with every projection done twice, constant and dependent
/// covariates left out), and what is left is correlated. Without covariates it is
/// [`spearman`](super::spearman).
///
/// `None` where it is not defined: less than one degree of freedom, nothing left of x or y, or a NaN.
///
/// ```
/// use rankwise_analysis::partial_spearman;
/// let (x, y, z) = ([1.0, 2.0, 3.0, 4.0], [1.0, 3.0, 2.0, 4.0], [2.0, 1.0, 3.0, 4.0]);
/// // All three pairs have ρ = 4/5, 4/5 and 2/5: (4/5 − 8/25)/√((1 − 16/25)(1 − 4/25)).
/// let partial = partial_spearman(&x, &y, &[&z]).unwrap();
/// assert!((partial.rho - 0.48 / (0.36_f64 * 0.84).sqrt()).abs() < 1e-14);
/// assert_eq!(partial.degrees_of_freedom, 1);
/// ```
///
/// # Panics
/// If the columns differ in length.
pub fn partial_spearman(x: &[f64], y: &[f64], covariates: &[&[f64]]) -> Option<Partial> {
    assert_eq!(x.len(), y.len(), "values come in pairs");
    let mut basis: Vec<Vec<f64>> = Vec::new();
    for covariate in covariates {
        assert_eq!(x.len(), covariate.len(), "every pair has its covariates");
        let mut column = centered_ranks(covariate)?;
        if let Some(length) = rest(&mut column, &basis) {
            column.iter_mut().for_each(|value| *value /= length);
            basis.push(column);
        }
    }
    let degrees_of_freedom = x.len().checked_sub(2 + basis.len()).filter(|&df| df > 0)?;
    let (mut x, mut y) = (centered_ranks(x)?, centered_ranks(y)?);
    let (x_length, y_length) = (rest(&mut x, &basis)?, rest(&mut y, &basis)?);
    Some(Partial {
        // Rounding may lead out of the range by an ulp or two.
        rho: (dot(&x, &y) / (x_length * y_length)).clamp(-1.0, 1.0),
        degrees_of_freedom,
    })
}

/// Kendall's τ_b of x and y given z, by Kendall's formula.
///
/// `None` where it is not defined: one of them constant, z in the order of x or y (or its reverse),
/// or a NaN.
///
/// # Panics
/// If the slices differ in length.
pub fn partial_kendall(x: &[f64], y: &[f64], z: &[f64]) -> Option<f64> {
    let (xy, xz, yz) = (
        kendall_tau_b(x, y)?,
        kendall_tau_b(x, z)?,
        kendall_tau_b(y, z)?,
    );
    let left = (1.0 - xz * xz) * (1.0 - yz * yz);
    // Of 1 − τ² nothing but rounding may be left.
    (left > NOTHING * NOTHING).then(|| ((xy - xz * yz) / left.sqrt()).clamp(-1.0, 1.0))
}

fn centered_ranks(values: &[f64]) -> Option<Vec<f64>> {
    let center = (values.len() as f64 + 1.0) / 2.0;
    let mut ranks = mean_ranks(values)?;
    ranks.iter_mut().for_each(|rank| *rank -= center);
    Some(ranks)
}

/// Takes the orthonormal `basis` out of `column`: the length of what is left, `None` if nothing is.
fn rest(column: &mut [f64], basis: &[Vec<f64>]) -> Option<f64> {
    let before = dot(column, column).sqrt();
    for direction in basis.iter().chain(basis) {
        let share = dot(column, direction);
        for (value, direction) in column.iter_mut().zip(direction) {
            *value -= share * direction;
        }
    }
    let after = dot(column, column).sqrt();
    (after > NOTHING * before).then_some(after)
}

fn dot(x: &[f64], y: &[f64]) -> f64 {
    x.iter().zip(y).map(|(x, y)| x * y).sum()
}
