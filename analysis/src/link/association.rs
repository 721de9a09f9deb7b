use rand::Rng;
use serde::{Deserialize, Serialize};

use super::bootstrap::{self, Clusters, Correlation, Interval, Observation, interval, pick};
use super::influence::{Influence, leave_one_out};
use super::partial::{Partial, partial_kendall, partial_spearman};
use super::permutation::{Permutation, permutation_p};
use super::sample::Sample;
use super::{kendall_tau_b, spearman};

/// Random orders of a permutation test: p is known to ±0.004 where it is 0.05 (two standard
/// deviations).
const ORDERS: usize = 9999;

/// All that is said of one pair of quantities.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Association {
    /// Both rank correlations, with intervals.
    pub correlation: Correlation,
    /// ρ given the covariates; `None` without covariates or where it is not defined.
    pub partial: Option<Partial>,
    /// Of that ρ.
    pub partial_interval: Option<Interval>,
    /// τ_b given the covariate; `None` unless there is exactly one, or where it is not defined.
    pub partial_kendall: Option<f64>,
    /// Of that τ_b.
    pub partial_kendall_interval: Option<Interval>,
    /// Whether chance alone gives such a ρ.
    pub permutation: Option<Permutation>,
    /// ρ without each observation in turn.
    pub without_each: Option<Influence>,
    /// ρ without each configuration in turn.
    pub without_each_configuration: Option<Influence>,
    /// How much the sample can say.
    pub sample: Sample,
}

/// Correlates x with y, given `covariates` (columns as long as `observations`), with everything
/// that tells a finding from an accident: the intervals of [`correlate`](super::correlate)'s
/// bootstrap for all four correlations, of the same samples; a permutation test; leave-one-out; and
/// whether the sample is too small.
///
/// ```
/// use rand::SeedableRng;
/// use rankwise_analysis::{Observation, associate};
/// let runs: Vec<_> = (0..4)
///     .map(|i| Observation { x: i as f64, y: i as f64, configuration: i, seed: 0 })
///     .collect();
/// let found = associate(&runs, &[], 100, &mut rand_chacha::ChaCha8Rng::seed_from_u64(1));
/// assert_eq!(found.correlation.spearman, Some(1.0));
/// assert_eq!(found.permutation.unwrap().p, 2.0 / 24.0);
/// assert_eq!(
///     found.sample.verdict("adapters"),
///     "n = 4 adapters are too few: no correlation can be told from chance"
/// );
/// ```
///
/// # Panics
/// If the columns differ in length.
pub fn associate(
    observations: &[Observation],
    covariates: &[&[f64]],
    resamples: usize,
    rng: &mut impl Rng,
) -> Association {
    for covariate in covariates {
        let (values, observations) = (covariate.len(), observations.len());
        assert_eq!(values, observations, "every pair has its covariates");
    }
    let clusters = Clusters::of(observations);
    let (mut x, mut y) = (Vec::new(), Vec::new());
    let mut z: Vec<Vec<f64>> = vec![Vec::new(); covariates.len()];
    let mut statistics = |sample: &[usize]| {
        pick(observations, sample, &mut x, &mut y);
        for (column, covariate) in z.iter_mut().zip(covariates) {
            column.clear();
            column.extend(sample.iter().map(|&index| covariate[index]));
        }
        let columns: Vec<&[f64]> = z.iter().map(Vec::as_slice).collect();
        let partial = match &columns[..] {
            [] => None,
            columns => partial_spearman(&x, &y, columns),
        };
        let tau = match columns[..] {
            [only] => partial_kendall(&x, &y, only),
            _ => None,
        };
        (
            partial,
            [
                spearman(&x, &y),
                kendall_tau_b(&x, &y),
                partial.map(|partial| partial.rho),
                tau,
            ],
        )
    };
    let all: Vec<usize> = (0..observations.len()).collect();
    let (partial, [.., tau]) = statistics(&all);
    let [spearmans, kendalls, partials, partial_kendalls] =
        clusters.resampled(resamples, rng, |sample| statistics(sample).1);
    let correlation =
        bootstrap::correlation(observations, &clusters, resamples, spearmans, kendalls);
    let (without_each, without_each_configuration) = leave_one_out(observations);
    Association {
        sample: Sample::new(observations.len(), correlation.configurations),
        correlation,
        partial,
        partial_interval: partial.and_then(|_| interval(partials)),
        partial_kendall: tau,
        partial_kendall_interval: tau.and_then(|_| interval(partial_kendalls)),
        permutation: permutation_p(observations, ORDERS, rng),
        without_each,
        without_each_configuration,
    }
}
