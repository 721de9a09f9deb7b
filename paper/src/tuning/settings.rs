//! What runs were made with, and in what they are unlike.
//!
//! Files count by their hashes in `run.json`, not by where they lie or how they are called.

use std::collections::{BTreeMap, BTreeSet};

use rankwise_training::{TuneConfig, TuneSummary};

/// `a.b` and value of a configuration, and the hashes of the model's and the data's files.
pub(super) type Settings = BTreeMap<String, String>;

/// Where something lies or is computed, and how often it is kept. What files hold is in their hashes.
const PLACES: [&str; 9] = [
    "seed",
    "device",
    "model.path",
    "model.revision",
    "model.adapter",
    "task.data",
    "task.train",
    "task.validation",
    "schedule.checkpoint_every",
];

/// Settings of `[method]` that every low-rank method has, beside R.
const SHARED: [&str; 6] = [
    "alpha",
    "alpha_pattern",
    "dropout",
    "rank_pattern",
    "targets",
    "train_also",
];

/// How A begins: what it says is the same in every method that has it.
const FIRST_VALUES: &str = "method.initialisation";

/// A run's settings.
pub(super) fn made_with(config: &TuneConfig, summary: &TuneSummary) -> Settings {
    let mut settings = Settings::new();
    if let Ok(table) = config.to_toml().parse::<toml::Table>() {
        add(&mut settings, "", table);
    }
    settings.retain(|key, _| !PLACES.contains(&key.as_str()));
    // α is R by default, written out or not; it is no other setting where R is another.
    let number = |key: &str| settings.get(key)?.parse::<f64>().ok();
    let alpha = number("method.alpha");
    let ranks = ["method.rank", "method.first_rank"].map(number);
    if alpha.is_some() && ranks.contains(&alpha) {
        settings.remove("method.alpha");
    }
    for (name, files) in [
        ("data_sha256", &summary.data_sha256),
        ("model_sha256", &summary.model_sha256),
    ] {
        let hashes: Vec<&str> = files.iter().map(|(_, hash)| hash.as_str()).collect();
        settings.insert(name.to_owned(), hashes.join(" "));
    }
    settings
}

fn add(into: &mut Settings, before: &str, table: toml::Table) {
    for (key, value) in table {
        match value {
            toml::Value::Table(inner) => add(into, &format!("{before}{key}."), inner),
            value => {
                into.insert(format!("{before}{key}"), value.to_string());
            }
        }
    }
}

/// Keys in which runs differ beside the seed.
pub(super) fn beside_the_seed(all: &[&Settings]) -> Vec<String> {
    unlike(all, |_| true)
}

/// Keys in which runs of several methods differ beside the seed, R and what is a method's own.
pub(super) fn beside_the_method(all: &[&Settings]) -> Vec<String> {
    let mut keys = unlike(all, |key| !key.starts_with("method."));
    keys.extend(unlike(&that_have(all, "method.rank"), is_shared));
    let begun = that_have(all, FIRST_VALUES);
    keys.extend(unlike(&begun, |key| key == FIRST_VALUES));
    keys
}

fn is_shared(key: &str) -> bool {
    let own = key.strip_prefix("method.").unwrap_or_default();
    // Patterns have a key a module.
    SHARED.contains(&own.split('.').next().unwrap_or_default())
}

fn that_have<'a>(all: &[&'a Settings], key: &str) -> Vec<&'a Settings> {
    let own = all.iter().filter(|settings| settings.contains_key(key));
    own.copied().collect()
}

/// Keys that count and whose values are not all the same; to be left out is a value.
fn unlike(all: &[&Settings], counts: impl Fn(&str) -> bool) -> Vec<String> {
    let Some((first, others)) = all.split_first() else {
        return Vec::new();
    };
    let keys: BTreeSet<&String> = all.iter().flat_map(|settings| settings.keys()).collect();
    let differs = |key: &&String| {
        others
            .iter()
            .any(|other| other.get(*key) != first.get(*key))
    };
    let keys = keys.into_iter().filter(|key| counts(key.as_str()));
    keys.filter(differs).cloned().collect()
}
