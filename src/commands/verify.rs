use std::path::Path;

use anyhow::{Result, bail};
use rankwise_data::create_folder;
use rankwise_paper::{
    bound_chart, counterexample_cells, descent_cells, descent_chart, descent_findings,
    random_cells, ratio_chart, text_table, theory_cells, theory_findings, theory_summary_cells,
    theory_table, transformer_cells, transformer_chart, transformer_findings,
    violates_a_proved_bound, write_figure,
};
use rankwise_theory::{
    Case, CellRecord, Counterexample, DescentGrid, Grid, ORACLE, Strategy, TransformerGrid,
    descent_grid, transformer_curve, verify_grid, verify_random,
};

use super::Outcome;
use super::output::{keep, show};
use crate::cli::{Common, GridOptions, VerifyOptions};
use crate::progress;
use crate::stdout::outln;

/// The most groups of one shape and rank that are printed one by one.
const MAX_ROWS: usize = 80;

/// The theorem put to the test: on a grid of random networks, on given cases, on the counterexample
/// to the printed bound, or on random configurations.
pub fn run(options: &VerifyOptions, common: &Common) -> Result<Outcome> {
    if let Some(out) = &common.out {
        create_folder(out)?;
    }
    if let Some(file) = &options.case {
        cases(file, options.oracle, common)
    } else if options.counterexample {
        counterexample(common)
    } else if let Some(count) = options.random {
        random(count, common)
    } else if options.transformer {
        transformer(common)
    } else if options.descent {
        descent(common)
    } else if let (Some(base), Some(tuned)) = (&options.base, &options.tuned) {
        super::checkpoints::run(base, tuned, None, common)
    } else {
        grid(options, common)
    }
}

fn grid(options: &VerifyOptions, common: &Common) -> Result<Outcome> {
    let grid = requested(&options.grid, common.seed.unwrap_or(0));
    let bar = progress::bar(grid.records(), "problems", common.quiet);
    bar.set_message("verifying");
    let records = verify_grid(&grid, |done| bar.inc(done as u64))?;
    bar.finish_and_clear();
    if let Some(out) = &common.out {
        let table = theory_table(&records)?;
        table.write_parquet(&out.join("theory.parquet"))?;
        table.write_csv(&out.join("theory.csv"))?;
        let shown = typical(&records);
        write_figure(&bound_chart(&shown)?, out, "bounds")?;
        write_figure(&ratio_chart(&shown)?, out, "ratios")?;
    }
    if common.json {
        outln!("{}", serde_json::to_string_pretty(&records)?);
    } else if !common.quiet {
        let every = theory_cells(&records);
        let cells = match every.1.len() <= MAX_ROWS {
            true => every,
            false => theory_summary_cells(&records),
        };
        outln!("{}\n", text_table(&cells));
        for finding in theory_findings(&records) {
            outln!("- {finding}");
        }
    }
    let mut holds = !records.iter().any(violates_a_proved_bound);
    if options.oracle {
        let mut largest: f64 = 0.0;
        for cell in grid.cells() {
            let Some(difference) = cell.draw()?.problem().oracle_difference() else {
                bail!("verify: the second library's iteration did not end for {cell:?}");
            };
            largest = largest.max(difference);
        }
        if !common.quiet && !common.json {
            outln!(
                "- Second opinion on every spectrum: the largest difference is {largest:.1e} of \
                 its largest singular value (tolerance {ORACLE:.0e})."
            );
        }
        holds &= largest <= ORACLE;
    }
    Ok(outcome(holds))
}

fn requested(options: &GridOptions, seed: u64) -> Grid {
    let full = Grid::full();
    let depths = |&target: &usize| {
        let frozen = move |block: &usize| (target, target.saturating_mul(*block));
        options.block_layers.iter().map(frozen)
    };
    Grid {
        widths: options.widths.clone().unwrap_or(full.widths),
        depths: options.target_layers.iter().flat_map(depths).collect(),
        families: options.families.clone().unwrap_or(full.families),
        seeds: (seed..seed.saturating_add(options.draws)).collect(),
        ranks: options.ranks.clone(),
        bias_scales: options.bias_scales.clone(),
        samples: options.samples,
        lift: options.lift,
        strategy: Strategy {
            order: options.order,
            aim: options.aim,
        },
    }
}

/// The records to draw: of the first family, with biases if there are any, at the largest width
/// whose ranks can still be told apart, so that every chart shows one kind of problem.
fn typical(records: &[CellRecord]) -> Vec<CellRecord> {
    const LEGIBLE: usize = 16;
    let family = records.first().map(|record| record.family);
    let bias = records.iter().map(|r| r.bias_scale).fold(0.0, f64::max);
    let widths = || records.iter().map(|record| record.width);
    let width = widths()
        .filter(|&width| width <= LEGIBLE)
        .max()
        .or(widths().min());
    let chosen = records.iter().filter(|record| {
        Some(record.family) == family && record.bias_scale == bias && Some(record.width) == width
    });
    chosen.cloned().collect()
}

fn cases(file: &Path, oracle: bool, common: &Common) -> Result<Outcome> {
    let mut holds = true;
    let mut reports = Vec::new();
    for case in Case::read(file)? {
        for key in &case.unknown_keys {
            eprintln!(
                "note: {}: {}: the key {key} is not read",
                file.display(),
                case.id
            );
        }
        let mut report = case.verify()?;
        if oracle {
            report.oracle_difference = case.problem.oracle_difference();
            holds &= report
                .oracle_difference
                .is_some_and(|difference| difference <= ORACLE);
        }
        let violated = report.violated;
        holds &= !violated.is_some_and(|v| v.corrected || v.spectral || v.tail);
        if !common.quiet {
            outln!("{}", serde_json::to_string(&report)?);
        }
        reports.push(report);
    }
    keep(&reports, "cases", common)?;
    Ok(outcome(holds))
}

fn counterexample(common: &Common) -> Result<Outcome> {
    const RANK: usize = 1;
    let mut records = Vec::new();
    for width in (2..=10).map(|power| 1 << power) {
        records.push(Counterexample::new(width)?.record(RANK)?);
    }
    show(
        &records,
        &counterexample_cells(&records),
        "counterexample",
        common,
    )?;
    if !common.json && !common.quiet {
        outln!(
            "\nWhere every adapter's error is at least more than Eq. 8 as printed allows, no choice \
             of adapters and biases satisfies it; the corrected bound holds throughout."
        );
    }
    // Rounding of sums over D points.
    let holds = |bound: f64, error: f64| error <= bound * (1.0 + 1e-9);
    Ok(outcome(records.iter().all(|record| {
        holds(record.bound_corrected, record.measured) && holds(record.measured, record.lower_bound)
    })))
}

fn random(count: usize, common: &Common) -> Result<Outcome> {
    let bar = progress::bar(count, "configurations", common.quiet);
    bar.set_message("verifying");
    let summary = verify_random(count, common.seed.unwrap_or(0), || bar.inc(1))?;
    bar.finish_and_clear();
    show(&summary, &random_cells(&summary), "random", common)?;
    if !common.json && !common.quiet {
        outln!(
            "\n{} configurations from seed {}; {} met a singular product and have no construction.",
            summary.configurations,
            summary.seed,
            summary.singular
        );
    }
    Ok(outcome(!summary.violates_a_proved_bound()))
}

fn transformer(common: &Common) -> Result<Outcome> {
    let seed = common.seed.unwrap_or(0);
    let grid = TransformerGrid {
        seeds: (seed..seed + 5).collect(),
        ..TransformerGrid::default()
    };
    let bar = progress::bar(grid.records(), "constructions", common.quiet);
    bar.set_message("verifying");
    let records = transformer_curve(&grid, |done| bar.inc(done as u64))?;
    bar.finish_and_clear();
    show(
        &records,
        &transformer_cells(&records),
        "transformer",
        common,
    )?;
    if let Some(out) = &common.out {
        write_figure(&transformer_chart(&records)?, out, "transformer")?;
    }
    let findings = transformer_findings(&records);
    if !common.json && !common.quiet {
        outln!("\n- {findings}");
    }
    // What the products lost to rounding may grow through the blocks, but not to a visible error.
    const EXACT: f64 = 1e-6;
    let exact = records.iter().filter(|record| record.exact);
    let worst = exact.filter_map(|r| r.relative_error).fold(0.0, f64::max);
    Ok(outcome(worst <= EXACT))
}

fn descent(common: &Common) -> Result<Outcome> {
    let seed = common.seed.unwrap_or(0);
    let grid = DescentGrid {
        seeds: vec![seed, seed + 1],
        ..DescentGrid::default()
    };
    let bar = progress::bar(grid.records(), "trainings", common.quiet);
    bar.set_message("training");
    let records = descent_grid(&grid, || bar.inc(1))?;
    bar.finish_and_clear();
    show(&records, &descent_cells(&records), "descent", common)?;
    if let Some(out) = &common.out {
        write_figure(&descent_chart(&records)?, out, "descent")?;
    }
    if !common.json && !common.quiet {
        outln!();
        for finding in descent_findings(&records) {
            outln!("- {finding}");
        }
    }
    Ok(Outcome::Done)
}

fn outcome(holds: bool) -> Outcome {
    match holds {
        true => Outcome::Done,
        false => Outcome::CheckFailed,
    }
}
