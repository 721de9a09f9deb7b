use std::collections::HashSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use rankwise_data::{Hub, RepoId, RepoKind, model_patterns, read_text};
use rankwise_paper::{TuningRow, TuningRuns, text_table, tuning_cells};
use rankwise_training::{
    Method, MethodTable, Sources, TuneConfig, TuneProgress, TuneRecord, TuneStop, TuneSummary,
    count_parameters, rehearse, tune,
};

use super::train::{assignment, merge};
use super::{Outcome, tuned};
use crate::cli::{Common, TrainOptions};
use crate::progress;
use crate::stdout::{out, outln};

/// Whether a transformer is to be fine-tuned rather than a head.
pub fn is_asked_for(options: &TrainOptions) -> Result<bool> {
    if options.model.is_some() {
        return Ok(true);
    }
    Ok(match &options.config {
        Some(path) => read_text(path)?
            .parse::<toml::Table>()
            .is_ok_and(|table| table.contains_key("model")),
        None => false,
    })
}

/// Fine-tunes a transformer, one run for every combination of the methods, ranks and seeds given.
pub fn run(options: &TrainOptions, common: &Common) -> Result<Outcome> {
    let configs = configurations(options, common)?;
    if options.dump_config {
        for config in &configs {
            out!("{}", config.to_toml());
        }
        return Ok(Outcome::Done);
    }
    if common.out.is_none() && !options.dry_run {
        bail!("train: --out DIR is needed: the folder for the runs' folders");
    }
    // Configurations differ in method, rank and seed alone.
    let sources = sources(&configs[0], options.offline, common.quiet)?;
    check_methods(&configs, &sources)?;
    let Some(out) = common.out.as_ref().filter(|_| !options.dry_run) else {
        return dry_run(&configs, &sources, common);
    };
    let mut summaries = Vec::new();
    for config in &configs {
        let name = folder_name(config);
        let summary = one(config, &sources, &out.join(&name), common)?;
        summaries.push((name, summary));
    }
    // What was trained is safe already: a page that cannot be made is no failure of the runs.
    let page = TuningRuns::read(out).and_then(|runs| tuned::write_page(&runs, out));
    if let Err(error) = &page {
        eprintln!("{}: not written: {error:#}", tuned::PAGE);
    }
    if common.json {
        let summaries: Vec<&TuneSummary> = summaries.iter().map(|(_, summary)| summary).collect();
        outln!("{}", serde_json::to_string_pretty(&summaries)?);
    } else if !common.quiet {
        let rows = summaries
            .iter()
            .map(|(name, summary)| TuningRow::new(name, summary));
        outln!("{}", text_table(&tuning_cells(&rows.collect::<Vec<_>>())));
        let notes = summaries.iter().flat_map(|(_, summary)| &summary.notes);
        let mut said = HashSet::new();
        for note in notes.filter(|note| said.insert(*note)) {
            outln!("{note}");
        }
    }
    let diverged = |summary: &TuneSummary| matches!(summary.stop, TuneStop::Diverged { .. });
    for (_, summary) in summaries.iter().filter(|(_, summary)| diverged(summary)) {
        if let TuneStop::Diverged { step, module } = &summary.stop {
            eprintln!(
                "{} (seed {}): not a finite number in step {step}, first in {module}",
                summary.method, summary.seed
            );
        }
    }
    Ok(
        match summaries.iter().any(|(_, summary)| diverged(summary)) {
            true => Outcome::CheckFailed,
            false => Outcome::Done,
        },
    )
}

/// Where methods or ranks differ, attaches each to the model without its weights: what does not fit
/// is said before the first run rather than after it.
fn check_methods(configs: &[TuneConfig], sources: &Sources) -> Result<()> {
    // A path that is no published model's name.
    let model = std::path::absolute(&sources.model)?;
    let fresh = configs
        .iter()
        .filter(|config| config.model.adapter.is_none());
    // Once for all seeds: a method that decomposes weights takes seconds.
    let mut methods: Vec<&MethodTable> = Vec::new();
    for config in fresh {
        if !methods.contains(&&config.method) {
            methods.push(&config.method);
        }
    }
    if methods.len() > 1 {
        for method in methods {
            count_parameters(&model.to_string_lossy(), 2, method)?;
        }
    }
    Ok(())
}

/// Says what the runs would cost, after a few steps of each.
fn dry_run(configs: &[TuneConfig], sources: &Sources, common: &Common) -> Result<Outcome> {
    let mut rehearsals = Vec::new();
    for config in configs {
        let rehearsal = rehearse(config, sources)?;
        rehearsals.push((folder_name(config), rehearsal));
    }
    if common.json {
        let named = rehearsals
            .iter()
            .map(|(name, rehearsal)| (name.as_str(), rehearsal));
        let named: std::collections::BTreeMap<_, _> = named.collect();
        outln!("{}", serde_json::to_string_pretty(&named)?);
        return Ok(Outcome::Done);
    }
    let header = vec![
        "run",
        "trained",
        "of",
        "examples",
        "tokens each",
        "steps",
        "s a step",
        "minutes",
        "state MB",
        "batch MB",
        "peak MB",
    ];
    let rows = rehearsals.iter().map(|(name, r)| {
        vec![
            name.clone(),
            r.trainable.total.to_string(),
            r.model.to_string(),
            r.examples.to_string(),
            format!("{:.1}", r.tokens as f64 / r.examples.max(1) as f64),
            r.steps.to_string(),
            format!("{:.3}", r.step_seconds),
            format!("{:.1}", r.seconds / 60.0),
            format!("{:.0}", r.state_bytes as f64 / 1e6),
            format!("{:.0}", r.batch_bytes as f64 / 1e6),
            r.peak_bytes
                .map_or("–".to_owned(), |peak| format!("{:.0}", peak as f64 / 1e6)),
        ]
    });
    outln!("{}", text_table(&(header, rows.collect())));
    outln!("\nMeasured on three steps of each run; nothing was written.");
    Ok(Outcome::Done)
}

/// One run under a progress bar.
fn one(
    config: &TuneConfig,
    sources: &Sources,
    folder: &Path,
    common: &Common,
) -> Result<TuneSummary> {
    let bar = progress::bar(0, "steps", common.quiet);
    let name = config.method.method.title();
    bar.set_message(name);
    let mut last = String::new();
    let summary = tune(config, sources, Some(folder), |progress| match progress {
        TuneProgress::Begins {
            found, of, notes, ..
        } => {
            bar.set_length(of);
            bar.set_position(found);
            if !common.quiet {
                let say = || notes.iter().for_each(|note| eprintln!("{name}: {note}"));
                bar.suspend(say);
            }
        }
        TuneProgress::Step { number, record } => {
            bar.set_position(number);
            bar.set_message(format!("{name} loss {:.3}{last}", record.loss));
        }
        TuneProgress::Epoch(record) => {
            last = told(record);
            if !common.quiet && bar.is_hidden() {
                eprintln!(
                    "{name}, epoch {}: train loss {:.4}{last}",
                    record.epoch, record.train_loss
                );
            }
        }
    });
    bar.finish_and_clear();
    summary.with_context(|| format!("train: {}", folder.display()))
}

/// The deciding metric and the mean rank of an epoch.
fn told(record: &TuneRecord) -> String {
    let mut text = String::new();
    if let Some((key, Some(value))) = record.deciding() {
        text += &format!(", {key} {value:.4}");
    }
    if let Some(rank) = record.mean_rank(|module| module.measures.effective_rank) {
        text += &format!(", effective rank {rank:.2}");
    }
    text
}

/// `task-method-r8-s0`.
fn folder_name(config: &TuneConfig) -> String {
    let method = config.method.method.key();
    let rank = match config.method.method.has_rank() {
        true => format!("-r{}", config.method.common.rank),
        false => String::new(),
    };
    format!("{}-{method}{rank}-s{}", config.task.name, config.seed)
}

fn configurations(options: &TrainOptions, common: &Common) -> Result<Vec<TuneConfig>> {
    let mut table = toml::Table::new();
    if let Some(path) = &options.config {
        let text = read_text(path)?;
        TuneConfig::from_toml(&text, &path.display().to_string())?;
        table = text.parse()?;
    }
    let mut set = |key: &str, value: toml::Value| -> Result<()> {
        merge(&mut table, nested(key, value));
        Ok(())
    };
    for (key, value) in &options.set {
        let line: toml::Table = assignment("value", value).parse()?;
        for (_, value) in line {
            set(key, value)?;
        }
    }
    let text = |text: &str| toml::Value::String(text.to_owned());
    if let Some(model) = &options.model {
        set("model.path", text(model))?;
    }
    if let Some(adapter) = &options.adapter {
        set("model.adapter", text(&adapter.to_string_lossy()))?;
    }
    if let Some(task) = &options.task {
        set("task.name", text(task))?;
    }
    if let Some(data) = &options.data {
        set("task.data", text(&data.to_string_lossy()))?;
    }
    if let Some(device) = options.device {
        set("device", text(&device.to_string()))?;
    }
    if let Some(epochs) = options.epochs {
        let epochs = i64::try_from(epochs).context("--epochs")?;
        set("schedule.epochs", toml::Value::Integer(epochs))?;
    }
    if let Some(rate) = options.learning_rate {
        set("optimizer.learning_rate", toml::Value::Float(rate))?;
    }
    if let Some(allowed) = options.skip_bad {
        set("task.skip_bad", toml::Value::Integer(allowed as i64))?;
    }
    if !options.targets.is_empty() {
        let targets = options.targets.iter().map(|target| text(target)).collect();
        set("method.targets", toml::Value::Array(targets))?;
    }
    if entry(&table, "task", "name").and_then(toml::Value::as_str) == Some("squad")
        && entry(&table, "task", "max_length").is_none()
    {
        // The usual windows.
        merge(
            &mut table,
            nested("task.max_length", toml::Value::Integer(384)),
        );
    }
    let methods = match (options.method.as_slice(), entry(&table, "method", "name")) {
        ([], Some(toml::Value::String(name))) => vec![name.clone()],
        ([], _) => vec![MethodTable::default().method.key().to_owned()],
        (methods, _) => methods.to_vec(),
    };
    let base = of_method(&table, &methods[0], &methods);
    let base = TuneConfig::from_toml(&toml::to_string(&base)?, "--set")?;
    let ranks = match options.rank.as_slice() {
        [] => vec![base.method.common.rank],
        ranks => ranks.to_vec(),
    };
    let seeds = match (options.seeds.as_slice(), common.seed) {
        ([], seed) => vec![seed.unwrap_or(base.seed)],
        (seeds, _) => seeds.to_vec(),
    };
    let mut configs: Vec<TuneConfig> = Vec::new();
    for method in &methods {
        for rank in &ranks {
            for seed in &seeds {
                let mut own = of_method(&table, method, &methods);
                let has_rank = method.parse().is_ok_and(|method: Method| method.has_rank());
                if has_rank {
                    merge(
                        &mut own,
                        nested("method.rank", toml::Value::Integer(*rank as i64)),
                    );
                }
                let mut config = TuneConfig::from_toml(&toml::to_string(&own)?, "--method")?;
                config.seed = *seed;
                let rank = config.method.common.rank;
                config = config.with_adapters_rank()?;
                let found = config.method.common.rank;
                if found != rank && !options.rank.is_empty() && has_rank {
                    bail!("--rank: expected {found}, the adapter's, found {rank}");
                }
                config.check("configuration")?;
                // What has no R is one run.
                if !configs.contains(&config) {
                    configs.push(config);
                }
            }
        }
    }
    Ok(configs)
}

fn entry<'a>(table: &'a toml::Table, part: &str, key: &str) -> Option<&'a toml::Value> {
    table.get(part)?.get(key)
}

/// The settings of a run of `method`: without the keys under `[method]` that are not its own but
/// another's of `methods`, or of the method that the settings name.
fn of_method(table: &toml::Table, method: &str, methods: &[String]) -> toml::Table {
    let mut own = table.clone();
    let named = entry(table, "method", "name").and_then(toml::Value::as_str);
    let others: Vec<&str> = methods.iter().map(String::as_str).chain(named).collect();
    if let Some(toml::Value::Table(settings)) = own.get_mut("method") {
        settings.retain(|key, value| {
            is_key_of(method, key, value)
                || !others.iter().any(|other| is_key_of(other, key, value))
        });
    }
    merge(
        &mut own,
        nested("method.name", toml::Value::String(method.to_owned())),
    );
    own
}

/// Whether `method` has a setting `key`, whatever its value may be.
fn is_key_of(method: &str, key: &str, value: &toml::Value) -> bool {
    let mut settings = toml::Table::from_iter([(key.to_owned(), value.clone())]);
    settings.insert("name".to_owned(), toml::Value::String(method.to_owned()));
    match MethodTable::try_from(settings) {
        Ok(_) => true,
        Err(error) => !error.contains("unknown field"),
    }
}

/// `a.b = value` as a table.
fn nested(key: &str, value: toml::Value) -> toml::Table {
    match key.split_once('.') {
        None => toml::Table::from_iter([(key.to_owned(), value)]),
        Some((first, rest)) => {
            let inner = toml::Value::Table(nested(rest, value));
            toml::Table::from_iter([(first.to_owned(), inner)])
        }
    }
}

/// The folders of the model and of the data: as given, or where the Hub's cache has them or gets
/// them.
fn sources(config: &TuneConfig, offline: bool, quiet: bool) -> Result<Sources> {
    let data = config.task.data.to_string_lossy();
    let name = config.task.name.as_str();
    // Where the data sets of these tasks keep the files of one part of theirs.
    let pattern = match name {
        "squad" | "text" | "banking77" => None,
        "food101" | "images" => Some("data/*.parquet".to_owned()),
        _ => Some(format!("{name}/*.parquet")),
    };
    let revision = config.model.revision.as_deref();
    let patterns = model_patterns();
    let patterns: Vec<&str> = patterns.iter().map(String::as_str).collect();
    let model = folder(
        ("model.path", &config.model.path, RepoKind::Model, revision),
        &patterns,
        (offline, quiet),
    )?;
    let data = match &pattern {
        Some(pattern) => {
            let given = ("task.data", &*data, RepoKind::Dataset, None);
            let found = folder(given, &[pattern], (offline, quiet))?;
            // The files of CIFAR lie in a folder of their own there.
            let own = found.join(name);
            let is_cifar = name.starts_with("cifar") && own.is_dir();
            if is_cifar { own } else { found }
        }
        None => config.task.data.clone(),
    };
    Ok(Sources { model, data })
}

/// A folder, or the snapshot of a repository with files of these patterns.
fn folder(
    (key, given, kind, revision): (&str, &str, RepoKind, Option<&str>),
    patterns: &[&str],
    (offline, quiet): (bool, bool),
) -> Result<PathBuf> {
    let path = Path::new(given);
    if path.is_dir() {
        return Ok(path.to_path_buf());
    }
    let is_id = given.split('/').count() == 2 && !given.starts_with('.') && !path.is_absolute();
    if !is_id {
        bail!("{key}: expected a folder or an id of the Hub (owner/name), found {given:?}");
    }
    let mut repo = RepoId::parse(kind, given)?;
    if let Some(revision) = revision {
        repo = repo.with_revision(revision)?;
    }
    let mut hub = Hub::from_environment()?;
    if offline {
        hub = hub.with_offline(true);
    }
    let bar = progress::bar(0, "bytes", quiet);
    let files = hub.resolve(&repo, patterns, |progress| {
        bar.set_length(progress.total.unwrap_or(0));
        bar.set_position(progress.done);
        bar.set_message(progress.file.to_owned());
    });
    bar.finish_and_clear();
    Ok(files.with_context(|| format!("{key} = {given:?}"))?.folder)
}
