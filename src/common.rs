//! Options that several commands have. Each command offers those that it obeys, and no others.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::builder::ValueHint;
use clap::{Arg, ArgAction, ArgMatches, value_parser};

const HEADING: &str = "Common options";

/// What was given of them.
#[derive(Debug, Default)]
pub struct Common {
    pub out: Option<PathBuf>,
    pub seed: Option<u64>,
    pub threads: Option<NonZeroUsize>,
    pub json: bool,
    pub quiet: bool,
}

impl Common {
    /// Those of the command that was given, perhaps a command's command.
    pub fn of(mut matches: &ArgMatches) -> Self {
        while let Some((_, inner)) = matches.subcommand() {
            matches = inner;
        }
        // An option that the command does not offer is an unknown name to its matches.
        fn value<T: Clone + Send + Sync + 'static>(matches: &ArgMatches, name: &str) -> Option<T> {
            matches.try_get_one(name).ok().flatten().cloned()
        }
        Self {
            out: value(matches, "out"),
            seed: value(matches, "seed"),
            threads: value(matches, "threads"),
            json: value(matches, "json").unwrap_or(false),
            quiet: value(matches, "quiet").unwrap_or(false),
        }
    }
}

/// `--out DIR`: a folder with what `help` says.
pub fn folder(help: &'static str) -> Arg {
    Arg::new("out")
        .long("out")
        .value_name("DIR")
        .value_hint(ValueHint::DirPath)
        .value_parser(value_parser!(PathBuf))
        .help_heading(HEADING)
        .help(help)
}

/// `--seed N`.
pub fn seed(help: &'static str) -> Arg {
    Arg::new("seed")
        .long("seed")
        .value_name("N")
        .value_parser(value_parser!(u64))
        .help_heading(HEADING)
        .help(help)
}

/// `--json`.
pub fn json() -> Arg {
    Arg::new("json")
        .long("json")
        .action(ArgAction::SetTrue)
        .help_heading(HEADING)
        .help("Print JSON instead of tables")
}

/// `--threads N` and `--quiet`.
pub fn usual() -> [Arg; 2] {
    [
        Arg::new("threads")
            .long("threads")
            .value_name("N")
            .value_parser(value_parser!(NonZeroUsize))
            .help_heading(HEADING)
            .help("Threads to use [default: all processors]; the results do not depend on it"),
        Arg::new("quiet")
            .long("quiet")
            .short('q')
            .action(ArgAction::SetTrue)
            .help_heading(HEADING)
            .help("Print nothing but errors and what makes a run worthless"),
    ]
}
