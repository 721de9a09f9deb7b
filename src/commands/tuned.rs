//! Fine-tuning runs, looked at again: tables and the page from their folders, and a peer's runs beside
//! them.

use std::path::Path;

use anyhow::{Result, bail};
use rankwise_data::{Table, create_folder, write_atomic};
use rankwise_paper::{
    PeerComparison, TuningReport, TuningRuns, compare_with_peer, peer_cells, peer_findings,
    peer_runs, peer_table, text_table, tuning_cells, tuning_page, tuning_rank_cells,
    tuning_summary_cells, tuning_summary_table, tuning_table,
};

use super::Outcome;
use super::audit::head;
use super::output::{keep, print_json};
use crate::cli::{Common, TableOptions};
use crate::stdout::outln;

/// The name of the page.
pub const PAGE: &str = "runs.html";

/// Every run, and the means over seeds; with a folder for results the page and all tables there.
pub fn table(options: &TableOptions, common: &Common) -> Result<Outcome> {
    let runs = TuningRuns::read(&options.runs)?;
    let report = TuningReport::new(&runs);
    if let Some(out) = &common.out {
        create_folder(out)?;
        keep(&report, "runs", common)?;
        write_table(&tuning_table(&report.runs)?, out, "runs")?;
        write_table(&tuning_summary_table(&report.summary)?, out, "summary")?;
        write_page(&runs, out)?;
    }
    if common.json {
        print_json(&report)?;
    } else if !common.quiet {
        outln!("{}\n", text_table(&tuning_cells(&report.runs)));
        outln!("{}\n", text_table(&tuning_summary_cells(&report.summary)));
        outln!("{}\n", text_table(&tuning_rank_cells(&report.summary)));
        outln!(
            "Mean ± standard error over n seeds, after the last epoch; ranks of ΔW, mean over modules.\n"
        );
        for finding in &report.findings {
            outln!("- {finding}");
        }
        for left in &report.left_out {
            outln!("left out {}", left.told());
        }
    }
    Ok(Outcome::Done)
}

/// The page of these runs, whole or not at all.
pub fn write_page(runs: &TuningRuns, out: &Path) -> Result<()> {
    let page = tuning_page(runs, &head())?;
    Ok(write_atomic(&out.join(PAGE), |file| {
        file.write_all(page.as_bytes())
    })?)
}

/// As CSV and Parquet.
pub fn write_table(table: &Table, out: &Path, name: &str) -> Result<()> {
    table.write_csv(&out.join(name).with_extension("csv"))?;
    Ok(table.write_parquet(&out.join(name).with_extension("parquet"))?)
}

/// Our means beside a peer's.
pub fn peer(options: &TableOptions, common: &Common) -> Result<Outcome> {
    let comparison = compared(&options.runs, options.peer.as_deref())?;
    if let Some(out) = &common.out {
        create_folder(out)?;
        keep(&comparison, "peer", common)?;
        write_table(&peer_table(&comparison)?, out, "peer")?;
    }
    if common.json {
        print_json(&comparison)?;
    } else if !common.quiet {
        outln!("{}\n", text_table(&peer_cells(&comparison)));
        outln!(
            "Mean ± standard error (s.e.) over n seeds, after the last epoch; difference: ours less the \
             peer's.\n"
        );
        for line in peer_findings(&comparison).iter().chain(&comparison.notes) {
            outln!("- {line}");
        }
        for left in &comparison.left_out {
            outln!("left out {}", left.told());
        }
    }
    Ok(Outcome::Done)
}

/// Our runs and the peer's of `--peer`.
pub fn compared(runs: &Path, file: Option<&Path>) -> Result<PeerComparison> {
    let Some(file) = file else {
        bail!("peer: --peer FILE is needed: the peer's runs, one line of JSON each");
    };
    let (peer, left_out) = peer_runs(file)?;
    compare_with_peer(&TuningRuns::read(runs)?, &peer, &left_out)
}
