use comfy_table::{CellAlignment, Table, presets};

use crate::RunResult;

/// A plain table with aligned columns; every column but the first `texts` is right-aligned.
pub fn text_table(header: &[&str], rows: &[Vec<String>], texts: usize) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header).add_rows(rows);
    for column in table.column_iter_mut().skip(texts) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table.trim_fmt()
}

/// The end of every run: one row a run.
pub fn run_table(results: &[RunResult]) -> String {
    let header = [
        "run", "train loss", "test loss", "train %", "test %", "gap pp", "k99", "effective",
        "excess", "seconds",
    ];
    let rows: Vec<_> = results
        .iter()
        .map(|result| {
            let mut row = vec![result.name.clone()];
            match &result.summary.last {
                None => row.extend(vec!["diverged".to_owned(); 8]),
                Some(last) => row.extend([
                    format!("{:.4}", last.train_loss),
                    format!("{:.4}", last.test_loss),
                    format!("{:.2}", last.train_accuracy),
                    format!("{:.2}", last.test_accuracy),
                    format!("{:.2}", last.generalization_error()),
                    last.measures.energy_rank_99.to_string(),
                    last.measures.effective_rank.map_or("–".into(), |rank| format!("{rank:.1}")),
                    format!("{:.2}", last.orthogonality.excess),
                ]),
            }
            row.push(format!("{:.2}", result.summary.wall_seconds));
            row
        })
        .collect();
    text_table(&header, &rows, 1)
}
