//! Methods against LoRA, at the end of training and at equal training loss.
//!
//! A smaller gap between train and test accuracy at a higher training loss is no better
//! generalisation: the method may only have fitted less. So every run is also read at the epoch
//! where its training loss first comes down to a level that all runs reach, with linear
//! interpolation between the records.

use anyhow::Result;
use rankwise_training::MethodName;
use serde::Serialize;

use crate::records::{Configuration, Run, Spread, by_configuration};

/// One configuration's numbers over its seeds.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// Method and R.
    pub configuration: Configuration,
    /// Epoch of the reading.
    pub epoch: Spread,
    /// Mean cross-entropy.
    pub train_loss: Spread,
    /// Mean cross-entropy.
    pub test_loss: Spread,
    /// Per cent.
    pub test_accuracy: Spread,
    /// Percentage points.
    pub generalization_error: Spread,
}

/// A method against LoRA of the same R over the same seeds: its numbers minus LoRA's.
#[derive(Debug, Clone, Serialize)]
pub struct Difference {
    /// The method and R.
    pub configuration: Configuration,
    /// Training loss at the end.
    pub end_train_loss: Spread,
    /// Test accuracy at the end, percentage points.
    pub end_test_accuracy: Spread,
    /// Gap at the end, percentage points.
    pub end_generalization_error: Spread,
    /// Test accuracy at equal training loss, percentage points.
    pub equal_test_accuracy: Spread,
    /// Test loss at equal training loss.
    pub equal_test_loss: Spread,
}

/// Both readings of all runs, and the differences from LoRA.
#[derive(Debug, Clone, Serialize)]
pub struct Comparison {
    /// The training loss at which runs are compared: the highest that any ends at.
    pub level: f64,
    /// At the last epoch.
    pub end: Vec<Row>,
    /// At `level`.
    pub equal: Vec<Row>,
    /// Methods against LoRA.
    pub against_lora: Vec<Difference>,
}

/// A run's numbers at one (possibly fractional) epoch.
struct Reading {
    epoch: f64,
    train_loss: f64,
    test_loss: f64,
    test_accuracy: f64,
    gap: f64,
}

/// Compares the runs.
///
/// # Errors
/// If a run lacks a column.
pub fn compare(runs: &[Run]) -> Result<Comparison> {
    let mut level = f64::NEG_INFINITY;
    for run in runs {
        // A run may end above its lowest loss: what it can be read at is the lowest.
        let lowest = run
            .series("train_loss")?
            .into_iter()
            .fold(f64::INFINITY, f64::min);
        level = level.max(lowest);
    }
    let mut end = Vec::new();
    let mut equal = Vec::new();
    for (configuration, runs) in by_configuration(runs) {
        let rows = |at: &dyn Fn(&Run) -> Result<Reading>| -> Result<Row> {
            let readings = runs.iter().map(|run| at(run)).collect::<Result<Vec<_>>>()?;
            let spread = |value: fn(&Reading) -> f64| Spread::of(readings.iter().map(value));
            Ok(Row {
                configuration,
                epoch: spread(|r| r.epoch),
                train_loss: spread(|r| r.train_loss),
                test_loss: spread(|r| r.test_loss),
                test_accuracy: spread(|r| r.test_accuracy),
                generalization_error: spread(|r| r.gap),
            })
        };
        end.push(rows(&at_end)?);
        equal.push(rows(&|run| at_level(run, level))?);
    }
    let mut against_lora = Vec::new();
    for (configuration, own) in by_configuration(runs) {
        if configuration.method == MethodName::Lora || configuration.rank.is_none() {
            continue;
        }
        let lora = Configuration {
            method: MethodName::Lora,
            ..configuration
        };
        let mut pairs = Vec::new();
        for run in own {
            let same =
                |other: &&Run| other.configuration == lora && other.config.seed == run.config.seed;
            if let Some(other) = runs.iter().find(same) {
                pairs.push((
                    (at_end(run)?, at_end(other)?),
                    (at_level(run, level)?, at_level(other, level)?),
                ));
            }
        }
        if pairs.is_empty() {
            continue;
        }
        let ends = |value: fn(&Reading) -> f64| {
            Spread::of(
                pairs
                    .iter()
                    .map(|((own, lora), _)| value(own) - value(lora)),
            )
        };
        let equals = |value: fn(&Reading) -> f64| {
            Spread::of(
                pairs
                    .iter()
                    .map(|(_, (own, lora))| value(own) - value(lora)),
            )
        };
        against_lora.push(Difference {
            configuration,
            end_train_loss: ends(|r| r.train_loss),
            end_test_accuracy: ends(|r| r.test_accuracy),
            end_generalization_error: ends(|r| r.gap),
            equal_test_accuracy: equals(|r| r.test_accuracy),
            equal_test_loss: equals(|r| r.test_loss),
        });
    }
    Ok(Comparison {
        level,
        end,
        equal,
        against_lora,
    })
}

fn at_end(run: &Run) -> Result<Reading> {
    Ok(Reading {
        epoch: run.last("epoch")?,
        train_loss: run.last("train_loss")?,
        test_loss: run.last("test_loss")?,
        test_accuracy: run.last("test_accuracy")?,
        gap: run.last("generalization_error")?,
    })
}

fn at_level(run: &Run, level: f64) -> Result<Reading> {
    let losses = run.series("train_loss")?;
    let (before, share) = crossing(&losses, level);
    let between = |column: &str| -> Result<f64> {
        let values = run.series(column)?;
        Ok(match share {
            0.0 => values[before],
            share => values[before] * (1.0 - share) + values[before + 1] * share,
        })
    };
    Ok(Reading {
        epoch: between("epoch")?,
        train_loss: between("train_loss")?,
        test_loss: between("test_loss")?,
        test_accuracy: between("test_accuracy")?,
        gap: between("generalization_error")?,
    })
}

/// Where `values` first come down to `level`: an index and the share of the way to the next one.
/// The first index if they begin below it, the last if they never get there.
fn crossing(values: &[f64], level: f64) -> (usize, f64) {
    match values.iter().position(|&value| value <= level) {
        Some(0) => (0, 0.0),
        Some(index) => {
            let (above, below) = (values[index - 1], values[index]);
            if below == level {
                (index, 0.0)
            } else {
                (index - 1, (above - level) / (above - below))
            }
        }
        None => (values.len() - 1, 0.0),
    }
}

#[cfg(test)]
mod tests {
    use super::crossing;

    #[test]
    fn crossings_in_closed_form() {
        assert_eq!(crossing(&[4.0, 2.0, 1.0], 3.0), (0, 0.5));
        assert_eq!(crossing(&[4.0, 2.0, 1.0], 2.0), (1, 0.0));
        assert_eq!(crossing(&[4.0, 2.0, 1.0], 5.0), (0, 0.0));
        assert_eq!(crossing(&[4.0, 2.0], 1.0), (1, 0.0));
    }
}
