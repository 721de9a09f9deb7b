//! The link from rank to generalisation for any adapters with metrics.
//!
//! [`join`](crate::join) puts audits and metrics together; [`rank_link`] correlates every measure with
//! every outcome; table, figure and sentences follow from its record alone.

mod chart;
mod sentences;
mod table;

use anyhow::Result;
use rankwise_analysis::{Association, Observation, associate, holm};
use rankwise_data::stream;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

pub use chart::{rank_link_chart, rank_link_outcome_chart};
pub use sentences::link_sentences;
pub use table::{rank_link_cells, rank_link_table};

use crate::link::{RANK_MEASURES, RESAMPLES};
use crate::metrics::{Join, Joined, Outcome, RANK_BUDGET};

/// The norms of ΔW, linked beside the rank measures: a link that they share is not one of rank.
const NORMS: [&str; 2] = ["frobenius_norm", "spectral_norm"];

/// One measure against one outcome.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MeasureLink {
    /// Name of the measure.
    pub measure: String,
    /// Name of the outcome.
    pub outcome: String,
    /// What the partial correlations hold fixed.
    pub covariates: Vec<String>,
    /// Covariates without effect, since all adapters have the same value or one lacks it.
    pub dropped: Vec<String>,
    /// Adapters without the measure or the outcome, by key.
    pub missing: Vec<String>,
    /// Adapters that were correlated, by key, in the order that the indices of leave-one-out count.
    pub used: Vec<String>,
    /// Every correlation.
    pub association: Association,
    /// The permutation test's p with all others of the record taken into account (Holm).
    pub adjusted_p: Option<f64>,
}

/// Every measure against every outcome, and the points themselves.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RankLink {
    /// Adapters and metrics.
    pub join: Join,
    /// The seed of bootstrap and permutations.
    pub seed: u64,
    /// Outcome by outcome.
    pub links: Vec<MeasureLink>,
}

/// Correlates every rank measure, and the norms of ΔW, with every outcome. The same bits at any
/// number of threads.
///
/// # Errors
/// If there is no outcome.
pub fn rank_link(join: Join, seed: u64) -> Result<RankLink> {
    if join.outcomes.is_empty() {
        anyhow::bail!("metrics: expected a column of numbers as an outcome, found none");
    }
    let pairs: Vec<(&Outcome, &str)> = join
        .outcomes
        .iter()
        .flat_map(|outcome| {
            let measures = RANK_MEASURES.into_iter().chain(NORMS);
            measures.map(move |measure| (outcome, measure))
        })
        .collect();
    let mut links: Vec<MeasureLink> = pairs
        .into_par_iter()
        .map(|(outcome, measure)| measure_link(&join, outcome, measure, seed))
        .collect();
    let tested: Vec<usize> = (0..links.len())
        .filter(|&i| links[i].association.permutation.is_some())
        .collect();
    let p = |i: &usize| links[*i].association.permutation.map_or(1.0, |test| test.p);
    let adjusted = holm(&tested.iter().map(p).collect::<Vec<_>>());
    for (index, adjusted) in tested.into_iter().zip(adjusted) {
        links[index].adjusted_p = Some(adjusted);
    }
    Ok(RankLink { join, seed, links })
}

fn measure_link(join: &Join, outcome: &Outcome, measure: &str, seed: u64) -> MeasureLink {
    let value = |adapter: &Joined| {
        let x = adapter.measures.get(measure).copied();
        x.zip(adapter.metrics.get(&outcome.name).copied())
    };
    let (used, missing): (Vec<&Joined>, Vec<&Joined>) = join
        .adapters
        .iter()
        .partition(|adapter| value(adapter).is_some());
    let place = |of: fn(&Joined) -> &str, adapter: &Joined| {
        let same = |other: &Joined| of(other) == of(adapter);
        let mut all = join.adapters.iter();
        all.position(same).unwrap_or_default()
    };
    let observations: Vec<Observation> = used
        .iter()
        .filter_map(|adapter| {
            let (x, y) = value(adapter)?;
            Some(Observation {
                x,
                y,
                configuration: place(|adapter| &adapter.configuration, adapter),
                seed: place(|adapter| &adapter.seed, adapter) as u64,
            })
        })
        .collect();

    let wanted = match &join.covariates {
        Some(names) => names.clone(),
        None => std::iter::once(RANK_BUDGET.to_owned())
            .chain(outcome.train.clone())
            .collect(),
    };
    let (mut covariates, mut columns, mut dropped) = (Vec::new(), Vec::new(), Vec::new());
    for name in wanted {
        let values = used
            .iter()
            .map(|adapter| adapter.metrics.get(&name).copied());
        match values.collect::<Option<Vec<f64>>>() {
            Some(values) if values.windows(2).any(|pair| pair[0] != pair[1]) => {
                covariates.push(name);
                columns.push(values);
            }
            _ => dropped.push(name),
        }
    }
    let columns: Vec<&[f64]> = columns.iter().map(Vec::as_slice).collect();
    let mut rng = stream(seed, &format!("link {measure} {}", outcome.name), 0);
    let keys = |adapters: &[&Joined]| adapters.iter().map(|a| a.key.clone()).collect();
    MeasureLink {
        measure: measure.to_owned(),
        outcome: outcome.name.clone(),
        covariates,
        dropped,
        missing: keys(&missing),
        used: keys(&used),
        association: associate(&observations, &columns, RESAMPLES, &mut rng),
        adjusted_p: None,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::Path;

    use rankwise_data::Table;

    use super::*;
    use crate::metrics::{AdapterRanks, MetricColumns, join};

    /// n adapters whose stable rank rises with the test loss; all of R = 8.
    pub(super) fn made_up(n: usize) -> RankLink {
        let ranks: Vec<AdapterRanks> = (0..n)
            .map(|i| AdapterRanks {
                path: format!("adapters/a{i}"),
                rank_budget: Some(8.0),
                measures: BTreeMap::from([
                    ("stable_rank".to_owned(), 1.0 + i as f64),
                    ("numerical_rank".to_owned(), 8.0),
                ]),
            })
            .collect();
        let mut text = "adapter,test_loss\n".to_owned();
        for i in 0..n {
            text.push_str(&format!("a{i},{}\n", 0.5 + i as f64));
        }
        let table = Table::from_csv(Path::new("m.csv"), text.as_bytes(), ',').unwrap();
        rank_link(join(&ranks, &table, &MetricColumns::default()).unwrap(), 0).unwrap()
    }

    #[test]
    fn four_adapters_say_nothing_and_twelve_do() {
        let few = link_sentences(&made_up(4)).join("\n");
        assert!(
            few.contains("n = 4 adapters are too few: no correlation can be told from chance"),
            "{few}"
        );
        assert!(!few.contains("rises with"), "{few}");
        let many = link_sentences(&made_up(12)).join("\n");
        assert!(many.contains("Stable rank rises with test loss"), "{many}");
        assert!(many.contains("n = 12 adapters"), "{many}");
    }

    #[test]
    fn what_does_not_vary_is_dropped_by_name() {
        let record = made_up(9);
        let link = |measure: &str| record.links.iter().find(|l| l.measure == measure).unwrap();
        assert_eq!(link("stable_rank").dropped, [RANK_BUDGET]);
        assert_eq!(link("stable_rank").association.partial, None);
        assert_eq!(
            link("numerical_rank").association.correlation.spearman,
            None
        );
        assert_eq!(link("numerical_rank").adjusted_p, None);
        assert_eq!(link("effective_rank").missing.len(), 9);
        let json = serde_json::to_string(&record).unwrap();
        assert_eq!(serde_json::from_str::<RankLink>(&json).unwrap(), record);
    }

    #[test]
    fn table_and_figure_follow_from_the_record() {
        let record = made_up(9);
        let table = rank_link_table(&record).unwrap();
        assert_eq!(table.rows(), record.links.len());
        let rho = table.numbers("spearman").unwrap();
        let stable = table.texts("measure").unwrap();
        let at = stable
            .iter()
            .position(|name| name == "stable_rank")
            .unwrap();
        assert_eq!(rho[at], 1.0);
        let figure = rank_link_chart(&record).unwrap();
        assert!(figure.svg.contains("ρ = 1.00 [1.00, 1.00]"));
    }
}
