//! What “the rank” of an update can mean: every definition, from the singular values σ alone.
//!
//! With λ = σ², p = σ/Σσ, q = λ/Σλ and H the entropy in nats:
//!
//! | field of [`Measures`] | formula | source |
//! |---|---|---|
//! | `numerical_rank` | #{σ > τ} | Golub & Van Loan |
//! | `energy_rank_90`, `_95`, `_99` | least k with Σ_{i≤k} λ ≥ 0.90, … Σλ | |
//! | `stable_rank` | Σλ/λ₁ | Rudelson & Vershynin 2007 |
//! | `effective_rank` | exp H(p) | Roy & Vetterli 2007 |
//! | `effective_rank_energy` | exp H(q) | |
//! | `participation_ratio` | (Σλ)²/Σλ² | |
//! | `nuclear_ratio` | (Σσ)²/Σλ | |

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::Error;

/// The threshold τ above which a singular value counts for the numerical rank.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum TauRule {
    /// `max(m, n)·ε·σ₁`, with ε the spacing of the numbers that were stored or trained.
    Precision(Epsilon),
    /// A share of σ₁.
    Relative(f64),
    /// The same for every matrix.
    Absolute(f64),
}

/// The machine epsilon of a storage type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Epsilon {
    /// 2⁻⁵².
    F64,
    /// 2⁻²³.
    F32,
    /// 2⁻¹⁰.
    F16,
    /// 2⁻⁷.
    Bf16,
    /// 2⁻³, of the eight-bit type with three fraction bits.
    F8E4m3,
    /// 2⁻², of the one with two.
    F8E5m2,
}

impl Epsilon {
    /// The distance from 1 to the next number.
    pub fn value(self) -> f64 {
        match self {
            Self::F64 => f64::EPSILON,
            Self::F32 => f64::from(f32::EPSILON),
            Self::F16 => half::f16::EPSILON.to_f64(),
            Self::Bf16 => half::bf16::EPSILON.to_f64(),
            Self::F8E4m3 => 0.125,
            Self::F8E5m2 => 0.25,
        }
    }

    /// The ε by which a product of factors stored in this type is judged: float32's for the half
    /// precision and eight-bit types. Their numbers are exact, products of them are summed in float32 wherever
    /// adapters are used, and with their own ε the threshold max(m, n)·ε·σ₁ would exceed σ₁ itself
    /// from max(m, n) = 1024 (float16) or 128 (bfloat16) on.
    pub fn for_products(self) -> Self {
        match self {
            Self::F64 => Self::F64,
            Self::F32 | Self::F16 | Self::Bf16 | Self::F8E4m3 | Self::F8E5m2 => Self::F32,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::F64 => "f64",
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::F8E4m3 => "f8_e4m3",
            Self::F8E5m2 => "f8_e5m2",
        }
    }
}

impl TauRule {
    /// τ for an m × n matrix whose largest singular value is `first`.
    pub fn tau(self, shape: (usize, usize), first: f64) -> f64 {
        match self {
            Self::Precision(epsilon) => shape.0.max(shape.1) as f64 * epsilon.value() * first,
            Self::Relative(share) => share * first,
            Self::Absolute(tau) => tau,
        }
    }
}

impl fmt::Display for TauRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Precision(epsilon) => write!(f, "max(m,n)*eps({})*sigma_1", epsilon.name()),
            Self::Relative(share) => write!(f, "{share:e}*sigma_1"),
            Self::Absolute(tau) => write!(f, "{tau:e}"),
        }
    }
}

/// Reads what [`Display`](fmt::Display) writes: `1e-3*sigma_1` is a share of σ₁, a number alone an
/// absolute threshold.
impl FromStr for TauRule {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let all = [
            Epsilon::F64,
            Epsilon::F32,
            Epsilon::F16,
            Epsilon::Bf16,
            Epsilon::F8E4m3,
            Epsilon::F8E5m2,
        ];
        let mut precisions = all.into_iter().map(Self::Precision);
        if let Some(rule) = precisions.find(|rule| rule.to_string() == text) {
            return Ok(rule);
        }
        let (number, rule): (&str, fn(f64) -> Self) = match text.strip_suffix("*sigma_1") {
            Some(share) => (share, Self::Relative),
            None => (text, Self::Absolute),
        };
        match number.parse() {
            Ok(value) if (0.0..f64::INFINITY).contains(&value) => Ok(rule(value)),
            _ => Err(Error::Mismatch {
                what: "threshold tau",
                expected: "a number that is not negative, NUMBER*sigma_1 or \
                           max(m,n)*eps(TYPE)*sigma_1 with f64, f32, f16, bf16, f8_e4m3 or \
                           f8_e5m2"
                    .to_owned(),
                found: format!("{text:?}"),
            }),
        }
    }
}

/// Every rank measure of one matrix, and the threshold that was used.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Measures {
    /// The threshold of the numerical rank.
    pub tau: f64,
    /// How τ was chosen.
    pub tau_rule: String,
    /// Singular values above τ.
    pub numerical_rank: usize,
    /// Directions that hold 90 % of Σλ.
    pub energy_rank_90: usize,
    /// Directions that hold 95 % of Σλ.
    pub energy_rank_95: usize,
    /// Directions that hold 99 % of Σλ.
    pub energy_rank_99: usize,
    /// Σλ/λ₁; `None` for a zero matrix, as are the other ratios.
    pub stable_rank: Option<f64>,
    /// exp H(σ/Σσ).
    pub effective_rank: Option<f64>,
    /// exp H(λ/Σλ).
    pub effective_rank_energy: Option<f64>,
    /// (Σλ)²/Σλ².
    pub participation_ratio: Option<f64>,
    /// (Σσ)²/Σλ.
    pub nuclear_ratio: Option<f64>,
    /// √Σλ.
    pub frobenius_norm: f64,
    /// σ₁.
    pub spectral_norm: f64,
}

/// Measures an m × n matrix by its singular values (descending, finite; zeros may be left out).
///
/// ```
/// use rankwise_analysis::{Epsilon, TauRule, measures};
/// let rule = TauRule::Precision(Epsilon::F64);
/// let m = measures(&[2.0, 1.0, 1.0, 0.0], (4, 9), rule);
/// assert_eq!((m.numerical_rank, m.energy_rank_90), (3, 3));
/// assert_eq!(m.stable_rank, Some(1.5));
/// ```
pub fn measures(sigma: &[f64], shape: (usize, usize), rule: TauRule) -> Measures {
    let first = sigma.first().copied().unwrap_or(0.0);
    let tau = rule.tau(shape, first);
    // Relative to σ₁, so that squares neither overflow nor vanish.
    let relative: Vec<f64> = sigma.iter().map(|value| value / first).collect();
    let energies: Vec<f64> = relative.iter().map(|value| value * value).collect();
    let energy: f64 = energies.iter().sum();
    let nuclear: f64 = relative.iter().sum();
    let is_zero = first == 0.0;
    let ratio = |value: f64| (!is_zero).then_some(value);
    let energy_rank = |share| rank_of_energy(&energies, share);
    Measures {
        tau,
        tau_rule: rule.to_string(),
        numerical_rank: sigma.iter().filter(|&&value| value > tau).count(),
        energy_rank_90: energy_rank(0.90),
        energy_rank_95: energy_rank(0.95),
        energy_rank_99: energy_rank(0.99),
        stable_rank: ratio(energy),
        effective_rank: ratio(exp_entropy(&relative, nuclear)),
        effective_rank_energy: ratio(exp_entropy(&energies, energy)),
        participation_ratio: ratio(energy * energy / energies.iter().map(|e| e * e).sum::<f64>()),
        nuclear_ratio: ratio(nuclear * nuclear / energy),
        frobenius_norm: if is_zero { 0.0 } else { first * energy.sqrt() },
        spectral_norm: first,
    }
}

/// How many of `sigma` (descending) hold `share` of Σλ, at least; 0 for a zero matrix.
pub(crate) fn energy_rank(sigma: &[f64], share: f64) -> usize {
    let first = sigma.first().copied().unwrap_or(0.0);
    let energies: Vec<f64> = sigma.iter().map(|value| (value / first).powi(2)).collect();
    rank_of_energy(&energies, share)
}

/// The same of σ²/σ₁²; those of a zero matrix are NaN.
fn rank_of_energy(energies: &[f64], share: f64) -> usize {
    let energy: f64 = energies.iter().sum();
    let mut held = 0.0;
    let below = |value: &&f64| {
        held += **value;
        held < share * energy
    };
    if energy > 0.0 {
        energies.iter().take_while(below).count() + 1
    } else {
        0
    }
}

/// exp of the entropy of `weights`/`total`.
fn exp_entropy(weights: &[f64], total: f64) -> f64 {
    let term = |&weight: &f64| {
        let share = weight / total;
        if share > 0.0 {
            -share * share.ln()
        } else {
            0.0
        }
    };
    weights.iter().map(term).sum::<f64>().exp()
}

/// Which Gram matrix an [`Orthogonality`] loss compares with the identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    /// ΔW ΔWᵀ.
    Rows,
    /// ΔWᵀ ΔW.
    Columns,
}

/// ‖ΔW ΔWᵀ − I‖²_F (the paper's Table 5): a floor that no update of rank r can go below, and the
/// excess over it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Orthogonality {
    /// Σ_{i≤r}(λ_i − 1)² + (d − r).
    pub loss: f64,
    /// d − r: what is left when all r singular values are 1.
    pub floor: f64,
    /// The loss less the floor.
    pub excess: f64,
    /// Whose d is meant.
    pub side: Side,
}

/// The orthogonality loss of an m × n matrix that can have at most `budget` singular values, by
/// those values.
pub fn orthogonality(
    sigma: &[f64],
    shape: (usize, usize),
    budget: usize,
    side: Side,
) -> Orthogonality {
    let d = match side {
        Side::Rows => shape.0,
        Side::Columns => shape.1,
    };
    let r = budget.min(shape.0).min(shape.1);
    let given = sigma
        .iter()
        .take(r)
        .map(|value| (value * value - 1.0).powi(2));
    // Singular values that were left out are zero.
    let excess = given.sum::<f64>() + r.saturating_sub(sigma.len()) as f64;
    let floor = (d - r) as f64;
    Orthogonality {
        loss: excess + floor,
        floor,
        excess,
        side,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const RULE: TauRule = TauRule::Precision(Epsilon::F32);

    #[test]
    fn a_flat_spectrum_has_one_rank_only() {
        let m = measures(&[3.0; 5], (10, 7), RULE);
        assert_eq!(
            (m.numerical_rank, m.energy_rank_90, m.energy_rank_99),
            (5, 5, 5)
        );
        for ratio in [
            m.stable_rank,
            m.effective_rank,
            m.effective_rank_energy,
            m.participation_ratio,
            m.nuclear_ratio,
        ] {
            assert!((ratio.unwrap() - 5.0).abs() < 1e-13);
        }
        assert!((m.frobenius_norm - 45_f64.sqrt()).abs() < 1e-14);
    }

    #[test]
    fn two_values_in_closed_form() {
        // σ = (3, 1): p = (3/4, 1/4), q = (9/10, 1/10).
        let m = measures(&[3.0, 1.0], (2, 2), RULE);
        let entropy = |p: f64| (-p * p.ln() - (1.0 - p) * (1.0 - p).ln()).exp();
        assert!((m.effective_rank.unwrap() - entropy(0.75)).abs() < 1e-15);
        assert!((m.effective_rank_energy.unwrap() - entropy(0.9)).abs() < 1e-15);
        assert!((m.participation_ratio.unwrap() - 100.0 / 82.0).abs() < 1e-15);
        assert!((m.nuclear_ratio.unwrap() - 1.6).abs() < 1e-15);
        assert_eq!((m.energy_rank_95, m.energy_rank_99), (2, 2));
    }

    #[test]
    fn a_zero_update_has_rank_zero_and_no_ratios() {
        let m = measures(&[0.0; 4], (4, 4), RULE);
        assert_eq!((m.numerical_rank, m.energy_rank_99), (0, 0));
        assert_eq!(
            (m.stable_rank, m.effective_rank, m.frobenius_norm),
            (None, None, 0.0)
        );
    }

    #[test]
    fn thresholds_count_and_print_themselves() {
        let sigma = [1.0, 1e-3, 1e-6];
        let rank = |rule| measures(&sigma, (100, 10), rule).numerical_rank;
        assert_eq!(rank(TauRule::Precision(Epsilon::F32)), 2);
        assert_eq!(rank(TauRule::Precision(Epsilon::F64)), 3);
        assert_eq!(rank(TauRule::Precision(Epsilon::Bf16)), 1);
        assert_eq!(rank(TauRule::Relative(0.5)), 1);
        assert_eq!(rank(TauRule::Absolute(1e-7)), 3);
        assert_eq!(RULE.to_string(), "max(m,n)*eps(f32)*sigma_1");
        for rule in [RULE, TauRule::Relative(1e-3), TauRule::Absolute(0.25)] {
            assert_eq!(rule.to_string().parse::<TauRule>().unwrap(), rule);
        }
        for text in ["", "-1", "nan", "inf*sigma_1", "max(m,n)*eps(f8)*sigma_1"] {
            let error = text.parse::<TauRule>().unwrap_err().to_string();
            assert!(
                error.starts_with("threshold tau: expected a number"),
                "{error}"
            );
        }
    }

    #[test]
    fn orthogonality_in_closed_form() {
        // ΔW = diag(2, 0) in 2 × 3: ΔWΔWᵀ − I = diag(3, −1), loss 10.
        let loss = orthogonality(&[2.0, 0.0], (2, 3), 2, Side::Rows);
        assert_eq!((loss.loss, loss.floor, loss.excess), (10.0, 0.0, 10.0));
        let columns = orthogonality(&[2.0], (2, 3), 2, Side::Columns);
        assert_eq!((columns.loss, columns.floor), (11.0, 1.0));
    }

    proptest! {
        #[test]
        fn measures_do_not_depend_on_the_scale_and_are_ordered(
            mut sigma in proptest::collection::vec(1e-3_f64..1e3, 1..30),
            scale in 1e-100_f64..1e100,
        ) {
            sigma.sort_by(|a, b| b.total_cmp(a));
            let m = measures(&sigma, (30, 30), RULE);
            let scaled: Vec<f64> = sigma.iter().map(|s| s * scale).collect();
            let n = measures(&scaled, (30, 30), RULE);
            prop_assert!((m.effective_rank.unwrap() / n.effective_rank.unwrap() - 1.0).abs() < 1e-9);
            prop_assert_eq!(m.energy_rank_90, n.energy_rank_90);
            // Rényi entropies fall with their order; the nuclear ratio is of order ½ in λ.
            let slack = 1.0 + 1e-9;
            let order = [
                m.stable_rank.unwrap(),
                m.participation_ratio.unwrap(),
                m.effective_rank_energy.unwrap(),
                m.nuclear_ratio.unwrap(),
                sigma.len() as f64,
            ];
            prop_assert!(order.windows(2).all(|pair| pair[0] <= pair[1] * slack), "{:?}", order);
        }
    }
}
