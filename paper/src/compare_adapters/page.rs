//! A comparison as one self-contained page.

use anyhow::Result;
use rankwise_analysis::{Comparison, PairRecord, SideRecord, UpdateRecord};
use rankwise_figures::Figure;

use super::{ComparisonReport, comparison_labels, comparison_title, course_cells, intruder_cells};
use crate::audit::glossary;
use crate::page::{
    Cell, CurveLabels, Group, Page, PageColumn, PageHead, Plain, Row, Span, html, text,
};
use crate::tables::Cells;

/// A number of a row: its name in the record files, its heading, whether it is a share of the way
/// from nothing to all, and its value.
type Numbers<T> = [(
    &'static str,
    &'static str,
    Option<Span>,
    fn(&T) -> Option<f64>,
)];

const PAIR: &Numbers<PairRecord> = &[
    ("layer", "layer", None, |p| Some(p.layer? as f64)),
    ("rank_first", "rank, first", None, |p| {
        Some(p.ranks[0] as f64)
    }),
    ("rank_second", "rank, second", None, |p| {
        Some(p.ranks[1] as f64)
    }),
    ("cosine", "cosine", Some(Span::Linear), |p| p.cosine),
    ("distance", "distance", Some(Span::Linear), |p| p.distance),
    ("norm_ratio", "ratio of norms", Some(Span::Decades), |p| {
        p.norm_ratio
    }),
    (
        "left_top_phi",
        "φ(1, 1), output side",
        Some(Span::Linear),
        |p| Some(p.left.as_ref()?.top.phi),
    ),
    (
        "right_top_phi",
        "φ(1, 1), input side",
        Some(Span::Linear),
        |p| Some(p.right.as_ref()?.top.phi),
    ),
    (
        "left_all_phi",
        "φ of all, output side",
        Some(Span::Linear),
        |p| Some(p.left.as_ref()?.all.phi),
    ),
    ("left_all_chance", "its chance", None, |p| {
        Some(p.left.as_ref()?.all.chance.mean)
    }),
    (
        "right_all_phi",
        "φ of all, input side",
        Some(Span::Linear),
        |p| Some(p.right.as_ref()?.all.phi),
    ),
    ("right_all_chance", "its chance", None, |p| {
        Some(p.right.as_ref()?.all.chance.mean)
    }),
    (
        "left_mean_angle",
        "mean angle, output side (°)",
        Some(Span::Linear),
        |p| Some(p.left.as_ref()?.mean_angle.to_degrees()),
    ),
    (
        "right_mean_angle",
        "mean angle, input side (°)",
        Some(Span::Linear),
        |p| Some(p.right.as_ref()?.mean_angle.to_degrees()),
    ),
];

const UPDATE: &Numbers<UpdateRecord> = &[
    ("layer", "layer", None, |u| Some(u.layer? as f64)),
    (
        "numerical_rank",
        "numerical rank",
        Some(Span::Linear),
        |u| Some(u.measures.numerical_rank as f64),
    ),
    (
        "energy_rank_99",
        "energy rank 99 %",
        Some(Span::Linear),
        |u| Some(u.measures.energy_rank_99 as f64),
    ),
    ("stable_rank", "stable rank", Some(Span::Linear), |u| {
        u.measures.stable_rank
    }),
    (
        "effective_rank",
        "effective rank",
        Some(Span::Linear),
        |u| u.measures.effective_rank,
    ),
    (
        "frobenius_norm",
        "Frobenius norm",
        Some(Span::Decades),
        |u| Some(u.measures.frobenius_norm),
    ),
    ("spectral_norm", "spectral norm", Some(Span::Decades), |u| {
        Some(u.measures.spectral_norm)
    }),
    ("amplification", "amplification", Some(Span::Decades), |u| {
        u.against_weight.as_ref()?.amplification.as_ref()?.factor
    }),
    ("intruders", "intruders", Some(Span::Linear), |u| {
        Some(u.against_weight.as_ref()?.intruders as f64)
    }),
];

/// The last of them, which need the base model.
const WITH_BASE: usize = 2;

/// Findings, tables, figures (caption and drawing), and what there is of every module.
///
/// # Errors
/// Never: there is nothing in a comparison that cannot be written.
pub fn comparison_page(
    comparison: &Comparison,
    over_time: bool,
    figures: &[(&str, Figure)],
    head: &PageHead,
) -> Result<String> {
    let labels = comparison_labels(comparison);
    let is_two = labels.len() == 2 && !over_time;
    let mut tables = Vec::new();
    let adapters = overview(comparison, &labels, !is_two);
    let (adapters, of_groups) = match is_two {
        true => (Some(adapters), None),
        false => (None, Some(adapters)),
    };
    tables.extend(adapters.map(|table| ("Adapters".to_owned(), table)));
    if over_time {
        let title = "The run over time, means over modules";
        tables.push((title.to_owned(), plain(course_cells(comparison))));
    } else if !is_two {
        let title = "Every two adapters, means over shared modules";
        tables.push((title.to_owned(), pairs(comparison, &labels)));
    }
    let mut updates = comparison.updates.iter();
    let has_base = updates.any(|update| update.against_weight.is_some());
    let numbers = match has_base {
        true => UPDATE,
        false => &UPDATE[..UPDATE.len() - WITH_BASE],
    };
    if has_base {
        let title = "Beside the base model";
        tables.push((title.to_owned(), plain(intruder_cells(comparison))));
    }
    let drawn = figures.iter();
    html(&Page {
        title: comparison_title(&labels, over_time),
        head,
        notes: vec![format!(
            "{} adapters; {} modules of two adapters compared, {} apart, {} refused; φ of several \
             directions at {} of them.",
            labels.len(),
            comparison.pairs.len(),
            comparison.apart.len(),
            comparison.refused.len(),
            comparison.rank,
        )],
        sentences: ComparisonReport::new(comparison, over_time).findings,
        tables,
        figures: drawn
            .map(|(caption, figure)| ((*caption).to_owned(), figure.svg_inline()))
            .collect(),
        noun: "adapters",
        overview: of_groups,
        findings: None,
        columns: if is_two {
            columns(PAIR)
        } else {
            columns(numbers)
        },
        groups: if is_two {
            vec![of_pairs(comparison)]
        } else {
            let groups = labels.iter().enumerate();
            groups
                .map(|(place, label)| of_updates(comparison, place, label, numbers))
                .collect()
        },
        refused: Plain {
            header: vec!["name", "file", "reason"],
            rows: comparison
                .refused
                .iter()
                .map(|r| vec![text(&r.name), text(&r.path), text(&r.reason)])
                .collect(),
        },
        glossary: words(is_two),
        curves: CurveLabels {
            name: "angles",
            heading: "Shared directions: cos² of the principal angles, output side",
            axis: "i",
            first: 1,
            is_relative: false,
        },
        measure: if is_two {
            "left_all_phi"
        } else {
            "effective_rank"
        },
    })
}

fn columns<T>(numbers: &Numbers<T>) -> Vec<PageColumn> {
    let texts = [("name", "module"), ("shape", "shape")];
    let texts = texts.into_iter().map(|(id, label)| PageColumn {
        id,
        label,
        is_text: true,
        heat: None,
    });
    let numbers = numbers.iter().map(|&(id, label, heat, _)| PageColumn {
        id,
        label,
        is_text: false,
        heat,
    });
    texts.chain(numbers).collect()
}

fn cells<T>(name: &str, shape: [usize; 2], record: &T, numbers: &Numbers<T>) -> Vec<Cell> {
    let texts = [text(name), text(format!("{}×{}", shape[0], shape[1]))];
    let numbers = numbers.iter();
    let numbers = numbers.map(|(.., value)| Cell::Number(value(record)));
    texts.into_iter().chain(numbers).collect()
}

fn of_pairs(comparison: &Comparison) -> Group {
    let squares = |side: &SideRecord| {
        side.angles
            .iter()
            .map(|angle| angle.cos().powi(2))
            .collect()
    };
    let rows = comparison.pairs.iter().map(|pair| Row {
        cells: cells(&pair.module, pair.shape, pair, PAIR),
        role: pair.role.clone(),
        layer: pair.layer,
        curve: pair.left.as_ref().map_or(Vec::new(), squares),
        at: None,
        floor: None,
    });
    group("Every shared module".to_owned(), rows.collect())
}

fn of_updates(
    comparison: &Comparison,
    place: usize,
    label: &str,
    numbers: &Numbers<UpdateRecord>,
) -> Group {
    let own = comparison.updates.iter().filter(|u| u.adapter == place);
    let rows = own.map(|update| Row {
        cells: cells(&update.module, update.shape, update, numbers),
        role: update.role.clone(),
        layer: update.layer,
        curve: Vec::new(),
        at: None,
        floor: None,
    });
    group(label.to_owned(), rows.collect())
}

fn group(title: String, rows: Vec<Row>) -> Group {
    Group {
        title,
        findings: 0,
        notes: Vec::new(),
        rows,
    }
}

/// One row an adapter.
fn overview(comparison: &Comparison, labels: &[String], has_groups: bool) -> Plain {
    let adapters = comparison.adapters.iter().zip(labels).enumerate();
    let row = |(place, (one, label)): (usize, (&rankwise_analysis::ComparedAdapter, &String))| {
        vec![
            match has_groups {
                true => Cell::Link(label.clone(), place),
                false => text(label),
            },
            Cell::Number(Some((place + 1) as f64)),
            Cell::Number(Some(one.modules as f64)),
            Cell::Number(one.step.map(|step| step as f64)),
            text(&one.format),
            text(one.base_model.as_deref().unwrap_or("–")),
            text(&one.path),
        ]
    };
    Plain {
        header: vec![
            "adapter",
            "no.",
            "modules",
            "step",
            "format",
            "base model",
            "path",
        ],
        rows: adapters.map(row).collect(),
    }
}

/// One row for every two adapters that share a module.
fn pairs(comparison: &Comparison, labels: &[String]) -> Plain {
    use rankwise_analysis::Likeness;
    let matrices = Likeness::ALL.map(|likeness| comparison.matrix(likeness));
    let count = labels.len();
    let mut shared = vec![vec![0_usize; count]; count];
    for pair in &comparison.pairs {
        shared[pair.first][pair.second] += 1;
        shared[pair.second][pair.first] += 1;
    }
    let all = (0..count).flat_map(|i| (i + 1..count).map(move |j| (i, j)));
    let rows = all.filter(|&(i, j)| shared[i][j] > 0).map(|(i, j)| {
        let mut row = vec![
            text(&labels[i]),
            text(&labels[j]),
            Cell::Number(Some(shared[i][j] as f64)),
        ];
        row.extend(matrices.iter().map(|matrix| Cell::Number(matrix[i][j])));
        row
    });
    Plain {
        header: vec![
            "first",
            "second",
            "shared modules",
            "φ, output side",
            "φ, input side",
            "cosine",
            "mean angle, output side (°)",
            "mean angle, input side (°)",
        ],
        rows: rows.collect(),
    }
}

/// Cells of a terminal's table: what reads as a number sorts as one.
fn plain((header, rows): Cells) -> Plain {
    let cell = |told: String| match told.parse::<f64>() {
        Ok(value) if value.is_finite() => Cell::Told(value, told),
        _ if told == "–" => Cell::Number(None),
        _ => Cell::Text(told),
    };
    Plain {
        header,
        rows: rows
            .into_iter()
            .map(|row| row.into_iter().map(cell).collect())
            .collect(),
    }
}

fn words(is_two: bool) -> Vec<(String, String)> {
    let of_pairs = [
        ("ΔW", "what an adapter adds to a weight"),
        (
            "φ(i, j)",
            "‖U₁ᵢᵀU₂ⱼ‖_F²/min(i, j): the share of the first i directions of one update that lies in the \
             first j of the other, 0 to 1 (Hu et al. 2021, section 7.2); output side: left singular \
             vectors, input side: right ones",
        ),
        (
            "chance",
            "the mean of φ for random subspaces of the same sizes",
        ),
        (
            "cosine",
            "⟨ΔW₁, ΔW₂⟩/(‖ΔW₁‖‖ΔW₂‖): 1 equal up to size, 0 orthogonal, -1 opposite",
        ),
        (
            "distance",
            "‖ΔW₁ - ΔW₂‖_F/√(‖ΔW₁‖² + ‖ΔW₂‖²): 0 equal, 1 orthogonal, 1.41 opposite",
        ),
        (
            "angle",
            "mean principal angle between the spans of all directions, in degrees",
        ),
        (
            "amplification",
            "‖ΔW‖_F/‖UᵀWVᵀ‖_F: the update's size over what the weight has in its directions (Hu et al. \
             2021, section 7.3)",
        ),
        (
            "intruders",
            "leading directions of W + ΔW that are like none of W's (Shuttleworth et al. 2024)",
        ),
    ];
    let mut words: Vec<(String, String)> = of_pairs
        .into_iter()
        .map(|(name, meaning)| (name.to_owned(), meaning.to_owned()))
        .collect();
    if !is_two {
        let is_shown = |name: &str| UPDATE.iter().any(|(id, ..)| *id == name && name != "layer");
        words.extend(glossary().into_iter().filter(|(name, _)| is_shown(name)));
    }
    words
}
