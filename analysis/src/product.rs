//! Singular values of a product of thin factors, without the product.
//!
//! For ΔW = s B A with B m × R and A R × n, let B = Q_B R_B and Aᵀ = Q_A R_A (thin QR). Then
//! ΔW = Q_B (s R_B R_Aᵀ) Q_Aᵀ, and since Q_B and Q_A have orthonormal columns, the singular values of
//! ΔW are those of the core R_B R_Aᵀ, at most R × R, times |s|. Cost O((m + n)R² + R³) instead of
//! O(mn min(m, n)), and no digit is lost to a rounded product or a Gram matrix: all in float64,
//! whatever the factors are stored in.
//!
//! | symbol | identifier |
//! |---|---|
//! | B, A | `b`, `a` |
//! | s = α/R | `scale` |
//! | R_B, R_A | `left`, `right` |
//!
//! Source: G. H. Golub and C. F. Van Loan, Matrix Computations, 4th ed., section 5.2 (thin QR).

use ndarray::{Array2, ArrayView2};

use crate::linalg::{
    TallQr, check_finite, core_singular_values, normalized, rescaled, to_ndarray, triangular_factor,
};
use crate::{Error, StoredMatrix};

/// Below it squares of the factor's entries may have vanished.
const SMALLEST: f64 = 1e-100;

/// The min(R, m, n) singular values of `scale` · B A, descending, for B m × R and A R × n: all that
/// can differ from zero.
///
/// ```
/// use ndarray::array;
/// use rankwise_analysis::product_singular_values;
///
/// // B has orthogonal columns of length 2 and 1, A orthonormal rows; α/R = 3.
/// let b = array![[2.0_f32, 0.0], [0.0, 1.0], [0.0, 0.0]];
/// let a = array![[0.0_f32, 1.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]];
/// assert_eq!(product_singular_values(b.view(), a.view(), 3.0)?, [6.0, 3.0]);
/// # Ok::<(), rankwise_analysis::Error>(())
/// ```
///
/// # Errors
/// [`Error::Mismatch`] if the columns of B are not as many as the rows of A or the scale is not
/// finite, [`Error::NonFinite`] if an entry is NaN or infinite, [`Error::NoConvergence`].
pub fn product_singular_values<T: Copy + Into<f64>>(
    b: ArrayView2<'_, T>,
    a: ArrayView2<'_, T>,
    scale: f64,
) -> Result<Vec<f64>, Error> {
    Ok(directions(b, a, scale)?.singular_values)
}

/// [`product_singular_values`] of factors in a file's bytes, which are read once and never copied.
///
/// # Errors
/// As [`product_singular_values`].
pub fn stored_product_singular_values(
    b: StoredMatrix<'_>,
    a: StoredMatrix<'_>,
    scale: f64,
) -> Result<Vec<f64>, Error> {
    Ok(stored_directions((b, false), (a, false), scale)?.singular_values)
}

/// The spectrum of a product, and how long its directions are.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Directions {
    /// Descending.
    pub singular_values: Vec<f64>,
    /// |s|·‖b_i‖·‖a_i‖ for every one of the R columns b_i of B and rows a_i of A, in their order;
    /// nothing where an update has no such directions.
    pub norms: Vec<f64>,
}

/// As [`product_singular_values`], with the directions' lengths.
///
/// # Errors
/// As there.
pub(crate) fn directions<T: Copy + Into<f64>>(
    b: ArrayView2<'_, T>,
    a: ArrayView2<'_, T>,
    scale: f64,
) -> Result<Directions, Error> {
    check_sizes(b.ncols(), a.nrows(), scale)?;
    let (left, right) = (triangle(b), triangle(a.t()));
    let is_finite = |(r, _): &(Array2<f64>, i32)| r.iter().all(|x| x.is_finite());
    if !is_finite(&left) {
        check_finite("factor B", b)?;
    }
    if !is_finite(&right) {
        check_finite("factor A", a)?;
    }
    scaled(left, right, scale)
}

/// As [`stored_product_singular_values`], with the directions' lengths; either matrix may be stored
/// transposed.
///
/// # Errors
/// As there.
pub(crate) fn stored_directions(
    (b, b_is_transposed): (StoredMatrix<'_>, bool),
    (a, a_is_transposed): (StoredMatrix<'_>, bool),
    scale: f64,
) -> Result<Directions, Error> {
    let columns = if b_is_transposed {
        b.shape().0
    } else {
        b.shape().1
    };
    let rows = if a_is_transposed {
        a.shape().1
    } else {
        a.shape().0
    };
    check_sizes(columns, rows, scale)?;
    let (left, right) = (b.triangle(b_is_transposed), a.triangle(!a_is_transposed));
    if is_usual(&left) && is_usual(&right) {
        return scaled((left, 0), (right, 0), scale);
    }
    // An entry is not finite, all are zero, or squares are out of range.
    let array = |matrix: StoredMatrix<'_>, is_transposed| {
        let array = matrix.to_array();
        if is_transposed {
            array.reversed_axes()
        } else {
            array
        }
    };
    let (b, a) = (array(b, b_is_transposed), array(a, a_is_transposed));
    directions(b.view(), a.view(), scale)
}

fn check_sizes(columns: usize, rows: usize, scale: f64) -> Result<(), Error> {
    if columns != rows {
        return Err(Error::Mismatch {
            what: "rows of factor A",
            expected: format!("{columns}, the columns of factor B"),
            found: rows.to_string(),
        });
    }
    if !scale.is_finite() {
        return Err(Error::Mismatch {
            what: "scale",
            expected: "a finite number".to_owned(),
            found: scale.to_string(),
        });
    }
    Ok(())
}

/// The singular values of the core and the directions' lengths, times the powers of two that the
/// triangles lack.
fn scaled(
    (left, first): (Array2<f64>, i32),
    (right, second): (Array2<f64>, i32),
    scale: f64,
) -> Result<Directions, Error> {
    let back = |values: Vec<f64>| {
        let values = rescaled(values, first + second).into_iter();
        values.map(|x| x * scale.abs()).collect()
    };
    // The columns of R are as long as those of the matrix that it came from.
    let length = |r: &Array2<f64>, i: usize| r.column(i).dot(&r.column(i)).sqrt();
    let norms = (0..left.ncols())
        .map(|i| length(&left, i) * length(&right, i))
        .collect();
    Ok(Directions {
        singular_values: back(core_singular_values(left.view(), right.view())?),
        norms: back(norms),
    })
}

/// Whether the triangle is finite and squares of the factor's entries have not vanished.
fn is_usual(r: &Array2<f64>) -> bool {
    let largest = r.iter().fold(0.0_f64, |largest, x| largest.max(x.abs()));
    largest > SMALLEST && r.iter().all(|x| x.is_finite())
}

/// R of a factor times 2^−e, and e: zero unless squares of entries are out of float64's range. Not
/// finite if an entry is not.
fn triangle<T: Copy + Into<f64>>(factor: ArrayView2<'_, T>) -> (Array2<f64>, i32) {
    let mut tall = TallQr::new(factor.ncols(), factor.nrows());
    tall.push(factor);
    let r = tall.finish();
    if is_usual(&r) || factor.is_empty() {
        return (r, 0);
    }
    match normalized(factor.mapv(Into::into).view()) {
        Ok((scaled, exponent)) => (
            triangular_factor(to_ndarray(scaled.as_ref()).view()),
            exponent,
        ),
        Err(_) => (r, 0),
    }
}
