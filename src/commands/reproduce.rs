use std::path::PathBuf;

use anyhow::{Result, bail};
use rankwise_paper::{
    DIFFERENCES, Stage, comparison_cells, difference_cells, reproduce_quick, text_table,
    violates_a_proved_bound,
};

use super::Outcome;
use crate::cli::{Common, ReproduceOptions};
use crate::progress;
use crate::stdout::outln;

/// Everything once, on embedded data.
pub fn run(options: &ReproduceOptions, common: &Common) -> Result<Outcome> {
    if !options.quick {
        bail!("reproduce: expected --quick; the full reproduction of the paper is not there yet");
    }
    let out = common.out.clone().unwrap_or_else(|| PathBuf::from("out"));
    let seed = common.seed.unwrap_or(0);
    let command = format!(
        "rankwise reproduce --quick --seed {seed} --out {}",
        out.display()
    );
    if !common.quiet && !common.json {
        outln!("{command}\nresults go to {}", out.display());
    }
    let bar = progress::bar(0, "steps", common.quiet);
    let report = reproduce_quick(&out, seed, command, |stage| {
        let (message, done, of) = match stage {
            Stage::Theory { done, of } => ("verifying the theorem", done, of),
            Stage::Training { done, of } => ("training", done, of),
            Stage::Report => ("drawing", 0, 0),
        };
        if bar.message() != message {
            bar.reset();
            bar.set_message(message);
            bar.set_length(of as u64);
        }
        bar.inc(done as u64);
    })?;
    bar.finish_and_clear();
    if common.json {
        outln!("{}", serde_json::to_string_pretty(&report)?);
    } else if !common.quiet {
        outln!(
            "\n{}\n\nAt the end: mean ± standard error over n seeds.\n",
            text_table(&comparison_cells(&report.comparison.end))
        );
        outln!(
            "{}\n\n{DIFFERENCES}\n",
            text_table(&difference_cells(&report.comparison))
        );
        for finding in &report.findings {
            outln!("- {finding}");
        }
        outln!("\nreport: {}", out.join("report.html").display());
    }
    Ok(match report.theory.iter().any(violates_a_proved_bound) {
        true => Outcome::CheckFailed,
        false => Outcome::Done,
    })
}
