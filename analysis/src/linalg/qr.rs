//! QR decompositions by Householder reflections.
//!
//! Source: G. H. Golub and C. F. Van Loan, Matrix Computations, 4th ed., section 5.2; the reflections
//! are applied in blocks by faer.

use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::householder::{
    apply_block_householder_sequence_on_the_left_in_place_scratch,
    apply_block_householder_sequence_on_the_left_in_place_with_conj,
};
use faer::linalg::qr::no_pivoting::factor as qr_factor;
use faer::{Conj, Mat, MatRef, Par, Spec};
use ndarray::{Array2, ArrayView2};

use super::{to_faer, to_ndarray};

/// A thin QR decomposition of an m × n matrix, with k = min(m, n).
#[derive(Debug, Clone, PartialEq)]
pub struct Qr {
    /// m × k, orthonormal columns.
    pub q: Array2<f64>,
    /// k × n, upper triangular; its diagonal may be negative.
    pub r: Array2<f64>,
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
    let mut factors = to_faer(a);
    let coefficients = householder_in_place(&mut factors);
    (factors, coefficients)
}

/// R of an m × n matrix with m ≥ n, n × n.
pub(super) fn upper_triangle(mut a: Mat<f64>) -> Mat<f64> {
    householder_in_place(&mut a);
    let n = a.ncols();
    Mat::from_fn(n, n, |i, j| if i <= j { a[(i, j)] } else { 0.0 })
}

fn householder_in_place(factors: &mut Mat<f64>) -> Mat<f64> {
    let (m, n) = factors.shape();
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
    coefficients
}

fn upper(factors: MatRef<'_, f64>) -> Array2<f64> {
    let k = factors.nrows().min(factors.ncols());
    Array2::from_shape_fn((k, factors.ncols()), |(i, j)| {
        if i <= j { factors[(i, j)] } else { 0.0 }
    })
}
