use std::cmp::Ordering;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::classification::{accuracy, f1, matthews};
use super::correlation::pearson;
use crate::Error;

/// A metric by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// The mean loss of the examples that are evaluated.
    Loss,
    /// Share of hits.
    Accuracy,
    /// F₁ of class 1.
    F1,
    /// Matthews' correlation of classes.
    Matthews,
    /// Pearson's correlation of scores.
    Pearson,
    /// Spearman's correlation of scores.
    Spearman,
    /// Percent of answers that are one of the gold answers.
    ExactMatch,
    /// Mean F₁ of the words of answers, in percent.
    AnswerF1,
}

/// Which values of a metric are the good ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// The larger the better.
    Higher,
    /// The smaller the better.
    Lower,
}

impl Metric {
    /// Every metric, in the order of tables.
    pub const ALL: [Self; 8] = [
        Self::Loss,
        Self::Accuracy,
        Self::F1,
        Self::Matthews,
        Self::Pearson,
        Self::Spearman,
        Self::ExactMatch,
        Self::AnswerF1,
    ];

    /// The name in configurations, records and columns, such as `exact_match`.
    pub fn key(self) -> &'static str {
        match self {
            Self::Loss => "loss",
            Self::Accuracy => "accuracy",
            Self::F1 => "f1",
            Self::Matthews => "matthews",
            Self::Pearson => "pearson",
            Self::Spearman => "spearman",
            Self::ExactMatch => "exact_match",
            Self::AnswerF1 => "answer_f1",
        }
    }

    /// Which values are the good ones.
    pub fn direction(self) -> Direction {
        match self {
            Self::Loss => Direction::Lower,
            Self::Accuracy
            | Self::F1
            | Self::Matthews
            | Self::Pearson
            | Self::Spearman
            | Self::ExactMatch
            | Self::AnswerF1 => Direction::Higher,
        }
    }

    /// Whether `new` is strictly better than `old`, so that the first of equals stays the best. A
    /// value that is not defined or NaN is worse than every other.
    ///
    /// ```
    /// use rankwise_training::Metric;
    /// assert!(Metric::Accuracy.is_better(Some(0.9), Some(0.8)));
    /// assert!(!Metric::Loss.is_better(Some(0.9), Some(0.8)));
    /// assert!(!Metric::Pearson.is_better(None, Some(-1.0)));
    /// ```
    pub fn is_better(self, new: Option<f64>, old: Option<f64>) -> bool {
        let known = |value: Option<f64>| value.filter(|value| !value.is_nan());
        match (known(new), known(old)) {
            (None, _) => false,
            (Some(_), None) => true,
            (Some(new), Some(old)) => {
                let better = match self.direction() {
                    Direction::Higher => Ordering::Greater,
                    Direction::Lower => Ordering::Less,
                };
                new.partial_cmp(&old) == Some(better)
            }
        }
    }

    /// The metric of predicted classes.
    ///
    /// ```
    /// use rankwise_training::Metric;
    /// let (predictions, labels) = ([1, 1, 0, 0], [1, 0, 1, 0]);
    /// assert_eq!(Metric::Accuracy.of_classes(&predictions, &labels)?, 0.5);
    /// assert_eq!(Metric::Matthews.of_classes(&predictions, &labels)?, 0.0);
    /// # Ok::<(), rankwise_training::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Metric`] if this is no metric of classes, if the lengths differ or are 0, or if F₁
    /// is asked for and a class is not 0 or 1.
    pub fn of_classes(self, predictions: &[u32], labels: &[u32]) -> Result<f64, Error> {
        match self {
            Self::Accuracy => accuracy(predictions, labels),
            Self::F1 => f1(predictions, labels),
            Self::Matthews => matthews(predictions, labels),
            Self::Loss | Self::Pearson | Self::Spearman | Self::ExactMatch | Self::AnswerF1 => {
                Err(self.is_not("of classes", "accuracy, f1 or matthews"))
            }
        }
    }

    /// The metric of predicted numbers; `None` where it is not defined.
    ///
    /// # Errors
    /// [`Error::Metric`] if this is no metric of numbers, or if the lengths differ or are 0.
    pub fn of_scores(self, predictions: &[f64], labels: &[f64]) -> Result<Option<f64>, Error> {
        match self {
            Self::Pearson => pearson(predictions, labels),
            Self::Spearman => {
                super::check_pairs(self, predictions.len(), labels.len())?;
                Ok(rankwise_analysis::spearman(predictions, labels))
            }
            Self::Loss
            | Self::Accuracy
            | Self::F1
            | Self::Matthews
            | Self::ExactMatch
            | Self::AnswerF1 => Err(self.is_not("of numbers", "pearson or spearman")),
        }
    }

    fn is_not(self, what: &str, which: &str) -> Error {
        Error::Metric {
            metric: self.key(),
            expected: format!("a metric {what}: {which}"),
            found: self.key().to_owned(),
        }
    }
}

impl fmt::Display for Metric {
    /// The name in tables and legends.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Loss => "loss",
            Self::Accuracy => "accuracy",
            Self::F1 | Self::AnswerF1 => "F1",
            Self::Matthews => "Matthews",
            Self::Pearson => "Pearson",
            Self::Spearman => "Spearman",
            Self::ExactMatch => "EM",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_in_a_record_is_its_key() {
        for metric in Metric::ALL {
            let json = serde_json::to_string(&metric).unwrap();
            assert_eq!(json, format!("\"{}\"", metric.key()));
        }
    }

    #[test]
    fn what_is_not_defined_is_never_better() {
        for metric in Metric::ALL {
            for nothing in [None, Some(f64::NAN)] {
                assert!(!metric.is_better(nothing, None));
                assert!(!metric.is_better(nothing, Some(0.0)));
                assert!(metric.is_better(Some(0.0), nothing));
            }
            assert!(!metric.is_better(Some(0.5), Some(0.5)));
        }
    }

    #[test]
    fn a_metric_refuses_the_other_kind_of_prediction() {
        for metric in Metric::ALL {
            let classes = metric.of_classes(&[0, 1], &[0, 1]).is_ok();
            let scores = metric.of_scores(&[0.0, 1.0], &[0.0, 1.0]).is_ok();
            assert!(!(classes && scores), "{metric:?}");
        }
        let error = Metric::Pearson.of_classes(&[0], &[0]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "metric pearson: expected a metric of classes: accuracy, f1 or matthews, found pearson"
        );
    }
}
