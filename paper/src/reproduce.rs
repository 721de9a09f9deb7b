use std::path::{Path, PathBuf};

use anyhow::Result;
use rankwise_data::{BANKING77_ATTRIBUTION, Column, Table, create_folder, write_atomic};
use rankwise_figures::Figure;
use rankwise_theory::{CellRecord, Grid, verify_grid};
use serde::Serialize;

use crate::compare::{Comparison, compare};
use crate::drawing::{bound_chart, figure1, rank_scatter};
use crate::findings::{link_findings, theory_findings, training_findings};
use crate::link::{Link, link};
use crate::protocol::{claim, protocol, seeds, settings};
use crate::records::Run;
use crate::report::write_report;
use crate::{Recipe, RunResult, train_all};

/// What `report.json` holds.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The command that makes it again.
    pub command: String,
    /// The version of rankwise.
    pub version: String,
    /// The seed that the seeds of training and theorem follow from.
    pub seed: u64,
    /// What it was made with: name and value.
    pub settings: Vec<(String, String)>,
    /// What the licence of the data asks to be said.
    pub attribution: String,
    /// Sentences computed from the numbers below.
    pub findings: Vec<String>,
    /// The theorem on random networks.
    pub theory: Vec<CellRecord>,
    /// The end of every run.
    pub runs: Vec<RunResult>,
    /// Methods at the end, at equal training loss and at equal training accuracy.
    pub comparison: Comparison,
    /// Rank against generalisation.
    pub links: Vec<Link>,
    /// Names of the figures, each there as SVG and PNG.
    pub figures: Vec<(String, String)>,
    #[serde(skip)]
    pub(crate) drawn: Vec<Figure>,
}

/// How far a reproduction is.
#[derive(Debug, Clone, Copy)]
pub enum Stage {
    /// That many records of the theorem's grid are done, of so many.
    Theory {
        /// Newly done.
        done: usize,
        /// In all.
        of: usize,
    },
    /// That many epochs are done, of so many.
    Training {
        /// Newly done.
        done: usize,
        /// In all.
        of: usize,
    },
    /// Figures and report are made.
    Report,
}

/// Goes through every room once: verifies the theorem, trains every method, measures, links,
/// draws and reports, all below `out`. What is finished there is not done again.
///
/// Seeds `3 seed … 3 seed + 2` are trained and `5 seed … 5 seed + 4` drawn for the theorem, so that two
/// values of `seed` share none.
///
/// # Errors
/// If `out` holds another reproduction, `seed` is too large, or a file cannot be written.
pub fn reproduce_quick(
    out: &Path,
    seed: u64,
    command: String,
    observe: impl Fn(Stage) + Sync,
) -> Result<Report> {
    create_folder(out)?;
    let grid = Grid {
        seeds: seeds(seed, 5)?,
        ..Grid::default()
    };
    let recipe = Recipe::figure1(seed)?;
    claim(out, &protocol(seed, &grid, &recipe)?)?;
    let of = grid.records();
    let theory = verify_grid(&grid, |done| observe(Stage::Theory { done, of }))?;
    theory_table(&theory)?.write_parquet(&out.join("theory.parquet"))?;

    let configs = recipe.configurations()?;
    let of = configs.iter().map(|config| config.schedule.epochs).sum();
    let runs_folder = out.join("runs");
    let results = train_all(&configs, &runs_folder, |done| {
        observe(Stage::Training { done, of })
    })?;

    observe(Stage::Report);
    let names = configs.iter().map(crate::run_name);
    let runs = names
        .map(|name| Run::read(&runs_folder.join(name)))
        .collect::<Result<Vec<_>>>()?;
    let comparison = compare(&runs)?;
    let links = link(&runs, seed)?;
    let mut findings = theory_findings(&theory);
    findings.extend(training_findings(&comparison));
    findings.extend(link_findings(&links));
    let figures = [
        (
            "figure1",
            "Figure 1 in the last-layer protocol: mean over seeds, band ± standard error",
            figure1(&runs)?,
        ),
        (
            "rank-generalization",
            "Rank of ΔW against gap and test accuracy, one point a run",
            rank_scatter(&runs)?,
        ),
        (
            "bounds",
            "The theorem: measured error and bounds, mean over problems, band from least to largest",
            bound_chart(&theory)?,
        ),
    ];
    let mut report = Report {
        command,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        seed,
        settings: settings(seed, &grid, &recipe, &configs),
        attribution: BANKING77_ATTRIBUTION.to_owned(),
        findings,
        theory,
        runs: results,
        comparison,
        links,
        figures: Vec::new(),
        drawn: Vec::new(),
    };
    for (name, caption, figure) in figures {
        write_figure(&figure, &out.join("figures"), name)?;
        report.figures.push((name.to_owned(), caption.to_owned()));
        report.drawn.push(figure);
    }
    write_report(&report, out)?;
    Ok(report)
}

/// Writes `NAME.svg` and `NAME.png` and returns their paths.
///
/// # Errors
/// If the folder cannot be written.
pub fn write_figure(figure: &Figure, folder: &Path, name: &str) -> Result<[PathBuf; 2]> {
    create_folder(folder)?;
    let paths = ["svg", "png"].map(|kind| folder.join(format!("{name}.{kind}")));
    write_atomic(&paths[0], |out| out.write_all(figure.svg.as_bytes()))?;
    write_atomic(&paths[1], |out| out.write_all(&figure.png))?;
    Ok(paths)
}

/// The theorem's records as columns, one row a problem and rank.
///
/// # Errors
/// Never with records of one grid; the columns are made to fit.
pub fn theory_table(records: &[CellRecord]) -> Result<Table> {
    let whole = |value: fn(&CellRecord) -> usize| -> Column { records.iter().map(value).collect() };
    let real = |value: fn(&CellRecord) -> f64| -> Column { records.iter().map(value).collect() };
    let maybe =
        |value: fn(&CellRecord) -> Option<f64>| -> Column { records.iter().map(value).collect() };
    Ok(Table::new(vec![
        ("width", whole(|r| r.width)),
        ("target_layers", whole(|r| r.target_layers)),
        ("frozen_layers", whole(|r| r.frozen_layers)),
        (
            "family",
            records.iter().map(|r| r.family.to_string()).collect(),
        ),
        ("bias_scale", real(|r| r.bias_scale)),
        ("seed", records.iter().map(|r| r.seed as usize).collect()),
        ("rank", whole(|r| r.rank)),
        (
            "largest_e",
            real(|r| r.e.iter().copied().fold(0.0, f64::max)),
        ),
        ("bound_literal", real(|r| r.bound_literal)),
        ("bound_trace", real(|r| r.bound_trace)),
        ("bound_corrected", real(|r| r.bound_corrected)),
        ("bound_spectral", real(|r| r.bound_spectral)),
        ("bound_tail", maybe(|r| r.bound_tail)),
        ("measured", maybe(|r| r.measured)),
        ("rounding", maybe(|r| r.rounding)),
        ("defect", maybe(|r| r.defect)),
        ("condition", maybe(|r| r.condition)),
        ("exact", whole(|r| usize::from(r.exact))),
    ])?)
}
