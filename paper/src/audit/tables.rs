//! An audit as rows and columns: the names are those of the machine-readable form.

use anyhow::Result;
use rankwise_analysis::{AdapterAudit, Audit, Finding, ModuleAudit, QUANTITIES, Spectrum};
use rankwise_data::{Column, Table};

type Row<'a> = (&'a AdapterAudit, &'a ModuleAudit);

/// One row a module, adapters one after the other.
///
/// `singular_values` is the JSON text of the list; what is not defined is empty in CSV and null in
/// Parquet, empty for texts. `layer` is null where the name has no number.
///
/// # Errors
/// Never: the columns are made of the same rows.
pub fn audit_table(audit: &Audit) -> Result<Table> {
    let rows: Vec<Row<'_>> = audit
        .adapters
        .iter()
        .flat_map(|adapter| adapter.modules.iter().map(move |module| (adapter, module)))
        .collect();
    let text = |value: &dyn Fn(&Row<'_>) -> String| Column::Text(rows.iter().map(value).collect());
    let spectrum = |value: &dyn Fn(&Spectrum) -> String| {
        text(&|(_, module)| module.spectrum.as_ref().map_or(String::new(), value))
    };
    let whole = |value: &dyn Fn(&ModuleAudit) -> usize| -> Column {
        rows.iter().map(|(_, module)| value(module)).collect()
    };
    let mut columns = vec![
        ("path", text(&|(adapter, _)| adapter.path.clone())),
        ("format", text(&|(adapter, _)| adapter.format.to_owned())),
        (
            "base_model",
            text(&|(adapter, _)| adapter.base_model.clone().unwrap_or_default()),
        ),
        ("name", text(&|(_, module)| module.name.clone())),
        ("kind", text(&|(_, module)| module.kind.name().to_owned())),
        ("scaled", text(&|(_, module)| module.scaled.to_string())),
        (
            "method",
            text(&|(_, module)| module.method.name().to_owned()),
        ),
        ("role", text(&|(_, module)| module.role())),
        ("parameters", whole(&|module| module.parameters)),
        (
            "singular_values",
            spectrum(&|s| serde_json::json!(s.singular_values).to_string()),
        ),
        ("tau_rule", spectrum(&|s| s.measures.tau_rule.clone())),
        (
            "orthogonality_side",
            spectrum(&|s| {
                let side = serde_json::json!(s.orthogonality.side);
                side.as_str().unwrap_or_default().to_owned()
            }),
        ),
    ];
    for quantity in &QUANTITIES {
        let column = match quantity.name {
            "rows" => whole(&|module| module.shape.0),
            "columns" => whole(&|module| module.shape.1),
            "rank_budget" => whole(&|module| module.rank_budget),
            // The record has a scale of 1 where none is known, and `scaled` to tell.
            "scale" => rows.iter().map(|(_, module)| module.scale).collect(),
            // Of the rules' and the page's, not of the record.
            "budget_share" => continue,
            _ => rows.iter().map(|(_, module)| quantity.of(module)).collect(),
        };
        columns.push((quantity.name, column));
    }
    columns.sort_by_key(|(name, _)| ORDER.iter().position(|own| own == name));
    Ok(Table::new(columns)?)
}

/// As in the machine-readable form.
const ORDER: [&str; 32] = [
    "path",
    "format",
    "base_model",
    "name",
    "kind",
    "layer",
    "rows",
    "columns",
    "rank_budget",
    "scale",
    "scaled",
    "singular_values",
    "tau",
    "tau_rule",
    "numerical_rank",
    "energy_rank_90",
    "energy_rank_95",
    "energy_rank_99",
    "stable_rank",
    "effective_rank",
    "effective_rank_energy",
    "participation_ratio",
    "nuclear_ratio",
    "frobenius_norm",
    "spectral_norm",
    "orthogonality_loss",
    "orthogonality_floor",
    "orthogonality_excess",
    "orthogonality_side",
    "method",
    "role",
    "parameters",
];

/// One row a finding; `values` is the JSON text of its numbers by name, `module` is empty if the
/// finding is on the whole adapter.
///
/// # Errors
/// Never: the columns are made of the same rows.
pub fn findings_table(audit: &Audit) -> Result<Table> {
    let rows: Vec<(&AdapterAudit, &Finding)> = audit
        .adapters
        .iter()
        .flat_map(|adapter| {
            adapter
                .findings
                .iter()
                .map(move |finding| (adapter, finding))
        })
        .collect();
    let text = |value: &dyn Fn(&AdapterAudit, &Finding) -> String| {
        let values = rows
            .iter()
            .map(|(adapter, finding)| value(adapter, finding));
        Column::Text(values.collect())
    };
    let values = |finding: &Finding| {
        let entries = finding.values.iter();
        let entries = entries.map(|(name, value)| ((*name).to_owned(), serde_json::json!(value)));
        serde_json::Value::Object(entries.collect()).to_string()
    };
    Ok(Table::new(vec![
        ("path", text(&|adapter, _| adapter.path.clone())),
        ("kind", text(&|_, finding| finding.kind.name().to_owned())),
        (
            "severity",
            text(&|_, finding| finding.kind.severity().name().to_owned()),
        ),
        (
            "module",
            text(&|_, finding| finding.module.clone().unwrap_or_default()),
        ),
        ("message", text(&|_, finding| finding.message.clone())),
        ("values", text(&|_, finding| values(finding))),
    ])?)
}

/// One row for everything that was refused.
///
/// # Errors
/// Never: the columns are made of the same rows.
pub fn refused_table(audit: &Audit) -> Result<Table> {
    let all = &audit.refused;
    Ok(Table::new(vec![
        ("path", all.iter().map(|r| r.path.clone()).collect()),
        ("name", all.iter().map(|r| r.name.clone()).collect()),
        ("reason", all.iter().map(|r| r.reason.clone()).collect()),
        (
            "class",
            all.iter().map(|r| r.class.name().to_owned()).collect(),
        ),
    ])?)
}
