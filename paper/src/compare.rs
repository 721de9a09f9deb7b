//! Methods against LoRA: at the end of training, at equal training loss, at equal training accuracy.
//!
//! A smaller gap between train and test accuracy at a higher training loss is no better
//! generalisation: the method may only have fitted less. And at equal training loss a method may be
//! further with its training accuracy. So every run is also read where its training loss first comes
//! down to a level that all runs reach, and where its training accuracy first comes up to one, with
//! linear interpolation between the records. What is past a level at its first record was never seen
//! there and is not read.

use anyhow::{Result, bail};
use rankwise_training::{MethodName, StopReason};
use serde::Serialize;

use crate::records::{Configuration, Run, by_configuration};
use crate::statistics::Spread;

/// One configuration's numbers over its seeds.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// Method and R.
    pub configuration: Configuration,
    /// Epoch of the reading.
    pub epoch: Spread,
    /// What was read.
    #[serde(flatten)]
    pub numbers: Numbers,
}

/// What is read of a run, or the difference of two runs, over seeds.
#[derive(Debug, Clone, Serialize)]
pub struct Numbers {
    /// Mean cross-entropy.
    pub train_loss: Spread,
    /// Per cent.
    pub train_accuracy: Spread,
    /// Mean cross-entropy.
    pub test_loss: Spread,
    /// Per cent.
    pub test_accuracy: Spread,
    /// Training accuracy less test accuracy, percentage points.
    pub generalization_error: Spread,
}

/// A method less LoRA of the same R, over the same seeds.
#[derive(Debug, Clone, Serialize)]
pub struct Difference {
    /// The method and R.
    pub configuration: Configuration,
    /// At the last epoch.
    pub end: Numbers,
    /// At equal training loss.
    pub equal_loss: Numbers,
    /// At equal training accuracy.
    pub equal_accuracy: Numbers,
}

/// What a difference comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Higher test accuracy and lower test loss in all three readings, beyond the intervals.
    Better,
    /// The opposite, as surely.
    Worse,
    /// The comparisons do not agree, or do not all say something.
    Open,
}

impl Difference {
    /// The three readings, each with its name.
    pub fn readings(&self) -> [(&'static str, &Numbers); 3] {
        [
            ("at the end", &self.end),
            ("at equal training loss", &self.equal_loss),
            ("at equal training accuracy", &self.equal_accuracy),
        ]
    }

    /// Better or worse only where all six comparisons agree, each beyond its interval.
    pub fn verdict(&self) -> Verdict {
        let all = |sign: i8| {
            let mut readings = self.readings().into_iter();
            readings.all(|(_, n)| n.test_accuracy.sign() == sign && n.test_loss.sign() == -sign)
        };
        match (all(1), all(-1)) {
            (true, _) => Verdict::Better,
            (_, true) => Verdict::Worse,
            _ => Verdict::Open,
        }
    }
}

/// All readings of all runs, and the differences from LoRA.
#[derive(Debug, Clone, Serialize)]
pub struct Comparison {
    /// The training loss at which runs are compared: the highest of the runs' lowest.
    pub loss_level: f64,
    /// The training accuracy at which runs are compared: the lowest of the runs' highest.
    pub accuracy_level: f64,
    /// At the last epoch.
    pub end: Vec<Row>,
    /// At `loss_level`.
    pub equal_loss: Vec<Row>,
    /// At `accuracy_level`.
    pub equal_accuracy: Vec<Row>,
    /// Methods against LoRA.
    pub against_lora: Vec<Difference>,
    /// Runs that diverged and are in no comparison.
    pub diverged: Vec<String>,
}

/// A run's numbers at one (possibly fractional) epoch.
struct Reading {
    epoch: f64,
    train_loss: f64,
    train_accuracy: f64,
    test_loss: f64,
    test_accuracy: f64,
    gap: f64,
}

/// A run at the end, at equal training loss, at equal training accuracy.
type Readings = [Option<Reading>; 3];

/// Compares the runs.
///
/// # Errors
/// If a run lacks a column, or all diverged.
pub fn compare(runs: &[Run]) -> Result<Comparison> {
    let (diverged, whole): (Vec<&Run>, Vec<&Run>) = runs
        .iter()
        .partition(|run| run.summary.stop_reason == StopReason::Diverged);
    if whole.is_empty() {
        bail!("runs: expected one that did not diverge, found none");
    }
    // A run may end above its lowest loss: what it can be read at is the lowest.
    let (mut loss_level, mut accuracy_level) = (f64::NEG_INFINITY, f64::INFINITY);
    for run in &whole {
        let lowest = run
            .series("train_loss")?
            .into_iter()
            .fold(f64::INFINITY, f64::min);
        loss_level = loss_level.max(lowest);
        let accuracies = run.series("train_accuracy")?.into_iter();
        accuracy_level = accuracy_level.min(accuracies.fold(f64::NEG_INFINITY, f64::max));
    }
    let read = |run: &Run| -> Result<Readings> {
        let losses = run.series("train_loss")?;
        let accuracies = run.series("train_accuracy")?;
        Ok([
            Some(reading(run, (losses.len() - 1, 0.0))?),
            crossing(&losses, loss_level)
                .map(|at| reading(run, at))
                .transpose()?,
            rise(&accuracies, accuracy_level)
                .map(|at| reading(run, at))
                .transpose()?,
        ])
    };
    let groups = by_configuration(whole);
    let mut all: Vec<(Configuration, Vec<(u64, Readings)>)> = Vec::new();
    for (configuration, own) in groups {
        let own = own.into_iter();
        let read = own.map(|run| Ok((run.config.seed, read(run)?)));
        all.push((configuration, read.collect::<Result<_>>()?));
    }
    let rows = |place: usize| -> Vec<Row> {
        all.iter()
            .map(|(configuration, own)| {
                let read = own
                    .iter()
                    .filter_map(|(_, readings)| readings[place].as_ref());
                let read: Vec<&Reading> = read.collect();
                Row {
                    configuration: *configuration,
                    epoch: Spread::of(read.iter().map(|reading| reading.epoch)),
                    numbers: numbers(&read, |reading, value| value(reading)),
                }
            })
            .collect()
    };
    let differences = all.iter().filter_map(|(configuration, own)| {
        if configuration.method == MethodName::Lora || configuration.rank.is_none() {
            return None;
        }
        let lora = Configuration {
            method: MethodName::Lora,
            ..*configuration
        };
        let (_, others) = all.iter().find(|(other, _)| *other == lora)?;
        let pairs: Vec<(&Readings, &Readings)> = own
            .iter()
            .filter_map(|(seed, readings)| {
                let (_, other) = others.iter().find(|(other, _)| other == seed)?;
                Some((readings, other))
            })
            .collect();
        let at = |place: usize| {
            let both = pairs
                .iter()
                .filter_map(|(own, lora)| Some((own[place].as_ref()?, lora[place].as_ref()?)));
            let both: Vec<_> = both.collect();
            numbers(&both, |(own, lora), value| value(own) - value(lora))
        };
        (!pairs.is_empty()).then(|| Difference {
            configuration: *configuration,
            end: at(0),
            equal_loss: at(1),
            equal_accuracy: at(2),
        })
    });
    Ok(Comparison {
        loss_level,
        accuracy_level,
        end: rows(0),
        equal_loss: rows(1),
        equal_accuracy: rows(2),
        against_lora: differences.collect(),
        diverged: diverged.iter().map(|run| run.name.clone()).collect(),
    })
}

fn numbers<T>(read: &[T], of: impl Fn(&T, fn(&Reading) -> f64) -> f64) -> Numbers {
    let spread = |value: fn(&Reading) -> f64| Spread::of(read.iter().map(|one| of(one, value)));
    Numbers {
        train_loss: spread(|r| r.train_loss),
        train_accuracy: spread(|r| r.train_accuracy),
        test_loss: spread(|r| r.test_loss),
        test_accuracy: spread(|r| r.test_accuracy),
        generalization_error: spread(|r| r.gap),
    }
}

/// Between a record and, by a share of the way, the next one.
fn reading(run: &Run, (before, share): (usize, f64)) -> Result<Reading> {
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
        train_accuracy: between("train_accuracy")?,
        test_loss: between("test_loss")?,
        test_accuracy: between("test_accuracy")?,
        gap: between("generalization_error")?,
    })
}

/// Where `values` first come down to `level`: an index and the share of the way to the next one.
/// `None` if they begin below it or never get there.
fn crossing(values: &[f64], level: f64) -> Option<(usize, f64)> {
    let index = values.iter().position(|&value| value <= level)?;
    let below = values[index];
    if below == level {
        return Some((index, 0.0));
    }
    let above = values[index.checked_sub(1)?];
    Some((index - 1, (above - level) / (above - below)))
}

/// Where `values` first come up to `level`.
fn rise(values: &[f64], level: f64) -> Option<(usize, f64)> {
    let turned: Vec<f64> = values.iter().map(|value| -value).collect();
    crossing(&turned, -level)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    #[test]
    fn crossings_in_closed_form() {
        assert_eq!(crossing(&[4.0, 2.0, 1.0], 3.0), Some((0, 0.5)));
        assert_eq!(crossing(&[4.0, 2.0, 1.0], 2.0), Some((1, 0.0)));
        assert_eq!(crossing(&[4.0, 2.0], 4.0), Some((0, 0.0)));
        // Up again in between: the first time counts.
        assert_eq!(crossing(&[4.0, 2.0, 4.0, 0.0], 3.0), Some((0, 0.5)));
        assert_eq!(crossing(&[4.0, 2.0, 1.0], 5.0), None);
        assert_eq!(crossing(&[4.0, 2.0], 1.0), None);
        assert_eq!(rise(&[50.0, 80.0, 90.0], 82.5), Some((1, 0.25)));
        assert_eq!(rise(&[50.0, 80.0], 40.0), None);
    }

    /// A difference of RM-LoRA from LoRA whose test accuracies and losses are these in each reading.
    pub(crate) fn difference(accuracies: [[f64; 3]; 3], losses: [[f64; 3]; 3]) -> Difference {
        let at = |place: usize| Numbers {
            train_loss: Spread::of([0.5; 3]),
            train_accuracy: Spread::of([-3.0; 3]),
            test_loss: Spread::of(losses[place]),
            test_accuracy: Spread::of(accuracies[place]),
            generalization_error: Spread::of([-3.0; 3]),
        };
        Difference {
            configuration: Configuration {
                method: MethodName::RmLora,
                rank: Some(16),
            },
            end: at(0),
            equal_loss: at(1),
            equal_accuracy: at(2),
        }
    }

    #[test]
    fn only_six_that_agree_are_a_verdict() {
        let (up, down) = ([1.0, 1.1, 1.2], [-1.0, -1.1, -1.2]);
        let none = [-1.0, 0.0, 1.0];
        assert_eq!(difference([up; 3], [down; 3]).verdict(), Verdict::Better);
        assert_eq!(difference([down; 3], [up; 3]).verdict(), Verdict::Worse);
        for place in 0..3 {
            for other in [none, down] {
                let mut accuracies = [up; 3];
                accuracies[place] = other;
                let one = difference(accuracies, [down; 3]);
                assert_eq!(one.verdict(), Verdict::Open, "{place}");
            }
            for other in [none, up] {
                let mut losses = [down; 3];
                losses[place] = other;
                assert_eq!(
                    difference([up; 3], losses).verdict(),
                    Verdict::Open,
                    "{place}"
                );
            }
        }
        // Three standard errors of three seeds: within Student's limit of 4.3.
        let wide = [3.0 - 3.0_f64.sqrt(), 3.0, 3.0 + 3.0_f64.sqrt()];
        assert_eq!(difference([wide; 3], [down; 3]).verdict(), Verdict::Open);
    }
}
