use anyhow::Result;
use rankwise_analysis::{Correlation, Observation, correlate};
use rankwise_data::stream;
use serde::Serialize;

use crate::records::{Run, by_configuration};

/// The rank measures that are linked to generalisation: column names of a run's metrics.
pub const RANK_MEASURES: [&str; 9] = [
    "numerical_rank",
    "energy_rank_90",
    "energy_rank_95",
    "energy_rank_99",
    "stable_rank",
    "effective_rank",
    "effective_rank_energy",
    "participation_ratio",
    "nuclear_ratio",
];

/// Bootstrap samples of every interval.
pub(crate) const RESAMPLES: usize = 2000;

/// The correlation of one rank measure with one outcome over runs, at their last epoch.
#[derive(Debug, Clone, Serialize)]
pub struct Link {
    /// Column of the rank measure.
    pub measure: &'static str,
    /// Column of the outcome.
    pub outcome: &'static str,
    /// Both rank correlations, with intervals.
    pub correlation: Correlation,
}

/// Correlates every rank measure with the gap between train and test accuracy and with the test accuracy.
///
/// # Errors
/// If a run lacks a column.
pub fn link(runs: &[Run], seed: u64) -> Result<Vec<Link>> {
    let mut links = Vec::new();
    for outcome in ["generalization_error", "test_accuracy"] {
        for measure in RANK_MEASURES {
            let mut observations = Vec::new();
            for (index, (_, runs)) in by_configuration(runs).into_iter().enumerate() {
                for run in runs {
                    observations.push(Observation {
                        x: run.last(measure)?,
                        y: run.last(outcome)?,
                        configuration: index,
                        seed: run.config.seed,
                    });
                }
            }
            let mut rng = stream(seed, &format!("bootstrap {measure} {outcome}"), 0);
            let correlation = correlate(&observations, RESAMPLES, &mut rng);
            links.push(Link {
                measure,
                outcome,
                correlation,
            });
        }
    }
    Ok(links)
}
