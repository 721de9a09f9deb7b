//! An audit on a terminal of 100 columns.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use rankwise_analysis::{AdapterAudit, Audit, ModuleAudit, Quantity, Summary};

use super::short::{cut, short_modules, short_paths, short_roles};
use crate::statistics::median;
use crate::tables::{Cells, text_table};

/// Widths of the first column and of a drawn spectrum.
const NAME: usize = 34;
const SPECTRUM: usize = 16;

/// σ_i/σ₁ in blocks, an eighth each; a longer spectrum is sampled evenly.
fn spectrum(sigma: &[f64]) -> String {
    const BLOCKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let first = sigma.first().copied().unwrap_or(0.0);
    let shown = sigma.len().min(SPECTRUM);
    let block = |i: usize| {
        let place = if shown == sigma.len() {
            i
        } else {
            i * (sigma.len() - 1) / (shown - 1)
        };
        if sigma[place] > 0.0 {
            let eighths = (sigma[place] / first * 8.0).ceil();
            BLOCKS[(eighths as usize).clamp(1, 8) - 1]
        } else {
            '·'
        }
    };
    (0..shown).map(block).collect()
}

fn number(value: Option<f64>) -> String {
    match value {
        None => "–".to_owned(),
        Some(value) if value.fract() == 0.0 && value.abs() < 1e6 => format!("{value}"),
        Some(value) => format!("{value:.2}"),
    }
}

/// Minimum, median and maximum of a quantity.
fn spread(modules: &[&ModuleAudit], name: &str) -> String {
    let quantity = Quantity::named(name);
    let of = |module: &&ModuleAudit| quantity.and_then(|quantity| quantity.of(module));
    let mut values: Vec<f64> = modules.iter().filter_map(of).collect();
    values.sort_by(f64::total_cmp);
    let (Some(&low), Some(&high)) = (values.first(), values.last()) else {
        return "–".to_owned();
    };
    let median = median(values.iter().copied()).unwrap_or(f64::NAN);
    if low == high {
        return number(Some(low));
    }
    // All three in the same digits.
    let is_whole = [low, median, high].iter().all(|value| value.fract() == 0.0);
    let digits = usize::from(!is_whole);
    format!("{low:.digits$} / {median:.digits$} / {high:.digits$}")
}

fn range(values: impl Iterator<Item = usize> + Clone) -> String {
    match (values.clone().min(), values.max()) {
        (Some(low), Some(high)) if low == high => low.to_string(),
        (Some(low), Some(high)) => format!("{low}–{high}"),
        _ => "–".to_owned(),
    }
}

/// One row an adapter: minimum, median and maximum over its modules.
pub fn overview_cells(audit: &Audit) -> Cells {
    let header = vec![
        "adapter",
        "modules",
        "R",
        "effective rank",
        "99 % energy",
        "numerical",
        "findings",
    ];
    let paths: Vec<&str> = audit
        .adapters
        .iter()
        .map(|adapter| &adapter.path[..])
        .collect();
    let row = |(adapter, path): (&AdapterAudit, &str)| {
        let modules: Vec<&ModuleAudit> = adapter.modules.iter().collect();
        vec![
            cut(path, NAME),
            modules.len().to_string(),
            range(modules.iter().map(|module| module.rank_budget)),
            spread(&modules, "effective_rank"),
            spread(&modules, "energy_rank_99"),
            spread(&modules, "numerical_rank"),
            adapter.findings.len().to_string(),
        ]
    };
    let rows = audit.adapters.iter().zip(short_paths(&paths)).map(row);
    (header, rows.collect())
}

/// Many adapters: one row each, the rules of τ, and how many were refused.
pub fn overview_text(audit: &Audit) -> String {
    let modules = audit.adapters.iter().flat_map(|adapter| &adapter.modules);
    format!(
        "{}\n\nminimum / median / maximum over an adapter's modules; {}\n{} adapters, {} refused",
        text_table(&overview_cells(audit)),
        tau_text(modules),
        audit.adapters.len(),
        audit.refused.len()
    )
}

/// τ of the numerical ranks, by the rule that chose it.
pub(super) fn tau_text<'a>(modules: impl Iterator<Item = &'a ModuleAudit>) -> String {
    let mut rules: BTreeMap<&str, (usize, f64, f64)> = BTreeMap::new();
    for measures in modules.filter_map(|module| module.spectrum.as_ref().map(|s| &s.measures)) {
        let (count, low, high) =
            rules
                .entry(&measures.tau_rule)
                .or_insert((0, f64::INFINITY, f64::NEG_INFINITY));
        (*count, *low, *high) = (*count + 1, low.min(measures.tau), high.max(measures.tau));
    }
    let one = |(rule, (count, low, high)): (&str, (usize, f64, f64))| {
        let noun = if count == 1 { "module" } else { "modules" };
        if low == high {
            format!("tau = {rule} = {low:.1e} ({count} {noun})")
        } else {
            format!("tau = {rule} = {low:.1e} to {high:.1e} ({count} {noun})")
        }
    };
    let rules: Vec<String> = rules.into_iter().map(one).collect();
    if rules.is_empty() {
        return "no tau: no finite update".to_owned();
    }
    rules.join("; ")
}

/// One row a role: the same matrix in every block.
fn role_cells(adapter: &AdapterAudit) -> Cells {
    let header = vec![
        "role",
        "modules",
        "R",
        "effective rank",
        "99 % energy",
        "numerical",
        "mean spectrum",
    ];
    let roles = short_roles(&adapter.modules);
    let mut groups: Vec<(&str, Vec<&ModuleAudit>)> = Vec::new();
    for (role, module) in roles.iter().zip(&adapter.modules) {
        match groups.iter_mut().find(|(own, _)| own == role) {
            Some((_, modules)) => modules.push(module),
            None => groups.push((role, vec![module])),
        }
    }
    let row = |(role, modules): (&str, Vec<&ModuleAudit>)| {
        vec![
            cut(role, NAME),
            modules.len().to_string(),
            range(modules.iter().map(|module| module.rank_budget)),
            spread(&modules, "effective_rank"),
            spread(&modules, "energy_rank_99"),
            spread(&modules, "numerical_rank"),
            spectrum(&mean_spectrum(&modules)),
        ]
    };
    (header, groups.into_iter().map(row).collect())
}

/// The mean of σ_i/σ₁ over updates that are neither zero nor not finite.
fn mean_spectrum(modules: &[&ModuleAudit]) -> Vec<f64> {
    let sigma = modules.iter().filter_map(|module| module.spectrum.as_ref());
    let sigma: Vec<&Vec<f64>> = sigma.map(|s| &s.singular_values).collect();
    let is_zero = |sigma: &&&Vec<f64>| sigma.first().is_none_or(|&first| first == 0.0);
    let own: Vec<_> = sigma.iter().filter(|s| !is_zero(s)).collect();
    let longest = own.iter().map(|sigma| sigma.len()).max().unwrap_or(0);
    let at = |i: usize| {
        let values = own
            .iter()
            .map(|s| s.get(i).map_or(0.0, |value| value / s[0]));
        values.sum::<f64>() / own.len() as f64
    };
    (0..longest).map(at).collect()
}

/// One row a module of an audited adapter.
pub fn audit_cells(adapter: &AdapterAudit) -> Cells {
    let header = vec![
        "module",
        "R",
        "num.",
        "k99",
        "stable",
        "effective",
        "‖ΔW‖_F",
        "σ₁",
        "σ_i/σ₁",
    ];
    let names = short_modules(&adapter.modules);
    let row = |(module, name): (&ModuleAudit, &str)| {
        let mut row = vec![cut(name, NAME), module.rank_budget.to_string()];
        match &module.spectrum {
            None => {
                row.extend(vec!["–".to_owned(); 6]);
                row.push("not finite".to_owned());
            }
            Some(s) => {
                let m = &s.measures;
                row.extend([
                    m.numerical_rank.to_string(),
                    m.energy_rank_99.to_string(),
                    m.stable_rank.map_or("–".to_owned(), |v| format!("{v:.2}")),
                    m.effective_rank
                        .map_or("–".to_owned(), |v| format!("{v:.2}")),
                    format!("{:.2e}", m.frobenius_norm),
                    format!("{:.2e}", m.spectral_norm),
                    spectrum(&s.singular_values),
                ]);
            }
        }
        row
    };
    (header, adapter.modules.iter().zip(names).map(row).collect())
}

/// One row a measure over an adapter's modules.
pub fn audit_summary_cells(summary: &Summary) -> Cells {
    let header = vec![
        "over modules",
        "count",
        "mean",
        "min",
        "25 %",
        "median",
        "75 %",
        "max",
    ];
    let number = |value: f64| match value.abs() {
        0.0 => "0".to_owned(),
        1e-2..1e5 => format!("{value:.3}"),
        _ => format!("{value:.2e}"),
    };
    let row = |(name, d): &(&'static str, rankwise_analysis::Distribution)| {
        let mut row = vec![(*name).to_owned(), d.count.to_string()];
        row.extend([d.mean, d.min, d.p25, d.median, d.p75, d.max].map(number));
        row
    };
    (header, summary.measures.iter().map(row).collect())
}

/// One adapter: its modules by role, every module, the percentiles, τ, and the findings by kind.
pub fn audit_text(adapter: &AdapterAudit) -> String {
    let base = adapter
        .base_model
        .as_deref()
        .unwrap_or("unknown base model");
    let mut text = format!(
        "{} ({}, {})\n{} modules, sum of R {}, {} parameters\n",
        cut(&adapter.path, 99),
        adapter.format,
        cut(base, 60),
        adapter.modules.len(),
        adapter.summary.rank_budget,
        adapter.summary.parameters,
    );
    if adapter.modules.len() > 1 {
        let _ = writeln!(text, "\n{}", text_table(&role_cells(adapter)));
    }
    let _ = writeln!(text, "\n{}", text_table(&audit_cells(adapter)));
    if adapter.modules.len() > 1 {
        let _ = writeln!(
            text,
            "\n{}",
            text_table(&audit_summary_cells(&adapter.summary))
        );
    }
    let _ = writeln!(text, "\n{}", tau_text(adapter.modules.iter()));
    text.push_str(&scale_text(adapter));
    for (kind, count, example) in findings_by_kind(adapter) {
        let _ = writeln!(text, "- {kind} ({count}): {}", cut(&example, 120));
    }
    text
}

/// The scales that the singular values include.
fn scale_text(adapter: &AdapterAudit) -> String {
    let known = adapter.modules.iter().filter(|module| module.scaled);
    let scales: Vec<f64> = known.map(|module| module.scale).collect();
    let low = scales.iter().copied().fold(f64::INFINITY, f64::min);
    let high = scales.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let unknown = adapter.modules.len() - scales.len();
    let mut text = match scales.len() {
        0 => "scale unknown: singular values are of the bare product\n".to_owned(),
        _ if low == high => format!("scale {low:.4}\n"),
        _ => format!("scale {low:.4} to {high:.4}\n"),
    };
    if unknown > 0 && !scales.is_empty() {
        let _ = writeln!(text, "scale unknown in {unknown} modules");
    }
    text
}

/// Kinds of findings in the order of the record's list, with counts and the first of each.
fn findings_by_kind(adapter: &AdapterAudit) -> Vec<(&'static str, usize, String)> {
    let mut kinds = BTreeMap::new();
    for finding in &adapter.findings {
        let (count, _) = kinds.entry(finding.kind).or_insert_with(|| {
            let example = match &finding.module {
                Some(module) => format!("{module}: {}", finding.message),
                None => finding.message.clone(),
            };
            (0, example)
        });
        *count += 1;
    }
    let kinds = kinds.into_iter();
    kinds
        .map(|(kind, (count, example))| (kind.name(), count, example))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spectrum_is_drawn_relative_to_its_first_value() {
        assert_eq!(spectrum(&[8.0, 4.0, 0.5, 0.0]), "█▄▁·");
        assert_eq!(spectrum(&[0.0, 0.0]), "··");
        assert_eq!(spectrum(&[]), "");
        let long: Vec<f64> = (0..64).map(|i| f64::from(64 - i)).collect();
        let drawn = spectrum(&long);
        assert_eq!(drawn.chars().count(), SPECTRUM);
        assert!(drawn.starts_with('█') && drawn.ends_with('▁'), "{drawn}");
    }
}
