use anyhow::Result;
use rankwise_data::create_folder;
use rankwise_paper::{
    bound_chart, text_table, theory_cells, theory_findings, theory_table, violates_a_proved_bound,
    write_figure,
};
use rankwise_theory::{Grid, verify_grid};

use super::Outcome;
use crate::cli::{Common, VerifyOptions};
use crate::progress;

/// The theorem on random networks: bounds beside the measured error of the constructed adapters.
pub fn run(options: &VerifyOptions, common: &Common) -> Result<Outcome> {
    let seed = common.seed.unwrap_or(0);
    let grid = Grid {
        width: options.width,
        seeds: (seed..seed + options.draws).collect(),
        ..Grid::default()
    };
    let bar = progress::bar(grid.records(), "problems", common.quiet);
    bar.set_message("verifying");
    let records = verify_grid(&grid, |done| bar.inc(done as u64))?;
    bar.finish_and_clear();
    if let Some(out) = &common.out {
        create_folder(out)?;
        theory_table(&records)?.write_parquet(&out.join("theory.parquet"))?;
        write_figure(&bound_chart(&records)?, out, "bounds")?;
    }
    if common.json {
        println!("{}", serde_json::to_string_pretty(&records)?);
    } else if !common.quiet {
        println!("{}\n", text_table(&theory_cells(&records)));
        for finding in theory_findings(&records) {
            println!("- {finding}");
        }
    }
    Ok(match records.iter().any(violates_a_proved_bound) {
        true => Outcome::CheckFailed,
        false => Outcome::Done,
    })
}
