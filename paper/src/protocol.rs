//! What a reproduction is made with: kept in its folder, so that no other is mixed in, and told in the
//! report.

use std::path::Path;

use anyhow::{Result, bail};
use rankwise_data::{banking77_sha256, read_text, write_atomic};
use rankwise_theory::Grid;
use rankwise_training::{MethodConfig, RunConfig};

use crate::Recipe;
use crate::link::RESAMPLES;

/// The file of a reproduction's settings in its folder.
const SETTINGS: &str = "settings.toml";

/// What else tells a folder of a reproduction.
const TRACES: [&str; 3] = ["runs", "theory.parquet", "report.json"];

/// Seeds that no other `seed` gives: `count` of them from `seed × count` on.
///
/// # Errors
/// If they are beyond what TOML can hold.
pub(crate) fn seeds(seed: u64, count: u64) -> Result<Vec<u64>> {
    let most = i64::MAX as u64 / count - 1;
    if seed > most {
        bail!("seed: expected at most {most}, found {seed}");
    }
    Ok((seed * count..(seed + 1) * count).collect())
}

/// The settings as they are kept.
pub(crate) fn protocol(seed: u64, grid: &Grid, recipe: &Recipe) -> Result<toml::Table> {
    let mut training = toml::Table::try_from(&recipe.base)?;
    // Every run has its own.
    training.remove("seed");
    training.remove("method");
    let methods: Vec<&str> = recipe.methods.iter().map(|method| method.key()).collect();
    training.insert("methods".to_owned(), methods.into());
    training.insert("ranks".to_owned(), toml::Value::try_from(&recipe.ranks)?);
    training.insert("seeds".to_owned(), toml::Value::try_from(&recipe.seeds)?);
    training.insert("data_sha256".to_owned(), banking77_sha256().into());
    let mut table = toml::Table::new();
    table.insert("version".to_owned(), env!("CARGO_PKG_VERSION").into());
    table.insert("seed".to_owned(), toml::Value::try_from(seed)?);
    table.insert("theorem".to_owned(), toml::Value::try_from(grid)?);
    table.insert("training".to_owned(), training.into());
    Ok(table)
}

/// Takes the folder for the reproduction with these settings; what is finished there is its own.
///
/// # Errors
/// If another reproduction is in it, or the settings cannot be written.
pub(crate) fn claim(out: &Path, ours: &toml::Table) -> Result<()> {
    let path = out.join(SETTINGS);
    if !path.exists() {
        if let Some(trace) = TRACES.into_iter().find(|name| out.join(name).exists()) {
            bail!(
                "{}: expected a new folder or one of {}, found {trace} without {SETTINGS}, which an \
                 earlier version may have written: choose another --out",
                out.display(),
                called(ours)
            );
        }
        let text = toml::to_string(ours)?;
        return Ok(write_atomic(&path, |file| file.write_all(text.as_bytes()))?);
    }
    let theirs: toml::Table = match read_text(&path)?.parse() {
        Ok(table) => table,
        Err(error) => bail!("{}: expected TOML, found {error}", path.display()),
    };
    let Some((key, expected, found)) = first_difference("", ours, &theirs) else {
        return Ok(());
    };
    bail!(
        "{}: expected a new folder or one of {}, found one of {}; the first setting that differs is \
         {key}: expected {expected}, found {found}: choose another --out",
        out.display(),
        called(ours),
        called(&theirs),
    )
}

fn called(settings: &toml::Table) -> String {
    let value = |key: &str| shown(settings.get(key));
    format!(
        "version {} with --seed {}",
        value("version").trim_matches('"'),
        value("seed")
    )
}

fn shown(value: Option<&toml::Value>) -> String {
    value.map_or("nothing".to_owned(), ToString::to_string)
}

/// The first key whose value is another, and both values.
fn first_difference(
    before: &str,
    ours: &toml::Table,
    theirs: &toml::Table,
) -> Option<(String, String, String)> {
    let mut keys: Vec<&String> = ours.keys().chain(theirs.keys()).collect();
    // A table after the plain values, so that the seed is named before the seeds that follow from it.
    keys.sort_by_key(|key| (ours.get(*key).is_some_and(toml::Value::is_table), *key));
    keys.into_iter().find_map(|key| {
        let name = format!("{before}{key}");
        match (ours.get(key), theirs.get(key)) {
            (Some(toml::Value::Table(own)), Some(toml::Value::Table(other))) => {
                first_difference(&format!("{name}."), own, other)
            }
            (own, other) if own == other => None,
            (own, other) => Some((name, shown(own), shown(other))),
        }
    })
}

/// The settings as the report tells them: name and value.
pub(crate) fn settings(
    seed: u64,
    grid: &Grid,
    recipe: &Recipe,
    configs: &[RunConfig],
) -> Vec<(String, String)> {
    let base = &recipe.base;
    let (adam, schedule) = (&base.optimizer, &base.schedule);
    let methods: Vec<String> = recipe.methods.iter().map(ToString::to_string).collect();
    let depths: Vec<String> = grid
        .depths
        .iter()
        .map(|(t, f)| format!("({t}, {f})"))
        .collect();
    let mut settings = vec![
        (
            "version, --seed",
            format!("{}, {seed}", env!("CARGO_PKG_VERSION")),
        ),
        (
            "data",
            format!("{}, SHA-256 {}", base.task.features, banking77_sha256()),
        ),
        ("methods", methods.join(", ")),
        ("R", list(&recipe.ranks)),
        ("seeds of training", list(&recipe.seeds)),
        ("epochs", schedule.epochs.to_string()),
        ("batch size", schedule.batch_size.to_string()),
        ("learning rate", adam.learning_rate.to_string()),
        (
            "AdamW",
            format!(
                "β₁ = {}, β₂ = {}, ε = {:e}, weight decay {}",
                adam.beta1, adam.beta2, adam.epsilon, adam.weight_decay
            ),
        ),
    ];
    type Of = fn(&MethodConfig) -> Option<String>;
    let of_methods: [(&str, Of); 5] = [
        ("λ", |m| Some(format!("{:e}", m.lambda?))),
        ("r̂", |m| Some(m.directions?.to_string())),
        ("mask", |m| word(m.mask?)),
        ("A begins", |m| word(m.initialisation?)),
        ("α/R", |m| Some((m.alpha? / m.rank? as f64).to_string())),
    ];
    settings.extend(of_methods.map(|(name, of)| (name, by_method(configs, of))));
    settings.extend([
        ("numbers", word(base.precision).unwrap_or_default()),
        (
            "theorem",
            format!(
                "D = {}, (L̄, L) = {}, {} networks, seeds {}, {} inputs",
                list(&grid.widths),
                depths.join(", "),
                list(&grid.families),
                list(&grid.seeds),
                grid.samples
            ),
        ),
        ("bootstrap", format!("{RESAMPLES} samples")),
    ]);
    let owned = settings
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value));
    owned.filter(|(_, value)| !value.is_empty()).collect()
}

fn list<T: ToString>(values: &[T]) -> String {
    let values: Vec<String> = values.iter().map(T::to_string).collect();
    values.join(", ")
}

/// A name as it is written in files.
fn word(value: impl serde::Serialize) -> Option<String> {
    serde_json::to_value(value)
        .ok()?
        .as_str()
        .map(str::to_owned)
}

/// A method's setting: one value if all methods that have it share it, by R otherwise.
fn by_method(configs: &[RunConfig], of: fn(&MethodConfig) -> Option<String>) -> String {
    let mut values: Vec<(String, Vec<String>)> = Vec::new();
    let mut names: Vec<String> = Vec::new();
    for config in configs {
        let (Some(value), Some(rank)) = (of(&config.method), config.method.rank) else {
            continue;
        };
        let (name, rank) = (config.method.name.to_string(), format!("R = {rank}"));
        if !names.contains(&name) {
            names.push(name);
        }
        match values.iter_mut().find(|(other, _)| *other == value) {
            Some((_, ranks)) if ranks.contains(&rank) => {}
            Some((_, ranks)) => ranks.push(rank),
            None => values.push((value, vec![rank])),
        }
    }
    let told = match &values[..] {
        [] => return String::new(),
        [(value, _)] => value.clone(),
        several => several
            .iter()
            .map(|(value, ranks)| format!("{value} at {}", ranks.join(", ")))
            .collect::<Vec<_>>()
            .join("; "),
    };
    format!("{told} ({})", names.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made_with(seed: u64) -> toml::Table {
        let recipe = Recipe::figure1(seed).unwrap();
        let grid = Grid {
            seeds: seeds(seed, 5).unwrap(),
            ..Grid::default()
        };
        protocol(seed, &grid, &recipe).unwrap()
    }

    #[test]
    fn seeds_of_two_reproductions_are_disjoint() {
        assert_eq!(seeds(0, 3).unwrap(), [0, 1, 2]);
        assert_eq!(seeds(1, 3).unwrap(), [3, 4, 5]);
        let most = i64::MAX as u64 / 3 - 1;
        assert_eq!(seeds(most, 3).unwrap().len(), 3);
        let error = seeds(most + 1, 3).unwrap_err().to_string();
        assert!(
            error.contains(&format!("at most {most}, found {}", most + 1)),
            "{error}"
        );
        assert!(seeds(u64::MAX, 5).is_err());
    }

    #[test]
    fn a_folder_belongs_to_one_reproduction() {
        let folder = tempfile::tempdir().unwrap();
        claim(folder.path(), &made_with(0)).unwrap();
        claim(folder.path(), &made_with(0)).unwrap();
        let refused = |ours: &toml::Table| claim(folder.path(), ours).unwrap_err().to_string();
        let other = refused(&made_with(1));
        assert!(
            other.contains("with --seed 1, found one of version")
                && other.contains("with --seed 0;"),
            "{other}"
        );
        assert!(
            other.contains("differs is seed: expected 1, found 0"),
            "{other}"
        );
        let mut newer = made_with(0);
        newer.insert("version".to_owned(), "9.0.0".into());
        let newer = refused(&newer);
        assert!(
            newer.contains("version: expected \"9.0.0\", found \""),
            "{newer}"
        );
        let mut longer = made_with(0);
        longer["training"]["schedule"]["epochs"] = 61.into();
        let longer = refused(&longer);
        assert!(
            longer.contains("training.schedule.epochs: expected 61, found 60"),
            "{longer}"
        );
    }

    #[test]
    fn runs_of_no_known_settings_are_not_gone_on_with() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("runs")).unwrap();
        let error = claim(folder.path(), &made_with(0)).unwrap_err().to_string();
        assert!(
            error.contains("found runs without settings.toml"),
            "{error}"
        );
        assert!(!folder.path().join(SETTINGS).exists());
    }

    #[test]
    fn the_report_tells_what_methods_were_trained_with() {
        let recipe = Recipe::figure1(0).unwrap();
        let configs = recipe.configurations().unwrap();
        let told = settings(0, &Grid::default(), &recipe, &configs);
        let value = |name: &str| {
            let found = told.iter().find(|(other, _)| other == name);
            found.map(|(_, value)| value.as_str()).unwrap()
        };
        assert_eq!(value("λ"), "1e-4 (R-LoRA, RM-LoRA)");
        assert_eq!(
            value("r̂"),
            "12 at R = 16; 24 at R = 32; 48 at R = 64 (GM-LoRA, RM-LoRA)"
        );
        assert_eq!(value("learning rate"), "0.001");
        assert_eq!((value("batch size"), value("epochs")), ("64", "60"));
        assert_eq!(value("seeds of training"), "0, 1, 2");
        assert!(value("data").contains(&banking77_sha256()));
    }
}
