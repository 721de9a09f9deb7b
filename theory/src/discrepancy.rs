//! How far a block of frozen layers is from the target layer it stands in for.
//!
//! | symbol | identifier |
//! |---|---|
//! | P = W_n … W_1 of the block | `frozen_product` |
//! | E = W̄ − P | `matrix` |
//! | σ_1 ≥ σ_2 ≥ … of E | `singular_values` |
//! | e = σ_{1+ΣR}(E), 0 past the last | `layer_error` |
//!
//! By Eckart–Young and Mirsky, e is the least ‖W̄ − (P + N)‖₂ over all N of rank ΣR, and every
//! product ∏(W_l + ΔW_l) with rank ΔW_l ≤ R_l is such a P + N: no adapter can do better in the
//! linear case.
//!
//! Source: Theorem 3.1 of the paper; Zeng & Lee 2024, Theorem 6.

use ndarray::{Array1, Array2, ArrayView1, ArrayView2, Axis};
use rankwise_analysis::linalg::{Svd, svd};

use crate::Error;
use crate::sample::frobenius;

/// E_i with its singular value decomposition.
#[derive(Debug, Clone, PartialEq)]
pub struct Discrepancy {
    matrix: Array2<f64>,
    frozen_product: Array2<f64>,
    svd: Svd,
    rank: usize,
}

impl Discrepancy {
    /// E = W̄ − P for a target weight W̄ and the product P of `layers` frozen layers, both D × D.
    ///
    /// ```
    /// use ndarray::{Array2, array};
    /// use rankwise_theory::Discrepancy;
    ///
    /// let target = array![[2.0, 0.0], [0.0, 1.0]];
    /// let gap = Discrepancy::new(target.view(), Array2::zeros((2, 2)), 1)?;
    /// assert_eq!((gap.layer_error(0), gap.layer_error(1), gap.layer_error(2)), (2.0, 1.0, 0.0));
    /// # Ok::<(), rankwise_theory::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Invalid`] if the shapes differ, [`Error::Linalg`] if a product overflowed or the
    /// decomposition fails.
    pub fn new(
        target: ArrayView2<'_, f64>,
        frozen_product: Array2<f64>,
        layers: usize,
    ) -> Result<Self, Error> {
        if target.dim() != frozen_product.dim() || !target.is_square() {
            return Err(Error::invalid(
                "frozen product",
                format!("{0} x {0}", target.nrows()),
                format!("{} x {}", frozen_product.nrows(), frozen_product.ncols()),
            ));
        }
        let matrix = &target - &frozen_product;
        let svd = svd(matrix.view())?;
        // Each of the n products and the subtraction rounds at ε per term of a sum of D: smaller
        // singular values are rounding of a matrix of lower rank.
        let scale = frobenius(target) + frobenius(frozen_product.view());
        let rounding = (layers * svd.s.len()) as f64 * f64::EPSILON * scale;
        let rank = svd.s.iter().filter(|&&sigma| sigma > rounding).count();
        Ok(Self {
            matrix,
            frozen_product,
            svd,
            rank,
        })
    }

    /// E, D × D.
    pub fn matrix(&self) -> ArrayView2<'_, f64> {
        self.matrix.view()
    }

    /// P, D × D.
    pub fn frozen_product(&self) -> ArrayView2<'_, f64> {
        self.frozen_product.view()
    }

    /// σ_1 ≥ … ≥ σ_D of E.
    pub fn singular_values(&self) -> &[f64] {
        &self.svd.s
    }

    /// rank E to working precision: how many singular values exceed n D ε (‖W̄‖_F + ‖P‖_F).
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// e = σ_{1+budget}(E), zero for a budget of D or more.
    pub fn layer_error(&self, budget: usize) -> f64 {
        self.svd.s.get(budget).copied().unwrap_or(0.0)
    }

    /// The best approximation of E of rank at most `budget`, balanced: N = X Yᵀ with
    /// X = U_r √S_r and Y = V_r √S_r, r = min(budget, rank E). Each is D × r.
    pub fn best_factors(&self, budget: usize) -> (Array2<f64>, Array2<f64>) {
        let r = budget.min(self.rank);
        let roots: Array1<f64> = self.svd.s[..r].iter().map(|sigma| sigma.sqrt()).collect();
        let u = self.svd.u.view().split_at(Axis(1), r).0;
        let v = self.svd.vt.t().split_at(Axis(1), r).0;
        (&u * &roots, &v * &roots)
    }

    /// E − N, what the best approximation of rank at most `budget` leaves: D × D.
    pub fn residual(&self, budget: usize) -> Array2<f64> {
        let r = budget.min(self.rank);
        let u = self.svd.u.view().split_at(Axis(1), r).1;
        let vt = self.svd.vt.view().split_at(Axis(0), r).1;
        (&u * &ArrayView1::from(&self.svd.s[r..])).dot(&vt)
    }
}
