use anyhow::{Result, bail};
use rankwise_analysis::Interval;
use rankwise_figures::{Figure, Group, Marker, PALETTE, Scatter, scatter_grid};

use super::{MeasureLink, RankLink};
use crate::numbers::{decimals, heading};
use crate::style::MARKERS;

/// The measures of the overview, one column each.
const OVERVIEW: [&str; 3] = ["effective_rank", "energy_rank_99", "stable_rank"];
/// Rows of the overview: with three columns a page carries five.
const MOST_OUTCOMES: usize = 5;
/// Three rank measures against the first five outcomes, train metrics only if there is nothing else, one
/// point an adapter, ρ and its interval in
/// every title.
///
/// # Errors
/// If no adapter has both.
pub fn rank_link_chart(record: &RankLink) -> Result<Figure> {
    let all = record.join.outcomes.iter();
    let mut outcomes: Vec<&str> = all.map(|outcome| outcome.name.as_str()).collect();
    if outcomes.iter().any(|name| !name.starts_with("train_")) {
        outcomes.retain(|name| !name.starts_with("train_"));
    }
    outcomes.truncate(MOST_OUTCOMES);
    let is_shown = |link: &&MeasureLink| {
        OVERVIEW.contains(&link.measure.as_str()) && outcomes.contains(&link.outcome.as_str())
    };
    let mut links: Vec<&MeasureLink> = record.links.iter().filter(is_shown).collect();
    links.sort_by_key(|link| {
        let outcome = outcomes.iter().position(|name| *name == link.outcome);
        let measure = OVERVIEW.iter().position(|name| *name == link.measure);
        (outcome, measure)
    });
    draw(record, &links)
}

/// Every measure against one outcome.
///
/// # Errors
/// If there is no such outcome, or no adapter has it.
pub fn rank_link_outcome_chart(record: &RankLink, outcome: &str) -> Result<Figure> {
    let links = record.links.iter().filter(|link| link.outcome == outcome);
    draw(record, &links.collect::<Vec<_>>())
}

fn draw(record: &RankLink, links: &[&MeasureLink]) -> Result<Figure> {
    let mut labels: Vec<&str> = Vec::new();
    for adapter in &record.join.adapters {
        if !labels.contains(&adapter.label.as_str()) {
            labels.push(&adapter.label);
        }
    }
    // More kinds than colours could not be told apart, and one needs no legend.
    let is_grouped = (2..=PALETTE.len()).contains(&labels.len());
    let charts: Vec<Scatter> = links
        .iter()
        .filter(|link| !link.used.is_empty())
        .map(|link| chart(record, link, if is_grouped { &labels } else { &[] }))
        .filter(|chart| {
            let mut points = chart.groups.iter().flat_map(|group| &group.points);
            points.any(|(x, y)| x.is_finite() && y.is_finite())
        })
        .collect();
    if charts.is_empty() {
        bail!("figure: expected an adapter with a rank measure and a metric, found none");
    }
    Ok(scatter_grid(&charts, 3)?)
}

fn chart(record: &RankLink, link: &MeasureLink, labels: &[&str]) -> Scatter {
    let points = |label: Option<&str>| -> Vec<(f64, f64)> {
        let own = record.join.adapters.iter();
        own.filter(|adapter| label.is_none_or(|label| adapter.label == label))
            .filter_map(|adapter| {
                let x = adapter.measures.get(&link.measure)?;
                Some((*x, *adapter.metrics.get(&link.outcome)?))
            })
            .collect()
    };
    let groups = match labels {
        [] => vec![Group {
            label: String::new(),
            color: PALETTE[0],
            marker: Marker::Circle,
            points: points(None),
        }],
        labels => labels
            .iter()
            .enumerate()
            .map(|(place, label)| Group {
                label: (*label).to_owned(),
                color: PALETTE[place % PALETTE.len()],
                marker: MARKERS[place % MARKERS.len()],
                points: points(Some(label)),
            })
            .collect(),
    };
    let c = &link.association.correlation;
    let title = match (c.spearman, c.spearman_interval) {
        (Some(rho), Some(interval)) => format!("ρ = {}", with_interval(rho, interval)),
        (Some(rho), None) => format!("ρ = {}", decimals(rho, 2)),
        (None, _) => "no correlation: one side is constant".to_owned(),
    };
    let mut note = format!("n = {}", c.observations);
    let a = &link.association;
    if let Some((partial, interval)) = a.partial.zip(a.partial_interval) {
        note += &format!("; partial ρ = {}", with_interval(partial.rho, interval));
    }
    Scatter {
        title,
        x_label: heading(&link.measure),
        y_label: heading(&link.outcome),
        groups,
        note: Some(note),
        ..Scatter::default()
    }
}

fn with_interval(rho: f64, interval: Interval) -> String {
    let [rho, low, high] = [rho, interval.low, interval.high].map(|value| decimals(value, 2));
    format!("{rho} [{low}, {high}]")
}
