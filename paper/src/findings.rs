//! Sentences computed from the numbers: each states what was compared and what came out, whichever
//! way it came out.

use rankwise_theory::CellRecord;

use crate::compare::{Comparison, Difference, Verdict};
use crate::link::Link;
use crate::numbers::{decimals, heading, span, words};

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
        "Theorem 3.1 on {} random problems ({} met a singular factor): beyond rounding the measured \
         error exceeded the corrected bound in {} and the bound as printed (Eq. 8) in {} cases. \
         Random problems do not make Eq. 8 true: on the problem of `rankwise verify \
         --counterexample` every choice of adapters exceeds it.",
        records.len(),
        records.len() - measured.len(),
        violations(|r| r.violated_corrected),
        violations(|r| r.violated_literal),
    )];
    let errors = |exact: bool| {
        let own = measured.iter().filter(move |record| record.exact == exact);
        own.filter_map(|record| record.measured)
    };
    if let Some(largest) = errors(true).reduce(f64::max) {
        // There the bound is zero, so that to exceed it is to err by more than rounding.
        let beyond = violations(|r| Some(r.exact && r.violated_corrected?));
        let rounding = match beyond {
            0 => "none of them beyond rounding".to_owned(),
            count => format!("{count} of them beyond rounding"),
        };
        let below = match errors(false).reduce(f64::min) {
            Some(smallest) => format!("; below that the smallest is {smallest:.1e}"),
            None => String::new(),
        };
        findings.push(format!(
            "Where the ranks add up to the discrepancy's rank ({} cases) the largest measured error \
             is {largest:.1e}, {rounding}{below}.",
            errors(true).count(),
        ));
    }
    findings
}

/// What the comparison of the methods shows.
pub fn training_findings(comparison: &Comparison) -> Vec<String> {
    let mut findings = Vec::new();
    let all = &comparison.against_lora;
    let counts = || all.iter().map(|d| d.end.test_accuracy.count);
    if let (Some(least), Some(most)) = (counts().min(), counts().max()) {
        let seeds = match (least, most) {
            (1, 1) => "one seed, so that no difference can be told from chance".to_owned(),
            (least, most) if least == most => {
                format!("{least} seeds, differences of the same seed")
            }
            (least, most) => format!("{least} to {most} seeds, differences of the same seed"),
        };
        let named = |verdict: Verdict| {
            let own = all.iter().filter(|d| d.verdict() == verdict);
            let names: Vec<String> = own.map(|d| d.configuration.to_string()).collect();
            match names.is_empty() {
                true => "none".to_owned(),
                false => names.join(", "),
            }
        };
        findings.push(format!(
            "Against LoRA of the same R ({seeds}) a method generalises better here only if its test \
             accuracy is higher and its test loss lower at the end, at equal training loss ({}) and at \
             equal training accuracy ({} %), each beyond Student's 95 % interval. Better: {}. Worse, \
             as surely: {}.",
            decimals(comparison.loss_level, 3),
            decimals(comparison.accuracy_level, 2),
            named(Verdict::Better),
            named(Verdict::Worse),
        ));
    }
    // What the comparisons of several methods say alike is said once.
    let open = all.iter().filter(|d| d.verdict() == Verdict::Open);
    let mut said: Vec<(String, Vec<String>)> = Vec::new();
    for difference in open {
        let (text, name) = (
            what_differs(difference),
            difference.configuration.to_string(),
        );
        match said.iter_mut().find(|(other, _)| *other == text) {
            Some((_, names)) => names.push(name),
            None => said.push((text, vec![name])),
        }
    }
    findings.extend(
        said.into_iter()
            .map(|(text, names)| format!("{}: {text}.", names.join(", "))),
    );
    if !comparison.diverged.is_empty() {
        findings.push(format!(
            "Diverged, and in no comparison: {}.",
            comparison.diverged.join(", ")
        ));
    }
    findings
}

/// Which comparisons show something, and in which direction.
fn what_differs(difference: &Difference) -> String {
    let shown = |better: bool| -> Vec<String> {
        let parts = difference.readings().into_iter().flat_map(|(place, n)| {
            let accuracy = ("test accuracy", n.test_accuracy.sign());
            let loss = ("test loss", -n.test_loss.sign());
            [accuracy, loss].map(|(what, sign)| (what, place, sign))
        });
        let sign = if better { 1 } else { -1 };
        let own = parts.filter(|(.., found)| *found == sign);
        own.map(|(what, place, _)| format!("{what} {place}"))
            .collect()
    };
    let (better, worse) = (shown(true), shown(false));
    let parts: Vec<String> = [("better", &better), ("worse", &worse)]
        .into_iter()
        .filter(|(_, shown)| !shown.is_empty())
        .map(|(word, shown)| format!("{word} in {}", shown.join(", ")))
        .collect();
    match (parts.is_empty(), better.len() + worse.len()) {
        (true, _) => "no difference in generalisation is shown".to_owned(),
        (_, 6) => format!("{}, so the comparisons differ", parts.join("; ")),
        _ => format!("{}; the other comparisons show nothing", parts.join("; ")),
    }
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
                heading(link.measure),
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
                        "{subject}: Spearman's ρ = {}, 95 % interval {}: {verdict}.",
                        decimals(rho, 2),
                        span(interval.low, interval.high, "to")
                    )
                }
                _ => format!("{subject}: one of them does not vary, so there is no correlation."),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::tests::difference;

    fn comparison(against_lora: Vec<Difference>) -> Comparison {
        Comparison {
            loss_level: 0.3,
            accuracy_level: 92.5,
            end: Vec::new(),
            equal_loss: Vec::new(),
            equal_accuracy: Vec::new(),
            against_lora,
            diverged: vec!["lora-r4-s7".to_owned()],
        }
    }

    const UP: [f64; 3] = [1.0, 1.1, 1.2];
    const DOWN: [f64; 3] = [-1.0, -1.1, -1.2];
    const NONE: [f64; 3] = [-1.0, 0.0, 1.0];

    #[test]
    fn better_is_said_where_all_agree() {
        let found = training_findings(&comparison(vec![difference([UP; 3], [DOWN; 3])]));
        assert_eq!(
            found,
            [
                "Against LoRA of the same R (3 seeds, differences of the same seed) a method generalises \
                 better here only if its test accuracy is higher and its test loss lower at the end, at \
                 equal training loss (0.300) and at equal training accuracy (92.50 %), each beyond \
                 Student's 95 % interval. Better: RM-LoRA (R = 16). Worse, as surely: none.",
                "Diverged, and in no comparison: lora-r4-s7."
            ]
        );
        let found = training_findings(&comparison(vec![difference([DOWN; 3], [UP; 3])]));
        assert!(
            found[0].ends_with("Better: none. Worse, as surely: RM-LoRA (R = 16)."),
            "{found:?}"
        );
    }

    /// Better at equal loss alone is no better generalisation, and what differs is said, once for all
    /// that say the same.
    #[test]
    fn what_differs_is_said() {
        let one = difference([NONE, UP, NONE], [UP, DOWN, NONE]);
        let found = training_findings(&comparison(vec![one.clone(), one]));
        assert!(
            found[0].contains("Better: none. Worse, as surely: none."),
            "{found:?}"
        );
        assert_eq!(
            found[1],
            "RM-LoRA (R = 16), RM-LoRA (R = 16): better in test accuracy at equal training loss, test \
             loss at equal training loss; worse in test loss at the end; the other comparisons show \
             nothing."
        );
        let nothing = difference([NONE; 3], [NONE; 3]);
        let found = training_findings(&comparison(vec![nothing]));
        assert!(
            found[1].ends_with("no difference in generalisation is shown."),
            "{found:?}"
        );
        let against = difference([UP; 3], [UP; 3]);
        let found = training_findings(&comparison(vec![against]));
        assert!(
            found[1].ends_with("so the comparisons differ."),
            "{found:?}"
        );
    }
}
