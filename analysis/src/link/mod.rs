//! The link between rank and generalisation: rank correlation, and how sure of it one can be.
//!
//! | symbol | identifier | definition |
//! |---|---|---|
//! | ρ | [`spearman`] | correlation of the ranks, tied values sharing their mean rank |
//! | τ_b | [`kendall_tau_b`] | (concordant − discordant pairs)/√((pairs untied in x)(pairs untied in y)) |
//! | ρ_{xy·z} | [`partial_spearman`] | correlation of what least squares on the ranks of z leaves of the ranks of x and y |
//! | τ_{xy·z} | [`partial_kendall`] | (τ_xy − τ_xz τ_yz)/√((1 − τ_xz²)(1 − τ_yz²)) |
//! | p | [`permutation_p`] | share of the reorderings whose \|ρ\| is at least the one found |
//!
//! [`associate`] gives all of them for one pair of quantities, with bootstrap intervals, what leaving
//! out one observation or configuration changes, and whether the sample is too small to say anything.
//!
//! Sources: C. Spearman, Am. J. Psychol. 15 (1904); M. G. Kendall, Biometrika 32 (1942, partial τ)
//! and 33 (1945, ties).

mod association;
mod bootstrap;
mod influence;
mod partial;
mod permutation;
mod sample;

pub use association::{Association, associate};
pub use bootstrap::{Correlation, Interval, Observation, correlate};
pub use influence::{Influence, leave_one_out};
pub use partial::{Partial, partial_kendall, partial_spearman};
pub use permutation::{Permutation, Unit, holm, permutation_p};
pub use sample::{Sample, smallest_significant};

/// Spearman's ρ of paired values, tied values sharing their mean rank.
///
/// `None` where it is not defined: fewer than two pairs, one side constant, or a NaN.
///
/// ```
/// use rankwise_analysis::spearman;
/// let rho = spearman(&[1.0, 2.0, 3.0, 4.0], &[1.0, 4.0, 9.0, 3.0]).unwrap();
/// assert!((rho - 0.4).abs() < 1e-15);
/// ```
///
/// # Panics
/// If the slices differ in length.
pub fn spearman(x: &[f64], y: &[f64]) -> Option<f64> {
    assert_eq!(x.len(), y.len(), "values come in pairs");
    let (x, y) = (mean_ranks(x)?, mean_ranks(y)?);
    let center = (x.len() as f64 + 1.0) / 2.0;
    let product = |x: &[f64], y: &[f64]| -> f64 {
        x.iter()
            .zip(y)
            .map(|(x, y)| (x - center) * (y - center))
            .sum()
    };
    let (xy, xx, yy) = (product(&x, &y), product(&x, &x), product(&y, &y));
    // Ranks are multiples of ½: these sums are exact, and zero only for a constant.
    (xx > 0.0 && yy > 0.0).then(|| xy / (xx * yy).sqrt())
}

/// Kendall's τ_b of paired values.
///
/// `None` where it is not defined: fewer than two pairs, one side constant, or a NaN.
///
/// # Panics
/// If the slices differ in length.
pub fn kendall_tau_b(x: &[f64], y: &[f64]) -> Option<f64> {
    assert_eq!(x.len(), y.len(), "values come in pairs");
    if x.iter().chain(y).any(|value| value.is_nan()) {
        return None;
    }
    let (mut both, mut only_x, mut only_y) = (0, 0, 0);
    for i in 0..x.len() {
        for j in 0..i {
            // Compared, not subtracted: infinities are equal to themselves.
            let (dx, dy) = (order(x[i], x[j]), order(y[i], y[j]));
            both += dx * dy;
            only_x += dx * dx;
            only_y += dy * dy;
        }
    }
    (only_x > 0 && only_y > 0).then(|| both as f64 / (only_x as f64 * only_y as f64).sqrt())
}

fn order(x: f64, y: f64) -> i64 {
    i64::from(x > y) - i64::from(x < y)
}

/// The rank of every value, from 1; `None` if one is NaN.
fn mean_ranks(values: &[f64]) -> Option<Vec<f64>> {
    if values.iter().any(|value| value.is_nan()) {
        return None;
    }
    let mut sorted: Vec<usize> = (0..values.len()).collect();
    sorted.sort_by(|&i, &j| values[i].total_cmp(&values[j]));
    let mut ranks = vec![0.0; values.len()];
    let mut begin = 0;
    // −0 sorts before +0 but equals it.
    for tied in sorted.chunk_by(|&i, &j| values[i] == values[j]) {
        let mean = begin as f64 + (tied.len() as f64 + 1.0) / 2.0;
        for &i in tied {
            ranks[i] = mean;
        }
        begin += tied.len();
    }
    Some(ranks)
}
