//! An update ΔW as the product, sum or arrangement of small matrices that its format keeps, and the
//! decompositions that follow without forming it.
//!
//! | form | ΔW | singular values |
//! |---|---|---|
//! | [`Update::Product`] | s·B·A | of the core R_B R_Aᵀ of two thin QR decompositions, times \|s\| |
//! | [`Update::Kronecker`] | s·(L ⊗ M) | all products σ_i(L) σ_j(M), times \|s\| |
//! | [`Update::Blocks`] | diag(ΔW_1, ΔW_2, …) | those of the blocks together |
//! | [`Update::Dense`] | itself | by a dense decomposition |
//!
//! The element-wise product of two products (LoHa) is a product too: row i of its left factor is the
//! Kronecker product of the rows i of the two left factors ([`khatri_rao`]).
//!
//! Sources: G. H. Golub and C. F. Van Loan, Matrix Computations, 4th ed., sections 5.2 and 12.3
//! (Kronecker products); N. Hyeon-Woo et al., “FedPara”, 2022 (the element-wise product).

use ndarray::{Array2, ArrayView1, ArrayView2, Axis, Slice, concatenate};

use crate::linalg::{self, Svd, check_finite};
use crate::{Error, product_singular_values};

/// ΔW of one module, or its transpose; see the [module](self).
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Update {
    Product {
        b: Array2<f64>,
        a: Array2<f64>,
        scale: f64,
    },
    Kronecker {
        left: Box<Update>,
        right: Box<Update>,
        scale: f64,
    },
    Blocks(Vec<Update>),
    Dense(Array2<f64>),
}

impl Update {
    /// Rows and columns.
    pub fn shape(&self) -> (usize, usize) {
        match self {
            Self::Product { b, a, .. } => (b.nrows(), a.ncols()),
            Self::Kronecker { left, right, .. } => {
                let ((m, n), (p, q)) = (left.shape(), right.shape());
                (m * p, n * q)
            }
            Self::Blocks(blocks) => blocks.iter().fold((0, 0), |(rows, columns), block| {
                let (m, n) = block.shape();
                (rows + m, columns + n)
            }),
            Self::Dense(matrix) => matrix.dim(),
        }
    }

    /// All singular values that can differ from zero, descending.
    ///
    /// # Errors
    /// [`Error::NonFinite`] naming the factor, [`Error::NoConvergence`].
    pub fn singular_values(&self) -> Result<Vec<f64>, Error> {
        match self {
            Self::Product { b, a, scale } => product_singular_values(b.view(), a.view(), *scale),
            Self::Kronecker { left, right, scale } => {
                let (left, right) = (left.singular_values()?, right.singular_values()?);
                let scale = scale.abs();
                let products = left
                    .iter()
                    .flat_map(|x| right.iter().map(move |y| scale * x * y));
                Ok(descending(products.collect()))
            }
            Self::Blocks(blocks) => {
                let mut all = Vec::new();
                for block in blocks {
                    all.extend(block.singular_values()?);
                }
                Ok(descending(all))
            }
            Self::Dense(matrix) => {
                check_finite("update", matrix.view())?;
                linalg::singular_values(matrix.view())
            }
        }
    }

    /// The thin singular value decomposition with the `most` largest singular values at most.
    ///
    /// # Errors
    /// As [`singular_values`](Self::singular_values).
    pub fn svd(&self, most: usize) -> Result<Svd, Error> {
        let svd = match self {
            Self::Product { b, a, scale } => product_svd(b.view(), a.view(), *scale)?,
            Self::Kronecker { left, right, scale } => {
                let (left, right) = (left.svd(usize::MAX)?, right.svd(usize::MAX)?);
                kronecker_svd(&left, &right, *scale, most)
            }
            Self::Blocks(blocks) => blocks_svd(blocks, self.shape(), most)?,
            Self::Dense(matrix) => {
                check_finite("update", matrix.view())?;
                linalg::svd(matrix.view())?
            }
        };
        Ok(truncated(svd, most))
    }

    /// The same update as a plain product, if it is a Kronecker product of so low a rank that its
    /// factors are small beside the whole matrix.
    ///
    /// # Errors
    /// As [`singular_values`](Self::singular_values).
    pub fn compact(self) -> Result<Self, Error> {
        let Self::Kronecker { left, right, .. } = &self else {
            return Ok(self);
        };
        let (m, n) = self.shape();
        let rank = left.most().saturating_mul(right.most());
        if rank.saturating_mul(4) > m.min(n) {
            return Ok(self);
        }
        let Svd { u, s, vt } = self.svd(rank)?;
        let b = u * ArrayView1::from(&s);
        Ok(Self::Product {
            b,
            a: vt,
            scale: 1.0,
        })
    }

    /// This update less another of its shape: as small matrices where both are products, have blocks
    /// of the same shapes or share a side of a Kronecker product, else as one matrix.
    ///
    /// # Errors
    /// [`Error::Mismatch`] if the shapes differ; as [`singular_values`](Self::singular_values).
    pub fn minus(self, other: Self) -> Result<Self, Error> {
        if self.shape() != other.shape() {
            return Err(mismatch("initial update", self.shape(), other.shape()));
        }
        Ok(match (self, other) {
            (
                Self::Kronecker { left, right, scale },
                Self::Kronecker {
                    left: left0,
                    right: right0,
                    scale: scale0,
                },
            ) if scale == scale0 && (left == left0 || right == right0) => {
                let (left, right) = if left == left0 {
                    (left, Box::new(right.minus(*right0)?))
                } else {
                    (Box::new(left.minus(*left0)?), right)
                };
                Self::Kronecker { left, right, scale }
            }
            (Self::Blocks(blocks), Self::Blocks(blocks0))
                if blocks
                    .iter()
                    .map(Self::shape)
                    .eq(blocks0.iter().map(Self::shape)) =>
            {
                let pairs = blocks.into_iter().zip(blocks0);
                let differences = pairs.map(|(block, block0)| block.minus(block0));
                Self::Blocks(differences.collect::<Result<_, _>>()?)
            }
            (first, second) => match (first.compact()?, second.compact()?) {
                (
                    Self::Product { b, a, scale },
                    Self::Product {
                        b: b0,
                        a: a0,
                        scale: scale0,
                    },
                ) => {
                    let is_one = scale == scale0;
                    let (b, b0) = if is_one {
                        (b, b0)
                    } else {
                        (b * scale, b0 * scale0)
                    };
                    let (b, a) = difference_of_products((b, a), (b0, a0))?;
                    let scale = if is_one { scale } else { 1.0 };
                    Self::Product { b, a, scale }
                }
                (first, second) => {
                    let mut whole = first.to_dense();
                    whole -= &second.to_dense();
                    Self::Dense(whole)
                }
            },
        })
    }

    /// The most singular values that can differ from zero.
    fn most(&self) -> usize {
        let (m, n) = self.shape();
        match self {
            Self::Product { b, .. } => b.ncols().min(m).min(n),
            Self::Kronecker { left, right, .. } => left.most() * right.most(),
            Self::Blocks(blocks) => blocks.iter().map(Self::most).sum(),
            Self::Dense(_) => m.min(n),
        }
    }

    /// ΔW itself, every entry.
    pub fn to_dense(&self) -> Array2<f64> {
        match self {
            Self::Product { b, a, scale } => b.dot(a) * *scale,
            Self::Kronecker { left, right, scale } => {
                kronecker(left.to_dense().view(), right.to_dense().view()) * *scale
            }
            Self::Blocks(blocks) => {
                let mut whole = Array2::zeros(self.shape());
                let (mut row, mut column) = (0, 0);
                for block in blocks {
                    let block = block.to_dense();
                    let (m, n) = block.dim();
                    for ((i, j), value) in block.indexed_iter() {
                        whole[(row + i, column + j)] = *value;
                    }
                    row += m;
                    column += n;
                }
                whole
            }
            Self::Dense(matrix) => matrix.clone(),
        }
    }
}

/// The factors of (B₁A₁) ∘ (B₂A₂): row by row and column by column the Kronecker product.
///
/// Shapes: B_k m × R_k, A_k R_k × n; the result's B is m × R₁R₂ and its A R₁R₂ × n.
pub(crate) fn khatri_rao(
    first: (ArrayView2<'_, f64>, ArrayView2<'_, f64>),
    second: (ArrayView2<'_, f64>, ArrayView2<'_, f64>),
) -> (Array2<f64>, Array2<f64>) {
    let ((b1, a1), (b2, a2)) = (first, second);
    let (r1, r2) = (b1.ncols(), b2.ncols());
    let b = Array2::from_shape_fn((b1.nrows(), r1 * r2), |(i, k)| {
        b1[(i, k / r2)] * b2[(i, k % r2)]
    });
    let a = Array2::from_shape_fn((r1 * r2, a1.ncols()), |(k, j)| {
        a1[(k / r2, j)] * a2[(k % r2, j)]
    });
    (b, a)
}

fn product_svd(b: ArrayView2<'_, f64>, a: ArrayView2<'_, f64>, scale: f64) -> Result<Svd, Error> {
    check_finite("factor B", b)?;
    check_finite("factor A", a)?;
    let (left, right) = (linalg::qr(b), linalg::qr(a.t()));
    let core = linalg::svd(left.r.dot(&right.r.t()).view())?;
    // A negative scale turns the left vectors around.
    let u = left.q.dot(&core.u) * scale.signum();
    Ok(Svd {
        u,
        s: core.s.iter().map(|value| value * scale.abs()).collect(),
        vt: core.vt.dot(&right.q.t()),
    })
}

fn kronecker_svd(left: &Svd, right: &Svd, scale: f64, most: usize) -> Svd {
    let mut pairs: Vec<(f64, usize, usize)> = Vec::with_capacity(left.s.len() * right.s.len());
    for (i, x) in left.s.iter().enumerate() {
        pairs.extend(right.s.iter().enumerate().map(|(j, y)| (x * y, i, j)));
    }
    pairs.sort_by(|x, y| y.0.total_cmp(&x.0).then((x.1, x.2).cmp(&(y.1, y.2))));
    pairs.truncate(most);
    let (p, q) = (right.u.nrows(), right.vt.ncols());
    let u = Array2::from_shape_fn((left.u.nrows() * p, pairs.len()), |(row, k)| {
        let (_, i, j) = pairs[k];
        scale.signum() * left.u[(row / p, i)] * right.u[(row % p, j)]
    });
    let vt = Array2::from_shape_fn((pairs.len(), left.vt.ncols() * q), |(k, column)| {
        let (_, i, j) = pairs[k];
        left.vt[(i, column / q)] * right.vt[(j, column % q)]
    });
    let s = pairs.iter().map(|pair| pair.0 * scale.abs()).collect();
    Svd { u, s, vt }
}

fn blocks_svd(blocks: &[Update], shape: (usize, usize), most: usize) -> Result<Svd, Error> {
    let parts = blocks
        .iter()
        .map(|block| block.svd(most))
        .collect::<Result<Vec<_>, _>>()?;
    let mut order: Vec<(f64, usize, usize)> = Vec::new();
    for (block, part) in parts.iter().enumerate() {
        order.extend(
            part.s
                .iter()
                .enumerate()
                .map(|(k, &value)| (value, block, k)),
        );
    }
    order.sort_by(|x, y| y.0.total_cmp(&x.0).then((x.1, x.2).cmp(&(y.1, y.2))));
    order.truncate(most);
    let mut begins = vec![(0, 0)];
    for part in &parts {
        let &(row, column) = begins.last().expect("one was put in");
        begins.push((row + part.u.nrows(), column + part.vt.ncols()));
    }
    let (mut u, mut vt) = (
        Array2::zeros((shape.0, order.len())),
        Array2::zeros((order.len(), shape.1)),
    );
    for (k, &(_, block, own)) in order.iter().enumerate() {
        let ((row, column), part) = (begins[block], &parts[block]);
        for (i, value) in part.u.column(own).iter().enumerate() {
            u[(row + i, k)] = *value;
        }
        for (j, value) in part.vt.row(own).iter().enumerate() {
            vt[(k, column + j)] = *value;
        }
    }
    let s = order.iter().map(|entry| entry.0).collect();
    Ok(Svd { u, s, vt })
}

fn truncated(svd: Svd, most: usize) -> Svd {
    if svd.s.len() <= most {
        return svd;
    }
    Svd {
        u: svd.u.slice_axis(Axis(1), Slice::from(..most)).to_owned(),
        s: svd.s[..most].to_vec(),
        vt: svd.vt.slice_axis(Axis(0), Slice::from(..most)).to_owned(),
    }
}

fn kronecker(left: ArrayView2<'_, f64>, right: ArrayView2<'_, f64>) -> Array2<f64> {
    let (p, q) = right.dim();
    Array2::from_shape_fn((left.nrows() * p, left.ncols() * q), |(i, j)| {
        left[(i / p, j / q)] * right[(i % p, j % q)]
    })
}

fn descending(mut values: Vec<f64>) -> Vec<f64> {
    values.sort_unstable_by(|x, y| y.total_cmp(x));
    values
}

/// B and A of `first` − `second`: the factors side by side, with the sign in the second B. Directions
/// that are the same in both, as those of a module that was not trained, cancel to exact zeros.
fn difference_of_products(
    first: (Array2<f64>, Array2<f64>),
    second: (Array2<f64>, Array2<f64>),
) -> Result<(Array2<f64>, Array2<f64>), Error> {
    let mut b = concatenate(Axis(1), &[first.0.view(), (-&second.0).view()])
        .map_err(|_| mismatch("initial factor B", first.0.dim(), second.0.dim()))?;
    let a = concatenate(Axis(0), &[first.1.view(), second.1.view()])
        .map_err(|_| mismatch("initial factor A", first.1.dim(), second.1.dim()))?;
    let rank = first.0.ncols();
    for i in 0..rank.min(second.0.ncols()) {
        if first.0.column(i) == second.0.column(i) && first.1.row(i) == second.1.row(i) {
            b.column_mut(i).fill(0.0);
            b.column_mut(rank + i).fill(0.0);
        }
    }
    Ok((b, a))
}

fn mismatch(what: &'static str, expected: (usize, usize), found: (usize, usize)) -> Error {
    Error::Mismatch {
        what,
        expected: format!("{expected:?} as in the trained adapter"),
        found: format!("{found:?}"),
    }
}

#[cfg(test)]
mod tests {
    use ndarray::array;
    use proptest::prelude::*;

    use super::*;

    /// A few units in the last place of the largest value, times the dimensions.
    const ROUNDING: f64 = 1e-12;

    fn product(b: Array2<f64>, a: Array2<f64>, scale: f64) -> Update {
        Update::Product { b, a, scale }
    }

    fn check(update: &Update) {
        let dense = update.to_dense();
        assert_eq!(dense.dim(), update.shape());
        let expected = linalg::singular_values(dense.view()).unwrap();
        let size = expected
            .first()
            .copied()
            .unwrap_or(0.0)
            .max(f64::MIN_POSITIVE);
        let found = update.singular_values().unwrap();
        for (k, value) in expected.iter().enumerate() {
            let found = found.get(k).copied().unwrap_or(0.0);
            assert!(
                (found - value).abs() <= ROUNDING * size,
                "{k}: {found} {value}"
            );
        }
        let svd = update.svd(usize::MAX).unwrap();
        let whole = (&svd.u * &ndarray::Array1::from(svd.s.clone())).dot(&svd.vt);
        assert!((&whole - &dense).iter().all(|x| x.abs() <= ROUNDING * size));
        let identity = Array2::<f64>::eye(svd.s.len());
        for gram in [svd.u.t().dot(&svd.u), svd.vt.dot(&svd.vt.t())] {
            assert!((gram - &identity).iter().all(|x| x.abs() <= ROUNDING));
        }
    }

    #[test]
    fn kronecker_products_multiply_singular_values() {
        let left = Update::Dense(array![[3.0, 0.0], [0.0, 1.0]]);
        let right = Update::Dense(array![[0.0, 2.0, 0.0], [5.0, 0.0, 0.0]]);
        let update = Update::Kronecker {
            left: Box::new(left),
            right: Box::new(right),
            scale: -2.0,
        };
        assert_eq!(update.singular_values().unwrap(), [30.0, 12.0, 10.0, 4.0]);
        check(&update);
        let two = update.svd(2).unwrap();
        assert_eq!(
            (two.s, two.u.dim(), two.vt.dim()),
            (vec![30.0, 12.0], (4, 2), (2, 6))
        );
    }

    #[test]
    fn an_element_wise_product_of_products_is_a_product() {
        let (b1, a1) = (
            array![[1.0, 2.0], [0.0, 1.0], [3.0, -1.0]],
            array![[1.0, 0.5], [2.0, 1.0]],
        );
        let (b2, a2) = (array![[1.0], [2.0], [-1.0]], array![[4.0, 3.0]]);
        let (b, a) = khatri_rao((b1.view(), a1.view()), (b2.view(), a2.view()));
        assert_eq!(b.dot(&a), b1.dot(&a1) * b2.dot(&a2));
    }

    #[test]
    fn the_difference_of_equal_products_is_zero() {
        let pair = || (array![[1.0], [2.0]], array![[3.0, 4.0, 5.0]]);
        let (b, a) = difference_of_products(pair(), pair()).unwrap();
        assert!(b.dot(&a).iter().all(|&x| x == 0.0));
        // By the factors' own rounding, equal products would leave 10⁻¹⁶ here.
        let thirds = || (array![[1.0 / 3.0], [0.7]], array![[0.1, 0.3]]);
        let (b, a) = difference_of_products(thirds(), thirds()).unwrap();
        assert_eq!(product(b, a, 1.0).singular_values().unwrap(), [0.0; 2]);
        let other = (array![[1.0]], array![[1.0, 1.0, 1.0]]);
        let error = difference_of_products(pair(), other)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("initial factor B: expected (2, 1)"),
            "{error}"
        );
    }

    #[test]
    fn a_kronecker_product_of_low_rank_is_a_product() {
        let column = |n: usize, step: f64| {
            let b = Array2::from_shape_fn((n, 1), |(i, _)| (i as f64 * step).sin() + 0.1);
            product(b.clone(), b.reversed_axes(), 1.5)
        };
        let whole = Update::Kronecker {
            left: Box::new(column(3, 0.7)),
            right: Box::new(column(2, 1.1)),
            scale: -2.0,
        };
        let compact = whole.clone().compact().unwrap();
        assert!(matches!(&compact, Update::Product { b, .. } if b.ncols() == 1));
        let difference = compact.to_dense() - whole.to_dense();
        assert!(difference.iter().all(|x| x.abs() < 1e-13));
        // Of full rank it stays what it is.
        let full = Update::Kronecker {
            left: Box::new(Update::Dense(Array2::eye(2))),
            right: Box::new(column(2, 1.1)),
            scale: 1.0,
        };
        assert_eq!(full.clone().compact().unwrap(), full);
    }

    fn kronecker_of(left: Update, right: Update) -> Update {
        Update::Kronecker {
            left: Box::new(left),
            right: Box::new(right),
            scale: -2.0,
        }
    }

    #[test]
    fn a_difference_keeps_what_both_share() {
        let wave = |m: usize, n: usize, step: f64| {
            Array2::from_shape_fn((m, n), |(i, j)| ((3 * i + j) as f64 * step).sin())
        };
        let dense = |m, n, step| Update::Dense(wave(m, n, step));
        let thin = |m, n, step| product(wave(m, 1, step), wave(1, n, step), 1.0);
        let left = || dense(2, 3, 0.7);
        let blocks = |step| Update::Blocks(vec![thin(4, 3, step), dense(2, 2, step)]);
        let cases = [
            // One side is the same: a Kronecker product again.
            (
                kronecker_of(left(), thin(4, 3, 0.3)),
                kronecker_of(left(), thin(4, 3, 0.9)),
            ),
            (
                kronecker_of(dense(4, 3, 0.3), left()),
                kronecker_of(dense(4, 3, 0.9), left()),
            ),
            (blocks(0.3), blocks(0.9)),
            // Nothing is, but both are of low rank.
            (
                kronecker_of(thin(4, 4, 0.2), thin(4, 4, 0.3)),
                kronecker_of(thin(4, 4, 0.5), thin(4, 4, 0.9)),
            ),
            // Nothing is.
            (
                kronecker_of(dense(3, 3, 0.7), thin(4, 3, 0.3)),
                kronecker_of(dense(3, 3, 0.1), thin(4, 3, 0.9)),
            ),
            (
                kronecker_of(dense(3, 3, 0.7), thin(4, 3, 0.3)),
                dense(12, 9, 0.9),
            ),
        ];
        for (number, (first, second)) in cases.into_iter().enumerate() {
            let expected = first.to_dense() - second.to_dense();
            let found = first.minus(second).unwrap();
            let is_structured = match number {
                0 | 1 => matches!(found, Update::Kronecker { .. }),
                2 => matches!(found, Update::Blocks(_)),
                3 => matches!(&found, Update::Product { b, .. } if b.ncols() == 2),
                _ => matches!(found, Update::Dense(_)),
            };
            assert!(is_structured, "{number}");
            let error = found.to_dense() - expected;
            assert!(error.iter().all(|x| x.abs() <= ROUNDING), "{number}");
        }
        let error = left().minus(dense(3, 2, 0.1)).unwrap_err().to_string();
        assert!(error.contains("initial update: expected (2, 3)"), "{error}");
    }

    proptest! {
        #[test]
        fn decompositions_agree_with_the_whole_matrix(
            values in proptest::collection::vec(-2.0_f64..2.0, 40),
            scale in prop::sample::select(vec![-1.5, 0.25, 3.0]),
        ) {
            let matrix = |begin: usize, m: usize, n: usize| {
                Array2::from_shape_fn((m, n), |(i, j)| values[begin + i * n + j])
            };
            let one = product(matrix(0, 4, 2), matrix(8, 2, 3), scale);
            let other = product(matrix(14, 2, 2), matrix(18, 2, 5), 1.0);
            check(&one);
            check(&Update::Blocks(vec![one.clone(), other.clone()]));
            check(&Update::Kronecker { left: Box::new(one), right: Box::new(other), scale });
        }
    }
}
