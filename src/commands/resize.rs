use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::builder::ValueHint;
use clap::{ArgGroup, Args, ValueEnum};
use rankwise_analysis::{Change, NewScale, NewType, RankRule, ResizeOptions, Resized, resize};
use rankwise_data::read_text;
use rankwise_paper::{Cells, text_table};
use serde_json::{Map, Value};

use super::Outcome;
use crate::cli::Common;
use crate::stdout::outln;

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("rule").required(true))]
pub struct Options {
    /// The adapter: a folder or file.
    #[arg(value_name = "ADAPTER", value_hint = ValueHint::AnyPath)]
    pub adapter: PathBuf,
    /// At most R directions everywhere.
    #[arg(long, value_name = "R", group = "rule")]
    pub rank: Option<usize>,
    /// In every module the fewest directions that keep this share of the energy, such as 0.99.
    #[arg(long, value_name = "SHARE", group = "rule")]
    pub energy: Option<f64>,
    /// R by module: a JSON object {"pattern": R}, or a file of one. Patterns as in PEFT's
    /// rank_pattern; modules that none fits stay as they are.
    #[arg(long, value_name = "JSON", group = "rule")]
    pub rank_per_module: Option<String>,
    /// The directions whose singular value is above this share of the module's largest.
    #[arg(long, value_name = "SHARE", group = "rule")]
    pub spectral_ratio: Option<f64>,
    /// The numerical rank: drop only what is rounding.
    #[arg(long, group = "rule")]
    pub numerical: bool,
    /// Keep the scale and change alpha with the rank, or fold it into the factors.
    #[arg(long, value_enum, default_value_t = Scale::Keep, value_name = "NAME")]
    pub scale: Scale,
    /// The type of the new factors.
    #[arg(long, value_enum, default_value_t = DtypeName::Same, value_name = "NAME")]
    pub dtype: DtypeName,
    /// The base model: what VeRA and kernels of unknown window need.
    #[arg(long, value_name = "DIR", value_hint = ValueHint::AnyPath)]
    pub base: Option<PathBuf>,
    /// The adapter as it was before training: what PiSSA and its kin need.
    #[arg(long, value_name = "ADAPTER", value_hint = ValueHint::AnyPath)]
    pub initial: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Scale {
    /// s as it was.
    Keep,
    /// s = 1.
    Fold,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum DtypeName {
    /// As it was.
    Same,
    /// Float32.
    F32,
    /// Float16.
    F16,
    /// Bfloat16.
    Bf16,
}

impl DtypeName {
    pub fn chosen(self) -> Option<NewType> {
        match self {
            Self::Same => None,
            Self::F32 => Some(NewType::F32),
            Self::F16 => Some(NewType::F16),
            Self::Bf16 => Some(NewType::Bf16),
        }
    }
}

/// An adapter at another rank.
pub fn run(options: &Options, common: &Common) -> Result<Outcome> {
    let Some(out) = &common.out else {
        bail!("resize: expected --out DIR, a new folder for the adapter, found none");
    };
    let resized = resize(
        &options.adapter,
        out,
        &ResizeOptions {
            rule: rule(options)?,
            scale: match options.scale {
                Scale::Keep => NewScale::Keep,
                Scale::Fold => NewScale::Fold,
            },
            dtype: options.dtype.chosen(),
            base: options.base.clone(),
            initial: options.initial.clone(),
        },
    )?;
    if common.json {
        outln!("{}", serde_json::to_string_pretty(&resized)?);
    } else if !common.quiet {
        print(&resized);
    }
    Ok(Outcome::Done)
}

fn rule(options: &Options) -> Result<RankRule> {
    if let Some(rank) = options.rank {
        return Ok(RankRule::Rank(rank));
    }
    if let Some(share) = options.energy {
        return Ok(RankRule::Energy(share));
    }
    if let Some(share) = options.spectral_ratio {
        return Ok(RankRule::SpectralRatio(share));
    }
    match &options.rank_per_module {
        Some(text) => patterns(text),
        None => Ok(RankRule::Numerical),
    }
}

fn patterns(text: &str) -> Result<RankRule> {
    let (text, origin) = match text.trim_start().starts_with('{') {
        true => (text.to_owned(), "--rank-per-module"),
        false => (read_text(text.as_ref())?, text),
    };
    let object: Map<String, Value> = serde_json::from_str(&text)
        .with_context(|| format!("{origin}: expected a JSON object of ranks by pattern"))?;
    let pattern = |(key, value): (String, Value)| {
        let rank = value.as_u64().and_then(|rank| usize::try_from(rank).ok());
        match rank {
            Some(rank) => Ok((key, rank)),
            None => bail!("{origin}: {key:?}: expected a rank, found {value}"),
        }
    };
    let patterns = object.into_iter().map(pattern).collect::<Result<_>>()?;
    Ok(RankRule::Patterns(patterns))
}

fn cells(resized: &Resized) -> Cells {
    let header = vec![
        "module",
        "shape",
        "rank",
        "new rank",
        "energy kept",
        "relative error",
        "as written",
        "spectral error",
    ];
    let rows = resized.modules.iter().map(|module| {
        let change = match module.change {
            Change::Kept => " (kept)",
            Change::Truncated | Change::Converted => "",
        };
        vec![
            module.name.clone(),
            format!("{}x{}", module.shape.0, module.shape.1),
            module.old_rank.to_string(),
            format!("{}{change}", module.new_rank),
            share(module.energy_kept),
            error(module.error.relative),
            error(module.written.relative),
            error(module.error.spectral),
        ]
    });
    (header, rows.collect())
}

fn print(resized: &Resized) {
    outln!("{} ({}), {}\n", resized.path, resized.format, resized.rule);
    outln!("{}\n", text_table(&cells(resized)));
    let totals = &resized.totals;
    outln!(
        "- Mean rank {:.2} to {:.2}; {} to {} numbers, {} to {} bytes.",
        totals.old_rank,
        totals.new_rank,
        totals.old_parameters,
        totals.new_parameters,
        totals.old_bytes,
        totals.new_bytes
    );
    outln!(
        "- Relative error of all updates together {}, as written {}.",
        error(totals.error.relative),
        error(totals.written.relative)
    );
    for note in &resized.notes {
        outln!("- {note}.");
    }
    for other in &resized.untouched {
        outln!("- Copied as it was: {}: {}.", other.name, other.reason);
    }
}

/// A share with as many nines as tell it from 1.
pub fn share(value: Option<f64>) -> String {
    value.map_or("–".to_owned(), |share| format!("{:.4} %", 100.0 * share))
}

pub fn error(value: Option<f64>) -> String {
    value.map_or("–".to_owned(), |error| format!("{error:.2e}"))
}
