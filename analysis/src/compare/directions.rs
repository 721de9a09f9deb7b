//! The directions of one update, ready to be compared.
//!
//! Everything is taken in the layer's own orientation, outputs × inputs: U spans outputs, V inputs,
//! also where the base model keeps the transpose (GPT-2, embeddings).

use ndarray::{Array2, ArrayView2, Axis, concatenate};

use super::subspace::leading;
use crate::adapter::{Adapter, Module};
use crate::linalg::Svd;
use crate::{Error, Measures, TauRule, measures, product_singular_values};

/// The singular value decomposition of an update, and how much of it is above rounding.
#[derive(Debug)]
pub(super) struct Directions {
    /// U outputs × k, σ, Vᵀ k × inputs.
    pub svd: Svd,
    /// V, inputs × k.
    pub v: Array2<f64>,
    /// Of the spectrum; the numerical rank is the number of directions that are compared.
    pub measures: Measures,
}

impl Directions {
    /// Of a module's update.
    ///
    /// # Errors
    /// As the adapter's reader; [`Error::Mismatch`] if the update covers only some rows of the
    /// weight (trained tokens): which ones may differ between adapters.
    pub fn read(adapter: &Adapter, module: &Module) -> Result<Self, Error> {
        let update = adapter.update(module)?;
        let expected = shape(module);
        if update.shape() != expected {
            return Err(Error::Mismatch {
                what: "update",
                expected: format!("all of the weight, {expected:?}"),
                found: format!("some rows of it, {:?}", update.shape()),
            });
        }
        let svd = update.svd(usize::MAX)?;
        let rule = TauRule::Precision(module.epsilon.for_products());
        Ok(Self {
            measures: measures(&svd.s, expected, rule),
            v: svd.vt.t().as_standard_layout().into_owned(),
            svd,
        })
    }

    /// The directions above rounding: none for a zero update.
    pub fn rank(&self) -> usize {
        self.measures.numerical_rank
    }

    /// The first `count` left singular vectors, as columns.
    pub fn left(&self, count: usize) -> ArrayView2<'_, f64> {
        leading(&self.svd.u, count)
    }

    /// The first `count` right singular vectors, as columns.
    pub fn right(&self, count: usize) -> ArrayView2<'_, f64> {
        leading(&self.v, count)
    }

    /// U·diag(σ).
    fn scaled_left(&self) -> Array2<f64> {
        let mut scaled = self.svd.u.clone();
        for (mut column, &sigma) in scaled.columns_mut().into_iter().zip(&self.svd.s) {
            column *= sigma;
        }
        scaled
    }

    /// ΔW itself.
    pub fn dense(&self) -> Array2<f64> {
        self.scaled_left().dot(&self.svd.vt)
    }
}

/// Outputs and inputs.
pub(super) fn shape(module: &Module) -> (usize, usize) {
    let (rows, columns) = module.shape;
    if module.is_transposed {
        (columns, rows)
    } else {
        (rows, columns)
    }
}

/// ⟨ΔW₁, ΔW₂⟩ / (‖ΔW₁‖‖ΔW₂‖), by Σ σᵢτⱼ (uᵢ·u'ⱼ)(vᵢ·v'ⱼ); `None` if one is zero.
pub(super) fn cosine(first: &Directions, second: &Directions) -> Option<f64> {
    let (norm, other) = (relative_norm(first)?, relative_norm(second)?);
    let left = first.svd.u.t().dot(&second.svd.u);
    let right = first.svd.vt.dot(&second.v);
    let (sigma, tau) = (&first.svd.s, &second.svd.s);
    // Relative to the largest values, so that products neither overflow nor vanish.
    let mut sum = 0.0;
    for ((i, j), &overlap) in left.indexed_iter() {
        sum += sigma[i] / sigma[0] * (tau[j] / tau[0]) * overlap * right[(i, j)];
    }
    Some((sum / (norm * other)).clamp(-1.0, 1.0))
}

/// ‖ΔW‖_F/σ₁.
fn relative_norm(directions: &Directions) -> Option<f64> {
    let first = *directions.svd.s.first()?;
    (first > 0.0).then(|| directions.measures.frobenius_norm / first)
}

/// ‖ΔW₁ − ΔW₂‖_F / √(‖ΔW₁‖² + ‖ΔW₂‖²): 0 for equal updates, 1 for orthogonal ones, √2 for opposite
/// ones; `None` if both are zero.
///
/// The difference is decomposed as a product of its own, so that no digit of a small one is lost.
pub(super) fn distance(first: &Directions, second: &Directions) -> Result<Option<f64>, Error> {
    let size = first
        .measures
        .frobenius_norm
        .hypot(second.measures.frobenius_norm);
    if size == 0.0 {
        return Ok(None);
    }
    let (m, n) = (first.svd.u.nrows(), first.svd.vt.ncols());
    let (left, minus) = (first.scaled_left(), -second.scaled_left());
    // Both concatenations are of matrices of one height or width.
    let b = concatenate(Axis(1), &[left.view(), minus.view()]);
    let a = concatenate(Axis(0), &[first.svd.vt.view(), second.svd.vt.view()]);
    let (Ok(b), Ok(a)) = (b, a) else {
        return Err(Error::Mismatch {
            what: "second update",
            expected: format!("{m} x {n}"),
            found: format!("{} x {}", second.svd.u.nrows(), second.svd.vt.ncols()),
        });
    };
    let norm = if b.ncols() < m.min(n) {
        norm(&product_singular_values(b.view(), a.view(), 1.0)?)
    } else {
        norm(b.dot(&a).iter())
    };
    Ok(Some(norm / size))
}

/// √Σx², without overflow.
pub(super) fn norm<'a>(values: impl IntoIterator<Item = &'a f64> + Clone) -> f64 {
    let of = |values: &mut dyn Iterator<Item = &'a f64>| {
        values.fold(0.0_f64, |largest, x| largest.max(x.abs()))
    };
    let largest = of(&mut values.clone().into_iter());
    if largest == 0.0 {
        return 0.0;
    }
    let sum: f64 = values.into_iter().map(|x| (x / largest).powi(2)).sum();
    largest * sum.sqrt()
}
