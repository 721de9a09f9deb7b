//! Results as one page: it asks nothing of the network, and is plain tables without scripts.
//!
//! What a page shows is a [`Page`], whatever it is of; [`html`] writes it. Numbers are kept to five
//! digits, curves in thousandths of a decade: the exact ones are in the tables and the JSON. Rows are
//! drawn when their section is opened.

mod data;
mod html;
mod model;

pub(crate) use html::{html, html_with};
pub(crate) use model::{
    Cell, CurveLabels, Findings, Group, Page, PageColumn, Plain, Row, Span, places, text,
};

/// Where a page comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageHead {
    /// The command that makes the page again.
    pub command: String,
    /// The program's version.
    pub version: String,
}
