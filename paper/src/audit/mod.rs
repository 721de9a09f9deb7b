//! What an audit looks like: tables for machines, text for terminals, a page for browsers.

mod adapters;
mod cells;
mod checkpoints;
mod lines;
mod screen;
mod short;
mod tables;

pub use adapters::audit_page;
pub(crate) use adapters::glossary;
pub use cells::{audit_cells, audit_summary_cells, overview_cells};
pub(crate) use checkpoints::layer;
pub use checkpoints::pair_page;
pub use lines::{left_out, refusal_lines};
pub use screen::{Block, audit_screen};
pub use tables::{audit_table, findings_table, refused_table};
