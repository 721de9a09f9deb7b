use std::collections::BTreeMap;

use super::record::{Distribution, Group, ModuleAudit, Spectrum, Summary};

type Value = fn(&Spectrum) -> Option<f64>;

/// What is summarised, by its name in the machine-readable form.
const MEASURES: [(&str, Value); 12] = [
    ("numerical_rank", |s| Some(s.measures.numerical_rank as f64)),
    ("energy_rank_90", |s| Some(s.measures.energy_rank_90 as f64)),
    ("energy_rank_95", |s| Some(s.measures.energy_rank_95 as f64)),
    ("energy_rank_99", |s| Some(s.measures.energy_rank_99 as f64)),
    ("stable_rank", |s| s.measures.stable_rank),
    ("effective_rank", |s| s.measures.effective_rank),
    ("effective_rank_energy", |s| {
        s.measures.effective_rank_energy
    }),
    ("participation_ratio", |s| s.measures.participation_ratio),
    ("nuclear_ratio", |s| s.measures.nuclear_ratio),
    ("frobenius_norm", |s| Some(s.measures.frobenius_norm)),
    ("spectral_norm", |s| Some(s.measures.spectral_norm)),
    ("orthogonality_excess", |s| Some(s.orthogonality.excess)),
];

impl Group {
    fn new(modules: &[&ModuleAudit]) -> Self {
        let spectra = || modules.iter().filter_map(|module| module.spectrum.as_ref());
        let distribution = |&(name, value): &(&'static str, Value)| {
            let values = spectra().filter_map(value).collect();
            Some((name, Distribution::new(values)?))
        };
        Self {
            modules: modules.len(),
            zero_updates: spectra()
                .filter(|s| s.measures.spectral_norm == 0.0)
                .count(),
            non_finite: modules.len() - spectra().count(),
            rank_budget: modules.iter().map(|module| module.rank_budget).sum(),
            measures: MEASURES.iter().filter_map(distribution).collect(),
        }
    }

    pub(super) fn by<K: Ord>(
        modules: &[ModuleAudit],
        key: impl Fn(&ModuleAudit) -> Option<K>,
    ) -> BTreeMap<K, Self> {
        let mut groups: BTreeMap<K, Vec<&ModuleAudit>> = BTreeMap::new();
        for module in modules {
            if let Some(key) = key(module) {
                groups.entry(key).or_default().push(module);
            }
        }
        let group = |(key, modules): (K, Vec<_>)| (key, Self::new(&modules));
        groups.into_iter().map(group).collect()
    }
}

impl Summary {
    pub(super) fn new(modules: &[ModuleAudit]) -> Self {
        let Group {
            zero_updates,
            non_finite,
            rank_budget,
            measures,
            ..
        } = Group::new(&modules.iter().collect::<Vec<_>>());
        Self {
            modules: modules.len(),
            zero_updates,
            non_finite,
            rank_budget,
            parameters: modules.iter().map(|module| module.parameters).sum(),
            measures,
        }
    }
}

impl Distribution {
    /// `None` of no values.
    fn new(mut values: Vec<f64>) -> Option<Self> {
        if values.is_empty() {
            return None;
        }
        values.sort_unstable_by(f64::total_cmp);
        Some(Self {
            count: values.len(),
            mean: values.iter().sum::<f64>() / values.len() as f64,
            min: values[0],
            p05: quantile(&values, 0.05),
            p25: quantile(&values, 0.25),
            median: quantile(&values, 0.5),
            p75: quantile(&values, 0.75),
            p95: quantile(&values, 0.95),
            max: values[values.len() - 1],
        })
    }
}

/// The p-quantile of sorted values, interpolated linearly between order statistics (type 7 of
/// R. J. Hyndman and Y. Fan, 1996; NumPy's default).
pub(crate) fn quantile(sorted: &[f64], p: f64) -> f64 {
    let position = p * (sorted.len() - 1) as f64;
    let (below, above) = (position.floor() as usize, position.ceil() as usize);
    sorted[below] + (position - position.floor()) * (sorted[above] - sorted[below])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_numpys() {
        let d = Distribution::new(vec![4.0, 1.0, 3.0, 2.0]).unwrap();
        assert_eq!(
            (d.p25, d.median, d.p75, d.mean, d.max),
            (1.75, 2.5, 3.25, 2.5, 4.0)
        );
        assert_eq!(Distribution::new(vec![7.0]).unwrap().p75, 7.0);
        assert_eq!(Distribution::new(Vec::new()), None);
    }
}
