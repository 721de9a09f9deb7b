use std::fmt;
use std::str::FromStr;

use ndarray::{Array2, Axis};
use ndarray_rand::RandomExt;
use ndarray_rand::rand_distr::StandardNormal;
use rand::Rng;
use serde::{Deserialize, Serialize};

use crate::network::product;
use crate::{Error, Fnn, Partition, Problem};

/// How random targets and frozen networks are related.
///
/// G stands for a D × D matrix of independent N(0, 1/D) entries, so that ‖G x‖ ≈ ‖x‖. Written
/// `gaussian`, `near-identity:0.5` and `low-rank:4`, on the command line as in files.
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
        match self {
            Self::NearIdentity { noise } => scale("noise of near-identity", noise)?,
            Self::LowRank { rank } if rank > width => {
                let expected = format!("at most the width, {width}");
                return Err(Error::invalid("rank of low-rank", expected, rank));
            }
            Self::Gaussian | Self::LowRank { .. } => {}
        }
        let entry = 1.0 / (width as f64).sqrt();
        let frozen: Vec<_> = (0..partition.frozen_layers())
            .map(|_| self.weight(width, rng))
            .collect();
        let mut target = Vec::with_capacity(partition.target_layers());
        let mut biases = Vec::with_capacity(partition.target_layers());
        for layers in partition.blocks() {
            target.push(match self {
                Self::Gaussian | Self::NearIdentity { .. } => self.weight(width, rng),
                Self::LowRank { rank } => {
                    let left = gaussian((width, rank), entry / (rank.max(1) as f64).sqrt(), rng);
                    let update = left.dot(&gaussian((rank, width), 1.0, rng));
                    product(&frozen[layers.clone()], width) + update
                }
            });
            let bias = gaussian((1, width), bias_scale * entry, rng);
            biases.push(bias.remove_axis(Axis(0)));
        }
        let target = Fnn::new(target, biases)?;
        Problem::new(target, Fnn::without_biases(frozen)?, partition)
    }

    /// A weight that no other depends on.
    fn weight(self, width: usize, rng: &mut impl Rng) -> Array2<f64> {
        let std = 1.0 / (width as f64).sqrt();
        match self {
            Self::Gaussian | Self::LowRank { .. } => gaussian((width, width), std, rng),
            Self::NearIdentity { noise } => {
                Array2::eye(width) + gaussian((width, width), noise * std, rng)
            }
        }
    }
}

fn gaussian(shape: (usize, usize), std: f64, rng: &mut impl Rng) -> Array2<f64> {
    std * Array2::<f64>::random_using(shape, StandardNormal, rng)
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gaussian => f.write_str("gaussian"),
            Self::NearIdentity { noise } => write!(f, "near-identity:{noise}"),
            Self::LowRank { rank } => write!(f, "low-rank:{rank}"),
        }
    }
}

impl FromStr for Family {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let parsed = match text.split_once(':') {
            None if text == "gaussian" => Some(Self::Gaussian),
            Some(("near-identity", noise)) => {
                noise.parse().ok().map(|noise| Self::NearIdentity { noise })
            }
            Some(("low-rank", rank)) => rank.parse().ok().map(|rank| Self::LowRank { rank }),
            _ => None,
        };
        let expected = "gaussian, near-identity:NOISE or low-rank:RANK";
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
