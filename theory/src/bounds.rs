//! Five bounds on E‖f(x) − f̄(x)‖₂, side by side: one as printed, one half repaired, three proved.
//!
//! # Claim
//! For every input with E[x xᵀ] = Σ there are adapters with rank ΔW_l ≤ R_l, and biases, such that
//! the error is at most
//!
//! ```text
//! β Σ_{i=1..L̄} ( max_k (F_k + e_k) )^{L̄−i} e_i                          (Eq. 8)
//! ```
//!
//! | symbol | identifier | meaning |
//! |---|---|---|
//! | F_j | `TargetNorms::frobenius` | ‖W̄_j‖_F |
//! | ‖W̄_j‖₂ | `TargetNorms::spectral` | |
//! | ‖b̄_j‖ | `TargetNorms::bias` | |
//! | e_i | `layer_errors` | σ_{1+ΣR}(E_i) |
//! | β | `Betas` | magnitude of target and input |
//!
//! # The bounds
//! - **literal**: β = max_{1≤i≤L̄} [ s Π_{j≤i} F_j + Σ_{j≤i} (Π_{k=j+1}^{i−1} F_k) ‖b̄_j‖ ] ∨ s with
//!   s = √‖Σ‖_F, as printed. *False*, in two ways: E‖x‖ ≤ √tr Σ is what Jensen gives, and ‖Σ‖_F may
//!   be √D times smaller than tr Σ; and pushing a bias b̄_j through layers j+1..i multiplies it by
//!   F_{j+1} … F_i, not F_{j+1} … F_{i−1}. See [`Counterexample`](crate::Counterexample).
//! - **trace**: the literal β with s = √tr Σ. Proved for L̄ ≤ 2 only; short by less than a factor 2
//!   beyond.
//! - **corrected** (proved): s = √tr Σ and
//!   β = max_{0≤i≤L̄−1} [ s Π_{j≤i} F_j + Σ_{j≤i} (Π_{k=j+1}^{i} F_k) ‖b̄_j‖ ].
//! - **spectral** (proved, tighter): B_0 = 0, m_0 = √tr Σ, then
//!   B_i = B_{i−1}(‖W̄_i‖₂ + e_i) + e_i m_{i−1} and m_i = ‖W̄_i‖₂ m_{i−1} + ‖b̄_i‖.
//! - **tail** (proved, known only once the adapters are): B_i = B_{i−1}‖W̄_i‖₂ + √tr(Δ_i S_{i−1} Δ_iᵀ)
//!   with Δ_i = ∏Ŵ − W̄_i and S_{i−1} the second moment of the adapted network's input to block i;
//!   where a block's bias is not b̄_i, the difference is added to Δ_i z under the root.
//!
//! # Proof sketch
//! ReLU is 1-Lipschitz and the construction makes block i act as z ↦ ReLU((W̄_i + Δ_i) z + b̄_i) with
//! ‖Δ_i‖₂ = e_i. Write z for the adapted and z̄ for the target activations. Splitting the difference
//! of the two pre-activations as (W̄_i + Δ_i)(z − z̄) + Δ_i z̄ gives
//! E‖z_i − z̄_i‖ ≤ (‖W̄_i‖₂ + e_i) E‖z_{i−1} − z̄_{i−1}‖ + e_i E‖z̄_{i−1}‖, and m_i ≥ E‖z̄_i‖ by the
//! same argument: *spectral*. Bounding ‖W̄_i‖₂ by F_i, every E‖z̄_{i−1}‖ by one β, and every factor by
//! the largest gives *corrected*; its β needs the activations that enter blocks 1..L̄, hence
//! 0 ≤ i ≤ L̄ − 1. Splitting as W̄_i(z − z̄) + Δ_i z instead, with E‖Δ z‖ ≤ √E‖Δ z‖², gives *tail*.
//!
//! Source: the paper, Theorem 3.1 and Eq. 8, after Zeng & Lee 2024, Theorem 6. Departures: the
//! trace, corrected, spectral and tail forms.

use ndarray::Array2;
use rankwise_analysis::linalg::singular_values;

use crate::{Construction, Error, Fnn, Sample, SecondMoment};

/// What the bounds need to know of the target, a value per layer.
#[derive(Debug, Clone, PartialEq)]
pub struct TargetNorms {
    /// ‖W̄_j‖_F.
    pub frobenius: Vec<f64>,
    /// ‖W̄_j‖₂.
    pub spectral: Vec<f64>,
    /// ‖b̄_j‖₂.
    pub bias: Vec<f64>,
}

impl TargetNorms {
    /// The norms of every layer of `target`.
    ///
    /// # Errors
    /// [`Error::Linalg`] if a decomposition fails.
    pub fn new(target: &Fnn) -> Result<Self, Error> {
        let mut spectral = Vec::with_capacity(target.depth());
        for w in target.weights() {
            spectral.push(singular_values(w.view())?[0]);
        }
        let frobenius = |w: &Array2<f64>| crate::sample::frobenius(w.view());
        Ok(Self {
            frobenius: target.weights().iter().map(frobenius).collect(),
            spectral,
            bias: target.biases().iter().map(|b| b.dot(b).sqrt()).collect(),
        })
    }

    /// m_L̄, an upper bound on E‖f̄(x)‖₂ and on the size of everything summed on the way there.
    pub(crate) fn output_scale(&self, input: f64) -> f64 {
        let layers = self.spectral.iter().zip(&self.bias);
        layers.fold(input, |m, (w, b)| w * m + b)
    }
}

/// The three readings of β.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Betas {
    /// As printed.
    pub literal: f64,
    /// As printed, with √tr Σ for √‖Σ‖_F.
    pub trace: f64,
    /// As the proof needs it.
    pub corrected: f64,
}

impl Betas {
    /// The three readings for one target and one input.
    pub fn new(target: &TargetNorms, sigma: &SecondMoment) -> Self {
        Self {
            literal: beta_as_printed(target, sigma.frobenius_norm().sqrt()),
            trace: beta_as_printed(target, sigma.trace().sqrt()),
            corrected: beta_corrected(target, sigma.trace().sqrt()),
        }
    }
}

/// The bounds that are known before there are adapters.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bounds {
    /// The magnitudes that the first three multiply.
    pub betas: Betas,
    /// Eq. 8 as printed: false in general.
    pub literal: f64,
    /// Eq. 8 with √tr Σ for √‖Σ‖_F: proved for L̄ ≤ 2.
    pub trace: f64,
    /// Eq. 8 with the β that its proof needs.
    pub corrected: f64,
    /// The recursion in spectral norms.
    pub spectral: f64,
}

impl Bounds {
    /// The bounds for `layer_errors` e_1, …, e_L̄ of a target and an input with second moment Σ.
    ///
    /// ```
    /// use ndarray::{Array2, array};
    /// use rankwise_theory::{Bounds, Fnn, SecondMoment, TargetNorms};
    ///
    /// let target = Fnn::without_biases(vec![array![[2.0, 0.0], [0.0, 1.0]]])?;
    /// let sigma = SecondMoment::new(Array2::eye(2))?;
    /// let bounds = Bounds::new(&TargetNorms::new(&target)?, &[1.0], &sigma)?;
    /// assert!((bounds.corrected - 2_f64.sqrt()).abs() < 1e-15);
    /// # Ok::<(), rankwise_theory::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Invalid`] unless there is one e_i for each layer.
    pub fn new(
        target: &TargetNorms,
        layer_errors: &[f64],
        sigma: &SecondMoment,
    ) -> Result<Self, Error> {
        let depth = target.frobenius.len();
        if layer_errors.len() != depth {
            let expected = format!("one for each of {depth} target layers");
            return Err(Error::invalid("layer errors", expected, layer_errors.len()));
        }
        let betas = Betas::new(target, sigma);
        let sum = sum_of_equation_8(target, layer_errors);
        Ok(Self {
            betas,
            literal: betas.literal * sum,
            trace: betas.trace * sum,
            corrected: betas.corrected * sum,
            spectral: spectral(target, layer_errors, sigma.trace().sqrt()),
        })
    }
}

/// The tail bound of a finished construction on a sample.
pub(crate) fn tail(
    target: &Fnn,
    norms: &TargetNorms,
    construction: &Construction,
    sample: &Sample,
) -> f64 {
    let mut z = sample.points().to_owned();
    let mut bound = 0.0;
    for (i, block) in construction.blocks().iter().enumerate() {
        let delta = &block.product - &target.weights()[i];
        let shift = &block.bias - &target.biases()[i];
        bound = bound * norms.spectral[i] + sample.root_mean_square(&(z.dot(&delta.t()) + shift));
        z = construction
            .adapted()
            .forward_layers(block.layers.clone(), z.view());
    }
    bound
}

/// s Π_{j≤i} F_j + Σ_{j≤i} (Π_{k=j+1}^{i} F_k) ‖b̄_j‖ for i = 0, 1, …, L̄, by Horner's rule.
fn magnitudes(target: &TargetNorms, s: f64) -> impl Iterator<Item = f64> {
    let layers = target.frobenius.iter().zip(&target.bias);
    let steps = layers.scan(s, |m, (f, b)| {
        *m = *m * f + b;
        Some(*m)
    });
    std::iter::once(s).chain(steps)
}

fn beta_corrected(target: &TargetNorms, s: f64) -> f64 {
    magnitudes(target, s)
        .take(target.bias.len())
        .fold(0.0, f64::max)
}

fn beta_as_printed(target: &TargetNorms, s: f64) -> f64 {
    let (mut product, mut biases, mut beta) = (s, 0.0, s);
    for (f, b) in target.frobenius.iter().zip(&target.bias) {
        // The printed product stops at F_{i−1}: the earlier biases have not yet met F_i.
        product *= f;
        beta = f64::max(beta, product + biases + b);
        biases = biases * f + b;
    }
    beta
}

fn sum_of_equation_8(target: &TargetNorms, e: &[f64]) -> f64 {
    let factors = target.frobenius.iter().zip(e).map(|(f, e)| f + e);
    let largest = factors.fold(0.0, f64::max);
    e.iter().fold(0.0, |sum, e| sum * largest + e)
}

fn spectral(target: &TargetNorms, e: &[f64], input: f64) -> f64 {
    let layers = target.spectral.iter().zip(&target.bias).zip(e);
    let (bound, _) = layers.fold((0.0, input), |(bound, m), ((w, b), e)| {
        (bound * (w + e) + e * m, w * m + b)
    });
    bound
}

#[cfg(test)]
mod tests {
    use super::*;

    /// L̄ = 3 with every factor a different prime, so that no two terms can be confused.
    fn primes() -> TargetNorms {
        TargetNorms {
            frobenius: vec![2.0, 3.0, 5.0],
            spectral: vec![1.0, 2.0, 3.0],
            bias: vec![7.0, 11.0, 13.0],
        }
    }

    #[test]
    fn betas_term_by_term() {
        let s = 17.0;
        let third = s * 30.0 + (13.0 + 11.0 + 3.0 * 7.0);
        assert_eq!(beta_as_printed(&primes(), s), third);
        let second = s * 6.0 + (11.0 + 3.0 * 7.0);
        assert_eq!(beta_corrected(&primes(), s), second);
        let shrinking = TargetNorms {
            frobenius: vec![0.125; 3],
            spectral: vec![0.125; 3],
            bias: vec![0.0; 3],
        };
        assert_eq!(beta_as_printed(&shrinking, s), s);
        assert_eq!(beta_corrected(&shrinking, s), s);
    }

    #[test]
    fn sums_term_by_term() {
        let e = [0.5, 0.25, 1.0];
        // max(2.5, 3.25, 6) = 6
        assert_eq!(
            sum_of_equation_8(&primes(), &e),
            36.0 * 0.5 + 6.0 * 0.25 + 1.0
        );
        // B: 0.5·17 = 8.5; 8.5·2.25 + 0.25·24 = 25.125; 25.125·4 + 59 = 159.5
        assert_eq!(spectral(&primes(), &e, 17.0), 159.5);
    }
}
