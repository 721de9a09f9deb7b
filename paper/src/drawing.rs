//! The project's figures as pure functions of records.

use anyhow::Result;
use rankwise_figures::{
    Color, Curve, Figure, Group, Inset, Marker, PALETTE, Panel, Scale, Scatter, Stroke, grid,
    scatter_grid,
};
use rankwise_theory::CellRecord;
use rankwise_training::MethodName;

use crate::records::{Configuration, Run, by_configuration};
use crate::statistics::Spread;
use crate::style::{method_style, rank_stroke};

/// The paper's Figure 1: test loss (with the last epochs enlarged), test accuracy, train accuracy
/// and gap against the epoch; mean over seeds, and a band of one standard error.
///
/// # Errors
/// If a run lacks a column, or there is nothing to draw.
pub fn figure1(runs: &[Run]) -> Result<Figure> {
    let panels = [
        ("Test Loss", "test_loss"),
        ("Test Accuracy", "test_accuracy"),
        ("Train Accuracy", "train_accuracy"),
        ("Gap", "generalization_error"),
    ]
    .into_iter()
    .map(|(name, column)| {
        let curves = by_configuration(runs)
            .into_iter()
            .map(|(configuration, same)| curve(runs, configuration, &same, column))
            .collect::<Result<Vec<_>>>()?;
        let last = curves
            .iter()
            .filter_map(|curve| curve.x.last())
            .fold(0.0, |a, b| b.max(a));
        let inset = (column == "test_loss" && last > 10.0).then_some(Inset {
            from: last - 5.0,
            to: last,
        });
        let y_range = match column {
            "generalization_error" => None,
            _ => settled_range(&curves),
        };
        Ok(Panel {
            title: format!("{name} v.s. Epoch"),
            y_range,
            x_label: epochs(&curves),
            y_label: match column {
                "generalization_error" => GAP.to_owned(),
                _ => name.to_owned(),
            },
            curves,
            inset,
            ..Panel::default()
        })
    })
    .collect::<Result<Vec<_>>>()?;
    Ok(grid(&panels, 2)?)
}

/// Effective rank and energy rank 99 % of ΔW against gap and test accuracy, one
/// point a run.
///
/// # Errors
/// If a run lacks a column, or there is nothing to draw.
pub fn rank_scatter(runs: &[Run]) -> Result<Figure> {
    let measures = [
        ("Effective rank of ΔW", "effective_rank"),
        ("Energy rank 99 % of ΔW", "energy_rank_99"),
    ];
    let outcomes = [
        ("Gap", GAP, "generalization_error"),
        ("Test Accuracy", "Test Accuracy (%)", "test_accuracy"),
    ];
    let mut charts = Vec::new();
    for (title, y_label, outcome) in outcomes {
        for (x_label, measure) in measures {
            let mut groups = Vec::new();
            for method in MethodName::ALL {
                let own = runs.iter().filter(|run| run.configuration.method == method);
                let points = own
                    .map(|run| Ok((run.last(measure)?, run.last(outcome)?)))
                    .collect::<Result<Vec<_>>>()?;
                if !points.is_empty() {
                    let (color, marker) = method_style(method.key());
                    groups.push(Group {
                        label: method.to_string(),
                        color,
                        marker,
                        points,
                    });
                }
            }
            charts.push(Scatter {
                title: format!("{title} v.s. {}", x_label.trim_end_matches(" of ΔW")),
                x_label: x_label.to_owned(),
                y_label: y_label.to_owned(),
                groups,
                ..Scatter::default()
            });
        }
    }
    Ok(scatter_grid(&charts, 2)?)
}

/// Measured error and the bounds of Theorem 3.1 against R, one chart a shape; mean over problems,
/// the band from the least to the greatest.
///
/// # Errors
/// If there is nothing to draw.
pub fn bound_chart(records: &[CellRecord]) -> Result<Figure> {
    let series: [Series; 3] = [
        (
            "Literal bound (Eq. 8)",
            1,
            Stroke::Dotted,
            Marker::Square,
            |r| Some(r.bound_literal),
        ),
        (
            "Corrected bound",
            2,
            Stroke::Dashed,
            Marker::Triangle,
            |r| Some(r.bound_corrected),
        ),
        ("Measured error", 0, Stroke::Solid, Marker::Circle, |r| {
            r.measured
        }),
    ];
    theory_chart(records, "Mean error", &series)
}

/// The measured error as a share of every bound against R, one chart a shape, where the error is
/// more than rounding: above one, the bound is violated.
///
/// # Errors
/// If there is nothing to draw.
pub fn ratio_chart(records: &[CellRecord]) -> Result<Figure> {
    fn share(record: &CellRecord, bound: Option<f64>) -> Option<f64> {
        let measured = record.measured.filter(|_| !record.exact)?;
        bound
            .filter(|&bound| bound > 0.0)
            .map(|bound| measured / bound)
    }
    let series: [Series; 4] = [
        (
            "of the literal (Eq. 8)",
            1,
            Stroke::Dotted,
            Marker::Square,
            |r| share(r, Some(r.bound_literal)),
        ),
        (
            "of the corrected",
            2,
            Stroke::Dashed,
            Marker::Triangle,
            |r| share(r, Some(r.bound_corrected)),
        ),
        ("of the spectral", 3, Stroke::Dashed, Marker::Square, |r| {
            share(r, Some(r.bound_spectral))
        }),
        ("of the tail", 0, Stroke::Solid, Marker::Circle, |r| {
            share(r, r.bound_tail)
        }),
    ];
    theory_chart(records, "Measured error / bound", &series)
}

type Series = (&'static str, usize, Stroke, Marker, Quantity);

fn theory_chart(records: &[CellRecord], y_label: &str, series: &[Series]) -> Result<Figure> {
    let shape = |r: &CellRecord| (r.width, r.target_layers, r.frozen_layers);
    let mut shapes: Vec<_> = records.iter().map(shape).collect();
    shapes.sort_unstable();
    shapes.dedup();
    let panels: Vec<Panel> = shapes
        .into_iter()
        .map(|(width, target, frozen)| {
            let own: Vec<&CellRecord> = records
                .iter()
                .filter(|record| shape(record) == (width, target, frozen))
                .collect();
            let curves = series.iter().map(|&(label, color, stroke, marker, value)| {
                theory_curve(&own, label, PALETTE[color], stroke, marker, value)
            });
            Panel {
                title: format!("D = {width}, target depth {target}, frozen depth {frozen}"),
                x_label: "Rank R of every adapter (mean, band least to largest)".to_owned(),
                y_label: y_label.to_owned(),
                y_scale: Scale::log(),
                curves: curves.collect(),
                ..Panel::default()
            }
        })
        .collect();
    Ok(grid(&panels, 2)?)
}

/// The range of the curves from the tenth epoch on, a little widened: the first epochs would
/// otherwise press all the rest together, as the paper's own axes avoid. `None` for short runs.
fn settled_range(curves: &[Curve]) -> Option<(f64, f64)> {
    const SETTLED: usize = 9;
    let values = curves
        .iter()
        .filter(|curve| curve.x.len() > 3 * SETTLED)
        .flat_map(|curve| {
            curve.low[SETTLED..]
                .iter()
                .chain(&curve.high[SETTLED..])
                .copied()
        });
    let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| {
        (low.min(value), high.max(value))
    });
    let margin = 0.03 * (high - low);
    (margin.is_finite() && margin > 0.0).then_some((low - margin, high + margin))
}

/// What the paper calls generalisation error.
const GAP: &str = "Train − test accuracy (pp)";

/// The name of an axis of epochs, and what the bands are if there are any.
pub(crate) fn epochs(curves: &[Curve]) -> String {
    let has_band = curves.iter().any(|curve| curve.low != curve.high);
    match has_band {
        true => "Epoch (mean over seeds, band ± standard error)".to_owned(),
        false => "Epoch".to_owned(),
    }
}

type Quantity = fn(&CellRecord) -> Option<f64>;

fn theory_curve(
    records: &[&CellRecord],
    label: &str,
    color: Color,
    stroke: Stroke,
    marker: Marker,
    value: Quantity,
) -> Curve {
    let mut ranks: Vec<usize> = records.iter().map(|record| record.rank).collect();
    ranks.sort_unstable();
    ranks.dedup();
    let mut curve = Curve {
        label: label.to_owned(),
        color,
        stroke,
        marker: Some(marker),
        x: Vec::new(),
        mean: Vec::new(),
        low: Vec::new(),
        high: Vec::new(),
    };
    for rank in ranks {
        let own = records.iter().filter(|record| record.rank == rank);
        let values: Vec<f64> = own.filter_map(|record| value(record)).collect();
        curve.x.push(rank as f64);
        curve.mean.push(Spread::of(values.iter().copied()).mean);
        curve
            .low
            .push(values.iter().copied().fold(f64::NAN, f64::min));
        curve
            .high
            .push(values.iter().copied().fold(f64::NAN, f64::max));
    }
    curve
}

fn curve(runs: &[Run], configuration: Configuration, own: &[&Run], column: &str) -> Result<Curve> {
    let series = own
        .iter()
        .map(|run| run.series(column))
        .collect::<Result<Vec<_>>>()?;
    let ranks = runs.iter().filter_map(|run| run.configuration.rank);
    let stroke = rank_stroke(ranks, configuration.rank);
    let label = configuration.to_string();
    Ok(seeds_curve(
        label,
        configuration.method.key(),
        stroke,
        &series,
    ))
}

/// The mean of several seeds against the epoch as far as all of them go, and a band of one standard
/// error.
pub(crate) fn seeds_curve(
    label: String,
    method: &str,
    stroke: Stroke,
    series: &[Vec<f64>],
) -> Curve {
    let epochs = series.iter().map(Vec::len).min().unwrap_or(0);
    let spreads: Vec<Spread> = (0..epochs)
        .map(|epoch| Spread::of(series.iter().map(|values| values[epoch])))
        .collect();
    let reach = |spread: &Spread| spread.standard_error().unwrap_or(0.0);
    let (color, marker) = method_style(method);
    Curve {
        label,
        color,
        stroke,
        marker: Some(marker),
        x: (1..=epochs).map(|epoch| epoch as f64).collect(),
        mean: spreads.iter().map(|spread| spread.mean).collect(),
        low: spreads
            .iter()
            .map(|spread| spread.mean - reach(spread))
            .collect(),
        high: spreads
            .iter()
            .map(|spread| spread.mean + reach(spread))
            .collect(),
    }
}
