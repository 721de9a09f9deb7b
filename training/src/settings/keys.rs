//! Which keys a configuration can have, what each says, and what is said of one that it cannot have.

use rankwise_data::Documented;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::Error;

/// A key of a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// With its table, such as `method.rank`.
    pub name: String,
    /// What it says.
    pub about: &'static str,
}

/// A configuration whose keys are known.
pub trait Configuration: DeserializeOwned + Serialize {
    /// Every key, a table's own before those in it; under `[method]` those of the method that `given`
    /// names.
    fn keys(given: &toml::Table) -> Vec<Key>;

    /// What to say of a key that is none of these and yet known, after “an unknown key”.
    fn elsewhere(key: &str) -> Option<String>;
}

/// A setting that cannot be, before it is known where it came from.
#[derive(Debug)]
pub(crate) struct Fault {
    pub key: String,
    pub expected: String,
    pub found: String,
}

impl Fault {
    pub fn of(self, origin: &str) -> Error {
        Error::Setting {
            origin: origin.to_owned(),
            key: self.key,
            expected: self.expected,
            found: self.found,
        }
    }
}

/// The keys of the struct `T` as those of `table`, which is empty or ends in a dot.
pub(crate) fn fields<T: Documented>(table: &str) -> Vec<Key> {
    documented(table, T::FIELDS)
}

/// The same of a list of names and documentation.
pub(crate) fn documented(table: &str, fields: &'static [(&'static str, &'static str)]) -> Vec<Key> {
    let key = |(name, about): &(&str, &'static str)| Key {
        name: format!("{table}{name}"),
        about: about.trim(),
    };
    fields.iter().map(key).collect()
}

/// Other programs' names for what is a key here: PEFT's and the ones of transformers' trainer.
const FOREIGN: [(&str, &str); 31] = [
    ("r", "method.rank"),
    ("lora_r", "method.rank"),
    ("lora_rank", "method.rank"),
    ("lora_alpha", "method.alpha"),
    ("lora_dropout", "method.dropout"),
    ("vera_dropout", "method.dropout"),
    ("target_modules", "method.targets"),
    ("modules_to_save", "method.train_also"),
    ("use_rslora", "method.name = \"rs-lora\""),
    ("use_dora", "method.name = \"dora\""),
    ("peft_type", "method.name"),
    ("init_lora_weights", "method.initialisation"),
    ("loraplus_lr_ratio", "method.ratio"),
    ("projection_prng_key", "method.projection_key"),
    ("d_initial", "method.first_gate"),
    ("target_r", "method.rank"),
    ("init_r", "method.first_rank"),
    ("tinit", "method.initial_steps"),
    ("tfinal", "method.final_steps"),
    ("deltaT", "method.period"),
    ("orth_reg_weight", "method.regularisation"),
    ("lr", "optimizer.learning_rate"),
    ("adam_beta1", "optimizer.beta1"),
    ("adam_beta2", "optimizer.beta2"),
    ("adam_epsilon", "optimizer.epsilon"),
    ("max_grad_norm", "optimizer.clip_norm"),
    ("num_train_epochs", "schedule.epochs"),
    ("per_device_train_batch_size", "schedule.batch_size"),
    ("gradient_accumulation_steps", "schedule.accumulation"),
    ("lr_scheduler_type", "schedule.shape"),
    ("max_seq_length", "task.max_length"),
];

/// The parts of every key in `given` that is no table of settings, with its value. A table that is a
/// setting itself (`rank_pattern`) is one.
pub(crate) fn leaves<'a>(
    given: &'a toml::Table,
    keys: &[Key],
) -> Vec<(Vec<String>, &'a toml::Value)> {
    fn add<'a>(
        table: &'a toml::Table,
        before: &[String],
        keys: &[Key],
        into: &mut Vec<(Vec<String>, &'a toml::Value)>,
    ) {
        for (key, value) in table {
            let path = [before, std::slice::from_ref(key)].concat();
            match value {
                toml::Value::Table(inner) if is_table(&path.join("."), keys) => {
                    add(inner, &path, keys, into);
                }
                _ => into.push((path, value)),
            }
        }
    }
    let mut all = Vec::new();
    add(given, &[], keys, &mut all);
    all
}

/// Whether `name` is a table of settings.
pub(crate) fn is_table(name: &str, keys: &[Key]) -> bool {
    let inside = format!("{name}.");
    keys.iter().any(|key| key.name.starts_with(&inside))
}

/// Fails on the first of the keys `names` that is none of `keys`, or is a table without being given
/// as one.
pub(crate) fn check_keys<'a>(
    names: impl IntoIterator<Item = (&'a str, &'a toml::Value)>,
    keys: &[Key],
    elsewhere: impl Fn(&str) -> Option<String>,
) -> Result<(), Fault> {
    for (name, value) in names {
        if is_table(name, keys) {
            return Err(Fault {
                key: name.to_owned(),
                expected: format!("a table of {}", inside(name, keys).join(", ")),
                found: value.to_string(),
            });
        }
        if !keys.iter().any(|key| key.name == name) {
            let table = name.rsplit_once('.').map_or("", |(table, _)| table);
            // A table that there is not is looked for among those that there are.
            let table = if table.is_empty() || is_table(table, keys) {
                table
            } else {
                ""
            };
            let hint = hint(name, table, keys, elsewhere(name));
            return Err(Fault {
                key: name.to_owned(),
                expected: format!("one of {}", inside(table, keys).join(", ")),
                found: format!("an unknown key{hint}"),
            });
        }
    }
    Ok(())
}

/// The names of the keys in `table` without it.
fn inside<'a>(table: &str, keys: &'a [Key]) -> Vec<&'a str> {
    let names = keys
        .iter()
        .map(|key| key.name.rsplit_once('.').unwrap_or(("", &key.name)));
    names
        .filter(|(own, _)| *own == table)
        .map(|(_, name)| name)
        .collect()
}

/// What may have been meant.
fn hint(name: &str, table: &str, keys: &[Key], elsewhere: Option<String>) -> String {
    let last = name.rsplit('.').next().unwrap_or(name);
    let is_key = |ours: &str| keys.iter().any(|key| key.name == ours);
    let foreign = FOREIGN.iter().find(|(theirs, _)| *theirs == last);
    if let Some((theirs, ours)) = foreign.filter(|(_, ours)| ours.contains('=') || is_key(ours)) {
        return format!("; {theirs} is {ours} here");
    }
    if let Some(elsewhere) = elsewhere {
        return format!("; {elsewhere}");
    }
    // `epochs` without `[schedule]`.
    let same = keys
        .iter()
        .find(|key| key.name.rsplit('.').next() == Some(last));
    if let Some(same) = same {
        return format!("; did you mean {:?}?", same.name);
    }
    let near = nearest(last, inside(table, keys));
    match near.is_empty() {
        false => near,
        true => nearest(name, keys.iter().map(|key| key.name.as_str())),
    }
}

/// `; did you mean "…"?` with the most similar of `known`, or nothing if none is similar.
pub(crate) fn nearest<'a>(given: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    known
        .into_iter()
        .map(|name| (strsim::jaro_winkler(given, name), name))
        .filter(|(similarity, _)| *similarity > 0.7)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map_or_else(String::new, |(_, name)| format!("; did you mean {name:?}?"))
}
