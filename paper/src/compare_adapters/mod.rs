//! Adapters beside one another: terminal tables, record files, figures, sentences and a section of a
//! page, all pure functions of one [`Comparison`].

mod cells;
mod figures;
mod findings;
mod section;
mod tables;

use rankwise_analysis::{Comparison, Likeness, PairRecord, SideRecord};
use serde::Serialize;

pub use cells::{
    PAIR_LEGEND, course_cells, intruder_cells, likeness_cells, list_cells, pair_module_cells,
};
pub use figures::{course_chart, layer_chart, likeness_maps, similarity_maps};
pub use findings::comparison_findings;
pub use section::comparison_section;
pub use tables::{grid_table, likeness_table, pairs_table, updates_table};

/// The machine-readable form: the comparison, its matrices and its findings.
#[derive(Debug, Serialize)]
pub struct ComparisonReport<'a> {
    /// What was found, row by row.
    #[serde(flatten)]
    pub comparison: &'a Comparison,
    /// Means over shared modules for every two adapters.
    pub likeness: Vec<LikenessMatrix>,
    /// What was found, in sentences.
    pub findings: Vec<String>,
}

/// One likeness of every two adapters.
#[derive(Debug, Serialize)]
pub struct LikenessMatrix {
    /// Which.
    pub likeness: Likeness,
    /// N × N; null where two adapters share no module or were not compared.
    pub mean: Vec<Vec<Option<f64>>>,
}

impl<'a> ComparisonReport<'a> {
    /// With all matrices and sentences; `over_time` says whether the adapters are checkpoints of one
    /// run.
    pub fn new(comparison: &'a Comparison, over_time: bool) -> Self {
        let matrix = |likeness: Likeness| LikenessMatrix {
            likeness,
            mean: comparison.matrix(likeness),
        };
        Self {
            comparison,
            likeness: Likeness::ALL.map(matrix).into(),
            findings: comparison_findings(comparison, over_time),
        }
    }
}

/// What the adapters are called: their paths without the parts that all of them begin or end with.
pub fn comparison_labels(comparison: &Comparison) -> Vec<String> {
    let paths: Vec<Vec<&str>> = comparison
        .adapters
        .iter()
        .map(|one| {
            one.path
                .split('/')
                .filter(|part| !part.is_empty())
                .collect()
        })
        .collect();
    let shortest = paths.iter().map(Vec::len).min().unwrap_or(0);
    let is_common = |&k: &usize, part: fn(&[&str], usize) -> String| {
        paths
            .windows(2)
            .all(|two| part(&two[0], k) == part(&two[1], k))
    };
    let from_begin = |path: &[&str], k: usize| path[k].to_owned();
    let from_end = |path: &[&str], k: usize| path[path.len() - 1 - k].to_owned();
    let before = (0..shortest.saturating_sub(1))
        .take_while(|k| is_common(k, from_begin))
        .count();
    let after = (0..shortest.saturating_sub(before + 1))
        .take_while(|k| is_common(k, from_end))
        .count();
    // The last part alone where it tells them apart.
    let last = |path: &Vec<&str>| from_end(path, after);
    let different: std::collections::BTreeSet<String> = paths.iter().map(last).collect();
    if different.len() == paths.len() {
        return paths.iter().map(last).collect();
    }
    let label = |path: &Vec<&str>| path[before..path.len() - after].join("/");
    paths.iter().map(label).collect()
}

/// Names without the parts that all of them begin with, as long as something is left.
pub(crate) fn short_names<'a>(names: impl Iterator<Item = &'a str> + Clone) -> Vec<String> {
    let separator = if names.clone().any(|name| name.contains('.')) {
        '.'
    } else {
        '_'
    };
    let first: Vec<&str> = names
        .clone()
        .next()
        .map_or(Vec::new(), |name| name.split(separator).collect());
    let is_common = |&k: &usize| {
        names.clone().all(|name| {
            let mut parts = name.split(separator).skip(k);
            parts.next() == Some(first[k]) && parts.next().is_some()
        })
    };
    let common = (0..first.len()).take_while(is_common).count();
    let one = names
        .clone()
        .collect::<std::collections::BTreeSet<_>>()
        .len()
        < 2;
    let skip = if one { 0 } else { common };
    let short = |name: &str| {
        let parts: Vec<&str> = name.split(separator).skip(skip).collect();
        parts.join(&separator.to_string())
    };
    names.map(short).collect()
}

/// The side of an update, by name and by what of a pair it is.
type SideOf = fn(&PairRecord) -> Option<&SideRecord>;

/// Both sides.
const SIDES: [(&str, SideOf); 2] = [
    ("output", |pair| pair.left.as_ref()),
    ("input", |pair| pair.right.as_ref()),
];

fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (sum, count) = values.fold((0.0, 0_usize), |(sum, count), x| (sum + x, count + 1));
    (count > 0).then(|| sum / count as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lose_what_they_share() {
        let names = ["m.layer.0.q", "m.layer.0.v", "m.layer.10.q"];
        assert_eq!(short_names(names.into_iter()), ["0.q", "0.v", "10.q"]);
        assert_eq!(short_names(["m.q"].into_iter()), ["m.q"]);
        assert_eq!(short_names(["m", "m.q"].into_iter()), ["m", "m.q"]);
    }

    #[test]
    fn means() {
        assert_eq!(mean([1.0, 2.0].into_iter()), Some(1.5));
        assert_eq!(mean([].into_iter()), None);
    }
}
