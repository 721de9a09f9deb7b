//! The best approximation of an update at a rank, as two factors of equal size.
//!
//! With ΔW = U diag(σ) Vᵀ, no matrix of rank k is nearer to ΔW, in Frobenius or spectral norm, than
//! ΔW_k = Σ_{i≤k} σ_i u_i v_iᵀ (Eckart–Young–Mirsky): the errors are √Σ_{i>k} σ_i² and σ_{k+1}. With
//! the scale s that the file states, B = U_k √(diag(σ)/|s|) and A = sign(s) √(diag(σ)/|s|) V_kᵀ give
//! s B A = ΔW_k, and column i of B is as long as row i of A, so that neither leaves a narrow type's
//! range before the other.
//!
//! | symbol | identifier |
//! |---|---|
//! | k | `rank` |
//! | s | `scale` |
//! | ‖ΔW − s B A‖ of the factors as they are stored, rounded | [`measured`] |
//!
//! Source: G. H. Golub and C. F. Van Loan, Matrix Computations, 4th ed., section 2.4.8.

use ndarray::{Array2, Axis, concatenate};
use safetensors::Dtype;

use super::record::Loss;
use crate::adapter::Slot;
use crate::container::numbers::{decode, encode};
use crate::linalg::Svd;
use crate::update::Update;
use crate::writer::{Content, NewTensor};
use crate::{Error, product_singular_values};

/// All singular values, the rank that was chosen, and a decomposition that has at least that many.
type Decomposed = (Vec<f64>, Option<(usize, Svd)>);

/// All singular values, and the decomposition up to the rank that `choose` takes.
pub(crate) fn decomposed(
    update: &Update,
    choose: impl FnOnce(&[f64]) -> Option<usize>,
) -> Result<Decomposed, Error> {
    match update {
        Update::Product { .. } | Update::Dense(_) => {
            let svd = update.svd(usize::MAX)?;
            let rank = choose(&svd.s);
            Ok((svd.s.clone(), rank.map(|rank| (rank, svd))))
        }
        // The vectors of all products would be larger than the update.
        Update::Kronecker { .. } | Update::Blocks(_) => {
            let sigma = update.singular_values()?;
            let rank = choose(&sigma);
            let svd = rank.map(|rank| update.svd(rank)).transpose()?;
            Ok((sigma, rank.zip(svd)))
        }
    }
}

/// B (m × k) and A (k × n) with s B A = ΔW_k; directions that `svd` lacks are zeros.
pub(crate) fn balanced(svd: &Svd, rank: usize, scale: f64) -> (Array2<f64>, Array2<f64>) {
    let size = if scale == 0.0 { 1.0 } else { scale.abs() };
    let root = |k: usize| (svd.s[k] / size).sqrt();
    let kept = rank.min(svd.s.len());
    let mut b = Array2::zeros((svd.u.nrows(), rank));
    let mut a = Array2::zeros((rank, svd.vt.ncols()));
    for k in 0..kept {
        b.column_mut(k).assign(&(&svd.u.column(k) * root(k)));
        let sign = if scale < 0.0 { -1.0 } else { 1.0 };
        a.row_mut(k).assign(&(&svd.vt.row(k) * (sign * root(k))));
    }
    (b, a)
}

/// The errors of the best approximation of a rank, by the spectrum.
pub(crate) fn expected(sigma: &[f64], rank: usize) -> Loss {
    let rest = sigma.get(rank..).unwrap_or_default();
    Loss::new(norm(rest), rest.first().copied(), norm(sigma))
}

/// The share of Σσ² that the first `rank` have; `None` if all are zero.
pub(crate) fn energy_kept(sigma: &[f64], rank: usize) -> Option<f64> {
    let whole = norm(sigma);
    let lost = norm(sigma.get(rank..).unwrap_or_default());
    (whole > 0.0).then(|| 1.0 - (lost / whole).powi(2))
}

/// √Σσ², without squares that overflow or vanish; σ descending.
pub(crate) fn norm(sigma: &[f64]) -> f64 {
    match sigma.first() {
        Some(&first) if first > 0.0 => {
            first
                * sigma
                    .iter()
                    .map(|s| (s / first).powi(2))
                    .sum::<f64>()
                    .sqrt()
        }
        _ => 0.0,
    }
}

/// ‖ΔW − s B A‖ as it is. Of a product by the core of both factors side by side, so that nothing is
/// lost to the difference of two large squares.
pub(crate) fn measured(
    update: &Update,
    b: &Array2<f64>,
    a: &Array2<f64>,
    scale: f64,
    whole: f64,
) -> Result<Loss, Error> {
    match update {
        Update::Product {
            b: old_b,
            a: old_a,
            scale: old,
        } => {
            let left = concatenate(Axis(1), &[(old_b * *old).view(), (b * -scale).view()]);
            let right = concatenate(Axis(0), &[old_a.view(), a.view()]);
            let (Ok(left), Ok(right)) = (left, right) else {
                return Err(Error::Mismatch {
                    what: "factors",
                    expected: format!("{} x {}", old_b.nrows(), old_a.ncols()),
                    found: format!("{} x {}", b.nrows(), a.ncols()),
                });
            };
            let sigma = product_singular_values(left.view(), right.view(), 1.0)?;
            Ok(Loss::new(norm(&sigma), sigma.first().copied(), whole))
        }
        other => {
            let difference = other.to_dense() - b.dot(a) * scale;
            let largest = difference.iter().fold(0.0_f64, |m, x| m.max(x.abs()));
            let square = |x: &f64| (x / largest).powi(2);
            let frobenius = match largest > 0.0 {
                true => largest * difference.iter().map(square).sum::<f64>().sqrt(),
                false => 0.0,
            };
            Ok(Loss {
                spectral: None,
                ..Loss::new(frobenius, None, whole)
            })
        }
    }
}

/// A factor as its slot keeps it, and what its rounded numbers are.
///
/// # Errors
/// [`Error::Mismatch`] if a number is beyond the type's range.
pub(crate) fn stored(
    slot: &Slot,
    dtype: Dtype,
    factor: &Array2<f64>,
) -> Result<(NewTensor, Array2<f64>), Error> {
    let view = if slot.is_transposed {
        factor.t()
    } else {
        factor.view()
    };
    let bytes = encode(view.iter().copied(), dtype);
    let read = bytes.as_ref().and_then(|bytes| decode(bytes, dtype));
    let (Some(bytes), Some(read)) = (bytes, read) else {
        return Err(Error::Mismatch {
            what: "type of the new factors",
            expected: "F64, F32, F16 or BF16".to_owned(),
            found: format!("{dtype:?}"),
        });
    };
    if let Some(place) = read.iter().position(|x| !x.is_finite()) {
        let value = view.iter().nth(place).copied().unwrap_or(f64::NAN);
        return Err(Error::Mismatch {
            what: "entry of a new factor",
            expected: format!("a number that {dtype:?} can hold"),
            found: format!("{value:e}"),
        });
    }
    let rounded = Array2::from_shape_vec(view.dim(), read).map_err(|error| Error::Mismatch {
        what: "entries of a new factor",
        expected: format!("{:?}", view.dim()),
        found: error.to_string(),
    })?;
    let rank = if slot.is_b() {
        factor.ncols()
    } else {
        factor.nrows()
    };
    let tensor = NewTensor {
        name: slot.name.clone(),
        dtype,
        shape: slot.shape(rank),
        content: Content::Made(bytes),
    };
    let rounded = if slot.is_transposed {
        rounded.reversed_axes()
    } else {
        rounded
    };
    Ok((tensor, rounded))
}

#[cfg(test)]
mod tests {
    use ndarray::array;
    use proptest::prelude::*;

    use super::*;

    /// Sums of some dozens of products in float64.
    const ROUNDING: f64 = 1e-13;

    #[test]
    fn a_diagonal_loses_its_smallest_entries() {
        let update = Update::Dense(array![[3.0, 0.0, 0.0], [0.0, 0.0, 4.0]]);
        let (sigma, chosen) = decomposed(&update, |_| Some(1)).unwrap();
        let (rank, svd) = chosen.unwrap();
        let (b, a) = balanced(&svd, rank, -0.25);
        let kept = b.dot(&a) * -0.25;
        assert!((kept[(1, 2)] - 4.0).abs() < ROUNDING && kept[(0, 0)].abs() < ROUNDING);
        // √(4/0.25) = 4: both factors have that length.
        assert!((b.column(0).dot(&b.column(0)) - 16.0).abs() < 16.0 * ROUNDING);
        assert!((a.row(0).dot(&a.row(0)) - 16.0).abs() < 16.0 * ROUNDING);
        let loss = expected(&sigma, rank);
        assert!((loss.frobenius - 3.0).abs() < ROUNDING);
        assert_eq!(
            energy_kept(&sigma, 1).map(|x| (x * 25.0).round()),
            Some(16.0)
        );
        let found = measured(&update, &b, &a, -0.25, norm(&sigma)).unwrap();
        assert!((found.frobenius - 3.0).abs() < ROUNDING);
        assert!((found.relative.unwrap() - 0.6).abs() < ROUNDING);
    }

    #[test]
    fn a_zero_update_has_zero_factors() {
        let update = Update::Product {
            b: Array2::zeros((3, 2)),
            a: Array2::ones((2, 4)),
            scale: 2.0,
        };
        let (sigma, chosen) = decomposed(&update, |_| Some(1)).unwrap();
        let (rank, svd) = chosen.unwrap();
        let (b, a) = balanced(&svd, rank, 2.0);
        assert_eq!((b.dim(), a.dim()), ((3, 1), (1, 4)));
        assert!(b.iter().chain(&a).all(|&x| x == 0.0));
        assert_eq!(expected(&sigma, 1).relative, None);
        assert_eq!(energy_kept(&sigma, 1), None);
    }

    proptest! {
        /// ‖ΔW − ΔW_k‖_F² = Σ_{i>k} σ_i², measured on the product and on the whole matrix.
        #[test]
        fn the_error_is_the_tail_of_the_spectrum(
            values in proptest::collection::vec(-2.0_f64..2.0, 36),
            rank in 1_usize..4,
            scale in prop::sample::select(vec![-1.5, 0.25, 3.0]),
        ) {
            let b = Array2::from_shape_fn((5, 4), |(i, j)| values[i * 4 + j]);
            let a = Array2::from_shape_fn((4, 4), |(i, j)| values[20 + i * 4 + j]);
            let update = Update::Product { b, a, scale };
            let dense = Update::Dense(update.to_dense());
            let (sigma, chosen) = decomposed(&update, |_| Some(rank)).unwrap();
            let (rank, svd) = chosen.unwrap();
            let whole = norm(&sigma);
            let loss = expected(&sigma, rank);
            for new in [1.0, -0.5, 7.0] {
                let (b, a) = balanced(&svd, rank, new);
                let found = measured(&update, &b, &a, new, whole).unwrap();
                let again = measured(&dense, &b, &a, new, whole).unwrap();
                let small = ROUNDING * whole;
                prop_assert!((found.frobenius - loss.frobenius).abs() <= small);
                prop_assert!((again.frobenius - loss.frobenius).abs() <= small);
                prop_assert!((found.spectral.unwrap() - loss.spectral.unwrap()).abs() <= small);
            }
        }
    }
}
