use anyhow::{Result, bail};
use rankwise_analysis::{Audit, AuditOptions, audit};
use rankwise_paper::{audit_cells, audit_summary_cells, text_table};

use super::Outcome;
use crate::cli::{AuditOptions as Options, Common};

/// The rank of every update of the given adapters.
pub fn run(options: &Options, common: &Common) -> Result<Outcome> {
    if let (Some(base), Some(tuned)) = (&options.base, &options.tuned) {
        return super::checkpoints::run(base, tuned, common);
    }
    let mut whole = Audit {
        adapters: Vec::new(),
        refused: Vec::new(),
    };
    for path in &options.paths {
        let Audit { adapters, refused } = audit(path, &AuditOptions::default())?;
        whole.adapters.extend(adapters);
        whole.refused.extend(refused);
    }
    if common.json {
        println!("{}", serde_json::to_string_pretty(&whole)?);
    } else if !common.quiet {
        print(&whole);
    }
    if whole.adapters.is_empty() {
        bail!("nothing could be audited: {} refused", whole.refused.len());
    }
    Ok(Outcome::Done)
}

fn print(audit: &Audit) {
    for adapter in &audit.adapters {
        let base = adapter
            .base_model
            .as_deref()
            .unwrap_or("unknown base model");
        println!("{} ({}, {base})\n", adapter.path, adapter.format);
        println!("{}\n", text_table(&audit_cells(adapter)));
        println!("{}\n", text_table(&audit_summary_cells(&adapter.summary)));
        for finding in &adapter.findings {
            match &finding.module {
                Some(module) => println!("- {module}: {}", finding.message),
                None => println!("- {}", finding.message),
            }
        }
        println!();
    }
    for refused in &audit.refused {
        println!(
            "refused {} in {}: {}",
            refused.name, refused.path, refused.reason
        );
    }
}
