//! The audit of adapters: what is printed, what is written, and what a rule says of it.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;
use clap::builder::ValueHint;
use rankwise_analysis::{Audit, AuditOptions, Epoch, Rule, Side, TauRule, Violation, audit_each};
use rankwise_data::{create_folder, write_atomic};
use rankwise_paper::{
    Aggregate, Block, MetricColumns, PageHead, RankLink, adapter_ranks, audit_page, audit_screen,
    audit_table, findings_table, join, join_runs, left_out, link_sentences, rank_link,
    rank_link_cells, rank_link_chart, rank_link_table, refusal_lines, refused_table, text_table,
    write_figure,
};
use serde::Serialize;

use super::Outcome;
use super::output::{keep, print_json, tell};
use crate::cli::{Common, named};
use crate::progress;
use crate::stdout::outln;

#[derive(Debug, Args)]
pub struct Options {
    /// Adapter files, folders (searched to the bottom), patterns, or ids in the local Hub cache.
    #[arg(required_unless_present = "tuned", value_name = "PATH", value_hint = ValueHint::AnyPath)]
    paths: Vec<PathBuf>,
    /// The base model's checkpoint, a folder or file: needed for DoRA, IA3 and whole tensors. With
    /// --tuned: the checkpoint before training.
    #[arg(long, value_name = "DIR", value_hint = ValueHint::AnyPath)]
    base: Option<PathBuf>,
    /// Compare two checkpoints of one model instead of auditing adapters: the one after training.
    #[arg(long, value_name = "DIR", value_hint = ValueHint::AnyPath, requires = "base", conflicts_with = "paths")]
    tuned: Option<PathBuf>,
    /// With --tuned: only the N largest singular values of every matrix, with a certificate.
    #[arg(long, value_name = "N", requires = "tuned")]
    top: Option<std::num::NonZeroUsize>,
    /// The adapter as it was before training, where its initialisation changed the base (PiSSA,
    /// OLoRA and others).
    #[arg(long, value_name = "DIR", value_hint = ValueHint::AnyPath, conflicts_with = "tuned")]
    initial: Option<PathBuf>,
    /// Of runs of `train --model` the adapter of the best epoch (best/adapter), not of the last one.
    #[arg(long, conflicts_with = "tuned")]
    best: bool,
    /// The threshold of the numerical rank: NUMBER, NUMBER*sigma_1 or max(m,n)*eps(TYPE)*sigma_1.
    #[arg(long, value_name = "RULE", conflicts_with = "tuned")]
    tau: Option<TauRule>,
    /// The side of the orthogonality loss.
    #[arg(long, default_value = "rows", value_parser = named::<Side>(&["rows", "columns"]), value_name = "SIDE")]
    side: Side,
    /// Exit with 3 if an adapter breaks the rule, such as wrong, suspicious (a finding of this
    /// severity or a worse one), 'effective_rank < 2' or 'refused > 0'; may be repeated. The language
    /// is described under `rankwise audit --help`.
    #[arg(long, value_name = "RULE", conflicts_with = "tuned")]
    fail_on: Vec<Rule>,
    #[command(flatten)]
    link: LinkOptions,
}

/// Joins ranks with how the adapters did.
#[derive(Debug, Args)]
#[command(next_help_heading = "Link to generalisation")]
struct LinkOptions {
    /// A CSV, TSV, Parquet, JSON or JSON Lines file with a row for every adapter, or a folder of
    /// recorded runs.
    #[arg(long, value_name = "PATH", value_hint = ValueHint::AnyPath, conflicts_with = "tuned")]
    metrics: Option<PathBuf>,
    /// The column that names the adapters [default: adapter, path or name].
    #[arg(long, value_name = "COLUMN", requires = "metrics")]
    key: Option<String>,
    /// The columns to link ranks to [default: all numbers].
    #[arg(
        long,
        value_name = "COLUMNS",
        value_delimiter = ',',
        requires = "metrics"
    )]
    outcomes: Option<Vec<String>>,
    /// The column of configurations that differ only by seed [default: configuration or group].
    #[arg(long, value_name = "COLUMN", requires = "metrics")]
    group: Option<String>,
    /// What partial correlations hold fixed [default: R and the train metric].
    #[arg(
        long,
        value_name = "COLUMNS",
        value_delimiter = ',',
        requires = "metrics"
    )]
    covariates: Option<Vec<String>>,
    /// What stands for an adapter's modules.
    #[arg(long, default_value = "median", value_parser = named::<Aggregate>(&["median", "mean", "min", "max"]), value_name = "NAME")]
    aggregate: Aggregate,
}

/// The audit, and `link` and `violations` beside it where they were asked for.
#[derive(Serialize)]
struct Outcomes<'a> {
    #[serde(flatten)]
    audit: &'a Audit,
    #[serde(skip_serializing_if = "Option::is_none")]
    link: Option<&'a RankLink>,
    #[serde(skip_serializing_if = "Option::is_none")]
    violations: Option<&'a [Violation]>,
}

/// The rank of every update of the given adapters.
pub fn run(options: &Options, common: &Common) -> Result<Outcome> {
    if let (Some(base), Some(tuned)) = (&options.base, &options.tuned) {
        return super::checkpoints::run(base, tuned, options.top, common);
    }
    if let Some(out) = &common.out {
        create_folder(out)?;
    }
    let audit = audited(options, common)?;
    let link = match &options.link.metrics {
        Some(file) => Some(linked(&audit, file, &options.link, common)?),
        None => None,
    };
    let violations: Vec<Violation> = options
        .fail_on
        .iter()
        .flat_map(|rule| rule.check(&audit))
        .collect();
    let outcomes = Outcomes {
        audit: &audit,
        link: link.as_ref(),
        violations: (!options.fail_on.is_empty()).then_some(&violations),
    };
    if let Some(out) = &common.out {
        keep(&outcomes, "audit", common)?;
        write_files(&audit, out)?;
        if let Some(link) = &link {
            write_link(link, out)?;
        }
    }
    if common.json {
        print_json(&outcomes)?;
    } else if !common.quiet {
        print(&audit, link.as_ref());
    }
    for violation in &violations {
        eprintln!("{violation}");
    }
    if !violations.is_empty() {
        return Ok(Outcome::RuleBroken);
    }
    if audit.adapters.is_empty() {
        if common.quiet || common.json {
            for line in refusal_lines(&audit.refused) {
                eprintln!("{line}");
            }
        }
        bail!("nothing could be audited: {}", left_out(&audit));
    }
    Ok(Outcome::Done)
}

fn audited(options: &Options, common: &Common) -> Result<Audit> {
    let settings = AuditOptions {
        tau: options.tau,
        side: options.side,
        base: options.base.clone(),
        initial: options.initial.clone(),
        epoch: match options.best {
            true => Epoch::Best,
            false => Epoch::Last,
        },
    };
    let bar = progress::bar(0, "files", common.quiet);
    bar.set_message("auditing");
    let audit = audit_each(&options.paths, &settings, |done, of| {
        bar.set_length(of as u64);
        bar.set_position(done as u64);
    })?;
    bar.finish_and_clear();
    Ok(audit)
}

fn linked(audit: &Audit, file: &Path, options: &LinkOptions, common: &Common) -> Result<RankLink> {
    let columns = MetricColumns {
        key: options.key.clone(),
        metrics: options.outcomes.clone(),
        group: options.group.clone(),
        covariates: options.covariates.clone(),
    };
    let ranks = adapter_ranks(&audit.adapters, options.aggregate);
    let joined = match file.is_dir() {
        true => join_runs(&ranks, file, &columns),
        false => join(&ranks, &super::read_table::read(file)?, &columns),
    };
    let joined =
        joined.with_context(|| format!("{}: not joined with the adapters", file.display()))?;
    rank_link(joined, common.seed.unwrap_or(0))
}

fn print(audit: &Audit, link: Option<&RankLink>) {
    let mut is_after_table = false;
    for block in audit_screen(audit) {
        match &block {
            Block::Table(table) => outln!("\n{table}"),
            Block::Sentence(sentence) => {
                if is_after_table {
                    outln!();
                }
                tell(sentence);
            }
        }
        is_after_table = matches!(block, Block::Table(_));
    }
    if let Some(link) = link {
        outln!("\n{}\n", text_table(&rank_link_cells(link)));
        for sentence in link_sentences(link) {
            tell(&format!("- {sentence}"));
        }
    }
}

/// The audit's tables and its page.
fn write_files(audit: &Audit, out: &Path) -> Result<()> {
    let tables = [
        ("modules", audit_table(audit)?),
        ("findings", findings_table(audit)?),
        ("refused", refused_table(audit)?),
    ];
    for (name, table) in tables {
        table.write_csv(&out.join(name).with_extension("csv"))?;
        table.write_parquet(&out.join(name).with_extension("parquet"))?;
    }
    let page = audit_page(audit, &head())?;
    Ok(write_atomic(&out.join("audit.html"), |file| {
        file.write_all(page.as_bytes())
    })?)
}

/// The command that is running, for the head of a page.
pub fn head() -> PageHead {
    let words: Vec<String> = std::env::args().skip(1).collect();
    PageHead {
        command: format!("rankwise {}", words.join(" ")),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    }
}

fn write_link(link: &RankLink, out: &Path) -> Result<()> {
    let table = rank_link_table(link)?;
    table.write_csv(&out.join("link.csv"))?;
    table.write_parquet(&out.join("link.parquet"))?;
    write_figure(&rank_link_chart(link)?, out, "link")?;
    Ok(())
}
