//! Tables as pure functions of records: cells first, for the terminal, Markdown and HTML alike.

use comfy_table::{CellAlignment, Table, presets};
use rankwise_analysis::Interval;
use rankwise_theory::{Aim, BoundSummary, CellRecord, CounterexampleRecord, RandomSummary};

use crate::RunResult;
use crate::compare::Row;
use crate::link::Link;
use crate::records::Spread;

/// A header and rows of text.
pub type Cells = (Vec<&'static str>, Vec<Vec<String>>);

/// Cells as text for a terminal; all but the first column are aligned to the right.
pub fn text_table((header, rows): &Cells) -> String {
    text_columns(header, rows)
}

/// The same with a heading that is made up as it goes.
pub fn text_columns<H: ToString>(header: &[H], rows: &[Vec<String>]) -> String {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_header(header.iter().map(ToString::to_string));
    table.add_rows(rows.iter().cloned());
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table.trim_fmt()
}

/// The end of every run, one row a run.
pub fn run_cells(results: &[RunResult]) -> Cells {
    let header = vec![
        "run",
        "train loss",
        "test loss",
        "train %",
        "test %",
        "gap pp",
        "k90",
        "k99",
        "effective",
        "stable",
        "orth. loss",
        "floor",
        "seconds",
    ];
    let rows = results
        .iter()
        .map(|result| {
            let mut row = vec![result.name.clone()];
            match &result.summary.last {
                None => row.extend(vec!["diverged".to_owned(); 11]),
                Some(last) => row.extend([
                    format!("{:.4}", last.train_loss),
                    format!("{:.4}", last.test_loss),
                    format!("{:.2}", last.train_accuracy),
                    format!("{:.2}", last.test_accuracy),
                    format!("{:.2}", last.generalization_error()),
                    last.measures.energy_rank_90.to_string(),
                    last.measures.energy_rank_99.to_string(),
                    optional(last.measures.effective_rank),
                    optional(last.measures.stable_rank),
                    format!("{:.4e}", last.orthogonality.loss),
                    format!("{:.0}", last.orthogonality.floor),
                ]),
            }
            row.push(format!("{:.2}", result.summary.wall_seconds));
            row
        })
        .collect();
    (header, rows)
}

/// One row a configuration.
pub fn comparison_cells(rows: &[Row]) -> Cells {
    let header = vec![
        "method",
        "epoch",
        "train loss",
        "test loss",
        "test %",
        "gap pp",
    ];
    let cell = |spread: &Spread, digits: usize| {
        format!("{:.digits$} ± {:.digits$}", spread.mean, spread.deviation)
    };
    let rows = rows
        .iter()
        .map(|row| {
            vec![
                row.configuration.to_string(),
                format!("{:.1}", row.epoch.mean),
                cell(&row.train_loss, 3),
                cell(&row.test_loss, 3),
                cell(&row.test_accuracy, 2),
                cell(&row.generalization_error, 2),
            ]
        })
        .collect();
    (header, rows)
}

/// One row a rank measure and outcome.
pub fn link_cells(links: &[Link]) -> Cells {
    let header = vec![
        "rank measure",
        "outcome",
        "Spearman ρ",
        "95 % interval",
        "Kendall τ",
        "95 % interval",
        "runs",
        "note",
    ];
    let number = |value: Option<f64>| value.map_or("–".to_owned(), |value| format!("{value:.2}"));
    let interval = |interval: &Option<Interval>| match interval {
        Some(interval) => format!("{:.2} … {:.2}", interval.low, interval.high),
        None => "–".to_owned(),
    };
    let rows = links
        .iter()
        .map(|link| {
            let c = &link.correlation;
            vec![
                link.measure.to_owned(),
                link.outcome.to_owned(),
                number(c.spearman),
                interval(&c.spearman_interval),
                number(c.kendall),
                interval(&c.kendall_interval),
                c.observations.to_string(),
                c.note.clone().unwrap_or_default(),
            ]
        })
        .collect();
    (header, rows)
}

/// One row a family and target depth: how many problems, and the median of bound over measured
/// error wherever the error is more than rounding.
pub fn theory_summary_cells(records: &[CellRecord]) -> Cells {
    let header = vec![
        "family",
        "L̄",
        "problems",
        "singular",
        "exact",
        "literal/measured",
        "corrected/measured",
        "spectral/measured",
        "tail/measured",
        "largest defect",
        "literal violated",
        "proved violated",
    ];
    let key = |record: &CellRecord| (record.family.to_string(), record.target_layers);
    let mut groups: Vec<_> = Vec::new();
    for record in records {
        if !groups.contains(&key(record)) {
            groups.push(key(record));
        }
    }
    groups.sort();
    let rows = groups.into_iter().map(|group| {
        let own: Vec<&CellRecord> = records.iter().filter(|r| key(r) == group).collect();
        let count = |test: fn(&CellRecord) -> bool| {
            own.iter().filter(|record| test(record)).count().to_string()
        };
        let ratio = |bound: fn(&CellRecord) -> Option<f64>| {
            let above = own.iter().filter(|record| !record.exact);
            let ratios = above.filter_map(|record| Some(bound(record)? / record.measured?));
            median(ratios.collect()).map_or("–".to_owned(), |ratio| format!("{ratio:.3}"))
        };
        let defects = own.iter().filter_map(|record| record.defect);
        vec![
            group.0.clone(),
            group.1.to_string(),
            own.len().to_string(),
            count(|r| r.measured.is_none()),
            count(|r| r.exact),
            ratio(|r| Some(r.bound_literal)),
            ratio(|r| Some(r.bound_corrected)),
            ratio(|r| Some(r.bound_spectral)),
            ratio(|r| r.bound_tail),
            format!("{:.1e}", defects.fold(0.0, f64::max)),
            count(|r| r.violated_literal == Some(true)),
            count(violates_a_proved_bound),
        ]
    });
    (header, rows.collect())
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

/// One row a width and rank of the counterexample.
pub fn counterexample_cells(records: &[CounterexampleRecord]) -> Cells {
    let header = vec![
        "D",
        "R",
        "every adapter at least",
        "constructed",
        "Eq. 8 as printed",
        "least/printed",
        "corrected",
        "printed bound",
    ];
    let row = |record: &CounterexampleRecord| {
        vec![
            record.width.to_string(),
            record.rank.to_string(),
            format!("{:.4e}", record.lower_bound),
            format!("{:.4e}", record.measured),
            format!("{:.4e}", record.bound_literal),
            format!("{:.3}", record.lower_bound / record.bound_literal),
            format!("{:.4e}", record.bound_corrected),
            match record.violated_by_all {
                true => "fails for all",
                false if record.measured > record.bound_literal => "fails here",
                false => "holds",
            }
            .to_owned(),
        ]
    };
    (header, records.iter().map(row).collect())
}

/// One row a bound over random configurations.
pub fn random_cells(summary: &RandomSummary) -> Cells {
    let header = vec![
        "bound",
        "proved",
        "violations",
        "first",
        "largest measured/bound",
    ];
    let row = |bound: &BoundSummary| {
        vec![
            bound.bound.to_owned(),
            if bound.proved { "yes" } else { "no" }.to_owned(),
            bound.violations.to_string(),
            bound
                .first
                .map_or("–".to_owned(), |index| index.to_string()),
            format!("{:.4}", bound.largest_ratio),
        ]
    };
    (header, summary.bounds.iter().map(row).collect())
}

/// One row a shape and R: means over seeds.
pub fn theory_cells(records: &[CellRecord]) -> Cells {
    let header = vec![
        "problem",
        "R",
        "measured",
        "tail",
        "spectral",
        "corrected",
        "literal",
        "defect",
        "violated",
    ];
    let mut groups: Vec<_> = records
        .iter()
        .map(|r| (r.width, r.target_layers, r.frozen_layers, r.rank))
        .collect();
    groups.sort_unstable();
    groups.dedup();
    let rows = groups
        .into_iter()
        .map(|(width, target, frozen, rank)| {
            let own: Vec<&CellRecord> = records
                .iter()
                .filter(|r| {
                    (r.width, r.target_layers, r.frozen_layers, r.rank)
                        == (width, target, frozen, rank)
                })
                .collect();
            let mean = |value: fn(&CellRecord) -> Option<f64>| {
                let values: Vec<f64> = own.iter().filter_map(|record| value(record)).collect();
                if values.is_empty() {
                    "–".to_owned()
                } else {
                    format!("{:.3e}", Spread::of(values).mean)
                }
            };
            let violated = own
                .iter()
                .filter(|record| violates_a_proved_bound(record))
                .count();
            vec![
                format!("D={width} ({target},{frozen})"),
                rank.to_string(),
                mean(|r| r.measured),
                mean(|r| r.bound_tail),
                mean(|r| Some(r.bound_spectral)),
                mean(|r| Some(r.bound_corrected)),
                mean(|r| Some(r.bound_literal)),
                mean(|r| r.defect),
                format!("{violated}/{}", own.len()),
            ]
        })
        .collect();
    (header, rows)
}

/// Whether the measured error exceeds a bound that is proved, beyond its tolerance. The bounds that
/// need no adapters are proved for the plain construction alone.
pub fn violates_a_proved_bound(record: &CellRecord) -> bool {
    let a_priori = [record.violated_corrected, record.violated_spectral];
    record.violated_tail == Some(true)
        || (record.aim == Aim::Plain && a_priori.contains(&Some(true)))
}

fn optional(value: Option<f64>) -> String {
    value.map_or("–".to_owned(), |value| format!("{value:.1}"))
}
