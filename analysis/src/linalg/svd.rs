//! Singular values and singular value decompositions of dense matrices.

use faer::diag::Diag;
use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::svd::{self as faer_svd, ComputeSvdVectors, SvdError, bidiag};
use faer::{Mat, Par, Spec};
use ndarray::{Array2, ArrayView2};
use serde::Serialize;

use super::band::{through_a_band, upper_triangle};
use super::dqds::bidiagonal_singular_values;
use super::real::Real;
use super::{check_finite, normalized, rescaled, to_ndarray};
use crate::Error;

/// With so many times more rows than columns a QR decomposition first is less work in all.
const TALL: f64 = 1.6;

/// From this size on the reduction in two stages is faster.
pub(crate) const TWO_STAGE: usize = 384;

/// The precision that most of a decomposition's operations are done in.
///
/// In single precision the largest difference to float64 over random, graded, clustered,
/// rank-deficient and structured matrices, 384 to 2,048 wide, is 5.1 √max(m, n) ε‖A‖_F, of a
/// matrix of ones: sums of equal terms are rounded the same way every time. Without those it is
/// below 0.15 of these units, and below 0.03 of random matrices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Arithmetic {
    /// float32 for the reduction of a large matrix to a band, float64 for the rest.
    #[serde(rename = "f32")]
    Single,
    /// float64.
    #[serde(rename = "f64")]
    Double,
}

impl Arithmetic {
    /// How far the singular values of an m × n matrix may be from their true values:
    /// 8√max(m, n) ε‖A‖_F in single precision, with ‖A‖_F = √Σσ², and max(m, n) ε σ₁ in double.
    pub fn error(self, shape: (usize, usize), sigma: &[f64]) -> f64 {
        match self {
            Self::Single => single_error(shape, frobenius_norm(sigma)),
            Self::Double => {
                shape.0.max(shape.1) as f64 * f64::EPSILON * sigma.first().unwrap_or(&0.0)
            }
        }
    }
}

/// [`Arithmetic::error`] of single precision for a matrix with this Frobenius norm.
pub(crate) fn single_error((m, n): (usize, usize), frobenius: f64) -> f64 {
    8.0 * (m.max(n) as f64).sqrt() * f64::from(f32::EPSILON) * frobenius
}

/// The root of the sum of squares, whatever their size.
pub(crate) fn frobenius_norm<'a>(
    values: impl IntoIterator<Item = &'a f64, IntoIter: Clone>,
) -> f64 {
    let values = values.into_iter();
    let largest = values.clone().fold(0.0_f64, |most, x| most.max(x.abs()));
    if largest == 0.0 {
        return 0.0;
    }
    let sum: f64 = values.map(|x| (x / largest).powi(2)).sum();
    largest * sum.sqrt()
}

/// A thin singular value decomposition of an m × n matrix, with k = min(m, n).
#[derive(Debug, Clone, PartialEq)]
pub struct Svd {
    /// m × k, orthonormal columns.
    pub u: Array2<f64>,
    /// The k singular values, descending.
    pub s: Vec<f64>,
    /// k × n, orthonormal rows.
    pub vt: Array2<f64>,
}

/// The min(m, n) singular values of an m × n matrix, descending.
///
/// # Errors
/// [`Error::NonFinite`] if an entry is NaN or infinite, [`Error::NoConvergence`] if the iteration
/// does not end.
pub fn singular_values(a: ArrayView2<'_, f64>) -> Result<Vec<f64>, Error> {
    singular_values_in(a, Arithmetic::Double)
}

/// The same in one or the other precision; matrices with fewer than 384 rows or columns always in
/// double.
///
/// ```
/// use ndarray::Array2;
/// use rankwise_analysis::linalg::{Arithmetic, singular_values_in};
///
/// // All ones: √(400 · 500) and zeros.
/// let ones = Array2::ones((400, 500));
/// let s = singular_values_in(ones.view(), Arithmetic::Single)?;
/// let error = Arithmetic::Single.error((400, 500), &s);
/// assert!((s[0] - 200_000_f64.sqrt()).abs() <= error && s[1] <= error);
/// # Ok::<(), rankwise_analysis::Error>(())
/// ```
///
/// # Errors
/// As [`singular_values`].
pub fn singular_values_in(
    a: ArrayView2<'_, f64>,
    arithmetic: Arithmetic,
) -> Result<Vec<f64>, Error> {
    let (m, n) = a.dim();
    // The transpose has the same; of a square matrix what lies in columns is copied faster.
    let tall = if m < n || m == n && a.is_standard_layout() {
        a.t()
    } else {
        a
    };
    // In the order of the matrix as it was given.
    let named = |error| check_finite("matrix", a).err().unwrap_or(error);
    let ((diagonal, above), exponent) = match arithmetic {
        Arithmetic::Single if m.min(n) >= TWO_STAGE => {
            let (scaled, exponent) = normalized::<f32>(tall).map_err(named)?;
            (through_a_band(short(scaled)), exponent)
        }
        _ => {
            let (scaled, exponent) = normalized::<f64>(tall).map_err(named)?;
            (bidiagonal(short(scaled)), exponent)
        }
    };
    let values = bidiagonal_singular_values(&diagonal, &above).ok_or(Error::NoConvergence {
        rows: m,
        columns: n,
    })?;
    Ok(rescaled(values, exponent))
}

/// The triangle of a matrix that has many more rows than columns, else itself.
fn short<T: Real>(a: Mat<T>) -> Mat<T> {
    if a.nrows() as f64 > TALL * a.ncols() as f64 {
        upper_triangle(a)
    } else {
        a
    }
}

/// The two diagonals of an upper bidiagonal matrix with the singular values of an m × n matrix,
/// m ≥ n.
fn bidiagonal(mut a: Mat<f64>) -> (Vec<f64>, Vec<f64>) {
    let (m, n) = a.shape();
    if n == 0 {
        return (Vec::new(), Vec::new());
    }
    if n >= TWO_STAGE {
        return through_a_band(a);
    }
    // Blocks of one: the reflections are not needed again.
    let (mut left, mut right) = (Mat::zeros(1, n), Mat::zeros(1, n - 1));
    let params = Spec::default();
    let scratch = bidiag::bidiag_in_place_scratch::<f64>(m, n, Par::Seq, params);
    bidiag::bidiag_in_place(
        a.as_mut(),
        left.as_mut(),
        right.as_mut(),
        Par::Seq,
        MemStack::new(&mut MemBuffer::new(scratch)),
        params,
    );
    let diagonal = (0..n).map(|i| a[(i, i)]).collect();
    let above = (1..n).map(|i| a[(i - 1, i)]).collect();
    (diagonal, above)
}

/// The thin singular value decomposition.
///
/// # Errors
/// As [`singular_values`].
pub fn svd(a: ArrayView2<'_, f64>) -> Result<Svd, Error> {
    let (scaled, exponent) = normalized(a)?;
    let size = (a.nrows(), a.ncols());
    let k = size.0.min(size.1);
    let mut s = Diag::zeros(k);
    let mut u = Mat::zeros(size.0, k);
    let mut v = Mat::zeros(size.1, k);
    let mut memory = svd_memory(size, ComputeSvdVectors::Thin);
    let stack = MemStack::new(&mut memory);
    let (left, right) = (Some(u.as_mut()), Some(v.as_mut()));
    let params = Spec::default();
    faer_svd::svd(
        scaled.as_ref(),
        s.as_mut(),
        left,
        right,
        Par::Seq,
        stack,
        params,
    )
    .map_err(no_convergence(size))?;
    Ok(Svd {
        u: to_ndarray(u.as_ref()),
        s: rescaled(s.column_vector().iter().copied(), exponent),
        vt: to_ndarray(v.transpose()),
    })
}

fn svd_memory((m, n): (usize, usize), vectors: ComputeSvdVectors) -> MemBuffer {
    let params = Spec::default();
    MemBuffer::new(faer_svd::svd_scratch::<f64>(
        m,
        n,
        vectors,
        vectors,
        Par::Seq,
        params,
    ))
}

fn no_convergence((rows, columns): (usize, usize)) -> impl FnOnce(SvdError) -> Error {
    move |SvdError::NoConvergence| Error::NoConvergence { rows, columns }
}
