use std::collections::HashSet;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, bail};
use rankwise_data::{Hub, RepoId, RepoKind, model_patterns};
use rankwise_paper::{TuningRow, TuningRuns, text_table, tuning_cells};
use rankwise_training::{
    Configuration, Error, Given, Method, MethodTable, Sources, TuneConfig, TuneProgress,
    TuneRecord, TuneStop, TuneSummary, count_parameters, rehearse, tune,
};

use super::{Outcome, train, tuned};
use crate::cli::{Common, TrainOptions};
use crate::progress;
use crate::stdout::outln;

/// A run that is to be made.
struct Planned {
    config: TuneConfig,
    /// Where its settings were typed.
    given: Given,
    /// Its folder's name.
    name: String,
}

/// Fine-tunes a transformer, one run for every combination of the methods, ranks, learning rates and
/// seeds given.
pub fn run(options: &TrainOptions, given: Given, common: &Common) -> Result<Outcome> {
    let mut planned = configurations(options, given, common)?;
    if options.dump_config {
        return dump(&mut planned, options, common);
    }
    if common.out.is_none() && !options.dry_run {
        bail!("train: --out DIR is needed: the folder for the runs' folders");
    }
    // Configurations differ in method, rank, learning rate and seed alone.
    let sources = sources(&planned[0], options.offline, common.quiet)?;
    for planned in &mut planned {
        let resolved = planned.config.resolved(Some(&sources.model));
        planned.config = resolved.map_err(|error| planned.given.located(error))?;
    }
    check_methods(&planned, &sources)?;
    let Some(out) = common.out.as_ref().filter(|_| !options.dry_run) else {
        return dry_run(&planned, &sources, common);
    };
    let mut summaries = Vec::new();
    for planned in &planned {
        let summary = one(planned, &sources, &out.join(&planned.name), common)?;
        summaries.push((planned.name.clone(), summary));
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
    for (planned, (name, summary)) in planned.iter().zip(&summaries) {
        if let Some(said) = planned.config.said_of_stillness(summary.steps) {
            eprintln!("{name}: {said}");
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

/// Prints the configurations; what depends on the model is left open if that cannot be read.
fn dump(planned: &mut [Planned], options: &TrainOptions, common: &Common) -> Result<Outcome> {
    let first = &planned[0].config.model;
    let model = folder(
        (
            "model.path",
            &first.path,
            RepoKind::Model,
            first.revision.as_deref(),
        ),
        &["config.json"],
        (options.offline, true),
    );
    let model = model.map_err(|error| train::located(&planned[0].given, error));
    if let Err(error) = &model {
        eprintln!("targets are not written out, as the model is not there: {error:#}");
    }
    for planned in planned.iter_mut() {
        let resolved = planned.config.resolved(model.as_deref().ok());
        planned.config = resolved.map_err(|error| planned.given.located(error))?;
    }
    let configs: Vec<&TuneConfig> = planned.iter().map(|planned| &planned.config).collect();
    let texts = planned.iter();
    let texts = texts.map(|planned| (planned.name.clone(), planned.config.to_commented_toml()));
    train::dump(texts, &configs, common)?;
    Ok(Outcome::Done)
}

/// Where methods or ranks differ, attaches each to the model without its weights: what does not fit
/// is said before the first run rather than after it.
fn check_methods(planned: &[Planned], sources: &Sources) -> Result<()> {
    // A path that is no published model's name.
    let model = std::path::absolute(&sources.model)?;
    let fresh = planned
        .iter()
        .filter(|planned| planned.config.model.adapter.is_none());
    // Once for all seeds: a method that decomposes weights takes seconds.
    let mut methods: Vec<(&MethodTable, &Given)> = Vec::new();
    for Planned { config, given, .. } in fresh {
        if !methods.iter().any(|(method, _)| **method == config.method) {
            methods.push((&config.method, given));
        }
    }
    if methods.len() > 1 {
        for (method, given) in methods {
            let counted = count_parameters(&model.to_string_lossy(), 2, method);
            counted.map_err(|error| given.located(error))?;
        }
    }
    Ok(())
}

/// Says what the runs would cost, after a few steps of each.
fn dry_run(planned: &[Planned], sources: &Sources, common: &Common) -> Result<Outcome> {
    let mut rehearsals = Vec::new();
    for Planned {
        config,
        given,
        name,
    } in planned
    {
        let rehearsal = rehearse(config, sources).map_err(|error| given.located(error))?;
        if let Some(said) = config.said_of_stillness(rehearsal.steps) {
            eprintln!("{name}: {said}");
        }
        rehearsals.push((name.clone(), rehearsal));
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
    Planned { config, given, .. }: &Planned,
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
    let summary = summary.map_err(|error| given.located(error));
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

/// `task-method-r8-s0`, and with the learning rate if there are several.
fn folder_name(config: &TuneConfig, has_rate: bool) -> String {
    let method = config.method.method.key();
    let rank = match config.method.method.has_rank() {
        true => format!("-r{}", config.method.common.rank),
        false => String::new(),
    };
    let rate = match has_rate {
        true => format!("-lr{:e}", config.optimizer.learning_rate),
        false => String::new(),
    };
    format!("{}-{method}{rank}{rate}-s{}", config.task.name, config.seed)
}

fn configurations(
    options: &TrainOptions,
    mut given: Given,
    common: &Common,
) -> Result<Vec<Planned>> {
    let is_squad = given.get("task.name").and_then(toml::Value::as_str) == Some("squad");
    if is_squad && given.get("task.max_length").is_none() {
        // The usual windows.
        given.set("task.max_length", 384.into(), "the default for squad")?;
    }
    let default = MethodTable::default().method.key().to_owned();
    let methods = match (options.method.as_slice(), given.get("method.name")) {
        ([], Some(toml::Value::String(name))) => vec![name.clone()],
        ([], None) => vec![default],
        // It is no name, and said to be none.
        ([], Some(_)) => return Err(wrong(given.read::<TuneConfig>())),
        (methods, _) => methods.to_vec(),
    };
    let base: TuneConfig = of_method(&given, &methods[0], &methods, options)?.read()?;
    let ranks = match options.rank.as_slice() {
        [] => vec![None],
        ranks => ranks.iter().copied().map(Some).collect(),
    };
    let rates = match options.learning_rate.as_slice() {
        [] | [_] => vec![None],
        rates => rates.iter().copied().map(Some).collect(),
    };
    let seeds = match (options.seeds.as_slice(), common.seed) {
        ([], seed) => vec![seed.unwrap_or(base.seed)],
        (seeds, _) => seeds.to_vec(),
    };
    let mut planned: Vec<Planned> = Vec::new();
    for method in &methods {
        let of_method = of_method(&given, method, &methods, options)?;
        let has_rank = method.parse().is_ok_and(|method: Method| method.has_rank());
        for rank in ranks.iter().map(|rank| rank.filter(|_| has_rank)) {
            for rate in &rates {
                let mut given = of_method.clone();
                if let Some(rank) = rank {
                    let value = i64::try_from(rank).unwrap_or(i64::MAX);
                    given.set("method.rank", value.into(), &format!("--rank {rank}"))?;
                }
                if let Some(rate) = *rate {
                    let origin = format!("--learning-rate {rate}");
                    given.set("optimizer.learning_rate", rate.into(), &origin)?;
                }
                for seed in &seeds {
                    let config = configuration(&given, *seed, rank)?;
                    // What has no R is one run.
                    if !planned.iter().any(|planned| planned.config == config) {
                        planned.push(Planned {
                            name: folder_name(&config, rates.len() > 1),
                            given: given.clone(),
                            config,
                        });
                    }
                }
            }
        }
    }
    Ok(planned)
}

/// One run's configuration, `rank` being the one of `--rank`.
fn configuration(given: &Given, seed: u64, rank: Option<usize>) -> Result<TuneConfig> {
    let mut config: TuneConfig = given.read()?;
    config.seed = seed;
    config = config.with_adapters_rank()?;
    let found = config.method.common.rank;
    if let Some(rank) = rank.filter(|rank| *rank != found) {
        bail!("--rank: expected {found}, the adapter's, found {rank}");
    }
    let checked = config.check("configuration");
    checked.map_err(|error| given.located(error))?;
    let paths = [
        Some(&mut config.task.data),
        config.model.adapter.as_mut(),
        config.task.train.as_mut(),
        config.task.validation.as_mut(),
    ];
    for path in paths.into_iter().flatten() {
        *path = plain(path);
    }
    config.model.path = plain(Path::new(&config.model.path))
        .to_string_lossy()
        .into_owned();
    Ok(config)
}

/// The same path without `.` and doubled separators, so that one place is one configuration; what is
/// not there, such as an id of the Hub, stays as it is.
fn plain(path: &Path) -> PathBuf {
    if !path.exists() {
        return path.to_path_buf();
    }
    let parts = path
        .components()
        .filter(|part| !matches!(part, Component::CurDir));
    let plain: PathBuf = parts.collect();
    match plain.as_os_str().is_empty() {
        true => PathBuf::from("."),
        false => plain,
    }
}

fn wrong<T>(read: Result<T, rankwise_training::Error>) -> anyhow::Error {
    match read {
        Err(error) => error.into(),
        Ok(_) => anyhow::anyhow!("method.name: expected a method's name"),
    }
}

/// The settings of a run of `method`: without the keys under `[method]` that are not its own but
/// another's of `methods`, or of the method that the settings name.
fn of_method(
    given: &Given,
    method: &str,
    methods: &[String],
    options: &TrainOptions,
) -> Result<Given> {
    let mut own = given.clone();
    let named = given.get("method.name").and_then(toml::Value::as_str);
    let others: Vec<&str> = methods.iter().map(String::as_str).chain(named).collect();
    own.retain("method", |key| {
        is_key_of(method, key) || !others.iter().any(|other| is_key_of(other, key))
    });
    if !options.method.is_empty() {
        own.set("method.name", method.into(), &format!("--method {method}"))?;
    }
    Ok(own)
}

/// Whether `method` has a setting `key`.
fn is_key_of(method: &str, key: &str) -> bool {
    let name = format!("method.{key}");
    let method = toml::Table::from_iter([("name".to_owned(), method.into())]);
    let given = toml::Table::from_iter([("method".to_owned(), method.into())]);
    TuneConfig::keys(&given).iter().any(|key| key.name == name)
}

/// The folders of the model and of the data: as given, or where the Hub's cache has them or gets
/// them.
fn sources(planned: &Planned, offline: bool, quiet: bool) -> Result<Sources> {
    let config = &planned.config;
    let located = |error| train::located(&planned.given, error);
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
    )
    .map_err(located)?;
    let data = match &pattern {
        Some(pattern) => {
            let given = ("task.data", &*data, RepoKind::Dataset, None);
            let found = folder(given, &[pattern], (offline, quiet)).map_err(located)?;
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
        return Err(Error::Setting {
            origin: "configuration".to_owned(),
            key: key.to_owned(),
            expected: "a folder or an id of the Hub (owner/name)".to_owned(),
            found: format!("{given:?}"),
        }
        .into());
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
