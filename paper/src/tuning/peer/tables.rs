use anyhow::Result;
use rankwise_data::{Column, Table};

use super::comparison::{PeerComparison, PeerRow};
use crate::numbers::{decimals, signed, told};
use crate::tables::Cells;

/// One row a task, method and metric.
pub fn peer_cells(comparison: &PeerComparison) -> Cells {
    let header = vec![
        "task",
        "method",
        "metric",
        "ours",
        "n",
        "peer",
        "n",
        "difference",
        "its s.e.",
        "in s.e.",
        "verdict",
    ];
    let number = |value: Option<f64>, digits: usize| {
        value.map_or("–".to_owned(), |value| decimals(value, digits))
    };
    let rows = comparison.rows.iter().map(|row| {
        vec![
            row.setting.task.clone(),
            row.setting.label(),
            row.metric.clone(),
            told(Some(&row.ours), 4),
            row.ours.count.to_string(),
            told(Some(&row.peer), 4),
            row.peer.count.to_string(),
            signed(row.difference, 4),
            number(row.standard_error, 4),
            row.standard_errors
                .map_or("–".to_owned(), |errors| signed(errors, 2)),
            row.told(),
        ]
    });
    (header, rows.collect())
}

/// One row a task, method and metric, as columns.
///
/// # Errors
/// Never: the columns are made of the same rows.
pub fn peer_table(comparison: &PeerComparison) -> Result<Table> {
    let rows = &comparison.rows;
    let text = |of: fn(&PeerRow) -> String| -> Column { rows.iter().map(of).collect() };
    let whole = |of: fn(&PeerRow) -> usize| -> Column { rows.iter().map(of).collect() };
    let real = |of: fn(&PeerRow) -> Option<f64>| -> Column { rows.iter().map(of).collect() };
    Ok(Table::new(vec![
        ("task", text(|row| row.setting.task.clone())),
        ("method", text(|row| row.setting.method.clone())),
        ("rank", real(|row| Some(row.setting.rank? as f64))),
        ("metric", text(|row| row.metric.clone())),
        ("our_mean", real(|row| Some(row.ours.mean))),
        ("our_standard_error", real(|row| row.ours.standard_error())),
        ("our_count", whole(|row| row.ours.count)),
        ("peer_mean", real(|row| Some(row.peer.mean))),
        ("peer_standard_error", real(|row| row.peer.standard_error())),
        ("peer_count", whole(|row| row.peer.count)),
        ("difference", real(|row| Some(row.difference))),
        ("standard_error", real(|row| row.standard_error)),
        ("standard_errors", real(|row| row.standard_errors)),
        ("verdict", text(PeerRow::told)),
    ])?)
}
