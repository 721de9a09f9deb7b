//! Figures: learning curves, ranks by epoch, ranks by layer and kind of module.

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use rankwise_analysis::role;
use rankwise_figures::{Curve, Figure, HeatMap, Panel, Scale, grid, heat_maps};

use super::records::{TuningRun, TuningRuns, TuningSeeds, metric_title};
use crate::audit::layer;
use crate::compare_adapters::short_names;
use crate::drawing::{epochs, seeds_curve};
use crate::numbers::heading;
use crate::style::rank_stroke;

/// Charts of one file: a screen or two of them.
const MOST: usize = 16;
/// A largest rank so many times the smallest is drawn over decades.
const DECADES: f64 = 20.0;

/// The deciding metric and the training loss by epoch, two panels a task: the mean over seeds and a
/// band of one standard error. Runs that diverged are not drawn.
///
/// # Errors
/// If there is nothing to draw.
pub fn tuning_curves(all: &TuningRuns) -> Result<Vec<(String, Figure)>> {
    drawn("curves", curve_panels(all), 2)
}

pub(super) fn curve_panels(all: &TuningRuns) -> Vec<Panel> {
    let mut panels = Vec::new();
    for (task, groups) in all.by_task() {
        let decides = groups.iter().find_map(|(_, runs)| runs[0].decides());
        if let Some((set, key)) = decides {
            let title = heading(&metric_title(key));
            let curves = curves(&groups, TuningRun::deciding_series);
            panels.push(panel(format!("{task}: {title} ({set})"), title, curves));
        }
        let curves = curves(&groups, |run| run.series("train_loss"));
        let loss = "Training loss".to_owned();
        panels.push(panel(format!("{task}: training loss"), loss, curves));
    }
    panels
}

/// The mean effective rank of ΔW over modules by epoch, one panel a task: mean over seeds and a band of
/// one standard error.
///
/// # Errors
/// If no run has ranks on record.
pub fn tuning_ranks(all: &TuningRuns) -> Result<Vec<(String, Figure)>> {
    drawn("ranks", rank_panels(all), 2)
}

pub(super) fn rank_panels(all: &TuningRuns) -> Vec<Panel> {
    let mut panels = Vec::new();
    for (task, groups) in all.by_task() {
        let curves = curves(&groups, |run| run.series("mean_effective_rank"));
        let label = "Mean effective rank of ΔW".to_owned();
        let mut panel = panel(format!("{task}: effective rank of ΔW"), label, curves);
        let means = || panel.curves.iter().flat_map(|curve| &curve.mean).copied();
        let (least, most) = (
            means().fold(f64::INFINITY, f64::min),
            means().fold(0.0, f64::max),
        );
        if least > 0.0 && most > DECADES * least {
            panel.y_scale = Scale::log();
        }
        panels.push(panel);
    }
    panels
}

fn curves(
    groups: &[TuningSeeds<'_>],
    series: impl Fn(&TuningRun) -> Option<Vec<f64>>,
) -> Vec<Curve> {
    let ranks = || groups.iter().filter_map(|(setting, _)| setting.rank);
    groups
        .iter()
        .filter_map(|(setting, runs)| {
            let whole = runs.iter().filter(|run| run.is_whole());
            let own: Vec<Vec<f64>> = whole.filter_map(|run| series(run)).collect();
            let is_there = own.iter().flatten().any(|value| value.is_finite());
            let stroke = rank_stroke(ranks(), setting.rank);
            is_there.then(|| seeds_curve(setting.label(), &setting.method, stroke, &own))
        })
        .collect()
}

fn panel(title: String, y_label: String, curves: Vec<Curve>) -> Panel {
    Panel {
        title,
        x_label: epochs(&curves),
        y_label,
        curves,
        x_is_whole: true,
        ..Panel::default()
    }
}

fn drawn(name: &str, mut panels: Vec<Panel>, columns: usize) -> Result<Vec<(String, Figure)>> {
    panels.retain(|panel| !panel.curves.is_empty());
    if panels.is_empty() {
        bail!("{name}: expected a run with finite numbers by epoch, found none");
    }
    let files = numbered(name, panels);
    let figures = files.into_iter().map(|(name, panels)| {
        let columns = columns.min(panels.len());
        Ok((name, grid(&panels, columns)?))
    });
    figures.collect()
}

/// Charts in files of at most [`MOST`]: `name`, or `name-1`, `name-2`, …
fn numbered<C: Clone>(name: &str, charts: Vec<C>) -> Vec<(String, Vec<C>)> {
    match charts.len() {
        0..=MOST => vec![(name.to_owned(), charts)],
        _ => charts
            .chunks(MOST)
            .enumerate()
            .map(|(at, own)| (format!("{name}-{}", at + 1), own.to_vec()))
            .collect(),
    }
}

/// The effective rank of ΔW at the end by layer and kind of module, one panel a method and R, mean over
/// seeds; one file a task if there are several.
///
/// # Errors
/// If no run has ranks on record.
pub fn tuning_modules(all: &TuningRuns) -> Result<Vec<(String, Figure)>> {
    let files = module_maps(all);
    if files.is_empty() {
        bail!("modules: expected a run with ranks of its modules on record, found none");
    }
    let figures = files.into_iter().map(|(name, maps)| {
        let columns = maps.len().min(2);
        Ok((name, heat_maps(&maps, columns)?))
    });
    figures.collect()
}

/// Heat maps by file.
pub(super) fn module_maps(all: &TuningRuns) -> Vec<(String, Vec<HeatMap>)> {
    let tasks = all.by_task();
    let mut files = Vec::new();
    for (task, groups) in &tasks {
        let maps: Vec<HeatMap> = groups.iter().filter_map(|group| map(task, group)).collect();
        if maps.is_empty() {
            continue;
        }
        let name = match tasks.len() {
            1 => "modules".to_owned(),
            _ => format!("modules-{task}"),
        };
        files.extend(numbered(&name, maps));
    }
    files
}

/// A cell is the mean over seeds, and over the modules that share a layer and a kind.
fn map(task: &str, (setting, runs): &TuningSeeds<'_>) -> Option<HeatMap> {
    let whole: Vec<&&TuningRun> = runs.iter().filter(|run| run.is_whole()).collect();
    let modules = || whole.iter().flat_map(|run| &run.last.ranks);
    let is_numbered = |name: &str| layer(name).is_some();
    // Kinds in the order of the model; what all numbered ones begin with is left away.
    let mut kinds: Vec<String> = Vec::new();
    for module in modules() {
        let kind = role(&module.module);
        if !kinds.contains(&kind) {
            kinds.push(kind);
        }
    }
    let numbered: Vec<String> = modules()
        .filter(|module| is_numbered(&module.module))
        .map(|module| role(&module.module))
        .collect();
    let short = short_names(numbered.iter().map(String::as_str));
    let short: BTreeMap<&String, String> = numbered.iter().zip(short).collect();
    let mut sums: BTreeMap<(Option<usize>, usize), (f64, usize)> = BTreeMap::new();
    let mut layers: Vec<Option<usize>> = Vec::new();
    for module in modules() {
        let at = layer(&module.module);
        if !layers.contains(&at) {
            layers.push(at);
        }
        let kind = kinds
            .iter()
            .position(|kind| *kind == role(&module.module))?;
        if let Some(value) = module.measures.effective_rank {
            let sum = sums.entry((at, kind)).or_default();
            *sum = (sum.0 + value, sum.1 + 1);
        }
    }
    layers.sort_by_key(|layer| (layer.is_none(), *layer));
    let values: Vec<Vec<f64>> = (0..kinds.len())
        .map(|kind| {
            let cell = |layer: &Option<usize>| match sums.get(&(*layer, kind)) {
                Some((sum, count)) => sum / *count as f64,
                None => f64::NAN,
            };
            layers.iter().map(cell).collect()
        })
        .collect();
    let most = values.iter().flatten().copied().fold(f64::NAN, f64::max);
    if !most.is_finite() {
        return None;
    }
    // Methods of one R share their colours; where nothing bounds the rank they have their own.
    let budget = modules().filter_map(|module| module.budget).max();
    let top = match budget {
        Some(budget) if budget as f64 >= most => budget as f64,
        _ => most.ceil(),
    };
    let seeds = match whole.len() {
        1 => "1 seed".to_owned(),
        count => format!("mean of {count} seeds"),
    };
    let blank = match values.iter().flatten().all(|value| value.is_finite()) {
        true => "",
        false => "; ×: no module, or ΔW = 0",
    };
    let name = |layer: &Option<usize>| layer.map_or("–".to_owned(), |layer| layer.to_string());
    Some(HeatMap {
        title: format!("{task}: {}", setting.label()),
        note: format!("effective rank of ΔW at the end, {seeds}{blank}"),
        x_label: "Layer".to_owned(),
        y_label: String::new(),
        columns: layers.iter().map(name).collect(),
        rows: kinds
            .iter()
            .map(|kind| short.get(kind).unwrap_or(kind).clone())
            .collect(),
        // An effective rank is at least 1.
        range: (1.0, top.max(2.0)),
        decimals: (layers.len() <= 16).then_some(usize::from(most < 100.0)),
        values,
    })
}
