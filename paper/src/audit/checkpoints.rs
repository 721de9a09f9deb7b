use anyhow::Result;
use rankwise_analysis::{MatrixDifference, PairAudit, role};

use super::adapters::glossary;
use crate::page::{
    Cell, CurveLabels, Group, Page, PageColumn, PageHead, Plain, Row, Span, html, places, text,
};
use crate::pair::pair_findings;

type Value = fn(&MatrixDifference) -> Option<f64>;

/// Numbers of a matrix by name and heading.
const NUMBERS: [(&str, &str, Option<Span>, Value); 13] = [
    ("layer", "layer", None, |m| layer(&m.name).map(|l| l as f64)),
    (
        "rank_above_noise",
        "rank above noise",
        Some(Span::Linear),
        |m| Some(m.rank_above_noise as f64),
    ),
    (
        "energy_rank_99",
        "energy rank 99 %",
        Some(Span::Linear),
        |m| Some(m.measures.as_ref()?.energy_rank_99 as f64),
    ),
    (
        "effective_rank",
        "effective rank",
        Some(Span::Linear),
        |m| m.measures.as_ref()?.effective_rank,
    ),
    ("stable_rank", "stable rank", Some(Span::Linear), |m| {
        m.measures.as_ref()?.stable_rank
    }),
    ("e_0", "e_0", Some(Span::Decades), |m| {
        Some(m.layer_error(0))
    }),
    ("e_4", "e_4", Some(Span::Decades), |m| {
        Some(m.layer_error(4))
    }),
    ("e_8", "e_8", Some(Span::Decades), |m| {
        Some(m.layer_error(8))
    }),
    ("e_16", "e_16", Some(Span::Decades), |m| {
        Some(m.layer_error(16))
    }),
    ("e_64", "e_64", Some(Span::Decades), |m| {
        Some(m.layer_error(64))
    }),
    ("noise_floor", "noise floor", Some(Span::Decades), |m| {
        Some(m.noise.floor())
    }),
    ("noise_deviation", "s", None, |m| Some(m.noise.deviation)),
    (
        "frobenius_norm",
        "Frobenius norm",
        Some(Span::Decades),
        |m| Some(m.measures.as_ref()?.frobenius_norm),
    ),
];

/// One self-contained HTML page on two checkpoints: e_R of every matrix beside the rounding's floor,
/// as curves, heat map and table.
///
/// # Errors
/// Never: there is nothing in an audit that cannot be written.
pub fn pair_page(audit: &PairAudit, head: &PageHead) -> Result<String> {
    let label = |(id, label, is_text)| PageColumn {
        id,
        label,
        is_text,
        heat: None,
    };
    let mut columns: Vec<PageColumn> = [
        ("name", "matrix", true),
        ("shape", "shape", true),
        ("dtype", "type", true),
    ]
    .into_iter()
    .map(label)
    .collect();
    columns.extend(NUMBERS.iter().map(|&(id, label, heat, _)| PageColumn {
        id,
        label,
        is_text: false,
        heat,
    }));
    let unmatched = audit.unmatched.iter();
    let rows: Vec<Row> = audit.matrices.iter().map(row).collect();
    let groups = if rows.is_empty() {
        Vec::new()
    } else {
        vec![Group {
            title: "Every matrix".to_owned(),
            findings: 0,
            notes: Vec::new(),
            rows,
        }]
    };
    let mut words = vec![
        (
            "e_R",
            "σ_{R+1}(W_tuned − W_base): the least spectral error of an adapter of rank R",
        ),
        (
            "s",
            "√mean(ulp²/12): the deviation of an entry by rounding to the storage type",
        ),
        (
            "noise_floor",
            "the largest of s(√m + √n) (Marchenko & Pastur), 4/√3 √max(m, n) s (Gavish & Donoho \
             2014), the edge for entries of uneven size (Bandeira & van Handel 2016) and what the \
             decomposition may err by: 8√max(m, n) ε‖ΔW‖_F in single precision, max(m, n) ε σ₁ in \
             double",
        ),
        ("rank_above_noise", "#{σ > noise floor}"),
    ];
    let shared = [
        "energy_rank_99",
        "effective_rank",
        "stable_rank",
        "frobenius_norm",
    ];
    let all = glossary();
    for (name, meaning) in &all {
        if shared.contains(&&name[..]) {
            words.push((name, meaning));
        }
    }
    let glossary = words.into_iter();
    html(&Page {
        title: "Rank of the difference of two checkpoints".to_owned(),
        head,
        notes: pair_findings(audit),
        sentences: Vec::new(),
        tables: Vec::new(),
        figures: Vec::new(),
        noun: "matrices",
        overview: None,
        findings: None,
        columns,
        groups,
        refused: Plain {
            header: vec!["name", "reason"],
            rows: unmatched
                .map(|u| vec![text(&u.name), text(&u.reason)])
                .collect(),
        },
        glossary: glossary
            .map(|(name, meaning)| (name.to_owned(), meaning.to_owned()))
            .collect(),
        curves: CurveLabels {
            name: "e_R",
            heading: "Layer error e_R against R, and the rounding's floor",
            axis: "R",
            first: 0,
            is_relative: false,
        },
        measure: "rank_above_noise",
    })
}

fn row(matrix: &MatrixDifference) -> Row {
    let mut cells = vec![
        text(&matrix.name),
        text(format!("{}×{}", matrix.shape[0], matrix.shape[1])),
        text(&matrix.dtype),
    ];
    cells.extend(
        NUMBERS
            .iter()
            .map(|(_, _, _, value)| Cell::Number(value(matrix))),
    );
    let at = places(matrix.singular_values.len());
    Row {
        cells,
        role: role(matrix.name.strip_suffix(".weight").unwrap_or(&matrix.name)),
        layer: layer(&matrix.name),
        curve: at.iter().map(|&rank| matrix.layer_error(rank)).collect(),
        at: Some(at),
        floor: Some(matrix.noise.floor()),
    }
}

/// The first number in a name.
pub(crate) fn layer(name: &str) -> Option<usize> {
    name.split('.').find_map(|segment| segment.parse().ok())
}
