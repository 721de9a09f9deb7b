//! The second stage: a band to two diagonals.
//!
//! For every row, a reflection from the right clears the row beyond its superdiagonal and fills the
//! triangle below the diagonal of the next block; one from the left clears this triangle's first
//! column and fills above the band; and so on down the band: a sweep of hops.
//!
//! A hop of sweep s touches 2b columns. It must come after the hop of sweep s − 1 that is two further
//! on, and after nothing else that is not further back in its own sweep. So sweeps go in groups of g,
//! sweep i of a group taking hop t − 2i at time t; and a group can be at work while the one before
//! it is 2g hops ahead, on other columns. Groups that are far enough apart run side by side, on
//! slices of the band that do not overlap; every number is made from the same numbers whatever the
//! order.
//!
//! | symbol | identifier |
//! |---|---|
//! | b | `WIDTH` |
//! | (i, j) of the band | `Part::at(i, j)` |
//! | I − τ v vᵀ | `v`, `tau` |
//! | g | `GROUP` |
//!
//! Source: C. Bischof, B. Lang and X. Sun, “A framework for symmetric band reduction”, ACM TOMS 26
//! (2000).

use faer::Mat;
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::WIDTH;
use crate::linalg::real::Real;

/// Places of a column: the rows from j − 2b to j + b of column j, and as many more as the vectors of
/// a hop's last rows may reach beyond it. They stay zero.
const PLACES: usize = 3 * WIDTH + 33;

/// From a place to that of the same row in the next column.
const STEP: usize = PLACES - 1;

/// Sweeps that go together.
const GROUP: usize = 8;

/// Hops of a group before the groups meet.
const HOPS: usize = 2 * GROUP;

/// A band with room for what the chase fills in.
pub(super) struct Band {
    size: usize,
    entries: Vec<f64>,
}

impl Band {
    /// The band of the upper n rows.
    pub fn new<T: Real>(a: &Mat<T>) -> Self {
        let size = a.ncols();
        let mut entries = vec![0.0; PLACES * size];
        for (j, column) in entries.chunks_exact_mut(PLACES).enumerate() {
            for i in j.saturating_sub(WIDTH)..=j {
                column[i + 2 * WIDTH - j] = a[(i, j)].into();
            }
        }
        Self { size, entries }
    }

    /// The diagonal and the one above it.
    pub fn diagonals(&self) -> (Vec<f64>, Vec<f64>) {
        let columns = || self.entries.chunks_exact(PLACES);
        let diagonal = columns().map(|column| column[2 * WIDTH]).collect();
        let above = columns().skip(1).map(|column| column[2 * WIDTH - 1]);
        (diagonal, above.collect())
    }

    /// Clears all other superdiagonals.
    pub fn chase(&mut self) {
        let n = self.size;
        let groups = n.saturating_sub(1).div_ceil(GROUP);
        // Group k is 2k rounds late: the hops that it must wait for are then done, and its columns
        // end before those of the group before it begin.
        let (mut first, mut round) = (0, 0);
        while first < groups {
            let mut parts = Vec::new();
            let mut rest = &mut self.entries[..];
            let mut taken = 0;
            // From the last group to start, which is furthest back, to the first.
            let last = groups.min(round / 2 + 1);
            for group in (first..last).rev() {
                let start = group * GROUP;
                let times = (round - 2 * group) * HOPS;
                let end = (start + 1 + (times + HOPS + 1) * WIDTH).min(n);
                let begin = (start + 1 + (times + 2).saturating_sub(2 * GROUP) * WIDTH).min(n);
                if begin < n {
                    let (part, after) =
                        rest[(begin - taken) * PLACES..].split_at_mut((end - begin) * PLACES);
                    (rest, taken) = (after, end);
                    parts.push(Part {
                        entries: part,
                        begin,
                        size: n,
                        start,
                        times,
                    });
                } else if group == first {
                    first += 1;
                }
            }
            parts
                .into_par_iter()
                .with_max_len(1)
                .for_each(|part| Arch::new().dispatch(part));
            round += 1;
        }
    }
}

/// What a group of sweeps does in one round, and the columns that it needs for that.
struct Part<'a> {
    entries: &'a mut [f64],
    /// The first of the columns.
    begin: usize,
    /// Columns of the whole band.
    size: usize,
    /// The first sweep.
    start: usize,
    /// The first time.
    times: usize,
}

impl Part<'_> {
    #[inline(always)]
    fn at(&self, i: usize, j: usize) -> usize {
        (j - self.begin) * PLACES + i + 2 * WIDTH - j
    }
}

impl WithSimd for Part<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let n = self.size;
        for time in self.times..self.times + HOPS {
            for i in 0..GROUP.min(time / 2 + 1) {
                let sweep = self.start + i;
                let first = sweep + 1 + (time - 2 * i) * WIDTH;
                if first >= n {
                    continue;
                }
                let row = first.saturating_sub(WIDTH).max(sweep);
                let end = (first + WIDTH).min(n);
                clear_row(simd, &mut self, row, first, end);
                clear_column(simd, &mut self, first, end, (end + WIDTH).min(n));
            }
        }
    }
}

/// Clears row `row` in the columns after `first` and before `end`, by a reflection from the right
/// that the rows before `end` take part in.
#[inline(always)]
fn clear_row<S: Simd>(simd: S, part: &mut Part<'_>, row: usize, first: usize, end: usize) {
    let mut v = [0.0; WIDTH];
    let v = &mut v[..end - first];
    let at = part.at(row, first);
    for (j, v) in v.iter_mut().enumerate() {
        *v = part.entries[at + j * STEP];
    }
    let Some((head, tau)) = reflection(simd, v) else {
        return;
    };
    part.entries[at] = head;
    for j in 1..v.len() {
        part.entries[at + j * STEP] = 0.0;
    }
    // In whole vectors: the places after the last row are zero, and stay so.
    let mut done = 0;
    let rows = end - row - 1;
    let lanes = S::F64_LANES;
    while rows > done + lanes {
        rows_times::<S, 4>(simd, &mut part.entries[at + 1 + done..], v, tau);
        done += 4 * lanes;
    }
    if rows > done {
        rows_times::<S, 1>(simd, &mut part.entries[at + 1 + done..], v, tau);
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
fn clear_column<S: Simd>(simd: S, part: &mut Part<'_>, first: usize, end: usize, last: usize) {
    let length = end - first;
    let at = part.at(first, first);
    let mut v = [0.0; WIDTH];
    let v = &mut v[..length];
    v.copy_from_slice(&part.entries[at..at + length]);
    let Some((head, tau)) = reflection(simd, v) else {
        return;
    };
    part.entries[at..at + length].fill(0.0);
    part.entries[at] = head;
    let mut j = 1;
    while j + 4 <= last - first {
        columns_times::<S, 4>(simd, &mut part.entries[at + j * STEP..], v, tau);
        j += 4;
    }
    while j < last - first {
        columns_times::<S, 1>(simd, &mut part.entries[at + j * STEP..], v, tau);
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
