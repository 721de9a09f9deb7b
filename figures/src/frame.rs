//! Rectangles, and what of a line or an area lies inside one.

/// A point in page units: x to the right, y downwards.
pub(crate) type Point = (f64, f64);

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Frame {
    pub left: f64,
    pub top: f64,
    pub right: f64,
    pub bottom: f64,
}

impl Frame {
    pub fn width(&self) -> f64 {
        self.right - self.left
    }

    pub fn height(&self) -> f64 {
        self.bottom - self.top
    }

    pub fn corners(&self) -> [Point; 4] {
        [
            (self.left, self.top),
            (self.right, self.top),
            (self.right, self.bottom),
            (self.left, self.bottom),
        ]
    }

    pub fn contains(&self, (x, y): Point) -> bool {
        (self.left..=self.right).contains(&x) && (self.top..=self.bottom).contains(&y)
    }

    /// The same rectangle, larger by `margin` on every side.
    pub fn grown(&self, margin: f64) -> Self {
        Self {
            left: self.left - margin,
            top: self.top - margin,
            right: self.right + margin,
            bottom: self.bottom + margin,
        }
    }

    /// The parts of a polyline inside (Liang and Barsky, segment by segment).
    pub fn clip_line(&self, points: &[Point]) -> Vec<Vec<Point>> {
        let mut runs: Vec<Vec<Point>> = Vec::new();
        for pair in points.windows(2) {
            let Some((from, to)) = self.clip_segment(pair[0], pair[1]) else {
                continue;
            };
            match runs.last_mut() {
                Some(run) if run.last() == Some(&from) => run.push(to),
                _ => runs.push(vec![from, to]),
            }
        }
        runs
    }

    fn clip_segment(&self, from: Point, to: Point) -> Option<(Point, Point)> {
        let (dx, dy) = (to.0 - from.0, to.1 - from.1);
        let (mut enter, mut leave) = (0.0_f64, 1.0_f64);
        let sides = [
            (-dx, from.0 - self.left),
            (dx, self.right - from.0),
            (-dy, from.1 - self.top),
            (dy, self.bottom - from.1),
        ];
        for (towards, distance) in sides {
            if towards == 0.0 {
                if distance < 0.0 {
                    return None;
                }
            } else if towards < 0.0 {
                enter = enter.max(distance / towards);
            } else {
                leave = leave.min(distance / towards);
            }
        }
        // Whole ends are kept as they are, so that neighbouring segments join.
        let at = |t: f64| (from.0 + t * dx, from.1 + t * dy);
        (enter <= leave).then(|| {
            (
                if enter > 0.0 { at(enter) } else { from },
                if leave < 1.0 { at(leave) } else { to },
            )
        })
    }

    /// The part of a polygon inside (Sutherland and Hodgman, side by side).
    pub fn clip_area(&self, outline: &[Point]) -> Vec<Point> {
        let depths: [&dyn Fn(Point) -> f64; 4] = [
            &|p| p.0 - self.left,
            &|p| self.right - p.0,
            &|p| p.1 - self.top,
            &|p| self.bottom - p.1,
        ];
        let mut kept = outline.to_vec();
        for depth in depths {
            let all = std::mem::take(&mut kept);
            for (k, &to) in all.iter().enumerate() {
                let from = all[(k + all.len() - 1) % all.len()];
                let (before, after) = (depth(from), depth(to));
                if (before < 0.0) != (after < 0.0) {
                    let t = before / (before - after);
                    kept.push((from.0 + t * (to.0 - from.0), from.1 + t * (to.1 - from.1)));
                }
                if after >= 0.0 {
                    kept.push(to);
                }
            }
        }
        kept
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNIT: Frame = Frame {
        left: 0.0,
        top: 0.0,
        right: 1.0,
        bottom: 1.0,
    };

    #[test]
    fn a_line_that_leaves_and_returns_becomes_two_runs() {
        let line = [(0.25, 0.5), (0.5, 1.5), (0.75, 0.5)];
        assert_eq!(
            UNIT.clip_line(&line),
            [[(0.25, 0.5), (0.375, 1.0)], [(0.625, 1.0), (0.75, 0.5)]]
        );
    }

    #[test]
    fn a_line_inside_is_unchanged_and_one_outside_is_gone() {
        let inside = vec![(0.1, 0.2), (0.3, 0.9), (1.0, 1.0)];
        assert_eq!(UNIT.clip_line(&inside), [inside]);
        assert_eq!(UNIT.clip_line(&[(0.0, 1.5), (1.5, 1.2)]).len(), 0);
    }

    #[test]
    fn half_a_square_is_clipped_to_half_its_area() {
        let square = [(0.5, 0.0), (1.5, 0.0), (1.5, 1.0), (0.5, 1.0)];
        let clipped = UNIT.clip_area(&square);
        let area: f64 = (0..clipped.len())
            .map(|k| {
                let ((x0, y0), (x1, y1)) = (clipped[k], clipped[(k + 1) % clipped.len()]);
                (x0 * y1 - x1 * y0) / 2.0
            })
            .sum();
        assert_eq!(area, 0.5);
    }
}
