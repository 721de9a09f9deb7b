//! Biases that switch the inner ReLUs off.
//!
//! Within a block the adapted layers are to act as one linear map, so every intermediate
//! pre-activation must be non-negative. Layer l of a block adds an offset c_l and the next one takes
//! it back: with Q_l = Ŵ_l … Ŵ_1 the activation after layer l is Q_l z + c_l, from
//! b̂_l = c_l − Ŵ_l c_{l−1}, and the last layer's b̂_n = b̄ − Ŵ_n c_{n−1} leaves
//! ReLU(Q_n z + b̄).
//!
//! | symbol | identifier |
//! |---|---|
//! | c_l, an offset per coordinate | `offset` |
//! | ρ ≥ ‖z‖₂ | `radius` |
//!
//! On a ball of radius ρ the least sure choice is c_l = ρ times the row norms of Q_l; on a finite
//! sample it is the largest deficit seen, which is smaller and costs fewer digits.
//!
//! Source: Zeng & Lee 2024, Lemma 2 and Theorem 6, whose offset is by norms only.

use ndarray::{Array1, Array2, ArrayView1, Axis};
use serde::{Deserialize, Serialize};

use crate::{Error, Sample};

/// Room for rounding in the row norms of the ball's offset.
const MARGIN: f64 = 1e-9;

/// From what the offsets are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Lift {
    /// From the points of the sample: the smallest offsets that do.
    #[default]
    Sample,
    /// From the largest norm in the sample: also right for every other input within it.
    Ball,
}

impl Lift {
    /// Where the construction has to hold, for inputs from `sample`.
    pub fn domain(self, sample: &Sample) -> Domain<'_> {
        match self {
            Self::Sample => Domain::Sample(sample),
            Self::Ball => Domain::Ball {
                radius: sample.radius(),
            },
        }
    }
}

/// The inputs on which the inner ReLUs of the construction must act as the identity.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Domain<'a> {
    /// These points.
    Sample(&'a Sample),
    /// All x with ‖x‖₂ at most `radius`.
    Ball {
        /// ρ.
        radius: f64,
    },
}

impl Domain<'_> {
    pub(crate) fn check(&self, width: usize) -> Result<(), Error> {
        match *self {
            Self::Sample(sample) if sample.width() != width => Err(Error::invalid(
                "width of the sample",
                width.to_string(),
                sample.width(),
            )),
            Self::Ball { radius } if !(radius.is_finite() && radius >= 0.0) => {
                Err(Error::invalid("radius", "a finite number from 0", radius))
            }
            _ => Ok(()),
        }
    }
}

/// What may enter a block.
pub(crate) enum Inputs {
    Points(Array2<f64>),
    Ball(f64),
}

impl Inputs {
    pub(crate) fn of(domain: Domain<'_>) -> Self {
        match domain {
            Domain::Sample(sample) => Self::Points(sample.points().to_owned()),
            Domain::Ball { radius } => Self::Ball(radius),
        }
    }

    /// The least offset that keeps Q z + c non-negative for all these z.
    fn offset(&self, q: &Array2<f64>) -> Array1<f64> {
        match self {
            Self::Points(points) => {
                points
                    .dot(&q.t())
                    .fold_axis(Axis(0), 0.0, |deficit: &f64, &value| deficit.max(-value))
            }
            Self::Ball(radius) => {
                let reach = |row: ArrayView1<'_, f64>| radius * row.dot(&row).sqrt();
                q.rows()
                    .into_iter()
                    .map(|row| reach(row) * (1.0 + MARGIN))
                    .collect()
            }
        }
    }
}

/// The biases of one block with adapted weights Ŵ_1 … Ŵ_n and the target's bias b̄.
pub(crate) fn lifting_biases(
    adapted: &[Array2<f64>],
    target_bias: &Array1<f64>,
    inputs: &Inputs,
) -> Vec<Array1<f64>> {
    let width = target_bias.len();
    let mut q = Array2::eye(width);
    let mut offset = Array1::zeros(width);
    let mut biases = Vec::with_capacity(adapted.len());
    for (l, w) in (1..).zip(adapted) {
        q = w.dot(&q);
        let carried = w.dot(&offset);
        offset = if l < adapted.len() {
            inputs.offset(&q)
        } else {
            target_bias.clone()
        };
        biases.push(&offset - &carried);
    }
    biases
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Fnn;
    use ndarray::array;

    /// W₂ W₁ = −I with a negative first activation: wrong by far without the offset.
    #[test]
    fn a_lifted_block_is_linear_up_to_its_last_relu() {
        let weights = vec![-Array2::<f64>::eye(2), array![[1.0, 0.0], [0.0, 1.0]]];
        let points = array![[1.0, -2.0], [-3.0, 0.5], [0.25, 4.0]];
        let sample = Sample::new(points.clone(), None).expect("valid");
        let bias = array![0.5, 0.125];
        let expected = (&bias - &points).mapv(|value: f64| value.max(0.0));
        for domain in [Lift::Sample.domain(&sample), Lift::Ball.domain(&sample)] {
            let biases = lifting_biases(&weights, &bias, &Inputs::of(domain));
            let net = Fnn::new(weights.clone(), biases).expect("well formed");
            let outputs = net.forward(sample.points()).expect("two columns");
            assert!(
                (&outputs - &expected).iter().all(|gap| gap.abs() < 1e-14),
                "{outputs}"
            );
        }
    }

    #[test]
    fn the_sample_offset_is_the_largest_deficit() {
        let points = array![[1.0, -2.0], [-3.0, 0.5]];
        assert_eq!(
            Inputs::Points(points).offset(&Array2::eye(2)),
            array![3.0, 2.0]
        );
        let ball = Inputs::Ball(2.0).offset(&array![[3.0, 4.0], [0.0, 0.0]]);
        assert!((ball[0] - 10.0).abs() < 2e-8 && ball[1] == 0.0, "{ball}");
    }
}
