//! Charts of points in groups.

use crate::Error;
use crate::axis::{Axis, Scale};
use crate::figure::{Figure, page};
use crate::frame::Frame;
use crate::legend::{Entry, Legend};
use crate::plot::{Marked, Plot, Texts, floor_note};
use crate::scene::Scene;
use crate::style::{Color, Marker};

/// Points of one kind.
#[derive(Clone, Debug, PartialEq)]
pub struct Group {
    /// Name in the legend; empty to be left out of it.
    pub label: String,
    /// Colour of the points.
    pub color: Color,
    /// Shape of the points.
    pub marker: Marker,
    /// The points, as (x, y); those that are not finite are counted in a note.
    pub points: Vec<(f64, f64)>,
}

/// A chart of points.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Scatter {
    /// Heading of the chart.
    pub title: String,
    /// Name of the x axis.
    pub x_label: String,
    /// Name of the y axis.
    pub y_label: String,
    /// How x values are spread.
    pub x_scale: Scale,
    /// How y values are spread.
    pub y_scale: Scale,
    /// The groups, drawn in this order.
    pub groups: Vec<Group>,
    /// A small line below the title, as a correlation coefficient.
    pub note: Option<String>,
}

/// Draws one chart of points with its legend below.
///
/// ```
/// use rankwise_figures::{Group, Marker, PALETTE, Scatter, scatter};
///
/// let group = Group {
///     label: "R-LoRA".into(),
///     color: PALETTE[1],
///     marker: Marker::Square,
///     points: vec![(8.0, 0.71), (16.0, 0.74)],
/// };
/// let figure = scatter(&Scatter {
///     title: "Accuracy against rank".into(),
///     groups: vec![group],
///     note: Some("ρ = 0.83".into()),
///     ..Scatter::default()
/// })?;
/// assert_eq!(figure.svg.matches("ρ = 0.83").count(), 1);
/// # Ok::<(), rankwise_figures::Error>(())
/// ```
///
/// # Errors
///
/// [`Error::Empty`] without a finite point, [`Error::Range`] for values whose
/// range overflows, [`Error::Floor`] for a logarithmic floor that is not
/// positive, [`Error::Legend`] for one label in two styles.
pub fn scatter(scatter: &Scatter) -> Result<Figure, Error> {
    scatter_grid(std::slice::from_ref(scatter), 1)
}

/// Draws charts of points in rows of `columns` (1 to 4) with one legend below
/// all.
///
/// # Errors
///
/// As [`scatter`], and [`Error::Count`] for no chart, more than 16, or a
/// number of columns outside 1 to 4.
pub fn scatter_grid(scatters: &[Scatter], columns: usize) -> Result<Figure, Error> {
    Figure::of(&lay_out(scatters, columns)?)
}

pub(crate) fn lay_out(scatters: &[Scatter], columns: usize) -> Result<Scene, Error> {
    let groups = scatters.iter().flat_map(|scatter| &scatter.groups);
    let legend = Legend::of(groups.map(|group| Entry {
        label: group.label.clone(),
        color: group.color,
        stroke: None,
        marker: Some(group.marker),
        width: 0.0,
    }))?;
    page(scatters, columns, &legend, |scatter| &scatter.title, draw)
}

const RADIUS: f64 = 8.5;
const PADDING: f64 = 0.06;

fn draw(scene: &mut Scene, scatter: &Scatter, cell: Frame) -> Result<(), Error> {
    let (title, x_scale, y_scale) = (&scatter.title, scatter.x_scale, scatter.y_scale);
    x_scale.check(title)?;
    y_scale.check(title)?;
    let groups = scatter.groups.iter();
    let total: usize = groups.clone().map(|group| group.points.len()).sum();
    let placed: Vec<_> = groups
        .flat_map(|group| group.points.iter().map(move |point| (group, point)))
        .filter_map(|(group, (x, y))| Some((group, x_scale.read(*x)?, y_scale.read(*y)?)))
        .collect();
    let xs = placed.iter().map(|(_, x, _)| *x);
    let x_axis = Axis::covering(xs, x_scale, PADDING, "x range", title)?;
    let ys = placed.iter().map(|(_, _, y)| *y);
    let y_axis = Axis::covering(ys, y_scale, PADDING, "y range", title)?;

    let note = note(
        scatter,
        placed.iter().any(|(_, x, _)| x.floored),
        placed.iter().any(|(_, _, y)| y.floored),
        total - placed.len(),
    );
    let texts = Texts {
        title,
        x_label: &scatter.x_label,
        y_label: &scatter.y_label,
        note: &note,
    };
    let plot = Plot::draw(scene, cell, &texts, (x_axis, Marked::Round), y_axis);
    for (group, x, y) in placed {
        let open = x.floored || y.floored;
        scene.marker(plot.place(x, y), group.marker, RADIUS, group.color, open);
    }
    Ok(())
}

fn note(scatter: &Scatter, x_floored: bool, y_floored: bool, left_out: usize) -> String {
    let mut parts: Vec<String> = scatter.note.iter().cloned().collect();
    let mut floors: Vec<String> = [(scatter.x_scale, x_floored), (scatter.y_scale, y_floored)]
        .into_iter()
        .filter(|(_, floored)| *floored)
        .filter_map(|(scale, _)| floor_note(scale))
        .collect();
    floors.dedup();
    parts.append(&mut floors);
    match left_out {
        0 => {}
        1 => parts.push("1 point is not finite".to_owned()),
        n => parts.push(format!("{n} points are not finite")),
    }
    parts.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scene::Mark;
    use crate::style::PALETTE;

    fn of(points: &[(f64, f64)]) -> Scatter {
        Scatter {
            title: "t".to_owned(),
            groups: vec![Group {
                label: "g".to_owned(),
                color: PALETTE[0],
                marker: Marker::Circle,
                points: points.to_vec(),
            }],
            ..Scatter::default()
        }
    }

    fn texts(scene: &Scene) -> Vec<&str> {
        let texts = scene.marks.iter().filter_map(|mark| match mark {
            Mark::Text { text, .. } => Some(text.as_str()),
            _ => None,
        });
        texts.collect()
    }

    #[test]
    fn points_without_a_value_are_counted() {
        let mut scatter = of(&[(1.0, 2.0), (f64::NAN, 1.0), (2.0, f64::INFINITY)]);
        scatter.note = Some("ρ = 1".to_owned());
        let scene = lay_out(&[scatter], 1).unwrap();
        assert!(texts(&scene).contains(&"ρ = 1; 2 points are not finite"));
    }

    #[test]
    fn points_at_the_floor_are_open_and_explained() {
        let mut scatter = of(&[(1.0, 0.0), (2.0, 1.0)]);
        scatter.y_scale = Scale::Log { floor: 1e-12 };
        let scene = lay_out(std::slice::from_ref(&scatter), 1).unwrap();
        assert!(texts(&scene).contains(&"open markers: at most 10⁻¹²"));
        let areas = |scene: &Scene| {
            let areas = scene
                .marks
                .iter()
                .filter(|mark| matches!(mark, Mark::Area { .. }));
            areas.count()
        };
        scatter.groups[0].points[0].1 = 1e-11;
        let without = lay_out(&[scatter], 1).unwrap();
        // The white inside of the one open marker.
        assert_eq!(areas(&scene), areas(&without) + 1);
    }

    #[test]
    fn no_finite_point_is_an_error() {
        for points in [vec![], vec![(f64::NAN, 1.0)]] {
            let error = scatter(&of(&points)).unwrap_err();
            assert!(matches!(error, Error::Empty { title } if title == "t"));
        }
    }
}
