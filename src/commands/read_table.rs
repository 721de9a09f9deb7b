//! Tables of metrics, read so that no file can end the command.
//!
//! The Parquet decoder can ask for more memory than there is when a page is forged, which aborts the
//! process. So such a file is read by a child: this program with the hidden command `read-table`,
//! which writes the table as JSON; if it dies, that is an error like any other.

use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use clap::Args;
use rankwise_data::{Column, ColumnKind, Table};
use serde::{Deserialize, Serialize};

use super::Outcome;
use crate::stdout::Stdout;

#[derive(Debug, Args)]
pub struct Options {
    /// The table.
    file: PathBuf,
}

/// A column on its way from the child.
#[derive(Debug, Serialize, Deserialize)]
enum Cells {
    Whole(Vec<i64>),
    Real(Vec<Option<f64>>),
    Text(Vec<String>),
}

/// Writes the table of a file to the standard output as JSON.
pub fn run(options: &Options) -> Result<Outcome> {
    let table = Table::read(&options.file)?;
    let mut columns = Vec::new();
    for name in table.names() {
        let cells = match table.kind(&name)? {
            ColumnKind::Whole => whole(&table.labels(&name)?),
            ColumnKind::Real => None,
            ColumnKind::Text => Some(Cells::Text(table.texts(&name)?)),
            // Truth values have labels; lists and times have none and are of no use to a join.
            ColumnKind::Other => match table.labels(&name) {
                Ok(labels) => Some(Cells::Text(labels)),
                Err(_) => continue,
            },
        };
        let cells = match cells {
            Some(cells) => cells,
            None => {
                let defined = |x: f64| x.is_finite().then_some(x);
                Cells::Real(table.numbers(&name)?.into_iter().map(defined).collect())
            }
        };
        columns.push((name, cells));
    }
    let mut out = BufWriter::new(Stdout);
    serde_json::to_writer(&mut out, &columns)?;
    out.flush()?;
    Ok(Outcome::Done)
}

/// Whole numbers that an `i64` holds.
fn whole(labels: &[String]) -> Option<Cells> {
    let values = labels.iter().map(|label| label.parse().ok());
    values.collect::<Option<_>>().map(Cells::Whole)
}

/// Reads a table by its file's ending, Parquet in a child process.
///
/// # Errors
/// As [`Table::read`]; also if the child does not survive.
pub fn read(file: &Path) -> Result<Table> {
    let ending = file.extension().unwrap_or_default().to_string_lossy();
    if !ending.eq_ignore_ascii_case("parquet") {
        return Ok(Table::read(file)?);
    }
    let program = std::env::current_exe().context("the program could not find itself")?;
    let child = Command::new(program)
        .arg("read-table")
        .arg("--")
        .arg(file)
        .stdin(Stdio::null())
        .output()
        .context("the program could not start itself to read Parquet")?;
    match child.status.code() {
        Some(0) => {}
        Some(2) => {
            // The child's own message, without the mark that this process puts before it again.
            let message = String::from_utf8_lossy(&child.stderr);
            let message = message.rsplit("error: ").next().unwrap_or_default();
            bail!("{}", message.trim());
        }
        _ => bail!(
            "{}: expected Parquet, found a file that its reader could not survive",
            file.display()
        ),
    }
    let columns: Vec<(String, Cells)> = serde_json::from_slice(&child.stdout)
        .with_context(|| format!("{}: not read", file.display()))?;
    let columns = columns.iter().map(|(name, cells)| {
        let column = match cells {
            Cells::Whole(values) => Column::Whole(values.clone()),
            Cells::Real(values) => Column::Real(values.clone()),
            Cells::Text(values) => Column::Text(values.clone()),
        };
        (name.as_str(), column)
    });
    Ok(Table::new(columns.collect())?)
}
