//! Figures: φ(i, j) of two adapters, φ against the layer, likeness of many, the course of one run.

use std::collections::BTreeMap;

use anyhow::Result;
use rankwise_analysis::{Comparison, Likeness, PairRecord, UpdateRecord};
use rankwise_figures::{Curve, Figure, HeatMap, PALETTE, Panel, Stroke, grid, heat_maps};

use super::cells::between;
use super::{SIDES, comparison_labels, mean};
use crate::style::MARKERS;

/// Kinds of modules that a figure of two adapters shows: those that most layers have.
const MOST_ROLES: usize = 4;

/// The roles with the most modules, in the order of their first module.
fn roles(comparison: &Comparison) -> Vec<(&str, Vec<&PairRecord>)> {
    let mut roles: Vec<(&str, Vec<&PairRecord>)> = Vec::new();
    for pair in &comparison.pairs {
        match roles.iter_mut().find(|(role, _)| *role == pair.role) {
            Some((_, own)) => own.push(pair),
            None => roles.push((&pair.role, vec![pair])),
        }
    }
    let mut sizes: Vec<usize> = roles.iter().map(|(_, own)| own.len()).collect();
    sizes.sort_unstable_by(|x, y| y.cmp(x));
    if let Some(&least) = sizes.get(MOST_ROLES - 1) {
        let mut left = MOST_ROLES;
        roles.retain(|(_, own)| {
            let is_kept = own.len() >= least && left > 0;
            left -= usize::from(is_kept);
            is_kept
        });
    }
    roles
}

/// φ(i, j) of two adapters, outputs' and inputs' side, the mean over the layers of every role.
///
/// # Errors
/// If no module has directions in both adapters.
pub fn similarity_maps(comparison: &Comparison) -> Result<Figure> {
    let labels = comparison_labels(comparison);
    let mut maps = Vec::new();
    for (role, own) in roles(comparison) {
        for (name, side) in SIDES {
            let grids: Vec<_> = own
                .iter()
                .filter_map(|pair| side(pair)?.grid.as_ref())
                .collect();
            // Layers may differ in rank: where some have no value, the mean is of the others.
            let mut sums: BTreeMap<(usize, usize), (f64, usize)> = BTreeMap::new();
            for grid in &grids {
                for (&i, row) in grid.first.iter().zip(&grid.phi) {
                    for (&j, value) in grid.second.iter().zip(row) {
                        let sum = sums.entry((i, j)).or_default();
                        *sum = (sum.0 + value, sum.1 + 1);
                    }
                }
            }
            let axis = |value: fn(&(usize, usize)) -> usize| {
                let mut all: Vec<usize> = sums.keys().map(value).collect();
                all.sort_unstable();
                all.dedup();
                all
            };
            let (rows, columns) = (axis(|&(i, _)| i), axis(|&(_, j)| j));
            if rows.is_empty() {
                continue;
            }
            let at = |i: usize, j: usize| match sums.get(&(i, j)) {
                Some(&(sum, count)) => sum / count as f64,
                None => f64::NAN,
            };
            let chance = mean(
                own.iter()
                    .filter_map(|pair| Some(side(pair)?.top.chance.mean)),
            );
            let noun = if grids.len() == 1 {
                "module"
            } else {
                "modules"
            };
            maps.push(HeatMap {
                title: format!("{role}, {name} side"),
                note: format!(
                    "mean of {} {noun}; chance at i = j = 1: {:.4}",
                    grids.len(),
                    chance.unwrap_or(f64::NAN)
                ),
                x_label: format!("j, of {}", labels[1]),
                y_label: format!("i, of {}", labels[0]),
                values: rows
                    .iter()
                    .map(|&i| columns.iter().map(|&j| at(i, j)).collect())
                    .collect(),
                decimals: (rows.len().max(columns.len()) <= 8).then_some(2),
                rows: rows.iter().map(usize::to_string).collect(),
                columns: columns.iter().map(usize::to_string).collect(),
                range: (0.0, 1.0),
            });
        }
    }
    if maps.is_empty() {
        anyhow::bail!("comparison: expected a module that changes in both adapters, found none");
    }
    Ok(heat_maps(&maps, 2)?)
}

/// φ of the first directions and cosine of two adapters against the layer, a curve for every role.
///
/// # Errors
/// If no module has a layer and directions in both adapters.
pub fn layer_chart(comparison: &Comparison) -> Result<Figure> {
    type Value = fn(&PairRecord) -> Option<f64>;
    let quantities: [(&str, &str, Value); 4] = [
        ("First directions, output side", "φ(1, 1)", |p| {
            Some(p.left.as_ref()?.top.phi)
        }),
        ("First directions, input side", "φ(1, 1)", |p| {
            Some(p.right.as_ref()?.top.phi)
        }),
        ("Cosine of the updates", "Cosine", |p| p.cosine),
        ("Distance of the updates", "0 equal, 1 orthogonal", |p| {
            p.distance
        }),
    ];
    let panels = quantities.into_iter().map(|(title, y_label, value)| {
        let curves = roles(comparison)
            .into_iter()
            .enumerate()
            .map(|(k, (role, own))| {
                let points: Vec<(f64, f64)> = own
                    .iter()
                    .filter_map(|pair| Some((pair.layer? as f64, value(pair)?)))
                    .collect();
                Curve {
                    label: role.to_owned(),
                    color: PALETTE[k],
                    stroke: Stroke::Solid,
                    marker: Some(MARKERS[k]),
                    x: points.iter().map(|point| point.0).collect(),
                    mean: points.iter().map(|point| point.1).collect(),
                    low: Vec::new(),
                    high: Vec::new(),
                }
            });
        let curves = curves.filter(|curve| !curve.x.is_empty());
        Panel {
            title: title.to_owned(),
            x_label: "Layer".to_owned(),
            y_label: y_label.to_owned(),
            curves: curves.collect(),
            ..Panel::default()
        }
    });
    Ok(grid(&panels.collect::<Vec<_>>(), 2)?)
}

/// The likeness of every two adapters: φ of both sides, cosine and mean angle.
///
/// # Errors
/// If there are more adapters than a heat map holds.
pub fn likeness_maps(comparison: &Comparison) -> Result<Figure> {
    let labels = comparison_labels(comparison);
    let rank = comparison.rank;
    let kinds = [
        (
            Likeness::PhiLeft,
            format!("φ({rank}, {rank}), output side"),
            (0.0, 1.0),
        ),
        (
            Likeness::PhiRight,
            format!("φ({rank}, {rank}), input side"),
            (0.0, 1.0),
        ),
        (
            Likeness::Cosine,
            "Cosine of the updates".to_owned(),
            (0.0, 1.0),
        ),
        (
            Likeness::AngleLeft,
            "Mean angle, output side (degrees)".to_owned(),
            (0.0, 90.0),
        ),
    ];
    let maps = kinds.into_iter().map(|(likeness, title, mut range)| {
        let matrix = comparison.matrix(likeness);
        let values: Vec<Vec<f64>> = matrix
            .into_iter()
            .map(|row| {
                row.into_iter()
                    .map(|value| value.unwrap_or(f64::NAN))
                    .collect()
            })
            .collect();
        let least = values.iter().flatten().copied().fold(range.0, f64::min);
        // Opposite updates have negative cosines: the range widens in steps that ticks like.
        if least < -0.005 {
            range.0 = (least * 5.0).floor() / 5.0;
        }
        let is_angle = matches!(likeness, Likeness::AngleLeft);
        HeatMap {
            title,
            rows: labels.clone(),
            columns: labels.clone(),
            range,
            decimals: (labels.len() <= 16).then_some(if is_angle { 0 } else { 2 }),
            values,
            ..HeatMap::default()
        }
    });
    Ok(heat_maps(&maps.collect::<Vec<_>>(), 2)?)
}

/// Checkpoints of one run: norm and rank measures, φ and cosine to the last and to the one before,
/// against the step; means over modules, with the band from the least to the greatest where it says.
///
/// # Errors
/// If there is nothing to draw.
pub fn course_chart(comparison: &Comparison) -> Result<Figure> {
    let last = comparison.adapters.len().saturating_sub(1);
    let has_steps = comparison.adapters.iter().all(|one| one.step.is_some());
    let x: Vec<f64> = comparison
        .adapters
        .iter()
        .enumerate()
        .map(|(place, one)| match one.step {
            Some(step) if has_steps => step as f64,
            _ => (place + 1) as f64,
        })
        .collect();
    let curve = |label: &str, style: usize, mean: Vec<f64>| Curve {
        label: label.to_owned(),
        color: PALETTE[style],
        stroke: if style.is_multiple_of(2) {
            Stroke::Solid
        } else {
            Stroke::Dashed
        },
        marker: Some(MARKERS[style % MARKERS.len()]),
        x: x.clone(),
        mean,
        low: Vec::new(),
        high: Vec::new(),
    };
    let measured = |value: fn(&UpdateRecord) -> Option<f64>| -> Vec<f64> {
        let of = |place: usize| {
            let own = comparison
                .updates
                .iter()
                .filter(move |u| u.adapter == place);
            mean(own.filter_map(value)).unwrap_or(f64::NAN)
        };
        (0..=last).map(of).collect()
    };
    let to_last = |likeness: Likeness| -> Vec<f64> {
        let of = |place: usize| match place {
            place if place == last => f64::NAN,
            place => between(comparison, (place, last), likeness).unwrap_or(f64::NAN),
        };
        (0..=last).map(of).collect()
    };
    let to_previous = |likeness: Likeness| -> Vec<f64> {
        let of = |place: usize| {
            let before = place.checked_sub(1).map(|before| (before, place));
            let value = before.and_then(|pair| between(comparison, pair, likeness));
            value.unwrap_or(f64::NAN)
        };
        (0..=last).map(of).collect()
    };
    let rank = comparison.rank;
    let panel = |title: String, y_label: &str, curves: Vec<Curve>, is_share: bool| Panel {
        title,
        x_label: if has_steps { "Step" } else { "Checkpoint" }.to_owned(),
        y_label: y_label.to_owned(),
        curves,
        y_range: is_share.then_some((0.0, 1.02)),
        ..Panel::default()
    };
    let likeness = |name: &str, likeness: Likeness| {
        let curves = vec![
            curve("To the last checkpoint", 0, to_last(likeness)),
            curve("To the checkpoint before", 1, to_previous(likeness)),
        ];
        let is_angle = likeness == Likeness::AngleLeft;
        let is_share = !is_angle
            && curves
                .iter()
                .flat_map(|curve| &curve.mean)
                .all(|value| value.is_nan() || *value >= 0.0);
        panel(
            name.to_owned(),
            name.split(',').next().unwrap_or(name),
            curves,
            is_share,
        )
    };
    let ranks = vec![
        curve("Effective rank", 2, measured(|u| u.measures.effective_rank)),
        curve("Stable rank", 3, measured(|u| u.measures.stable_rank)),
        curve(
            "99 % energy rank",
            4,
            measured(|u| Some(u.measures.energy_rank_99 as f64)),
        ),
    ];
    let norm = measured(|u| Some(u.measures.frobenius_norm));
    let norm = vec![curve("", 0, norm)];
    let of_phi = |side: &str| format!("φ at i = j = {rank}, {side} side");
    let panels = [
        panel(
            "Frobenius norm of ΔW".to_owned(),
            "Frobenius norm",
            norm,
            false,
        ),
        panel("Rank of ΔW".to_owned(), "Rank", ranks, false),
        likeness(&of_phi("output"), Likeness::PhiLeft),
        likeness(&of_phi("input"), Likeness::PhiRight),
        likeness("Cosine of the updates", Likeness::Cosine),
        likeness("Mean angle in degrees, output side", Likeness::AngleLeft),
    ];
    Ok(grid(&panels, 2)?)
}
