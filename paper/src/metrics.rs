//! Adapters' rank measures joined with a table of their train and test metrics.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use rankwise_analysis::{AdapterAudit, Distribution};
use rankwise_data::{ColumnKind, Table};
use serde::{Deserialize, Serialize};

use crate::link::RANK_MEASURES;
use crate::matching::matches;

/// Columns that may name the adapter, the first that is there.
const KEYS: [&str; 3] = ["adapter", "path", "name"];
/// Prefixes of a held-out metric, the first that is there.
const HELD_OUT: [&str; 5] = ["test_", "eval_", "val_", "valid_", "validation_"];
/// Parts of names whose smaller values are better.
const LOWER_IS_BETTER: [&str; 8] = [
    "loss",
    "error",
    "perplexity",
    "ppl",
    "nll",
    "mse",
    "mae",
    "wer",
];
/// Numbers that were chosen, not measured: no outcomes unless asked for.
const SETTINGS: [&str; 14] = [
    "rank",
    "r",
    "alpha",
    "seed",
    "epoch",
    "epochs",
    "step",
    "steps",
    "learning_rate",
    "lr",
    "batch_size",
    "parameters",
    "trainable_parameters",
    "rank_budget",
];

/// What stands for an adapter's modules.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "the names say it")]
pub enum Aggregate {
    #[default]
    Median,
    Mean,
    Min,
    Max,
}

impl Aggregate {
    fn of(self, values: &Distribution) -> f64 {
        match self {
            Self::Median => values.median,
            Self::Mean => values.mean,
            Self::Min => values.min,
            Self::Max => values.max,
        }
    }
}

/// The rank measures of one adapter.
#[derive(Debug, Clone, PartialEq)]
pub struct AdapterRanks {
    /// Where it lies; a run's name for a recorded run.
    pub path: String,
    /// Mean R of its modules; `None` without low-rank factors.
    pub rank_budget: Option<f64>,
    /// Every measure by name.
    pub measures: BTreeMap<String, f64>,
}

/// The measures of audited adapters, one number an adapter.
pub fn adapter_ranks(audits: &[AdapterAudit], aggregate: Aggregate) -> Vec<AdapterRanks> {
    audits
        .iter()
        .map(|audit| {
            let summary = &audit.summary;
            let measures = summary.measures.iter();
            AdapterRanks {
                path: audit.path.clone(),
                rank_budget: (summary.modules > 0)
                    .then(|| summary.rank_budget as f64 / summary.modules as f64),
                measures: measures
                    .map(|(name, values)| ((*name).to_owned(), aggregate.of(values)))
                    .collect(),
            }
        })
        .collect()
}

/// Which columns of the metrics mean what; `None` finds them by their names.
#[derive(Debug, Clone, Default)]
pub struct MetricColumns {
    /// Names the adapter.
    pub key: Option<String>,
    /// Outcomes; all numbers that are not settings otherwise.
    pub metrics: Option<Vec<String>>,
    /// Equal for the runs that only differ by seed; `configuration` or `group` otherwise.
    pub group: Option<String>,
    /// Held fixed in partial correlations; the mean R and the train metric otherwise.
    pub covariates: Option<Vec<String>>,
}

/// What one column, or the difference of two, says of every adapter.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// Its name.
    pub name: String,
    /// How it is computed, if it is not a column.
    pub definition: Option<String>,
    /// The train metric that goes with it.
    pub train: Option<String>,
}

/// An adapter with its row.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Joined {
    /// Where the adapter lies.
    pub path: String,
    /// Its name in the metrics.
    pub key: String,
    /// Of the adapters that differ only by seed; its key if there is no such column.
    pub configuration: String,
    /// `seed` in the metrics.
    pub seed: String,
    /// Names its points in a figure: `method` in the metrics, or the configuration.
    pub label: String,
    /// Rank measures by name.
    pub measures: BTreeMap<String, f64>,
    /// Columns of numbers, gaps among them, by name; missing numbers are absent.
    pub metrics: BTreeMap<String, f64>,
}

/// Adapters and metrics put together, and whatever did not fit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Join {
    /// The column that named the adapters.
    pub key: String,
    /// The column that named the configurations, if any.
    pub group: Option<String>,
    /// In the order of the metrics.
    pub adapters: Vec<Joined>,
    /// What rank is linked to.
    pub outcomes: Vec<Outcome>,
    /// Covariates that were asked for; `None` for the default.
    pub covariates: Option<Vec<String>>,
    /// Rows without an adapter, adapters without a row, rows that fit several adapters or share one,
    /// columns that were not used: each in a sentence.
    pub notes: Vec<String>,
}

/// Joins adapters with the rows that name them.
///
/// A row's key names an adapter by its path, by the end of its path, by the name of its file or folder
/// without ending, or by a folder above it; the first of these that fits any counts, and only if it fits
/// one. Where `train_X` and `test_X` (or `eval_X`, `val_X`) are there, `gap_X` is added: test − train for
/// losses and errors, train − test otherwise, so that more is always worse.
///
/// # Errors
/// If a column that is asked for is absent or of another kind, or nothing could be joined.
pub fn join(ranks: &[AdapterRanks], table: &Table, columns: &MetricColumns) -> Result<Join> {
    let names = table.names();
    let find = |wanted: &Option<String>, known: &[&str]| match wanted {
        Some(name) => Some(name.clone()),
        None => known
            .iter()
            .find(|known| names.iter().any(|name| name == *known))
            .map(|name| (*name).to_owned()),
    };
    let Some(key) = find(&columns.key, &KEYS) else {
        bail!(
            "metrics: expected a column {} that names the adapter, found {}",
            KEYS.join(", "),
            names.join(", ")
        );
    };
    let keys = table.labels(&key)?;
    let group = find(&columns.group, &["configuration", "group"]);
    let groups = group
        .as_deref()
        .map(|name| table.labels(name))
        .transpose()?;
    let optional = |name: &str| match names.iter().any(|known| known == name) {
        true => table.labels(name).map(Some),
        false => Ok(None),
    };
    let (seeds, methods) = (optional("seed")?, optional("method")?);

    let mut notes = Vec::new();
    let (outcomes, values) = outcomes(table, columns, [Some(&key), group.as_ref()], &mut notes)?;
    let matched = matches(ranks, &keys, &mut notes);
    let adapters: Vec<Joined> = matched
        .into_iter()
        .map(|(row, adapter)| {
            let at = |texts: &Option<Vec<String>>| texts.as_ref().map(|texts| texts[row].clone());
            let configuration = at(&groups).unwrap_or_else(|| keys[row].clone());
            Joined {
                path: ranks[adapter].path.clone(),
                key: keys[row].clone(),
                seed: at(&seeds).unwrap_or_default(),
                label: at(&methods).unwrap_or_else(|| match groups {
                    Some(_) => configuration.clone(),
                    None => "Adapter".to_owned(),
                }),
                configuration,
                measures: ranks[adapter].measures.clone(),
                metrics: values
                    .iter()
                    .map(|(name, values)| (name.clone(), values[row]))
                    .chain(
                        ranks[adapter]
                            .rank_budget
                            .map(|r| (RANK_BUDGET.to_owned(), r)),
                    )
                    .filter(|(_, value)| !value.is_nan())
                    .collect(),
            }
        })
        .collect();
    if adapters.is_empty() {
        bail!(
            "metrics: expected rows whose `{key}` names an audited adapter, found none: {}",
            notes.join("; ")
        );
    }
    if group.is_none() && seeds.is_some() {
        notes.push(
            "The metrics have seeds but no column `configuration` or `group`: runs of one \
             configuration are taken for independent, and the intervals are too narrow."
                .to_owned(),
        );
    }
    Ok(Join {
        key,
        group,
        adapters,
        outcomes,
        covariates: columns.covariates.clone(),
        notes,
    })
}

/// The mean R of an adapter among the metrics.
pub(crate) const RANK_BUDGET: &str = "rank budget";

type Values = BTreeMap<String, Vec<f64>>;

/// The outcomes, and every column of numbers with the gaps.
fn outcomes(
    table: &Table,
    columns: &MetricColumns,
    taken: [Option<&String>; 2],
    notes: &mut Vec<String>,
) -> Result<(Vec<Outcome>, Values)> {
    let mut values = Values::new();
    let mut found = Vec::new();
    for name in table.names() {
        if !matches!(table.kind(&name)?, ColumnKind::Whole | ColumnKind::Real) {
            continue;
        }
        values.insert(name.clone(), table.numbers(&name)?);
        let is_setting = SETTINGS.contains(&name.as_str()) || taken.contains(&Some(&name));
        let is_measure = RANK_MEASURES.contains(&name.as_str());
        let is_covariate = columns
            .covariates
            .iter()
            .flatten()
            .any(|other| *other == name);
        if is_setting || is_measure || is_covariate {
            let is_role = taken.contains(&Some(&name)) || name == "seed";
            if !is_role && columns.metrics.is_none() {
                notes.push(format!(
                    "Column `{name}` is no outcome: a setting or a measure of rank."
                ));
            }
        } else {
            found.push(name);
        }
    }
    let mut gaps = Vec::new();
    for name in found.clone() {
        let Some(metric) = name.strip_prefix("train_") else {
            continue;
        };
        let mut held_out = HELD_OUT.iter().map(|prefix| format!("{prefix}{metric}"));
        let gap = format!("gap_{metric}");
        if values.contains_key(&gap) {
            continue;
        }
        if let Some(other) = held_out.find(|other| values.contains_key(other)) {
            let lower = LOWER_IS_BETTER.iter().any(|part| metric.contains(part));
            let (more, less) = if lower {
                (&other, &name)
            } else {
                (&name, &other)
            };
            let pairs = values[more].iter().zip(&values[less]);
            let difference = pairs.map(|(more, less)| more - less).collect();
            gaps.push(Outcome {
                name: gap.clone(),
                definition: Some(format!("{more} − {less}")),
                train: Some(name.clone()),
            });
            values.insert(gap, difference);
        }
    }
    let train_of = |name: &str| {
        let prefixes = HELD_OUT.iter().chain(&["gap_"]);
        let metric = prefixes
            .filter_map(|prefix| name.strip_prefix(prefix))
            .next()?;
        let train = format!("train_{metric}");
        values.contains_key(&train).then_some(train)
    };
    let plain = |name: String| Outcome {
        train: train_of(&name),
        definition: None,
        name,
    };
    let outcomes = match &columns.metrics {
        None => {
            // What was trained for says the least about generalisation: it comes last.
            let (train, other): (Vec<_>, Vec<_>) = found
                .into_iter()
                .partition(|name| name.starts_with("train_"));
            let columns = other.into_iter().chain(train).map(plain);
            gaps.into_iter().chain(columns).collect()
        }
        Some(wanted) => wanted
            .iter()
            .map(|name| match gaps.iter().find(|gap| gap.name == *name) {
                Some(gap) => Ok(gap.clone()),
                None => {
                    table.numbers(name).context("metrics")?;
                    Ok(plain(name.clone()))
                }
            })
            .collect::<Result<_>>()?,
    };
    for name in columns.covariates.iter().flatten() {
        if name != RANK_BUDGET && !values.contains_key(name) {
            table.numbers(name).context("metrics")?;
        }
    }
    Ok((outcomes, values))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn ranks(paths: &[&str]) -> Vec<AdapterRanks> {
        let of = |path: &&str| AdapterRanks {
            path: (*path).to_owned(),
            rank_budget: Some(8.0),
            measures: BTreeMap::from([("stable_rank".to_owned(), 2.0)]),
        };
        paths.iter().map(of).collect()
    }

    fn table(text: &str) -> Table {
        Table::from_csv(Path::new("m.csv"), text.as_bytes(), ',').unwrap()
    }

    #[test]
    fn rows_find_their_adapters_and_the_rest_is_named() {
        let ranks = ranks(&[
            "a/one",
            "a/two/adapter",
            "./a/three/adapter_model.safetensors",
            "x/same",
            "y/same",
            "a/lonely",
            "a/four.safetensors",
        ]);
        let table = table(
            "adapter,train_loss,test_loss\n\
             one,0.5,1\n/data/a/two/adapter,1,1\nthree/,1,2\nsame,1,1\nnobody,1,1\nfour,1,\n",
        );
        let join = join(&ranks, &table, &MetricColumns::default()).unwrap();
        let paths: Vec<_> = join.adapters.iter().map(|a| a.path.as_str()).collect();
        let expected = [
            "a/one",
            "a/two/adapter",
            "./a/three/adapter_model.safetensors",
            "a/four.safetensors",
        ];
        assert_eq!(paths, expected);
        assert_eq!(join.adapters[0].metrics["gap_loss"], 0.5);
        assert!(!join.adapters[3].metrics.contains_key("gap_loss"));
        let notes = join.notes.join("\n");
        for expected in [
            "row 4 (`same`) fits 2 adapters: x/same, y/same",
            "No adapter for row 5 (`nobody`)",
            "No row for the adapter a/lonely",
            "No row for the adapter x/same",
        ] {
            assert!(notes.contains(expected), "{notes}");
        }
    }

    #[test]
    fn a_larger_gap_is_always_worse() {
        let table = table(
            "name,seed,train_accuracy,val_accuracy,train_loss,test_loss,rank\na,0,90,80,0.1,0.4,8\n",
        );
        let join = join(&ranks(&["a"]), &table, &MetricColumns::default()).unwrap();
        let definitions: Vec<_> = join
            .outcomes
            .iter()
            .filter_map(|outcome| outcome.definition.as_deref())
            .collect();
        assert_eq!(
            definitions,
            ["train_accuracy − val_accuracy", "test_loss − train_loss"]
        );
        assert!(
            join.outcomes
                .iter()
                .all(|o| o.name != "rank" && o.name != "seed")
        );
        let test = join
            .outcomes
            .iter()
            .find(|o| o.name == "test_loss")
            .unwrap();
        assert_eq!(test.train.as_deref(), Some("train_loss"));
        assert!(
            join.notes
                .iter()
                .any(|note| note.contains("no column `configuration`"))
        );
    }

    #[test]
    fn faults_name_the_columns() {
        let ranks = ranks(&["a"]);
        let fault = |text: &str, columns: &MetricColumns| {
            format!("{:#}", join(&ranks, &table(text), columns).unwrap_err())
        };
        let none = fault("model,loss\na,1\n", &MetricColumns::default());
        assert!(none.contains("found model, loss"), "{none}");
        let nobody = fault("adapter,loss\nb,1\n", &MetricColumns::default());
        assert!(
            nobody.contains("found none: No adapter for row 1 (`b`)"),
            "{nobody}"
        );
        let text = MetricColumns {
            metrics: Some(vec!["task".to_owned()]),
            ..MetricColumns::default()
        };
        let text = fault("adapter,task\na,x\n", &text);
        assert!(text.contains("column task: expected numbers"), "{text}");
        let twice = fault("adapter,loss\na,1\na,2\n", &MetricColumns::default());
        assert!(
            twice.contains("rows 1, 2 all name the adapter a"),
            "{twice}"
        );
    }
}
