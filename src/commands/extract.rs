use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::builder::ValueHint;
use clap::{ArgGroup, Args};
use rankwise_analysis::{ExtractOptions, Extracted, RankRule, extract};
use rankwise_paper::{Cells, text_table};

use super::Outcome;
use super::resize::{DtypeName, error, share};
use crate::cli::Common;
use crate::stdout::outln;

/// The most tensors that are printed one by one.
const MAX_LINES: usize = 40;

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("rule").required(true))]
pub struct Options {
    /// The checkpoint before training: a folder or file.
    #[arg(long, value_name = "DIR", value_hint = ValueHint::AnyPath)]
    pub base: PathBuf,
    /// The checkpoint after training.
    #[arg(long, value_name = "DIR", value_hint = ValueHint::AnyPath)]
    pub tuned: PathBuf,
    /// At most R directions everywhere.
    #[arg(long, value_name = "R", group = "rule")]
    pub rank: Option<usize>,
    /// In every matrix the fewest directions that keep this share of the energy, such as 0.99.
    #[arg(long, value_name = "SHARE", group = "rule")]
    pub energy: Option<f64>,
    /// The directions above the rounding of the weights' type.
    #[arg(long, group = "rule")]
    pub above_noise: bool,
    /// Only modules whose whole name this regular expression matches, such as .*query.
    #[arg(long, value_name = "REGEX")]
    pub target: Option<String>,
    /// The type of the factors.
    #[arg(long, value_enum, default_value_t = DtypeName::F32, value_name = "NAME")]
    pub dtype: DtypeName,
    /// Take over embeddings, normalisations and biases that changed as a whole.
    #[arg(long)]
    pub whole: bool,
}

/// The adapter in the difference of two checkpoints.
pub fn run(options: &Options, common: &Common) -> Result<Outcome> {
    let Some(out) = &common.out else {
        bail!("extract: expected --out DIR, a new folder for the adapter, found none");
    };
    let rule = match (options.rank, options.energy) {
        (Some(rank), _) => Some(RankRule::Rank(rank)),
        (None, Some(share)) => Some(RankRule::Energy(share)),
        (None, None) => None,
    };
    let extracted = extract(
        &options.base,
        &options.tuned,
        out,
        &ExtractOptions {
            rule,
            target: options.target.clone(),
            dtype: options.dtype.chosen(),
            whole: options.whole,
        },
    )?;
    if common.json {
        outln!("{}", serde_json::to_string_pretty(&extracted)?);
    } else if !common.quiet {
        print(&extracted);
    }
    Ok(Outcome::Done)
}

fn cells(extracted: &Extracted) -> Cells {
    let header = vec![
        "module",
        "shape",
        "type",
        "rank",
        "rank above noise",
        "energy kept",
        "relative error",
        "as written",
        "spectral error",
    ];
    let rows = extracted.modules.iter().map(|module| {
        vec![
            module.name.clone(),
            format!("{}x{}", module.shape.0, module.shape.1),
            module.dtype.clone(),
            module.rank.to_string(),
            module.rank_above_noise.to_string(),
            share(module.energy_kept),
            error(module.error.relative),
            error(module.written.relative),
            error(module.error.spectral),
        ]
    });
    (header, rows.collect())
}

fn print(extracted: &Extracted) {
    outln!(
        "{} to {}, {}\n",
        extracted.base,
        extracted.tuned,
        extracted.rule
    );
    outln!("{}\n", text_table(&cells(extracted)));
    outln!(
        "- {} modules, {} numbers; relative error of all changes together {}, as written {}.",
        extracted.modules.len(),
        extracted.parameters,
        error(extracted.error.relative),
        error(extracted.written.relative)
    );
    if !extracted.whole.is_empty() {
        outln!("- Taken over as a whole: {}.", extracted.whole.join(", "));
    }
    for other in extracted.not_covered.iter().take(MAX_LINES) {
        outln!("- Not covered: {}: {}.", other.name, other.reason);
    }
    for note in &extracted.notes {
        outln!("- Note: {note}.");
    }
    let hidden = extracted.not_covered.len().saturating_sub(MAX_LINES);
    if hidden > 0 {
        outln!("- Not covered: {hidden} others; --json lists them.");
    }
}
