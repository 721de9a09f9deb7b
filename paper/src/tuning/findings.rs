//! Sentences computed from the numbers.

use super::records::{TuningSetting, is_higher_better, metric_title};
use super::rows::{TuningGroup, TuningRow};
use super::settings::{Settings, beside_the_method};
use crate::numbers::{decimals, told, told_signed};
use crate::statistics::Spread;

/// What the runs show: the best method of every task, each method against LoRA of the same R over the
/// same seeds, epochs after the best, and what a mean should not be trusted for. A comparison names the
/// settings beside the method in which its runs differ.
pub fn tuning_findings(rows: &[TuningRow], groups: &[TuningGroup]) -> Vec<String> {
    let mut findings = Vec::new();
    let mut tasks: Vec<&str> = groups.iter().map(|group| &group.setting.task[..]).collect();
    tasks.dedup();
    for task in tasks {
        let own: Vec<&TuningGroup> = groups.iter().filter(|g| g.setting.task == task).collect();
        findings.extend(ahead(task, &own, rows));
        for group in own {
            findings.extend(against_lora(group, rows));
        }
    }
    findings.extend(past_the_best(rows));
    for group in groups {
        findings.extend(doubts(group));
    }
    findings
}

/// Which method ends with the best mean; nothing where there is one.
fn ahead(task: &str, groups: &[&TuningGroup], rows: &[TuningRow]) -> Option<String> {
    let key = groups.iter().find_map(|group| group.metric.as_deref())?;
    let is_higher = is_higher_better(key);
    let mut ranked: Vec<(&TuningGroup, &Spread)> = groups
        .iter()
        .filter_map(|group| Some((*group, group.measure("last")?)))
        .collect();
    if ranked.len() < 2 {
        return None;
    }
    ranked.sort_by(|(_, a), (_, b)| {
        let order = a.mean.total_cmp(&b.mean);
        if is_higher { order.reverse() } else { order }
    });
    let said = |(group, spread): &(&TuningGroup, &Spread)| {
        format!("{} {}", group.setting.label(), told(Some(spread), 4))
    };
    let all = ranked.iter().map(said).collect::<Vec<_>>();
    let own = rows.iter().filter(|row| row.setting.task == task);
    let settings: Vec<&Settings> = own
        .filter(|row| row.stop != "diverged" && row.last.is_some())
        .map(|row| &row.settings)
        .collect();
    Some(format!(
        "{task}: {} at the end, best mean first: {}{}{}.",
        metric_title(key),
        all.join(", "),
        if ranked.iter().all(|(_, spread)| spread.count > 1) {
            " (mean ± standard error)"
        } else {
            ""
        },
        also(beside_the_method(&settings)),
    ))
}

/// A method against LoRA of the same R: differences of runs that share a seed.
fn against_lora(group: &TuningGroup, rows: &[TuningRow]) -> Option<String> {
    let setting = &group.setting;
    if setting.method == "lora" || setting.rank.is_none() {
        return None;
    }
    let lora = TuningSetting::new(&setting.task, "lora", setting.rank);
    let row = |setting: &TuningSetting, seed: u64| {
        let mut own = rows.iter();
        own.find(|r| r.setting == *setting && r.seed == seed && r.stop != "diverged")
    };
    let mut seeds = group.seeds.clone();
    seeds.dedup();
    let pairs: Vec<(&TuningRow, &TuningRow)> = seeds
        .iter()
        .filter_map(|&seed| Some((row(setting, seed)?, row(&lora, seed)?)))
        .collect();
    if pairs.is_empty() {
        return None;
    }
    let difference = |value: fn(&TuningRow) -> Option<f64>| {
        let values = pairs
            .iter()
            .filter_map(|(own, lora)| Some(value(own)? - value(lora)?));
        let values: Vec<f64> = values.collect();
        (!values.is_empty()).then(|| Spread::of(values))
    };
    let part = |name: &str, value: fn(&TuningRow) -> Option<f64>, digits: usize| {
        let spread = difference(value)?;
        Some(format!("{name} {}", judged(&spread, digits)))
    };
    let key = group.metric.as_deref().unwrap_or("metric");
    let parts: Vec<String> = [
        part(&metric_title(key), |row| row.last, 4),
        part("training loss", |row| row.train_loss, 4),
        part("gap", |row| row.gap, 4),
        part("effective rank of ΔW", |row| row.effective_rank, 2),
    ]
    .into_iter()
    .flatten()
    .collect();
    let (seeds, ending) = match pairs.len() {
        1 => ("1 seed".to_owned(), "; one seed has no standard error"),
        count => (
            format!("{count} seeds, differences of the same seed ± standard error"),
            "; higher and lower are said of differences beyond Student's 95 % interval",
        ),
    };
    let differing = pairs
        .iter()
        .flat_map(|(own, lora)| beside_the_method(&[&own.settings, &lora.settings]));
    Some(format!(
        "{}: {} against LoRA of the same R ({seeds}), at the end: {}{ending}{}.",
        setting.task,
        setting.label(),
        parts.join("; "),
        also(differing.collect()),
    ))
}

/// What else may have made a difference between methods, for the end of its sentence.
fn also(mut keys: Vec<String>) -> String {
    keys.sort_unstable();
    keys.dedup();
    match keys.is_empty() {
        true => String::new(),
        false => format!("; they also differ in {}", keys.join(", ")),
    }
}

/// A difference with its standard error, and whether it is one.
fn judged(difference: &Spread, digits: usize) -> String {
    let told = told_signed(Some(difference), digits);
    if difference.count < 2 {
        return told;
    }
    let verdict = match (difference.interval(), difference.sign()) {
        (None, _) if !difference.mean.is_finite() => "not a number that can be compared",
        (None, _) => "the same in every seed",
        (_, 1) => "higher",
        (_, -1) => "lower",
        _ => "no difference shown",
    };
    format!("{told}, {verdict}")
}

/// In how many runs an earlier epoch is better than the last; one that is as good is not.
fn past_the_best(rows: &[TuningRow]) -> Option<String> {
    let known: Vec<f64> = rows
        .iter()
        .filter(|row| row.stop != "diverged" && row.epochs > 1)
        .filter_map(|row| Some((row.best? - row.last?).abs()))
        .collect();
    if known.is_empty() {
        return None;
    }
    let before = known.iter().filter(|lost| **lost > 0.0).count();
    let largest = known.iter().copied().fold(0.0, f64::max);
    // A difference that is there is no 0.0000.
    let largest = match largest < 1e-4 {
        true => format!("{largest:.1e}"),
        false => decimals(largest, 4),
    };
    Some(match before {
        0 => format!(
            "No epoch is better than the last, by the deciding metric, in any run ({}).",
            known.len()
        ),
        count => format!(
            "In {count} of {} runs the deciding metric was best before the last epoch, by up to \
             {largest}; a best epoch is chosen by the set that it is judged on.",
            known.len()
        ),
    })
}

/// What stands against a group's means.
fn doubts(group: &TuningGroup) -> Vec<String> {
    let name = format!("{}, {}", group.setting.task, group.setting.label());
    let mut doubts = Vec::new();
    if group.diverged > 0 {
        doubts.push(format!(
            "{name}: {} of {} runs diverged and are in no mean.",
            group.diverged,
            group.diverged + group.seeds.len()
        ));
    }
    if !group.differing.is_empty() {
        doubts.push(format!(
            "{name}: the runs differ in more than the seed, so their mean is of unlike runs: {}.",
            group.differing.join(", ")
        ));
    }
    let mut seeds = group.seeds.clone();
    seeds.sort_unstable();
    if let Some(twice) = seeds.windows(2).find(|pair| pair[0] == pair[1]) {
        doubts.push(format!(
            "{name}: seed {} is there more than once, so the standard error is too small.",
            twice[0]
        ));
    }
    doubts
}
