//! R of a tall matrix's thin QR decomposition, from rows as they are stored, without the matrix in
//! float64: all that a factor's part in a spectrum needs.
//!
//! Rows come in tiles that fit into the first-level cache, and [R; tile] = Q R′ gives the next R
//! (sequential TSQR): backward stable as a Householder QR of the whole is. With few columns every
//! lane of a vector register runs its own decomposition of every eighth row, so that nothing is
//! summed across lanes until the end, where the lanes' R are stacked and decomposed once more. With
//! many columns faer decomposes larger tiles in blocks.
//!
//! For the column x below the entry α of R, with s = ‖x‖² and ν = √(α² + s), the reflection is
//! H = I − f v vᵀ with v = (α + sign(α) ν, x) and f = 1 / (ν (ν + |α|)), and takes (α, x) to
//! (−sign(α) ν, 0).
//!
//! NaN and infinite entries make R not finite. Squares of entries must be in float64's range:
//! always so for narrower types.
//!
//! | symbol | identifier |
//! |---|---|
//! | R | `triangle`, of column k and row j the vector `k * columns + j` |
//! | α, s, f | `alpha`, `square`, `factor` |
//!
//! Source: J. Demmel, L. Grigori, M. Hoemmen and J. Langou, “Communication-optimal parallel and
//! sequential QR and LU factorizations”, SIAM J. Sci. Comput. 34 (2012).

use faer::Mat;
use ndarray::{Array2, ArrayView2, Axis, Slice};
use pulp::{Arch, Simd, WithSimd};

use super::qr::triangular_factor;

/// Up to so many columns the lanes' triangles stay in a cache.
const LANE_COLUMNS: usize = 32;

/// Numbers of a tile in the first-level cache.
const TILE: usize = 4096;

/// Rows that a faer tile adds, for every column: the old R is then a small part of the work.
const ROWS_PER_COLUMN: usize = 6;

/// Between columns of a tile, so that they do not share the cache's sets.
const PAD: usize = 8;

/// The R of a matrix whose rows are still to come.
#[derive(Debug)]
pub(crate) struct TallQr {
    columns: usize,
    rows: usize,
    /// Rows of a full tile, and those in it now.
    capacity: usize,
    filled: usize,
    /// Column-major, `capacity + PAD` from column to column.
    tile: Vec<f64>,
    triangle: Vec<f64>,
}

impl TallQr {
    /// An R for `rows` rows of `columns` numbers.
    pub fn new(columns: usize, rows: usize) -> Self {
        let capacity = if columns <= LANE_COLUMNS {
            (TILE / columns.max(1)).clamp(64, 512).next_multiple_of(64)
        } else {
            // A wide matrix fills no tile: its R is found at the end, and a file of few numbers may
            // have a single row of very many.
            let full = (ROWS_PER_COLUMN * columns).next_multiple_of(64);
            full.min(rows.saturating_add(1))
        };
        Self {
            columns,
            rows: 0,
            capacity,
            filled: 0,
            tile: vec![0.0; columns * (capacity + PAD)],
            triangle: Vec::new(),
        }
    }

    /// Adds rows that lie one after the other; `value` makes a number of an entry.
    pub fn push_rows<E: Copy>(&mut self, entries: &[E], value: impl Fn(E) -> f64) {
        if self.columns == 0 {
            return;
        }
        debug_assert!(entries.len().is_multiple_of(self.columns));
        let mut rest = entries;
        while !rest.is_empty() {
            let room = (self.capacity - self.filled) * self.columns;
            let (now, later) = rest.split_at(room.min(rest.len()));
            Arch::new().dispatch(FillRows {
                entries: now,
                columns: self.columns,
                tile: &mut self.tile,
                step: self.capacity + PAD,
                at: self.filled,
                value: &value,
            });
            self.advance(now.len() / self.columns);
            rest = later;
        }
    }

    /// Adds rows whose columns lie one after the other, as the rows of a row-major A are the columns
    /// of Aᵀ.
    pub fn push_columns<E: Copy>(&mut self, entries: &[E], value: impl Fn(E) -> f64) {
        if self.columns == 0 {
            return;
        }
        debug_assert!(entries.len().is_multiple_of(self.columns));
        let rows = entries.len() / self.columns;
        let mut done = 0;
        while done < rows {
            let now = (self.capacity - self.filled).min(rows - done);
            Arch::new().dispatch(FillColumns {
                entries,
                rows,
                range: done..done + now,
                tile: &mut self.tile,
                step: self.capacity + PAD,
                at: self.filled,
                value: &value,
            });
            self.advance(now);
            done += now;
        }
    }

    /// Adds the rows of a matrix in any layout.
    pub fn push<T: Copy + Into<f64>>(&mut self, matrix: ArrayView2<'_, T>) {
        if let Some(entries) = matrix.as_slice() {
            self.push_rows(entries, Into::into);
        } else if let Some(entries) = matrix.t().as_slice() {
            self.push_columns(entries, Into::into);
        } else {
            for row in matrix.rows() {
                self.push_rows(&row.to_vec(), Into::into);
            }
        }
    }

    /// R, min(rows, columns) × columns, upper triangular.
    pub fn finish(mut self) -> Array2<f64> {
        let n = self.columns;
        if self.rows <= self.capacity && self.triangle.is_empty() {
            let step = self.capacity + PAD;
            let tile = ArrayView2::from_shape((n, step), &self.tile).expect("columns of a tile");
            return triangular_factor(tile.t().slice_axis(Axis(0), Slice::from(..self.rows)));
        }
        if self.filled > 0 {
            let (filled, step) = (self.filled, self.capacity + PAD);
            for column in self.tile.chunks_exact_mut(step) {
                column[filled..].fill(0.0);
            }
            self.absorb();
        }
        if n > LANE_COLUMNS {
            let r = ArrayView2::from_shape((n, n), &self.triangle).expect("a square");
            return r.t().to_owned();
        }
        let lanes = self.triangle.len() / (n * n);
        let stacked = Array2::from_shape_fn((lanes * n, n), |(i, k)| {
            let (j, lane) = (i / lanes, i % lanes);
            self.triangle[(k * n + j) * lanes + lane]
        });
        triangular_factor(stacked.view())
    }

    fn advance(&mut self, rows: usize) {
        self.rows += rows;
        self.filled += rows;
        if self.filled == self.capacity {
            self.absorb();
        }
    }

    /// Takes the full tile into R.
    fn absorb(&mut self) {
        self.filled = 0;
        let n = self.columns;
        let (rows, step) = (self.capacity, self.capacity + PAD);
        if n <= LANE_COLUMNS {
            Arch::new().dispatch(Lanes {
                columns: n,
                rows,
                step,
                tile: &mut self.tile,
                triangle: &mut self.triangle,
            });
            return;
        }
        let above = if self.triangle.is_empty() { 0 } else { n };
        let mut stacked = Mat::zeros(above + rows, n);
        for (k, to) in stacked.col_iter_mut().enumerate() {
            let r = &self.triangle[above * k..above * (k + 1)];
            let from = r.iter().chain(&self.tile[k * step..][..rows]);
            for (to, &from) in to.iter_mut().zip(from) {
                *to = from;
            }
        }
        let r = super::qr::upper_triangle(stacked);
        self.triangle.clear();
        for column in r.col_iter() {
            self.triangle.extend(column.iter());
        }
    }
}

struct FillRows<'a, E, F> {
    entries: &'a [E],
    columns: usize,
    tile: &'a mut [f64],
    step: usize,
    at: usize,
    value: &'a F,
}

impl<E: Copy, F: Fn(E) -> f64> WithSimd for FillRows<'_, E, F> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        for (i, row) in self.entries.chunks_exact(self.columns).enumerate() {
            for (column, &entry) in self.tile.chunks_exact_mut(self.step).zip(row) {
                column[self.at + i] = (self.value)(entry);
            }
        }
    }
}

struct FillColumns<'a, E, F> {
    entries: &'a [E],
    rows: usize,
    range: std::ops::Range<usize>,
    tile: &'a mut [f64],
    step: usize,
    at: usize,
    value: &'a F,
}

impl<E: Copy, F: Fn(E) -> f64> WithSimd for FillColumns<'_, E, F> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let columns = self.entries.chunks_exact(self.rows);
        for (to, from) in self.tile.chunks_exact_mut(self.step).zip(columns) {
            let from = &from[self.range.clone()];
            for (to, &entry) in to[self.at..].iter_mut().zip(from) {
                *to = (self.value)(entry);
            }
        }
    }
}

/// One tile into every lane's triangle.
struct Lanes<'a> {
    columns: usize,
    rows: usize,
    step: usize,
    tile: &'a mut [f64],
    triangle: &'a mut Vec<f64>,
}

impl WithSimd for Lanes<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self {
            columns: n,
            rows,
            step,
            tile,
            triangle,
        } = self;
        if triangle.is_empty() {
            triangle.resize(n * n * S::F64_LANES, 0.0);
        }
        let (triangle, _) = S::as_mut_simd_f64s(triangle);
        let zero = simd.splat_f64s(0.0);
        for j in 0..n {
            let (before, after) = tile.split_at_mut((j + 1) * step);
            let (x, _) = S::as_simd_f64s(&before[j * step..][..rows]);
            let square = sum_of_squares(simd, x);
            let alpha = triangle[j * n + j];
            let norm = simd.sqrt_f64s(simd.mul_add_f64s(alpha, alpha, square));
            let is_positive = simd.greater_than_f64s(alpha, zero);
            let beta = simd.select_f64s(is_positive, simd.neg_f64s(norm), norm);
            let head = simd.sub_f64s(alpha, beta);
            // ν (ν + |α|) without the sign: both factors of −β (α − β) have it.
            let product = simd.neg_f64s(simd.mul_f64s(beta, head));
            // A lane with nothing below α stays as it is.
            let is_zero = simd.equal_f64s(square, zero);
            let factor = simd.div_f64s(simd.splat_f64s(1.0), product);
            let factor = simd.select_f64s(is_zero, zero, factor);
            triangle[j * n + j] = simd.select_f64s(is_zero, alpha, beta);
            let mut k = j + 1;
            let mut rest = after;
            while k < n {
                let count = if n - k >= 4 { 4 } else { 1 };
                let (now, later) = rest.split_at_mut(count * step);
                if count == 4 {
                    reflect::<S, 4>(
                        simd,
                        x,
                        now,
                        step,
                        (head, factor),
                        &mut triangle[k * n + j..],
                        n,
                    );
                } else {
                    reflect::<S, 1>(
                        simd,
                        x,
                        now,
                        step,
                        (head, factor),
                        &mut triangle[k * n + j..],
                        n,
                    );
                }
                rest = later;
                k += count;
            }
        }
    }
}

#[inline(always)]
fn sum_of_squares<S: Simd>(simd: S, x: &[S::f64s]) -> S::f64s {
    let mut sums = [simd.splat_f64s(0.0); 8];
    let (chunks, rest) = x.as_chunks::<8>();
    for chunk in chunks {
        for (sum, &x) in sums.iter_mut().zip(chunk) {
            *sum = simd.mul_add_f64s(x, x, *sum);
        }
    }
    for (sum, &x) in sums.iter_mut().zip(rest) {
        *sum = simd.mul_add_f64s(x, x, *sum);
    }
    let [a, b, c, d, e, f, g, h] = sums;
    let add = |x, y| simd.add_f64s(x, y);
    add(add(add(a, b), add(c, d)), add(add(e, f), add(g, h)))
}

/// The reflection with x on N columns below their entries of R, which are `stride` apart.
#[inline(always)]
fn reflect<S: Simd, const N: usize>(
    simd: S,
    x: &[S::f64s],
    columns: &mut [f64],
    step: usize,
    (head, factor): (S::f64s, S::f64s),
    triangle: &mut [S::f64s],
    stride: usize,
) {
    let rows = x.len() * S::F64_LANES;
    let zero = simd.splat_f64s(0.0);
    let mut dots = [[zero; 2]; N];
    {
        let mut y: [&[S::f64s]; N] = [&[]; N];
        for (y, column) in y.iter_mut().zip(columns.chunks_exact(step)) {
            *y = S::as_simd_f64s(&column[..rows]).0;
        }
        let (pairs, _) = x.as_chunks::<2>();
        for (i, x) in pairs.iter().enumerate() {
            for (dot, y) in dots.iter_mut().zip(&y) {
                dot[0] = simd.mul_add_f64s(x[0], y[2 * i], dot[0]);
                dot[1] = simd.mul_add_f64s(x[1], y[2 * i + 1], dot[1]);
            }
        }
    }
    let mut factors = [zero; N];
    for (k, (c, dot)) in factors.iter_mut().zip(&dots).enumerate() {
        let r = &mut triangle[k * stride];
        let w = simd.mul_add_f64s(head, *r, simd.add_f64s(dot[0], dot[1]));
        *c = simd.neg_f64s(simd.mul_f64s(w, factor));
        *r = simd.mul_add_f64s(*c, head, *r);
    }
    for (column, &c) in columns.chunks_exact_mut(step).zip(&factors) {
        let (y, _) = S::as_mut_simd_f64s(&mut column[..rows]);
        for (y, &x) in y.iter_mut().zip(x) {
            *y = simd.mul_add_f64s(c, x, *y);
        }
    }
}
