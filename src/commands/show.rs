use std::path::Path;

use anyhow::{Result, bail};
use rankwise_data::{Column, Table};
use rankwise_paper::{
    Cells, DIFFERENCES, Run, RunResult, TuningRuns, compare, comparison_cells, difference_cells,
    figure1, link, link_cells, peer_figure, rank_scatter, run_cells, tuning_curves, tuning_modules,
    tuning_ranks, write_figure,
};

use super::output::show;
use super::tuned::write_table;
use super::{Outcome, tuned};
use crate::cli::{Common, FigureName, FigureOptions, TableName, TableOptions};
use crate::stdout::outln;

/// Draws a figure from recorded runs.
pub fn figure(options: &FigureOptions, common: &Common) -> Result<Outcome> {
    let Some(out) = &common.out else {
        bail!("figure: --out DIR is needed: the folder for the SVG and the PNG");
    };
    peer_belongs(
        options.peer.is_some(),
        matches!(options.name, FigureName::Peer),
    )?;
    let heads = || heads(&options.runs);
    let tuned = || TuningRuns::read(&options.runs);
    let one = |name: &str, figure| vec![(name.to_owned(), figure)];
    let figures = match options.name {
        FigureName::Figure1 => one("figure1", figure1(&heads()?)?),
        FigureName::RankGeneralization => one("rank-generalization", rank_scatter(&heads()?)?),
        FigureName::Curves => tuning_curves(&tuned()?)?,
        FigureName::Ranks => tuning_ranks(&tuned()?)?,
        FigureName::Modules => tuning_modules(&tuned()?)?,
        FigureName::Peer => {
            let comparison = tuned::compared(&options.runs, options.peer.as_deref())?;
            one("peer", peer_figure(&comparison)?)
        }
    };
    // All are drawn before a word is said: a reader that has heard enough ends the program.
    let mut paths = Vec::new();
    for (name, figure) in figures {
        paths.extend(write_figure(&figure, out, &name)?);
    }
    if !common.quiet {
        for path in paths {
            outln!("{}", path.display());
        }
    }
    Ok(Outcome::Done)
}

/// The runs of heads in a folder.
fn heads(folder: &Path) -> Result<Vec<Run>> {
    if TuningRuns::are_in(folder) {
        bail!(
            "{}: expected runs of heads, found fine-tuning runs, of which there are the figures curves, \
             ranks, modules and peer and the tables runs and peer",
            folder.display()
        );
    }
    Run::read_all(folder)
}

/// Prints a table of recorded runs.
pub fn table(options: &TableOptions, common: &Common) -> Result<Outcome> {
    peer_belongs(
        options.peer.is_some(),
        matches!(options.name, TableName::Peer),
    )?;
    if common.seed.is_some() && !matches!(options.name, TableName::Link) {
        bail!("--seed: only the table link draws at random");
    }
    match options.name {
        TableName::Peer => return tuned::peer(options, common),
        TableName::Runs if TuningRuns::are_in(&options.runs) => {
            return tuned::table(options, common);
        }
        TableName::Runs
        | TableName::End
        | TableName::EqualLoss
        | TableName::EqualAccuracy
        | TableName::AgainstLora
        | TableName::Link => {}
    }
    let runs = heads(&options.runs)?;
    let cells: Cells = match options.name {
        TableName::Runs | TableName::Peer => {
            let results: Vec<_> = runs
                .into_iter()
                .map(|run| RunResult {
                    name: run.name,
                    config: run.config,
                    summary: run.summary,
                })
                .collect();
            run_cells(&results)
        }
        TableName::End => comparison_cells(&compare(&runs)?.end),
        TableName::EqualLoss => comparison_cells(&compare(&runs)?.equal_loss),
        TableName::EqualAccuracy => comparison_cells(&compare(&runs)?.equal_accuracy),
        TableName::AgainstLora => difference_cells(&compare(&runs)?),
        TableName::Link => link_cells(&link(&runs, common.seed.unwrap_or(0))?),
    };
    let (keys, rows) = (keys(&cells.0), &cells.1);
    let object = |row: &Vec<String>| -> serde_json::Map<_, _> {
        // A hyphen is what programs read as a minus sign.
        let texts = row.iter().map(|cell| cell.replace('−', "-").into());
        keys.iter().cloned().zip(texts).collect()
    };
    let name = match options.name {
        TableName::Runs | TableName::Peer => "runs",
        TableName::End => "end",
        TableName::EqualLoss => "equal-loss",
        TableName::EqualAccuracy => "equal-accuracy",
        TableName::AgainstLora => "against-lora",
        TableName::Link => "link",
    };
    show(
        &rows.iter().map(object).collect::<Vec<_>>(),
        &cells,
        name,
        common,
    )?;
    if !common.json && !common.quiet {
        match options.name {
            TableName::End | TableName::EqualLoss | TableName::EqualAccuracy => {
                outln!("\nMean ± standard error over n seeds.");
            }
            TableName::AgainstLora => outln!("\n{DIFFERENCES}"),
            TableName::Runs | TableName::Link | TableName::Peer => {}
        }
    }
    if let Some(out) = &common.out {
        let column = |at: usize| {
            let texts = rows.iter().map(|row| row[at].replace('−', "-"));
            Column::Text(texts.collect())
        };
        let columns = keys.iter().enumerate();
        let columns = columns
            .map(|(at, key)| (key.as_str(), column(at)))
            .collect();
        write_table(&Table::new(columns)?, out, name)?;
    }
    Ok(Outcome::Done)
}

/// Checks that --peer is given for the name `peer` alone.
fn peer_belongs(is_given: bool, is_peer: bool) -> Result<()> {
    if is_given && !is_peer {
        bail!("--peer: only the name peer reads a peer's runs");
    }
    Ok(())
}

/// Names of columns, each once: one that is called like another belongs to the column before it.
fn keys(header: &[&str]) -> Vec<String> {
    let name = |at: usize| {
        let key = header[at];
        match header.iter().filter(|other| **other == key).count() {
            1 => key.to_owned(),
            _ => format!("{} {key}", header[at.saturating_sub(1)]),
        }
    };
    (0..header.len()).map(name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_of_one_name_are_told_apart_by_what_is_before_them() {
        let found = keys(&["measure", "ρ", "interval", "τ", "interval"]);
        assert_eq!(found, ["measure", "ρ", "ρ interval", "τ", "τ interval"]);
    }
}
