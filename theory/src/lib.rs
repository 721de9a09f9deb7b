//! The approximation theorem of low-rank adaptation: what it promises, how to reach it, and whether
//! it holds.
//!
//! # Claim
//! Let f̄ be a target ReLU network of L̄ layers and f₀ a frozen one of L ≥ L̄ layers, both of width D,
//! and P_1, …, P_L̄ a partition of the frozen layers into consecutive blocks. If
//! Σ_{l∈P_i} R_l ≥ rank(W̄_i − ∏_{l∈P_i} W_l) for all i, there are adapters with rank ΔW_l ≤ R_l, and
//! biases, that make f₀ equal to f̄ on a bounded set; otherwise the mean error is bounded in terms of
//! e_i = σ_{1+Σ_{l∈P_i} R_l}(W̄_i − ∏_{l∈P_i} W_l).
//!
//! | symbol | identifier |
//! |---|---|
//! | f̄, f₀ | `target`, `frozen`: [`Fnn`] |
//! | P_1, …, P_L̄ | [`Partition`] |
//! | R_l | `ranks` |
//! | E_i, e_i | [`Discrepancy`], [`Problem::layer_errors`] |
//! | Eq. 8, as printed and repaired | [`Bounds`] |
//! | ΔW_l, b̂_l | [`Construction`] |
//! | E‖f(x) − f̄(x)‖₂ | [`measured_error`] |
//! | Σ = E[x xᵀ] | [`SecondMoment`] |
//!
//! [`Problem::verify`] constructs, measures and compares; [`verify_grid`] does so for random
//! networks, [`Case::verify`] for networks from a file.
//!
//! ```
//! use rankwise_theory::{Domain, Family, Partition, Sample, measured_error};
//!
//! // Two frozen layers of width 16 for one of the target, which is a rank of 6 away from them.
//! let mut rng = rankwise_data::stream(0, "example", 0);
//! let family = Family::LowRank { rank: 6 };
//! let problem = family.draw(16, Partition::uniform(2, 1)?, 1.0, &mut rng)?;
//! let inputs = Sample::gaussian(100, 16, &mut rng)?;
//!
//! let exact = problem.construct(&[3, 3], Domain::Sample(&inputs))?;
//! assert!(measured_error(exact.adapted(), problem.target(), &inputs)? < 1e-11);
//! let short = problem.construct(&[3, 2], Domain::Sample(&inputs))?;
//! assert!(measured_error(short.adapted(), problem.target(), &inputs)? > 0.1);
//! # Ok::<(), rankwise_theory::Error>(())
//! ```
//!
//! Source: “Enhancing Parameter Efficiency and Generalization in Large Models: A Regularized and
//! Masked Low-Rank Adaptation Approach” (RM-LoRA), Theorem 3.1 and Eq. 8, after Zeng & Lee, “The
//! Expressive Power of Low-Rank Adaptation”, ICLR 2024, Theorem 6. Departures: Eq. 8 is false as printed ([`Counterexample`]) and
//! three bounds that hold stand beside it; adapters are split over a block's layers in a stable
//! order; biases are fitted to the inputs at hand.

mod aim;
mod bounds;
mod case;
mod construction;
mod counterexample;
mod descent;
mod discrepancy;
mod error;
mod family;
mod grid;
mod lift;
mod network;
mod oracle;
mod partition;
mod problem;
mod random;
mod record;
mod report;
mod sample;
mod search;
mod transformer;
mod verification;

pub use aim::Aim;
pub use bounds::{Betas, Bounds, TargetNorms};
pub use case::Case;
pub use construction::{Adapter, Block, Construction, Order, Strategy};
pub use counterexample::{Counterexample, CounterexampleRecord};
pub use descent::{DescentGrid, DescentRecord, Start, descent_grid};
pub use discrepancy::Discrepancy;
pub use error::Error;
pub use family::Family;
pub use grid::{Cell, Grid, Trial, verify_cell, verify_grid};
pub use lift::{Domain, Lift};
pub use network::Fnn;
pub use oracle::{ORACLE, oracle_singular_values};
pub use partition::Partition;
pub use problem::Problem;
pub use random::{BoundSummary, RandomSummary, verify_random};
pub use record::{CellRecord, Stop};
pub use report::{BestPartition, BestRanks, CaseReport, SingularFactor};
pub use sample::{Sample, SecondMoment, measured_error};
pub use search::best_partition;
pub use transformer::{
    Head, Transformer, TransformerAdaptation, TransformerBlock, TransformerGrid, TransformerPair,
    TransformerRecord, transformer_curve,
};
pub use verification::{Measurement, Outcome, ROUNDING, Verification, Violations};
