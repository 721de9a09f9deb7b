use std::fmt;
use std::str::FromStr;

use ndarray::{Array1, Array2, Axis};
use ndarray_rand::RandomExt;
use ndarray_rand::rand_distr::StandardNormal;
use rand::Rng;
use rankwise_analysis::linalg::qr;
use serde::{Deserialize, Serialize};

use crate::network::product;
use crate::{Error, Fnn, Partition, Problem};

/// How random targets and frozen networks are related.
///
/// G stands for a D × D matrix of independent N(0, 1/D) entries, so that ‖G x‖ ≈ ‖x‖. Written
/// `gaussian`, `orthogonal`, `near-identity:0.5`, `low-rank:4`, `ill-conditioned:1000000` and
/// `rank-deficient:4`, on the command line as in files.
///
/// ```
/// use rankwise_theory::Family;
///
/// assert_eq!("low-rank:4".parse::<Family>()?, Family::LowRank { rank: 4 });
/// assert_eq!(Family::NearIdentity { noise: 0.5 }.to_string(), "near-identity:0.5");
/// # Ok::<(), rankwise_theory::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Family {
    /// Every weight of both networks an independent G.
    #[default]
    Gaussian,
    /// Every weight of both networks an independent orthogonal matrix, uniform over the group.
    Orthogonal,
    /// Every weight of both networks an independent I + `noise`·G.
    NearIdentity {
        /// The size of the deviation from the identity, finite and not negative.
        noise: f64,
    },
    /// Frozen weights independent G; target weights the blocks' products plus a random matrix of
    /// this rank with entries of variance 1/D.
    LowRank {
        /// The rank of every E_i, at most D.
        rank: usize,
    },
    /// Every weight of both networks U S Vᵀ with U and V orthogonal and singular values that fall
    /// geometrically from one to 1/`condition`.
    IllConditioned {
        /// σ₁/σ_D of every weight, finite and at least one.
        condition: f64,
    },
    /// Target weights independent G; frozen weights of this rank with entries of variance 1/D: a
    /// construction over several layers meets a singular product unless the rank is D.
    RankDeficient {
        /// The rank of every frozen weight, at most D.
        rank: usize,
    },
}

impl Family {
    /// Draws a target of depth L̄ and a frozen network, partitioned as given.
    ///
    /// The target's biases are `bias_scale`/√D times standard normal entries: ‖b̄‖ ≈ `bias_scale`.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the width is zero, or smaller than the family's rank, or a scale is
    /// not finite or negative.
    pub fn draw(
        self,
        width: usize,
        partition: Partition,
        bias_scale: f64,
        rng: &mut impl Rng,
    ) -> Result<Problem, Error> {
        let scale = |what: &str, value: f64| match value.is_finite() && value >= 0.0 {
            true => Ok(()),
            false => Err(Error::invalid(what, "a finite number from 0", value)),
        };
        scale("bias scale", bias_scale)?;
        if width == 0 {
            return Err(Error::invalid("width of the networks", "at least 1", 0));
        }
        match self {
            Self::NearIdentity { noise } => scale("noise of near-identity", noise)?,
            Self::LowRank { rank } | Self::RankDeficient { rank } if rank > width => {
                let expected = format!("at most the width, {width}");
                return Err(Error::invalid(format!("rank of {self}"), expected, rank));
            }
            Self::IllConditioned { condition } if !(condition.is_finite() && condition >= 1.0) => {
                let expected = "a finite number from 1";
                return Err(Error::invalid("condition number", expected, condition));
            }
            _ => {}
        }
        let entry = 1.0 / (width as f64).sqrt();
        let mut frozen = Vec::with_capacity(partition.frozen_layers());
        for _ in 0..partition.frozen_layers() {
            frozen.push(match self {
                Self::LowRank { .. } => gaussian((width, width), entry, rng),
                Self::RankDeficient { rank } => low_rank(width, rank, rng),
                _ => self.weight(width, rng),
            });
        }
        let mut target = Vec::with_capacity(partition.target_layers());
        let mut biases = Vec::with_capacity(partition.target_layers());
        for layers in partition.blocks() {
            target.push(match self {
                Self::LowRank { rank } => {
                    product(&frozen[layers.clone()], width) + low_rank(width, rank, rng)
                }
                _ => self.weight(width, rng),
            });
            let bias = gaussian((1, width), bias_scale * entry, rng);
            biases.push(bias.remove_axis(Axis(0)));
        }
        let target = Fnn::new(target, biases)?;
        Problem::new(target, Fnn::without_biases(frozen)?, partition)
    }

    /// A weight of the target that does not depend on the frozen ones.
    fn weight(self, width: usize, rng: &mut impl Rng) -> Array2<f64> {
        let std = 1.0 / (width as f64).sqrt();
        match self {
            Self::Gaussian | Self::LowRank { .. } | Self::RankDeficient { .. } => {
                gaussian((width, width), std, rng)
            }
            Self::Orthogonal => orthogonal(width, rng),
            Self::NearIdentity { noise } => {
                Array2::eye(width) + gaussian((width, width), noise * std, rng)
            }
            Self::IllConditioned { condition } => {
                let last = width.saturating_sub(1).max(1) as f64;
                let sigma = Array1::from_shape_fn(width, |k| condition.powf(-(k as f64) / last));
                (orthogonal(width, rng) * &sigma).dot(&orthogonal(width, rng))
            }
        }
    }
}

/// Uniform over the orthogonal group: Q of a Gaussian matrix with R's diagonal made positive
/// (Mezzadri 2007).
fn orthogonal(width: usize, rng: &mut impl Rng) -> Array2<f64> {
    let factors = qr(gaussian((width, width), 1.0, rng).view());
    let signs = factors.r.diag().mapv(f64::signum);
    factors.q * &signs
}

/// A matrix of this rank with entries of variance 1/D.
fn low_rank(width: usize, rank: usize, rng: &mut impl Rng) -> Array2<f64> {
    let std = 1.0 / (width as f64 * rank.max(1) as f64).sqrt();
    let left = gaussian((width, rank), std, rng);
    left.dot(&gaussian((rank, width), 1.0, rng))
}

fn gaussian(shape: (usize, usize), std: f64, rng: &mut impl Rng) -> Array2<f64> {
    std * Array2::<f64>::random_using(shape, StandardNormal, rng)
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gaussian => f.write_str("gaussian"),
            Self::Orthogonal => f.write_str("orthogonal"),
            Self::NearIdentity { noise } => write!(f, "near-identity:{noise}"),
            Self::LowRank { rank } => write!(f, "low-rank:{rank}"),
            Self::IllConditioned { condition } => write!(f, "ill-conditioned:{condition}"),
            Self::RankDeficient { rank } => write!(f, "rank-deficient:{rank}"),
        }
    }
}

impl FromStr for Family {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let number = |text: &str| text.parse::<f64>().ok();
        let count = |text: &str| text.parse::<usize>().ok();
        let parsed = match text.split_once(':') {
            None if text == "gaussian" => Some(Self::Gaussian),
            None if text == "orthogonal" => Some(Self::Orthogonal),
            Some(("near-identity", noise)) => {
                number(noise).map(|noise| Self::NearIdentity { noise })
            }
            Some(("low-rank", rank)) => count(rank).map(|rank| Self::LowRank { rank }),
            Some(("ill-conditioned", condition)) => {
                number(condition).map(|condition| Self::IllConditioned { condition })
            }
            Some(("rank-deficient", rank)) => count(rank).map(|rank| Self::RankDeficient { rank }),
            _ => None,
        };
        let expected = "gaussian, orthogonal, near-identity:NOISE, low-rank:RANK, \
                        ill-conditioned:CONDITION or rank-deficient:RANK";
        parsed.ok_or_else(|| Error::invalid("family", expected, text))
    }
}

impl From<Family> for String {
    fn from(family: Family) -> Self {
        family.to_string()
    }
}

impl TryFrom<String> for Family {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    fn draw(family: Family) -> Problem {
        let partition = Partition::uniform(4, 2).expect("valid");
        let mut rng = ChaCha8Rng::seed_from_u64(11);
        family.draw(64, partition, 0.5, &mut rng).expect("valid")
    }

    #[test]
    fn weights_keep_norms_and_biases_have_their_scale() {
        let problem = draw(Family::Gaussian);
        for w in problem
            .target()
            .weights()
            .iter()
            .chain(problem.frozen().weights())
        {
            let mean_square = w.iter().map(|value| value * value).sum::<f64>() / 64.0;
            // A chi-square mean of 4096 terms: 0.14 is over six standard deviations.
            assert!((mean_square - 1.0).abs() < 0.14, "{mean_square}");
        }
        for &norm in &problem.norms().bias {
            assert!((norm - 0.5).abs() < 0.25, "{norm}");
        }
    }

    #[test]
    fn low_rank_discrepancies_have_their_rank() {
        for rank in [0, 1, 5, 64] {
            let ranks = draw(Family::LowRank { rank });
            assert!(
                ranks.discrepancies().iter().all(|gap| gap.rank() == rank),
                "{rank}"
            );
        }
        assert_eq!(draw(Family::Gaussian).discrepancies()[0].rank(), 64);
    }

    #[test]
    fn near_identity_without_noise_is_the_identity() {
        let problem = draw(Family::NearIdentity { noise: 0.0 });
        assert_eq!(problem.target().weights()[1], Array2::<f64>::eye(64));
        assert_eq!(problem.discrepancies()[0].singular_values(), [0.0; 64]);
    }

    #[test]
    fn orthogonal_and_ill_conditioned_weights_have_their_spectra() {
        let spectra = |family: Family| -> Vec<Vec<f64>> {
            let problem = draw(family);
            let weights = problem.frozen().weights().iter();
            weights
                .map(|w| crate::oracle_singular_values(w.view()).expect("converges"))
                .collect()
        };
        for sigma in spectra(Family::Orthogonal) {
            assert!(sigma.iter().all(|s| (s - 1.0).abs() < 1e-13), "{sigma:?}");
        }
        for sigma in spectra(Family::IllConditioned { condition: 1e4 }) {
            // A step of 10^(−4/63) each, to the rounding of the largest.
            let expected = |k: usize| 10_f64.powf(-4.0 * k as f64 / 63.0);
            let mut gaps = (0..).zip(&sigma).map(|(k, s)| (s - expected(k)).abs());
            assert!(gaps.all(|gap| gap < 1e-13), "{sigma:?}");
        }
        for sigma in spectra(Family::RankDeficient { rank: 5 }) {
            assert!(sigma[4] > 0.1 && sigma[5] < 1e-13, "{sigma:?}");
        }
    }

    #[test]
    fn names_go_both_ways() {
        for name in [
            "gaussian",
            "orthogonal",
            "near-identity:0.5",
            "low-rank:4",
            "ill-conditioned:1000",
            "rank-deficient:3",
        ] {
            let family: Family = name.parse().expect("a family");
            assert_eq!(family.to_string(), name);
        }
    }

    #[test]
    fn unknown_families_and_impossible_ranks_are_refused() {
        for text in [
            "uniform",
            "low-rank",
            "low-rank:-1",
            "near-identity:x",
            "gaussian:1",
        ] {
            assert!(text.parse::<Family>().is_err(), "{text}");
        }
        let mut rng = ChaCha8Rng::seed_from_u64(0);
        let partition = || Partition::uniform(1, 1).expect("valid");
        assert!(
            Family::LowRank { rank: 5 }
                .draw(4, partition(), 0.0, &mut rng)
                .is_err()
        );
        assert!(
            Family::Gaussian
                .draw(4, partition(), -1.0, &mut rng)
                .is_err()
        );
        assert!(
            Family::Gaussian
                .draw(0, partition(), 0.0, &mut rng)
                .is_err()
        );
    }
}
