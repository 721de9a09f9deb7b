//! What an audit looks like: tables for machines, text for terminals, a page for browsers.

mod adapters;
mod cells;
mod checkpoints;
mod short;
mod tables;

pub use adapters::audit_page;
pub(crate) use adapters::glossary;
pub use cells::{audit_cells, audit_summary_cells, audit_text, overview_cells, overview_text};
pub(crate) use checkpoints::layer;
pub use checkpoints::pair_page;
pub use tables::{audit_table, findings_table, refused_table};
