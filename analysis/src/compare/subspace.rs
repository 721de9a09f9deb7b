//! How alike two subspaces are, how far they lie apart, and what chance alone gives.
//!
//! | symbol | identifier |
//! |---|---|
//! | U₁ (d × r₁), U₂ (d × r₂), orthonormal columns | `first`, `second` |
//! | φ(i, j) = ‖U₁ᵢᵀ U₂ⱼ‖²_F / min(i, j), of the first i and j columns | [`subspace_similarity`] |
//! | θ₁ ≤ θ₂ ≤ …, min(r₁, r₂) of them | [`principal_angles`] |
//! | E φ, √Var φ for random subspaces | [`ChanceSimilarity`] |
//!
//! **Chance.** Let P₁ and P₂ project onto subspaces of dimensions i and j of ℝ^d, the second drawn
//! uniformly. Then ‖U₁ᵀU₂‖²_F = tr P₁P₂, and since E P₂ commutes with every rotation it is (j/d)·I:
//! E tr P₁P₂ = ij/d, so **E φ(i, j) = max(i, j)/d**. By the same symmetry E P₂⊗P₂ has three
//! constants, which P₂² = P₂ and tr P₂ = j determine; what follows is
//! Var tr P₁P₂ = 2 i(d − i) j(d − j) / (d²(d − 1)(d + 2)). For i = j = 1 this is the mean 1/d and the
//! variance 2(d − 1)/(d²(d + 2)) of a squared coordinate of a random unit vector.
//!
//! **Angles.** The cosines are the singular values of U₁ᵀU₂. An arc cosine knows an angle near zero to
//! √ε only; there the sines are taken, the singular values of (I − U₁U₁ᵀ)U₂, which are known to ε.
//!
//! Sources: φ from E. J. Hu et al., “LoRA”, 2021, section 7.2; Å. Björck and G. H. Golub, “Numerical
//! methods for computing angles between linear subspaces”, 1973; A. V. Knyazev and M. E. Argentati,
//! “Principal angles between subspaces in an A-based scalar product”, 2002; Y. Chikuse, “Statistics on
//! Special Manifolds”, 2003, for the uniform distribution of subspaces.

use ndarray::{Array2, ArrayView2, Axis, Slice};
use serde::Serialize;

use crate::Error;
use crate::linalg::{check_finite, singular_values};

/// How far U₁ᵀU₁ may be from the identity, in any entry: bases from a decomposition in float32 pass.
const ORTHONORMAL: f64 = 1e-4;

/// φ(i, j) at place (i − 1, j − 1), r₁ × r₂, each in [0, 1]: how much of the smaller of two subspaces
/// lies in the other.
///
/// Shapes: `first` d × r₁ and `second` d × r₂, with orthonormal columns.
///
/// ```
/// use ndarray::array;
/// use rankwise_analysis::subspace_similarity;
///
/// // The second plane shares one direction with the first, but not the one that comes first.
/// let first = array![[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]];
/// let second = array![[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]];
/// let phi = subspace_similarity(first.view(), second.view())?;
/// assert_eq!(phi, array![[0.0, 0.0], [1.0, 0.5]]);
/// # Ok::<(), rankwise_analysis::Error>(())
/// ```
///
/// # Errors
/// [`Error::Mismatch`] if the rows differ or the columns are not orthonormal, [`Error::NonFinite`].
pub fn subspace_similarity(
    first: ArrayView2<'_, f64>,
    second: ArrayView2<'_, f64>,
) -> Result<Array2<f64>, Error> {
    check(first, second)?;
    Ok(similarity_of(first.t().dot(&second).view()))
}

/// φ from U₁ᵀU₂: sums over its leading blocks.
pub(super) fn similarity_of(overlap: ArrayView2<'_, f64>) -> Array2<f64> {
    let (rows, columns) = overlap.dim();
    let mut sums = Array2::zeros((rows, columns));
    for i in 0..rows {
        let mut row = 0.0;
        for j in 0..columns {
            row += overlap[(i, j)] * overlap[(i, j)];
            let above = if i > 0 { sums[(i - 1, j)] } else { 0.0 };
            sums[(i, j)] = above + row;
        }
    }
    for ((i, j), value) in sums.indexed_iter_mut() {
        // Rounding may exceed the bound by a few units in the last place.
        *value = (*value / (i.min(j) + 1) as f64).min(1.0);
    }
    sums
}

/// The min(r₁, r₂) principal angles in radians, ascending, each in [0, π/2] and with an absolute error
/// of a few ε, however small it is.
///
/// Shapes: `first` d × r₁ and `second` d × r₂, with orthonormal columns.
///
/// ```
/// use ndarray::array;
/// use rankwise_analysis::principal_angles;
///
/// let angle = 1e-9_f64;
/// let first = array![[1.0], [0.0]];
/// let second = array![[angle.cos()], [angle.sin()]];
/// // An arc cosine would say 0: cos 1e-9 is 1 in double precision.
/// let found = principal_angles(first.view(), second.view())?;
/// assert!((found[0] - angle).abs() < 1e-15);
/// # Ok::<(), rankwise_analysis::Error>(())
/// ```
///
/// # Errors
/// As [`subspace_similarity`], and [`Error::NoConvergence`].
pub fn principal_angles(
    first: ArrayView2<'_, f64>,
    second: ArrayView2<'_, f64>,
) -> Result<Vec<f64>, Error> {
    check(first, second)?;
    angles_of(first, second, first.t().dot(&second).view())
}

/// As [`principal_angles`], with U₁ᵀU₂ at hand.
pub(super) fn angles_of(
    first: ArrayView2<'_, f64>,
    second: ArrayView2<'_, f64>,
    overlap: ArrayView2<'_, f64>,
) -> Result<Vec<f64>, Error> {
    let cosines = singular_values(overlap)?;
    // What the smaller subspace has outside the larger: as many columns as there are angles.
    let outside = if first.ncols() >= second.ncols() {
        &second - &first.dot(&overlap)
    } else {
        &first - &second.dot(&overlap.t())
    };
    let sines = singular_values(outside.view())?;
    let angle = |(&cosine, &sine): (&f64, &f64)| {
        if 2.0 * cosine * cosine >= 1.0 {
            sine.min(1.0).asin()
        } else {
            cosine.min(1.0).acos()
        }
    };
    // Cosines descend, sines are taken from their end: both belong to ascending angles.
    Ok(cosines.iter().zip(sines.iter().rev()).map(angle).collect())
}

/// Mean and standard deviation of φ(i, j) between a subspace of dimension i and a uniformly random one
/// of dimension j.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct ChanceSimilarity {
    /// max(i, j)/d.
    pub mean: f64,
    /// √(2 i(d − i) j(d − j) / (d²(d − 1)(d + 2))) / min(i, j).
    pub deviation: f64,
}

impl ChanceSimilarity {
    /// In ℝ^`dimension`.
    ///
    /// ```
    /// use rankwise_analysis::ChanceSimilarity;
    ///
    /// assert_eq!(ChanceSimilarity::new(768, 1, 8)?.mean, 8.0 / 768.0);
    /// # Ok::<(), rankwise_analysis::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Mismatch`] if i or j is zero or exceeds the dimension.
    pub fn new(dimension: usize, i: usize, j: usize) -> Result<Self, Error> {
        if i.min(j) == 0 || i.max(j) > dimension {
            return Err(Error::Mismatch {
                what: "dimensions of subspaces",
                expected: format!("1 to {dimension}"),
                found: format!("{i} and {j}"),
            });
        }
        Ok(Self::of(dimension, i, j))
    }

    /// As [`new`](Self::new), for dimensions that are known to fit.
    pub(super) fn of(dimension: usize, i: usize, j: usize) -> Self {
        let (least, most) = (i.min(j) as f64, i.max(j) as f64);
        let (d, i, j) = (dimension as f64, i as f64, j as f64);
        let variance = if dimension > 1 {
            2.0 * i * (d - i) * j * (d - j) / (d * d * (d - 1.0) * (d + 2.0))
        } else {
            0.0
        };
        Self {
            mean: most / d,
            deviation: variance.max(0.0).sqrt() / least,
        }
    }
}

fn check(first: ArrayView2<'_, f64>, second: ArrayView2<'_, f64>) -> Result<(), Error> {
    if first.nrows() != second.nrows() {
        return Err(Error::Mismatch {
            what: "rows of the second basis",
            expected: format!("{}, the rows of the first", first.nrows()),
            found: second.nrows().to_string(),
        });
    }
    for (what, basis) in [("first basis", first), ("second basis", second)] {
        check_finite(what, basis)?;
        if basis.ncols() > basis.nrows() {
            return Err(Error::Mismatch {
                what: "columns of a basis",
                expected: format!("at most {}, its rows", basis.nrows()),
                found: basis.ncols().to_string(),
            });
        }
        let gram = basis.t().dot(&basis);
        let far = (gram - Array2::<f64>::eye(basis.ncols()))
            .iter()
            .fold(0.0_f64, |far, x| far.max(x.abs()));
        if far > ORTHONORMAL {
            return Err(Error::Mismatch {
                what,
                expected: format!("orthonormal columns, to {ORTHONORMAL:e}"),
                found: format!("a Gram matrix {far:e} from the identity"),
            });
        }
    }
    Ok(())
}

/// The first `count` columns.
pub(super) fn leading(basis: &Array2<f64>, count: usize) -> ArrayView2<'_, f64> {
    basis.slice_axis(Axis(1), Slice::from(..count.min(basis.ncols())))
}
