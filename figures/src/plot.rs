//! The field of a chart: its axes, grid, ticks and labels.

use crate::axis::{Axis, Reading, Scale};
use crate::font;
use crate::frame::{Frame, Point};
use crate::scene::{Anchor, Scene};
use crate::style::{GREY, INK, RULE};
use crate::ticks::{Tick, power_of_ten};

// Sizes in pixels of a page 1500 wide: half of that still reads on a screen.
const TITLE: f64 = 27.0;
const LABEL: f64 = 23.0;
const TICK: f64 = 21.0;
const NOTE: f64 = 19.0;
const GAP: f64 = 10.0;

/// What is written around a field.
pub(crate) struct Texts<'a> {
    pub title: &'a str,
    pub x_label: &'a str,
    pub y_label: &'a str,
    /// A small line below the title; empty for none.
    pub note: &'a str,
}

/// Which places of an x axis are marked.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Marked<'a> {
    /// Round values.
    Round,
    /// Whole numbers.
    Whole,
    /// 0, 1, 2, … with these names.
    Names(&'a [&'a str]),
}

impl Marked<'_> {
    fn ticks(self, axis: Axis, target: usize) -> Vec<Tick> {
        match self {
            Self::Round => axis.ticks(target),
            Self::Whole => {
                let ticks = axis.ticks(target).into_iter();
                let whole = ticks.filter(|tick| (tick.at - tick.at.round()).abs() < WHOLE);
                let label = |at: f64| format!("{at:.0}").replace('-', "−");
                whole
                    .map(|tick| Tick {
                        label: label(tick.at),
                        ..tick
                    })
                    .collect()
            }
            Self::Names(names) => names
                .iter()
                .enumerate()
                .map(|(place, name)| Tick {
                    at: place as f64,
                    label: (*name).to_owned(),
                })
                .collect(),
        }
    }
}

/// A tick is a multiple of a rounded step.
const WHOLE: f64 = 1e-6;

/// A field with axes: turns readings into places on the page.
pub(crate) struct Plot {
    pub frame: Frame,
    pub x: Axis,
    pub y: Axis,
}

impl Plot {
    /// Draws axes and texts within `cell`; the field takes what they leave.
    pub fn draw(
        scene: &mut Scene,
        cell: Frame,
        texts: &Texts<'_>,
        (x, marked): (Axis, Marked<'_>),
        y: Axis,
    ) -> Self {
        let title_line = TITLE + 1.6 * GAP;
        let note_line = if texts.note.is_empty() {
            0.0
        } else {
            NOTE + GAP
        };
        let top = cell.top + title_line + note_line;
        let label_line = LABEL + 1.5 * GAP;
        let frame = Frame {
            left: cell.left + label_line,
            top,
            right: cell.right - 1.5 * GAP,
            bottom: cell.bottom - label_line,
        };
        let plot = Self::draw_axes(scene, frame, (x, marked), y, TICK);

        let field = plot.frame;
        let middle = (
            (field.left + field.right) / 2.0,
            (field.top + field.bottom) / 2.0,
        );
        let fitted = |text: &str, size: f64, room: f64| {
            size * (room / font::width(text, size)).clamp(0.5, 1.0)
        };
        let size = fitted(texts.title, TITLE, cell.width());
        let place = (middle.0, cell.top + TITLE / 2.0);
        scene.text(texts.title, place, size, INK, Anchor::Middle);
        if !texts.note.is_empty() {
            let size = fitted(texts.note, NOTE, cell.width());
            let place = (middle.0, cell.top + title_line + NOTE / 2.0 - 0.4 * GAP);
            scene.text(texts.note, place, size, GREY, Anchor::Middle);
        }
        let size = fitted(texts.x_label, LABEL, field.width());
        let place = (middle.0, cell.bottom - LABEL / 2.0);
        scene.text(texts.x_label, place, size, INK, Anchor::Middle);
        let size = fitted(texts.y_label, LABEL, field.height());
        scene.turned_text(
            texts.y_label,
            (cell.left + LABEL / 2.0, middle.1),
            size,
            INK,
        );
        plot
    }

    /// Draws axes alone; tick labels of size `tick` are taken off `outer`.
    pub fn draw_axes(
        scene: &mut Scene,
        outer: Frame,
        (x, marked): (Axis, Marked<'_>),
        y: Axis,
        tick: f64,
    ) -> Self {
        let count = |length: f64, each: f64, fewest| ((length / each) as usize).clamp(fewest, 8);
        let y_ticks = y.ticks(count(outer.height(), 3.2 * tick, 4));
        let widest = y_ticks
            .iter()
            .map(|mark| font::width(&mark.label, tick))
            .fold(0.0, f64::max);
        let frame = Frame {
            left: outer.left + widest + GAP,
            bottom: outer.bottom - tick - GAP,
            ..outer
        };
        let x_ticks = marked.ticks(x, count(frame.width(), 5.0 * tick, 3));
        // Names share the width; numbers are few enough to have room.
        let size = match marked {
            Marked::Names(names) => {
                let room = frame.width() / names.len().max(1) as f64 - GAP;
                let widest = names.iter().map(|name| font::width(name, tick));
                tick * (room / widest.fold(1.0, f64::max)).clamp(0.5, 1.0)
            }
            Marked::Round | Marked::Whole => tick,
        };

        let inside = |fraction: f64| (-1e-6..=1.0 + 1e-6).contains(&fraction);
        let hair = tick / 16.0;
        for mark in y_ticks {
            let fraction = y.fraction(mark.at);
            if inside(fraction) {
                let level = frame.bottom - fraction * frame.height();
                scene.rule((frame.left, level), (frame.right, level), RULE, hair);
                let place = (frame.left - 0.7 * GAP, level);
                scene.text(&mark.label, place, tick, INK, Anchor::End);
            }
        }
        for mark in x_ticks {
            let fraction = x.fraction(mark.at);
            if inside(fraction) {
                let level = frame.left + fraction * frame.width();
                scene.rule((level, frame.top), (level, frame.bottom), RULE, hair);
                let place = (level, frame.bottom + GAP + tick / 2.0);
                scene.text(&mark.label, place, size, INK, Anchor::Middle);
            }
        }
        scene.border(&frame, GREY, hair);
        Self { frame, x, y }
    }

    pub fn place(&self, x: Reading, y: Reading) -> Point {
        (
            self.frame.left + self.x.fraction(x.at) * self.frame.width(),
            self.frame.bottom - self.y.fraction(y.at) * self.frame.height(),
        )
    }
}

/// What an open marker means on `scale`.
pub(crate) fn floor_note(scale: Scale) -> Option<String> {
    let Scale::Log { floor } = scale else {
        return None;
    };
    let exponent = floor.log10().round();
    // A floor that is a power of ten only to rounding is written as one.
    let floor = if (floor.log10() - exponent).abs() < 1e-12 {
        power_of_ten(exponent as i32)
    } else {
        format!("{floor:e}").replace('-', "−")
    };
    Some(format!("open markers: at most {floor}"))
}
