use std::collections::BTreeMap;
use std::io::{BufWriter, Write};
use std::path::{Component, Path};

use anyhow::Result;
use rankwise_data::{create_folder, write_atomic, written_files};
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
    create_folder(out)?;
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

/// Folders inside a folder of results that are named one by one.
const MOST_FOLDERS: usize = 6;

/// What this command has written at or below `out`: a line for the file, or for every folder.
pub fn written(out: &Path) -> Vec<String> {
    let files = written_files(out);
    let shown = out.join("");
    let shown = shown.display();
    let mut names = Vec::new();
    let mut folders: BTreeMap<String, usize> = BTreeMap::new();
    for file in &files {
        let rest = file.strip_prefix(out).unwrap_or(file);
        let mut parts = rest.components();
        match (parts.next(), parts.next()) {
            (None, _) => return vec![format!("wrote {}", out.display())],
            (Some(Component::Normal(folder)), Some(_)) => {
                *folders.entry(folder.display().to_string()).or_default() += 1;
            }
            (Some(_), _) => names.push(rest.display().to_string()),
        }
    }
    let mut lines = Vec::new();
    if !names.is_empty() {
        lines.push(format!("wrote {shown}: {}", names.join(", ")));
    }
    if folders.len() > MOST_FOLDERS {
        let files: usize = folders.values().sum();
        lines.push(format!(
            "wrote {shown}: {} folders with {files} files",
            folders.len()
        ));
    } else {
        let line = |(folder, files): (&String, &usize)| match files {
            1 => format!("wrote {shown}{folder}/: 1 file"),
            _ => format!("wrote {shown}{folder}/: {files} files"),
        };
        lines.extend(folders.iter().map(line));
    }
    if lines.is_empty() {
        lines.push(format!("nothing new was written to {}", out.display()));
    }
    lines
}

/// Prints a sentence: wrapped to the width of a terminal, in one line elsewhere.
pub fn tell(sentence: &str) {
    match terminal_width() {
        Some(width) => outln!("{}", wrapped(sentence, width)),
        None => outln!("{sentence}"),
    }
}
