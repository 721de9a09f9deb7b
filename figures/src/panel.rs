//! Charts of curves: means over seeds with a shaded band.

use crate::axis::{Axis, Reading, Scale};
use crate::figure::{Figure, page};
use crate::frame::{Frame, Point};
use crate::inset;
use crate::legend::{Entry, Legend};
use crate::plot::{Marked, Plot, Texts, floor_note};
use crate::scene::Scene;
use crate::style::{Color, Marker, Stroke};
use crate::{Error, Inset};

/// A named line over `x` with an optional band.
///
/// A value that is not finite leaves a gap. Between gaps, a point without
/// neighbours is drawn as a marker.
#[derive(Clone, Debug, PartialEq)]
pub struct Curve {
    /// Name in the legend; empty to be left out of it.
    pub label: String,
    /// Colour of the line and, paler, of its band.
    pub color: Color,
    /// How the line is broken.
    pub stroke: Stroke,
    /// Drawn at about six points along the curve, to tell it apart without
    /// colour.
    pub marker: Option<Marker>,
    /// Abscissae, n values.
    pub x: Vec<f64>,
    /// The line, n values.
    pub mean: Vec<f64>,
    /// Lower edge of the band, n values, or none for no band.
    pub low: Vec<f64>,
    /// Upper edge of the band, n values, or none for no band.
    pub high: Vec<f64>,
}

/// A chart of curves over a linear x axis.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Panel {
    /// Heading of the chart.
    pub title: String,
    /// Name of the x axis.
    pub x_label: String,
    /// Name of the y axis.
    pub y_label: String,
    /// How y values are spread.
    pub y_scale: Scale,
    /// The curves, drawn in this order.
    pub curves: Vec<Curve>,
    /// A stretch of the x axis to enlarge within the chart.
    pub inset: Option<Inset>,
    /// Ends of the y axis; curves outside are cut off. Taken from the curves
    /// when not given.
    pub y_range: Option<(f64, f64)>,
    /// Whether x counts something: no ticks between whole numbers then.
    pub x_is_whole: bool,
}

/// Draws one chart with its legend below.
///
/// ```
/// use rankwise_figures::{Curve, Marker, PALETTE, Panel, Stroke, panel};
///
/// let loss = Curve {
///     label: "LoRA (R = 8)".into(),
///     color: PALETTE[0],
///     stroke: Stroke::Dashed,
///     marker: Some(Marker::Circle),
///     x: vec![1.0, 2.0, 3.0],
///     mean: vec![0.9, 0.5, 0.4],
///     low: vec![0.8, 0.4, 0.3],
///     high: vec![1.0, 0.6, 0.5],
/// };
/// let figure = panel(&Panel {
///     title: "Test Loss v.s. Epoch".into(),
///     curves: vec![loss],
///     ..Panel::default()
/// })?;
/// // The IHDR chunk of the PNG states its width.
/// assert_eq!(figure.png[16..20], 1500_u32.to_be_bytes());
/// assert!(figure.svg.contains("LoRA (R = 8)"));
/// # Ok::<(), rankwise_figures::Error>(())
/// ```
///
/// # Errors
///
/// [`Error::Empty`] without a finite point, [`Error::Length`] for columns that
/// differ in length, [`Error::Range`] for a `y_range` or inset that is not
/// increasing and finite or values whose range overflows, [`Error::Floor`] for
/// a logarithmic floor that is not positive, [`Error::Legend`] for one label
/// in two styles.
pub fn panel(panel: &Panel) -> Result<Figure, Error> {
    grid(std::slice::from_ref(panel), 1)
}

/// Draws charts in rows of `columns` (1 to 4) with one legend below all.
///
/// # Errors
///
/// As [`panel`], and [`Error::Count`] for no chart, more than 16, or a number
/// of columns outside 1 to 4.
pub fn grid(panels: &[Panel], columns: usize) -> Result<Figure, Error> {
    Figure::of(&lay_out(panels, columns)?)
}

pub(crate) fn lay_out(panels: &[Panel], columns: usize) -> Result<Scene, Error> {
    panels.iter().try_for_each(check)?;
    let entries = panels.iter().flat_map(|panel| &panel.curves);
    let legend = Legend::of(entries.map(|curve| Entry {
        label: curve.label.clone(),
        color: curve.color,
        stroke: Some(curve.stroke),
        marker: curve.marker,
        width: LINE,
    }))?;
    page(panels, columns, &legend, |panel| &panel.title, draw)
}

fn check(panel: &Panel) -> Result<(), Error> {
    panel.y_scale.check(&panel.title)?;
    for curve in &panel.curves {
        let columns = [
            ("mean", &curve.mean, false),
            ("low", &curve.low, curve.high.is_empty()),
            ("high", &curve.high, curve.low.is_empty()),
        ];
        for (field, column, may_be_empty) in columns {
            if column.len() != curve.x.len() && !(may_be_empty && column.is_empty()) {
                return Err(Error::Length {
                    title: panel.title.clone(),
                    label: curve.label.clone(),
                    field,
                    expected: curve.x.len(),
                    found: column.len(),
                });
            }
        }
    }
    Ok(())
}

const LINE: f64 = 2.8;
const MARKER_RADIUS: f64 = 6.0;
const MARKERS: usize = 6;
/// Its multiples are spread evenly over the unit interval.
const GOLDEN: f64 = 0.618_033_988_749_895;
const BAND_OPACITY: f64 = 0.14;
const PADDING: f64 = 0.04;

fn draw(scene: &mut Scene, panel: &Panel, cell: Frame) -> Result<(), Error> {
    let title = &panel.title;
    let xs = panel.curves.iter().flat_map(|curve| {
        let shown = curve.x.iter().zip(&curve.mean);
        shown.filter_map(|(x, mean)| panel.y_scale.read(*mean).and(Scale::Linear.read(*x)))
    });
    let x = Axis::covering(xs, Scale::Linear, 0.5 * PADDING, "x range", title)?;
    let y = match panel.y_range {
        Some(range) => Axis::fixed(range, panel.y_scale, "y range", title)?,
        None => y_axis(panel, f64::NEG_INFINITY..=f64::INFINITY)?,
    };

    let any_floored = panel.curves.iter().any(|curve| {
        let means = curve
            .mean
            .iter()
            .filter_map(|mean| panel.y_scale.read(*mean));
        means.into_iter().any(|reading| reading.floored)
    });
    let note = floor_note(panel.y_scale)
        .filter(|_| any_floored)
        .unwrap_or_default();
    let texts = Texts {
        title,
        x_label: &panel.x_label,
        y_label: &panel.y_label,
        note: &note,
    };
    let marked = match panel.x_is_whole {
        true => Marked::Whole,
        false => Marked::Round,
    };
    let plot = Plot::draw(scene, cell, &texts, (x, marked), y);
    draw_curves(scene, panel, &plot);
    match panel.inset {
        Some(inset) => inset::draw(scene, panel, inset, &plot),
        None => Ok(()),
    }
}

/// The y axis that shows what lies over `window` of the x axis.
pub(crate) fn y_axis(panel: &Panel, window: std::ops::RangeInclusive<f64>) -> Result<Axis, Error> {
    let scale = panel.y_scale;
    let mut readings = Vec::new();
    for curve in &panel.curves {
        for (index, x) in curve.x.iter().enumerate() {
            if !x.is_finite() || !window.contains(x) {
                continue;
            }
            readings.extend(scale.read(curve.mean[index]));
            // The edge of a band may pass below the floor without a mean there.
            let edges = [curve.low.get(index), curve.high.get(index)];
            let edges = edges
                .into_iter()
                .flatten()
                .filter_map(|edge| scale.read(*edge));
            readings.extend(edges.filter(|edge| !edge.floored));
        }
    }
    Axis::covering(readings, scale, PADDING, "y range", &panel.title)
}

/// Bands first, then lines, then markers: no band tints another's line.
pub(crate) fn draw_curves(scene: &mut Scene, panel: &Panel, plot: &Plot) {
    for curve in &panel.curves {
        for (below, above) in band(curve, panel.y_scale, plot) {
            let outline: Vec<Point> = below.into_iter().chain(above.into_iter().rev()).collect();
            scene.area(plot.frame.clip_area(&outline), curve.color, BAND_OPACITY);
        }
    }
    let traces: Vec<_> = panel
        .curves
        .iter()
        .map(|curve| trace(curve, panel.y_scale, plot))
        .collect();
    for (curve, runs) in panel.curves.iter().zip(&traces) {
        let lines: Vec<_> = runs
            .iter()
            .flat_map(|run| plot.frame.clip_line(&places(run)))
            .collect();
        scene.lines(&lines, curve.stroke, curve.color, LINE);
    }
    for (order, (curve, runs)) in panel.curves.iter().zip(&traces).enumerate() {
        let points: usize = runs.iter().map(Vec::len).sum();
        let stride = if points <= 2 * MARKERS {
            1
        } else {
            points.div_ceil(MARKERS)
        };
        // Staggered, so that the markers of neighbouring curves stay apart.
        let offset = ((order as f64 * GOLDEN).fract() * stride as f64) as usize;
        let mut count = 0;
        for run in runs {
            for (k, sample) in run.iter().enumerate() {
                let chosen = curve.marker.is_some() && count % stride == offset;
                count += 1;
                let within_floor =
                    k > 0 && run[k - 1].floored && run.get(k + 1).is_some_and(|next| next.floored);
                let needed = run.len() == 1 || (sample.floored && !within_floor);
                if (chosen || needed) && plot.frame.grown(1.0).contains(sample.at) {
                    let marker = curve.marker.unwrap_or(Marker::Circle);
                    scene.marker(
                        sample.at,
                        marker,
                        MARKER_RADIUS,
                        curve.color,
                        sample.floored,
                    );
                }
            }
        }
    }
}

/// A point of a curve on the page.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    pub at: Point,
    pub floored: bool,
}

pub(crate) fn places(run: &[Sample]) -> Vec<Point> {
    run.iter().map(|sample| sample.at).collect()
}

/// The stretches of a curve between its gaps.
pub(crate) fn trace(curve: &Curve, scale: Scale, plot: &Plot) -> Vec<Vec<Sample>> {
    stretches(curve.x.iter().zip(&curve.mean).map(|(x, mean)| {
        let (x, y) = (Scale::Linear.read(*x)?, scale.read(*mean)?);
        Some(Sample {
            at: plot.place(x, y),
            floored: y.floored,
        })
    }))
}

/// The lower and upper edges of a curve's band between its gaps.
pub(crate) fn band(curve: &Curve, scale: Scale, plot: &Plot) -> Vec<(Vec<Point>, Vec<Point>)> {
    let edges = curve.low.iter().zip(&curve.high);
    let columns = curve.x.iter().zip(edges).map(|(x, (low, high))| {
        let (x, low, high): (Reading, Reading, Reading) = (
            Scale::Linear.read(*x)?,
            scale.read(*low)?,
            scale.read(*high)?,
        );
        Some((plot.place(x, low), plot.place(x, high)))
    });
    let runs = stretches(columns).into_iter();
    // Equal edges, as those of a single seed, enclose nothing.
    runs.filter(|run| run.iter().any(|(low, high)| low != high))
        .map(|run| run.into_iter().unzip())
        .collect()
}

fn stretches<T>(points: impl Iterator<Item = Option<T>>) -> Vec<Vec<T>> {
    let mut runs = vec![Vec::new()];
    for point in points {
        match (point, runs.last_mut()) {
            (Some(point), Some(run)) => run.push(point),
            _ => runs.push(Vec::new()),
        }
    }
    runs.retain(|run| !run.is_empty());
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_part_a_curve_into_stretches() {
        let points = [None, Some(1), Some(2), None, None, Some(3), None];
        assert_eq!(stretches(points.into_iter()), [vec![1, 2], vec![3]]);
    }

    #[test]
    fn the_axis_of_a_window_ignores_what_lies_outside() {
        let curve = Curve {
            label: String::new(),
            color: Color::hex(0),
            stroke: Stroke::Solid,
            marker: None,
            x: vec![0.0, 1.0, 2.0],
            mean: vec![100.0, 2.0, 3.0],
            low: vec![100.0, 1.0, 3.0],
            high: vec![100.0, 2.0, 5.0],
        };
        let panel = Panel {
            curves: vec![curve],
            ..Panel::default()
        };
        let axis = y_axis(&panel, 1.0..=2.0).unwrap();
        // The band reaches from 1 to 5; its padding is the same on both sides.
        assert!((axis.fraction(3.0) - 0.5).abs() < 1e-12);
        assert!((axis.fraction(1.0) - PADDING / (1.0 + 2.0 * PADDING)).abs() < 1e-12);
    }
}
