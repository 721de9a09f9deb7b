//! What is on a page, before it is HTML.

use super::PageHead;

pub(super) struct Page<'a> {
    pub title: String,
    pub head: &'a PageHead,
    /// Sentences below the title.
    pub notes: Vec<String>,
    /// One row a group, if there are several.
    pub overview: Option<Plain>,
    /// `None` where none are looked for.
    pub findings: Option<Vec<Findings>>,
    pub columns: Vec<PageColumn>,
    pub groups: Vec<Group>,
    /// What could not be audited.
    pub refused: Plain,
    /// Names, and what they mean.
    pub glossary: Vec<(String, String)>,
    pub curves: CurveLabels,
    /// The column that heat maps begin with.
    pub measure: &'static str,
}

/// A table that is in the page from the start.
pub(super) struct Plain {
    pub header: Vec<&'static str>,
    pub rows: Vec<Vec<Cell>>,
}

/// All findings of one kind; the header's cells for each.
pub(super) struct Findings {
    pub kind: &'static str,
    pub header: Vec<&'static str>,
    pub rows: Vec<Vec<String>>,
}

/// A column of the tables that are drawn on demand.
pub(super) struct PageColumn {
    pub id: &'static str,
    pub label: &'static str,
    pub is_text: bool,
    /// Whether heat maps can show it, and whether it may span decades.
    pub heat: Option<Span>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Span {
    Linear,
    Decades,
}

pub(super) enum Cell {
    Text(String),
    Number(Option<f64>),
    /// A text that opens a group.
    Link(String, usize),
}

/// An adapter, or a pair of checkpoints.
pub(super) struct Group {
    pub title: String,
    pub findings: usize,
    pub notes: Vec<String>,
    pub rows: Vec<Row>,
}

pub(super) struct Row {
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

pub(super) struct CurveLabels {
    /// The column's name.
    pub name: &'static str,
    pub heading: &'static str,
    pub axis: &'static str,
    /// Number of the first place.
    pub first: usize,
    /// Whether curves are drawn relative to their first values.
    pub is_relative: bool,
}

pub(super) fn text(value: impl Into<String>) -> Cell {
    Cell::Text(value.into())
}
