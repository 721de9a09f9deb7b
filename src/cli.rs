use std::path::PathBuf;

use clap::builder::{
    PossibleValue, PossibleValuesParser, StringValueParser, TypedValueParser, ValueHint,
};
use clap::{ArgGroup, Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use rankwise_theory::{Aim, Family, Lift, Order};
use rankwise_training::{DeviceName, Method, TuneConfig};
use serde::de::DeserializeOwned;

use crate::commands::{audit, bench, read_table};
pub use crate::common::Common;
use crate::common::{folder, json, seed, usual};
use crate::help;

/// What the user typed.
#[derive(Debug)]
pub struct Arguments {
    pub command: Command,
    pub common: Common,
}

impl Arguments {
    /// Reads the command line; what is wrong with it ends the program with a message and exit code 2.
    pub fn parse() -> Self {
        let matches = Line::command().get_matches();
        match Line::from_arg_matches(&matches) {
            Ok(line) => Self {
                command: line.command,
                common: Common::of(&matches),
            },
            Err(error) => error.format(&mut Line::command()).exit(),
        }
    }

    /// The command line as a user sees it, without what is hidden.
    pub fn visible() -> clap::Command {
        let whole = Line::command();
        let shown = whole
            .get_subcommands()
            .filter(|command| !command.is_hide_set());
        clap::Command::new("rankwise")
            .version(env!("CARGO_PKG_VERSION"))
            .propagate_version(true)
            .subcommand_required(true)
            .subcommands(shown.cloned().collect::<Vec<_>>())
    }
}

/// The rank theory of low-rank adaptation: verify the theorem, train the methods, audit adapters.
#[derive(Debug, Parser)]
#[command(name = "rankwise", version, propagate_version = true)]
struct Line {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Turn labelled texts into sentence features with a BERT checkpoint.
    #[command(
        after_help = "Example:\n  rankwise features --model all-MiniLM-L6-v2 --data train.csv \
        --test test.csv --per-class 40 --out banking77.safetensors",
        arg = folder("The file of features that is written, .safetensors")
            .value_name("FILE").value_hint(ValueHint::FilePath).required(true),
        arg = json(),
        args = usual()
    )]
    Features(FeaturesOptions),
    /// Fine-tune a transformer, or adapters of a classification head: one run for every method, rank
    /// and seed.
    #[command(
        after_help = help::TRAIN_EXAMPLES,
        after_long_help = help::train(),
        arg = folder("Folder for the runs' folders; of fine-tuning runs also the page runs.html. A run that \
            is there and not finished goes on"),
        arg = seed("Seed of every random stream [default: 0]"),
        arg = json(),
        args = usual()
    )]
    Train(TrainOptions),
    /// Count what a method trains on a model, by kind of module; no weights are needed.
    #[command(
        after_help = "Examples:\n  rankwise params --model deberta-v3-base --rank 4,8\n  \
        rankwise params --model deberta-v3-base --rank 4,8 --train-also pooler.dense\n  \
        rankwise params --model gpt2 --rank 8,16 --sets --find 8:0.85M,16:1.69M\n  \
        rankwise params --model my-checkpoint/ --method vera --rank 256",
        arg = json(),
        args = usual()
    )]
    Params(crate::commands::params::Options),
    /// Go through everything once: theorem, training, ranks, figures, report.
    #[command(
        after_help = "Example:\n  rankwise reproduce --quick --out out\n\nFinished runs in the \
        folder are not trained again; a killed reproduction goes on where it was. --seed N trains with \
        seeds 3N, 3N + 1 and 3N + 2 and draws the theorem's problems with 5N to 5N + 4, so that two N share \
        none; a folder of another seed, version or settings is refused.",
        arg = folder("Folder for report.html, report.md, report.json, figures/, runs/ and theory.parquet")
            .default_value("out"),
        arg = seed("Seed of everything [default: 0]"),
        arg = json(),
        args = usual()
    )]
    Reproduce(ReproduceOptions),
    /// Check the theorem's bounds on random networks; exit code 1 if a proved one is violated.
    #[command(
        after_help = help::VERIFY_EXAMPLES,
        after_long_help = help::verify(),
        arg = folder("Folder for the records (theory.csv and .parquet, or a JSON file called after what was \
            verified) and figures; of two checkpoints also checkpoints.html"),
        arg = seed("Seed of the random problems [default: 0]")
            .conflicts_with_all(["case", "counterexample", "base"]),
        arg = json(),
        args = usual()
    )]
    Verify(VerifyOptions),
    /// Measure the rank of every update in trained adapters, or of the difference of two checkpoints.
    #[command(
        after_help = help::AUDIT_EXAMPLES,
        after_long_help = help::audit(),
        arg = folder("Folder for the page audit.html, audit.json and tables (CSV and Parquet) of modules, \
            findings and what was refused; with --metrics link.csv and its figure; with --tuned \
            checkpoints.html, checkpoints.json and layer-errors.csv"),
        arg = seed("Seed of the intervals and permutations of --metrics [default: 0]").requires("metrics"),
        arg = json(),
        args = usual()
    )]
    Audit(audit::Options),
    /// Cut every update of an adapter down to its best approximation of a lower rank.
    #[command(
        after_help = "Examples:\n  rankwise resize my-adapter/ --rank 4 --out small\n  \
        rankwise resize my-adapter/ --energy 0.99 --dtype f16 --out small\n  \
        rankwise resize my-adapter/ --rank-per-module '{\"q_proj\": 8, \"v_proj\": 2}' --out small",
        arg = folder("New folder for the adapter, its configuration and resize.json").required(true),
        arg = json(),
        args = usual()
    )]
    Resize(crate::commands::resize::Options),
    /// Make an adapter of the difference of two checkpoints.
    #[command(
        after_help = "Examples:\n  rankwise extract --base pretrained/ --tuned fine-tuned/ --rank 16 --out adapter\n  \
        rankwise extract --base pretrained/ --tuned merged/ --above-noise --out adapter",
        arg = folder("New folder for the adapter, its configuration and extract.json").required(true),
        arg = json(),
        args = usual()
    )]
    Extract(crate::commands::extract::Options),
    /// Merge an adapter into its base model: a checkpoint that needs no adapter.
    #[command(
        after_help = "Examples:\n  rankwise merge --base pretrained/ --adapter my-adapter/ --out merged\n  \
        rankwise merge --base pretrained/ --adapter my-pissa/ --initial my-pissa/init/ --out merged\n  \
        rankwise merge --base pretrained/ --adapter my-adapter/ --dtype bf16 --out merged --json",
        arg = folder("New folder for the checkpoint, the files beside it and merge.json").required(true),
        arg = json(),
        args = usual()
    )]
    Merge(crate::commands::merge::Options),
    /// Compare adapters: shared directions, angles, cosines, intruders, the course of a run.
    #[command(
        after_help = crate::commands::compare::EXAMPLES,
        arg = folder("Folder for comparison.json, tables (CSV and Parquet), figures and their HTML"),
        arg = json(),
        args = usual()
    )]
    Compare(crate::commands::compare::Options),
    /// Draw a figure from recorded runs.
    #[command(
        after_help = "Examples:\n  rankwise figure figure1 --runs out/runs --out figures\n  \
        rankwise figure curves --runs runs --out figures\n  \
        rankwise figure peer --runs runs --peer peft.jsonl --out figures",
        arg = folder("Folder for the figure as SVG and PNG; the files' names are printed").required(true),
        args = usual()
    )]
    Figure(FigureOptions),
    /// Print a table of recorded runs.
    #[command(
        after_help = "Examples:\n  rankwise table equal-loss --runs out/runs\n  \
        rankwise table runs --runs runs --out tables\n  \
        rankwise table peer --runs runs --peer peft.jsonl --json",
        arg = folder("Folder for the table as JSON, CSV and Parquet; of fine-tuning runs also the means over \
            seeds and the page runs.html"),
        arg = seed("For link: seed of the intervals and permutations [default: 0]"),
        arg = json(),
        args = usual()
    )]
    Table(TableOptions),
    /// Time the hot paths, a peer's beside them.
    #[command(
        subcommand,
        after_help = "Examples:\n  RANKWISE_PYTHON=python3 rankwise bench spectra\n  \
        rankwise bench theorem --out bench\n\nA peer is run by the Python that RANKWISE_PYTHON names \
        [default: python3]."
    )]
    Bench(bench::Bench),
    /// Read a table of metrics and write it as JSON; a process of its own, as some readers may not
    /// survive a hostile file.
    #[command(hide = true)]
    ReadTable(read_table::Options),
    /// Print a completion script for a shell.
    #[command(after_help = "Example:\n  rankwise completions bash > \
        ~/.local/share/bash-completion/completions/rankwise")]
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
                | Self::Bench(bench::Bench::Train(_) | bench::Bench::Device(_))
        )
    }
}

#[derive(Debug, Args)]
pub struct FeaturesOptions {
    /// Folder of the encoder: config.json, model.safetensors, tokenizer.json.
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub model: PathBuf,
    /// CSV file of the training texts.
    #[arg(long, value_name = "CSV", value_hint = ValueHint::FilePath)]
    pub data: PathBuf,
    /// CSV file of the test texts.
    #[arg(long, value_name = "CSV", value_hint = ValueHint::FilePath)]
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
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub config: Option<PathBuf>,
    /// A transformer to fine-tune: a checkpoint folder, or an id of the Hub. Without one, here or as
    /// `path` under `[model]` in the --config file, heads over fixed features are trained.
    #[arg(long, value_name = "DIR|ID", value_hint = ValueHint::DirPath)]
    pub model: Option<String>,
    /// With --model: a trained adapter whose numbers the run begins with; it says which modules are
    /// adapted, R and α.
    #[arg(long, value_name = "DIR", value_hint = ValueHint::AnyPath)]
    pub adapter: Option<PathBuf>,
    /// With --model: the task [default: mrpc]; what each reads is under `rankwise train --help`.
    #[arg(
        long,
        value_name = "NAME",
        value_parser = Suggested(TuneConfig::TASKS)
    )]
    pub task: Option<String>,
    /// With --model: the folder of the task's data, or for GLUE and images an id of the Hub.
    #[arg(long, value_name = "DIR|ID", value_hint = ValueHint::DirPath)]
    pub data: Option<PathBuf>,
    /// Methods [default: lora]; without --model full, lora, r-lora, gm-lora and rm-lora.
    #[arg(
        long,
        value_delimiter = ',',
        value_name = "NAMES",
        value_parser = Suggested(&Method::KEYS)
    )]
    pub method: Vec<String>,
    /// With --model: modules that get an update, by the ends of their names or regular expressions.
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    pub targets: Vec<String>,
    /// How often the training examples are gone through.
    #[arg(long, value_name = "N")]
    pub epochs: Option<usize>,
    /// The highest learning rate; with --model several, a run each.
    #[arg(long, value_delimiter = ',', value_name = "RATES")]
    pub learning_rate: Vec<f64>,
    /// With --model: pass over at most N bad lines or images.
    #[arg(long, value_name = "N")]
    pub skip_bad: Option<usize>,
    /// With --model: nothing is downloaded; ids must be in the cache.
    #[arg(long)]
    pub offline: bool,
    /// With --model: print counts and estimates, and train nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// Values of R [default: 8 with --model, else 32].
    #[arg(long, value_delimiter = ',', value_name = "RANKS")]
    pub rank: Vec<usize>,
    /// Seeds; --seed gives one.
    #[arg(long, value_delimiter = ',', value_name = "SEEDS")]
    pub seeds: Vec<u64>,
    /// Set any key of the configuration, such as method.lambda=1e-3; may be repeated.
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_and_value)]
    pub set: Vec<(String, String)>,
    /// cpu or cuda:N [default: cpu].
    #[arg(long, value_name = "DEVICE", value_parser = device())]
    pub device: Option<DeviceName>,
    /// Print the configurations with α, targets and other defaults written out, a comment above every
    /// key (with --json as JSON), and train nothing.
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
    /// Verify the cases of a JSON file and print every quantity of each as JSON, one case a line; the
    /// format is under `rankwise verify --help`.
    #[arg(long, value_name = "FILE", group = "instead", value_hint = ValueHint::FilePath)]
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
    #[arg(long, value_name = "DIR", group = "instead", requires = "tuned", value_hint = ValueHint::AnyPath)]
    pub base: Option<PathBuf>,
    /// The checkpoint after training.
    #[arg(long, value_name = "DIR", requires = "base", value_hint = ValueHint::AnyPath)]
    pub tuned: Option<PathBuf>,
    /// Take a second opinion on every spectrum from another library.
    #[arg(
        long,
        conflicts_with_all = ["counterexample", "random", "transformer", "descent", "base"]
    )]
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
        conflicts_with = "instead",
        visible_alias = "width",
        value_delimiter = ',',
        value_name = "LIST"
    )]
    pub widths: Option<Vec<usize>>,
    /// Values of L̄, the target's depth.
    #[arg(
        long,
        conflicts_with = "instead",
        value_delimiter = ',',
        default_value = "1,2,3",
        value_name = "LIST"
    )]
    pub target_layers: Vec<usize>,
    /// Values of |P_i|, the frozen layers for each of the target.
    #[arg(
        long,
        conflicts_with = "instead",
        value_delimiter = ',',
        default_value = "1,2,3",
        value_name = "LIST"
    )]
    pub block_layers: Vec<usize>,
    /// gaussian, orthogonal, near-identity:NOISE, low-rank:RANK, ill-conditioned:CONDITION,
    /// rank-deficient:RANK [default: one of each].
    #[arg(
        long,
        conflicts_with = "instead",
        value_delimiter = ',',
        value_name = "LIST"
    )]
    pub families: Option<Vec<Family>>,
    /// Values of R, the same in every layer [default: all from 0 to D].
    #[arg(
        long,
        conflicts_with = "instead",
        value_delimiter = ',',
        value_name = "LIST"
    )]
    pub ranks: Option<Vec<usize>>,
    /// Expected norms of the target's biases.
    #[arg(
        long,
        conflicts_with = "instead",
        value_delimiter = ',',
        default_value = "0,1",
        value_name = "LIST"
    )]
    pub bias_scales: Vec<f64>,
    /// Random problems of every kind.
    #[arg(
        long,
        conflicts_with = "instead",
        default_value_t = 1,
        value_name = "N"
    )]
    pub draws: u64,
    /// Gaussian inputs to measure the error on.
    #[arg(
        long,
        conflicts_with = "instead",
        default_value_t = 200,
        value_name = "N"
    )]
    pub samples: usize,
    /// Whether biases hold on the sample, or on the ball around it.
    #[arg(long, conflicts_with = "instead", default_value = "sample", value_parser = named::<Lift>(&["sample", "ball"]), value_name = "NAME")]
    pub lift: Lift,
    /// How an update is split over layers: in the paper large-first.
    #[arg(long, conflicts_with = "instead", default_value = "small-first", value_parser = named::<Order>(&["small-first", "large-first"]), value_name = "NAME")]
    pub order: Order,
    /// What an update is chosen for.
    #[arg(long, conflicts_with = "instead", default_value = "plain", value_parser = named::<Aim>(&["plain", "second-moment", "regression"]), value_name = "NAME")]
    pub aim: Aim,
}

/// One of a closed set of names, as they are written in files.
pub fn named<T>(names: &'static [&'static str]) -> impl TypedValueParser<Value = T>
where
    T: DeserializeOwned + Clone + Send + Sync + 'static,
{
    PossibleValuesParser::new(names.iter().copied())
        .try_map(|name| serde_json::from_value::<T>(name.into()))
}

/// Any text, with names that help and a shell offer: what uses it knows more than the names, and says
/// what is wrong with it.
#[derive(Debug, Clone)]
pub struct Suggested(pub &'static [&'static str]);

impl TypedValueParser for Suggested {
    type Value = String;

    fn parse_ref(
        &self,
        command: &clap::Command,
        argument: Option<&clap::Arg>,
        value: &std::ffi::OsStr,
    ) -> Result<String, clap::Error> {
        StringValueParser::new().parse_ref(command, argument, value)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new(self.0.iter().map(PossibleValue::new)))
    }
}

/// `cpu` or `cuda:N`.
pub fn device() -> impl TypedValueParser<Value = DeviceName> {
    Suggested(&["cpu", "cuda:0"]).try_map(|text| text.parse::<DeviceName>())
}

#[derive(Debug, Args)]
pub struct FigureOptions {
    /// Which figure.
    pub name: FigureName,
    /// The folder of the runs' folders.
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub runs: PathBuf,
    /// For `peer`: the peer's runs, one line of JSON each.
    #[arg(long, value_name = "FILE", required_if_eq("name", "peer"), value_hint = ValueHint::FilePath)]
    pub peer: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum FigureName {
    /// Heads: loss, accuracies and gap against the epoch.
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
pub struct TableOptions {
    /// Which table.
    pub name: TableName,
    /// The folder of the runs' folders.
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub runs: PathBuf,
    /// For `peer`: the peer's runs, one line of JSON each: {"task", "method", "seed", "epochs":
    /// [{"train_loss", metrics …}]}.
    #[arg(long, value_name = "FILE", required_if_eq("name", "peer"), value_hint = ValueHint::FilePath)]
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
