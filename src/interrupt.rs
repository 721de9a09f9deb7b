//! Ctrl-C: what is unfinished is taken away, what is finished stays, and how to go on is said.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use crate::cli::{Arguments, Command};

/// What the same command does if it is given again.
#[derive(Debug, Clone)]
enum Again {
    /// It goes on with the runs in this folder.
    GoesOn(PathBuf),
    /// It begins anew, with results in this folder or file if there is one.
    Begins(Option<PathBuf>),
}

impl Again {
    fn of(arguments: &Arguments) -> Self {
        let out = arguments.common.out.clone();
        match (&arguments.command, out) {
            (Command::Train(_), Some(out)) => Self::GoesOn(out),
            (Command::Reproduce(_), Some(out)) => Self::GoesOn(out.join("runs")),
            (_, out) => Self::Begins(out),
        }
    }

    /// What is where, and how to go on; `whole` are the result's files so far.
    fn message(&self, whole: &[PathBuf]) -> String {
        match self {
            Self::GoesOn(folder) => runs_message(folder),
            Self::Begins(None) => "nothing was written; the same command begins anew".to_owned(),
            Self::Begins(Some(out)) if whole.is_empty() => format!(
                "nothing was written to {}; the same command begins anew",
                out.display()
            ),
            Self::Begins(Some(out)) => format!(
                "{} of its files {} whole in {}; the same command begins anew and replaces what it \
                 writes",
                whole.len(),
                if whole.len() == 1 { "is" } else { "are" },
                out.display()
            ),
        }
    }
}

/// How far the runs of a folder are.
fn runs_message(folder: &Path) -> String {
    let runs = std::fs::read_dir(folder).into_iter().flatten();
    let runs = runs.filter_map(|entry| Some(entry.ok()?.path()));
    let (mut finished, mut checkpoint, mut begun) = (0, 0, 0);
    for run in runs.filter(|path| path.join("config.toml").is_file()) {
        if run.join("run.json").is_file() {
            finished += 1;
        } else if run.join("checkpoint.safetensors").is_file() {
            checkpoint += 1;
        } else {
            begun += 1;
        }
    }
    let mut parts = Vec::new();
    for (count, what) in [
        (finished, "finished"),
        (checkpoint, "with a checkpoint"),
        (begun, "begun without one"),
    ] {
        if count > 0 {
            parts.push(format!("{count} {what}"));
        }
    }
    let mut text = match parts.is_empty() {
        true => format!("no run was begun in {}", folder.display()),
        false => format!("runs in {}: {}", folder.display(), parts.join(", ")),
    };
    let end = match checkpoint {
        0 => "; the same command begins with what is not finished",
        _ => "; the same command goes on from the last checkpoint",
    };
    let _ = write!(text, "{end}");
    text
}

#[cfg(unix)]
pub use unix::Interrupts;

#[cfg(unix)]
mod unix {
    use std::io;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use rankwise_data::abandon_unfinished;
    use signal_hook::consts::{SIGINT, SIGTERM};
    use signal_hook::flag;
    use signal_hook::iterator::Signals;

    use super::{Again, Arguments};
    use crate::progress;

    /// What a shell adds to a signal's number.
    const SIGNALLED: i32 = 128;

    /// Whether a signal to end has come.
    pub struct Interrupts(Arc<AtomicBool>);

    impl Interrupts {
        /// From now on SIGINT and SIGTERM end the program in order, and a second one at once.
        pub fn watch(arguments: &Arguments) -> io::Result<Self> {
            let came = Arc::new(AtomicBool::new(false));
            for signal in [SIGINT, SIGTERM] {
                flag::register_conditional_shutdown(signal, SIGNALLED + signal, came.clone())?;
                flag::register(signal, came.clone())?;
            }
            let mut signals = Signals::new([SIGINT, SIGTERM])?;
            let again = Again::of(arguments);
            let out = arguments.common.out.clone().unwrap_or_default();
            std::thread::Builder::new()
                .name("signals".to_owned())
                .spawn(move || {
                    if let Some(signal) = signals.forever().next() {
                        let whole = abandon_unfinished(&out);
                        progress::clear();
                        eprintln!("interrupted: {}", again.message(&whole));
                        std::process::exit(SIGNALLED + signal);
                    }
                })?;
            Ok(Self(came))
        }

        /// Returns unless a signal has come: then what went wrong is its doing, and the program ends.
        pub fn hold(&self) {
            while self.0.load(Ordering::Relaxed) {
                std::thread::park();
            }
        }
    }
}

/// Elsewhere the system ends the program, and whoever goes on removes what is unfinished.
#[cfg(not(unix))]
pub struct Interrupts;

#[cfg(not(unix))]
impl Interrupts {
    pub fn watch(_: &Arguments) -> std::io::Result<Self> {
        Ok(Self)
    }

    pub fn hold(&self) {}
}
