//! A second opinion on spectra, from a linear algebra library that nothing else here uses.

use nalgebra::DMatrix;
use ndarray::ArrayView2;

/// How far two libraries' singular values may be apart, relative to the largest: D ε for widths up
/// to 4000.
pub const ORACLE: f64 = 1e-12;

/// The min(m, n) singular values of an m × n matrix, descending, by nalgebra; `None` if its
/// iteration does not end.
///
/// ```
/// let s = rankwise_theory::oracle_singular_values(ndarray::array![[3.0, 0.0], [4.0, 5.0]].view());
/// assert!((s.expect("converges")[1] - 5_f64.sqrt()).abs() < 1e-14);
/// ```
pub fn oracle_singular_values(matrix: ArrayView2<'_, f64>) -> Option<Vec<f64>> {
    /// nalgebra's own default for its stopping rule is 5ε.
    const STOP: f64 = 5.0 * f64::EPSILON;
    const ITERATIONS: usize = 10_000;
    let (m, n) = matrix.dim();
    if m == 0 || n == 0 {
        return Some(Vec::new());
    }
    let copy = DMatrix::from_fn(m, n, |i, j| matrix[[i, j]]);
    let svd = copy.try_svd(false, false, STOP, ITERATIONS)?;
    let mut sigma: Vec<f64> = svd.singular_values.iter().copied().collect();
    sigma.sort_by(|a, b| b.total_cmp(a));
    Some(sigma)
}
