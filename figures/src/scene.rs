//! A page as a list of marks, before any backend.
//!
//! Everything that decides what a figure shows ends in this list; the
//! renderers only replay it, so SVG and PNG cannot disagree.

use crate::frame::{Frame, Point};
use crate::style::{Color, Marker, Stroke, WHITE};

/// Where a text's anchor lies along it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Anchor {
    Start,
    Middle,
    End,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Mark {
    /// Separate polylines of one colour and width.
    Lines {
        runs: Vec<Vec<Point>>,
        color: Color,
        width: f64,
    },
    /// A filled polygon.
    Area {
        outline: Vec<Point>,
        color: Color,
        opacity: f64,
    },
    /// One line of text; `at.1` is the middle of its capitals.
    Text {
        text: String,
        at: Point,
        size: f64,
        color: Color,
        anchor: Anchor,
        /// Reads from bottom to top.
        turned: bool,
    },
}

/// A page in units of one PNG pixel.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Scene {
    pub width: u32,
    pub height: u32,
    /// Read out in place of the figure.
    pub title: String,
    pub marks: Vec<Mark>,
}

impl Scene {
    /// A blank white page.
    pub fn new(width: u32, height: u32, title: String) -> Self {
        let mut scene = Self {
            width,
            height,
            title,
            marks: Vec::new(),
        };
        let page = Frame {
            left: 0.0,
            top: 0.0,
            right: f64::from(width),
            bottom: f64::from(height),
        };
        scene.area(page.corners().to_vec(), WHITE, 1.0);
        scene
    }

    pub fn lines(&mut self, runs: &[Vec<Point>], stroke: Stroke, color: Color, width: f64) {
        let pattern: Vec<f64> = stroke.pattern().iter().map(|step| step * width).collect();
        let runs: Vec<_> = runs.iter().flat_map(|run| dashes(run, &pattern)).collect();
        if !runs.is_empty() {
            self.marks.push(Mark::Lines { runs, color, width });
        }
    }

    pub fn rule(&mut self, from: Point, to: Point, color: Color, width: f64) {
        self.lines(&[vec![from, to]], Stroke::Solid, color, width);
    }

    pub fn border(&mut self, frame: &Frame, color: Color, width: f64) {
        let [a, b, c, d] = frame.corners();
        self.lines(&[vec![a, b, c, d, a]], Stroke::Solid, color, width);
    }

    pub fn area(&mut self, outline: Vec<Point>, color: Color, opacity: f64) {
        if outline.len() > 2 {
            self.marks.push(Mark::Area {
                outline,
                color,
                opacity,
            });
        }
    }

    /// A marker set off by a thin white rim; an open one has a white inside.
    pub fn marker(&mut self, at: Point, marker: Marker, radius: f64, color: Color, open: bool) {
        let mut shape = |radius: f64, color| {
            let outline = marker.outline();
            let place = |(x, y): Point| (at.0 + radius * x, at.1 + radius * y);
            self.area(outline.into_iter().map(place).collect(), color, 1.0);
        };
        shape(1.22 * radius, WHITE);
        shape(radius, color);
        if open {
            shape(0.58 * radius, WHITE);
        }
    }

    pub fn text(&mut self, text: &str, at: Point, size: f64, color: Color, anchor: Anchor) {
        self.push_text(text, at, size, color, anchor, false);
    }

    /// Text that reads from bottom to top, centred on `at`.
    pub fn turned_text(&mut self, text: &str, at: Point, size: f64, color: Color) {
        self.push_text(text, at, size, color, Anchor::Middle, true);
    }

    fn push_text(
        &mut self,
        text: &str,
        at: Point,
        size: f64,
        color: Color,
        anchor: Anchor,
        turned: bool,
    ) {
        // XML forbids most control characters, and a label is one line.
        let text = text.replace(
            |c: char| c.is_control() || matches!(c, '\u{FFFE}' | '\u{FFFF}'),
            " ",
        );
        self.marks.push(Mark::Text {
            text,
            at,
            size,
            color,
            anchor,
            turned,
        });
    }
}

/// Cuts a polyline into the drawn stretches of `pattern` (drawn and left-out
/// lengths in turn); an empty pattern leaves it whole.
fn dashes(points: &[Point], pattern: &[f64]) -> Vec<Vec<Point>> {
    if pattern.is_empty() {
        return vec![points.to_vec()];
    }
    let mut runs = Vec::new();
    let mut run: Vec<Point> = points.first().copied().into_iter().collect();
    let (mut phase, mut left) = (0, pattern[0]);
    for pair in points.windows(2) {
        let (from, to) = (pair[0], pair[1]);
        let length = (to.0 - from.0).hypot(to.1 - from.1);
        let mut done = 0.0;
        while length - done > left {
            done += left;
            let t = done / length;
            let turn = (from.0 + t * (to.0 - from.0), from.1 + t * (to.1 - from.1));
            if phase % 2 == 0 {
                run.push(turn);
                runs.push(std::mem::take(&mut run));
            } else {
                run = vec![turn];
            }
            phase = (phase + 1) % pattern.len();
            left = pattern[phase];
        }
        left -= length - done;
        if phase % 2 == 0 {
            run.push(to);
        }
    }
    if run.len() > 1 {
        runs.push(run);
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dashes_follow_the_line_around_a_corner() {
        let corner = [(0.0, 0.0), (4.0, 0.0), (4.0, 4.0)];
        let expected = vec![vec![(0.0, 0.0), (3.0, 0.0)], vec![(4.0, 0.0), (4.0, 3.0)]];
        assert_eq!(dashes(&corner, &[3.0, 1.0]), expected);
        let expected = vec![
            vec![(0.0, 0.0), (4.0, 0.0), (4.0, 1.0)],
            vec![(4.0, 2.0), (4.0, 4.0)],
        ];
        assert_eq!(dashes(&corner, &[5.0, 1.0]), expected);
    }

    #[test]
    fn dashes_cover_their_share_of_the_length() {
        let line = [(0.0, 0.0), (300.0, 400.0)];
        for stroke in [Stroke::Dashed, Stroke::Dotted, Stroke::DashDot] {
            let pattern = stroke.pattern();
            let drawn: f64 = dashes(&line, pattern)
                .iter()
                .map(|run| (run[1].0 - run[0].0).hypot(run[1].1 - run[0].1))
                .sum();
            let share = pattern.iter().step_by(2).sum::<f64>() / pattern.iter().sum::<f64>();
            // The last period may be cut short.
            let period = pattern.iter().sum::<f64>();
            assert!((drawn - 500.0 * share).abs() < period, "{stroke:?}");
        }
    }
}
