//! Charts of samples by name: every value as a point, beside it the mean with a bar.

use crate::Error;
use crate::axis::{Axis, Scale};
use crate::figure::{Figure, page};
use crate::frame::Frame;
use crate::legend::{Entry, Legend};
use crate::plot::{Marked, Plot, Texts};
use crate::scene::Scene;
use crate::style::{Color, Marker};

/// Values of one kind, with what they say together.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Name in the legend; empty to be left out of it.
    pub label: String,
    /// Colour of points, mean and bar.
    pub color: Color,
    /// Shape of the points.
    pub marker: Marker,
    /// The points; those that are not finite are counted in a note.
    pub values: Vec<f64>,
    /// A level to draw beside the points; not finite: none.
    pub mean: f64,
    /// How far the bar reaches to both sides of the mean; `None` for no bar.
    pub reach: Option<f64>,
}

/// A chart of samples side by side over names.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Strip {
    /// Heading of the chart.
    pub title: String,
    /// Name of the y axis.
    pub y_label: String,
    /// A small line below the title; empty for none.
    pub note: String,
    /// A name below the axis, and its samples from the left.
    pub places: Vec<(String, Vec<Sample>)>,
}

/// Draws charts of samples in rows of `columns` (1 to 4) with one legend below
/// all.
///
/// ```
/// use rankwise_figures::{Marker, PALETTE, Sample, Strip, strips};
///
/// let sample = Sample {
///     label: "ours".into(),
///     color: PALETTE[0],
///     marker: Marker::Circle,
///     values: vec![0.70, 0.72, 0.74],
///     mean: 0.72,
///     reach: Some(0.023),
/// };
/// let chart = Strip {
///     title: "Accuracy".into(),
///     places: vec![("LoRA".into(), vec![sample])],
///     ..Strip::default()
/// };
/// let figure = strips(&[chart], 1)?;
/// assert_eq!(figure.svg.matches("LoRA").count(), 1);
/// # Ok::<(), rankwise_figures::Error>(())
/// ```
///
/// # Errors
/// [`Error::Empty`] without a finite value, [`Error::Range`] for values whose
/// range overflows, [`Error::Legend`] for one label in two styles,
/// [`Error::Count`] for no chart, more than 16, or a number of columns outside 1
/// to 4.
pub fn strips(charts: &[Strip], columns: usize) -> Result<Figure, Error> {
    Figure::of(&lay_out(charts, columns)?)
}

fn lay_out(charts: &[Strip], columns: usize) -> Result<Scene, Error> {
    let samples = charts.iter().flat_map(|chart| &chart.places);
    let samples = samples.flat_map(|(_, samples)| samples);
    let legend = Legend::of(samples.map(|sample| Entry {
        label: sample.label.clone(),
        color: sample.color,
        stroke: None,
        marker: Some(sample.marker),
        width: 0.0,
    }))?;
    page(charts, columns, &legend, |chart| &chart.title, draw)
}

const RADIUS: f64 = 8.0;
const LINE: f64 = 3.0;
const PADDING: f64 = 0.06;
/// Half of the mean's level and of the bar's ends, in pixels.
const LEVEL: f64 = 15.0;
const END: f64 = 8.0;
/// The share of a name's room that its samples take.
const SHARE: f64 = 0.7;
/// Points stand left of their sample's middle, the mean right of it, by this
/// share of the sample's room.
const ASIDE: f64 = 0.2;
/// Pixels from one point to the next, and at most from the first to the last.
const STEP: f64 = 14.0;
const WIDEST: f64 = 56.0;

fn draw(scene: &mut Scene, chart: &Strip, cell: Frame) -> Result<(), Error> {
    let linear = |value: f64| Scale::Linear.read(value);
    let samples = || chart.places.iter().flat_map(|(_, samples)| samples);
    let shown = samples().flat_map(|sample| {
        let reach = sample.reach.unwrap_or(0.0);
        let level = [sample.mean - reach, sample.mean + reach];
        sample.values.iter().copied().chain(level)
    });
    let y = Axis::covering(
        shown.filter_map(linear),
        Scale::Linear,
        PADDING,
        "y range",
        &chart.title,
    )?;
    let ends = (-0.5, chart.places.len() as f64 - 0.5);
    let x = Axis::fixed(ends, Scale::Linear, "x range", &chart.title)?;
    let names: Vec<&str> = chart.places.iter().map(|(name, _)| &name[..]).collect();
    let values = samples().flat_map(|sample| &sample.values);
    let left_out = values.filter(|value| !value.is_finite()).count();
    let mut note = chart.note.clone();
    if left_out > 0 {
        let separator = if note.is_empty() { "" } else { "; " };
        note += &format!("{separator}{left_out} not finite");
    }
    let texts = Texts {
        title: &chart.title,
        x_label: "",
        y_label: &chart.y_label,
        note: &note,
    };
    let plot = Plot::draw(scene, cell, &texts, (x, Marked::Names(&names)), y);
    for (place, (_, samples)) in chart.places.iter().enumerate() {
        let room = SHARE / samples.len().max(1) as f64;
        for (number, sample) in samples.iter().enumerate() {
            let middle = place as f64 - SHARE / 2.0 + (number as f64 + 0.5) * room;
            draw_sample(scene, &plot, sample, middle, ASIDE * room);
        }
    }
    Ok(())
}

fn draw_sample(scene: &mut Scene, plot: &Plot, sample: &Sample, middle: f64, aside: f64) {
    let at = |x: f64, y: f64| {
        let (x, y) = (Scale::Linear.read(x)?, Scale::Linear.read(y)?);
        Some(plot.place(x, y))
    };
    if let Some((x, y)) = at(middle + aside, sample.mean) {
        scene.rule((x - LEVEL, y), (x + LEVEL, y), sample.color, 1.5 * LINE);
        if let Some(reach) = sample.reach {
            let ends = [sample.mean - reach, sample.mean + reach];
            if let [Some(low), Some(high)] = ends.map(|end| at(middle + aside, end)) {
                scene.rule(low, high, sample.color, LINE);
                for (x, y) in [low, high] {
                    scene.rule((x - END, y), (x + END, y), sample.color, LINE);
                }
            }
        }
    }
    // Side by side, so that equal values stay apart.
    let count = sample.values.len().max(1) as f64;
    let step = STEP.min(WIDEST / count);
    for (number, value) in sample.values.iter().enumerate() {
        if let Some((x, y)) = at(middle - aside, *value) {
            let place = (x + (number as f64 - (count - 1.0) / 2.0) * step, y);
            scene.marker(place, sample.marker, RADIUS, sample.color, false);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scene::Mark;
    use crate::style::PALETTE;

    fn sample(color: usize, values: &[f64], mean: f64, reach: Option<f64>) -> Sample {
        Sample {
            label: format!("kind {color}"),
            color: PALETTE[color],
            marker: Marker::Circle,
            values: values.to_vec(),
            mean,
            reach,
        }
    }

    fn chart(places: Vec<(&str, Vec<Sample>)>) -> Strip {
        Strip {
            title: "t".to_owned(),
            places: places
                .into_iter()
                .map(|(name, samples)| (name.to_owned(), samples))
                .collect(),
            ..Strip::default()
        }
    }

    /// The ends of the lines of one colour.
    fn lines(scene: &Scene, wanted: Color) -> Vec<[(f64, f64); 2]> {
        let lines = scene.marks.iter().filter_map(|mark| match mark {
            Mark::Lines { runs, color, .. } if *color == wanted => Some([runs[0][0], runs[0][1]]),
            _ => None,
        });
        lines.collect()
    }

    #[test]
    fn the_bar_reaches_as_far_as_it_says_and_stands_beside_its_points() {
        let both = vec![
            sample(0, &[1.0, 3.0], 2.0, Some(1.0)),
            sample(1, &[2.0], 2.0, None),
        ];
        let scene = lay_out(&[chart(vec![("a", both)])], 1).unwrap();
        let [level, bar, low, high] = lines(&scene, PALETTE[0])[..] else {
            panic!("a level, a bar and its two ends");
        };
        // The mean is in the middle of the bar, whose ends are at 1 and 3, as the points are.
        assert!((bar[0].1 + bar[1].1 - 2.0 * level[0].1).abs() < 1e-9);
        assert_eq!((low[0].1, high[0].1), (bar[0].1, bar[1].1));
        let points: Vec<_> = scene
            .marks
            .iter()
            .filter_map(|mark| match mark {
                Mark::Area { outline, color, .. } if *color == PALETTE[0] => Some(outline),
                _ => None,
            })
            .collect();
        let middle = |outline: &[(f64, f64)]| {
            let count = outline.len() as f64;
            let sum = |of: fn(&(f64, f64)) -> f64| outline.iter().map(of).sum::<f64>();
            (sum(|point| point.0) / count, sum(|point| point.1) / count)
        };
        // The legend's point comes last.
        assert_eq!(points.len(), 3);
        assert!((middle(points[0]).1 - low[0].1).abs() < 1e-9);
        assert!((middle(points[1]).1 - high[0].1).abs() < 1e-9);
        assert!(middle(points[0]).0 + RADIUS < level[0].0.max(bar[0].0));
        // The other sample has its level alone, further to the right.
        let other = lines(&scene, PALETTE[1]);
        assert_eq!(other.len(), 1);
        assert!(other[0][0].0 > level[1].0);
    }

    #[test]
    fn what_cannot_be_drawn_is_said() {
        let error = strips(&[chart(vec![("a", vec![])])], 1).unwrap_err();
        assert!(matches!(error, Error::Empty { title } if title == "t"));
        assert!(strips(&[chart(vec![])], 1).is_err());
        let odd = vec![sample(0, &[1.0, f64::NAN], f64::NAN, Some(f64::INFINITY))];
        let scene = lay_out(&[chart(vec![("a", odd)])], 1).unwrap();
        let is_note =
            |mark: &Mark| matches!(mark, Mark::Text { text, .. } if text == "1 not finite");
        assert!(scene.marks.iter().any(is_note));
        assert!(lines(&scene, PALETTE[0]).is_empty());
    }
}
