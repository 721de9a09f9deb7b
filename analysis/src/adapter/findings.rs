//! What is noteworthy in an adapter before anything of it is computed.

use std::collections::BTreeSet;

use super::config::AdapterConfig;
use super::copies::Copies;
use super::key::{Format, Part};
use super::module::{Module, Parts, Remark};
use super::sorted::Sorted;
use crate::audit::{Finding, FindingKind};

/// What the names and the configuration give rise to.
pub(super) fn findings(
    config: Option<&AdapterConfig>,
    modules: &[Module],
    sorted: &Sorted<'_>,
) -> Vec<Finding> {
    let format = sorted.format;
    let mut findings = Vec::new();
    let whole = |kind, message: String| Finding {
        kind,
        module: None,
        message,
        values: Vec::new(),
    };
    let unscaled = modules.iter().filter(|m| m.scale.is_none() && m.rank > 0);
    if config.is_none() {
        if unscaled.clone().next().is_some() {
            let message = "no adapter_config.json beside the file and no alpha in it: the scale is \
                           unknown, singular values are of B A";
            findings.push(whole(FindingKind::AlphaMissing, message.to_owned()));
        }
    } else {
        findings.extend(unscaled.map(|module| {
            let what = match (format, config.map(|c| c.alpha(&module.configured))) {
                (Format::Mlx, _) => "lora_parameters.scale",
                (_, Some(Ok(Some(_)))) => "r",
                _ => "lora_alpha",
            };
            let message =
                format!("adapter_config.json gives no {what}: singular values are of B A");
            Finding::of_module(FindingKind::AlphaMissing, &module.name, message)
        }));
    }
    findings.extend(modules.iter().filter_map(unusual_scale));
    findings.extend(modules.iter().filter_map(remark));
    let bias = |parts: &Parts<'_>| {
        // A whole state dict has the frozen biases too.
        let is_frozen = |tensor: &&str| {
            tensor.ends_with(".base_layer.bias") && config.is_some_and(AdapterConfig::has_no_bias)
        };
        parts
            .get(&Part::Bias)
            .is_some_and(|tensor| !is_frozen(tensor))
            || parts.contains_key(&Part::BiasDifference)
    };
    let biased: BTreeSet<&str> = sorted
        .groups
        .iter()
        .filter(|(_, parts)| bias(parts))
        .map(|((module, _), _)| module.as_ref())
        .collect();
    findings.extend(
        modules
            .iter()
            .filter(|module| biased.contains(module.name.as_str()))
            .map(|module| {
                let message = "a bias was trained too; it is a vector and has no rank";
                Finding::of_module(FindingKind::TrainedBias, &module.name, message)
            }),
    );
    let Some(config) = config else {
        return findings;
    };
    if let Some(name) = config.changed_base() {
        let message = format!(
            "init_lora_weights {name}: the base was changed; singular values are of s B A, not of \
             the true update, which needs the adapter as it was before training (--initial)"
        );
        findings.push(whole(FindingKind::ChangedBase, message));
    }
    let mut compared = BTreeSet::new();
    findings.extend(modules.iter().filter_map(|module| {
        let expected = config.rank(&module.configured)?;
        let found = module.factor_rank()?;
        // One finding for all experts of a parameter.
        if expected == found || !compared.insert(&module.configured) {
            return None;
        }
        let message = format!("expected rank {expected}, found factors of rank {found}");
        let values = vec![("expected", expected as f64), ("found", found as f64)];
        Some(Finding {
            values,
            ..Finding::of_module(FindingKind::RankPatternMismatch, &module.name, message)
        })
    }));
    findings
}

/// What concerns the file as a whole.
pub(super) fn of_file(
    config: Option<&AdapterConfig>,
    copies: &Copies,
) -> impl Iterator<Item = Finding> {
    let copies = copies.described();
    let copies = copies.map(|message| (FindingKind::FrozenCopies, message));
    let some = config.and_then(AdapterConfig::acts_on_some_tokens);
    let some = some.map(|why| {
        let message = format!("{why}; measured is s B A, which no merge can add to a weight");
        (FindingKind::NotEverywhere, message)
    });
    let found = [copies, some].into_iter().flatten();
    found.map(|(kind, message)| Finding {
        kind,
        module: None,
        message,
        values: Vec::new(),
    })
}

/// Scales that no training that went well is known to have used: not positive, or beyond α/R of
/// 1/128 (α = 1, R = 128) and 128.
fn unusual_scale(module: &Module) -> Option<Finding> {
    // AdaLoRA divides by almost nothing where it pruned all.
    let scale = module.scale.filter(|_| module.rank > 0)?;
    if (1.0 / 128.0..=128.0).contains(&scale) {
        return None;
    }
    let message = format!("the scale {scale:e} is unusual: is alpha right?");
    Some(Finding {
        values: vec![("scale", scale)],
        ..Finding::of_module(FindingKind::UnusualScale, &module.name, message)
    })
}

fn remark(module: &Module) -> Option<Finding> {
    let (kind, message) = match module.remark? {
        Remark::Directional => (
            FindingKind::Directional,
            "DoRA without the base weight (--base): singular values are of s B A, from which the \
             direction is made, not of the whole update",
        ),
        Remark::InputsAssumed => (
            FindingKind::InputsAssumed,
            "VeRA without the base weight (--base): the module is assumed to have all the inputs of \
             the shared A",
        ),
    };
    Some(Finding::of_module(kind, &module.name, message))
}
