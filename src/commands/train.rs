use anyhow::{Context, Result, anyhow, bail};
use rankwise_data::read_text;
use rankwise_paper::{Recipe, RunResult, run_cells, text_table, train_all};
use rankwise_training::RunConfig;

use super::{Outcome, tune};
use crate::cli::{Common, TrainOptions};
use crate::progress;
use crate::stdout::{out, outln};

/// Trains one run for every combination of the methods, ranks and seeds given.
pub fn run(options: &TrainOptions, common: &Common) -> Result<Outcome> {
    if tune::is_asked_for(options)? {
        return tune::run(options, common);
    }
    let configs = configurations(options, common)?;
    if options.dump_config {
        for config in &configs {
            out!("{}", config.to_toml());
        }
        return Ok(Outcome::Done);
    }
    let Some(out) = &common.out else {
        bail!("train: --out DIR is needed: the folder for the runs' folders");
    };
    let results = train_with_progress(&configs, out, common)?;
    if common.json {
        outln!("{}", serde_json::to_string_pretty(&results)?);
    } else if !common.quiet {
        outln!("{}", text_table(&run_cells(&results)));
    }
    Ok(Outcome::Done)
}

/// Trains into `out`, one folder a run, under a progress bar.
pub fn train_with_progress(
    configs: &[RunConfig],
    out: &std::path::Path,
    common: &Common,
) -> Result<Vec<RunResult>> {
    let epochs = configs.iter().map(|config| config.schedule.epochs).sum();
    let bar = progress::bar(epochs, "epochs", common.quiet);
    bar.set_message(format!("training {} runs", configs.len()));
    let results = train_all(configs, out, |done| bar.inc(done as u64))?;
    bar.finish_and_clear();
    Ok(results)
}

fn configurations(options: &TrainOptions, common: &Common) -> Result<Vec<RunConfig>> {
    let mut base = match &options.config {
        Some(path) => RunConfig::from_toml(&read_text(path)?, &path.display().to_string())?,
        None => RunConfig::default(),
    };
    let set = options
        .set
        .iter()
        .map(|(key, value)| assignment(key, value));
    for text in set {
        base = merged(&base, &text)?;
    }
    if let Some(device) = options.device {
        base.device = device;
    }
    let seeds = match (options.seeds.as_slice(), common.seed) {
        ([], seed) => vec![seed.unwrap_or(base.seed)],
        (seeds, _) => seeds.to_vec(),
    };
    let given = options.method.iter();
    let given = given.map(|name| {
        name.parse()
            .map_err(|error: String| anyhow!("--method: {error}"))
    });
    let methods = match given.collect::<Result<Vec<_>>>()? {
        methods if methods.is_empty() => vec![base.method.name],
        methods => methods,
    };
    let ranks = match options.rank.as_slice() {
        [] => vec![base.method.rank.unwrap_or(32)],
        ranks => ranks.to_vec(),
    };
    Recipe {
        base,
        methods,
        ranks,
        seeds,
    }
    .configurations()
    .context("train")
}

/// `key = value` as TOML; what is no TOML value is taken as text.
pub fn assignment(key: &str, value: &str) -> String {
    let line = format!("{key} = {value}");
    match line.parse::<toml::Table>() {
        Ok(_) => line,
        Err(_) => format!("{key} = {value:?}"),
    }
}

fn merged(base: &RunConfig, text: &str) -> Result<RunConfig> {
    // Checked alone first, so that an unknown key is named.
    RunConfig::from_toml(text, "--set")?;
    let mut table: toml::Table = base.to_toml().parse()?;
    merge(&mut table, text.parse()?);
    Ok(RunConfig::from_toml(&toml::to_string(&table)?, "--set")?)
}

pub fn merge(into: &mut toml::Table, from: toml::Table) {
    for (key, value) in from {
        match (into.get_mut(&key), value) {
            (Some(toml::Value::Table(into)), toml::Value::Table(from)) => merge(into, from),
            (_, value) => {
                into.insert(key, value);
            }
        }
    }
}
