use std::num::NonZeroUsize;
use std::path::Path;

use anyhow::Result;
use rankwise_analysis::{PairOptions, audit_pair};
use rankwise_data::{create_folder, write_atomic};
use rankwise_paper::{pair_cells, pair_chart, pair_findings, pair_page, pair_table, write_figure};

use super::Outcome;
use super::output::{show, tell};
use crate::cli::Common;
use crate::progress;
use crate::stdout::outln;

/// The theorem's e_i on real weights: W̄ after training, W before.
pub fn run(
    base: &Path,
    tuned: &Path,
    top: Option<NonZeroUsize>,
    common: &Common,
) -> Result<Outcome> {
    let options = PairOptions {
        top: top.map(NonZeroUsize::get),
    };
    if let Some(out) = &common.out {
        create_folder(out)?;
    }
    let bar = progress::bar(0, "matrices", common.quiet);
    bar.set_message("decomposing");
    let audit = audit_pair(base, tuned, &options, |done, of| {
        bar.set_length(of as u64);
        bar.set_position(done as u64);
    })?;
    bar.finish_and_clear();
    show(&audit, &pair_cells(&audit), "checkpoints", common)?;
    if let Some(out) = &common.out {
        let table = pair_table(&audit)?;
        table.write_parquet(&out.join("layer-errors.parquet"))?;
        table.write_csv(&out.join("layer-errors.csv"))?;
        write_figure(&pair_chart(&audit)?, out, "layer-errors")?;
        let page = pair_page(&audit, &super::audit::head())?;
        write_atomic(&out.join("checkpoints.html"), |file| {
            file.write_all(page.as_bytes())
        })?;
    }
    if !common.json && !common.quiet {
        outln!();
        for finding in pair_findings(&audit) {
            tell(&format!("- {finding}"));
        }
    }
    Ok(Outcome::Done)
}
