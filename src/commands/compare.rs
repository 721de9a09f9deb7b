use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Args;
use clap::builder::ValueHint;
use rankwise_analysis::{
    CompareOptions, Comparison, GridChoice, IntruderRule, Likeness, PairRecord, compare,
};
use rankwise_data::{create_folder, write_atomic};
use rankwise_paper::{
    ComparisonReport, PAIR_LEGEND, comparison_page, comparison_section, course_cells, course_chart,
    grid_table, intruder_cells, layer_chart, likeness_cells, likeness_maps, likeness_table,
    list_cells, pair_module_cells, pairs_table, refusal_lines, similarity_maps, text_table,
    updates_table, write_figure,
};

use super::Outcome;
use super::output::{keep, tell};
use crate::cli::Common;
use crate::progress;
use crate::stdout::outln;

/// Examples for the end of the help.
pub const EXAMPLES: &str = "Examples:\n  rankwise compare first/ second/\n  \
    rankwise compare first/ second/ --base model/ --out comparison\n  \
    rankwise compare first/ second/ --initial first/init/\n  \
    rankwise compare 'adapters/vit-*' --rank 8 --out comparison\n  \
    rankwise compare run/ --over-time --out course";

#[derive(Debug, Args)]
pub struct Options {
    /// Adapter folders or files, or folders of adapters: two adapters or more.
    #[arg(required = true, value_name = "PATH", value_hint = ValueHint::AnyPath)]
    pub paths: Vec<PathBuf>,
    /// The base model's checkpoint: amplification and intruder dimensions, and the updates that need
    /// it (DoRA, (IA)³).
    #[arg(long, value_name = "DIR", value_hint = ValueHint::AnyPath)]
    pub base: Option<PathBuf>,
    /// The adapter as it was before training, where its initialisation changed the base (PiSSA,
    /// OLoRA and others): taken away from every one that is compared.
    #[arg(long, value_name = "DIR", value_hint = ValueHint::AnyPath)]
    pub initial: Option<PathBuf>,
    /// The values of i and j to keep φ(i, j) for: numbers, or all [default: up to 64].
    #[arg(long, value_name = "LIST|all", value_parser = directions)]
    pub directions: Option<GridChoice>,
    /// The rank at which many adapters are compared.
    #[arg(long, default_value_t = 4, value_name = "R")]
    pub rank: usize,
    /// Checkpoints of one run: each beside the one before and the last, in the order of their steps.
    #[arg(long)]
    pub over_time: bool,
    /// Directions of the tuned weight that are searched for intruders.
    #[arg(long, default_value_t = 10, value_name = "K", requires = "base")]
    pub intruder_k: usize,
    /// A direction whose cosine to every one of the weight's is smaller is an intruder.
    #[arg(long, default_value_t = 0.5, value_name = "COSINE", requires = "base")]
    pub intruder_cosine: f64,
}

fn directions(text: &str) -> Result<GridChoice, String> {
    if text == "all" {
        return Ok(GridChoice::UpTo(usize::MAX));
    }
    let number = |part: &str| match part.trim().parse() {
        Ok(value) if value > 0 => Ok(value),
        _ => Err(format!("expected all or numbers from 1 on, found {part:?}")),
    };
    let mut values = text
        .split(',')
        .map(number)
        .collect::<Result<Vec<usize>, _>>()?;
    values.sort_unstable();
    values.dedup();
    Ok(GridChoice::Listed(values))
}

/// Adapters beside one another.
pub fn run(options: &Options, common: &Common) -> Result<Outcome> {
    let defaults = CompareOptions::default();
    let choices = CompareOptions {
        base: options.base.clone(),
        initial: options.initial.clone(),
        grid: options.directions.clone().unwrap_or(defaults.grid),
        rank: options.rank,
        intruders: IntruderRule {
            k: options.intruder_k,
            epsilon: options.intruder_cosine,
        },
        over_time: options.over_time,
    };
    let bar = progress::bar(0, "modules", common.quiet);
    bar.set_message("comparing");
    let comparison = compare(&options.paths, &choices, |done, of| {
        bar.set_length(of as u64);
        bar.set_position(done as u64);
    })?;
    bar.finish_and_clear();
    let report = ComparisonReport::new(&comparison, options.over_time);
    if let Some(out) = &common.out {
        create_folder(out)?;
        keep(&report, "comparison", common)?;
        write(&comparison, options.over_time, out)?;
    }
    if common.json {
        outln!("{}", serde_json::to_string_pretty(&report)?);
    } else if !common.quiet {
        print(&report, options.over_time);
    }
    Ok(Outcome::Done)
}

fn write(comparison: &Comparison, over_time: bool, out: &Path) -> Result<()> {
    let mut tables = vec![
        ("pairs", pairs_table(comparison)?),
        ("updates", updates_table(comparison)?),
    ];
    let is_two = comparison.adapters.len() == 2;
    if is_two {
        tables.push(("similarity", grid_table(comparison)?));
    }
    if !over_time {
        tables.push(("likeness", likeness_table(comparison)?));
    }
    for (name, table) in tables {
        table.write_parquet(&out.join(name).with_extension("parquet"))?;
        table.write_csv(&out.join(name).with_extension("csv"))?;
    }
    let mut figures = Vec::new();
    if over_time {
        figures.push(("course", "The run over time", course_chart(comparison)?));
    } else if !is_two {
        figures.push(("likeness", "Every two adapters", likeness_maps(comparison)?));
    }
    let has_directions = |pair: &PairRecord| pair.left.is_some();
    if is_two && comparison.pairs.iter().any(has_directions) {
        let caption = "Shared directions: φ(i, j), mean over layers";
        figures.push(("similarity", caption, similarity_maps(comparison)?));
        if comparison
            .pairs
            .iter()
            .any(|pair| has_directions(pair) && pair.layer.is_some())
        {
            figures.push(("layers", "Similarity by layer", layer_chart(comparison)?));
        }
    }
    let mut shown = Vec::new();
    for (name, caption, figure) in figures {
        write_figure(&figure, out, name)?;
        shown.push((caption, figure));
    }
    let section = comparison_section(comparison, over_time, &shown);
    write_atomic(&out.join("section.html"), |file| {
        file.write_all(section.as_bytes())
    })?;
    let page = comparison_page(comparison, over_time, &shown, &super::audit::head())?;
    Ok(write_atomic(&out.join("compare.html"), |file| {
        file.write_all(page.as_bytes())
    })?)
}

fn print(report: &ComparisonReport<'_>, over_time: bool) {
    let comparison = report.comparison;
    if over_time {
        outln!("{}\n", text_table(&course_cells(comparison)));
        outln!(
            "Means over modules; prev and last: to the checkpoint before and to the last one;\n\
             φ at {} directions, of the outputs' and the inputs' side.\n",
            comparison.rank
        );
    } else if comparison.adapters.len() == 2 {
        outln!("{}\n", text_table(&list_cells(comparison)));
        outln!(
            "{}\n\n{PAIR_LEGEND}\n",
            text_table(&pair_module_cells(comparison))
        );
    } else {
        outln!("{}\n", text_table(&list_cells(comparison)));
        for (likeness, title) in [
            (Likeness::PhiLeft, "φ, outputs' side"),
            (Likeness::PhiRight, "φ, inputs' side"),
            (Likeness::Cosine, "Cosine of the updates"),
            (
                Likeness::AngleLeft,
                "Mean principal angle in degrees, outputs' side",
            ),
        ] {
            if let Some(cells) = likeness_cells(comparison, likeness) {
                outln!("{title}\n{}\n", text_table(&cells));
            }
        }
        outln!(
            "Means over shared modules; φ at {} directions.\n",
            comparison.rank
        );
    }
    if comparison
        .updates
        .iter()
        .any(|update| update.against_weight.is_some())
    {
        outln!("{}\n", text_table(&intruder_cells(comparison)));
        outln!(
            "own, W's, random: ‖ΔW‖ over the weight's projection on ΔW's first directions, on its \
             own\nand on random ones.\n"
        );
    }
    for finding in &report.findings {
        tell(&format!("- {finding}"));
    }
    for note in &comparison.notes {
        tell(&format!("- Note: {note}."));
    }
    for line in refusal_lines(&comparison.refused) {
        tell(&line);
    }
}
