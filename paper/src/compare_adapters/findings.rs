//! What a comparison says, in sentences: every number beside what chance gives.

use rankwise_analysis::{Comparison, Likeness, PairRecord, SideRecord};

use super::cells::between;
use super::{SIDES, comparison_labels, mean};
use crate::statistics::median;

/// A similarity this many deviations above chance is not chance's: of a thousand modules none would
/// be there by luck.
const CLEAR: f64 = 5.0;

/// Sides whose mean φ differ by more are worth a sentence.
const APART: f64 = 0.2;

/// What was found.
pub fn comparison_findings(comparison: &Comparison, over_time: bool) -> Vec<String> {
    let mut findings = if over_time {
        course(comparison)
    } else if comparison.adapters.len() == 2 {
        two(comparison)
    } else {
        many(comparison)
    };
    findings.extend(beside_weight(comparison));
    findings.extend(left_out(comparison));
    findings
}

fn is_clear(pair: &PairRecord, value: fn(&SideRecord) -> rankwise_analysis::Similarity) -> bool {
    SIDES.iter().any(|(_, side)| {
        side(pair).is_some_and(|side| {
            let at = value(side);
            at.phi > at.chance.mean + CLEAR * at.chance.deviation
        })
    })
}

/// `query` in layer 3.
fn place(pair: &PairRecord) -> String {
    match pair.layer {
        Some(layer) => format!("{} in layer {layer}", pair.role),
        None => pair.module.clone(),
    }
}

fn two(comparison: &Comparison) -> Vec<String> {
    let labels = comparison_labels(comparison);
    let pairs = &comparison.pairs;
    let mut findings = vec![format!(
        "{} and {} share {} of {} and {} modules.",
        labels[0],
        labels[1],
        pairs.len(),
        comparison.adapters[0].modules,
        comparison.adapters[1].modules
    )];
    let zero = pairs.iter().filter(|pair| pair.left.is_none()).count();
    if zero > 0 {
        findings.push(format!(
            "In {zero} of them one update is zero: no directions to compare."
        ));
    }
    let cosines = || pairs.iter().filter_map(|pair| pair.cosine);
    if let Some(cosine) = mean(cosines()) {
        let (low, high) = cosines().fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), x| {
            (low.min(x), high.max(x))
        });
        let deviation = mean(pairs.iter().map(|pair| pair.cosine_deviation)).unwrap_or(0.0);
        findings.push(format!(
            "The updates have a mean cosine of {cosine:.3} (from {low:.3} to {high:.3}); random ones \
             would have 0 ± {deviation:.4}."
        ));
    }
    for (name, side) in SIDES {
        let with: Vec<(&PairRecord, &SideRecord)> = pairs
            .iter()
            .filter_map(|pair| Some((pair, side(pair)?)))
            .collect();
        let by = |x: &&(&PairRecord, &SideRecord), y: &&(&PairRecord, &SideRecord)| {
            x.1.top.phi.total_cmp(&y.1.top.phi)
        };
        if let (Some((most, top)), Some((least, bottom))) =
            (with.iter().max_by(by), with.iter().min_by(by))
        {
            findings.push(format!(
                "The top {name} direction is shared most by {} (φ {:.2}, chance {:.4}) and least by \
                 {} (φ {:.2}).",
                place(most),
                top.top.phi,
                top.top.chance.mean,
                place(least),
                bottom.top.phi
            ));
        }
    }
    let compared = pairs.len() - zero;
    let top = pairs
        .iter()
        .filter(|pair| is_clear(pair, |s| s.top))
        .count();
    let all = pairs
        .iter()
        .filter(|pair| is_clear(pair, |s| s.all))
        .count();
    if compared > 0 {
        findings.push(format!(
            "On at least one side the top directions agree more than chance allows ({CLEAR} \
             deviations) in {top} of {compared} modules, all directions together in {all}."
        ));
    }
    let phi = |side: super::SideOf| mean(pairs.iter().filter_map(|p| Some(side(p)?.all.phi)));
    if let [Some(out), Some(inner)] = SIDES.map(|(_, side)| phi(side)) {
        let word = |one: &str, x: f64, other: &str, y: f64| {
            format!(
                "The {one} side agrees far better than the {other} side (mean φ of all directions \
                 {x:.2} and {y:.2})"
            )
        };
        if inner > out + APART {
            findings.push(format!(
                "{}, as it does where adapters start from one random A and move it little.",
                word("input", inner, "output", out)
            ));
        } else if out > inner + APART {
            findings.push(format!("{}.", word("output", out, "input", inner)));
        }
    }
    findings
}

fn many(comparison: &Comparison) -> Vec<String> {
    let labels = comparison_labels(comparison);
    let count = labels.len();
    let mut findings = Vec::new();
    for (likeness, what) in [
        (Likeness::PhiLeft, "output directions"),
        (Likeness::PhiRight, "input directions"),
        (Likeness::Cosine, "updates"),
    ] {
        let matrix = comparison.matrix(likeness);
        let mut pairs: Vec<(f64, usize, usize)> = (0..count)
            .flat_map(|i| (i + 1..count).map(move |j| (i, j)))
            .filter_map(|(i, j)| Some((matrix[i][j]?, i, j)))
            .collect();
        pairs.sort_by(|x, y| y.0.total_cmp(&x.0).then((x.1, x.2).cmp(&(y.1, y.2))));
        let (Some(most), Some(least)) = (pairs.first(), pairs.last()) else {
            continue;
        };
        let measure = match likeness {
            Likeness::Cosine => "cosine".to_owned(),
            _ => format!("φ at {}", comparison.rank),
        };
        let mut text = format!(
            "The most alike in their {what} are {} and {} (mean {measure} {:.3})",
            labels[most.1], labels[most.2], most.0
        );
        if pairs.len() > 1 {
            text.push_str(&format!(
                ", the least {} and {} ({:.3})",
                labels[least.1], labels[least.2], least.0
            ));
        }
        let chance = match likeness {
            Likeness::PhiLeft => chance(comparison, |pair| pair.left.as_ref()),
            Likeness::PhiRight => chance(comparison, |pair| pair.right.as_ref()),
            _ => {
                let deviations = comparison.pairs.iter().map(|pair| pair.cosine_deviation);
                mean(deviations).map(|d| format!("0 ± {d:.4} for one module"))
            }
        };
        if let Some(chance) = chance {
            text.push_str(&format!("; chance gives {chance}"));
        }
        findings.push(text + ".");
    }
    let without = (0..count)
        .flat_map(|i| (i + 1..count).map(move |j| (i, j)))
        .filter(|&(i, j)| comparison.shared(i, j) == 0)
        .count();
    if without > 0 {
        findings.push(format!("{without} pairs of adapters share no module."));
    }
    findings
}

fn chance(comparison: &Comparison, side: super::SideOf) -> Option<String> {
    let means = comparison
        .pairs
        .iter()
        .filter_map(|p| Some(side(p)?.chosen.chance.mean));
    mean(means).map(|mean| format!("{mean:.4}"))
}

fn course(comparison: &Comparison) -> Vec<String> {
    let labels = comparison_labels(comparison);
    let last = labels.len() - 1;
    let norm = |place: usize| {
        let own = comparison.updates.iter().filter(|u| u.adapter == place);
        mean(own.map(|u| u.measures.frobenius_norm))
    };
    let rank = |place: usize| {
        let own = comparison.updates.iter().filter(|u| u.adapter == place);
        mean(own.filter_map(|u| u.measures.effective_rank))
    };
    let mut findings = Vec::new();
    if let (Some(first), Some(end)) = (norm(0), norm(last)) {
        findings.push(format!(
            "From {} to {} the mean ‖ΔW‖ goes from {first:.3} to {end:.3}.",
            labels[0], labels[last]
        ));
    }
    if let (Some(first), Some(end)) = (rank(0), rank(last)) {
        findings.push(format!(
            "The mean effective rank goes from {first:.2} to {end:.2}."
        ));
    }
    let to_last = |place: usize| between(comparison, (place, last), Likeness::PhiLeft);
    let settled = (0..last).find(|&place| to_last(place).is_some_and(|phi| phi >= 0.9));
    let start = to_last(0).unwrap_or(f64::NAN);
    findings.push(match settled {
        Some(place) => format!(
            "The output directions (φ at {}) are those of the last checkpoint to 0.9 from {} on; the \
             first checkpoint has {start:.2}.",
            comparison.rank, labels[place]
        ),
        None => format!(
            "No earlier checkpoint has the output directions of the last to 0.9 (φ at {}); the first \
             has {start:.2}.",
            comparison.rank
        ),
    });
    findings
}

fn beside_weight(comparison: &Comparison) -> Vec<String> {
    let mut findings = Vec::new();
    for (place, label) in comparison_labels(comparison).iter().enumerate() {
        let own: Vec<_> = comparison
            .updates
            .iter()
            .filter(|update| update.adapter == place)
            .filter_map(|update| update.against_weight.as_ref())
            .collect();
        if own.is_empty() {
            continue;
        }
        let amplified = |value: fn(&rankwise_analysis::Amplification) -> Option<f64>| {
            let values = own
                .iter()
                .filter_map(|against| value(against.amplification.as_ref()?));
            median(values)
        };
        match (
            amplified(|a| a.factor),
            amplified(|a| a.weight),
            amplified(|a| a.random),
        ) {
            (Some(factor), Some(weight), Some(random)) => findings.push(format!(
                "{label}: ‖ΔW‖ is {factor:.3} times what the weight has in the update's directions \
                 (median over modules), {weight:.3} times what it has in its own first directions \
                 and {random:.3} times what it has in random ones."
            )),
            _ => findings.push(format!(
                "{label}: every update is zero; nothing is amplified."
            )),
        }
        let rule = comparison.intruder_rule;
        let total: usize = own.iter().map(|against| against.intruders).sum();
        let searched: usize = own.iter().map(|against| against.directions.len()).sum();
        let modules = own.iter().filter(|against| against.intruders > 0).count();
        findings.push(format!(
            "{label}: {total} intruder dimensions in {modules} of {} modules, of {searched} \
             directions searched (the first {}, cosine below {}).",
            own.len(),
            rule.k,
            rule.epsilon
        ));
    }
    findings
}

/// What was not compared, one sentence for a reason.
fn left_out(comparison: &Comparison) -> Vec<String> {
    const SHOWN: usize = 3;
    let mut reasons: Vec<(&str, Vec<&str>)> = Vec::new();
    for apart in &comparison.apart {
        match reasons
            .iter_mut()
            .find(|(reason, _)| *reason == apart.reason)
        {
            Some((_, modules)) => modules.push(&apart.module),
            None => reasons.push((&apart.reason, vec![&apart.module])),
        }
    }
    let sentence = |(reason, modules): (&str, Vec<&str>)| {
        let shown = modules
            .iter()
            .take(SHOWN)
            .copied()
            .collect::<Vec<_>>()
            .join(", ");
        match modules.len() {
            1 => format!("Apart: {shown}: {reason}."),
            count if count <= SHOWN => format!("Apart: {count} modules ({shown}): {reason}."),
            count => format!("Apart: {count} modules ({shown}, …): {reason}."),
        }
    };
    reasons.into_iter().map(sentence).collect()
}
