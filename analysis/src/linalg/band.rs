//! A large matrix to bidiagonal form in two stages: dense → upper band → bidiagonal.
//!
//! The direct reduction does half of its work in matrix–vector products, which wait for memory. Here
//! the first stage makes blocks of b columns triangular by QR and blocks of b rows by LQ, so that
//! all of its 8n³/3 operations but O(n²b) are matrix products. The second stage takes the band of
//! b superdiagonals to one: for every row, a reflection from the right clears the row beyond its
//! superdiagonal and fills the triangle below the diagonal of the next block; one from the left
//! clears this triangle's first column and fills above the band; and so on down the band. That is
//! 8n²b operations in a band that fits into a cache. All transformations are orthogonal and none is
//! kept: the singular values err by a small multiple of ε σ₁.
//!
//! The products of the first stage are cut into slabs of a fixed size that run side by side, so the
//! bits do not depend on the number of threads.
//!
//! | symbol | identifier |
//! |---|---|
//! | b | `WIDTH` |
//! | (i, j) of the band | `Band::at(i, j)` |
//! | I − τ v vᵀ | `v`, `tau` |
//!
//! Sources: B. Großer and B. Lang, “Efficient parallel reduction to bidiagonal form”, Parallel
//! Computing 25 (1999); C. Bischof, B. Lang and X. Sun, “A framework for symmetric band reduction”,
//! ACM TOMS 26 (2000), for the chase.

use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::householder::{
    apply_block_householder_transpose_on_the_left_in_place_scratch,
    apply_block_householder_transpose_on_the_left_in_place_with_conj,
};
use faer::linalg::qr::no_pivoting::factor as qr_factor;
use faer::{Conj, Mat, MatMut, Par, Spec};
use pulp::{Arch, Simd, WithSimd};

/// Superdiagonals of the band: wider makes better products, narrower a cheaper second stage.
const WIDTH: usize = 64;

/// Columns, or rows, of a slab: a part of the matrix, so that small ones too are shared by threads, and
/// large ones make large products.
fn slab(columns: usize) -> usize {
    (columns / 16).next_multiple_of(64).clamp(64, 256)
}

/// The two diagonals of an upper bidiagonal matrix with the singular values of an m × n matrix,
/// m ≥ n ≥ 1.
pub(super) fn through_a_band(mut a: Mat<f64>) -> (Vec<f64>, Vec<f64>) {
    to_band(&mut a);
    let mut band = Band::new(&a);
    drop(a);
    Arch::new().dispatch(Chase(&mut band));
    let n = band.size;
    let diagonal = (0..n).map(|i| band.entries[band.at(i, i)]).collect();
    let above = (1..n).map(|i| band.entries[band.at(i - 1, i)]).collect();
    (diagonal, above)
}

/// The first stage: only the band of the result is meant, what is outside is left over.
fn to_band(a: &mut Mat<f64>) {
    let (m, n) = a.shape();
    for k in (0..n).step_by(WIDTH) {
        let next = (k + WIDTH).min(n);
        let mut columns = a.get(k..m, k..next).to_owned();
        let factor = reflections(&mut columns);
        write_upper(a.as_mut().get_mut(k..m, k..next), &columns);
        let slab = slab(n);
        apply(&columns, &factor, slab, a.as_mut().get_mut(k..m, next..n));
        if next == n {
            break;
        }
        // The same from the right, on the transposed matrix.
        let mut rows = a.get(k..next, next..n).transpose().to_owned();
        let factor = reflections(&mut rows);
        let transposed = a.as_mut().get_mut(k..next, next..n).transpose_mut();
        write_upper(transposed, &rows);
        let rest = a.as_mut().get_mut(next..m, next..n).transpose_mut();
        apply(&rows, &factor, slab, rest);
    }
}

/// Householder vectors below the diagonal, R above; returns the triangle of the block reflection.
fn reflections(a: &mut Mat<f64>) -> Mat<f64> {
    let (m, n) = a.shape();
    let size = m.min(n);
    let mut factor = Mat::zeros(size, size);
    let params = Spec::default();
    let scratch = qr_factor::qr_in_place_scratch::<f64>(m, n, size, Par::Seq, params);
    qr_factor::qr_in_place(
        a.as_mut(),
        factor.as_mut(),
        Par::Seq,
        MemStack::new(&mut MemBuffer::new(scratch)),
        params,
    );
    factor
}

fn write_upper(mut to: MatMut<'_, f64>, from: &Mat<f64>) {
    for j in 0..to.ncols() {
        for i in 0..to.nrows().min(j + 1) {
            to[(i, j)] = from[(i, j)];
        }
    }
}

/// Qᵀ M, slab after slab.
fn apply(basis: &Mat<f64>, factor: &Mat<f64>, slab: usize, matrix: MatMut<'_, f64>) {
    let columns = matrix.ncols();
    if columns > slab {
        let half = columns.div_ceil(2 * slab) * slab;
        let (left, right) = matrix.split_at_col_mut(half);
        rayon::join(
            || apply(basis, factor, slab, left),
            || apply(basis, factor, slab, right),
        );
        return;
    }
    if columns == 0 {
        return;
    }
    let size = factor.ncols();
    let scratch = apply_block_householder_transpose_on_the_left_in_place_scratch::<f64>(
        basis.nrows(),
        size,
        columns,
    );
    apply_block_householder_transpose_on_the_left_in_place_with_conj(
        basis.as_ref().subcols(0, size),
        factor.as_ref(),
        Conj::No,
        matrix,
        Par::Seq,
        MemStack::new(&mut MemBuffer::new(scratch)),
    );
}

/// A band with room for what the chase fills in: of column j the rows from j − 2b to j + b. The
/// places of a block's columns are `STEP` apart.
struct Band {
    size: usize,
    entries: Vec<f64>,
}

const STEP: usize = 3 * WIDTH;

impl Band {
    fn new(a: &Mat<f64>) -> Self {
        let size = a.ncols();
        let mut band = Self {
            size,
            entries: vec![0.0; (STEP + 1) * size],
        };
        for j in 0..size {
            for i in j.saturating_sub(WIDTH)..=j {
                let at = band.at(i, j);
                band.entries[at] = a[(i, j)];
            }
        }
        band
    }

    #[inline(always)]
    fn at(&self, i: usize, j: usize) -> usize {
        j * STEP + i + 2 * WIDTH
    }
}

/// The second stage.
struct Chase<'a>(&'a mut Band);

impl WithSimd for Chase<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let band = self.0;
        let n = band.size;
        for sweep in 0..n.saturating_sub(1) {
            let (mut row, mut first) = (sweep, sweep + 1);
            while first < n {
                let end = (first + WIDTH).min(n);
                clear_row(simd, band, row, first, end);
                clear_column(simd, band, first, end, (end + WIDTH).min(n));
                (row, first) = (first, first + WIDTH);
            }
        }
    }
}

/// Clears row `row` in the columns after `first` and before `end`, by a reflection from the right
/// that the rows before `end` take part in.
#[inline(always)]
fn clear_row<S: Simd>(simd: S, band: &mut Band, row: usize, first: usize, end: usize) {
    let mut v = [0.0; WIDTH];
    let v = &mut v[..end - first];
    let at = band.at(row, first);
    for (j, v) in v.iter_mut().enumerate() {
        *v = band.entries[at + j * STEP];
    }
    let Some((head, tau)) = reflection(simd, v) else {
        return;
    };
    band.entries[at] = head;
    for j in 1..v.len() {
        band.entries[at + j * STEP] = 0.0;
    }
    let mut done = 0;
    let rows = end - row - 1;
    let lanes = S::F64_LANES;
    while rows - done >= 4 * lanes {
        rows_times::<S, 4>(simd, &mut band.entries[at + 1 + done..], v, tau);
        done += 4 * lanes;
    }
    while rows - done >= lanes {
        rows_times::<S, 1>(simd, &mut band.entries[at + 1 + done..], v, tau);
        done += lanes;
    }
    for i in done..rows {
        let at = at + 1 + i;
        let mut y = 0.0;
        for (j, &v) in v.iter().enumerate() {
            y += band.entries[at + j * STEP] * v;
        }
        y *= tau;
        for (j, &v) in v.iter().enumerate() {
            band.entries[at + j * STEP] -= y * v;
        }
    }
}

/// N vectors of rows: A ← A − τ (A v) vᵀ.
#[inline(always)]
fn rows_times<S: Simd, const N: usize>(simd: S, from: &mut [f64], v: &[f64], tau: f64) {
    let mut y = [simd.splat_f64s(0.0); N];
    for (j, &v) in v.iter().enumerate() {
        let column = &from[j * STEP..][..N * S::F64_LANES];
        let v = simd.splat_f64s(v);
        for (y, &x) in y.iter_mut().zip(S::as_simd_f64s(column).0) {
            *y = simd.mul_add_f64s(x, v, *y);
        }
    }
    let tau = simd.splat_f64s(-tau);
    for y in &mut y {
        *y = simd.mul_f64s(*y, tau);
    }
    for (j, &v) in v.iter().enumerate() {
        let column = &mut from[j * STEP..][..N * S::F64_LANES];
        let v = simd.splat_f64s(v);
        for (x, &y) in S::as_mut_simd_f64s(column).0.iter_mut().zip(&y) {
            *x = simd.mul_add_f64s(y, v, *x);
        }
    }
}

/// Clears column `first` in the rows after `first` and before `end`, by a reflection from the left
/// that the columns before `last` take part in.
#[inline(always)]
fn clear_column<S: Simd>(simd: S, band: &mut Band, first: usize, end: usize, last: usize) {
    let length = end - first;
    let at = band.at(first, first);
    let mut v = [0.0; WIDTH];
    let v = &mut v[..length];
    v.copy_from_slice(&band.entries[at..at + length]);
    let Some((head, tau)) = reflection(simd, v) else {
        return;
    };
    band.entries[at..at + length].fill(0.0);
    band.entries[at] = head;
    let mut j = 1;
    while j + 4 <= last - first {
        columns_times::<S, 4>(simd, &mut band.entries[at + j * STEP..], v, tau);
        j += 4;
    }
    while j < last - first {
        columns_times::<S, 1>(simd, &mut band.entries[at + j * STEP..], v, tau);
        j += 1;
    }
}

/// N columns: A ← A − τ v (vᵀA).
#[inline(always)]
fn columns_times<S: Simd, const N: usize>(simd: S, from: &mut [f64], v: &[f64], tau: f64) {
    let length = v.len();
    let (vectors, rest) = S::as_simd_f64s(v);
    let lanes = vectors.len() * S::F64_LANES;
    let mut dots = [simd.splat_f64s(0.0); N];
    for (k, dot) in dots.iter_mut().enumerate() {
        let (column, _) = S::as_simd_f64s(&from[k * STEP..][..lanes]);
        for (&x, &v) in column.iter().zip(vectors) {
            *dot = simd.mul_add_f64s(x, v, *dot);
        }
    }
    let mut y = [0.0; N];
    for (y, &dot) in y.iter_mut().zip(&dots) {
        *y = simd.reduce_sum_f64s(dot);
    }
    for (k, y) in y.iter_mut().enumerate() {
        let column = &mut from[k * STEP..][..length];
        for (x, &v) in column[lanes..].iter().zip(rest) {
            *y += x * v;
        }
        *y *= -tau;
        let (column, tail) = column.split_at_mut(lanes);
        let factor = simd.splat_f64s(*y);
        for (x, &v) in S::as_mut_simd_f64s(column).0.iter_mut().zip(vectors) {
            *x = simd.mul_add_f64s(factor, v, *x);
        }
        for (x, &v) in tail.iter_mut().zip(rest) {
            *x += *y * v;
        }
    }
}

/// Makes the v of I − τ v vᵀ, which takes v to (head, 0, …, 0): the head and τ, or `None` if there is
/// nothing to clear.
#[inline(always)]
fn reflection<S: Simd>(simd: S, v: &mut [f64]) -> Option<(f64, f64)> {
    let first = v[0];
    v[0] = 0.0;
    let (vectors, rest) = S::as_simd_f64s(v);
    let mut sum = simd.splat_f64s(0.0);
    for &x in vectors {
        sum = simd.mul_add_f64s(x, x, sum);
    }
    let mut square = simd.reduce_sum_f64s(sum);
    for x in rest {
        square += x * x;
    }
    // The largest entry of the whole matrix is near one: what vanishes here is no digit of it.
    if square < f64::MIN_POSITIVE / f64::EPSILON {
        let is_zero = v.iter().all(|&x| x == 0.0);
        v[0] = first;
        if is_zero {
            return None;
        }
        v[1..].fill(0.0);
        return Some((first, 0.0));
    }
    let norm = (first * first + square).sqrt();
    let head = if first > 0.0 { -norm } else { norm };
    v[0] = first - head;
    Some((head, 1.0 / (norm * (norm + first.abs()))))
}
