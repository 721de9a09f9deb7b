pub mod audit;
pub mod bench;
mod bench_device;
mod bench_train;
mod checkpoints;
pub mod compare;
pub mod extract;
mod features;
pub mod merge;
mod output;
pub mod params;
pub mod read_table;
mod reproduce;
pub mod resize;
mod show;
mod train;
mod tune;
mod tuned;
mod verify;

use std::io::Write;

use crate::cli::{Arguments, Command};
use crate::stdout::Stdout;
use anyhow::Result;

/// How a command that ran to its end ended.
pub enum Outcome {
    /// Everything held.
    Done,
    /// A check did not hold.
    CheckFailed,
    /// A rule that the user gave did not hold.
    RuleBroken,
}

pub fn run(arguments: &Arguments) -> Result<Outcome> {
    let outcome = dispatch(arguments)?;
    let common = &arguments.common;
    // `figure` prints the names of its files itself.
    if let Some(out) = &common.out
        && !common.quiet
        && !matches!(arguments.command, Command::Figure(_))
    {
        for line in output::written(out) {
            eprintln!("{line}");
        }
    }
    Ok(outcome)
}

fn dispatch(arguments: &Arguments) -> Result<Outcome> {
    let common = &arguments.common;
    let all = std::thread::available_parallelism()?;
    let threads = common.threads.unwrap_or(all).get();
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build_global()?;
    match &arguments.command {
        Command::Features(options) => features::run(options, common),
        Command::Reproduce(options) => reproduce::run(options, common),
        Command::Verify(options) => verify::run(options, common),
        Command::Audit(options) => audit::run(options, common),
        Command::Resize(options) => resize::run(options, common),
        Command::Extract(options) => extract::run(options, common),
        Command::Merge(options) => merge::run(options, common),
        Command::Compare(options) => compare::run(options, common),
        Command::Figure(options) => show::figure(options, common),
        Command::Table(options) => show::table(options, common),
        Command::Train(options) => train::run(options, common),
        Command::Params(options) => params::run(options, common),
        Command::Bench(options) => bench::run(options, common),
        Command::ReadTable(options) => read_table::run(options),
        Command::Completions { shell } => {
            let mut command = Arguments::visible();
            clap_complete::generate(*shell, &mut command, "rankwise", &mut Stdout);
            Stdout.flush()?;
            Ok(Outcome::Done)
        }
    }
}
