//! Dense decompositions: ndarray in, ndarray out, faer inside.
//!
//! Everything runs on the calling thread, so the bits of a result do not depend on how many threads
//! there are; callers that have many matrices run them side by side.
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

mod lu;

pub use lu::solve;

use faer::diag::Diag;
use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::householder::{
    apply_block_householder_sequence_on_the_left_in_place_scratch,
    apply_block_householder_sequence_on_the_left_in_place_with_conj,
};
use faer::linalg::qr::no_pivoting::factor as qr_factor;
use faer::linalg::svd::{self as faer_svd, ComputeSvdVectors, SvdError};
use faer::{Conj, Mat, MatRef, Par, Spec};
use ndarray::{Array2, ArrayView2};

use crate::Error;

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

/// A thin QR decomposition of an m × n matrix, with k = min(m, n).
#[derive(Debug, Clone, PartialEq)]
pub struct Qr {
    /// m × k, orthonormal columns.
    pub q: Array2<f64>,
    /// k × n, upper triangular; its diagonal may be negative.
    pub r: Array2<f64>,
}

/// The min(m, n) singular values of an m × n matrix, descending.
///
/// # Errors
/// [`Error::NonFinite`] if an entry is NaN or infinite, [`Error::NoConvergence`] if the iteration
/// does not end.
pub fn singular_values(a: ArrayView2<'_, f64>) -> Result<Vec<f64>, Error> {
    let (scaled, exponent) = normalized(a)?;
    let mut s = diagonal(a.nrows().min(a.ncols()));
    let size = (a.nrows(), a.ncols());
    let vectors = ComputeSvdVectors::No;
    let mut memory = svd_memory(size, vectors);
    let stack = MemStack::new(&mut memory);
    let params = Spec::default();
    faer_svd::svd(
        scaled.as_ref(),
        s.as_mut(),
        None,
        None,
        Par::Seq,
        stack,
        params,
    )
    .map_err(no_convergence(size))?;
    Ok(rescaled(&s, exponent))
}

/// The thin singular value decomposition.
///
/// # Errors
/// As [`singular_values`].
pub fn svd(a: ArrayView2<'_, f64>) -> Result<Svd, Error> {
    let (scaled, exponent) = normalized(a)?;
    let size = (a.nrows(), a.ncols());
    let k = size.0.min(size.1);
    let mut s = diagonal(k);
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
        s: rescaled(&s, exponent),
        vt: to_ndarray(v.transpose()),
    })
}

/// The thin QR decomposition by Householder reflections, without pivoting.
///
/// Entries that are not finite give factors that are not finite.
pub fn qr(a: ArrayView2<'_, f64>) -> Qr {
    let (m, n) = a.dim();
    let k = m.min(n);
    if k == 0 {
        return Qr {
            q: Array2::zeros((m, 0)),
            r: Array2::zeros((0, n)),
        };
    }
    let (reflections, coefficients) = householder(a);
    let mut q = Mat::zeros(m, k);
    q.diagonal_mut().fill(1.0);
    let mut memory = MemBuffer::new(
        apply_block_householder_sequence_on_the_left_in_place_scratch::<f64>(
            m,
            coefficients.nrows(),
            k,
        ),
    );
    apply_block_householder_sequence_on_the_left_in_place_with_conj(
        reflections.as_ref().subcols(0, k),
        coefficients.as_ref(),
        Conj::No,
        q.as_mut(),
        Par::Seq,
        MemStack::new(&mut memory),
    );
    Qr {
        q: to_ndarray(q.as_ref()),
        r: upper(reflections.as_ref()),
    }
}

/// R of the thin QR decomposition alone: all that singular values need.
pub(crate) fn triangular_factor<T: Copy + Into<f64>>(a: ArrayView2<'_, T>) -> Array2<f64> {
    if a.is_empty() {
        return Array2::zeros((a.nrows().min(a.ncols()), a.ncols()));
    }
    upper(householder(a).0.as_ref())
}

/// Householder vectors below the diagonal, R on and above it, and the blocks' coefficients.
fn householder<T: Copy + Into<f64>>(a: ArrayView2<'_, T>) -> (Mat<f64>, Mat<f64>) {
    let (m, n) = a.dim();
    let mut factors = to_faer(a);
    let block = qr_factor::recommended_block_size::<f64>(m, n);
    let mut coefficients = Mat::zeros(block, m.min(n));
    let params = Spec::default();
    let mut memory = MemBuffer::new(qr_factor::qr_in_place_scratch::<f64>(
        m,
        n,
        block,
        Par::Seq,
        params,
    ));
    qr_factor::qr_in_place(
        factors.as_mut(),
        coefficients.as_mut(),
        Par::Seq,
        MemStack::new(&mut memory),
        params,
    );
    (factors, coefficients)
}

fn upper(factors: MatRef<'_, f64>) -> Array2<f64> {
    let k = factors.nrows().min(factors.ncols());
    Array2::from_shape_fn((k, factors.ncols()), |(i, j)| {
        if i <= j { factors[(i, j)] } else { 0.0 }
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

fn diagonal(size: usize) -> Diag<f64> {
    Diag::zeros(size)
}

/// The matrix times 2^−e, its largest entry in [1/2, 1), and e: squares neither overflow nor
/// vanish, and not a bit is lost.
fn normalized(a: ArrayView2<'_, f64>) -> Result<(Mat<f64>, i32), Error> {
    check_finite("matrix", a)?;
    let largest = a.iter().fold(0.0_f64, |largest, x| largest.max(x.abs()));
    if largest == 0.0 {
        return Ok((to_faer(a), 0));
    }
    let exponent = largest.log2().floor() as i32 + 1;
    // Two steps: 2^−e itself is out of range where the entries are near the ends of the range.
    let (first, second) = (exponent / 2, exponent - exponent / 2);
    let (first, second) = (2_f64.powi(-first), 2_f64.powi(-second));
    Ok((to_faer(a.mapv(|x| x * first * second).view()), exponent))
}

fn rescaled(s: &Diag<f64>, exponent: i32) -> Vec<f64> {
    let (first, second) = (exponent / 2, exponent - exponent / 2);
    let (first, second) = (2_f64.powi(first), 2_f64.powi(second));
    s.column_vector()
        .iter()
        .map(|&x| x * first * second)
        .collect()
}

pub(crate) fn check_finite<T: Copy + Into<f64>>(
    what: &'static str,
    a: ArrayView2<'_, T>,
) -> Result<(), Error> {
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

fn to_faer<T: Copy + Into<f64>>(a: ArrayView2<'_, T>) -> Mat<f64> {
    let mut out = Mat::zeros(a.nrows(), a.ncols());
    for (column, from) in out.col_iter_mut().zip(a.columns()) {
        for (x, &value) in column.iter_mut().zip(from) {
            *x = value.into();
        }
    }
    out
}

fn to_ndarray(a: MatRef<'_, f64>) -> Array2<f64> {
    Array2::from_shape_fn((a.nrows(), a.ncols()), |(i, j)| a[(i, j)])
}
