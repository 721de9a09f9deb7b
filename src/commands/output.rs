use std::io::{BufWriter, Write};

use anyhow::Result;
use rankwise_data::write_atomic;
use rankwise_paper::{Cells, terminal_width, text_table, wrapped};
use serde::Serialize;

use crate::cli::Common;
use crate::stdout::{Stdout, outln};

/// Prints records as a table or as JSON, and keeps the JSON.
pub fn show(records: &impl Serialize, cells: &Cells, name: &str, common: &Common) -> Result<()> {
    keep(records, name, common)?;
    if common.json {
        print_json(records)?;
    } else if !common.quiet {
        outln!("{}", text_table(cells));
    }
    Ok(())
}

/// Writes the JSON of `records` to the folder for results, if there is one.
pub fn keep(records: &impl Serialize, name: &str, common: &Common) -> Result<()> {
    let Some(out) = &common.out else {
        return Ok(());
    };
    let path = out.join(name).with_extension("json");
    Ok(write_atomic(&path, |file| {
        Ok(serde_json::to_writer_pretty(file, records)?)
    })?)
}

/// Prints records as JSON, piece by piece: those of a thousand adapters are long.
pub fn print_json(records: &impl Serialize) -> Result<()> {
    let mut out = BufWriter::new(Stdout);
    serde_json::to_writer_pretty(&mut out, records)?;
    out.write_all(b"\n")?;
    Ok(out.flush()?)
}

/// Prints a sentence: wrapped to the width of a terminal, in one line elsewhere.
pub fn tell(sentence: &str) {
    match terminal_width() {
        Some(width) => outln!("{}", wrapped(sentence, width)),
        None => outln!("{sentence}"),
    }
}
