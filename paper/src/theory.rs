//! Tables, charts and sentences for what stands beside the grid: transformers and descent.

use anyhow::Result;
use rankwise_figures::{Curve, Figure, Marker, PALETTE, Panel, Scale, Stroke, grid};
use rankwise_theory::{DescentRecord, Start, TransformerRecord};

use crate::statistics::median;
use crate::tables::Cells;

fn number(value: Option<f64>) -> String {
    value.map_or("–".to_owned(), |value| format!("{value:.2e}"))
}

fn least(values: impl Iterator<Item = f64>) -> Option<f64> {
    values.reduce(f64::min)
}

fn largest(values: impl Iterator<Item = f64>) -> Option<f64> {
    values.reduce(f64::max)
}

/// Distinct keys in their order.
fn keys<T, K: Ord + Copy>(records: &[T], key: impl Fn(&T) -> K) -> Vec<K> {
    let mut keys: Vec<K> = records.iter().map(key).collect();
    keys.sort_unstable();
    keys.dedup();
    keys
}

/// A curve of the median with the band from least to largest, skipping ranks without a value.
fn curve(
    label: String,
    style: usize,
    ranks: &[usize],
    values: impl Fn(usize) -> Vec<f64>,
) -> Curve {
    const STYLES: [(Stroke, Marker); 3] = [
        (Stroke::Solid, Marker::Circle),
        (Stroke::Dashed, Marker::Triangle),
        (Stroke::Dotted, Marker::Square),
    ];
    let (stroke, marker) = STYLES[style % STYLES.len()];
    let mut curve = Curve {
        label,
        color: PALETTE[style % PALETTE.len()],
        stroke,
        marker: Some(marker),
        x: Vec::new(),
        mean: Vec::new(),
        low: Vec::new(),
        high: Vec::new(),
    };
    for &rank in ranks {
        let own = values(rank);
        let of = || own.iter().copied();
        if let (Some(middle), Some(low), Some(high)) = (median(of()), least(of()), largest(of())) {
            curve.x.push(rank as f64);
            curve.mean.push(middle);
            curve.low.push(low);
            curve.high.push(high);
        }
    }
    curve
}

/// One row a size and rank: least, median and largest over seeds.
pub fn transformer_cells(records: &[TransformerRecord]) -> Cells {
    let header = vec![
        "transformer",
        "R",
        "threshold",
        "relative error",
        "least",
        "largest",
        "defect",
    ];
    let key = |r: &TransformerRecord| (r.width, r.blocks, r.rank);
    let rows = keys(records, key).into_iter().map(|group| {
        let own = || records.iter().filter(move |record| key(record) == group);
        let error = || own().filter_map(|record| record.relative_error);
        vec![
            format!("D={} L={}", group.0, group.1),
            group.2.to_string(),
            keys(records, |r| (r.width, r.blocks, r.threshold))
                .into_iter()
                .filter(|&(width, blocks, _)| (width, blocks) == (group.0, group.1))
                .map(|(.., threshold)| threshold.to_string())
                .collect::<Vec<_>>()
                .join(", "),
            number(median(error())),
            number(least(error())),
            number(largest(error())),
            number(largest(own().filter_map(|record| record.defect))),
        ]
    });
    (header, rows.collect())
}

/// The relative error against R, a chart for every width and a curve for every depth.
///
/// # Errors
/// If there is nothing to draw.
pub fn transformer_chart(records: &[TransformerRecord]) -> Result<Figure> {
    let panels: Vec<Panel> = keys(records, |record| record.width)
        .into_iter()
        .map(|width| {
            let ranks: Vec<usize> = (0..=width).collect();
            let depths = keys(records, |record| record.blocks);
            let curves = depths.into_iter().enumerate().map(|(style, blocks)| {
                let noun = if blocks == 1 { "block" } else { "blocks" };
                curve(format!("{blocks} {noun}"), style, &ranks, |rank| {
                    let own = records
                        .iter()
                        .filter(|r| (r.width, r.blocks, r.rank) == (width, blocks, rank));
                    own.filter_map(|record| record.relative_error).collect()
                })
            });
            Panel {
                title: format!("Transformers of width D = {width}"),
                x_label: "Rank R of every adapter (median, band least to largest)".to_owned(),
                y_label: "Relative error".to_owned(),
                y_scale: Scale::log(),
                curves: curves.collect(),
                ..Panel::default()
            }
        })
        .collect();
    Ok(grid(&panels, 2)?)
}

/// How long one verification took.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ScalingRecord {
    /// D.
    pub width: usize,
    /// L.
    pub layers: usize,
    /// Wall time.
    pub seconds: f64,
}

/// Time against the width and against the depth, beside the line of L·D³ through the largest.
///
/// # Errors
/// If there is nothing to draw.
pub fn scaling_chart(records: &[ScalingRecord]) -> Result<Figure> {
    type Axis = (
        &'static str,
        &'static str,
        fn(&ScalingRecord) -> (usize, usize),
    );
    let axes: [Axis; 2] = [
        ("Time against width", "log₂ D", |r| (r.layers, r.width)),
        ("Time against depth", "log₂ L", |r| (r.width, r.layers)),
    ];
    let panels = axes.map(|(title, x_label, split)| {
        // The most frequent fixed value names the series along this axis.
        let mut fixed: Vec<usize> = records.iter().map(|r| split(r).0).collect();
        fixed.sort_unstable_by_key(|value| {
            records
                .iter()
                .filter(|record| split(record).0 == *value)
                .count()
        });
        let fixed = fixed.last().copied();
        let mut own: Vec<&ScalingRecord> = records
            .iter()
            .filter(|record| Some(split(record).0) == fixed)
            .collect();
        own.sort_unstable_by_key(|record| split(record).1);
        own.dedup_by_key(|record| split(record).1);
        let work = |r: &ScalingRecord| r.layers as f64 * (r.width as f64).powi(3);
        let unit = own
            .last()
            .map_or(0.0, |record| record.seconds / work(record));
        let line = |label: &str, style: usize, value: &dyn Fn(&ScalingRecord) -> f64| {
            let y: Vec<f64> = own.iter().map(|record| value(record)).collect();
            Curve {
                label: label.to_owned(),
                color: PALETTE[style],
                stroke: if style == 0 {
                    Stroke::Solid
                } else {
                    Stroke::Dashed
                },
                marker: (style == 0).then_some(Marker::Circle),
                x: own
                    .iter()
                    .map(|record| (split(record).1 as f64).log2())
                    .collect(),
                mean: y.clone(),
                low: y.clone(),
                high: y,
            }
        };
        Panel {
            title: title.to_owned(),
            x_label: x_label.to_owned(),
            y_label: "Seconds".to_owned(),
            y_scale: Scale::log(),
            curves: vec![
                line("Measured", 0, &|record| record.seconds),
                line("L·D³ through the last", 1, &|record| unit * work(record)),
            ],
            ..Panel::default()
        }
    });
    Ok(grid(&panels, 2)?)
}

/// What the transformers show.
pub fn transformer_findings(records: &[TransformerRecord]) -> String {
    let error = |exact: bool| {
        let own = records.iter().filter(move |record| record.exact == exact);
        own.filter_map(|record| record.relative_error)
    };
    let last = records.iter().filter(|r| r.rank + 1 == r.threshold);
    format!(
        "Transformer theorem on {} constructions: from the threshold on the largest relative error \
         is {}; one rank below it the error is still between {} and {} of the output, and over all \
         smaller ranks at least {}.",
        records.len(),
        number(largest(error(true))),
        number(least(last.clone().filter_map(|r| r.relative_error))),
        number(largest(last.filter_map(|r| r.relative_error))),
        number(least(error(false))),
    )
}

fn is_random(record: &DescentRecord) -> bool {
    matches!(record.start, Start::Random(_))
}

/// One row a shape and rank: the constructed adapters, descent from random starts, and descent from
/// the construction; medians over problems, and over starts.
pub fn descent_cells(records: &[DescentRecord]) -> Cells {
    let header = vec![
        "problem",
        "R",
        "constructed mse",
        "trained mse",
        "best start",
        "worst start",
        "trained/constructed",
        "from construction",
    ];
    let key = |r: &DescentRecord| (r.width, r.target_layers, r.frozen_layers, r.rank);
    let rows = keys(records, key).into_iter().map(|group| {
        let own = || records.iter().filter(move |record| key(record) == group);
        let random = || own().filter(|record| is_random(record));
        let trained = || random().map(|record| record.trained_mse);
        let after = own().filter(|record| !is_random(record));
        vec![
            format!("D={} ({},{})", group.0, group.1, group.2),
            group.3.to_string(),
            number(median(own().map(|record| record.constructed_mse))),
            number(median(trained())),
            number(least(trained())),
            number(largest(trained())),
            number(median(random().map(|record| record.gap))),
            number(median(after.map(|record| record.trained_mse))),
        ]
    });
    (header, rows.collect())
}

/// Mean squared error against R, a chart for every shape.
///
/// # Errors
/// If there is nothing to draw.
pub fn descent_chart(records: &[DescentRecord]) -> Result<Figure> {
    let shape = |r: &DescentRecord| (r.width, r.target_layers, r.frozen_layers);
    type Pick = fn(&DescentRecord) -> Option<f64>;
    let series: [(&str, Pick); 3] = [
        ("Constructed", |r| Some(r.constructed_mse)),
        ("Trained from random starts", |r| {
            is_random(r).then_some(r.trained_mse)
        }),
        ("Trained from the construction", |r| {
            (!is_random(r)).then_some(r.trained_mse)
        }),
    ];
    let panels: Vec<Panel> = keys(records, shape)
        .into_iter()
        .map(|own| {
            let ranks = keys(records, |record| record.rank);
            let curves = series.iter().enumerate().map(|(style, (label, pick))| {
                curve((*label).to_owned(), style, &ranks, |rank| {
                    let rows = records.iter().filter(|r| shape(r) == own && r.rank == rank);
                    rows.filter_map(pick).collect()
                })
            });
            Panel {
                title: format!(
                    "D = {}, target depth {}, frozen depth {}",
                    own.0, own.1, own.2
                ),
                x_label: "Rank R of every adapter (median, band least to largest)".to_owned(),
                y_label: "Mean squared error".to_owned(),
                y_scale: Scale::log(),
                curves: curves.collect(),
                ..Panel::default()
            }
        })
        .collect();
    Ok(grid(&panels, 2)?)
}

/// What descent shows, where the construction is not exact and where it is.
pub fn descent_findings(records: &[DescentRecord]) -> Vec<String> {
    /// Below this a mean squared error is the rounding of an exact construction.
    const EXACT: f64 = 1e-15;
    let shape = |r: &DescentRecord| (r.target_layers, r.frozen_layers);
    let sentence = |own: (usize, usize)| {
        let rows = || {
            records
                .iter()
                .filter(move |r| shape(r) == own && is_random(r))
        };
        let inexact = || rows().filter(|record| record.constructed_mse > EXACT);
        let better = inexact().filter(|record| record.gap < 1.0).count();
        let exact = rows().filter(|record| record.constructed_mse <= EXACT);
        format!(
            "({}, {}): below the exact rank descent ends lower than the construction in {better} of \
             {} trainings (median ratio {}); where the construction is exact, descent stops at {} \
             (median).",
            own.0,
            own.1,
            inexact().count(),
            number(median(inexact().map(|record| record.gap))),
            number(median(exact.map(|record| record.trained_mse))),
        )
    };
    keys(records, shape).into_iter().map(sentence).collect()
}
