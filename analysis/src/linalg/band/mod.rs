//! A large matrix to bidiagonal form in two stages: dense → upper band → bidiagonal.
//!
//! The direct reduction does half of its work in matrix–vector products, which wait for memory. Here
//! the first stage makes blocks of b columns triangular by QR and blocks of b rows by LQ, so that
//! all of its 8n³/3 operations but O(n²b) are matrix products. The second stage takes the band of
//! b superdiagonals to one, in 8n²b operations. All transformations are orthogonal and none is kept:
//! the singular values err by a small multiple of ε σ₁.
//!
//! The first stage, where the time goes, is done in the precision of its numbers; the band and all
//! that follows are double precision.
//!
//! | symbol | identifier |
//! |---|---|
//! | b | `WIDTH` |
//! | dense → band | `dense` |
//! | band → bidiagonal | `chase` |
//!
//! Source: B. Großer and B. Lang, “Efficient parallel reduction to bidiagonal form”, Parallel
//! Computing 25 (1999).

mod chase;
mod dense;

use faer::Mat;

use super::real::Real;
pub(super) use dense::upper_triangle;

/// Superdiagonals of the band: wider makes better products, narrower a cheaper second stage.
const WIDTH: usize = 32;

/// The two diagonals of an upper bidiagonal matrix with the singular values of an m × n matrix,
/// m ≥ n ≥ 1, whose largest entry is near one.
pub(super) fn through_a_band<T: Real>(mut a: Mat<T>) -> (Vec<f64>, Vec<f64>) {
    dense::to_band(&mut a);
    let mut band = chase::Band::new(&a);
    drop(a);
    band.chase();
    band.diagonals()
}
