//! Fine-tuning runs as one self-contained page.

use anyhow::Result;
use rankwise_analysis::role;
use rankwise_figures::Figure;
use rankwise_training::{Metric, ModuleRank};

use super::figures::{tuning_curves, tuning_modules, tuning_ranks};
use super::records::{TuningRun, TuningRuns, metric_title};
use super::rows::{MEASURES, TuningGroup, TuningReport, TuningRow};
use crate::audit::{glossary, layer};
use crate::numbers::{decimals, told};
use crate::page::{
    Cell, CurveLabels, Group, Page, PageColumn, PageHead, Plain, Row, Span, html, places, text,
};

type Value = fn(&ModuleRank) -> Option<f64>;

/// Numbers of a module by their names in the record, with the headings of the page.
const NUMBERS: [(&str, &str, Option<Span>, Value); 13] = [
    ("layer", "layer", None, |m| {
        layer(&m.module).map(|l| l as f64)
    }),
    ("rank_budget", "R", None, |m| m.budget.map(|r| r as f64)),
    (
        "numerical_rank",
        "numerical rank",
        Some(Span::Linear),
        |m| Some(m.measures.numerical_rank as f64),
    ),
    (
        "energy_rank_90",
        "energy rank 90 %",
        Some(Span::Linear),
        |m| Some(m.measures.energy_rank_90 as f64),
    ),
    (
        "energy_rank_95",
        "energy rank 95 %",
        Some(Span::Linear),
        |m| Some(m.measures.energy_rank_95 as f64),
    ),
    (
        "energy_rank_99",
        "energy rank 99 %",
        Some(Span::Linear),
        |m| Some(m.measures.energy_rank_99 as f64),
    ),
    ("stable_rank", "stable rank", Some(Span::Linear), |m| {
        m.measures.stable_rank
    }),
    (
        "effective_rank",
        "effective rank",
        Some(Span::Linear),
        |m| m.measures.effective_rank,
    ),
    (
        "effective_rank_energy",
        "effective rank of energy",
        Some(Span::Linear),
        |m| m.measures.effective_rank_energy,
    ),
    (
        "participation_ratio",
        "participation ratio",
        Some(Span::Linear),
        |m| m.measures.participation_ratio,
    ),
    ("nuclear_ratio", "nuclear ratio", Some(Span::Linear), |m| {
        m.measures.nuclear_ratio
    }),
    (
        "frobenius_norm",
        "Frobenius norm",
        Some(Span::Decades),
        |m| Some(m.measures.frobenius_norm),
    ),
    ("spectral_norm", "spectral norm", Some(Span::Decades), |m| {
        Some(m.measures.spectral_norm)
    }),
];

/// One self-contained HTML page: findings, means over seeds, figures, every run, and of each run the
/// ranks of its modules at the end.
///
/// # Errors
/// If a figure cannot be drawn; one that there is nothing for is left out.
pub fn tuning_page(all: &TuningRuns, head: &PageHead) -> Result<String> {
    let report = TuningReport::new(all);
    let count = |number: usize, noun: &str| {
        let ending = if number == 1 { "" } else { "s" };
        format!("{number} {noun}{ending}")
    };
    let title = match &report.runs[..] {
        [one] => format!("Fine-tuning run {}", one.name),
        runs => format!("{} fine-tuning runs", runs.len()),
    };
    let mut models: Vec<&str> = all
        .runs
        .iter()
        .map(|run| &run.config.model.path[..])
        .collect();
    models.sort_unstable();
    models.dedup();
    let summary = format!(
        "{}, {}, {}, {} left out. Model: {}.",
        count(report.runs.len(), "run"),
        count(all.by_task().len(), "task"),
        count(report.summary.len(), "setting"),
        report.left_out.len(),
        models.join(", "),
    );
    let columns = [("name", "module", true), ("shape", "shape", true)]
        .into_iter()
        .map(|(id, label, is_text)| PageColumn {
            id,
            label,
            is_text,
            heat: None,
        })
        .chain(NUMBERS.iter().map(|&(id, label, heat, _)| PageColumn {
            id,
            label,
            is_text: false,
            heat,
        }));
    let groups = all.runs.iter().zip(&report.runs);
    let left_out = report.left_out.iter();
    html(&Page {
        title,
        head,
        notes: vec![summary],
        sentences: report.findings.clone(),
        tables: MEANS
            .into_iter()
            .filter_map(|(title, names)| Some((title.to_owned(), means(&report.summary, names)?)))
            .collect(),
        figures: figures(all),
        noun: "runs",
        overview: Some(overview(&report.runs)),
        findings: None,
        columns: columns.collect(),
        groups: groups.map(|(run, row)| group(run, row)).collect(),
        refused: Plain {
            header: vec!["folder", "reason"],
            rows: left_out
                .map(|one| vec![text(&one.name), text(&one.reason)])
                .collect(),
        },
        glossary: words(&report.runs),
        curves: CurveLabels::SPECTRUM,
        measure: "effective_rank",
    })
}

/// Those that there is something for; a run without ranks has no figure of them.
fn figures(all: &TuningRuns) -> Vec<(String, String)> {
    type Draw = fn(&TuningRuns) -> Result<Vec<(String, Figure)>>;
    let kinds: [(&str, Draw); 3] = [
        (
            "Learning curves: mean over seeds, band ± standard error",
            tuning_curves,
        ),
        (
            "Rank of ΔW by epoch: mean over modules and seeds, band ± standard error",
            tuning_ranks,
        ),
        (
            "Rank of ΔW at the end, layer by kind of module",
            tuning_modules,
        ),
    ];
    let drawn = kinds.into_iter().flat_map(|(caption, draw)| {
        let figures = draw(all).unwrap_or_default();
        let several = figures.len() > 1;
        figures.into_iter().map(move |(name, figure)| {
            let caption = match several {
                // `modules-mrpc`, `curves-2`.
                true => {
                    let (_, which) = name.split_once('-').unwrap_or_default();
                    format!("{caption}: {which}")
                }
                false => caption.to_owned(),
            };
            (caption, figure.svg_inline())
        })
    });
    drawn.collect()
}

/// What the tables of means show: metrics and losses, then ranks, so that each fits on a screen.
const MEANS: [(&str, &[&str]); 2] = [
    (
        "Means over seeds ± standard error, at the end",
        &["last", "best", "train_loss", "gap", "seconds"],
    ),
    (
        "Ranks of ΔW: means over modules and seeds ± standard error, at the end",
        &[
            "numerical_rank",
            "energy_rank_99",
            "stable_rank",
            "effective_rank",
        ],
    ),
];

fn means(groups: &[TuningGroup], names: &[&str]) -> Option<Plain> {
    let shown: Vec<_> = MEASURES
        .iter()
        .filter(|(name, ..)| names.contains(name))
        .filter(|(name, ..)| groups.iter().any(|group| group.measure(name).is_some()))
        .collect();
    if shown.is_empty() {
        return None;
    }
    let has_metric = names.contains(&"last");
    let mut header = vec!["task", "method", "n"];
    if has_metric {
        header.push("metric");
    }
    header.extend(shown.iter().map(|(_, heading, ..)| *heading));
    let rows = groups.iter().map(|group| {
        let mut row = vec![
            text(&group.setting.task),
            text(group.setting.label()),
            Cell::Number(Some(group.seeds.len() as f64)),
        ];
        if has_metric {
            row.push(text(
                group.metric.as_deref().map_or("–".to_owned(), metric_title),
            ));
        }
        row.extend(
            shown
                .iter()
                .map(|(name, _, digits, _)| match group.measure(name) {
                    Some(spread) => Cell::Told(spread.mean, told(Some(spread), *digits)),
                    None => Cell::Number(None),
                }),
        );
        row
    });
    Some(Plain {
        header,
        rows: rows.collect(),
    })
}

/// One row a run. What all runs share, and a stop that is the usual one, has no column: the rest fits
/// on a screen.
fn overview(rows: &[TuningRow]) -> Plain {
    let shown: Vec<_> = MEASURES
        .iter()
        .filter(|(.., of)| rows.iter().any(|row| of(row).is_some()))
        .collect();
    type Words = (&'static str, fn(&TuningRow) -> String);
    let words: [Words; 3] = [
        ("task", |row| row.setting.task.clone()),
        ("method", |row| row.setting.label()),
        ("metric", |row| {
            row.metric.as_deref().map_or("–".to_owned(), metric_title)
        }),
    ];
    let differs = |(_, of): &Words| rows.windows(2).any(|pair| of(&pair[0]) != of(&pair[1]));
    let words: Vec<Words> = words.into_iter().filter(differs).collect();
    let has_stop = rows.iter().any(|row| row.stop != "completed");
    let mut header = vec!["run"];
    header.extend(words.iter().map(|(heading, _)| *heading));
    header.extend(["seed", "best epoch"]);
    header.extend(shown.iter().map(|(_, heading, ..)| *heading));
    if has_stop {
        header.push("stop");
    }
    let cells = rows.iter().enumerate().map(|(index, row)| {
        let mut cells = vec![Cell::Link(row.name.clone(), index)];
        cells.extend(words.iter().map(|(_, of)| text(of(row))));
        cells.push(Cell::Number(Some(row.seed as f64)));
        cells.push(match row.best_epoch {
            Some(epoch) => Cell::Told(epoch as f64, format!("{epoch}/{}", row.epochs)),
            None => Cell::Number(None),
        });
        cells.extend(shown.iter().map(|(_, _, digits, of)| match of(row) {
            Some(value) => Cell::Told(value, decimals(value, *digits)),
            None => Cell::Number(None),
        }));
        if has_stop {
            cells.push(text(row.stop));
        }
        cells
    });
    Plain {
        header,
        rows: cells.collect(),
    }
}

fn group(run: &TuningRun, row: &TuningRow) -> Group {
    let s = &run.summary;
    let mut notes = vec![format!(
        "{} · {} · seed {} · {} numbers train, {} of them in updates · {} steps · rankwise {} on {}",
        s.task,
        run.setting.label(),
        s.seed,
        s.trainable.total,
        s.trainable.update,
        s.steps,
        s.version,
        s.platform,
    )];
    let metrics = row.metrics.iter().map(|(key, value)| match value {
        Some(value) => format!("{} {}", metric_title(key), decimals(*value, 4)),
        None => format!("{} not defined", metric_title(key)),
    });
    notes.push(format!(
        "At the end: {}.",
        metrics.collect::<Vec<_>>().join(", ")
    ));
    notes.extend(s.notes.iter().cloned());
    let modules = run.last.ranks.iter().map(|module| {
        let mut cells = vec![
            text(&module.module),
            text(format!("{}×{}", module.shape.1, module.shape.0)),
        ];
        cells.extend(NUMBERS.iter().map(|(.., of)| Cell::Number(of(module))));
        let sigma = &module.singular_values;
        let at = places(sigma.len());
        Row {
            cells,
            role: role(&module.module),
            layer: layer(&module.module),
            curve: at.iter().map(|&place| sigma[place]).collect(),
            at: Some(at),
            floor: None,
        }
    });
    Group {
        title: run.name.clone(),
        findings: 0,
        notes,
        rows: modules.collect(),
    }
}

/// What the page's words mean: those of runs, the metrics that are there, the measures of rank.
fn words(rows: &[TuningRow]) -> Vec<(String, String)> {
    let mut words: Vec<(&str, &str)> = vec![
        ("n", "runs of one setting that did not diverge"),
        (
            "best epoch",
            "the epoch of the best value, of so many trained",
        ),
        (
            "last, best",
            "the metric that decides, on the deciding set, after the last epoch and in the best one; \
             the best is chosen by the set that it is judged on",
        ),
        (
            "train loss",
            "mean of the last epoch's losses in training mode, without the method's own term",
        ),
        (
            "gap",
            "the metric on the training examples less that on the deciding set, or the other way \
             round where smaller is better: the larger the worse; only with evaluation.on_train",
        ),
        (
            "num., energy rank 99 %, stable, effective",
            "numerical rank, energy rank 99 %, stable and effective rank of ΔW, the mean over the adapted \
             modules",
        ),
        (
            "± standard error",
            "s/√n, where s is the sample's standard deviation over n seeds",
        ),
        (
            "higher, lower",
            "a mean difference, over the same seeds, that Student's 95 % interval tells from zero",
        ),
        ("ΔW", "what training has added to a pretrained weight"),
        ("R", "the rank that a low-rank update's factors allow"),
    ];
    let has = |metric: Metric| {
        rows.iter()
            .any(|row| row.metrics.contains_key(metric.key()))
    };
    for (metric, meaning) in [
        (Metric::Loss, "mean loss of the deciding set"),
        (Metric::Accuracy, "share of hits"),
        (Metric::F1, "F₁ of class 1"),
        (
            Metric::Matthews,
            "Matthews' correlation of classes: 0 is chance",
        ),
        (Metric::Pearson, "Pearson's correlation of scores"),
        (Metric::Spearman, "Spearman's correlation of scores"),
        (
            Metric::ExactMatch,
            "per cent of answers that are a gold answer",
        ),
        (
            Metric::AnswerF1,
            "mean F₁ of the words of answers, per cent",
        ),
    ] {
        if has(metric) {
            words.push((metric.key(), meaning));
        }
    }
    let all = glossary();
    let is_shown = |name: &str| name.starts_with('σ') || NUMBERS.iter().any(|n| n.0 == name);
    let measures = all.iter().filter(|(name, _)| is_shown(name));
    words
        .into_iter()
        .map(|(name, meaning)| (name.to_owned(), meaning.to_owned()))
        .chain(measures.cloned())
        .collect()
}
