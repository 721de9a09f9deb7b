//! What is on a page, before it is HTML.

use super::PageHead;

pub(crate) struct Page<'a> {
    pub title: String,
    pub head: &'a PageHead,
    /// Sentences below the title.
    pub notes: Vec<String>,
    /// What was found, a sentence each.
    pub sentences: Vec<String>,
    /// Tables with headings, before everything that there is one of for each group.
    pub tables: Vec<(String, Plain)>,
    /// Captions and drawings: SVG without its font.
    pub figures: Vec<(String, String)>,
    /// What the groups are, in the plural.
    pub noun: &'static str,
    /// One row a group, if there are several.
    pub overview: Option<Plain>,
    /// `None` where none are looked for.
    pub findings: Option<Vec<Findings>>,
    pub columns: Vec<PageColumn>,
    pub groups: Vec<Group>,
    /// What could not be read.
    pub refused: Plain,
    /// Names, and what they mean.
    pub glossary: Vec<(String, String)>,
    pub curves: CurveLabels,
    /// The column that heat maps begin with.
    pub measure: &'static str,
}

/// A table that is in the page from the start.
pub(crate) struct Plain {
    pub header: Vec<&'static str>,
    pub rows: Vec<Vec<Cell>>,
}

/// All findings of one kind; the header's cells for each.
pub(crate) struct Findings {
    pub kind: &'static str,
    pub severity: &'static str,
    pub header: Vec<&'static str>,
    pub rows: Vec<Vec<String>>,
}

/// A column of the tables that are drawn on demand.
pub(crate) struct PageColumn {
    pub id: &'static str,
    pub label: &'static str,
    pub is_text: bool,
    /// Whether heat maps can show it, and whether it may span decades.
    pub heat: Option<Span>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Span {
    Linear,
    Decades,
}

pub(crate) enum Cell {
    Text(String),
    Number(Option<f64>),
    /// A number as it is to be read; it sorts by its value.
    Told(f64, String),
    /// A text that opens a group.
    Link(String, usize),
}

/// An adapter, or a pair of checkpoints.
pub(crate) struct Group {
    pub title: String,
    pub findings: usize,
    pub notes: Vec<String>,
    pub rows: Vec<Row>,
}

pub(crate) struct Row {
    pub cells: Vec<Cell>,
    pub role: String,
    pub layer: Option<usize>,
    /// Values from the largest to the smallest.
    pub curve: Vec<f64>,
    /// Where they are, if not at 0, 1, 2, …
    pub at: Option<Vec<usize>>,
    /// What the curve should be compared with.
    pub floor: Option<f64>,
}

pub(crate) struct CurveLabels {
    /// The column's name.
    pub name: &'static str,
    pub heading: &'static str,
    pub axis: &'static str,
    /// Number of the first place.
    pub first: usize,
    /// Whether curves are drawn relative to their first values.
    pub is_relative: bool,
}

impl CurveLabels {
    pub const SPECTRUM: Self = Self {
        name: "spectrum",
        heading: "Singular values relative to the largest, σ_i/σ₁",
        axis: "i",
        first: 1,
        is_relative: true,
    };
}

/// Points of a curve that are all kept, and how many follow at growing distances.
const DENSE: usize = 65;
const SPARSE: usize = 100;

/// The ranks at which a curve of `length` values is drawn.
pub(crate) fn places(length: usize) -> Vec<usize> {
    let mut places: Vec<usize> = (0..length.min(DENSE)).collect();
    if length > DENSE {
        let (first, last) = (DENSE as f64, (length - 1) as f64);
        let step = |i: usize| first * (last / first).powf(i as f64 / SPARSE as f64);
        places.extend((0..=SPARSE).map(|i| (step(i).round() as usize).min(length - 1)));
        places.dedup();
    }
    places
}

pub(crate) fn text(value: impl Into<String>) -> Cell {
    Cell::Text(value.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_begin_at_zero_end_at_the_last_and_grow() {
        for length in [0, 1, 64, 65, 66, 67, 384, 4096] {
            let places = places(length);
            assert!(places.windows(2).all(|pair| pair[0] < pair[1]), "{length}");
            assert_eq!(places.last().copied(), length.checked_sub(1));
            assert_eq!(
                places.len(),
                if length <= 65 {
                    length
                } else {
                    places.len().min(167)
                }
            );
        }
    }
}
