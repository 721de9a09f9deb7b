//! Fine-tuning runs: their folders read into records, and tables, figures, sentences, a page and the
//! comparison with a peer as pure functions of those.

mod figures;
mod findings;
mod page;
mod peer;
mod records;
mod rows;
mod settings;
mod tables;
#[cfg(test)]
mod tests;

pub use figures::{tuning_curves, tuning_modules, tuning_ranks};
pub use findings::tuning_findings;
pub use page::tuning_page;
pub use peer::{
    PeerComparison, PeerRow, PeerRun, PeerVerdict, compare_with_peer, peer_cells, peer_figure,
    peer_findings, peer_runs, peer_table,
};
pub(crate) use records::reasons;
pub use records::{LeftOut, TuningRun, TuningRuns, TuningSeeds, TuningSetting};
pub use rows::{TuningGroup, TuningReport, TuningRow};
pub use tables::{
    tuning_cells, tuning_rank_cells, tuning_summary_cells, tuning_summary_table, tuning_table,
};
