//! The first stage: a dense matrix to an upper band, and a tall one to its triangle.
//!
//! A block of columns gives Q₁ = I − V₁T₁V₁ᵀ and W = T₁ᵀV₁ᵀA; the rows that it leaves finished give
//! Q₂ = I − V₂T₂V₂ᵀ; with X = (A − V₁W)V₂T₂ both are applied to the rest in one product,
//!
//! Q₁ᵀ A Q₂ = A − (V₁ X) (W; V₂ᵀ),
//!
//! so that the matrix is read three times and written once for every block of columns and rows.
//!
//! Products are cut into slabs of a fixed size that run side by side, so the bits do not depend on the
//! number of threads.
//!
//! | symbol | identifier |
//! |---|---|
//! | Q₁, Q₂ | `left`, `right` |
//! | W | `images` |
//! | X | `preimages` |
//! | (V₁ X), (W; V₂ᵀ) | `tall`, `wide` |

use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, MatMut, MatRef, Par};

use super::WIDTH;
use crate::linalg::real::Real;
use crate::linalg::reflections::{Reflections, multiply};

/// Columns that are reflected together where only a triangle is wanted.
const PANEL: usize = 64;

/// Columns, or rows, of a slab: a part of the matrix, so that small ones too are shared by threads, and
/// large ones make large products.
fn slab(size: usize) -> usize {
    (size / 16).next_multiple_of(64).clamp(64, 256)
}

/// R of a QR decomposition of an m × n matrix, m ≥ n; n × n.
pub(in crate::linalg) fn upper_triangle<T: Real>(mut a: Mat<T>) -> Mat<T> {
    let (m, n) = a.shape();
    let slab = slab(n);
    for k in (0..n).step_by(PANEL) {
        let next = (k + PANEL).min(n);
        let block = Reflections::new(a.as_ref().get(k..m, k..next));
        a.as_mut().get_mut(k..next, k..next).copy_from(&block.r);
        let mut wide = Mat::zeros(next - k, n - next);
        let rest = a.as_ref().get(k..m, next..n);
        images(wide.as_mut(), &block, rest, slab);
        let rest = a.as_mut().get_mut(k..m, next..n);
        subtract_product(rest, block.v.as_ref(), wide.as_ref(), slab);
    }
    let zero = T::rounded(0.0);
    Mat::from_fn(n, n, |i, j| if i <= j { a[(i, j)] } else { zero })
}

/// Only the band of the result is meant, what is outside is left over.
pub(super) fn to_band<T: Real>(a: &mut Mat<T>) {
    let (m, n) = a.shape();
    let slab = slab(n);
    for k in (0..n).step_by(WIDTH) {
        let next = (k + WIDTH).min(n);
        let width = next - k;
        let left = Reflections::new(a.as_ref().get(k..m, k..next));
        a.as_mut().get_mut(k..next, k..next).copy_from(&left.r);
        if next == n {
            break;
        }
        let count = width.min(n - next);
        let mut wide = Mat::<T>::zeros(width + count, n - next);
        let rest = a.as_ref().get(k..m, next..n);
        images(wide.subrows_mut(0, width), &left, rest, slab);
        // The rows beside the block are finished from the left: the same for them from the right.
        let mut rows = a.as_ref().get(k..next, next..n).to_owned();
        let (beside, below) = left.v.as_ref().split_at_row(width);
        subtract_product(rows.as_mut(), beside, wide.subrows(0, width), slab);
        let right = Reflections::new(rows.transpose());
        let finished = a.as_mut().get_mut(k..next, next..next + count);
        finished
            .transpose_mut()
            .copy_from(right.r.subcols(0, width));
        wide.subrows_mut(width, count)
            .copy_from(right.v.transpose());
        let mut core = Mat::zeros(width, count);
        multiply(core.as_mut(), wide.subrows(0, width), right.v.as_ref());
        let mut tall = Mat::<T>::zeros(m - next, width + count);
        tall.subcols_mut(0, width).copy_from(below);
        let rest = a.as_ref().get(next..m, next..n);
        let x = tall.subcols_mut(width, count);
        preimages(x, (below, core.as_ref()), &right, rest, slab);
        let rest = a.as_mut().get_mut(next..m, next..n);
        subtract_product(rest, tall.as_ref(), wide.as_ref(), slab);
    }
}

/// W = TᵀVᵀA, slab after slab of columns.
fn images<T: Real>(w: MatMut<'_, T>, left: &Reflections<T>, a: MatRef<'_, T>, slab: usize) {
    let columns = a.ncols();
    if columns > slab {
        let half = columns.div_ceil(2 * slab) * slab;
        let ((w, other_w), (a, other_a)) = (w.split_at_col_mut(half), a.split_at_col(half));
        rayon::join(
            || images(w, left, a, slab),
            || images(other_w, left, other_a, slab),
        );
        return;
    }
    let mut inner = Mat::zeros(left.v.ncols(), columns);
    multiply(inner.as_mut(), left.v.transpose(), a);
    multiply(w, left.t.transpose(), inner.as_ref());
}

/// X = (A V − V₁ core) T, slab after slab of rows.
fn preimages<T: Real>(
    x: MatMut<'_, T>,
    (v, core): (MatRef<'_, T>, MatRef<'_, T>),
    right: &Reflections<T>,
    a: MatRef<'_, T>,
    slab: usize,
) {
    let rows = a.nrows();
    if rows > slab {
        let half = rows.div_ceil(2 * slab) * slab;
        let ((x, other_x), (a, other_a)) = (x.split_at_row_mut(half), a.split_at_row(half));
        let (v, other_v) = v.split_at_row(half);
        rayon::join(
            || preimages(x, (v, core), right, a, slab),
            || preimages(other_x, (other_v, core), right, other_a, slab),
        );
        return;
    }
    let mut inner = Mat::zeros(rows, right.v.ncols());
    multiply(inner.as_mut(), a, right.v.as_ref());
    subtract_product(inner.as_mut(), v, core, core.ncols());
    multiply(x, inner.as_ref(), right.t.as_ref());
}

/// A ← A − X Y, slab after slab of columns.
fn subtract_product<T: Real>(a: MatMut<'_, T>, x: MatRef<'_, T>, y: MatRef<'_, T>, slab: usize) {
    let columns = a.ncols();
    if columns > slab {
        let half = columns.div_ceil(2 * slab) * slab;
        let ((a, other_a), (y, other_y)) = (a.split_at_col_mut(half), y.split_at_col(half));
        rayon::join(
            || subtract_product(a, x, y, slab),
            || subtract_product(other_a, x, other_y, slab),
        );
        return;
    }
    matmul(a, Accum::Add, x, y, T::rounded(-1.0), Par::Seq);
}
