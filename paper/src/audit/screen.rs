//! An audit as it is printed: what is wrong first, then the numbers, then what else deserves attention.

use rankwise_analysis::{AdapterAudit, Audit, Severity};

use super::cells::{
    audit_cells, audit_summary_cells, overview_cells, role_cells, scale_sentences, tau_text,
};
use super::lines::{count, finding_lines, left_out, passed_over_line, refusal_lines};
use super::short::clean;
use crate::tables::text_table;

/// Adapters of which the modules are printed; of more, one line each.
const PRINTED: usize = 3;

const MILD: [Severity; 2] = [Severity::Suspicious, Severity::Note];

/// A piece of what is printed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Block {
    /// One line, which a terminal may wrap.
    Sentence(String),
    /// Lines in columns.
    Table(String),
}

/// Everything that is printed of an audit.
pub fn audit_screen(audit: &Audit) -> Vec<Block> {
    let adapters = &audit.adapters;
    let mut blocks = Vec::new();
    if adapters.len() > 1 {
        sentences(&mut blocks, finding_lines(adapters, &[Severity::Wrong]));
    }
    if adapters.len() > PRINTED {
        blocks.push(Block::Table(text_table(&overview_cells(audit))));
        let modules = adapters.iter().flat_map(|adapter| &adapter.modules);
        let legend = "minimum / median / maximum over an adapter's modules";
        blocks.push(Block::Sentence(format!("{legend}; {}", tau_text(modules))));
        sentences(&mut blocks, finding_lines(adapters, &MILD));
    } else {
        for (place, adapter) in adapters.iter().enumerate() {
            if place > 0 {
                sentences(&mut blocks, [String::new()]);
            }
            one(&mut blocks, adapter, adapters.len() == 1);
        }
    }
    if adapters.len() > PRINTED || !audit.refused.is_empty() {
        let total = count(adapters.len(), "adapter");
        blocks.push(Block::Sentence(format!("{total}; {}", left_out(audit))));
    }
    sentences(&mut blocks, refusal_lines(&audit.refused));
    sentences(&mut blocks, passed_over_line(&audit.passed_over));
    blocks
}

fn sentences(blocks: &mut Vec<Block>, lines: impl IntoIterator<Item = String>) {
    blocks.extend(lines.into_iter().map(Block::Sentence));
}

/// One adapter: its modules by role, every module, the percentiles, τ, and the findings by kind.
fn one(blocks: &mut Vec<Block>, adapter: &AdapterAudit, is_alone: bool) {
    let base = adapter.base_model.as_deref();
    let head = format!(
        "{} ({}, {})",
        adapter.path,
        adapter.format,
        base.unwrap_or("unknown base model"),
    );
    let size = format!(
        "{}, sum of R {}, {}",
        count(adapter.modules.len(), "module"),
        adapter.summary.rank_budget,
        count(adapter.summary.parameters, "parameter"),
    );
    sentences(blocks, [clean(&head), size]);
    let own = std::slice::from_ref(adapter);
    if is_alone {
        sentences(blocks, finding_lines(own, &[Severity::Wrong]));
    }
    let has_several = adapter.modules.len() > 1;
    let mut table = |cells| blocks.push(Block::Table(text_table(&cells)));
    if has_several {
        table(role_cells(adapter));
    }
    table(audit_cells(adapter));
    if has_several {
        table(audit_summary_cells(&adapter.summary));
    }
    sentences(blocks, [tau_text(adapter.modules.iter())]);
    sentences(blocks, scale_sentences(adapter));
    let severities: &[Severity] = if is_alone { &MILD } else { &Severity::ALL };
    sentences(blocks, finding_lines(own, severities));
}
