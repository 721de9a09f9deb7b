//! Findings, refusals and what was passed over, a line for each kind of them.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use rankwise_analysis::{
    AdapterAudit, Audit, Finding, FindingKind, PassedOver, RefusalClass, Refused, RunPart, Severity,
};

use super::short::{clean, short_paths};

/// What is wrong or could not be read, and what is none, that a line names; of more it says how many
/// there are.
const NAMED: usize = 8;
const OTHERS_NAMED: usize = 3;

/// A kind of finding over some adapters.
struct KindOfFinding<'a> {
    kind: FindingKind,
    /// Findings by adapter, by its place.
    adapters: BTreeMap<usize, usize>,
    /// On a module, not on the whole adapter.
    on_modules: usize,
    worst: (usize, &'a Finding),
    /// Whether one is worse than another.
    differ: bool,
}

/// The kinds of findings, the worst severity first.
fn kinds(adapters: &[AdapterAudit]) -> Vec<KindOfFinding<'_>> {
    let mut kinds: BTreeMap<(Severity, FindingKind), KindOfFinding<'_>> = BTreeMap::new();
    for (place, adapter) in adapters.iter().enumerate() {
        for finding in &adapter.findings {
            let kind = finding.kind;
            let own = kinds
                .entry((kind.severity(), kind))
                .or_insert_with(|| KindOfFinding {
                    kind,
                    adapters: BTreeMap::new(),
                    on_modules: 0,
                    worst: (place, finding),
                    differ: false,
                });
            *own.adapters.entry(place).or_default() += 1;
            own.on_modules += usize::from(finding.module.is_some());
            let (this, worst) = (finding.extent(), own.worst.1.extent());
            own.differ |= this != worst;
            if this > worst {
                own.worst = (place, finding);
            }
        }
    }
    kinds.into_values().collect()
}

/// One line a kind of finding of these severities: how often, where, and the worst of them.
pub(super) fn finding_lines(adapters: &[AdapterAudit], severities: &[Severity]) -> Vec<String> {
    let paths: Vec<&str> = adapters.iter().map(|adapter| &adapter.path[..]).collect();
    let names = short_paths(&paths);
    kinds(adapters)
        .iter()
        .filter(|own| severities.contains(&own.kind.severity()))
        .map(|own| finding_line(own, adapters, &names))
        .collect()
}

fn finding_line(own: &KindOfFinding<'_>, adapters: &[AdapterAudit], names: &[&str]) -> String {
    let (place, finding) = own.worst;
    let mut text = format!("- {}: {}", own.kind.severity().name(), own.kind.name());
    let is_severe = own.kind.severity() == Severity::Wrong;
    if adapters.len() == 1 {
        if own.on_modules > 0 {
            let all = adapters[0].modules.len();
            text += &format!(" in {} of {}", own.on_modules, count(all, "module"));
        }
    } else {
        if own.on_modules > 0 {
            text += &format!(" in {} of", count(own.on_modules, "module"));
        } else {
            text += " in";
        }
        text += &format!(" {} of {} adapters", own.adapters.len(), adapters.len());
        // What is wrong is named wherever it is.
        if is_severe {
            let named = own.adapters.iter().map(|(&place, &found)| {
                match (found, adapters[place].modules.len()) {
                    (found, all) if found == all => format!("{} (every module)", names[place]),
                    (found, all) => format!("{} ({found} of {all} modules)", names[place]),
                }
            });
            text += &format!(": {}", listed(named, own.adapters.len(), NAMED));
        }
    }
    let which = if own.differ { "worst" } else { "such as" };
    let mut example = Vec::new();
    if adapters.len() > 1 && (!is_severe || own.adapters.len() > 1) {
        example.push(names[place]);
    }
    example.extend(finding.module.as_deref());
    let message = &finding.message;
    match (&example[..], own.adapters.values().sum::<usize>()) {
        ([], _) => text += &format!(": {message}"),
        (example, 1) => text += &format!(": {}: {message}", example.join(", ")),
        (example, _) => text += &format!("; {which} {}: {message}", example.join(", ")),
    }
    clean(&text)
}

/// One line a reason: first what could not be audited, then what is no adapter.
pub fn refusal_lines(refused: &[Refused]) -> Vec<String> {
    let mut reasons: Vec<(RefusalClass, &str, Vec<&Refused>)> = Vec::new();
    for one in refused {
        let is_same = |(class, reason, _): &&mut (RefusalClass, &str, Vec<&Refused>)| {
            (*class, *reason) == (one.class, &one.reason[..])
        };
        match reasons.iter_mut().find(is_same) {
            Some((.., own)) => own.push(one),
            None => reasons.push((one.class, &one.reason, vec![one])),
        }
    }
    reasons.sort_by_key(|(class, ..)| *class);
    let paths: Vec<&str> = refused.iter().map(|one| &one.path[..]).collect();
    let short: HashMap<&str, &str> = paths.iter().copied().zip(short_paths(&paths)).collect();
    let line = |(class, reason, own): (RefusalClass, &str, Vec<&Refused>)| {
        let is_file = |one: &Refused| one.path.ends_with(&one.name);
        let text = match class {
            RefusalClass::NotAudited => {
                // An error names its file itself.
                let before = format!("{}: ", own[0].path);
                let reason = reason.strip_prefix(&before).unwrap_or(reason);
                let named = own.iter().map(|one| match is_file(one) {
                    true => one.path.clone(),
                    false => format!("{} in {}", one.name, one.path),
                });
                let named = listed(named, own.len(), NAMED);
                format!("- refused{}: {named}: {reason}", times(&own))
            }
            RefusalClass::NoAdapter => {
                let name = |one: &&Refused| match is_file(one) {
                    true => short[&one.path[..]].to_owned(),
                    false => one.name.clone(),
                };
                let names: BTreeSet<String> = own.iter().map(name).collect();
                let number = names.len();
                let named = listed(names.into_iter(), number, OTHERS_NAMED);
                format!("- no adapter{}: {named}: {reason}", times(&own))
            }
        };
        clean(&text)
    };
    reasons.into_iter().map(line).collect()
}

/// How often one reason was met.
fn times(refused: &[&Refused]) -> String {
    let files: BTreeSet<&str> = refused.iter().map(|one| &one.path[..]).collect();
    match (refused.len(), files.len()) {
        (1, _) => String::new(),
        (all, files) if all == files => format!(" ({})", count(files, "file")),
        (all, files) => format!(" ({all} in {})", count(files, "file")),
    }
}

/// How much of an audit is left out, by class.
pub fn left_out(audit: &Audit) -> String {
    let mut parts = vec![format!(
        "{} refused",
        audit.refusals(RefusalClass::NotAudited)
    )];
    match audit.refusals(RefusalClass::NoAdapter) {
        0 => {}
        1 => parts.push("1 is no adapter".to_owned()),
        several => parts.push(format!("{several} are no adapters")),
    }
    match audit.passed_over.len() {
        0 => {}
        several => parts.push(format!("{several} passed over in folders of runs")),
    }
    parts.join(", ")
}

/// One sentence on what runs keep beside their adapters.
pub fn passed_over_line(parts: &[PassedOver]) -> Option<String> {
    let mut counts: BTreeMap<RunPart, usize> = BTreeMap::new();
    for part in parts {
        *counts.entry(part.what).or_default() += 1;
    }
    let told = counts.into_iter().map(|(what, number)| match what {
        RunPart::OtherEpoch => format!(
            "{} of another epoch (the last is taken, with --best the best)",
            count(number, "adapter")
        ),
        RunPart::Weights => format!("{} with a model's weights", count(number, "folder")),
        RunPart::State => format!("{} of a run that is not finished", count(number, "state")),
    });
    let told: Vec<String> = told.collect();
    let example = &parts.first()?.path;
    let text = format!(
        "Passed over in folders of runs: {}, such as {example}.",
        told.join(", ")
    );
    Some(clean(&text))
}

/// The first few of some names.
fn listed(names: impl Iterator<Item = String>, number: usize, most: usize) -> String {
    let shown: Vec<String> = names.take(most).collect();
    let more = match number.saturating_sub(most) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!("{}{more}", shown.join(", "))
}

/// A number with its noun.
pub(super) fn count(number: usize, noun: &str) -> String {
    let ending = if number == 1 { "" } else { "s" };
    format!("{number} {noun}{ending}")
}
