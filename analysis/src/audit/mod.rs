//! The audit of trained adapters: the singular values of every update, every measure of its rank,
//! and what deserves attention.
//!
//! ΔW is never formed: see [`product_singular_values`](crate::product_singular_values). Modules are
//! measured in parallel, each on one thread, so the numbers do not depend on how many there are.

mod discovery;
mod names;
mod quantity;
mod record;
mod role;
mod summary;

use std::cmp::Ordering;
use std::path::Path;

use rayon::prelude::*;

use crate::adapter::{Adapter, Module};
use crate::{Error, Side, TauRule, measures, orthogonality, product_singular_values};
use discovery::Candidate;
pub use quantity::{QUANTITIES, Quantity};
pub use record::{
    AdapterAudit, Audit, Distribution, Finding, FindingKind, Kind, ModuleAudit, Refused, Spectrum,
    Summary,
};
pub use role::role;
pub(crate) use summary::quantile;

/// Choices of an audit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AuditOptions {
    /// The threshold of the numerical rank; `None`: max(m, n)·ε·σ₁ with the ε of the type that each
    /// module's factors are stored in, and float32's for the half-precision types
    /// ([`Epsilon::for_products`](crate::Epsilon::for_products)).
    pub tau: Option<TauRule>,
    /// The side of the orthogonality loss, in the base weight's own orientation.
    pub side: Side,
}

impl Default for AuditOptions {
    fn default() -> Self {
        Self {
            tau: None,
            side: Side::Rows,
        }
    }
}

/// Audits an adapter file, an adapter folder, or every adapter below a folder.
///
/// A file that is malformed or of another kind does not stop the audit: it is among the
/// [`refused`](Audit::refused), with what was expected and found. Files of a folder that hold a
/// model's weights rather than an adapter are passed over, unless there is nothing else.
///
/// # Errors
/// [`Error::File`] if `path` does not exist or a folder cannot be listed.
pub fn audit(path: &Path, options: &AuditOptions) -> Result<Audit, Error> {
    let candidates = discovery::candidates(path)?;
    let results: Vec<_> = candidates
        .into_par_iter()
        .map(|candidate| {
            let result = examined(&candidate, options);
            (candidate, result)
        })
        .collect();
    let mut audit = Audit {
        adapters: Vec::new(),
        refused: Vec::new(),
    };
    let mut passed_over = Vec::new();
    for (candidate, result) in results {
        match result {
            Ok(Some(one)) => {
                audit.adapters.extend(one.adapters);
                audit.refused.extend(one.refused);
            }
            Ok(None) => {
                let refused = whole(&candidate.file, "no adapter: no tensor is part of one");
                let list = if candidate.is_certain {
                    &mut audit.refused
                } else {
                    &mut passed_over
                };
                list.push(refused);
            }
            Err(error) => audit
                .refused
                .push(whole(&candidate.file, error.to_string())),
        }
    }
    if audit.adapters.is_empty() && audit.refused.is_empty() {
        audit.refused = passed_over;
    }
    if audit.adapters.is_empty() && audit.refused.is_empty() {
        audit
            .refused
            .push(whole(path, "no weight file in the folder or below it"));
    }
    Ok(audit)
}

/// The audit of one file; `None` if it is no adapter.
fn examined(candidate: &Candidate, options: &AuditOptions) -> Result<Option<Audit>, Error> {
    let Some(adapter) = Adapter::open(&candidate.file)? else {
        return Ok(None);
    };
    let contents = &adapter.contents;
    let refusal = |name: &str, reason: String| Refused {
        path: candidate.file.display().to_string(),
        name: name.to_owned(),
        reason,
    };
    let mut refused: Vec<_> = contents
        .refused
        .iter()
        .map(|(name, reason)| refusal(name, reason.clone()))
        .collect();
    let measured: Vec<_> = contents
        .modules
        .par_iter()
        .map(|module| measured(&adapter, module, options))
        .collect();
    let mut modules = Vec::new();
    let mut findings = contents.findings.clone();
    for (module, result) in contents.modules.iter().zip(measured) {
        match result {
            Ok((module, new)) => {
                findings.extend(new);
                modules.push(module);
            }
            Err(error) => refused.push(refusal(&module.name, error.to_string())),
        }
    }
    let mut adapters = Vec::new();
    if !modules.is_empty() {
        adapters.push(AdapterAudit {
            path: candidate.path.display().to_string(),
            format: "peft",
            base_model: adapter.base_model.clone(),
            summary: Summary::new(&modules),
            modules,
            findings,
        });
    }
    Ok(Some(Audit { adapters, refused }))
}

fn measured(
    adapter: &Adapter,
    module: &Module,
    options: &AuditOptions,
) -> Result<(ModuleAudit, Vec<Finding>), Error> {
    let (b, a) = adapter.factors(module)?;
    let shape = module.shape();
    let scale = module.scale.unwrap_or(1.0);
    let mut findings = Vec::new();
    let spectrum = match product_singular_values(b.view(), a.view(), scale) {
        Ok(singular_values) => {
            let rule = options
                .tau
                .unwrap_or(TauRule::Precision(module.epsilon.for_products()));
            let spectrum = Spectrum {
                measures: measures(&singular_values, shape, rule),
                orthogonality: orthogonality(&singular_values, shape, module.rank, options.side),
                singular_values,
            };
            findings.extend(remarkable(&module.name, module.rank, &spectrum));
            Some(spectrum)
        }
        Err(error @ Error::NonFinite { .. }) => {
            let message = error.to_string();
            findings.push(Finding::of_module(
                FindingKind::NonFinite,
                &module.name,
                message,
            ));
            None
        }
        Err(error) => return Err(error),
    };
    let module = ModuleAudit {
        layer: first_number(&module.name),
        name: module.name.clone(),
        kind: module.kind,
        shape,
        rank_budget: module.rank,
        scale,
        scaled: module.scale.is_some(),
        spectrum,
    };
    Ok((module, findings))
}

/// What a spectrum itself gives rise to; the rules are stated at [`FindingKind`].
fn remarkable(name: &str, budget: usize, spectrum: &Spectrum) -> Vec<Finding> {
    let m = &spectrum.measures;
    let Some(effective_rank) = m.effective_rank else {
        let message = "the update is zero: the module does nothing";
        return vec![Finding::of_module(FindingKind::ZeroUpdate, name, message)];
    };
    let mut findings = Vec::new();
    let (energy_rank, numerical_rank) = (m.energy_rank_99 as f64, m.numerical_rank as f64);
    if 2 * m.energy_rank_99 < budget {
        let message = format!("{energy_rank} of {budget} directions hold 99 % of the energy");
        findings.push(Finding {
            values: vec![
                ("rank_budget", budget as f64),
                ("energy_rank_99", energy_rank),
            ],
            ..Finding::of_module(FindingKind::UnusedBudget, name, message)
        });
    }
    let ranks = [numerical_rank, energy_rank, effective_rank];
    let smallest = ranks.into_iter().fold(f64::INFINITY, f64::min);
    if ranks.into_iter().fold(0.0, f64::max) > 2.0 * smallest {
        let message = format!(
            "numerical rank {numerical_rank}, 99 % energy rank {energy_rank}, effective rank \
             {effective_rank:.2}"
        );
        findings.push(Finding {
            values: vec![
                ("numerical_rank", numerical_rank),
                ("energy_rank_99", energy_rank),
                ("effective_rank", effective_rank),
            ],
            ..Finding::of_module(FindingKind::DefinitionsDisagree, name, message)
        });
    }
    findings
}

fn whole(file: &Path, reason: impl Into<String>) -> Refused {
    Refused {
        path: file.display().to_string(),
        name: file
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned(),
        reason: reason.into(),
    }
}

/// The first segment of a dotted name that is a number.
fn first_number(name: &str) -> Option<usize> {
    name.split('.').find_map(|segment| segment.parse().ok())
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
    }
}
