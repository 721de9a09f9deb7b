use std::path::PathBuf;

use clap::{ArgGroup, Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use rankwise_theory::{Aim, Family, Lift, Order};
use rankwise_training::DeviceName;
use serde::de::DeserializeOwned;

use crate::commands::{audit, read_table};

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
    #[command(
        after_help = "Example:\n  rankwise features --model all-MiniLM-L6-v2 --data train.csv \
        --test test.csv --per-class 40 --out banking77.safetensors"
    )]
    Features(FeaturesOptions),
    /// Fine-tune a transformer, or adapters of a classification head: one run for every method, rank
    /// and seed.
    #[command(
        after_help = "Examples:\n  rankwise train --model all-MiniLM-L6-v2/ --task mrpc --data glue/ \
        --method lora,rm-lora --out runs\n  \
        rankwise train --method lora,rm-lora --rank 16,32 --seeds 0,1,2 --out runs\n  \
        rankwise train --config my.toml --set method.lambda=3e-4 --out runs\n  \
        rankwise train --method rm-lora --rank 16 --dump-config > my.toml"
    )]
    Train(TrainOptions),
    /// Count what a method trains on a model, by kind of module; no weights are needed.
    #[command(
        after_help = "Examples:\n  rankwise params --model deberta-v3-base --rank 4,8\n  \
        rankwise params --model deberta-v3-base --rank 4,8 --train-also pooler.dense\n  \
        rankwise params --model gpt2 --rank 8,16 --sets --find 8:0.85M,16:1.69M\n  \
        rankwise params --model my-checkpoint/ --method vera --rank 256"
    )]
    Params(crate::commands::params::Options),
    /// Go through everything once: theorem, training, ranks, figures, report.
    #[command(
        after_help = "Example:\n  rankwise reproduce --quick --out out\n\nFinished runs in the \
        folder are not trained again; a killed reproduction goes on where it was. --seed N trains with \
        seeds 3N, 3N + 1 and 3N + 2 and draws the theorem's problems with 5N to 5N + 4, so that two N share \
        none; a folder of another seed, version or settings is refused."
    )]
    Reproduce(ReproduceOptions),
    /// Check the theorem's bounds on random networks; exit code 1 if a proved one is violated.
    #[command(after_help = "Examples:\n  rankwise verify --out theory\n  \
        rankwise verify --widths 64 --target-layers 1 --block-layers 4,6,8 --draws 20 --ranks 8\n  \
        rankwise verify --case case.json\n  rankwise verify --counterexample\n  \
        rankwise verify --random 10000 --seed 0\n  \
        rankwise verify --transformer --out theory\n  rankwise verify --descent --out theory\n  \
        rankwise verify --base pretrained/ --tuned fine-tuned/ --out errors")]
    Verify(VerifyOptions),
    /// Measure the rank of every update in trained adapters, or of the difference of two checkpoints.
    #[command(
        after_help = AUDIT_EXAMPLES,
        after_long_help = audit_help()
    )]
    Audit(audit::Options),
    /// Cut every update of an adapter down to its best approximation of a lower rank.
    #[command(
        after_help = "Examples:\n  rankwise resize my-adapter/ --rank 4 --out small\n  \
        rankwise resize my-adapter/ --energy 0.99 --dtype f16 --out small\n  \
        rankwise resize my-adapter/ --rank-per-module '{\"q_proj\": 8, \"v_proj\": 2}' --out small"
    )]
    Resize(crate::commands::resize::Options),
    /// Make an adapter of the difference of two checkpoints.
    #[command(
        after_help = "Examples:\n  rankwise extract --base pretrained/ --tuned fine-tuned/ --rank 16 --out adapter\n  \
        rankwise extract --base pretrained/ --tuned merged/ --above-noise --out adapter"
    )]
    Extract(crate::commands::extract::Options),
    /// Merge an adapter into its base model: a checkpoint that needs no adapter.
    #[command(
        after_help = "Examples:\n  rankwise merge --base pretrained/ --adapter my-adapter/ --out merged\n  \
        rankwise merge --base pretrained/ --adapter my-pissa/ --initial my-pissa/init/ --out merged\n  \
        rankwise merge --base pretrained/ --adapter my-adapter/ --dtype bf16 --out merged --json"
    )]
    Merge(crate::commands::merge::Options),
    /// Compare adapters: shared directions, angles, cosines, intruders, the course of a run.
    #[command(after_help = crate::commands::compare::EXAMPLES)]
    Compare(crate::commands::compare::Options),
    /// Draw a figure from recorded runs.
    #[command(
        after_help = "Examples:\n  rankwise figure figure1 --runs out/runs --out figures\n  \
        rankwise figure curves --runs runs --out figures\n  \
        rankwise figure peer --runs runs --peer peft.jsonl --out figures"
    )]
    Figure(FigureOptions),
    /// Print a table of recorded runs.
    #[command(
        after_help = "Examples:\n  rankwise table equal-loss --runs out/runs\n  \
        rankwise table runs --runs runs --out tables\n  \
        rankwise table peer --runs runs --peer peft.jsonl --json"
    )]
    Table(TableOptions),
    /// Time the hot paths, a peer's beside them.
    #[command(
        after_help = "Examples:\n  RANKWISE_PYTHON=python3 rankwise bench spectra\n  \
        rankwise bench theorem --out bench"
    )]
    Bench(BenchOptions),
    /// Read a table of metrics and write it as JSON; a process of its own, as some readers may not
    /// survive a hostile file.
    #[command(hide = true)]
    ReadTable(read_table::Options),
    /// Print a completion script for a shell.
    Completions {
        /// The shell.
        shell: Shell,
    },
}

impl Command {
    /// Whether the tensor library does the work.
    pub fn multiplies_tensors(&self) -> bool {
        matches!(
            self,
            Self::Features(_)
                | Self::Train(_)
                | Self::Reproduce(_)
                | Self::Bench(BenchOptions {
                    name: BenchName::Train | BenchName::Device,
                    ..
                })
        )
    }
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
    /// A transformer to fine-tune: a checkpoint folder, or an id of the Hub. Without one, heads over
    /// fixed features are trained.
    #[arg(long, value_name = "DIR|ID")]
    pub model: Option<String>,
    /// With --model: a trained adapter whose numbers the run begins with; it says which modules are
    /// adapted, R and α.
    #[arg(long, value_name = "DIR", requires = "model")]
    pub adapter: Option<PathBuf>,
    /// With --model: the task, such as mrpc, squad, banking77, text, cifar100, food101 or images.
    #[arg(long, value_name = "NAME", requires = "model")]
    pub task: Option<String>,
    /// With --model: the folder of the task's data.
    #[arg(long, value_name = "DIR", requires = "model")]
    pub data: Option<PathBuf>,
    /// Methods: full, lora, r-lora, gm-lora, rm-lora; with --model also bitfit, rs-lora, lora-plus,
    /// dora, pissa, olora, vera, adalora, sora, dylora, prilora, delta-lora, bilora.
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    pub method: Vec<String>,
    /// With --model: modules that get an update, by the ends of their names or regular expressions.
    #[arg(long, value_delimiter = ',', value_name = "NAMES", requires = "model")]
    pub targets: Vec<String>,
    /// With --model: how often the training examples are gone through.
    #[arg(long, value_name = "N", requires = "model")]
    pub epochs: Option<usize>,
    /// With --model: the highest learning rate.
    #[arg(long, value_name = "RATE", requires = "model")]
    pub learning_rate: Option<f64>,
    /// With --model: pass over at most N bad lines or images.
    #[arg(long, value_name = "N", requires = "model")]
    pub skip_bad: Option<usize>,
    /// With --model: nothing is downloaded; ids must be in the cache.
    #[arg(long, requires = "model")]
    pub offline: bool,
    /// With --model: print counts and estimates, and train nothing.
    #[arg(long, requires = "model")]
    pub dry_run: bool,
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

#[derive(Debug, Args)]
pub struct ReproduceOptions {
    /// The small reproduction, on embedded data: about half a minute.
    #[arg(long)]
    pub quick: bool,
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("instead").multiple(false))]
pub struct VerifyOptions {
    /// Verify the cases of a JSON file and print every quantity of each as JSON.
    #[arg(long, value_name = "FILE", group = "instead")]
    pub case: Option<PathBuf>,
    /// Show that Eq. 8 as printed fails for every choice of adapters, for D from 4 to 1024.
    #[arg(long, group = "instead")]
    pub counterexample: bool,
    /// Verify N random configurations: shapes, uneven partitions, ranks, biases.
    #[arg(long, value_name = "N", group = "instead")]
    pub random: Option<usize>,
    /// Measure the transformer theorem: exact from its threshold on, the error curve below it.
    #[arg(long, group = "instead")]
    pub transformer: bool,
    /// Train adapters by gradient descent on the same kind of networks, beside the constructed ones.
    #[arg(long, group = "instead")]
    pub descent: bool,
    /// Compare two checkpoints of one model: e_R of every matrix, told apart from rounding. The
    /// checkpoint before training: a folder or a .safetensors file.
    #[arg(long, value_name = "DIR", group = "instead", requires = "tuned")]
    pub base: Option<PathBuf>,
    /// The checkpoint after training.
    #[arg(long, value_name = "DIR", requires = "base")]
    pub tuned: Option<PathBuf>,
    /// Take a second opinion on every spectrum from another library.
    #[arg(long)]
    pub oracle: bool,
    #[command(flatten)]
    pub grid: GridOptions,
}

/// The grid of random problems; every flag replaces one axis.
#[derive(Debug, Args)]
#[command(next_help_heading = "Grid of random problems")]
pub struct GridOptions {
    /// Values of D, the networks' width [default: 8,16,32,64].
    #[arg(
        long,
        visible_alias = "width",
        value_delimiter = ',',
        value_name = "LIST"
    )]
    pub widths: Option<Vec<usize>>,
    /// Values of L̄, the target's depth.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "1,2,3",
        value_name = "LIST"
    )]
    pub target_layers: Vec<usize>,
    /// Values of |P_i|, the frozen layers for each of the target.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "1,2,3",
        value_name = "LIST"
    )]
    pub block_layers: Vec<usize>,
    /// gaussian, orthogonal, near-identity:NOISE, low-rank:RANK, ill-conditioned:CONDITION,
    /// rank-deficient:RANK [default: one of each].
    #[arg(long, value_delimiter = ',', value_name = "LIST")]
    pub families: Option<Vec<Family>>,
    /// Values of R, the same in every layer [default: all from 0 to D].
    #[arg(long, value_delimiter = ',', value_name = "LIST")]
    pub ranks: Option<Vec<usize>>,
    /// Expected norms of the target's biases.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "0,1",
        value_name = "LIST"
    )]
    pub bias_scales: Vec<f64>,
    /// Random problems of every kind.
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub draws: u64,
    /// Gaussian inputs to measure the error on.
    #[arg(long, default_value_t = 200, value_name = "N")]
    pub samples: usize,
    /// Whether biases hold on the sample, or on the ball around it: sample or ball.
    #[arg(long, default_value = "sample", value_parser = named::<Lift>, value_name = "NAME")]
    pub lift: Lift,
    /// How an update is split over layers: small-first, or large-first as in the paper.
    #[arg(long, default_value = "small-first", value_parser = named::<Order>, value_name = "NAME")]
    pub order: Order,
    /// What an update is chosen for: plain, second-moment or regression.
    #[arg(long, default_value = "plain", value_parser = named::<Aim>, value_name = "NAME")]
    pub aim: Aim,
}

/// One of a closed set of names, as they are written in files.
pub fn named<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    serde_json::from_value(text.into()).map_err(|error| error.to_string())
}

#[derive(Debug, Args)]
pub struct FigureOptions {
    /// Which figure.
    pub name: FigureName,
    /// The folder of the runs' folders.
    #[arg(long, value_name = "DIR")]
    pub runs: PathBuf,
    /// For `peer`: the peer's runs, one line of JSON each.
    #[arg(long, value_name = "FILE", required_if_eq("name", "peer"))]
    pub peer: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum FigureName {
    /// Heads: loss, accuracies and their gap against the epoch.
    Figure1,
    /// Heads: rank against gap and test accuracy.
    RankGeneralization,
    /// Fine-tuning: the deciding metric and the training loss by epoch.
    Curves,
    /// Fine-tuning: the mean effective rank of ΔW by epoch.
    Ranks,
    /// Fine-tuning: the effective rank of ΔW by layer and kind of module.
    Modules,
    /// Fine-tuning: the deciding metric beside a peer's, every seed.
    Peer,
}

#[derive(Debug, Args)]
pub struct BenchOptions {
    /// What to time.
    pub name: BenchName,
    /// Times of which the median is taken.
    #[arg(long, default_value_t = 5, value_name = "N")]
    pub repeats: usize,
    /// Widths of the matrices, for `spectra`.
    #[arg(long, value_delimiter = ',', default_values_t = [64, 256, 1024], value_name = "D,…")]
    pub sizes: Vec<usize>,
    /// cpu or cuda:N, for `device`.
    #[arg(long, value_name = "DEVICE")]
    pub device: Option<DeviceName>,
    /// A BERT checkpoint folder with its tokenizer, for `train`.
    #[arg(long, value_name = "DIR", requires = "data")]
    pub model: Option<PathBuf>,
    /// The folder of GLUE's MRPC, for `train`.
    #[arg(long, value_name = "DIR", requires = "model")]
    pub data: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum BenchName {
    /// Singular values and decompositions beside NumPy's and PyTorch's.
    Spectra,
    /// One verification of the theorem against width and depth.
    Theorem,
    /// A device's numbers beside the CPU's, on small models of every family; exit code 1 if they are
    /// too far apart.
    Device,
    /// Training steps and, with --model and --data, an epoch of MRPC beside PyTorch with PEFT.
    Train,
}

#[derive(Debug, Args)]
pub struct TableOptions {
    /// Which table.
    pub name: TableName,
    /// The folder of the runs' folders.
    #[arg(long, value_name = "DIR")]
    pub runs: PathBuf,
    /// For `peer`: the peer's runs, one line of JSON each: {"task", "method", "seed", "epochs":
    /// [{"train_loss", metrics …}]}.
    #[arg(long, value_name = "FILE", required_if_eq("name", "peer"))]
    pub peer: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum TableName {
    /// The end of every run; of fine-tuning runs also means over seeds, with --out all tables and
    /// the page runs.html.
    Runs,
    /// Heads: methods at the end of training.
    End,
    /// Heads: methods at equal training loss.
    EqualLoss,
    /// Heads: methods at equal training accuracy.
    EqualAccuracy,
    /// Heads: methods less LoRA of the same R, at the end, at equal training loss and accuracy.
    AgainstLora,
    /// Heads: rank measures against outcomes.
    Link,
    /// Fine-tuning: means over seeds beside a peer's.
    Peer,
}

fn key_and_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(format!("expected KEY=VALUE, found {text:?}")),
    }
}

const AUDIT_EXAMPLES: &str = "Examples:
  rankwise audit my-adapter/
  rankwise audit 'runs/*/adapter' --out audit
  rankwise audit my-dora/ --base pretrained/
  rankwise audit adapters/ --metrics results.csv --out audit
  rankwise audit my-adapter/ --fail-on non_finite --fail-on 'median(effective_rank) < 2'
  rankwise audit --base pretrained/ --tuned fine-tuned/ --out changes

Exit codes: 0 done, 2 nothing could be audited or bad usage, 3 a rule of --fail-on is broken.";

/// The rules' language after the examples.
fn audit_help() -> String {
    let language = rankwise_analysis::RULE_LANGUAGE;
    format!("{AUDIT_EXAMPLES}\n\nRules of --fail-on\n\n{language}")
}
