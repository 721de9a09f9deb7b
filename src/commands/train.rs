use anyhow::{Result, anyhow, bail};
use rankwise_data::read_text;
use rankwise_paper::{Recipe, RunResult, run_cells, run_name, text_table, train_all};
use rankwise_training::{Error, Given, RunConfig};

use super::{Outcome, tune};
use crate::cli::{Common, TrainOptions};
use crate::progress;
use crate::stdout::{out, outln};

/// Trains one run for every combination of the methods, ranks and seeds given.
pub fn run(options: &TrainOptions, common: &Common) -> Result<Outcome> {
    if !common.quiet {
        for note in overridden(options, common) {
            eprintln!("note: {note}");
        }
    }
    if let (Some(seed), [_, ..]) = (common.seed, &options.seeds[..]) {
        bail!("--seed {seed}: expected --seed or --seeds, found both");
    }
    let given = given(options)?;
    if given.get("model").is_some() {
        return tune::run(options, given, common);
    }
    refuse_transformers_flags(options)?;
    let configs = configurations(options, given, common)?;
    if options.dump_config {
        let dumped = configs
            .iter()
            .map(|config| (run_name(config), config.to_commented_toml()));
        dump(dumped, &configs, common)?;
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

/// Prints configurations, as TOML with comments or as JSON.
pub fn dump(
    texts: impl ExactSizeIterator<Item = (String, String)>,
    configs: &impl serde::Serialize,
    common: &Common,
) -> Result<()> {
    if common.json {
        outln!("{}", serde_json::to_string_pretty(configs)?);
        return Ok(());
    }
    let are_several = texts.len() > 1;
    for (name, text) in texts {
        if are_several {
            outln!("\n### {name}\n");
        }
        out!("{text}");
    }
    Ok(())
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

/// What of `--set` gives way to a flag.
fn overridden(options: &TrainOptions, common: &Common) -> Vec<String> {
    let flags = [
        ("model.path", "--model", options.model.is_some()),
        ("model.adapter", "--adapter", options.adapter.is_some()),
        ("task.name", "--task", options.task.is_some()),
        ("task.data", "--data", options.data.is_some()),
        ("device", "--device", options.device.is_some()),
        ("schedule.epochs", "--epochs", options.epochs.is_some()),
        ("task.skip_bad", "--skip-bad", options.skip_bad.is_some()),
        ("method.targets", "--targets", !options.targets.is_empty()),
        ("method.name", "--method", !options.method.is_empty()),
        ("method.rank", "--rank", !options.rank.is_empty()),
        (
            "optimizer.learning_rate",
            "--learning-rate",
            !options.learning_rate.is_empty(),
        ),
        ("seed", "--seeds", !options.seeds.is_empty()),
        ("seed", "--seed", common.seed.is_some()),
    ];
    let both = flags.iter().flat_map(|(of, flag, is_given)| {
        let sets = options
            .set
            .iter()
            .filter(move |(key, _)| *is_given && key == of);
        sets.map(move |(key, value)| format!("--set {key}={value} gives way to {flag}"))
    });
    both.collect()
}

/// What the file, `--set` and the flags say that are the same in all runs, the later over the earlier.
fn given(options: &TrainOptions) -> Result<Given> {
    let mut given = match &options.config {
        Some(path) => Given::from_toml(&read_text(path)?, &path.display().to_string())?,
        None => Given::default(),
    };
    for (key, value) in &options.set {
        given.assign(key, value)?;
    }
    let text = |text: &str| toml::Value::String(text.to_owned());
    let mut flag = |name: &str, key: &str, value: Option<toml::Value>| match value {
        Some(value) => {
            let typed = match &value {
                toml::Value::String(text) => text.clone(),
                toml::Value::Array(texts) => {
                    let texts: Vec<&str> = texts.iter().filter_map(toml::Value::as_str).collect();
                    texts.join(",")
                }
                other => other.to_string(),
            };
            given.set(key, value, &format!("{name} {typed}"))
        }
        None => Ok(()),
    };
    let path =
        |path: &Option<std::path::PathBuf>| path.as_ref().map(|path| text(&path.to_string_lossy()));
    let whole = |number: usize| toml::Value::Integer(i64::try_from(number).unwrap_or(i64::MAX));
    let targets = options.targets.iter().map(|target| text(target)).collect();
    let device = options.device.map(|device| text(&device.to_string()));
    flag("--model", "model.path", options.model.as_deref().map(text))?;
    flag("--adapter", "model.adapter", path(&options.adapter))?;
    flag("--task", "task.name", options.task.as_deref().map(text))?;
    flag("--data", "task.data", path(&options.data))?;
    flag("--device", "device", device)?;
    flag("--epochs", "schedule.epochs", options.epochs.map(whole))?;
    flag("--skip-bad", "task.skip_bad", options.skip_bad.map(whole))?;
    if !options.targets.is_empty() {
        flag(
            "--targets",
            "method.targets",
            Some(toml::Value::Array(targets)),
        )?;
    }
    if let [rate] = options.learning_rate[..] {
        flag(
            "--learning-rate",
            "optimizer.learning_rate",
            Some(rate.into()),
        )?;
    }
    Ok(given)
}

/// What only fine-tuning understands must not be passed over.
fn refuse_transformers_flags(options: &TrainOptions) -> Result<()> {
    for (flag, is_given) in [
        ("--adapter", options.adapter.is_some()),
        ("--task", options.task.is_some()),
        ("--data", options.data.is_some()),
        ("--targets", !options.targets.is_empty()),
        ("--skip-bad", options.skip_bad.is_some()),
        ("--offline", options.offline),
        ("--dry-run", options.dry_run),
        (
            "several values of --learning-rate",
            options.learning_rate.len() > 1,
        ),
    ] {
        if is_given {
            bail!(
                "train: {flag}: this is for fine-tuning a transformer, and no model is given: \
                 expected --model DIR, or path under [model] in the --config file"
            );
        }
    }
    Ok(())
}

fn configurations(
    options: &TrainOptions,
    mut given: Given,
    common: &Common,
) -> Result<Vec<RunConfig>> {
    let base: RunConfig = given.read()?;
    let seeds = match (options.seeds.as_slice(), common.seed) {
        ([], seed) => vec![seed.unwrap_or(base.seed)],
        (seeds, _) => seeds.to_vec(),
    };
    let methods = options.method.iter();
    let methods = methods.map(|name| {
        name.parse()
            .map_err(|error| anyhow!("--method {name}: {error}"))
    });
    let methods = match methods.collect::<Result<Vec<_>>>()? {
        methods if methods.is_empty() => vec![base.method.name],
        methods => methods,
    };
    let ranks = match options.rank.as_slice() {
        [] => vec![base.method.rank.unwrap_or(32)],
        ranks => ranks.to_vec(),
    };
    if let Some(largest) = options.rank.iter().max() {
        let typed: Vec<String> = options.rank.iter().map(usize::to_string).collect();
        let largest = i64::try_from(*largest).unwrap_or(i64::MAX);
        given.set(
            "method.rank",
            largest.into(),
            &format!("--rank {}", typed.join(",")),
        )?;
    }
    let recipe = Recipe {
        base,
        methods,
        ranks,
        seeds,
    };
    recipe
        .configurations()
        .map_err(|error| located(&given, error))
}

/// An error about a setting with the place where the user typed it.
pub fn located(given: &Given, error: anyhow::Error) -> anyhow::Error {
    match error.downcast::<Error>() {
        Ok(error) => given.located(error).into(),
        Err(error) => error,
    }
}
