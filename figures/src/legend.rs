//! The legend below the charts: one entry per label, set in columns.

use crate::Error;
use crate::font;
use crate::frame::Frame;
use crate::scene::{Anchor, Scene};
use crate::style::{Color, INK, Marker, Stroke};

const SIZE: f64 = 21.0;
const ROW: f64 = 34.0;
const LINE_SAMPLE: f64 = 62.0;
const MARKER_SAMPLE: f64 = 18.0;
const SPACE: f64 = 12.0;
const COLUMN_GAP: f64 = 34.0;
const MARKER_RADIUS: f64 = 7.0;

/// More series than this cannot be told apart on a page.
const MOST: usize = 64;

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Entry {
    pub label: String,
    pub color: Color,
    /// None for points that no line joins.
    pub stroke: Option<Stroke>,
    pub marker: Option<Marker>,
    pub width: f64,
}

impl Entry {
    /// Room for the sample of a line, or of a lone marker.
    fn sample(&self) -> f64 {
        if self.stroke.is_some() {
            LINE_SAMPLE
        } else {
            MARKER_SAMPLE
        }
    }
}

pub(crate) struct Legend {
    entries: Vec<Entry>,
}

impl Legend {
    /// One entry per label, in order of first use; empty labels are left out.
    pub fn of(all: impl IntoIterator<Item = Entry>) -> Result<Self, Error> {
        let mut entries: Vec<Entry> = Vec::new();
        for entry in all {
            if entry.label.is_empty() {
                continue;
            }
            match entries.iter().find(|known| known.label == entry.label) {
                None => entries.push(entry),
                Some(known) if *known == entry => {}
                Some(_) => return Err(Error::Legend { label: entry.label }),
            }
        }
        if entries.len() > MOST {
            return Err(Error::Count {
                what: "labels in a legend",
                most: MOST,
                found: entries.len(),
            });
        }
        Ok(Self { entries })
    }

    /// Fewest rows whose columns, filled downwards, fit in `width`; downwards,
    /// so that the ranks of one method stand below each other.
    fn columns(&self, width: f64) -> Vec<(&[Entry], f64)> {
        let columns_of = |rows: usize| -> Vec<(&[Entry], f64)> {
            self.entries
                .chunks(rows)
                .map(|column| {
                    let width = column
                        .iter()
                        .map(|entry| entry.sample() + SPACE + font::width(&entry.label, SIZE))
                        .fold(0.0, f64::max);
                    (column, width)
                })
                .collect()
        };
        (1..=self.entries.len())
            .map(columns_of)
            .find(|columns| total(columns) <= width)
            .unwrap_or_else(|| columns_of(self.entries.len().max(1)))
    }

    pub fn height(&self, width: f64) -> f64 {
        let rows = self
            .columns(width)
            .first()
            .map_or(0, |(column, _)| column.len());
        ROW * rows as f64
    }

    /// Draws the legend centred in `frame`.
    pub fn draw(&self, scene: &mut Scene, frame: Frame) {
        let columns = self.columns(frame.width());
        let mut x = frame.left + ((frame.width() - total(&columns)) / 2.0).max(0.0);
        for (column, width) in columns {
            for (row, entry) in column.iter().enumerate() {
                let y = frame.top + (row as f64 + 0.5) * ROW;
                let end = x + entry.sample();
                if let Some(stroke) = entry.stroke {
                    let sample = vec![(x, y), (end, y)];
                    scene.lines(&[sample], stroke, entry.color, entry.width);
                }
                if let Some(marker) = entry.marker {
                    let place = ((x + end) / 2.0, y);
                    scene.marker(place, marker, MARKER_RADIUS, entry.color, false);
                }
                let room = frame.right - end - SPACE;
                let size = SIZE * (room / font::width(&entry.label, SIZE)).clamp(0.4, 1.0);
                let place = (end + SPACE, y);
                scene.text(&entry.label, place, size, INK, Anchor::Start);
            }
            x += width + COLUMN_GAP;
        }
    }
}

fn total(columns: &[(&[Entry], f64)]) -> f64 {
    let widths: f64 = columns.iter().map(|(_, width)| width).sum();
    widths + COLUMN_GAP * columns.len().saturating_sub(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::style::PALETTE;

    fn entry(label: &str, stroke: Stroke) -> Entry {
        Entry {
            label: label.to_owned(),
            color: PALETTE[0],
            stroke: Some(stroke),
            marker: None,
            width: 2.0,
        }
    }

    #[test]
    fn a_label_is_listed_once() {
        let legend = Legend::of([
            entry("a", Stroke::Solid),
            entry("", Stroke::Solid),
            entry("b", Stroke::Dashed),
            entry("a", Stroke::Solid),
        ])
        .unwrap();
        let labels: Vec<_> = legend.entries.iter().map(|e| e.label.as_str()).collect();
        assert_eq!(labels, ["a", "b"]);
    }

    #[test]
    fn a_label_in_two_styles_is_an_error() {
        let result = Legend::of([entry("a", Stroke::Solid), entry("a", Stroke::Dotted)]);
        let expected = Error::Legend {
            label: "a".to_owned(),
        };
        assert_eq!(result.err(), Some(expected));
    }

    #[test]
    fn thirteen_series_of_five_methods_stand_in_five_columns() {
        let mut all = Vec::new();
        for method in ["LoRA", "R-LoRA", "GM-LoRA", "RM-LoRA"] {
            for rank in [16, 32, 64] {
                all.push(entry(&format!("{method} (R = {rank})"), Stroke::Solid));
            }
        }
        all.push(entry("Full fine-tuning", Stroke::Solid));
        let legend = Legend::of(all).unwrap();
        let sizes: Vec<_> = legend
            .columns(1460.0)
            .iter()
            .map(|(column, _)| column.len())
            .collect();
        assert_eq!(sizes, [3, 3, 3, 3, 1]);
        assert_eq!(legend.height(1460.0), 3.0 * ROW);
    }
}
