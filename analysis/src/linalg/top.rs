//! The largest singular values of a large matrix, with a certificate.
//!
//! A block Krylov space is grown from random vectors: V has orthonormal columns, AV = Q R, and the
//! singular value decomposition of R gives the Rayleigh–Ritz triples (s, u, v). The residuals
//! Aᵀu − s v are the next block. When the space is full it is restarted with the best vectors.
//! What is returned does not rest on the iteration's history; it is computed from A and the triples:
//!
//! - ρ = max(‖A v − s u‖, ‖Aᵀu − s v‖): A has a singular value within ρ of s (the residual bound of
//!   symmetric matrices for ((0, A), (Aᵀ, 0))).
//! - ‖A − Σ s u vᵀ‖_F: no smaller than the root of the sum of squares of all singular values after the
//!   k-th, and than the (k + 1)-th itself (Eckart–Young).
//!
//! That no large singular value was missed follows from the second number alone. On a flat spectrum
//! the vectors do not converge: the step limit is reached, the residuals say how far off the values
//! may be, and the second number is large, as it must.
//!
//! | symbol | identifier |
//! |---|---|
//! | V, AV | `basis`, `images` |
//! | s, u, v | `values`, `left`, `right` |
//!
//! Sources: N. Halko, P. G. Martinsson and J. A. Tropp, “Finding structure with randomness”, SIAM Rev.
//! 53 (2011); C. Musco and C. Musco, “Randomized block Krylov methods”, NeurIPS 2015; B. N. Parlett,
//! The Symmetric Eigenvalue Problem, section 4.5 (the residual bound).

use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, MatMut, MatRef, Par};
use ndarray::{ArrayView2, Axis, Slice};
use rand::Rng;

use super::{Svd, normalized, qr, rescaled, svd, to_faer, to_ndarray};
use crate::Error;

/// Rows of a product that are computed in one piece.
const SLAB: usize = 256;

/// Vectors beyond k: they make the last of the k values converge.
const EXTRA: usize = 8;

/// Blocks that the space holds before it is restarted.
const BLOCKS: usize = 4;

/// When [`top_singular_values`] stops.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TopOptions {
    /// Residuals, as a part of the largest singular value, that count as converged.
    pub tolerance: f64,
    /// Blocks of vectors that the matrix is multiplied with at most.
    pub steps: usize,
}

impl Default for TopOptions {
    fn default() -> Self {
        Self {
            tolerance: 1e-8,
            steps: 40,
        }
    }
}

/// The largest singular values and what is known of them and of the others.
#[derive(Debug, Clone, PartialEq)]
pub struct Top {
    /// Descending.
    pub values: Vec<f64>,
    /// For each of them, how far the nearest singular value of the matrix can be away.
    pub residuals: Vec<f64>,
    /// The root of the sum of squares of all further singular values, and so each of them, is at
    /// most this.
    pub rest: f64,
    /// Whether all residuals are below the tolerance; if not, the step limit was reached.
    pub is_converged: bool,
    /// Blocks of vectors that the matrix was multiplied with.
    pub steps: usize,
}

/// The k largest singular values of an m × n matrix (all of them if there are no more than k), by
/// products with blocks of a little more than k vectors.
///
/// ```
/// use ndarray::Array2;
/// use rankwise_analysis::linalg::{TopOptions, top_singular_values};
/// # use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};
///
/// // diag(100, 99, …, 1)
/// let a = Array2::from_shape_fn((100, 100), |(i, j)| if i == j { 100.0 - i as f64 } else { 0.0 });
/// let mut rng = ChaCha8Rng::seed_from_u64(1);
/// let top = top_singular_values(a.view(), 2, &TopOptions::default(), &mut rng)?;
/// assert!(top.is_converged && (top.values[1] - 99.0).abs() <= 1e-6);
/// # Ok::<(), rankwise_analysis::Error>(())
/// ```
///
/// # Errors
/// [`Error::Mismatch`] if the tolerance is not a positive number or no step is allowed,
/// [`Error::NonFinite`] if an entry is NaN or infinite, [`Error::NoConvergence`] if a small
/// decomposition does not end.
pub fn top_singular_values(
    a: ArrayView2<'_, f64>,
    k: usize,
    options: &TopOptions,
    rng: &mut impl Rng,
) -> Result<Top, Error> {
    if options.tolerance.is_nan() || options.tolerance <= 0.0 || options.steps == 0 {
        return Err(Error::Mismatch {
            what: "options of the largest singular values",
            expected: "a positive tolerance and at least one step".to_owned(),
            found: format!("{} and {}", options.tolerance, options.steps),
        });
    }
    let (a, exponent) = normalized(a)?;
    let k = k.min(a.nrows()).min(a.ncols());
    let (triples, steps) = triples(a.as_ref(), k, options, rng)?;
    let mut residuals = vec![0.0; k];
    let images = product(a.as_ref(), triples.right.as_ref());
    let transposed = product(a.transpose(), triples.left.as_ref());
    let pairs = [(&images, &triples.left), (&transposed, &triples.right)];
    for (i, residual) in residuals.iter_mut().enumerate() {
        for (image, vectors) in pairs {
            *residual = distance(image, vectors, triples.values[i], i).max(*residual);
        }
    }
    let limit = options.tolerance * triples.values.first().copied().unwrap_or(0.0);
    let is_converged = residuals.iter().all(|&residual| residual <= limit);
    let rest = remainder(a.as_ref(), &triples);
    Ok(Top {
        is_converged,
        values: rescaled(triples.values, exponent),
        residuals: rescaled(residuals, exponent),
        rest: rescaled([rest], exponent)[0],
        steps,
    })
}

/// Rayleigh–Ritz triples, with a column per value.
struct Triples {
    values: Vec<f64>,
    left: Mat<f64>,
    right: Mat<f64>,
}

fn triples(
    a: MatRef<'_, f64>,
    k: usize,
    options: &TopOptions,
    rng: &mut impl Rng,
) -> Result<(Triples, usize), Error> {
    let n = a.ncols();
    if k == 0 {
        let (left, right) = (Mat::zeros(a.nrows(), 0), Mat::zeros(n, 0));
        let values = Vec::new();
        return Ok((
            Triples {
                values,
                left,
                right,
            },
            0,
        ));
    }
    let most = a.nrows().min(n);
    let width = (k + EXTRA).min(most);
    let room = (BLOCKS * width).min(n);
    let start = Mat::from_fn(n, width, |_, _| rng.random_range(-1.0..1.0));
    let (mut basis, mut images) = (Mat::zeros(n, 0), Mat::zeros(a.nrows(), 0));
    let mut block = orthonormal(&basis, start);
    let mut steps = 0;
    loop {
        steps += 1;
        images = beside(&images, &product(a, block.as_ref()));
        basis = beside(&basis, &block);
        let (q, r) = {
            let f = qr(to_ndarray(images.as_ref()).view());
            (to_faer(f.q.view()), f.r)
        };
        let Svd { u, s, vt } = svd(r.view())?;
        let kept = width.min(s.len());
        let take =
            |matrix: ArrayView2<'_, f64>| to_faer(matrix.slice_axis(Axis(1), Slice::from(..kept)));
        let turn = take(vt.t());
        let left = product(q.as_ref(), take(u.view()).as_ref());
        let right = product(basis.as_ref(), turn.as_ref());
        let mut residual = product(a.transpose(), left.as_ref());
        let limit = options.tolerance * s[0];
        let mut is_converged = true;
        for (i, &value) in s.iter().enumerate().take(kept) {
            if i < k && distance(&residual, &right, value, i) > 0.5 * limit {
                is_converged = false;
            }
            for (x, v) in residual.col_mut(i).iter_mut().zip(right.col(i).iter()) {
                *x -= value * v;
            }
        }
        if is_converged || steps >= options.steps || basis.ncols() == n {
            let mut values = s;
            values.truncate(k);
            let left = left.subcols(0, k).to_owned();
            let right = right.subcols(0, k).to_owned();
            let triples = Triples {
                values,
                left,
                right,
            };
            return Ok((triples, steps));
        }
        if room < n && basis.ncols() + width > room {
            images = product(images.as_ref(), turn.as_ref());
            basis = right;
        }
        let columns = residual.ncols().min(n - basis.ncols());
        block = orthonormal(&basis, residual.subcols(0, columns).to_owned());
    }
}

/// Orthonormal columns that are orthogonal to the basis: with what is new in the block first.
fn orthonormal(basis: &Mat<f64>, mut block: Mat<f64>) -> Mat<f64> {
    // The first pass leaves parts of the basis in columns that nearly vanish; the second does not.
    for _ in 0..2 {
        if basis.ncols() > 0 {
            let parts = product(basis.transpose(), block.as_ref());
            block = &block - product(basis.as_ref(), parts.as_ref());
        }
        block = to_faer(qr(to_ndarray(block.as_ref()).view()).q.view());
    }
    block
}

fn beside(left: &Mat<f64>, right: &Mat<f64>) -> Mat<f64> {
    let first = left.ncols();
    Mat::from_fn(right.nrows(), first + right.ncols(), |i, j| {
        if j < first {
            left[(i, j)]
        } else {
            right[(i, j - first)]
        }
    })
}

/// The norm of column i of `image` − value · `vectors`.
fn distance(image: &Mat<f64>, vectors: &Mat<f64>, value: f64, i: usize) -> f64 {
    let pairs = image.col(i).iter().zip(vectors.col(i).iter());
    let square = |sum: f64, (x, v): (&f64, &f64)| sum + (x - value * v).powi(2);
    pairs.fold(0.0, square).sqrt()
}

/// A product, in slabs of rows that run side by side.
fn product(a: MatRef<'_, f64>, x: MatRef<'_, f64>) -> Mat<f64> {
    let mut out = Mat::zeros(a.nrows(), x.ncols());
    product_into(out.as_mut(), a, x);
    out
}

fn product_into(out: MatMut<'_, f64>, a: MatRef<'_, f64>, x: MatRef<'_, f64>) {
    let rows = out.nrows();
    if rows <= SLAB {
        matmul(out, Accum::Replace, a, x, 1.0, Par::Seq);
        return;
    }
    let half = rows.div_ceil(2 * SLAB) * SLAB;
    let (upper, lower) = out.split_at_row_mut(half);
    let (first, second) = a.split_at_row(half);
    rayon::join(
        || product_into(upper, first, x),
        || product_into(lower, second, x),
    );
}

/// ‖A − Σ s u vᵀ‖_F.
fn remainder(a: MatRef<'_, f64>, triples: &Triples) -> f64 {
    let Triples {
        values,
        left,
        right,
    } = triples;
    let scaled = Mat::from_fn(left.nrows(), left.ncols(), |i, j| left[(i, j)] * values[j]);
    square_of_difference(a, scaled.as_ref(), right.as_ref()).sqrt()
}

/// In slabs of columns whose sums are added in a fixed order.
fn square_of_difference(
    a: MatRef<'_, f64>,
    scaled: MatRef<'_, f64>,
    right: MatRef<'_, f64>,
) -> f64 {
    let columns = a.ncols();
    if columns > SLAB {
        let half = columns.div_ceil(2 * SLAB) * SLAB;
        let (first, second) = a.split_at_col(half);
        let (upper, lower) = right.split_at_row(half);
        let (x, y) = rayon::join(
            || square_of_difference(first, scaled, upper),
            || square_of_difference(second, scaled, lower),
        );
        return x + y;
    }
    let mut slab = a.to_owned();
    matmul(
        slab.as_mut(),
        Accum::Add,
        scaled,
        right.transpose(),
        -1.0,
        Par::Seq,
    );
    let squares = |column: faer::ColRef<'_, f64>| column.iter().map(|x| x * x).sum::<f64>();
    slab.col_iter().map(squares).sum()
}
