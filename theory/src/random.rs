//! The bounds on random configurations: shapes, uneven partitions, ranks, biases and lifts at once.

use rand::Rng;
use rayon::prelude::*;
use serde::Serialize;

use crate::verification::{Measurement, Outcome};
use crate::{Error, Family, Lift, Partition, Sample, Strategy};

/// The largest width, block length and target depth that are drawn.
const WIDTHS: std::ops::RangeInclusive<usize> = 1..=12;
const BLOCKS: std::ops::RangeInclusive<usize> = 1..=3;
const POINTS: std::ops::RangeInclusive<usize> = 5..=40;

/// What became of many random configurations.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RandomSummary {
    /// The seed of the draws.
    pub seed: u64,
    /// How many were drawn.
    pub configurations: usize,
    /// In how many a singular product prevented the construction.
    pub singular: usize,
    /// How often each bound failed, and how close it came.
    pub bounds: Vec<BoundSummary>,
}

/// One bound over all configurations that could be measured.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BoundSummary {
    /// literal, trace, corrected, spectral or tail.
    pub bound: &'static str,
    /// Whether it is proved for every one of them.
    pub proved: bool,
    /// How often the measured error exceeded it beyond the tolerance.
    pub violations: usize,
    /// The first configuration that did, counted from 0.
    pub first: Option<usize>,
    /// The largest measured error as a share of the bound, where the bound is above rounding.
    pub largest_ratio: f64,
}

impl RandomSummary {
    /// Whether a proved bound failed.
    pub fn violates_a_proved_bound(&self) -> bool {
        self.bounds.iter().any(|b| b.proved && b.violations > 0)
    }
}

/// Draws and verifies `count` configurations; the same seed gives the same ones whatever the count
/// or the number of threads. `progress` is called after each.
///
/// # Errors
/// [`Error::Linalg`] if a decomposition fails.
pub fn verify_random(
    count: usize,
    seed: u64,
    progress: impl Fn() + Sync,
) -> Result<RandomSummary, Error> {
    let verify = |index: usize| {
        let one = configuration(seed, index);
        progress();
        one
    };
    let results: Vec<_> = (0..count).into_par_iter().map(verify).collect();
    let results: Vec<_> = results.into_iter().collect::<Result<_, _>>()?;
    let bound = |name, proved, pick: fn(&Compared) -> (bool, f64)| {
        let measured = (0..)
            .zip(&results)
            .filter_map(|(k, r)| Some((k, r.as_ref()?)));
        let mut summary = BoundSummary {
            bound: name,
            proved,
            violations: 0,
            first: None,
            largest_ratio: 0.0,
        };
        for (index, compared) in measured {
            let (violated, value) = pick(compared);
            if violated {
                summary.violations += 1;
                summary.first.get_or_insert(index);
            }
            // Where both are rounding, their ratio says nothing.
            if value > compared.measurement.rounding + 1e-9 {
                let ratio = compared.measurement.error / value;
                summary.largest_ratio = summary.largest_ratio.max(ratio);
            }
        }
        summary
    };
    Ok(RandomSummary {
        seed,
        configurations: count,
        singular: results.iter().filter(|result| result.is_none()).count(),
        bounds: vec![
            bound("literal", false, |c| {
                (c.measurement.violated.literal, c.bounds.literal)
            }),
            bound("trace", false, |c| {
                (c.measurement.violated.trace, c.bounds.trace)
            }),
            bound("corrected", true, |c| {
                (c.measurement.violated.corrected, c.bounds.corrected)
            }),
            bound("spectral", true, |c| {
                (c.measurement.violated.spectral, c.bounds.spectral)
            }),
            bound("tail", true, |c| {
                (c.measurement.violated.tail, c.measurement.tail)
            }),
        ],
    })
}

struct Compared {
    bounds: crate::Bounds,
    measurement: Measurement,
}

fn configuration(seed: u64, index: usize) -> Result<Option<Compared>, Error> {
    let mut rng = rankwise_data::stream(seed, "verify/random", index as u64);
    let width = rng.random_range(WIDTHS);
    let target_layers = rng.random_range(BLOCKS);
    let sizes: Vec<usize> = (0..target_layers)
        .map(|_| rng.random_range(BLOCKS))
        .collect();
    let family = match rng.random_range(0..6) {
        0 => Family::Gaussian,
        1 => Family::Orthogonal,
        2 => Family::NearIdentity {
            noise: rng.random_range(0.0..1.5),
        },
        3 => Family::LowRank {
            rank: rng.random_range(0..=width),
        },
        4 => Family::IllConditioned {
            condition: 10_f64.powf(rng.random_range(0.0..4.0)),
        },
        _ => Family::RankDeficient {
            rank: rng.random_range(0..=width),
        },
    };
    let bias_scale = [0.0, 0.1, 1.0, 10.0][rng.random_range(0..4)];
    let lift = [Lift::Sample, Lift::Ball][rng.random_range(0..2)];
    let partition = Partition::from_sizes(&sizes)?;
    let layers = partition.frozen_layers();
    let ranks: Vec<usize> = (0..layers).map(|_| rng.random_range(0..=width)).collect();
    let problem = family.draw(width, partition, bias_scale, &mut rng)?;
    // Inputs of all sizes, small ones most often.
    let scale = 10_f64.powf(rng.random_range(-2.0..1.0));
    let points = rng.random_range(POINTS);
    let points = Sample::gaussian(points, width, &mut rng)?
        .points()
        .to_owned()
        * scale;
    let sample = Sample::new(points, None)?;
    let sigma = sample.second_moment()?;
    let result = problem.verify(&ranks, &sample, &sigma, lift, Strategy::default())?;
    Ok(match result.outcome {
        Outcome::Measured(measurement) => Some(Compared {
            bounds: result.bounds,
            measurement,
        }),
        Outcome::Singular { .. } => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proved_bounds_hold_and_the_printed_one_does_not_always() {
        let summary = verify_random(400, 0, || {}).expect("finite");
        assert!(!summary.violates_a_proved_bound(), "{summary:?}");
        assert!(summary.singular < 150, "{summary:?}");
        // The bounds are within reach: the test is not of numbers that are far apart.
        let tail = &summary.bounds[4];
        assert!(
            tail.largest_ratio > 0.5 && tail.largest_ratio <= 1.0 + 1e-9,
            "{tail:?}"
        );
        let alone = rayon::ThreadPoolBuilder::new()
            .num_threads(1)
            .build()
            .expect("a thread");
        assert_eq!(
            alone
                .install(|| verify_random(400, 0, || {}))
                .expect("finite"),
            summary
        );
    }
}
