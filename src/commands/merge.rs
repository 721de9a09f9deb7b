use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::builder::ValueHint;
use clap::{Args, ValueEnum};
use rankwise_analysis::{Merge, MergeOptions, Merged, NewType, TensorMerge, merge};
use rankwise_paper::{Cells, text_table};

use super::Outcome;
use crate::cli::Common;
use crate::progress;
use crate::stdout::outln;

#[derive(Debug, Args)]
pub struct Options {
    /// The base model's checkpoint: a folder or file.
    #[arg(long, value_name = "DIR", value_hint = ValueHint::AnyPath)]
    pub base: PathBuf,
    /// The adapter: a folder or file.
    #[arg(long, value_name = "DIR", value_hint = ValueHint::AnyPath)]
    pub adapter: PathBuf,
    /// The adapter as it was before training: what PiSSA and its kin need.
    #[arg(long, value_name = "DIR", value_hint = ValueHint::AnyPath)]
    pub initial: Option<PathBuf>,
    /// The type of the tensors that the adapter changes or adds.
    #[arg(long, value_enum, default_value_t = DtypeName::AsBase, value_name = "NAME")]
    pub dtype: DtypeName,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum DtypeName {
    /// As the base's tensor.
    AsBase,
    /// Float32.
    F32,
    /// Float16.
    F16,
    /// Bfloat16.
    Bf16,
}

/// An adapter merged into its base model.
pub fn run(options: &Options, common: &Common) -> Result<Outcome> {
    let Some(out) = &common.out else {
        bail!("merge: expected --out DIR, a new folder for the checkpoint, found none");
    };
    let settings = MergeOptions {
        dtype: match options.dtype {
            DtypeName::AsBase => None,
            DtypeName::F32 => Some(NewType::F32),
            DtypeName::F16 => Some(NewType::F16),
            DtypeName::Bf16 => Some(NewType::Bf16),
        },
        initial: options.initial.clone(),
    };
    let bar = progress::bar(0, "tensors", common.quiet);
    bar.set_message("merging");
    let merged = merge(
        &options.base,
        &options.adapter,
        out,
        &settings,
        |done, of| {
            bar.set_length(of as u64);
            bar.set_position(done as u64);
        },
    );
    bar.finish_and_clear();
    let merged = merged?;
    if common.json {
        outln!("{}", serde_json::to_string_pretty(&merged)?);
    } else if !common.quiet {
        print(&merged);
    }
    Ok(Outcome::Done)
}

fn word(merge: Merge) -> &'static str {
    match merge {
        Merge::Merged => "merged",
        Merge::Rows => "rows merged",
        Merge::Replaced => "replaced",
        Merge::Added => "added",
        Merge::Shifted => "shifted",
        Merge::Scaled => "scaled",
        Merge::Untied => "untied",
    }
}

fn cells(merged: &Merged) -> Cells {
    let header = vec![
        "tensor",
        "shape",
        "type",
        "what",
        "rank",
        "scale",
        "‖W‖_F",
        "‖ΔW‖_F",
        "relative",
    ];
    let norm = |value: Option<f64>| value.map_or("–".to_owned(), |norm| format!("{norm:.2e}"));
    let row = |tensor: &TensorMerge| {
        let sides = tensor.shape.iter().map(usize::to_string);
        vec![
            tensor.name.clone(),
            sides.collect::<Vec<_>>().join("x"),
            tensor.dtype.clone(),
            word(tensor.merge).to_owned(),
            tensor.rank.map_or("–".to_owned(), |rank| rank.to_string()),
            tensor.scale.map_or("–".to_owned(), |s| format!("{s:.4}")),
            norm(tensor.weight_norm),
            norm(tensor.change_norm),
            norm(tensor.relative),
        ]
    };
    (header, merged.tensors.iter().map(row).collect())
}

fn print(merged: &Merged) {
    outln!(
        "{} ({}) into {}\n",
        merged.adapter,
        merged.format,
        merged.base
    );
    outln!("{}\n", text_table(&cells(merged)));
    outln!(
        "- {} tensors changed or added, {} copied byte for byte; {}.",
        merged.tensors.len(),
        merged.copied,
        merged.files.join(", ")
    );
    if !merged.companions.is_empty() {
        outln!("- Beside them: {}.", merged.companions.join(", "));
    }
    for note in &merged.notes {
        outln!("- Note: {note}.");
    }
}
