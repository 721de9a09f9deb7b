use std::path::Path;

use rayon::prelude::*;

use super::discovery::Candidate;
use super::finding::{Finding, FindingKind};
use super::record::{AdapterAudit, Method, ModuleAudit, RefusalClass, Refused, Spectrum, Summary};
use super::{AuditOptions, first_number};
use crate::adapter::{Adapter, Beside, Module, Remark};
use crate::product::Directions;
use crate::{Error, TauRule, measures, orthogonality};

/// An update whose largest singular value is below this vanishes when it is merged in bfloat16: half
/// the spacing of bfloat16's numbers at 0.01, an ordinary size of a weight.
const TINY: f64 = 1.0 / 32_768.0;

/// What one file holds: an adapter, unless all of it was refused.
pub(super) struct Examined {
    pub adapter: Option<AdapterAudit>,
    pub refused: Vec<Refused>,
}

/// The audit of one file; `None` if it is no adapter.
pub(super) fn file(
    candidate: &Candidate,
    beside: &Beside,
    options: &AuditOptions,
) -> Result<Option<Examined>, Error> {
    let Some(adapter) = Adapter::open(&candidate.file, beside)? else {
        return Ok(None);
    };
    let contents = &adapter.contents;
    let mut refused: Vec<_> = contents
        .refused
        .iter()
        .map(|(name, reason)| {
            let class = contents.class_of(name);
            refusal(&candidate.file, name, reason.clone(), class)
        })
        .collect();
    let results: Vec<_> = contents
        .modules
        .par_iter()
        .map(|module| measured(&adapter, module, options))
        .collect();
    let mut modules = Vec::new();
    let mut findings = contents.findings.clone();
    findings.extend(candidate.remark().map(|message| Finding {
        kind: FindingKind::PassedOver,
        module: None,
        message,
        values: Vec::new(),
    }));
    for (module, result) in contents.modules.iter().zip(results) {
        match result {
            Ok((module, new)) => {
                findings.extend(new.into_iter().map(|finding| pruned(finding, &module)));
                modules.push(module);
            }
            Err(error) => {
                let class = RefusalClass::NotAudited;
                let reason = error.to_string();
                refused.push(refusal(&candidate.file, &module.name, reason, class));
            }
        }
    }
    let adapter = (!modules.is_empty()).then(|| AdapterAudit {
        path: candidate.path.display().to_string(),
        format: adapter.format.name(),
        base_model: adapter.base_model.clone(),
        summary: Summary::new(&modules),
        modules,
        findings,
    });
    Ok(Some(Examined { adapter, refused }))
}

/// A zero update is nothing that training missed where no direction is left to train.
fn pruned(finding: Finding, module: &ModuleAudit) -> Finding {
    if finding.kind != FindingKind::ZeroUpdate || module.rank_budget > 0 {
        return finding;
    }
    let message = "no direction is left (R = 0): the update is zero";
    Finding::of_module(FindingKind::PrunedModule, &module.name, message)
}

fn refusal(file: &Path, name: &str, reason: String, class: RefusalClass) -> Refused {
    Refused {
        path: file.display().to_string(),
        name: name.to_owned(),
        reason,
        class,
    }
}

fn measured(
    adapter: &Adapter,
    module: &Module,
    options: &AuditOptions,
) -> Result<(ModuleAudit, Vec<Finding>), Error> {
    let mut findings = Vec::new();
    let spectrum = match adapter.directions(module) {
        Ok(Directions {
            singular_values,
            norms,
        }) => {
            let rule = options
                .tau
                .unwrap_or(TauRule::Precision(module.epsilon.for_products()));
            let budget = module.rank.max(singular_values.len());
            let spectrum = Spectrum {
                measures: measures(&singular_values, module.shape, rule),
                orthogonality: orthogonality(&singular_values, module.shape, budget, options.side),
                singular_values,
            };
            let of = Of {
                is_update: adapter.is_update(module),
                chosen: adapter.chosen_rank(module),
            };
            // Beside an initial adapter's, the directions are not this one's.
            let norms = if of.chosen < module.rank {
                &[][..]
            } else {
                &norms
            };
            findings.extend(remarkable(module, &spectrum, norms, of));
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
        method: module.method,
        shape: module.shape,
        rank_budget: module.rank,
        parameters: module.parameters,
        scale: module.scale.unwrap_or(1.0),
        scaled: module.scale.is_some(),
        spectrum,
    };
    Ok((module, findings))
}

/// What a spectrum is of.
#[derive(Clone, Copy)]
struct Of {
    /// Whether it is the update's own, not that of a part of it.
    is_update: bool,
    /// R, as it was chosen for the training.
    chosen: usize,
}

/// What a spectrum itself gives rise to; the rules are stated at [`FindingKind`].
fn remarkable(module: &Module, spectrum: &Spectrum, directions: &[f64], of: Of) -> Vec<Finding> {
    let name = &module.name;
    let m = &spectrum.measures;
    let finding = |kind, message: String, values| Finding {
        values,
        ..Finding::of_module(kind, name, message)
    };
    let Some(effective_rank) = m.effective_rank else {
        if !of.is_update {
            return Vec::new();
        }
        let message = "the update is zero: the module does nothing";
        return vec![Finding::of_module(FindingKind::ZeroUpdate, name, message)];
    };
    let mut findings = Vec::new();
    if of.is_update && module.scale.is_some() && m.spectral_norm < TINY {
        let message = format!(
            "the largest singular value is {:.1e}: merged in bfloat16, the update is rounded away in \
             weights of 0.0078 and more",
            m.spectral_norm
        );
        let values = vec![("spectral_norm", m.spectral_norm), ("threshold", TINY)];
        findings.push(finding(FindingKind::TinyUpdate, message, values));
    }
    let live = directions.iter().filter(|&&norm| norm > m.tau).count();
    let dead = directions.len() - live;
    if dead > 0 {
        let message = format!("{dead} of {} directions are dead", directions.len());
        let values = vec![
            ("dead", dead as f64),
            ("rank_budget", directions.len() as f64),
        ];
        findings.push(finding(FindingKind::DeadDirection, message, values));
    }
    let (energy_rank, numerical_rank) = (m.energy_rank_99 as f64, m.numerical_rank as f64);
    let possible = live.min(module.shape.0).min(module.shape.1);
    if m.numerical_rank < possible {
        let message = format!(
            "{live} directions live, but only {numerical_rank} are independent of each other"
        );
        let values = vec![("live", live as f64), ("numerical_rank", numerical_rank)];
        findings.push(finding(FindingKind::CollapsedDirection, message, values));
    }
    let budget = of.chosen.min(module.shape.0).min(module.shape.1);
    // Only factors are a budget that somebody chose.
    let is_chosen = match module.method {
        Method::Full | Method::Ia3 | Method::Glora | Method::Tokens => false,
        Method::Dora => module.remark == Some(Remark::Directional),
        Method::Lora | Method::Adalora | Method::Loha | Method::Lokr | Method::Vera => of.is_update,
    };
    if is_chosen && 2 * m.energy_rank_99 < budget {
        let message = format!("{energy_rank} of {budget} directions hold 99 % of the energy");
        let values = vec![
            ("rank_budget", budget as f64),
            ("energy_rank_99", energy_rank),
        ];
        findings.push(finding(FindingKind::UnusedBudget, message, values));
    }
    let ranks = [numerical_rank, energy_rank, effective_rank];
    let smallest = ranks.into_iter().fold(f64::INFINITY, f64::min);
    if ranks.into_iter().fold(0.0, f64::max) > 2.0 * smallest {
        let message = format!(
            "numerical rank {numerical_rank}, 99 % energy rank {energy_rank}, effective rank \
             {effective_rank:.2}"
        );
        let values = vec![
            ("numerical_rank", numerical_rank),
            ("energy_rank_99", energy_rank),
            ("effective_rank", effective_rank),
        ];
        findings.push(finding(FindingKind::DefinitionsDisagree, message, values));
    }
    findings
}
