use std::path::Path;

use anyhow::{Context, Result, bail};
use rankwise_paper::{
    Cells, DIFFERENCES, Run, RunResult, TuningRuns, compare, comparison_cells, difference_cells,
    figure1, link, link_cells, peer_figure, rank_scatter, run_cells, text_table, tuning_curves,
    tuning_modules, tuning_ranks, write_figure,
};

use super::{Outcome, tuned};
use crate::cli::{Common, FigureName, FigureOptions, TableName, TableOptions};
use crate::stdout::outln;

/// Draws a figure from recorded runs.
pub fn figure(options: &FigureOptions, common: &Common) -> Result<Outcome> {
    let Some(out) = &common.out else {
        bail!("figure: --out DIR is needed: the folder for the SVG and the PNG");
    };
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
    if common.json {
        let (header, rows) = cells;
        let rows: Vec<serde_json::Map<_, _>> = rows
            .into_iter()
            .map(|row| {
                header
                    .iter()
                    .map(|key| (*key).to_owned())
                    // A hyphen is what programs read as a minus sign.
                    .zip(row.into_iter().map(|cell| cell.replace('−', "-").into()))
                    .collect()
            })
            .collect();
        outln!("{}", serde_json::to_string_pretty(&rows).context("table")?);
    } else {
        outln!("{}", text_table(&cells));
        match options.name {
            TableName::End | TableName::EqualLoss | TableName::EqualAccuracy => {
                outln!("\nMean ± standard error over n seeds.");
            }
            TableName::AgainstLora => outln!("\n{DIFFERENCES}"),
            TableName::Runs | TableName::Link | TableName::Peer => {}
        }
    }
    Ok(Outcome::Done)
}
