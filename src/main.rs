//! The command line of rankwise; see `rankwise --help`.

mod cli;
mod commands;
mod common;
mod help;
mod interrupt;
mod progress;
mod stdout;

use std::process::ExitCode;

fn main() -> ExitCode {
    // A bad flag or value ends here, with clap's message and exit code 2.
    let arguments = cli::Arguments::parse();
    if arguments.command.multiplies_tensors()
        && let Err(error) = restart_with_quiet_products()
    {
        eprintln!("error: the program could not start itself: {error}");
        return ExitCode::from(2);
    }
    let interrupts = match interrupt::Interrupts::watch(&arguments) {
        Ok(interrupts) => interrupts,
        Err(error) => {
            eprintln!("error: signals cannot be watched: {error}");
            return ExitCode::from(2);
        }
    };
    let outcome = commands::run(&arguments);
    interrupts.hold();
    match outcome {
        Ok(commands::Outcome::Done) => ExitCode::SUCCESS,
        Ok(commands::Outcome::CheckFailed) => ExitCode::from(1),
        Ok(commands::Outcome::RuleBroken) => ExitCode::from(3),
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Starts the program over with `RAYON_NUM_THREADS=1` in its environment, once.
///
/// The tensor library asks for the number of threads at every matrix product, and where that
/// variable is missing it counts the processors in the file system each time, which takes longer
/// than a product of our size. Our own threads are counted from `--threads`. A process can change
/// its environment safely only before it starts.
#[cfg(unix)]
fn restart_with_quiet_products() -> std::io::Result<()> {
    use std::os::unix::process::CommandExt;
    const MARK: &str = "RANKWISE_STARTED";
    if std::env::var_os(MARK).is_some() {
        return Ok(());
    }
    let mut arguments = std::env::args_os();
    let name = arguments.next().unwrap_or_default();
    let program = std::env::current_exe()?;
    // `exec` returns only if it failed.
    Err(std::process::Command::new(program)
        .arg0(name)
        .args(arguments)
        .env("RAYON_NUM_THREADS", "1")
        .env(MARK, "1")
        .exec())
}

#[cfg(not(unix))]
fn restart_with_quiet_products() -> std::io::Result<()> {
    Ok(())
}
