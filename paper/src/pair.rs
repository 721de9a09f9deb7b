//! Two checkpoints: the error that every rank leaves, as a table, a chart and sentences.

use std::collections::BTreeMap;

use anyhow::Result;
use rankwise_analysis::linalg::Arithmetic;
use rankwise_analysis::{MatrixDifference, PairAudit};
use rankwise_data::{Column, Table};
use rankwise_figures::{Curve, Figure, Marker, PALETTE, Panel, Scale, Stroke, grid};

use crate::numbers::decimals;
use crate::statistics::median;
use crate::tables::Cells;

/// The ranks whose errors are printed.
const RANKS: [usize; 5] = [0, 4, 8, 16, 64];

/// One row a matrix that changed.
pub fn pair_cells(audit: &PairAudit) -> Cells {
    let header = vec![
        "matrix",
        "shape",
        "type",
        "e_0",
        "e_4",
        "e_8",
        "e_16",
        "e_64",
        "noise floor",
        "rank above noise",
        "energy rank 99 %",
        "effective rank",
    ];
    let changed = audit.matrices.iter().filter(|matrix| is_changed(matrix));
    let rows = changed.map(|matrix| {
        let mut row = vec![
            matrix.name.clone(),
            format!("{}x{}", matrix.shape[0], matrix.shape[1]),
            matrix.dtype.clone(),
        ];
        row.extend(RANKS.map(|rank| match matrix.layer_error(rank) {
            error if error.is_nan() => "–".to_owned(),
            error => format!("{error:.2e}"),
        }));
        let measures = matrix.measures.as_ref();
        let effective = measures.and_then(|m| m.effective_rank);
        row.extend([
            format!("{:.2e}", matrix.noise.floor()),
            rank_text(matrix),
            measures.map_or("–".to_owned(), |m| m.energy_rank_99.to_string()),
            effective.map_or("–".to_owned(), |rank| format!("{rank:.1}")),
        ]);
        row
    });
    (header, rows.collect())
}

/// The rank above the noise; if only the largest singular values are known and all are above it, that
/// it may be more.
fn rank_text(matrix: &MatrixDifference) -> String {
    let rank = matrix.rank_above_noise;
    let may_be_more = matrix.certificate.is_some() && rank == matrix.singular_values.len();
    if may_be_more {
        format!("≥ {rank}")
    } else {
        rank.to_string()
    }
}

fn is_changed(matrix: &MatrixDifference) -> bool {
    matrix.layer_error(0) > 0.0
}

/// One row a matrix and rank: e_R beside the noise.
///
/// # Errors
/// Never: the columns are made of the same rows.
pub fn pair_table(audit: &PairAudit) -> Result<Table> {
    let rows: Vec<(&MatrixDifference, usize)> = audit
        .matrices
        .iter()
        .flat_map(|matrix| {
            // Past the last one e_R is zero, if all were computed.
            let known = matrix.singular_values.len() + usize::from(matrix.certificate.is_none());
            (0..known).map(move |rank| (matrix, rank))
        })
        .collect();
    let real = |value: fn(&MatrixDifference) -> f64| -> Column {
        rows.iter().map(|(matrix, _)| value(matrix)).collect()
    };
    Ok(Table::new(vec![
        (
            "matrix",
            rows.iter().map(|(matrix, _)| matrix.name.clone()).collect(),
        ),
        ("rank", rows.iter().map(|&(_, rank)| rank).collect()),
        (
            "layer_error",
            rows.iter().map(|(m, rank)| m.layer_error(*rank)).collect(),
        ),
        ("noise_deviation", real(|m| m.noise.deviation)),
        ("marchenko_pastur", real(|m| m.noise.marchenko_pastur)),
        ("gavish_donoho", real(|m| m.noise.gavish_donoho)),
        ("uneven", real(|m| m.noise.uneven)),
        ("decomposition", real(|m| m.noise.decomposition)),
        (
            "arithmetic",
            rows.iter()
                .map(|(matrix, _)| match matrix.arithmetic {
                    Arithmetic::Single => "f32".to_owned(),
                    Arithmetic::Double => "f64".to_owned(),
                })
                .collect(),
        ),
    ])?)
}

/// What stands for a matrix's place in a layer: its name without the numbers.
fn kind(name: &str) -> String {
    let parts = name
        .split('.')
        .filter(|part| part.parse::<usize>().is_err());
    let parts: Vec<&str> = parts.filter(|part| *part != "weight").collect();
    parts[parts.len().saturating_sub(3)..].join(".")
}

/// e_R against R, a chart for every kind of matrix: the median over layers with the band of all,
/// and the noise's floor.
///
/// # Errors
/// If no matrix changed.
pub fn pair_chart(audit: &PairAudit) -> Result<Figure> {
    let mut kinds: BTreeMap<String, Vec<&MatrixDifference>> = BTreeMap::new();
    for matrix in audit.matrices.iter().filter(|matrix| is_changed(matrix)) {
        kinds.entry(kind(&matrix.name)).or_default().push(matrix);
    }
    if kinds.is_empty() {
        anyhow::bail!("checkpoints: expected a matrix that differs, found none");
    }
    let panels: Vec<Panel> = kinds
        .into_iter()
        .map(|(kind, own)| {
            let last = own
                .iter()
                .map(|m| m.singular_values.len())
                .min()
                .unwrap_or(0);
            let errors = curve("e_R", 0, last, &own, MatrixDifference::layer_error);
            let floor = curve("Noise floor", 1, last, &own, |matrix, _| {
                matrix.noise.floor()
            });
            let count = own.len();
            let noun = if count == 1 { "matrix" } else { "matrices" };
            Panel {
                title: format!("{kind} ({count} {noun})"),
                x_label: "Rank R (median over matrices, band least to largest)".to_owned(),
                y_label: "Layer error".to_owned(),
                y_scale: Scale::log(),
                curves: vec![errors, floor],
                ..Panel::default()
            }
        })
        .collect();
    Ok(grid(&panels, 2)?)
}

fn curve(
    label: &str,
    style: usize,
    last: usize,
    own: &[&MatrixDifference],
    value: impl Fn(&MatrixDifference, usize) -> f64,
) -> Curve {
    let at = |rank: usize| {
        let mut values: Vec<f64> = own.iter().map(|matrix| value(matrix, rank)).collect();
        values.sort_by(f64::total_cmp);
        values
    };
    let columns: Vec<Vec<f64>> = (0..last).map(at).collect();
    Curve {
        label: label.to_owned(),
        color: PALETTE[style],
        stroke: if style == 0 {
            Stroke::Solid
        } else {
            Stroke::Dashed
        },
        marker: None::<Marker>,
        x: (0..last).map(|rank| rank as f64).collect(),
        mean: columns
            .iter()
            .map(|values| median(values.iter().copied()).unwrap_or(f64::NAN))
            .collect(),
        low: columns.iter().map(|values| values[0]).collect(),
        high: columns
            .iter()
            .map(|values| values[values.len() - 1])
            .collect(),
    }
}

/// How many matrices changed, by how much rank, and what was not compared.
pub fn pair_findings(audit: &PairAudit) -> Vec<String> {
    let changed: Vec<_> = audit
        .matrices
        .iter()
        .filter(|matrix| is_changed(matrix))
        .collect();
    let mut findings = vec![format!(
        "{} of {} matrices differ.",
        changed.len(),
        audit.matrices.len()
    )];
    let mut ranks: Vec<usize> = changed
        .iter()
        .map(|matrix| matrix.rank_above_noise)
        .collect();
    ranks.sort_unstable();
    let middle = median(ranks.iter().map(|&rank| rank as f64));
    if let (Some(least), Some(most), Some(middle)) = (ranks.first(), ranks.last(), middle) {
        findings.push(format!(
            "Above the rounding of the storage type the differences have rank {least} to {most} \
             (median {}); past that rank, e_R is rounding.",
            decimals(middle, usize::from(middle.fract() != 0.0))
        ));
    }
    let single: Vec<_> = audit
        .matrices
        .iter()
        .filter(|matrix| matrix.arithmetic == Arithmetic::Single)
        .collect();
    if !single.is_empty() {
        let error = |matrix: &&MatrixDifference| matrix.noise.decomposition;
        let largest = single.iter().map(error).fold(0.0, f64::max);
        findings.push(format!(
            "{} of them were decomposed in single precision, which errs by at most {largest:.1e}, \
             less than the rounding of the storage type; the others in double.",
            single.len()
        ));
    }
    let partial = audit
        .matrices
        .iter()
        .filter_map(|m| Some((m, m.certificate.as_ref()?)));
    let partial: Vec<_> = partial.collect();
    if !partial.is_empty() {
        let doubtful: Vec<&str> = partial
            .iter()
            .filter(|(_, certificate)| !certificate.is_converged)
            .map(|(matrix, _)| matrix.name.as_str())
            .collect();
        findings.push(format!(
            "Of {} matrices only the largest singular values were computed; {}.",
            partial.len(),
            if doubtful.is_empty() {
                "those above the noise are certain to within it".to_owned()
            } else {
                format!("not certain to within the noise: {}", doubtful.join(", "))
            }
        ));
    }
    let others = audit
        .unmatched
        .iter()
        .filter(|u| !u.reason.contains("dimensions"));
    for other in others {
        findings.push(format!("Not compared: {}: {}.", other.name, other.reason));
    }
    let vectors = audit
        .unmatched
        .iter()
        .filter(|u| u.reason.contains("dimensions"));
    findings.push(format!(
        "{} tensors are no matrices and have no rank.",
        vectors.count()
    ));
    findings
}
