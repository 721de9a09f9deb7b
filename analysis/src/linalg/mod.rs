//! Dense decompositions: ndarray in, ndarray out, faer inside.
//!
//! Large matrices are cut into pieces of a fixed size that may run side by side, and everything else
//! runs on the calling thread: the bits of a result do not depend on how many threads there are.
//!
//! | symbol | identifier | meaning |
//! |---|---|---|
//! | σ | `s`, `singular_values` | singular values, descending |
//! | U, Vᵀ | `u`, `vt` | orthonormal columns, orthonormal rows: M = U diag(σ) Vᵀ |
//! | Q, R | `q`, `r` | orthonormal columns, upper triangular: M = QR |
//! | κ₁ | `condition` | ‖M‖₁‖M⁻¹‖₁, estimated from the triangular factors |
//!
//! ```
//! use ndarray::array;
//! use rankwise_analysis::linalg::singular_values;
//!
//! let s = singular_values(array![[3.0, 0.0], [4.0, 5.0]].view())?;
//! assert!((s[0] - 45_f64.sqrt()).abs() < 1e-14);
//! assert!((s[1] - 5_f64.sqrt()).abs() < 1e-14);
//! # Ok::<(), rankwise_analysis::Error>(())
//! ```

mod band;
mod core;
mod dqds;
mod lu;
mod qr;
mod real;
mod reflections;
mod svd;
mod tall;
mod top;

pub(crate) use core::core_singular_values;
pub use lu::solve;
pub(crate) use qr::triangular_factor;
pub use qr::{Qr, qr};
pub use svd::{Arithmetic, Svd, singular_values, singular_values_in, svd};
pub(crate) use svd::{TWO_STAGE, frobenius_norm, single_error};
pub(crate) use tall::TallQr;
pub use top::{Top, TopOptions, top_singular_values};

use faer::{Mat, MatRef};
use ndarray::{Array2, ArrayView2, Axis, Slice};

use crate::Error;
use real::Real;

/// The matrix times 2^−e, its largest entry in [1/2, 1), and e: squares neither overflow nor
/// vanish, and not a bit is lost but those that the type does not have.
pub(crate) fn normalized<T: Real>(a: ArrayView2<'_, f64>) -> Result<(Mat<T>, i32), Error> {
    // Without their sign, the bits of numbers are in the order of the numbers, infinities and NaN last.
    let bits = a.iter().map(|x| x.abs().to_bits()).max().unwrap_or(0);
    let largest = f64::from_bits(bits);
    if !largest.is_finite() {
        check_finite("matrix", a)?;
    }
    if largest == 0.0 {
        return Ok((Mat::zeros(a.nrows(), a.ncols()), 0));
    }
    let exponent = largest.log2().floor() as i32 + 1;
    // Two steps: 2^−e itself is out of range where the entries are near the ends of the range.
    let (first, second) = (exponent / 2, exponent - exponent / 2);
    let (first, second) = (2_f64.powi(-first), 2_f64.powi(-second));
    Ok((copied(a, |x| T::rounded(x * first * second)), exponent))
}

pub(crate) fn rescaled(values: impl IntoIterator<Item = f64>, exponent: i32) -> Vec<f64> {
    let (first, second) = (exponent / 2, exponent - exponent / 2);
    let (first, second) = (2_f64.powi(first), 2_f64.powi(second));
    let scale = |x| x * first * second;
    values.into_iter().map(scale).collect()
}

pub(crate) fn check_finite<T: Copy + Into<f64>>(
    what: &'static str,
    a: ArrayView2<'_, T>,
) -> Result<(), Error> {
    // Nearly always all are, and to find that out needs no places.
    if a.iter().all(|&value| value.into().is_finite()) {
        return Ok(());
    }
    for ((row, column), &value) in a.indexed_iter() {
        let value = value.into();
        if !value.is_finite() {
            return Err(Error::NonFinite {
                what,
                row,
                column,
                value,
            });
        }
    }
    Ok(())
}

/// Columns that are copied side by side: a row's neighbours are then used while they are in the cache.
const STRIP: usize = 16;

fn to_faer<T: Copy + Into<f64>>(a: ArrayView2<'_, T>) -> Mat<f64> {
    copied(a, Into::into)
}

fn copied<T: Copy, U: Real>(a: ArrayView2<'_, T>, value: impl Fn(T) -> U) -> Mat<U> {
    let (m, n) = a.dim();
    let mut out = Mat::zeros(m, n);
    if a.t().is_standard_layout() {
        for (to, from) in out.as_mut().col_iter_mut().zip(a.columns()) {
            for (to, &from) in to.iter_mut().zip(from) {
                *to = value(from);
            }
        }
        return out;
    }
    let mut first = 0;
    while first < n {
        let width = STRIP.min(n - first);
        let strip = a.slice_axis(Axis(1), Slice::from(first..first + width));
        let mut columns = out.as_mut().subcols_mut(first, width);
        for (i, row) in strip.rows().into_iter().enumerate() {
            for (j, &entry) in row.iter().enumerate() {
                columns[(i, j)] = value(entry);
            }
        }
        first += width;
    }
    out
}

pub(crate) fn to_ndarray(a: MatRef<'_, f64>) -> Array2<f64> {
    Array2::from_shape_fn((a.nrows(), a.ncols()), |(i, j)| a[(i, j)])
}
