use anyhow::Result;
use rankwise_analysis::Influence;
use rankwise_data::{Column, Table};

use super::{MeasureLink, RankLink};
use crate::numbers::{heading, interval, optional, span};
use crate::tables::Cells;

/// One row a measure and outcome whose correlation is defined.
pub fn rank_link_cells(record: &RankLink) -> Cells {
    let header = vec![
        "rank measure",
        "outcome",
        "n",
        "Spearman ρ",
        "95 % interval",
        "p",
        "p (Holm)",
        "Kendall τ",
        "partial ρ",
        "95 % interval",
        "given",
        "leave one out",
    ];
    let defined = record.links.iter();
    let defined = defined.filter(|link| link.association.correlation.spearman.is_some());
    let row = |link: &MeasureLink| {
        let a = &link.association;
        let given = match a.partial {
            Some(_) => link.covariates.join(", "),
            None => "–".to_owned(),
        };
        vec![
            heading(&link.measure),
            link.outcome.clone(),
            a.correlation.observations.to_string(),
            optional(a.correlation.spearman, 2),
            interval(a.correlation.spearman_interval),
            probability(a.permutation.map(|test| test.p)),
            probability(link.adjusted_p),
            optional(a.correlation.kendall, 2),
            optional(a.partial.map(|partial| partial.rho), 2),
            interval(a.partial_interval),
            given,
            match part_left_out(link) {
                Some(i) => span(i.low, i.high, "…"),
                None => "–".to_owned(),
            },
        ]
    };
    (header, defined.map(row).collect())
}

/// ρ without each configuration if there are several runs of one, without each adapter otherwise.
pub(super) fn part_left_out(link: &MeasureLink) -> Option<Influence> {
    let a = &link.association;
    if a.correlation.configurations < a.correlation.observations {
        a.without_each_configuration
    } else {
        a.without_each
    }
}

fn probability(p: Option<f64>) -> String {
    p.map_or("–".to_owned(), |p| match p < 0.001 {
        true => "< 0.001".to_owned(),
        false => format!("{p:.3}"),
    })
}

/// Every number of the record, one row a measure and outcome.
///
/// # Errors
/// Never: the columns are made of the same rows.
pub fn rank_link_table(record: &RankLink) -> Result<Table> {
    let links = &record.links;
    let text = |value: fn(&MeasureLink) -> String| -> Column { links.iter().map(value).collect() };
    let whole = |value: fn(&MeasureLink) -> usize| -> Column { links.iter().map(value).collect() };
    let real =
        |value: fn(&MeasureLink) -> Option<f64>| -> Column { links.iter().map(value).collect() };
    Ok(Table::new(vec![
        ("measure", text(|l| l.measure.clone())),
        ("outcome", text(|l| l.outcome.clone())),
        (
            "adapters",
            whole(|l| l.association.correlation.observations),
        ),
        (
            "configurations",
            whole(|l| l.association.correlation.configurations),
        ),
        ("missing", whole(|l| l.missing.len())),
        ("spearman", real(|l| l.association.correlation.spearman)),
        (
            "spearman_low",
            real(|l| l.association.correlation.spearman_interval.map(|i| i.low)),
        ),
        (
            "spearman_high",
            real(|l| l.association.correlation.spearman_interval.map(|i| i.high)),
        ),
        ("kendall", real(|l| l.association.correlation.kendall)),
        (
            "kendall_low",
            real(|l| l.association.correlation.kendall_interval.map(|i| i.low)),
        ),
        (
            "kendall_high",
            real(|l| l.association.correlation.kendall_interval.map(|i| i.high)),
        ),
        ("p", real(|l| l.association.permutation.map(|test| test.p))),
        ("p_holm", real(|l| l.adjusted_p)),
        ("covariates", text(|l| l.covariates.join(", "))),
        (
            "partial_spearman",
            real(|l| l.association.partial.map(|p| p.rho)),
        ),
        (
            "partial_spearman_low",
            real(|l| l.association.partial_interval.map(|i| i.low)),
        ),
        (
            "partial_spearman_high",
            real(|l| l.association.partial_interval.map(|i| i.high)),
        ),
        (
            "partial_degrees_of_freedom",
            real(|l| l.association.partial.map(|p| p.degrees_of_freedom as f64)),
        ),
        ("partial_kendall", real(|l| l.association.partial_kendall)),
        (
            "partial_kendall_low",
            real(|l| l.association.partial_kendall_interval.map(|i| i.low)),
        ),
        (
            "partial_kendall_high",
            real(|l| l.association.partial_kendall_interval.map(|i| i.high)),
        ),
        ("left_out_low", real(|l| part_left_out(l).map(|i| i.low))),
        ("left_out_high", real(|l| part_left_out(l).map(|i| i.high))),
        (
            "left_out_most",
            text(|l| {
                let most = part_left_out(l).and_then(|i| l.used.get(i.most));
                most.cloned().unwrap_or_default()
            }),
        ),
        (
            "smallest_significant",
            real(|l| l.association.sample.smallest_significant),
        ),
    ])?)
}
