//! The audit of trained adapters: the singular values of every update, every measure of its rank,
//! and what deserves attention.
//!
//! ΔW is never formed: see [`product_singular_values`](crate::product_singular_values). Modules are
//! measured in parallel, each on one thread, so the numbers do not depend on how many there are.

mod discovery;
mod examine;
mod finding;
mod names;
mod quantity;
mod record;
mod role;
mod summary;

use std::cmp::Ordering;
use std::path::{Path, PathBuf};
use std::sync::atomic::{self, AtomicUsize};

use rayon::prelude::*;

use crate::adapter::Beside;
use crate::{Error, Side, TauRule};
pub(crate) use discovery::{Candidate, adapter_file, candidates, one_adapter};
pub use finding::{Finding, FindingKind, Severity};
pub use quantity::{QUANTITIES, Quantity};
pub use record::{
    AdapterAudit, Audit, Distribution, Group, Kind, Method, ModuleAudit, PassedOver, RefusalClass,
    Refused, RunPart, Spectrum, Summary,
};
pub use role::role;
pub(crate) use summary::quantile;

/// Choices of an audit.
#[derive(Debug, Clone, PartialEq)]
pub struct AuditOptions {
    /// The threshold of the numerical rank; `None`: max(m, n)·ε·σ₁ with the ε of the type that each
    /// module's factors are stored in, and float32's for the half-precision types
    /// ([`Epsilon::for_products`](crate::Epsilon::for_products)).
    pub tau: Option<TauRule>,
    /// The side of the orthogonality loss, in the base weight's own orientation.
    pub side: Side,
    /// The base model's checkpoint, a folder or file: what DoRA, (IA)³ and tensors that were trained
    /// as a whole need for their update.
    pub base: Option<PathBuf>,
    /// The adapter as it was before training, where its initialisation changed the base (PiSSA and
    /// its kin): it is taken away from the trained one.
    pub initial: Option<PathBuf>,
    /// Which adapter of a fine-tuning run is audited.
    pub epoch: Epoch,
}

/// Which adapter of a run of `rankwise train --model` is meant; one that is named itself always is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Epoch {
    /// The last epoch's, `adapter/`; of a run that is not finished the best one's.
    #[default]
    Last,
    /// The best epoch's, `best/adapter/`; the last one's where there is no other.
    Best,
    /// Both.
    Every,
}

impl Default for AuditOptions {
    fn default() -> Self {
        Self {
            tau: None,
            side: Side::Rows,
            base: None,
            initial: None,
            epoch: Epoch::default(),
        }
    }
}

/// Audits an adapter file, an adapter folder, every adapter below a folder, every adapter that a
/// pattern with `*`, `?` or `[…]` matches, or an adapter of the local Hub cache by its id
/// (`owner/name`, perhaps `owner/name@revision`).
///
/// A file that is malformed or of another kind does not stop the audit: it is among the
/// [`refused`](Audit::refused), with what was expected and found.
///
/// # Errors
/// [`Error::File`] if there is nothing at `path`, a folder cannot be listed, or the base model or the
/// initial adapter cannot be opened.
pub fn audit(path: &Path, options: &AuditOptions) -> Result<Audit, Error> {
    audit_each(&[path], options, |_, _| {})
}

/// As [`audit`] for several paths, whose adapters share the base model and the initial adapter;
/// `progress` is called after each file, with how many are done and how many there are.
///
/// # Errors
/// As [`audit`].
pub fn audit_each<P: AsRef<Path>>(
    paths: &[P],
    options: &AuditOptions,
    progress: impl Fn(usize, usize) + Sync,
) -> Result<Audit, Error> {
    let mut audit = Audit::default();
    let mut candidates = Vec::new();
    for path in paths.iter().map(AsRef::as_ref) {
        let found = discovery::candidates(path, options.epoch)?;
        if found.candidates.is_empty() && found.passed_over.is_empty() {
            let reason = "no weight file in the folder or below it";
            let refused = whole(path, reason, RefusalClass::NoAdapter);
            audit.refused.push(refused);
        }
        candidates.extend(found.candidates);
        audit.passed_over.extend(found.passed_over);
    }
    let beside = Beside::open(options.base.as_deref(), options.initial.as_deref())?;
    let (total, done) = (candidates.len(), AtomicUsize::new(0));
    let results: Vec<_> = candidates
        .into_par_iter()
        .map(|candidate| {
            let result = examine::file(&candidate, &beside, options);
            progress(done.fetch_add(1, atomic::Ordering::Relaxed) + 1, total);
            (candidate, result)
        })
        .collect();
    for (candidate, result) in results {
        match result {
            Ok(Some(one)) => {
                audit.adapters.extend(one.adapter);
                audit.refused.extend(one.refused);
            }
            Ok(None) => {
                let reason = "no adapter: no tensor is part of one (two checkpoints of a model are \
                              compared by --base and --tuned)";
                let refused = whole(&candidate.file, reason, RefusalClass::NoAdapter);
                audit.refused.push(refused);
            }
            Err(error) => {
                let class = RefusalClass::of_file(&candidate.file);
                let refused = whole(&candidate.file, error.to_string(), class);
                audit.refused.push(refused);
            }
        }
    }
    Ok(audit)
}

fn whole(file: &Path, reason: impl Into<String>, class: RefusalClass) -> Refused {
    Refused {
        class,
        path: file.display().to_string(),
        name: file
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned(),
        reason: reason.into(),
    }
}

impl RefusalClass {
    /// Of a file that could not be read.
    pub(crate) fn of_file(file: &Path) -> Self {
        match discovery::holds_no_weights(file) {
            true => Self::NoAdapter,
            false => Self::NotAudited,
        }
    }
}

/// The first segment of a name that is a number: segments end in dots, in kohya's names in
/// underscores.
pub(crate) fn first_number(name: &str) -> Option<usize> {
    let separator = if name.contains('.') { '.' } else { '_' };
    name.split(separator)
        .find_map(|segment| segment.parse().ok())
}

/// Orders names as people do: runs of digits by their value, so that layer 2 is before layer 10.
pub(crate) fn natural_order(x: &str, y: &str) -> Ordering {
    chunks(x).cmp(chunks(y)).then_with(|| x.cmp(y))
}

/// Runs of digits, by length and digits, and runs of other characters.
fn chunks(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let is_digit = rest.chars().next()?.is_ascii_digit();
        let end = rest
            .find(|c: char| c.is_ascii_digit() != is_digit)
            .unwrap_or(rest.len());
        let (chunk, tail) = rest.split_at(end);
        rest = tail;
        let digits = chunk.trim_start_matches('0');
        // Numbers are before letters, and shorter numbers before longer ones.
        Some(if is_digit {
            (digits.len(), digits)
        } else {
            (usize::MAX, chunk)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_in_the_order_that_people_expect() {
        let mut names = ["h.10.q", "h.2.v", "h.2.q", "a", "h.02.q", "h", "h.2"];
        names.sort_by(|x, y| natural_order(x, y));
        assert_eq!(
            names,
            ["a", "h", "h.2", "h.02.q", "h.2.q", "h.2.v", "h.10.q"]
        );
    }

    #[test]
    fn the_layer_is_the_first_number() {
        assert_eq!(first_number("decoder.block.3.layer.0.q"), Some(3));
        assert_eq!(first_number("classifier"), None);
        assert_eq!(first_number("down_blocks_1_resnets_0_conv"), Some(1));
    }
}
