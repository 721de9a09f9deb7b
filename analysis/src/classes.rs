//! What the outputs of a model's head mean: in a model's `config.json` as transformers reads it, and
//! for an adapter in `rankwise.json` beside it, as PEFT's configuration has no place for it.

use std::path::Path;

use rankwise_data::read_text;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::Error;

/// The file beside an adapter.
const FILE: &str = "rankwise.json";

/// What the outputs of a head are.
///
/// ```
/// use rankwise_analysis::Outputs;
/// let mut config = serde_json::json!({"problem_type": "regression", "num_labels": 1});
/// let outputs = Outputs::Classes { classes: vec!["ham".to_owned(), "spam".to_owned()] };
/// outputs.state(config.as_object_mut().unwrap());
/// assert_eq!(config["id2label"]["1"], "spam");
/// assert_eq!(config["problem_type"], "single_label_classification");
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "predicts", rename_all = "kebab-case")]
pub enum Outputs {
    /// A logit for each of these classes, in order.
    Classes {
        /// Their names.
        classes: Vec<String>,
    },
    /// A number: a regression.
    Score,
    /// Two logits for each token: whether an answer begins there, and whether it ends there.
    Span,
}

impl Outputs {
    /// How many there are.
    pub fn count(&self) -> usize {
        match self {
            Self::Classes { classes } => classes.len(),
            Self::Score => 1,
            Self::Span => 2,
        }
    }

    /// The classes' names; none where there are no classes.
    pub fn classes(&self) -> &[String] {
        match self {
            Self::Classes { classes } => classes,
            Self::Score | Self::Span => &[],
        }
    }

    /// States them in a model's configuration, in place of whatever it says of another head.
    pub fn state(&self, config: &mut Map<String, Value>) {
        let problem = match self {
            Self::Classes { .. } => Some("single_label_classification"),
            Self::Score => Some("regression"),
            Self::Span => None,
        };
        // Libraries take two labels for granted, and go by the list.
        config.shift_remove("num_labels");
        let names = match self {
            Self::Classes { classes } => classes.clone(),
            Self::Score | Self::Span => (0..self.count()).map(unnamed).collect(),
        };
        list(config, &names);
        match problem {
            Some(problem) => {
                config.insert("problem_type".to_owned(), json!(problem));
            }
            None => {
                config.shift_remove("problem_type");
            }
        }
    }

    /// What a model's configuration says of a head of so many outputs; `None` if it does not say it.
    pub(crate) fn stated(config: &Map<String, Value>, outputs: usize) -> Option<Self> {
        let problem = config.get("problem_type").and_then(Value::as_str);
        match problem {
            Some("regression") => (outputs == 1).then_some(Self::Score),
            None | Some("single_label_classification") => {
                let classes = named_classes(config).ok().flatten()?;
                let is_once =
                    |name: &String| classes.iter().filter(|other| *other == name).count() == 1;
                let fits = classes.len() == outputs && classes.iter().all(is_once);
                fits.then_some(Self::Classes { classes })
            }
            Some(_) => None,
        }
    }

    /// What is said of the adapter in the file at `adapter`; `None` if nothing is.
    ///
    /// # Errors
    /// [`Error::File`] if `rankwise.json` cannot be read or says it in another form.
    pub fn beside(adapter: &Path) -> Result<Option<Self>, Error> {
        let path = adapter.with_file_name(FILE);
        if !path.is_file() {
            return Ok(None);
        }
        let wrong = |found: String| {
            let expected = "what the outputs of the adapter's head are";
            Error::format(&path, "file", expected, found)
        };
        let notes: Value =
            serde_json::from_str(&read_text(&path)?).map_err(|error| wrong(error.to_string()))?;
        if notes.get("predicts").is_none() {
            return Ok(None);
        }
        let outputs: Self =
            serde_json::from_value(notes).map_err(|error| wrong(error.to_string()))?;
        let classes = outputs.classes();
        let twice = (1..classes.len()).find(|&at| classes[..at].contains(&classes[at]));
        match twice {
            Some(at) => Err(wrong(format!("the class {:?} twice", classes[at]))),
            None => Ok(Some(outputs)),
        }
    }
}

/// The name that libraries give to a class without one.
pub(crate) fn unnamed(at: usize) -> String {
    format!("LABEL_{at}")
}

/// Lists labels in a model's configuration.
pub(crate) fn list(config: &mut Map<String, Value>, names: &[String]) {
    let names = names.iter().enumerate();
    let by_number = names
        .clone()
        .map(|(at, name)| (at.to_string(), json!(name)));
    config.insert("id2label".to_owned(), Value::Object(by_number.collect()));
    let by_name = names.map(|(at, name)| (name.clone(), json!(at)));
    config.insert("label2id".to_owned(), Value::Object(by_name.collect()));
}

/// The classes that a model's configuration names, in the order of its outputs; `None` where it names
/// none: it has no list, or `LABEL_0` and so on.
///
/// # Errors
/// In words, if the lists contradict themselves or each other.
pub fn named_classes(config: &Map<String, Value>) -> Result<Option<Vec<String>>, String> {
    let entries = |key: &str| config.get(key).and_then(Value::as_object);
    let by_number = entries("id2label").map(|names| {
        let place =
            |(at, name): (&String, &Value)| Some((at.parse().ok()?, name.as_str()?.to_owned()));
        ("id2label", names.iter().map(place).collect())
    });
    let by_name = entries("label2id").map(|numbers| {
        let place = |(name, at): (&String, &Value)| Some((number(at)?, name.clone()));
        ("label2id", numbers.iter().map(place).collect())
    });
    let ordered = |(key, named): (&str, Option<Vec<(usize, String)>>)| {
        let mut named = named.ok_or_else(|| format!("{key} is no list of names by number"))?;
        named.sort();
        let is_whole = named
            .iter()
            .enumerate()
            .all(|(at, (number, _))| at == *number);
        let names: Vec<String> = named.into_iter().map(|(_, name)| name).collect();
        match is_whole {
            true => Ok(Some(names).filter(|names| !are_unnamed(names))),
            false => Err(format!("{key} does not have each number once")),
        }
    };
    let first = by_number.map(ordered).transpose()?.flatten();
    let Some(first) = first else {
        return Ok(by_name.map(ordered).transpose()?.flatten());
    };
    // A name that comes twice has one number there.
    let others = entries("label2id").filter(|numbers| {
        !numbers
            .iter()
            .all(|(name, at)| number(at).map(unnamed).as_deref() == Some(name))
    });
    let differs = others.and_then(|others| {
        let at = |name: &str| others.get(name).and_then(number);
        first
            .iter()
            .find(|name| at(name).is_none_or(|at| first.get(at) != Some(*name)))
    });
    match differs {
        Some(name) => Err(format!("id2label and label2id differ in {name:?}")),
        None => Ok(Some(first)),
    }
}

fn number(value: &Value) -> Option<usize> {
    match value {
        Value::String(text) => text.parse().ok(),
        other => usize::try_from(other.as_u64()?).ok(),
    }
}

fn are_unnamed(names: &[String]) -> bool {
    names
        .iter()
        .enumerate()
        .all(|(at, name)| *name == unnamed(at))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(text: &str) -> Result<Option<Vec<String>>, String> {
        named_classes(&serde_json::from_str(text).unwrap())
    }

    #[test]
    fn names_are_those_of_the_list_by_number() {
        let names = |names: &[&str]| Ok(Some(names.iter().map(|&name| name.to_owned()).collect()));
        for (text, found) in [
            (r#"{"id2label": {"1": "b", "0": "a"}}"#, names(&["a", "b"])),
            (r#"{"label2id": {"b": 0, "a": "1"}}"#, names(&["b", "a"])),
            (
                r#"{"id2label": {"0": "LABEL_0", "1": "LABEL_1"}, "label2id": {"x": 1, "y": 0}}"#,
                names(&["y", "x"]),
            ),
            (
                r#"{"id2label": {"0": "a"}, "label2id": {"LABEL_0": 0}}"#,
                names(&["a"]),
            ),
            // ImageNet has two kinds of cranes.
            (
                r#"{"id2label": {"0": "crane", "1": "crane"}, "label2id": {"crane": 1}}"#,
                names(&["crane", "crane"]),
            ),
            (r#"{"id2label": {"0": "LABEL_0"}}"#, Ok(None)),
            (r#"{"num_labels": 3}"#, Ok(None)),
        ] {
            assert_eq!(named(text), found, "{text}");
        }
        let ten: Map<String, Value> = (0..11)
            .map(|at| (at.to_string(), json!(format!("c{at}"))))
            .collect();
        let ten = named(&json!({"id2label": ten}).to_string())
            .unwrap()
            .unwrap();
        assert_eq!((ten[2].as_str(), ten[10].as_str()), ("c2", "c10"));
    }

    #[test]
    fn contradictions_are_said() {
        for (text, why) in [
            (r#"{"id2label": {"0": "a", "2": "b"}}"#, "each number once"),
            (r#"{"id2label": {"0": "a", "x": "b"}}"#, "no list of names"),
            (
                r#"{"id2label": {"0": "a", "1": "b"}, "label2id": {"a": 1, "b": 0}}"#,
                "differ in \"a\"",
            ),
        ] {
            let fault = named(text).unwrap_err();
            assert!(fault.contains(why), "{fault}");
        }
    }

    #[test]
    fn an_adapter_says_what_its_head_predicts() {
        let folder = tempfile::tempdir().unwrap();
        let adapter = folder.path().join("adapter_model.safetensors");
        let said = |text: &str| {
            std::fs::write(folder.path().join("rankwise.json"), text).unwrap();
            Outputs::beside(&adapter)
        };
        assert_eq!(Outputs::beside(&adapter).unwrap(), None);
        // Of a version that did not say it.
        assert_eq!(said(r#"{"method": "lora"}"#).unwrap(), None);
        let score = said(r#"{"method": "lora", "predicts": "score"}"#);
        assert_eq!(score.unwrap(), Some(Outputs::Score));
        let classes = said(r#"{"predicts": "classes", "classes": ["b", "a"]}"#);
        assert_eq!(classes.unwrap().unwrap().classes(), ["b", "a"]);
        for (text, why) in [
            ("{", "rankwise.json"),
            (r#"{"predicts": "classes"}"#, "classes"),
            (
                r#"{"predicts": "classes", "classes": ["a", "a"]}"#,
                "\"a\" twice",
            ),
        ] {
            let fault = said(text).unwrap_err().to_string();
            assert!(fault.contains(why), "{fault}");
        }
    }

    #[test]
    fn a_configuration_speaks_of_its_own_head() {
        let stated = |text: &str, outputs| {
            let stated = Outputs::stated(&serde_json::from_str(text).unwrap(), outputs);
            stated.map(|outputs| (outputs.count(), outputs.classes().join(" ")))
        };
        let named = r#"{"id2label": {"0": "a", "1": "b"}}"#;
        assert_eq!(stated(named, 2), Some((2, "a b".to_owned())));
        assert_eq!(stated(named, 3), None);
        let score = r#"{"id2label": {"0": "LABEL_0"}, "problem_type": "regression"}"#;
        assert_eq!(stated(score, 1), Some((1, String::new())));
        let several =
            r#"{"id2label": {"0": "a", "1": "b"}, "problem_type": "multi_label_classification"}"#;
        assert_eq!(stated(several, 2), None);
        assert_eq!(stated(r#"{"id2label": {"0": "a", "1": "a"}}"#, 2), None);
    }

    #[test]
    fn nothing_of_another_head_survives() {
        let mut config = json!({
            "num_labels": 3, "problem_type": "multi_label_classification",
            "id2label": {"0": "x", "1": "y", "2": "z"}, "label2id": {"x": 0, "y": 1, "z": 2},
        });
        let config = config.as_object_mut().unwrap();
        Outputs::Score.state(config);
        let score = json!({
            "problem_type": "regression", "id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0},
        });
        assert_eq!(Value::Object(config.clone()), score);
        Outputs::Span.state(config);
        let span = json!({
            "id2label": {"0": "LABEL_0", "1": "LABEL_1"}, "label2id": {"LABEL_0": 0, "LABEL_1": 1},
        });
        assert_eq!(Value::Object(config.clone()), span);
    }
}
