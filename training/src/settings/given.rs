//! What a user has given, and where each setting was typed: a line of a file, or an argument.

use std::collections::BTreeMap;

use toml::de::{DeTable, DeValue};

use super::keys::{Configuration, Fault, check_keys, leaves, nearest};
use crate::Error;

/// Settings with where each was typed; a later one takes the place of an earlier one.
#[derive(Debug, Clone, Default)]
pub struct Given {
    table: toml::Table,
    /// By the dotted key.
    origins: BTreeMap<String, String>,
}

impl Given {
    /// Reads TOML; `origin` names it in errors, with the line.
    ///
    /// # Errors
    /// [`Error::Setting`] if it is no TOML.
    pub fn from_toml(text: &str, origin: &str) -> Result<Self, Error> {
        let line = |at: usize| text.bytes().take(at).filter(|byte| *byte == b'\n').count() + 1;
        let no_toml = |error: toml::de::Error| {
            let at = error.span().map_or(0, |span| span.start);
            let number = line(at);
            let found = text.lines().nth(number - 1).unwrap_or_default().trim();
            Fault {
                key: "(line)".to_owned(),
                expected: format!("TOML ({})", error.message().replace('\n', ", ")),
                found: format!("`{found}`"),
            }
            .of(&format!("{origin}:{number}"))
        };
        let table = text.parse().map_err(no_toml)?;
        let parsed = DeTable::parse(text).map_err(no_toml)?;
        let mut places = Vec::new();
        add_places(parsed.get_ref(), "", &mut places);
        let places = places.into_iter();
        Ok(Self {
            table,
            origins: places
                .map(|(key, at)| (key, format!("{origin}:{}", line(at))))
                .collect(),
        })
    }

    /// Sets the dotted `key`, typed as `origin`.
    ///
    /// # Errors
    /// [`Error::Setting`] if a value is there where `key` asks for a table, or the other way round.
    pub fn set(&mut self, key: &str, value: toml::Value, origin: &str) -> Result<(), Error> {
        let path: Vec<String> = key.split('.').map(str::to_owned).collect();
        self.set_at(&path, value, origin)
    }

    /// Sets `key` to `text`, a value as in TOML or, where it is none, a text: `--set`.
    ///
    /// # Errors
    /// [`Error::Setting`] if `key` is no dotted key, and as [`Given::set`].
    pub fn assign(&mut self, key: &str, text: &str) -> Result<(), Error> {
        let origin = format!("--set {key}={text}");
        let Some(path) = dotted(key) else {
            let fault = Fault {
                key: key.to_owned(),
                expected: "names with dots between them, such as method.rank".to_owned(),
                found: "none".to_owned(),
            };
            return Err(fault.of(&origin));
        };
        self.set_at(&path, value_of(text), &origin)
    }

    /// What the dotted `key` was set to.
    pub fn get(&self, key: &str) -> Option<&toml::Value> {
        let mut parts = key.split('.');
        let first = self.table.get(parts.next()?);
        parts.fold(first, |value, part| value?.get(part))
    }

    /// Keeps of the settings in `table` those that `keep` says, by their names there.
    pub fn retain(&mut self, table: &str, keep: impl Fn(&str) -> bool) {
        if let Some(toml::Value::Table(settings)) = self.table.get_mut(table) {
            settings.retain(|key, _| keep(key));
        }
    }

    /// The configuration.
    ///
    /// # Errors
    /// [`Error::Setting`] for the first key that is unknown, with the known ones, or whose value is of
    /// another kind.
    pub fn read<C: Configuration>(&self) -> Result<C, Error> {
        let keys = C::keys(&self.table);
        let mut leaves = leaves(&self.table, &keys);
        // Which method it is decides what the other keys are.
        leaves.sort_by_key(|(path, _)| path.join(".") != NAME);
        let named: Vec<(String, &Vec<String>, &toml::Value)> = leaves
            .iter()
            .map(|(path, value)| (path.join("."), path, *value))
            .collect();
        let of = |fault: Fault| {
            let origin = self.origin(&fault.key).unwrap_or(CONFIGURATION);
            fault.of(origin)
        };
        if let Some((name, path, value)) = named.first().filter(|(name, ..)| name == NAME) {
            self.check::<C>(name, path, value).map_err(of)?;
        }
        let names = named.iter().map(|(name, _, value)| (name.as_str(), *value));
        check_keys(names, &keys, C::elsewhere).map_err(of)?;
        for (name, path, value) in &named {
            self.check::<C>(name, path, value).map_err(of)?;
        }
        self.table
            .clone()
            .try_into()
            .map_err(|error: toml::de::Error| {
                of(Fault {
                    key: "(all)".to_owned(),
                    expected: "values that go together".to_owned(),
                    found: error.message().to_owned(),
                })
            })
    }

    /// An error about a setting of the configuration, with the place where that setting was typed.
    pub fn located(&self, error: Error) -> Error {
        match error {
            Error::Setting {
                origin,
                key,
                expected,
                found,
            } if origin.starts_with(CONFIGURATION) => Error::Setting {
                origin: self.origin(&key).unwrap_or(&origin).to_owned(),
                key,
                expected,
                found,
            },
            other => other,
        }
    }

    /// Where `key` was typed, or the table that it is in, or something in it.
    fn origin(&self, key: &str) -> Option<&str> {
        let inside = format!("{key}.");
        let within = || {
            self.origins
                .iter()
                .find(|(name, _)| name.starts_with(&inside))
        };
        let mut name = key;
        loop {
            if let Some(origin) = self.origins.get(name) {
                return Some(origin);
            }
            match name.rsplit_once('.') {
                Some((table, _)) => name = table,
                None => return within().map(|(_, origin)| origin.as_str()),
            }
        }
    }

    fn set_at(&mut self, path: &[String], value: toml::Value, origin: &str) -> Result<(), Error> {
        if let toml::Value::Table(inner) = value {
            for (key, value) in inner {
                self.set_at(&[path, &[key]].concat(), value, origin)?;
            }
            return Ok(());
        }
        let Some((last, tables)) = path.split_last() else {
            return Ok(());
        };
        let no_table = |key: String, found: &toml::Value, origin: &str| {
            let expected = "a table of settings".to_owned();
            let found = found.to_string();
            Fault {
                key,
                expected,
                found,
            }
            .of(origin)
        };
        let mut table = &mut self.table;
        for (at, part) in tables.iter().enumerate() {
            let inner = table
                .entry(part.clone())
                .or_insert_with(|| toml::Value::Table(toml::Table::new()));
            table = match inner {
                toml::Value::Table(inner) => inner,
                other => {
                    let key = path[..=at].join(".");
                    let origin = self.origins.get(&key).map_or(origin, String::as_str);
                    return Err(no_table(key, other, origin));
                }
            };
        }
        if table.get(last).is_some_and(toml::Value::is_table) {
            return Err(no_table(path.join("."), &value, origin));
        }
        table.insert(last.clone(), value);
        self.origins.insert(path.join("."), origin.to_owned());
        Ok(())
    }

    /// Whether `value` alone is one that the key at `path` can have.
    fn check<C: Configuration>(
        &self,
        name: &str,
        path: &[String],
        value: &toml::Value,
    ) -> Result<(), Fault> {
        let mut alone = nested(path, value.clone());
        if let (Some(method), Some(toml::Value::Table(own))) =
            (self.get(NAME), alone.get_mut("method"))
        {
            own.entry("name").or_insert_with(|| method.clone());
        }
        match alone.try_into::<C>() {
            Ok(_) => Ok(()),
            Err(error) => Err(wrong_value(name, value, error.message())),
        }
    }
}

/// The key that says which method it is.
const NAME: &str = "method.name";

/// What checks call the place of a setting of which only the configuration is known.
const CONFIGURATION: &str = "configuration";

/// Every key of a file and where it begins.
fn add_places(table: &DeTable<'_>, before: &str, places: &mut Vec<(String, usize)>) {
    for (key, value) in table {
        let name = format!("{before}{}", key.get_ref());
        places.push((name.clone(), key.span().start));
        if let DeValue::Table(inner) = value.get_ref() {
            add_places(inner, &format!("{name}."), places);
        }
    }
}

/// The parts of a key as TOML writes it, with or without quotes.
fn dotted(key: &str) -> Option<Vec<String>> {
    let mut table: toml::Table = format!("{key} = 0").parse().ok()?;
    let mut path = Vec::new();
    loop {
        let (name, value) = table.iter().next().filter(|_| table.len() == 1)?;
        path.push(name.clone());
        table = match value.clone() {
            toml::Value::Table(inner) => inner,
            _ => return Some(path),
        };
    }
}

/// A value as in TOML; what is none is a text.
fn value_of(text: &str) -> toml::Value {
    let parsed: Option<toml::Table> = format!("value = {text}").parse().ok();
    let alone = parsed.filter(|table| table.len() == 1);
    let value = alone.and_then(|mut table| table.remove("value"));
    value.unwrap_or_else(|| toml::Value::String(text.to_owned()))
}

fn nested(path: &[String], value: toml::Value) -> toml::Table {
    let mut value = value;
    for part in path.iter().skip(1).rev() {
        value = toml::Value::Table(toml::Table::from_iter([(part.clone(), value)]));
    }
    toml::Table::from_iter(path.first().map(|first| (first.clone(), value)))
}

/// What `message`, of the reader of one value, means for the user.
fn wrong_value(key: &str, value: &toml::Value, message: &str) -> Fault {
    let key = key.to_owned();
    // Our own readers say both.
    if let Some((expected, found)) = message
        .strip_prefix("expected ")
        .and_then(|said| said.rsplit_once(", found "))
    {
        return Fault {
            key,
            expected: expected.to_owned(),
            found: found.to_owned(),
        };
    }
    let Some((_, expected)) = message.rsplit_once(", expected ") else {
        return Fault {
            expected: match key.as_str() {
                NAME => "a method".to_owned(),
                _ => "another value".to_owned(),
            },
            key,
            found: message.to_owned(),
        };
    };
    let expected = match expected {
        "usize" | "u64" | "u32" => "a whole number of at least 0".to_owned(),
        "f64" | "f32" => "a number".to_owned(),
        "a boolean" => "true or false".to_owned(),
        "a string" => "a text".to_owned(),
        "path string" => "a path".to_owned(),
        "a sequence" => "a list, such as [\"a\", \"b\"]".to_owned(),
        "a map" => "a table, such as { a = 1 }".to_owned(),
        other => other.replace('`', ""),
    };
    // A name out of a few.
    let near = match (message.starts_with("unknown variant"), value.as_str()) {
        (true, Some(text)) => nearest(
            text,
            expected
                .trim_start_matches("one of ")
                .split([',', ' '])
                .filter(|name| *name != "or"),
        ),
        _ => String::new(),
    };
    Fault {
        found: format!("{value}{near}"),
        key,
        expected,
    }
}
