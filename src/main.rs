//! The command line of rankwise; see `rankwise --help`.

mod cli;
mod commands;
mod progress;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    // A bad flag or value ends here, with clap's message and exit code 2.
    let arguments = cli::Arguments::parse();
    match commands::run(&arguments) {
        Ok(commands::Outcome::Done) => ExitCode::SUCCESS,
        Ok(commands::Outcome::CheckFailed) => ExitCode::from(1),
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}
