use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;
use rankwise_training::{DeviceName, MethodName};

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
    /// Train adapters of a classification head: one run for every method, rank and seed.
    #[command(after_help = "Examples:\n  rankwise train --method lora,rm-lora --rank 16,32 --seeds 0,1,2 --out runs\n  \
        rankwise train --config my.toml --set method.lambda=3e-4 --out runs\n  \
        rankwise train --method rm-lora --rank 16 --dump-config > my.toml")]
    Train(TrainOptions),
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

#[derive(Debug, Args)]
pub struct TrainOptions {
    /// TOML file that states differences from the defaults.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Methods: full, lora, r-lora, gm-lora, rm-lora.
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    pub method: Vec<MethodName>,
    /// Values of R.
    #[arg(long, value_delimiter = ',', value_name = "RANKS")]
    pub rank: Vec<usize>,
    /// Seeds; --seed gives one.
    #[arg(long, value_delimiter = ',', value_name = "SEEDS")]
    pub seeds: Vec<u64>,
    /// Set any key of the configuration, such as method.lambda=1e-3; may be repeated.
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_and_value)]
    pub set: Vec<(String, String)>,
    /// cpu or cuda:N.
    #[arg(long, value_name = "DEVICE")]
    pub device: Option<DeviceName>,
    /// Print the resolved configurations and train nothing.
    #[arg(long)]
    pub dump_config: bool,
}

fn key_and_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(format!("expected KEY=VALUE, found {text:?}")),
    }
}
