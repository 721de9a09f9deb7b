use rankwise_analysis::Unit;

use super::table::part_left_out;
use super::{MeasureLink, NORMS, RankLink};
use crate::numbers::{decimals, heading, span, words};

/// The level at which a link is called one.
const LEVEL: f64 = 0.05;

/// What the record says in plain words: how much the sample can say at all, which links stand out
/// after all tests are counted, what drives them, and what did not join.
pub fn link_sentences(record: &RankLink) -> Vec<String> {
    let mut sentences = vec![format!(
        "{} adapters have both ranks and metrics.",
        record.join.adapters.len()
    )];
    for outcome in &record.join.outcomes {
        let own = record.links.iter().filter(|l| l.outcome == outcome.name);
        let defined: Vec<&MeasureLink> = own
            .filter(|l| l.association.correlation.spearman.is_some())
            .collect();
        let name = match &outcome.definition {
            Some(definition) => format!("{} ({definition})", words(&outcome.name)),
            None => words(&outcome.name),
        };
        let Some(first) = defined.first() else {
            sentences.push(format!(
                "{}: no measure of rank varies with it, or it does not vary itself: no correlation.",
                capital(&name)
            ));
            continue;
        };
        let sample = &first.association.sample;
        sentences.push(format!(
            "{}: {}.",
            capital(&name),
            sample.verdict("adapters")
        ));
        let mut missing: Vec<&str> = Vec::new();
        for key in defined.iter().flat_map(|link| &link.missing) {
            if !missing.contains(&key.as_str()) {
                missing.push(key);
            }
        }
        if !missing.is_empty() {
            sentences.push(format!(
                "Without {} or a measure of rank, and so left out of some or all of its correlations: {}.",
                words(&outcome.name),
                missing.join(", ")
            ));
        }
        if sample.smallest_significant.is_some() {
            sentences.extend(findings(&defined));
        }
    }
    let tests = record.links.iter().filter(|l| l.adjusted_p.is_some());
    let (tested, by_chance) = (
        tests.clone().count(),
        tests.clone().filter(|l| {
            l.association
                .permutation
                .is_some_and(|test| test.p <= LEVEL)
        }),
    );
    if tested > 1 {
        let held = tests.filter(|l| l.adjusted_p.is_some_and(|p| p <= LEVEL));
        sentences.push(format!(
            "Of {tested} correlations {} have p ≤ 0.05 taken alone (about {:.0} would by chance), and \
             {} after Holm's correction for testing so many.",
            by_chance.count(),
            LEVEL * tested as f64,
            held.count()
        ));
    }
    sentences.extend(record.join.notes.iter().cloned());
    sentences
}

/// The links of one outcome that stand, strongest first, then how many do not.
fn findings(links: &[&MeasureLink]) -> Vec<String> {
    let rho = |link: &MeasureLink| link.association.correlation.spearman.unwrap_or_default();
    let stands = |link: &&&MeasureLink| link.adjusted_p.is_some_and(|p| p <= LEVEL);
    let mut standing: Vec<&MeasureLink> = links.iter().filter(stands).copied().collect();
    standing.sort_by(|a, b| rho(b).abs().total_cmp(&rho(a).abs()));
    let mut sentences: Vec<String> = standing.iter().map(|link| sentence(link)).collect();
    let norm = standing
        .iter()
        .find(|link| NORMS.contains(&link.measure.as_str()));
    if let Some(norm) = norm.filter(|norm| rho(norm).abs() >= rho(standing[0]).abs()) {
        sentences.push(format!(
            "The size of the update ({}) is linked at least as strongly: this need not be about rank.",
            words(&norm.measure)
        ));
    }
    let strongest = links
        .iter()
        .max_by(|a, b| rho(a).abs().total_cmp(&rho(b).abs()));
    if let (true, Some(link)) = (standing.is_empty(), strongest) {
        let p = link.association.permutation.map_or(1.0, |test| test.p);
        sentences.push(format!(
            "No measure's link stands after all tests are counted; the strongest is {} with {} \
             (p = {p:.3} taken alone).",
            words(&link.measure),
            with_interval(link)
        ));
    }
    sentences
}

fn sentence(link: &MeasureLink) -> String {
    let a = &link.association;
    let rho = a.correlation.spearman.unwrap_or_default();
    let direction = if rho > 0.0 {
        "rises with"
    } else {
        "falls with"
    };
    let mut text = format!(
        "{} {direction} {}: {}",
        heading(&link.measure),
        words(&link.outcome),
        with_interval(link)
    );
    if let Some(test) = a.permutation {
        let unit = match test.unit {
            Unit::Observation => "adapters",
            Unit::Configuration => "configurations",
            Unit::ConfigurationMean => "configurations' means",
        };
        text += &format!(", p = {:.4} over orders of {} {unit}", test.p, test.units);
    }
    if let Some(p) = link.adjusted_p {
        text += &format!(" ({p:.3} after Holm)");
    }
    text += ".";
    let given = link
        .covariates
        .iter()
        .map(|name| words(name))
        .collect::<Vec<_>>();
    if let (Some(partial), Some(interval)) = (a.partial, a.partial_interval) {
        let verdict = if interval.low > 0.0 || interval.high < 0.0 {
            match partial.rho.signum() == rho.signum() {
                true => "the link remains",
                false => "the link turns round",
            }
        } else {
            "no direction is certain any more"
        };
        text += &format!(
            " With {} held fixed ρ is {}, 95 % interval {}: {verdict}.",
            given.join(" and "),
            decimals(partial.rho, 2),
            span(interval.low, interval.high, "to"),
        );
    } else if !given.is_empty() {
        text += &format!(
            " With {} held fixed there is nothing left to correlate.",
            given.join(" and ")
        );
    }
    if let Some(left_out) = part_left_out(link) {
        let key = link.used.get(left_out.most).map_or("", String::as_str);
        let what = match a.correlation.configurations < a.correlation.observations {
            true => format!("the configuration of {key}"),
            false => key.to_owned(),
        };
        let verdict = match left_out.keeps_sign() {
            true => "keeps its sign whichever is left out",
            false => "loses its sign when one is left out",
        };
        text += &format!(
            " It {verdict} ({}); {what} matters most (without it {}).",
            span(left_out.low, left_out.high, "to"),
            decimals(left_out.without_most, 2)
        );
    }
    text
}

fn with_interval(link: &MeasureLink) -> String {
    let c = &link.association.correlation;
    let rho = decimals(c.spearman.unwrap_or_default(), 2);
    match c.spearman_interval {
        Some(i) => format!(
            "Spearman's ρ = {rho}, 95 % interval {}",
            span(i.low, i.high, "to")
        ),
        None => format!("Spearman's ρ = {rho}"),
    }
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    let first = letters.next().into_iter().flat_map(char::to_uppercase);
    first.chain(letters.clone()).collect()
}
