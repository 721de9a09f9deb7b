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

use crate::Error;
use crate::linalg::{check_finite, singular_values, triangular_factor};

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
    if b.ncols() != a.nrows() {
        return Err(Error::Mismatch {
            what: "rows of factor A",
            expected: format!("{}, the columns of factor B", b.ncols()),
            found: a.nrows().to_string(),
        });
    }
    if !scale.is_finite() {
        return Err(Error::Mismatch {
            what: "scale",
            expected: "a finite number".to_owned(),
            found: scale.to_string(),
        });
    }
    check_finite("factor B", b)?;
    check_finite("factor A", a)?;
    let left = triangular_factor(b);
    let right = triangular_factor(a.t());
    let mut singular_values = singular_values(left.dot(&right.t()).view())?;
    for value in &mut singular_values {
        *value *= scale.abs();
    }
    // The columns of R are as long as those of the matrix that it came from.
    let length = |r: &Array2<f64>, i: usize| r.column(i).dot(&r.column(i)).sqrt();
    let norms = (0..b.ncols())
        .map(|i| scale.abs() * length(&left, i) * length(&right, i))
        .collect();
    Ok(Directions {
        singular_values,
        norms,
    })
}
