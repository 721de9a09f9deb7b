//! Spectra of low-rank updates, every measure of their rank, the audit of trained adapters, and
//! the link from rank to generalisation.
//!
//! An audit in five lines:
//!
//! ```
//! use rankwise_analysis::{AuditOptions, audit};
//! # use rankwise_analysis::PeftAdapter;
//! # let folder = tempfile::tempdir()?;
//! # let folder = folder.path();
//! # // B has one column of length 2 and one of zeros.
//! # PeftAdapter {
//! #     module: "classifier".to_owned(), rank: 2, inputs: 3, outputs: 2, alpha: 4.0,
//! #     a: vec![1.0, 0.0, 0.0, 0.0, 1.0, 0.0], b: vec![0.0, 0.0, 2.0, 0.0], bias: None,
//! # }.write(folder)?;
//! let audit = audit(folder, &AuditOptions::default())?;
//! let module = &audit.adapters[0].modules[0];
//! let spectrum = module.spectrum.as_ref().expect("no NaN in the factors");
//! assert_eq!((module.rank_budget, module.scale), (2, 2.0));
//! assert_eq!((&spectrum.singular_values[..], spectrum.measures.numerical_rank), (&[4.0, 0.0][..], 1));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod adapter;
mod alignment;
mod audit;
mod checkpoint;
mod classes;
mod compare;
mod container;
mod error;
mod extract;
#[doc(hidden)]
pub mod fuzzing;
pub mod linalg;
mod link;
mod measures;
mod merge;
mod pair;
mod peft;
mod product;
mod resize;
mod rule;
mod stack;
mod stored;
mod update;
mod writer;

pub use adapter::{TrainedAdapter, TrainedModule, TrainedTensor, vera_projections};
pub use audit::{
    AdapterAudit, Audit, AuditOptions, Distribution, Epoch, Finding, FindingKind, Group, Kind,
    Method, ModuleAudit, PassedOver, QUANTITIES, Quantity, RefusalClass, Refused, RunPart,
    Severity, Spectrum, Summary, audit, audit_each, role,
};
pub use checkpoint::Checkpoint;
pub use classes::{Outputs, named_classes};
pub use compare::{
    AgainstWeight, Amplification, Apart, ChanceSimilarity, CompareOptions, ComparedAdapter,
    Comparison, Grid, GridChoice, Intruder, IntruderRule, Likeness, PairRecord, SideRecord,
    Similarity, UpdateRecord, compare, principal_angles, subspace_similarity,
};
pub use error::Error;
pub use extract::{ExtractOptions, Extracted, MatrixExtract, extract};
pub use link::{
    Association, Correlation, Influence, Interval, Observation, Partial, Permutation, Sample, Unit,
    associate, correlate, holm, kendall_tau_b, leave_one_out, partial_kendall, partial_spearman,
    permutation_p, smallest_significant, spearman,
};
pub use measures::{Epsilon, Measures, Orthogonality, Side, TauRule, measures, orthogonality};
pub use merge::{Merge, MergeOptions, Merged, TensorMerge, copy_companions, merge};
pub use pair::{
    Certificate, MatrixDifference, Noise, PairAudit, PairOptions, Unmatched, audit_pair,
};
pub use peft::PeftAdapter;
pub use product::{product_singular_values, stored_product_singular_values};
pub use resize::{
    Change, Loss, ModuleResize, NewScale, NewType, RankRule, ResizeOptions, ResizeTotals, Resized,
    Untouched, resize,
};
pub use rule::{FailingModule, RULE_LANGUAGE, Rule, Violation};
pub use stored::{Storage, StoredMatrix};
