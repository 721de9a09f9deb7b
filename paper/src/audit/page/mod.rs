//! An audit as one page: it asks nothing of the network, and is plain tables without scripts.
//!
//! What a page shows is a [`Page`](model::Page), whatever was audited; [`html`] writes it. Numbers are
//! kept to five digits, curves in thousandths of a decade: the exact ones are in the tables and the
//! JSON. Rows are drawn when their section is opened.

mod adapters;
mod checkpoints;
mod data;
mod html;
mod model;

pub use adapters::audit_page;
pub use checkpoints::pair_page;

/// Where a page comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageHead {
    /// The command that makes the page again.
    pub command: String,
    /// The program's version.
    pub version: String,
}
