//! Singular values of a small product X Yᵀ of two triangular factors, the small ones as exact as the
//! factors determine them.
//!
//! A product of graded factors, or a core formed in floating point and reduced to two diagonals, loses
//! every singular value below ε σ₁. Here the columns of X are scaled to norm one, X = X₁D; a QR
//! decomposition with column pivoting gives Y D P = Q R, so that X Yᵀ = (X₁ P Rᵀ) Qᵀ; and one-sided
//! Jacobi rotations make the columns of C = X₁ P Rᵀ orthogonal: their norms are the singular values.
//! The columns of C carry its grading, and Jacobi's relative error depends only on how well
//! conditioned they are once it is taken out.
//!
//! | symbol | identifier |
//! |---|---|
//! | X, Y | `left`, `right` |
//! | columns of C | `columns`, each padded to whole vectors |
//!
//! Sources: Z. Drmač, “Accurate computation of the product-induced singular value decomposition with
//! applications”, SIAM J. Numer. Anal. 35 (1998); J. Demmel and K. Veselić, “Jacobi's method is more
//! accurate than QR”, SIAM J. Matrix Anal. Appl. 13 (1992).

use ndarray::{Array2, ArrayView2};
use pulp::{Arch, Simd, WithSimd};

use super::singular_values;
use crate::Error;

/// Up to this size rotations are used: their work grows with a larger constant than a reduction's.
const JACOBI: usize = 32;

/// Five or six sweeps are usual.
const SWEEPS: usize = 40;

/// Columns are padded to a multiple of so many numbers.
const LANES: usize = 8;

/// The singular values of `left` · `right`ᵀ, descending, as many as the smaller of the two numbers of
/// rows.
///
/// # Errors
/// [`Error::NonFinite`] if an entry of the product is not finite, [`Error::NoConvergence`].
pub(crate) fn core_singular_values(
    left: ArrayView2<'_, f64>,
    right: ArrayView2<'_, f64>,
) -> Result<Vec<f64>, Error> {
    let size = left.nrows().min(right.nrows());
    // The shorter side gives the columns: as many as there are singular values.
    let (left, right) = if right.nrows() > left.nrows() {
        (right, left)
    } else {
        (left, right)
    };
    if left.ncols() <= JACOBI
        && let Some(values) = by_rotations(left, right)
    {
        return Ok(values.into_iter().take(size).collect());
    }
    singular_values(left.dot(&right.t()).view())
}

/// `None` if something overflows or the sweeps do not end.
fn by_rotations(left: ArrayView2<'_, f64>, right: ArrayView2<'_, f64>) -> Option<Vec<f64>> {
    let (rows, inner, count) = (left.nrows(), left.ncols(), right.nrows());
    if count == 0 {
        return Some(Vec::new());
    }
    let mut x = left.to_owned();
    let mut y = right.to_owned();
    for k in 0..inner {
        let norm = x
            .column(k)
            .fold(0.0_f64, |sum, v| v.mul_add(*v, sum))
            .sqrt();
        if norm == 0.0 {
            y.column_mut(k).fill(0.0);
            continue;
        }
        x.column_mut(k).mapv_inplace(|v| v / norm);
        y.column_mut(k).mapv_inplace(|v| v * norm);
    }
    let largest = y.iter().fold(0.0_f64, |largest, v| largest.max(v.abs()));
    if largest == 0.0 {
        return Some(vec![0.0; count]);
    }
    if !largest.is_finite() || !(1e-280..1e280).contains(&largest) {
        return None;
    }
    let scale = 2_f64.powi(largest.log2().floor() as i32);
    y.mapv_inplace(|v| v / scale);
    let order = pivoted_triangle(&mut y);
    // C = X₁ P Rᵀ, R being count × inner (upper trapezoidal).
    let height = rows.next_multiple_of(LANES);
    let width = count.min(inner);
    let mut columns = vec![0.0; height * width];
    for (j, column) in columns.chunks_exact_mut(height).enumerate() {
        for (k, &from) in order.iter().enumerate().skip(j) {
            let r = y[(j, k)];
            for (to, &x) in column.iter_mut().zip(x.column(from)) {
                *to += r * x;
            }
        }
    }
    let mut values = Arch::new().dispatch(Rotations {
        columns: &mut columns,
        height,
    })?;
    for value in &mut values {
        *value *= scale;
    }
    values.sort_by(|x, y| y.total_cmp(x));
    values.resize(count, 0.0);
    Some(values)
}

/// Overwrites the upper trapezoid with R of a QR decomposition whose pivots are the columns of
/// largest remaining norm; returns the columns' order.
fn pivoted_triangle(a: &mut Array2<f64>) -> Vec<usize> {
    let (m, n) = a.dim();
    let mut order: Vec<usize> = (0..n).collect();
    for j in 0..m.min(n) {
        let below = |a: &Array2<f64>, k: usize, from: usize| -> f64 {
            (from..m).map(|i| a[(i, k)] * a[(i, k)]).sum()
        };
        let norms: Vec<f64> = (j..n).map(|k| below(a, k, j)).collect();
        let mut pivot = 0;
        for (k, norm) in norms.iter().enumerate() {
            if *norm > norms[pivot] {
                pivot = k;
            }
        }
        let pivot = j + pivot;
        if pivot != j {
            order.swap(pivot, j);
            for i in 0..m {
                a.swap((i, j), (i, pivot));
            }
        }
        let square = below(a, j, j + 1);
        if square == 0.0 {
            continue;
        }
        let alpha = a[(j, j)];
        let norm = (alpha * alpha + square).sqrt();
        let beta = if alpha > 0.0 { -norm } else { norm };
        let head = alpha - beta;
        let factor = 1.0 / (norm * (norm + alpha.abs()));
        for k in j + 1..n {
            let mut w = head * a[(j, k)];
            for i in j + 1..m {
                w += a[(i, j)] * a[(i, k)];
            }
            w *= factor;
            a[(j, k)] -= w * head;
            for i in j + 1..m {
                let v = a[(i, j)];
                a[(i, k)] -= w * v;
            }
        }
        a[(j, j)] = beta;
    }
    order
}

/// Sweeps of rotations over all pairs of columns until every pair is orthogonal; gives the norms.
struct Rotations<'a> {
    columns: &'a mut [f64],
    height: usize,
}

impl WithSimd for Rotations<'_> {
    type Output = Option<Vec<f64>>;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Self::Output {
        let Self { columns, height } = self;
        let n = columns.len() / height;
        let tolerance = f64::EPSILON * (height as f64).sqrt();
        for _ in 0..SWEEPS {
            let mut is_done = true;
            for p in 0..n {
                let (before, after) = columns.split_at_mut((p + 1) * height);
                let x = &mut before[p * height..];
                let mut alpha = dot(simd, x, x);
                for y in after.chunks_exact_mut(height) {
                    let (beta, gamma) = (dot(simd, y, y), dot(simd, x, y));
                    if gamma.is_nan() {
                        return None;
                    }
                    // Columns that vanish have no direction.
                    if gamma.abs() <= tolerance * alpha.sqrt() * beta.sqrt() {
                        continue;
                    }
                    is_done = false;
                    let zeta = (beta - alpha) / (2.0 * gamma);
                    let t = zeta.signum() / (zeta.abs() + (1.0 + zeta * zeta).sqrt());
                    let c = 1.0 / (1.0 + t * t).sqrt();
                    rotate(simd, x, y, c, c * t);
                    alpha -= t * gamma;
                    // The update cancels where x is nearly inside y.
                    if alpha < 0.1 * t.abs() * gamma.abs() {
                        alpha = dot(simd, x, x);
                    }
                }
            }
            if is_done {
                let norm = |column: &[f64]| dot(simd, column, column).sqrt();
                return Some(columns.chunks_exact(height).map(norm).collect());
            }
        }
        None
    }
}

#[inline(always)]
fn dot<S: Simd>(simd: S, x: &[f64], y: &[f64]) -> f64 {
    let mut sum = simd.splat_f64s(0.0);
    for (&x, &y) in S::as_simd_f64s(x).0.iter().zip(S::as_simd_f64s(y).0) {
        sum = simd.mul_add_f64s(x, y, sum);
    }
    simd.reduce_sum_f64s(sum)
}

/// x ← c x − s y, y ← s x + c y.
#[inline(always)]
fn rotate<S: Simd>(simd: S, x: &mut [f64], y: &mut [f64], c: f64, s: f64) {
    let (c, s) = (simd.splat_f64s(c), simd.splat_f64s(s));
    let (x, y) = (S::as_mut_simd_f64s(x).0, S::as_mut_simd_f64s(y).0);
    for (x, y) in x.iter_mut().zip(y) {
        let (a, b) = (*x, *y);
        *x = simd.negate_mul_add_f64s(s, b, simd.mul_f64s(c, a));
        *y = simd.mul_add_f64s(s, a, simd.mul_f64s(c, b));
    }
}
