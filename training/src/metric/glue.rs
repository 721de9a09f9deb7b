use std::fmt;

use serde::{Deserialize, Serialize};

use super::Metric;

/// A task of GLUE, with what it is judged by.
///
/// Source: Wang et al., GLUE (ICLR 2019), Table 1 and section 3; the leaderboard's score of a task
/// with two metrics is their mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GlueTask {
    /// Corpus of Linguistic Acceptability.
    Cola,
    /// Stanford Sentiment Treebank.
    Sst2,
    /// Microsoft Research Paraphrase Corpus.
    Mrpc,
    /// Semantic Textual Similarity Benchmark: a number from 0 to 5.
    Stsb,
    /// Quora Question Pairs.
    Qqp,
    /// Multi-Genre Natural Language Inference.
    Mnli,
    /// Question Natural Language Inference.
    Qnli,
    /// Recognising Textual Entailment.
    Rte,
    /// Winograd Natural Language Inference.
    Wnli,
}

impl GlueTask {
    /// Every task, in the benchmark's order.
    pub const ALL: [Self; 9] = [
        Self::Cola,
        Self::Sst2,
        Self::Mrpc,
        Self::Stsb,
        Self::Qqp,
        Self::Mnli,
        Self::Qnli,
        Self::Rte,
        Self::Wnli,
    ];

    /// The name of the task's configuration in the Hub's `nyu-mll/glue`.
    pub fn key(self) -> &'static str {
        match self {
            Self::Cola => "cola",
            Self::Sst2 => "sst2",
            Self::Mrpc => "mrpc",
            Self::Stsb => "stsb",
            Self::Qqp => "qqp",
            Self::Mnli => "mnli",
            Self::Qnli => "qnli",
            Self::Rte => "rte",
            Self::Wnli => "wnli",
        }
    }

    /// The official metrics.
    ///
    /// ```
    /// use rankwise_training::{GlueTask, Metric};
    /// assert_eq!(GlueTask::Stsb.metrics(), [Metric::Pearson, Metric::Spearman]);
    /// ```
    pub fn metrics(self) -> &'static [Metric] {
        match self {
            Self::Cola => &[Metric::Matthews],
            Self::Mrpc | Self::Qqp => &[Metric::Accuracy, Metric::F1],
            Self::Stsb => &[Metric::Pearson, Metric::Spearman],
            Self::Sst2 | Self::Mnli | Self::Qnli | Self::Rte | Self::Wnli => &[Metric::Accuracy],
        }
    }

    /// The metric that decides between epochs and settings: the first of [`metrics`](Self::metrics),
    /// which is the one that papers on adapters report where they report one.
    pub fn main(self) -> Metric {
        self.metrics()[0]
    }

    /// The splits with public labels that are evaluated, the deciding one first: MNLI has one of the
    /// training set's genres (m) and one of others (mm), and their accuracies are two numbers.
    pub fn evaluation_splits(self) -> &'static [&'static str] {
        match self {
            Self::Mnli => &["validation_matched", "validation_mismatched"],
            _ => &["validation"],
        }
    }
}

impl fmt::Display for GlueTask {
    /// The name in tables, as the benchmark writes it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Cola => "CoLA",
            Self::Sst2 => "SST-2",
            Self::Mrpc => "MRPC",
            Self::Stsb => "STS-B",
            Self::Qqp => "QQP",
            Self::Mnli => "MNLI",
            Self::Qnli => "QNLI",
            Self::Rte => "RTE",
            Self::Wnli => "WNLI",
        })
    }
}
