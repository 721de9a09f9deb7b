use std::collections::{BTreeMap, BTreeSet};

use rand::Rng;
use serde::{Deserialize, Serialize};

use super::sample::{FEWEST_CONFIGURATIONS, FEWEST_OBSERVATIONS};
use super::{kendall_tau_b, spearman};
use crate::audit::quantile;

/// Of the interval: 95 %.
const TAIL: f64 = 0.025;

/// A pair of values that a run gave.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Observation {
    /// For instance a rank measure.
    pub x: f64,
    /// For instance a generalisation error.
    pub y: f64,
    /// Which configuration ran: method, R and all other choices.
    pub configuration: usize,
    /// With which seed.
    pub seed: u64,
}

/// A 95 % percentile interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// The 2.5 % quantile.
    pub low: f64,
    /// The 97.5 % quantile.
    pub high: f64,
}

/// Both rank correlations of some observations.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Correlation {
    /// ρ; `None` if a side is constant.
    pub spearman: Option<f64>,
    /// Of ρ.
    pub spearman_interval: Option<Interval>,
    /// τ_b; `None` if a side is constant.
    pub kendall: Option<f64>,
    /// Of τ_b.
    pub kendall_interval: Option<Interval>,
    /// Pairs of values.
    pub observations: usize,
    /// Different configurations among them.
    pub configurations: usize,
    /// Different seeds among them.
    pub seeds: usize,
    /// Bootstrap samples that were drawn.
    pub resamples: usize,
    /// Samples of those that were constant on a side, which have no correlation and are left out.
    pub degenerate: usize,
    /// Why the intervals are not to be relied on, if so.
    pub note: Option<String>,
}

/// Correlates x with y, with intervals from a hierarchical bootstrap.
///
/// Runs are not independent: those of one configuration lie together. So a sample draws as many
/// configurations as there are, with replacement, and within every one drawn as many of its seeds as
/// it has, with replacement (the two-stage bootstrap of A. C. Davison and D. V. Hinkley, Bootstrap
/// Methods and their Application, 1997, section 3.8, both stages with replacement). The intervals
/// are between percentiles of the samples' correlations.
///
/// ```
/// use rand::SeedableRng;
/// use rankwise_analysis::{Observation, correlate};
///
/// let runs: Vec<_> = (0..12)
///     .map(|i| Observation { x: i as f64, y: (i * i) as f64, configuration: i / 3, seed: i as u64 % 3 })
///     .collect();
/// let c = correlate(&runs, 200, &mut rand_chacha::ChaCha8Rng::seed_from_u64(1));
/// assert_eq!((c.spearman, c.configurations, c.seeds), (Some(1.0), 4, 3));
/// assert_eq!(c.spearman_interval.unwrap().low, 1.0);
/// ```
pub fn correlate(
    observations: &[Observation],
    resamples: usize,
    rng: &mut impl Rng,
) -> Correlation {
    let clusters = Clusters::of(observations);
    let (mut x, mut y) = (Vec::new(), Vec::new());
    let [spearmans, kendalls] = clusters.resampled(resamples, rng, |sample| {
        pick(observations, sample, &mut x, &mut y);
        [spearman(&x, &y), kendall_tau_b(&x, &y)]
    });
    correlation(observations, &clusters, resamples, spearmans, kendalls)
}

/// Both correlations of all observations, beside those of their bootstrap samples.
pub(super) fn correlation(
    observations: &[Observation],
    clusters: &Clusters,
    resamples: usize,
    spearmans: Vec<f64>,
    kendalls: Vec<f64>,
) -> Correlation {
    let (x, y): (Vec<f64>, Vec<f64>) = observations.iter().map(|o| (o.x, o.y)).unzip();
    let configurations = clusters.0.len();
    let degenerate = resamples - spearmans.len();
    Correlation {
        spearman: spearman(&x, &y),
        spearman_interval: interval(spearmans),
        kendall: kendall_tau_b(&x, &y),
        kendall_interval: interval(kendalls),
        observations: observations.len(),
        configurations,
        seeds: observations
            .iter()
            .map(|o| o.seed)
            .collect::<BTreeSet<_>>()
            .len(),
        resamples,
        degenerate,
        note: note(observations.len(), configurations),
    }
}

/// The observations' indices by configuration, and within it by seed.
pub(super) struct Clusters(Vec<Vec<Vec<usize>>>);

impl Clusters {
    pub(super) fn of(observations: &[Observation]) -> Self {
        let mut runs: BTreeMap<usize, BTreeMap<u64, Vec<usize>>> = BTreeMap::new();
        for (index, observation) in observations.iter().enumerate() {
            let seeds = runs.entry(observation.configuration).or_default();
            seeds.entry(observation.seed).or_default().push(index);
        }
        let clusters = runs.into_values();
        Self(
            clusters
                .map(|seeds| seeds.into_values().collect())
                .collect(),
        )
    }

    /// The indices of every configuration, its seeds in order.
    pub(super) fn configurations(&self) -> Vec<Vec<usize>> {
        self.0.iter().map(|seeds| seeds.concat()).collect()
    }

    /// Some statistics of `resamples` samples; each without those where it is not defined.
    pub(super) fn resampled<const K: usize>(
        &self,
        resamples: usize,
        rng: &mut impl Rng,
        mut statistics: impl FnMut(&[usize]) -> [Option<f64>; K],
    ) -> [Vec<f64>; K] {
        let mut values = [const { Vec::new() }; K];
        let mut sample = Vec::new();
        for _ in 0..resamples {
            sample.clear();
            for _ in 0..self.0.len() {
                let seeds = &self.0[rng.random_range(0..self.0.len())];
                for _ in 0..seeds.len() {
                    sample.extend(&seeds[rng.random_range(0..seeds.len())]);
                }
            }
            for (values, value) in values.iter_mut().zip(statistics(&sample)) {
                values.extend(value);
            }
        }
        values
    }
}

/// The pairs of a sample.
pub(super) fn pick(
    observations: &[Observation],
    sample: &[usize],
    x: &mut Vec<f64>,
    y: &mut Vec<f64>,
) {
    x.clear();
    y.clear();
    x.extend(sample.iter().map(|&index| observations[index].x));
    y.extend(sample.iter().map(|&index| observations[index].y));
}

pub(super) fn interval(mut values: Vec<f64>) -> Option<Interval> {
    values.sort_unstable_by(f64::total_cmp);
    (!values.is_empty()).then(|| Interval {
        low: quantile(&values, TAIL),
        high: quantile(&values, 1.0 - TAIL),
    })
}

fn note(observations: usize, configurations: usize) -> Option<String> {
    let is_small = observations < FEWEST_OBSERVATIONS || configurations < FEWEST_CONFIGURATIONS;
    is_small.then(|| {
        format!(
            "{observations} observations of {configurations} configurations are too few: expected \
             at least {FEWEST_OBSERVATIONS} of {FEWEST_CONFIGURATIONS}; the intervals are too narrow"
        )
    })
}
