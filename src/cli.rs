use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;

/// The rank theory of low-rank adaptation: verify the theorem, train the methods, audit adapters.
#[derive(Debug, Parser)]
#[command(name = "rankwise", version, propagate_version = true)]
pub struct Arguments {
    #[command(subcommand)]
    pub command: Command,
    #[command(flatten)]
    pub common: Common,
}

/// What every command understands.
#[derive(Debug, Args)]
#[command(next_help_heading = "Common options")]
pub struct Common {
    /// Where results go: a folder, or a file for `features`.
    #[arg(long, global = true, value_name = "PATH")]
    pub out: Option<PathBuf>,
    /// Seed of every random stream.
    #[arg(long, global = true, value_name = "N")]
    pub seed: Option<u64>,
    /// Threads to use; all processors by default. The results' bits do not depend on it.
    #[arg(long, global = true, value_name = "N")]
    pub threads: Option<std::num::NonZeroUsize>,
    /// Print machine-readable JSON instead of tables.
    #[arg(long, global = true)]
    pub json: bool,
    /// Print nothing but errors.
    #[arg(long, short, global = true)]
    pub quiet: bool,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Turn labelled texts into sentence features with a BERT checkpoint.
    #[command(after_help = "Example:\n  rankwise features --model all-MiniLM-L6-v2 --data train.csv \
        --test test.csv --per-class 40 --out banking77.safetensors")]
    Features(FeaturesOptions),
    /// Print a completion script for a shell.
    Completions {
        /// The shell.
        shell: Shell,
    },
}

#[derive(Debug, Args)]
pub struct FeaturesOptions {
    /// Folder of the encoder: config.json, model.safetensors, tokenizer.json.
    #[arg(long, value_name = "DIR")]
    pub model: PathBuf,
    /// CSV file of the training texts.
    #[arg(long, value_name = "CSV")]
    pub data: PathBuf,
    /// CSV file of the test texts.
    #[arg(long, value_name = "CSV")]
    pub test: PathBuf,
    /// Name of the column of texts.
    #[arg(long, default_value = "text", value_name = "NAME")]
    pub text_column: String,
    /// Name of the column of labels.
    #[arg(long, default_value = "category", value_name = "NAME")]
    pub label_column: String,
    /// Keep only the first N training texts of every class.
    #[arg(long, value_name = "N")]
    pub per_class: Option<usize>,
    /// Compute in float64: slower, and the same float16 features on any processor.
    #[arg(long)]
    pub double: bool,
    /// A statement about the origin to keep in the file; may be repeated.
    #[arg(long, value_name = "KEY=TEXT", value_parser = key_and_value)]
    pub note: Vec<(String, String)>,
}

fn key_and_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(format!("expected KEY=VALUE, found {text:?}")),
    }
}
