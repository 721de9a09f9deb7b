use std::collections::{BTreeMap, HashMap};

use anyhow::Result;
use rankwise_analysis::{
    AdapterAudit, Audit, Finding, FindingKind, ModuleAudit, QUANTITIES, Quantity, RefusalClass,
    RunPart, Severity,
};

use super::cells::{severities, tau_text};
use super::lines::{count, finding_lines, left_out};
use super::short::{short_paths, short_roles};
use crate::page::{
    Cell, CurveLabels, Findings, Group, Page, PageColumn, PageHead, Plain, Row, Span, html_with,
    text,
};

/// Columns by their names in the machine-readable form, with the headings of the page.
const COLUMNS: [(&str, &str, Option<Span>); 24] = [
    ("name", "module", None),
    ("kind", "kind", None),
    ("layer", "layer", None),
    ("shape", "shape", None),
    ("rank_budget", "R", Some(Span::Linear)),
    ("scale", "scale", None),
    ("numerical_rank", "numerical rank", Some(Span::Linear)),
    ("energy_rank_90", "energy rank 90 %", Some(Span::Linear)),
    ("energy_rank_95", "energy rank 95 %", Some(Span::Linear)),
    ("energy_rank_99", "energy rank 99 %", Some(Span::Linear)),
    ("stable_rank", "stable rank", Some(Span::Linear)),
    ("effective_rank", "effective rank", Some(Span::Linear)),
    (
        "effective_rank_energy",
        "effective rank of energy",
        Some(Span::Linear),
    ),
    (
        "participation_ratio",
        "participation ratio",
        Some(Span::Linear),
    ),
    ("nuclear_ratio", "nuclear ratio", Some(Span::Linear)),
    ("budget_share", "share of budget", Some(Span::Linear)),
    ("frobenius_norm", "Frobenius norm", Some(Span::Decades)),
    ("spectral_norm", "spectral norm", Some(Span::Decades)),
    (
        "orthogonality_loss",
        "orthogonality loss",
        Some(Span::Decades),
    ),
    ("orthogonality_floor", "its floor", None),
    ("orthogonality_excess", "its excess", Some(Span::Decades)),
    ("tau", "τ", None),
    ("tau_rule", "rule of τ", None),
    ("findings", "findings", None),
];

/// One self-contained HTML page: findings, an overview of several adapters, and for each a heat map,
/// its spectra and a table of its modules.
///
/// # Errors
/// Never: there is nothing in an audit that cannot be written.
pub fn audit_page(audit: &Audit, head: &PageHead) -> Result<String> {
    let adapters = &audit.adapters;
    let paths: Vec<&str> = adapters.iter().map(|adapter| &adapter.path[..]).collect();
    let titles = short_paths(&paths);
    let modules: usize = adapters.iter().map(|adapter| adapter.modules.len()).sum();
    let title = match &titles[..] {
        [one] => format!("Rank audit of {one}"),
        _ => format!("Rank audit of {} adapters", adapters.len()),
    };
    let summary = format!(
        "{}, {}; {}. {}.",
        count(adapters.len(), "adapter"),
        count(modules, "module"),
        left_out(audit),
        tau_text(adapters.iter().flat_map(|adapter| &adapter.modules)),
    );
    let wrong = finding_lines(adapters, &[Severity::Wrong]);
    let wrong = wrong
        .iter()
        .map(|line| line.trim_start_matches("- ").to_owned());
    let columns = COLUMNS.iter().map(|&(id, label, heat)| PageColumn {
        id,
        label,
        is_text: Quantity::named(id).is_none(),
        heat,
    });
    let groups = adapters.iter().zip(&titles);
    let mut below = Vec::new();
    let others = refusals(audit, RefusalClass::NoAdapter);
    if !others.rows.is_empty() {
        below.push((format!("No adapters ({})", others.rows.len()), others));
    }
    let passed_over = passed_over(audit);
    if !passed_over.rows.is_empty() {
        let title = format!(
            "Passed over in folders of runs ({})",
            passed_over.rows.len()
        );
        below.push((title, passed_over));
    }
    let page = Page {
        title,
        head,
        notes: std::iter::once(summary).chain(wrong).collect(),
        sentences: Vec::new(),
        tables: Vec::new(),
        figures: Vec::new(),
        noun: "adapters",
        overview: (adapters.len() > 1).then(|| overview(adapters, &titles)),
        findings: Some(findings(adapters, &titles)),
        columns: columns.collect(),
        groups: groups
            .map(|(adapter, title)| group(adapter, title))
            .collect(),
        refused: refusals(audit, RefusalClass::NotAudited),
        glossary: glossary(),
        curves: CurveLabels::SPECTRUM,
        measure: "effective_rank",
    };
    html_with(&page, &below)
}

fn refusals(audit: &Audit, class: RefusalClass) -> Plain {
    let own = audit
        .refused
        .iter()
        .filter(|refused| refused.class == class);
    Plain {
        header: vec!["name", "file", "reason"],
        rows: own
            .map(|r| vec![text(&r.name), text(&r.path), text(&r.reason)])
            .collect(),
    }
}

fn passed_over(audit: &Audit) -> Plain {
    let what = |part: RunPart| match part {
        RunPart::OtherEpoch => "the adapter of another epoch of the same run",
        RunPart::Weights => "a model's weights",
        RunPart::State => "the state of a run that is not finished",
    };
    let parts = audit.passed_over.iter();
    Plain {
        header: vec!["file or folder", "what it is"],
        rows: parts
            .map(|part| vec![text(&part.path), text(what(part.what))])
            .collect(),
    }
}

fn overview(adapters: &[AdapterAudit], titles: &[&str]) -> Plain {
    let row = |(index, adapter): (usize, &AdapterAudit)| {
        let of = |name: &str| {
            let mut measures = adapter.summary.measures.iter();
            measures.find(|(own, _)| *own == name).map(|(_, d)| *d)
        };
        let effective = of("effective_rank");
        let median = |name: &str| Cell::Number(of(name).map(|d| d.median));
        let whole = |value: usize| Cell::Number(Some(value as f64));
        let mut row = vec![Cell::Link(titles[index].to_owned(), index)];
        row.extend(severities(adapter).map(whole));
        row.extend([
            whole(adapter.modules.len()),
            whole(adapter.summary.rank_budget),
            Cell::Number(effective.map(|d| d.min)),
            Cell::Number(effective.map(|d| d.median)),
            Cell::Number(effective.map(|d| d.max)),
            median("energy_rank_99"),
            median("numerical_rank"),
            median("stable_rank"),
            median("frobenius_norm"),
            whole(adapter.summary.zero_updates),
            whole(adapter.summary.non_finite),
            text(adapter.base_model.as_deref().unwrap_or("–")),
            text(adapter.format),
        ]);
        row
    };
    Plain {
        header: vec![
            "adapter",
            "wrong",
            "suspicious",
            "notes",
            "modules",
            "sum of R",
            "effective rank: least",
            "median",
            "most",
            "energy rank 99 %: median",
            "numerical rank: median",
            "stable rank: median",
            "Frobenius norm: median",
            "zero updates",
            "not finite",
            "base model",
            "format",
        ],
        rows: adapters.iter().enumerate().map(row).collect(),
    }
}

fn findings(adapters: &[AdapterAudit], titles: &[&str]) -> Vec<Findings> {
    let mut kinds: BTreeMap<_, Vec<Vec<String>>> = BTreeMap::new();
    for (adapter, title) in adapters.iter().zip(titles) {
        for finding in &adapter.findings {
            let module = finding.module.as_deref().unwrap_or("the whole adapter");
            let kind = (finding.kind.severity(), finding.kind);
            kinds.entry(kind).or_default().push(vec![
                (*title).to_owned(),
                module.to_owned(),
                finding.message.clone(),
                numbers(finding),
            ]);
        }
    }
    let kinds = kinds.into_iter().map(|((severity, kind), rows)| Findings {
        kind: kind.name(),
        severity: severity.name(),
        header: vec!["adapter", "module", "what", "numbers"],
        rows,
    });
    kinds.collect()
}

fn numbers(finding: &Finding) -> String {
    let numbers = finding.values.iter().map(|(name, value)| {
        if value.fract() == 0.0 {
            format!("{name} = {value}")
        } else {
            format!("{name} = {value:.4}")
        }
    });
    numbers.collect::<Vec<_>>().join(", ")
}

fn group(adapter: &AdapterAudit, title: &str) -> Group {
    let base = adapter.base_model.as_deref().unwrap_or("unknown");
    let mut found: HashMap<&str, Vec<&'static str>> = HashMap::new();
    for finding in &adapter.findings {
        if let Some(module) = &finding.module {
            found.entry(module).or_default().push(finding.kind.name());
        }
    }
    let roles = short_roles(&adapter.modules);
    let rows = adapter.modules.iter().zip(roles).map(|(module, role)| Row {
        cells: COLUMNS
            .iter()
            .map(|(id, ..)| cell(id, module, found.get(&module.name[..])))
            .collect(),
        role,
        layer: module.layer,
        curve: module
            .spectrum
            .as_ref()
            .map_or(Vec::new(), |s| s.singular_values.clone()),
        at: None,
        floor: None,
    });
    let whole = adapter
        .findings
        .iter()
        .filter(|finding| finding.module.is_none());
    let mut notes = vec![
        format!(
            "{} · format {} · base model {base}",
            adapter.path, adapter.format
        ),
        format!("{}.", tau_text(adapter.modules.iter())),
    ];
    notes.extend(whole.map(|finding| format!("{}: {}", finding.kind.name(), finding.message)));
    Group {
        title: title.to_owned(),
        findings: adapter.findings.len(),
        notes,
        rows: rows.collect(),
    }
}

fn cell(id: &str, module: &ModuleAudit, found: Option<&Vec<&'static str>>) -> Cell {
    if let Some(quantity) = Quantity::named(id) {
        return Cell::Number(quantity.of(module));
    }
    let rule = module.spectrum.as_ref().map(|s| &s.measures.tau_rule[..]);
    match id {
        "name" => text(&module.name),
        "kind" => text(module.kind.name()),
        "shape" => text(format!("{}×{}", module.shape.0, module.shape.1)),
        "tau_rule" => text(rule.unwrap_or_default()),
        _ => text(found.map_or(String::new(), |kinds| kinds.join(", "))),
    }
}

/// Every number of the tables, with its formula and source, and every kind of finding.
pub(crate) fn glossary() -> Vec<(String, String)> {
    let meaning = |quantity: &Quantity| match quantity.source {
        "" => quantity.formula.to_owned(),
        source => format!("{} ({source})", quantity.formula),
    };
    let mut glossary = vec![(
        "σ, λ, p, q".to_owned(),
        "singular values of the update ΔW in descending order; λ = σ², p = σ/Σσ, q = λ/Σλ, H the \
         entropy in nats"
            .to_owned(),
    )];
    glossary.extend(QUANTITIES.iter().map(|q| (q.name.to_owned(), meaning(q))));
    let kinds = FindingKind::names().iter();
    let kinds = kinds.filter_map(|name| FindingKind::named(name));
    glossary.extend(kinds.map(|kind| (kind.name().to_owned(), kind.meaning().to_owned())));
    glossary
}
