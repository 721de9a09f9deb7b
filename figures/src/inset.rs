//! The enlarged stretch inside a chart.

use crate::Error;
use crate::axis::{Axis, Scale};
use crate::frame::{Frame, Point};
use crate::panel::{Panel, band, draw_curves, places, trace, y_axis};
use crate::plot::{Marked, Plot};
use crate::scene::Scene;
use crate::style::{GREY, RULE, WHITE};

/// A stretch of the x axis, from `from` to `to`, drawn again in a small chart
/// where it covers least of the curves.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Inset {
    /// First x shown.
    pub from: f64,
    /// Last x shown; above `from`.
    pub to: f64,
}

const TICK: f64 = 17.0;
const MARGIN: f64 = 14.0;
/// Share of the field's sides that the inset takes.
const WIDTH: f64 = 0.46;
const HEIGHT: f64 = 0.44;
/// Places tried along each side, from the right and from the top.
const PLACES: usize = 9;

pub(crate) fn draw(
    scene: &mut Scene,
    panel: &Panel,
    inset: Inset,
    whole: &Plot,
) -> Result<(), Error> {
    let range = (inset.from, inset.to);
    let x = Axis::fixed(range, Scale::Linear, "inset", &panel.title)?;
    let y = y_axis(panel, inset.from..=inset.to)?;

    let outer = best_place(&whole.frame, &trail(panel, whole));
    scene.area(outer.corners().to_vec(), WHITE, 1.0);
    scene.border(&outer, RULE, TICK / 16.0);
    let axes = Frame {
        left: outer.left + 6.0,
        top: outer.top + TICK / 2.0,
        right: outer.right - TICK,
        bottom: outer.bottom - 4.0,
    };
    let marked = match panel.x_is_whole {
        true => Marked::Whole,
        false => Marked::Round,
    };
    let plot = Plot::draw_axes(scene, axes, (x, marked), y, TICK);
    draw_curves(scene, panel, &plot);
    scene.border(&plot.frame, GREY, TICK / 16.0);
    Ok(())
}

/// Points every few pixels along the curves and the edges of their bands.
fn trail(panel: &Panel, plot: &Plot) -> Vec<Point> {
    let mut lines: Vec<Vec<Point>> = Vec::new();
    for curve in &panel.curves {
        lines.extend(
            trace(curve, panel.y_scale, plot)
                .iter()
                .map(|run| places(run)),
        );
        for (below, above) in band(curve, panel.y_scale, plot) {
            lines.extend([below, above]);
        }
    }
    let mut trail = Vec::new();
    for line in lines.iter().flat_map(|line| plot.frame.clip_line(line)) {
        for pair in line.windows(2) {
            let ((x0, y0), (x1, y1)) = (pair[0], pair[1]);
            let steps = ((x1 - x0).hypot(y1 - y0) / 4.0).ceil().max(1.0);
            let at = |k: usize| k as f64 / steps;
            trail.extend(
                (0..=steps as usize).map(|k| (x0 + at(k) * (x1 - x0), y0 + at(k) * (y1 - y0))),
            );
        }
    }
    trail
}

/// The place that covers the fewest of `points`; of several, the one nearest
/// to the right, then to the top.
fn best_place(field: &Frame, points: &[Point]) -> Frame {
    let (width, height) = (WIDTH * field.width(), HEIGHT * field.height());
    let step = |room: f64, k: usize| room * k as f64 / (PLACES - 1) as f64;
    let free = (
        field.width() - width - 2.0 * MARGIN,
        field.height() - height - 2.0 * MARGIN,
    );
    let candidate = |k: usize| {
        let right = field.right - MARGIN - step(free.0, k / PLACES);
        let top = field.top + MARGIN + step(free.1, k % PLACES);
        Frame {
            left: right - width,
            top,
            right,
            bottom: top + height,
        }
    };
    let covered = |frame: &Frame| {
        let near = frame.grown(MARGIN / 2.0);
        points.iter().filter(|point| near.contains(**point)).count()
    };
    (1..PLACES * PLACES)
        .map(candidate)
        .map(|frame| (covered(&frame), frame))
        .fold((covered(&candidate(0)), candidate(0)), |best, next| {
            if next.0 < best.0 { next } else { best }
        })
        .1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_inset_avoids_the_curves() {
        let field = Frame {
            left: 0.0,
            top: 0.0,
            right: 900.0,
            bottom: 900.0,
        };
        assert_eq!(best_place(&field, &[]).right, 900.0 - MARGIN);
        // A falling line leaves the top right free, a rising one the bottom right.
        let falling: Vec<Point> = (0..900).map(|k| (k.into(), k.into())).collect();
        let place = best_place(&field, &falling);
        assert!(place.right > 600.0 && place.bottom < 600.0, "{place:?}");
        let rising: Vec<Point> = (0..900).map(|k| (k.into(), (900 - k).into())).collect();
        let place = best_place(&field, &rising);
        assert!(place.right > 600.0 && place.top > 300.0, "{place:?}");
        assert!(!rising.iter().any(|point| place.contains(*point)));
    }
}
