use anyhow::{Result, ensure};
use rankwise_figures::{Figure, Marker, PALETTE, Sample, Strip, strips};

use super::comparison::PeerComparison;
use crate::numbers::heading;
use crate::statistics::Spread;
use crate::tuning::records::metric_title;

/// The deciding metric of every task, ours beside the peer's: a point a seed, the mean, and a bar of one
/// standard error.
///
/// # Errors
/// If no deciding metric could be compared.
pub fn peer_figure(comparison: &PeerComparison) -> Result<Figure> {
    let mut charts: Vec<Strip> = Vec::new();
    let mut tasks: Vec<&str> = Vec::new();
    for row in comparison.rows.iter().filter(|row| row.decides) {
        let task = &row.setting.task[..];
        if tasks.last() != Some(&task) {
            tasks.push(task);
            charts.push(Strip {
                title: format!("{task}: {}", heading(&metric_title(&row.metric))),
                y_label: heading(&metric_title(&row.metric)),
                note: "points: seeds; bars: mean ± standard error".to_owned(),
                places: Vec::new(),
            });
        }
        let sample = |label: &str, place: usize, marker, values: &[f64], spread: &Spread| Sample {
            label: label.to_owned(),
            color: PALETTE[place],
            marker,
            values: values.to_vec(),
            mean: spread.mean,
            reach: spread.standard_error(),
        };
        if let Some(chart) = charts.last_mut() {
            chart.places.push((
                row.setting.label(),
                vec![
                    sample("rankwise", 0, Marker::Circle, &row.our_values, &row.ours),
                    sample("peer", 1, Marker::Square, &row.peer_values, &row.peer),
                ],
            ));
        }
    }
    ensure!(
        !charts.is_empty(),
        "peer: expected a deciding metric that both have, found none"
    );
    let columns = charts.len().min(2);
    Ok(strips(&charts, columns)?)
}
