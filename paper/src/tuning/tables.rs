//! Rows as text for terminals and as columns for files.

use anyhow::Result;
use rankwise_data::{Column, Table};

use super::rows::{MEASURES, Measure, TuningGroup, TuningRow};
use crate::numbers::{decimals, told};
use crate::tables::Cells;

fn number(value: Option<f64>, digits: usize) -> String {
    value.map_or("–".to_owned(), |value| decimals(value, digits))
}

/// One row a run; the gap only where one is known.
pub fn tuning_cells(rows: &[TuningRow]) -> Cells {
    let has_gap = rows.iter().any(|row| row.gap.is_some());
    let mut header = vec![
        "run",
        "metric",
        "last",
        "best",
        "epoch",
        "train loss",
        "loss",
    ];
    if has_gap {
        header.push("gap");
    }
    header.extend(["num.", "energy rank 99 %", "stable", "effective", "seconds"]);
    let cells = rows.iter().map(|row| {
        let mut cells = vec![
            row.name.clone(),
            row.metric.clone().unwrap_or("–".to_owned()),
            match row.stop {
                "diverged" => "diverged".to_owned(),
                _ => number(row.last, 4),
            },
            number(row.best, 4),
            match row.best_epoch {
                Some(epoch) => format!("{epoch}/{}", row.epochs),
                None => format!("–/{}", row.epochs),
            },
            number(row.train_loss, 4),
            number(row.validation_loss, 4),
        ];
        if has_gap {
            cells.push(number(row.gap, 4));
        }
        cells.extend([
            number(row.numerical_rank, 2),
            number(row.energy_rank_99, 2),
            number(row.stable_rank, 2),
            number(row.effective_rank, 2),
            number(Some(row.seconds), 0),
        ]);
        cells
    });
    (header, cells.collect())
}

/// Metric, losses and seconds: one row a task, method and R.
pub fn tuning_summary_cells(groups: &[TuningGroup]) -> Cells {
    let has_gap = groups.iter().any(|group| group.measure("gap").is_some());
    let names: &[&str] = match has_gap {
        true => &["last", "best", "train_loss", "gap", "seconds"],
        false => &["last", "best", "train_loss", "seconds"],
    };
    summary(groups, true, names)
}

/// Ranks: one row a task, method and R.
pub fn tuning_rank_cells(groups: &[TuningGroup]) -> Cells {
    let names = [
        "numerical_rank",
        "energy_rank_99",
        "stable_rank",
        "effective_rank",
    ];
    summary(groups, false, &names)
}

fn summary(groups: &[TuningGroup], has_metric: bool, names: &[&str]) -> Cells {
    let measures = || MEASURES.iter().filter(|(name, ..)| names.contains(name));
    let mut header = vec!["task", "method", "n"];
    if has_metric {
        header.push("metric");
    }
    header.extend(measures().map(|(_, heading, ..)| *heading));
    let rows = groups.iter().map(|group| {
        let mut row = vec![
            group.setting.task.clone(),
            group.setting.label(),
            group.seeds.len().to_string(),
        ];
        if has_metric {
            row.push(group.metric.clone().unwrap_or("–".to_owned()));
        }
        row.extend(measures().map(|(name, _, digits, _)| told(group.measure(name), *digits)));
        row
    });
    (header, rows.collect())
}

/// One row a run; what is not defined is null in Parquet and empty in CSV.
///
/// # Errors
/// Never: the columns are made of the same rows.
pub fn tuning_table(rows: &[TuningRow]) -> Result<Table> {
    let text = |of: &dyn Fn(&TuningRow) -> String| -> Column { rows.iter().map(of).collect() };
    let whole = |of: fn(&TuningRow) -> usize| -> Column { rows.iter().map(of).collect() };
    let real = |of: fn(&TuningRow) -> Option<f64>| -> Column { rows.iter().map(of).collect() };
    let mut columns = vec![
        ("name", text(&|row| row.name.clone())),
        ("task", text(&|row| row.setting.task.clone())),
        ("method", text(&|row| row.setting.method.clone())),
        ("rank", real(|row| Some(row.setting.rank? as f64))),
        ("seed", whole(|row| row.seed as usize)),
        ("trained", whole(|row| row.trained)),
        ("epochs", whole(|row| row.epochs)),
        ("stop", text(&|row| row.stop.to_owned())),
        (
            "metric",
            text(&|row| row.metric.clone().unwrap_or_default()),
        ),
        ("best_epoch", real(|row| Some(row.best_epoch? as f64))),
        ("validation_loss", real(|row| row.validation_loss)),
    ];
    columns.extend(MEASURES.map(|(name, _, _, of)| (name, real(of))));
    Ok(Table::new(columns)?)
}

/// One row a task, method and R: `X_mean`, `X_standard_error` and `X_count` for every measure.
///
/// # Errors
/// Never: the columns are made of the same rows.
pub fn tuning_summary_table(groups: &[TuningGroup]) -> Result<Table> {
    let text = |of: &dyn Fn(&TuningGroup) -> String| -> Column { groups.iter().map(of).collect() };
    let real =
        |of: &dyn Fn(&TuningGroup) -> Option<f64>| -> Column { groups.iter().map(of).collect() };
    let whole = |of: &dyn Fn(&TuningGroup) -> usize| -> Column { groups.iter().map(of).collect() };
    let own = |name: &str| name.to_owned();
    let mut columns: Vec<(String, Column)> = vec![
        (own("task"), text(&|group| group.setting.task.clone())),
        (own("method"), text(&|group| group.setting.method.clone())),
        (own("rank"), real(&|group| Some(group.setting.rank? as f64))),
        (own("runs"), whole(&|group| group.seeds.len())),
        (own("diverged"), whole(&|group| group.diverged)),
        (
            own("metric"),
            text(&|group| group.metric.clone().unwrap_or_default()),
        ),
    ];
    for (name, ..) in MEASURES as [Measure; 9] {
        columns.push((
            format!("{name}_mean"),
            real(&|group| Some(group.measure(name)?.mean)),
        ));
        columns.push((
            format!("{name}_standard_error"),
            real(&|group| group.measure(name)?.standard_error()),
        ));
        columns.push((
            format!("{name}_count"),
            whole(&|group| group.measure(name).map_or(0, |spread| spread.count)),
        ));
    }
    let columns = columns.into_iter().collect::<Vec<_>>();
    Ok(Table::new(
        columns
            .iter()
            .map(|(name, column)| (name.as_str(), column.clone()))
            .collect(),
    )?)
}
