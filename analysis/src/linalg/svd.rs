//! Singular values and singular value decompositions of dense matrices.

use faer::diag::Diag;
use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::svd::{self as faer_svd, ComputeSvdVectors, SvdError, bidiag};
use faer::{Mat, Par, Spec};
use ndarray::{Array2, ArrayView2};

use super::band::through_a_band;
use super::dqds::bidiagonal_singular_values;
use super::qr::upper_triangle;
use super::{normalized, rescaled, to_ndarray};
use crate::Error;

/// With so many times more rows than columns a QR decomposition first is less work in all.
const TALL: f64 = 1.6;

/// From this size on the reduction in two stages is faster.
const TWO_STAGE: usize = 384;

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
    let (scaled, exponent) = normalized(a)?;
    let (diagonal, above) = if a.nrows() >= a.ncols() {
        bidiagonal(scaled)
    } else {
        bidiagonal(scaled.transpose().to_owned())
    };
    let values = bidiagonal_singular_values(&diagonal, &above).ok_or(Error::NoConvergence {
        rows: a.nrows(),
        columns: a.ncols(),
    })?;
    Ok(rescaled(values, exponent))
}

/// The two diagonals of an upper bidiagonal matrix with the singular values of an m × n matrix,
/// m ≥ n.
fn bidiagonal(mut a: Mat<f64>) -> (Vec<f64>, Vec<f64>) {
    let (m, n) = a.shape();
    if n == 0 {
        return (Vec::new(), Vec::new());
    }
    if m as f64 > TALL * n as f64 {
        a = upper_triangle(a);
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
