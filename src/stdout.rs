//! Standard output, the one way that results take.
//!
//! `println!` panics when standard output fails. Here a reader that closed its pipe, as `head`
//! does, ends the program quietly with exit code 0; any other failure is an error like a file's,
//! with exit code 2.

use std::fmt::Arguments;
use std::io::{self, ErrorKind, Write};

/// Prints text as `print!` does.
macro_rules! out {
    ($($text:tt)*) => {
        $crate::stdout::print(format_args!($($text)*))
    };
}

/// Prints a line as `println!` does.
macro_rules! outln {
    () => {
        $crate::stdout::print(format_args!("\n"))
    };
    ($($text:tt)*) => {
        $crate::stdout::print(format_args!("{}\n", format_args!($($text)*)))
    };
}

pub(crate) use {out, outln};

/// Standard output for what wants a writer; a failure ends the program, so none is returned.
pub struct Stdout;

impl Write for Stdout {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        check(io::stdout().write_all(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        check(io::stdout().flush());
        Ok(())
    }
}

/// What `out!` and `outln!` call.
pub fn print(text: Arguments<'_>) {
    // Flushed at once: what is left in the buffer when `main` returns is lost without a word.
    check(
        io::stdout()
            .write_fmt(text)
            .and_then(|()| io::stdout().flush()),
    );
}

/// Ends the program if standard output failed.
fn check(written: io::Result<()>) {
    let Err(error) = written else {
        return;
    };
    if error.kind() == ErrorKind::BrokenPipe {
        std::process::exit(0);
    }
    eprintln!("error: standard output: write failed: {error}");
    std::process::exit(2);
}
