//! Tables for a terminal of 100 columns.

use rankwise_analysis::{Comparison, Likeness, PairRecord, SideRecord, UpdateRecord};

use super::{comparison_labels, mean, short_names};
use crate::tables::Cells;

/// More adapters have no matrix in a terminal: their likeness is in the files and the figure.
const MOST: usize = 14;

/// Their places, as headers.
const PLACES: [&str; MOST] = [
    "1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12", "13", "14",
];

/// Longer names keep their end.
const LONGEST: usize = 28;

fn cut(name: String) -> String {
    let length = name.chars().count();
    if length <= LONGEST {
        return name;
    }
    let end: String = name.chars().skip(length - LONGEST + 1).collect();
    format!("…{end}")
}

pub(super) fn number(value: Option<f64>, decimals: usize) -> String {
    value.map_or("–".to_owned(), |value| {
        // No −0.00 for what rounds to zero.
        let text = format!("{value:.decimals$}");
        match text.strip_prefix('-') {
            Some(rest) if rest.bytes().all(|b| b == b'0' || b == b'.') => rest.to_owned(),
            _ => text,
        }
    })
}

/// What is compared: one row an adapter.
pub fn list_cells(comparison: &Comparison) -> Cells {
    let header = vec!["adapter", "no.", "modules", "format", "base model"];
    let rows = comparison
        .adapters
        .iter()
        .zip(comparison_labels(comparison))
        .enumerate()
        .map(|(place, (one, label))| {
            vec![
                label,
                (place + 1).to_string(),
                one.modules.to_string(),
                one.format.clone(),
                one.base_model.clone().unwrap_or("–".to_owned()),
            ]
        });
    (header, rows.collect())
}

/// Two adapters: one row a module; φ of the outputs' and the inputs' side.
pub fn pair_module_cells(comparison: &Comparison) -> Cells {
    let header = vec![
        "module", "ranks", "cosine", "dist.", "φ1 out", "φ1 in", "φr out", "φr in", "chance",
        "∠ out", "∠ in",
    ];
    let names = short_names(comparison.pairs.iter().map(|pair| &*pair.module));
    let rows = comparison.pairs.iter().zip(names).map(|(pair, name)| {
        let (left, right) = (pair.left.as_ref(), pair.right.as_ref());
        let of = |side: Option<&SideRecord>, value: fn(&SideRecord) -> f64, decimals| {
            number(side.map(value), decimals)
        };
        // Of the two sides' chances the larger one: what a value has to beat.
        let chance = |value: fn(&SideRecord) -> f64| {
            let both = [left, right].into_iter().flatten().map(value);
            number(both.reduce(f64::max), 3)
        };
        let angle = |side| of(side, |s| s.mean_angle.to_degrees(), 1);
        vec![
            cut(name),
            format!("{}/{}", pair.ranks[0], pair.ranks[1]),
            number(pair.cosine, 2),
            number(pair.distance, 2),
            of(left, |s| s.top.phi, 2),
            of(right, |s| s.top.phi, 2),
            of(left, |s| s.all.phi, 2),
            of(right, |s| s.all.phi, 2),
            chance(|s| s.all.chance.mean),
            angle(left),
            angle(right),
        ]
    });
    (header, rows.collect())
}

/// What the columns of [`pair_module_cells`] mean.
pub const PAIR_LEGEND: &str = "φ1: the first directions; φr: all of them; out and in: the outputs' \
    and the inputs' side;\nchance: φr of random directions; dist.: 0 equal, 1 orthogonal, 1.41 \
    opposite;\n∠: mean principal angle in degrees.";

/// Many adapters: one likeness of every two, numbered as in [`list_cells`]; `None` if there are too
/// many for a terminal.
pub fn likeness_cells(comparison: &Comparison, likeness: Likeness) -> Option<Cells> {
    let count = comparison.adapters.len();
    if count > MOST {
        return None;
    }
    let decimals = match likeness {
        Likeness::AngleLeft | Likeness::AngleRight => 1,
        Likeness::PhiLeft | Likeness::PhiRight | Likeness::Cosine => 2,
    };
    let mut header = vec!["", "no."];
    header.extend(&PLACES[..count]);
    let labels = comparison_labels(comparison).into_iter().enumerate();
    let rows = labels
        .zip(comparison.matrix(likeness))
        .map(|((place, label), values)| {
            let mut row = vec![label, (place + 1).to_string()];
            row.extend(values.into_iter().map(|value| number(value, decimals)));
            row
        });
    Some((header, rows.collect()))
}

/// Beside the base model: one row an update; what it amplifies and how many intruders it brings.
///
/// The numbers of the three columns are ‖ΔW‖ over the weight's projection on the update's own, the
/// weight's own and random directions.
pub fn intruder_cells(comparison: &Comparison) -> Cells {
    let header = vec![
        "module",
        "no.",
        "rank",
        "‖ΔW‖",
        "‖W‖",
        "own",
        "W's",
        "random",
        "intruders",
        "their σ",
    ];
    let names = short_names(comparison.updates.iter().map(|update| &*update.module));
    let rows = comparison
        .updates
        .iter()
        .zip(names)
        .filter_map(|(update, name)| {
            let against = update.against_weight.as_ref()?;
            let of = |value: fn(&rankwise_analysis::Amplification) -> Option<f64>| {
                let value = against.amplification.as_ref().and_then(value);
                value.map_or("–".to_owned(), |value| format!("{value:.3}"))
            };
            let epsilon = comparison.intruder_rule.epsilon;
            let intruders: Vec<String> = against
                .directions
                .iter()
                .filter(|direction| direction.cosine < epsilon)
                .map(|direction| format!("{:.2}", direction.singular_value))
                .collect();
            let shown = match intruders.len() {
                0 => "–".to_owned(),
                1..=3 => intruders.join(" "),
                _ => format!("{} …", intruders[..3].join(" ")),
            };
            Some(vec![
                cut(name),
                (update.adapter + 1).to_string(),
                update.measures.numerical_rank.to_string(),
                format!("{:.3}", update.measures.frobenius_norm),
                of(|a| Some(a.weight_norm)),
                of(|a| a.factor),
                of(|a| a.weight),
                of(|a| a.random),
                format!("{} of {}", against.intruders, against.directions.len()),
                shown,
            ])
        });
    (header, rows.collect())
}

/// Checkpoints of one run: one row a checkpoint, means over modules.
pub fn course_cells(comparison: &Comparison) -> Cells {
    let header = vec![
        "checkpoint",
        "step",
        "‖ΔW‖",
        "k99",
        "effective",
        "stable",
        "cos prev",
        "φ out",
        "φ in",
        "cos last",
        "φ out",
        "φ in",
    ];
    let labels = comparison_labels(comparison);
    let last = comparison.adapters.len().saturating_sub(1);
    let rows = comparison.adapters.iter().enumerate().map(|(place, one)| {
        let own = || {
            comparison
                .updates
                .iter()
                .filter(move |u| u.adapter == place)
        };
        let of = |value: fn(&UpdateRecord) -> Option<f64>| mean(own().filter_map(value));
        let mut row = vec![
            labels[place].clone(),
            one.step.map_or("–".to_owned(), |step| step.to_string()),
            number(of(|u| Some(u.measures.frobenius_norm)), 3),
            number(of(|u| Some(u.measures.energy_rank_99 as f64)), 1),
            number(of(|u| u.measures.effective_rank), 2),
            number(of(|u| u.measures.stable_rank), 2),
        ];
        let before = place.checked_sub(1).map(|before| (before, place));
        let end = (place < last).then_some((place, last));
        for pair in [before, end] {
            for likeness in [Likeness::Cosine, Likeness::PhiLeft, Likeness::PhiRight] {
                row.push(number(
                    pair.and_then(|pair| between(comparison, pair, likeness)),
                    3,
                ));
            }
        }
        row
    });
    (header, rows.collect())
}

/// The mean of a likeness over the modules of two adapters.
pub(super) fn between(
    comparison: &Comparison,
    (first, second): (usize, usize),
    likeness: Likeness,
) -> Option<f64> {
    let is = |pair: &&PairRecord| (pair.first, pair.second) == (first, second);
    let own = comparison.pairs.iter().filter(is);
    mean(own.filter_map(|pair| likeness.of(pair)))
}
