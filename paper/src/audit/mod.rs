//! What an audit looks like: tables for machines, text for terminals, a page for browsers.

mod cells;
mod page;
mod short;
mod tables;

pub use cells::{audit_cells, audit_summary_cells, audit_text, overview_cells, overview_text};
pub use page::{PageHead, audit_page, pair_page};
pub use tables::{audit_table, findings_table, refused_table};
