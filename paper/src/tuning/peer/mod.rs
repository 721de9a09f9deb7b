//! Our runs beside a peer's: means over seeds, and whether their difference is more than its standard
//! error allows for.
//!
//! | symbol | what |
//! |---|---|
//! | x̄, s, n | mean, sample standard deviation and number of seeds, ours and the peer's |
//! | s.e. = s/√n | standard error of a mean |
//! | d = x̄ − x̄′ | difference, ours less the peer's |
//! | √(s.e.² + s.e.′²) | its standard error: the two samples share nothing |
//!
//! Seeds of two programs are not the same chance, so nothing is paired.

mod comparison;
mod figure;
mod findings;
mod runs;
mod tables;

pub use comparison::{PeerComparison, PeerRow, PeerVerdict, compare_with_peer};
pub use figure::peer_figure;
pub use findings::peer_findings;
pub use runs::{PeerRun, peer_runs};
pub use tables::{peer_cells, peer_table};
