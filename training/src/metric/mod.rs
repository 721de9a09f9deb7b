//! What a trained model is judged by: pure functions of predictions and labels, in float64, with the
//! definitions of the benchmarks' own scripts.
//!
//! | metric | identifier | definition | script |
//! |---|---|---|---|
//! | accuracy | [`accuracy`] | share of equal pairs | GLUE |
//! | F₁ | [`f1`] | 2 tp/(2 tp + fp + fn) of class 1; 0 where class 1 is neither meant nor found | scikit-learn |
//! | Matthews | [`matthews`] | (c n − Σ tₖpₖ)/√((n² − Σ pₖ²)(n² − Σ tₖ²)), c the hits, tₖ and pₖ how often k is meant and found; 0 where one side is constant | scikit-learn; Gorodkin 2004 |
//! | Pearson | [`pearson`] | correlation; not defined where one side is constant | SciPy |
//! | Spearman | [`spearman`](rankwise_analysis::spearman) | Pearson of the ranks | SciPy |
//! | exact match, F₁ of answers | [`evaluate_answers`] | see there; in percent | SQuAD, evaluate-v1.1 |
//!
//! [`best_answers`] makes answers out of a reader's logits before they can be judged.
//!
//! A metric that is not defined is `None` (the scripts print NaN), and no value is worse. Lists of
//! different lengths, and empty ones, are errors: no script gives them a number.

mod answer;
mod classification;
mod correlation;
mod glue;
mod name;
mod squad;

pub use answer::{Answer, AnswerOptions, AnswerWindow, best_answers, chosen_answer};
pub use classification::{accuracy, f1, matthews};
pub use correlation::pearson;
pub use glue::glue_metrics;
pub use name::{Direction, Metric};
pub use squad::{
    AnswerScores, GoldAnswers, answer_f1, evaluate_answers, is_exact_match, normalized_answer,
};

use crate::Error;

/// Checks that predictions and labels come in pairs, and that there are some.
fn check_pairs(metric: Metric, predictions: usize, labels: usize) -> Result<(), Error> {
    let wrong = |expected: String| Error::Metric {
        metric: metric.key(),
        expected,
        found: predictions.to_string(),
    };
    if predictions != labels {
        return Err(wrong(format!("{labels} predictions, one a label")));
    }
    if predictions == 0 {
        return Err(wrong("at least 1 prediction".to_owned()));
    }
    Ok(())
}
