use anyhow::{Context, Result, bail};
use rankwise_paper::{
    Cells, Run, RunResult, compare, comparison_cells, figure1, link, link_cells, rank_scatter,
    run_cells, text_table, write_figure,
};

use super::Outcome;
use crate::cli::{Common, FigureName, FigureOptions, TableName, TableOptions};

/// Draws a figure from recorded runs.
pub fn figure(options: &FigureOptions, common: &Common) -> Result<Outcome> {
    let Some(out) = &common.out else {
        bail!("figure: --out DIR is needed: the folder for the SVG and the PNG");
    };
    let runs = Run::read_all(&options.runs)?;
    let (name, figure) = match options.name {
        FigureName::Figure1 => ("figure1", figure1(&runs)?),
        FigureName::RankGeneralization => ("rank-generalization", rank_scatter(&runs)?),
    };
    for path in write_figure(&figure, out, name)? {
        if !common.quiet {
            println!("{}", path.display());
        }
    }
    Ok(Outcome::Done)
}

/// Prints a table of recorded runs.
pub fn table(options: &TableOptions, common: &Common) -> Result<Outcome> {
    let runs = Run::read_all(&options.runs)?;
    let cells: Cells = match options.name {
        TableName::Runs => {
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
        TableName::EqualLoss => comparison_cells(&compare(&runs)?.equal),
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
                    .zip(row.into_iter().map(Into::into))
                    .collect()
            })
            .collect();
        println!("{}", serde_json::to_string_pretty(&rows).context("table")?);
    } else {
        println!("{}", text_table(&cells));
    }
    Ok(Outcome::Done)
}
