//! Tables as pure functions of records: cells first, for the terminal, Markdown and HTML alike.

use comfy_table::{CellAlignment, Table, presets};
use rankwise_theory::{Aim, BoundSummary, CellRecord, CounterexampleRecord, RandomSummary};

use crate::RunResult;
use crate::compare::{Comparison, Numbers, Row};
use crate::link::Link;
use crate::numbers::{decimals, interval, optional, told, told_signed, words};
use crate::statistics::{Spread, median};

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
        "energy rank 90 %",
        "energy rank 99 %",
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
                    decimals(last.generalization_error(), 2),
                    last.measures.energy_rank_90.to_string(),
                    last.measures.energy_rank_99.to_string(),
                    optional(last.measures.effective_rank, 1),
                    optional(last.measures.stable_rank, 1),
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

/// One row a configuration: mean ± standard error over the seeds that were read.
pub fn comparison_cells(rows: &[Row]) -> Cells {
    let mut header = vec!["method", "n", "epoch"];
    header.extend(NUMBERS);
    let rows = rows.iter().map(|row| {
        let mut cells = vec![
            row.configuration.to_string(),
            row.epoch.count.to_string(),
            told(Some(&row.epoch), 1),
        ];
        cells.extend(spreads(&row.numbers).map(|(spread, digits)| told(Some(spread), digits)));
        cells
    });
    (header, rows.collect())
}

/// Three rows a method: its numbers less LoRA's of the same R over the same seeds, mean ± standard
/// error, with a star where Student's 95 % interval leaves zero out.
pub fn difference_cells(comparison: &Comparison) -> Cells {
    let mut header = vec!["method less LoRA", "read", "n"];
    header.extend(NUMBERS);
    let mut rows = Vec::new();
    for difference in &comparison.against_lora {
        for (reading, (place, numbers)) in difference.readings().into_iter().enumerate() {
            let mut cells = vec![
                difference.configuration.to_string(),
                place.to_owned(),
                numbers.test_accuracy.count.to_string(),
            ];
            let columns = spreads(numbers).into_iter().enumerate();
            cells.extend(columns.map(|(column, (spread, digits))| {
                // What is held equal, the first column in the second reading and the second in the
                // third, differs by rounding alone.
                if column + 1 == reading {
                    return "equal".to_owned();
                }
                let star = if spread.sign() == 0 { "" } else { " *" };
                format!("{}{star}", told_signed(Some(spread), digits))
            }));
            rows.push(cells);
        }
    }
    (header, rows)
}

/// Headings of what is read of a run.
const NUMBERS: [&str; 5] = ["train loss", "train %", "test loss", "test %", "gap pp"];

/// In their order, each with its decimals.
fn spreads(numbers: &Numbers) -> [(&Spread, usize); 5] {
    [
        (&numbers.train_loss, 3),
        (&numbers.train_accuracy, 2),
        (&numbers.test_loss, 3),
        (&numbers.test_accuracy, 2),
        (&numbers.generalization_error, 2),
    ]
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
    let rows = links.iter().map(|link| {
        let c = &link.correlation;
        vec![
            words(link.measure),
            words(link.outcome),
            optional(c.spearman, 2),
            interval(c.spearman_interval),
            optional(c.kendall, 2),
            interval(c.kendall_interval),
            c.observations.to_string(),
            c.note.clone().unwrap_or_default(),
        ]
    });
    (header, rows.collect())
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
            median(ratios).map_or("–".to_owned(), |ratio| format!("{ratio:.3}"))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::tests::difference;

    #[test]
    fn differences_are_starred_beyond_their_intervals() {
        let (up, none) = ([1.0, 1.1, 1.2], [-1.0, 0.0, 1.0]);
        let comparison = Comparison {
            loss_level: 0.3,
            accuracy_level: 92.5,
            end: Vec::new(),
            equal_loss: Vec::new(),
            equal_accuracy: Vec::new(),
            against_lora: vec![difference([up, none, up], [none, none, up])],
            diverged: Vec::new(),
        };
        let (header, rows) = difference_cells(&comparison);
        assert_eq!(
            header[3..],
            ["train loss", "train %", "test loss", "test %", "gap pp"]
        );
        // The standard error of 1, 1.1 and 1.2 is 0.1/√3.
        assert_eq!(
            rows[0][1..7],
            [
                "at the end",
                "3",
                "+0.500 ± 0.000",
                "−3.00 ± 0.00",
                "0.000 ± 0.577",
                "+1.10 ± 0.06 *"
            ]
        );
        assert_eq!((&rows[1][3][..], &rows[1][6][..]), ("equal", "0.00 ± 0.58"));
        assert_eq!(
            (&rows[2][4][..], &rows[2][5][..]),
            ("equal", "+1.100 ± 0.058 *")
        );
    }
}
