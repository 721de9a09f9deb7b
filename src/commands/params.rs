use anyhow::{Context, Result, bail};
use clap::Args;
use clap::builder::RangedU64ValueParser;
use rankwise_paper::text_columns;
use rankwise_training::{
    KNOWN_MODELS, KindCount, Method, MethodTable, ParameterCount, count_parameters,
};
use serde::Serialize;

use super::Outcome;
use crate::cli::{Common, Suggested};
use crate::stdout::outln;

#[derive(Debug, Args)]
pub struct Options {
    /// A published model, or a folder with a config.json.
    #[arg(long, value_name = "NAME|DIR", value_parser = Suggested(&KNOWN_MODELS))]
    pub model: String,
    /// The method.
    #[arg(
        long,
        default_value = "lora",
        value_name = "NAME",
        value_parser = Suggested(&Method::KEYS)
    )]
    pub method: String,
    /// Values of R.
    #[arg(long, value_delimiter = ',', default_value = "8", value_name = "RANKS")]
    pub rank: Vec<usize>,
    /// Modules that get an update, by the ends of their names or regular expressions. By default
    /// every linear layer of the blocks.
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    pub targets: Vec<String>,
    /// Further modules that train as they are, beside the head.
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    pub train_also: Vec<String>,
    /// Outputs of the head.
    #[arg(long, default_value_t = 2, value_name = "N", value_parser = classes())]
    pub classes: usize,
    /// Count every union of kinds of linear layers as well.
    #[arg(long)]
    pub sets: bool,
    /// Say which unions have that many numbers in updates at that R, as rounded, such as 8:0.85M.
    #[arg(long, value_delimiter = ',', value_name = "R:COUNT", value_parser = find, requires = "sets")]
    pub find: Vec<Find>,
}

/// A count to be found.
#[derive(Debug, Clone, Serialize)]
pub struct Find {
    rank: usize,
    text: String,
    /// Numbers that round to it.
    low: f64,
    high: f64,
}

/// The count at one R.
#[derive(Serialize)]
struct AtRank {
    rank: usize,
    #[serde(flatten)]
    count: ParameterCount,
}

/// A union of kinds and what a unit of R costs in it.
#[derive(Serialize)]
struct Set {
    kinds: Vec<String>,
    for_each_rank: usize,
}

#[derive(Serialize)]
struct Report {
    model: String,
    method: String,
    counts: Vec<AtRank>,
    sets: Vec<Set>,
    found: Vec<String>,
}

/// More kinds than that have too many unions to read.
const MOST_KINDS: usize = 8;

/// More classes than that no head has; their products with a width must not overflow.
const MOST_CLASSES: u64 = 1_000_000;

/// Counts a method's parameters.
pub fn run(options: &Options, common: &Common) -> Result<Outcome> {
    let mut counts = Vec::new();
    for rank in &options.rank {
        let count = count(options, *rank)?;
        counts.push(AtRank { rank: *rank, count });
    }
    let sets = match options.sets {
        true => sets(options)?,
        false => Vec::new(),
    };
    let found = options.find.iter().map(|find| found(find, &sets)).collect();
    let report = Report {
        model: options.model.clone(),
        method: options.method.clone(),
        counts,
        sets,
        found,
    };
    if common.json {
        outln!("{}", serde_json::to_string_pretty(&report)?);
    } else if !common.quiet {
        print(&report, &options.rank);
    }
    Ok(Outcome::Done)
}

fn count(options: &Options, rank: usize) -> Result<ParameterCount> {
    let mut table = MethodTable {
        method: options.method.parse().map_err(anyhow::Error::msg)?,
        ..MethodTable::default()
    };
    table.common.rank = rank;
    table.common.targets.clone_from(&options.targets);
    table.common.train_also.clone_from(&options.train_also);
    count_parameters(&options.model, options.classes, &table).context("params")
}

/// Every union of the kinds of linear layers, the smallest first.
fn sets(options: &Options) -> Result<Vec<Set>> {
    let table = MethodTable::default();
    let rank = table.common.rank;
    let count = count_parameters(&options.model, options.classes, &table)?;
    let kinds: Vec<&KindCount> = count.kinds.iter().filter(|kind| !kind.is_whole).collect();
    if kinds.len() > MOST_KINDS {
        bail!(
            "params: --sets is for at most {MOST_KINDS} kinds of modules, found {}",
            kinds.len()
        );
    }
    let mut sets: Vec<Set> = (1..1_usize << kinds.len())
        .map(|chosen| {
            let of = kinds
                .iter()
                .enumerate()
                .filter(|(at, _)| chosen >> at & 1 == 1);
            let (mut names, mut sum) = (Vec::new(), 0);
            for (_, kind) in of {
                names.push(ending(&kind.kind));
                sum += kind.sum / rank;
            }
            Set {
                kinds: names,
                for_each_rank: sum,
            }
        })
        .collect();
    sets.sort_by_key(|set| (set.for_each_rank, set.kinds.len()));
    Ok(sets)
}

/// What comes after the layer's number.
fn ending(kind: &str) -> String {
    kind.rsplit_once("*.")
        .map_or(kind, |(_, end)| end)
        .to_owned()
}

/// A sentence about the unions that have a count, or that come nearest to it.
fn found(find: &Find, sets: &[Set]) -> String {
    let of = |set: &Set| (set.for_each_rank * find.rank) as f64;
    let names = |set: &Set| format!("{} ({})", set.kinds.join(" + "), of(set));
    let fitting: Vec<_> = sets
        .iter()
        .filter(|set| (find.low..find.high).contains(&of(set)))
        .map(names)
        .collect();
    if !fitting.is_empty() {
        return format!("{} at R = {}: {}", find.text, find.rank, fitting.join("; "));
    }
    let below = sets.iter().rev().find(|set| of(set) < find.low).map(names);
    let above = sets.iter().find(|set| of(set) >= find.high).map(names);
    let nearest: Vec<_> = [below, above].into_iter().flatten().collect();
    format!(
        "{} at R = {}: no union of kinds of linear layers; the nearest are {}",
        find.text,
        find.rank,
        nearest.join(" and ")
    )
}

fn print(report: &Report, ranks: &[usize]) {
    let numbers = |of: &dyn Fn(&AtRank) -> usize| -> Vec<String> {
        report.counts.iter().map(|at| of(at).to_string()).collect()
    };
    let heading = |first: &[&str]| -> Vec<String> {
        let first = first.iter().map(|name| (*name).to_owned());
        first
            .chain(ranks.iter().map(|rank| format!("R = {rank}")))
            .collect()
    };
    let mut rows = Vec::new();
    let Some(first) = report.counts.first() else {
        return;
    };
    for (index, kind) in first.count.kinds.iter().enumerate() {
        let mut row = vec![
            kind.kind.clone() + if kind.is_whole { " (itself)" } else { "" },
            kind.modules.to_string(),
            format!("{} x {}", kind.shape.0, kind.shape.1),
        ];
        row.extend(numbers(&|at| {
            at.count.kinds.get(index).map_or(0, |kind| kind.sum)
        }));
        rows.push(row);
    }
    for (name, of) in [
        (
            "updates",
            (|at: &AtRank| at.count.updates) as fn(&AtRank) -> usize,
        ),
        ("modules that train themselves", |at| at.count.whole),
        ("all that trains", |at| at.count.total),
    ] {
        let mut row = vec![name.to_owned(), String::new(), String::new()];
        row.extend(numbers(&of));
        rows.push(row);
    }
    let header = heading(&["kind", "modules", "in x out"]);
    outln!("{}", text_columns(&header, &rows));
    outln!(
        "\n{} has {} numbers with its head.",
        report.model,
        first.count.model
    );
    if !report.sets.is_empty() {
        let rows = report.sets.iter().map(|set| {
            let mut row = vec![set.kinds.join(" + "), set.for_each_rank.to_string()];
            row.extend(
                ranks
                    .iter()
                    .map(|rank| (rank * set.for_each_rank).to_string()),
            );
            row
        });
        let rows: Vec<_> = rows.collect();
        let header = heading(&["linear layers of the blocks", "a unit of R"]);
        outln!("\n{}", text_columns(&header, &rows));
    }
    for sentence in &report.found {
        outln!("\n{sentence}");
    }
}

fn classes() -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(1..=MOST_CLASSES)
}

/// `R:COUNT`, the count perhaps in thousands (K) or millions (M).
fn find(text: &str) -> Result<Find, String> {
    let wrong = || format!("expected R:COUNT such as 8:0.85M, found {text:?}");
    let (rank, count) = text.split_once(':').ok_or_else(wrong)?;
    let rank = rank.parse().map_err(|_| wrong())?;
    let (digits, unit) = match count.strip_suffix(['K', 'k']) {
        Some(digits) => (digits, 1e3),
        None => count
            .strip_suffix(['M', 'm'])
            .map_or((count, 1.0), |digits| (digits, 1e6)),
    };
    let value: f64 = digits.parse().map_err(|_| wrong())?;
    let decimals = digits.split_once('.').map_or(0, |(_, after)| after.len());
    let half = 0.5 * unit * 10_f64.powi(-(decimals as i32));
    Ok(Find {
        rank,
        text: count.to_owned(),
        low: value * unit - half,
        high: value * unit + half,
    })
}
