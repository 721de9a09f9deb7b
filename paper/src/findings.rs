//! Sentences computed from the numbers: each states what was compared and what came out, whichever
//! way it came out.

use rankwise_theory::CellRecord;

use crate::compare::{Comparison, Difference};
use crate::link::Link;
use crate::records::Spread;

/// How many standard errors a difference must be from zero to be called one.
pub(crate) const STANDARD_ERRORS: f64 = 2.0;

/// What the theorem's verification shows.
pub fn theory_findings(records: &[CellRecord]) -> Vec<String> {
    let measured: Vec<&CellRecord> = records.iter().filter(|r| r.measured.is_some()).collect();
    let violations = |value: fn(&CellRecord) -> Option<bool>| {
        measured
            .iter()
            .filter(|record| value(record) == Some(true))
            .count()
    };
    let mut findings = vec![format!(
        "Theorem 3.1 on {} random problems ({} met a singular factor): the measured error exceeded \
         the corrected bound in {} and the bound as printed (Eq. 8) in {} cases.",
        records.len(),
        records.len() - measured.len(),
        violations(|r| r.violated_corrected),
        violations(|r| r.violated_literal),
    )];
    let largest = |exact: bool| {
        let own = measured.iter().filter(|record| record.exact == exact);
        own.filter_map(|record| record.measured).fold(0.0, f64::max)
    };
    let smallest_inexact = measured
        .iter()
        .filter(|record| !record.exact)
        .filter_map(|record| record.measured)
        .fold(f64::INFINITY, f64::min);
    let exact = measured.iter().filter(|record| record.exact).count();
    if exact > 0 {
        findings.push(format!(
            "Where the ranks add up to the discrepancy's rank ({exact} cases) the largest measured \
             error is {:.1e}; below that the smallest is {smallest_inexact:.1e}.",
            largest(true)
        ));
    }
    findings
}

/// What the comparison of the methods shows.
pub fn training_findings(comparison: &Comparison) -> Vec<String> {
    comparison
        .against_lora
        .iter()
        .map(|d| difference_sentence(d, comparison.level))
        .collect()
}

fn difference_sentence(d: &Difference, level: f64) -> String {
    let gap = d.end_generalization_error.mean;
    let gap_word = if gap < 0.0 { "smaller" } else { "larger" };
    let loss = d.end_train_loss.mean;
    let loss_word = if loss > 0.0 { "higher" } else { "lower" };
    let verdict = match clear_sign(&d.equal_test_accuracy) {
        1 => "so it generalises better here",
        -1 => "so it generalises worse here",
        _ => "so no difference in generalisation is shown",
    };
    let fitted = match clear_sign(&d.end_test_accuracy) {
        1 => "higher",
        -1 => "lower",
        _ => "not clearly different",
    };
    format!(
        "{} against LoRA of the same R ({} seeds): at the end the train-minus-test gap is {:.2} pp \
         {gap_word}, at a training loss {:.3} {loss_word}, and the test accuracy is {fitted} \
         ({}); at equal training loss ({level:.3}) the test accuracy differs by {}, {verdict}.",
        d.configuration,
        d.end_test_accuracy.count,
        gap.abs(),
        loss.abs(),
        points(&d.end_test_accuracy),
        points(&d.equal_test_accuracy),
    )
}

/// What the correlations show.
pub fn link_findings(links: &[Link]) -> Vec<String> {
    ["effective_rank", "energy_rank_99"]
        .into_iter()
        .flat_map(|measure| links.iter().filter(move |link| link.measure == measure))
        .map(|link| {
            let c = &link.correlation;
            let subject = format!(
                "{} of ΔW and {} over {} runs ({} configurations)",
                words(link.measure),
                words(link.outcome),
                c.observations,
                c.configurations
            );
            match (c.spearman, c.spearman_interval) {
                (Some(rho), Some(interval)) => {
                    let verdict = if interval.low > 0.0 {
                        "they rise together"
                    } else if interval.high < 0.0 {
                        "one falls as the other rises"
                    } else {
                        "no direction is certain"
                    };
                    format!(
                        "{subject}: Spearman's ρ = {rho:.2}, 95 % interval {:.2} to {:.2}: {verdict}.",
                        interval.low, interval.high
                    )
                }
                _ => format!("{subject}: one of them does not vary, so there is no correlation."),
            }
        })
        .collect()
}

/// A column's name as words.
pub(crate) fn words(column: &str) -> String {
    let text = column.replace('_', " ");
    let mut letters = text.chars();
    match letters.next() {
        Some(first) => first.to_uppercase().chain(letters).collect(),
        None => text,
    }
}

pub(crate) fn clear_sign(spread: &Spread) -> i8 {
    if spread.count < 2 || spread.mean.abs() <= STANDARD_ERRORS * spread.standard_error() {
        0
    } else if spread.mean > 0.0 {
        1
    } else {
        -1
    }
}

fn points(spread: &Spread) -> String {
    format!(
        "{:+.2} ± {:.2} pp (standard error)",
        spread.mean,
        spread.standard_error()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::Configuration;
    use rankwise_training::MethodName;

    fn difference(equal: [f64; 3]) -> Difference {
        let flat = |value: f64| Spread::of([value; 3]);
        Difference {
            configuration: Configuration {
                method: MethodName::RmLora,
                rank: Some(16),
            },
            end_train_loss: flat(0.5),
            end_test_accuracy: Spread::of([-1.0, 0.0, 1.0]),
            end_generalization_error: flat(-3.0),
            equal_test_accuracy: Spread::of(equal),
            equal_test_loss: flat(0.0),
        }
    }

    #[test]
    fn a_smaller_gap_alone_is_not_called_better() {
        let sentence = difference_sentence(&difference([-1.0, 0.0, 1.0]), 0.3);
        assert!(sentence.contains("3.00 pp smaller"), "{sentence}");
        assert!(
            sentence.contains("no difference in generalisation is shown"),
            "{sentence}"
        );
        let better = difference_sentence(&difference([1.0, 1.1, 1.2]), 0.3);
        assert!(better.contains("generalises better here"), "{better}");
        let worse = difference_sentence(&difference([-1.0, -1.1, -1.2]), 0.3);
        assert!(worse.contains("generalises worse here"), "{worse}");
    }
}
