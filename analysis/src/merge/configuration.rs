//! The configuration of a merged checkpoint: the base's, unless the adapter's head predicts something
//! else or another type was asked for.

use std::path::Path;

use rankwise_data::{first_names, read_text};
use serde_json::{Map, Value, json};

use crate::Error;
use crate::adapter::tied_configurations;
use crate::classes::{Outputs, list, named_classes, unnamed};
use crate::resize::NewType;

/// A model's `config.json`.
#[derive(Debug)]
pub(super) struct Configuration {
    fields: Map<String, Value>,
    text: String,
    is_changed: bool,
}

impl Configuration {
    /// Reads the one in `folder`; `None` if there is none.
    ///
    /// # Errors
    /// [`Error::File`] if it cannot be read or is no JSON object.
    pub fn read(folder: &Path) -> Result<Option<Self>, Error> {
        let path = folder.join("config.json");
        if !path.is_file() {
            return Ok(None);
        }
        let text = read_text(&path)?;
        let fields = serde_json::from_str(&text).map_err(|error| {
            Error::format(&path, "file", "a model's configuration", error.to_string())
        })?;
        Ok(Some(Self {
            fields,
            text,
            is_changed: false,
        }))
    }

    /// How many labels there are; as many as libraries take for granted where nothing is said.
    fn labels(&self) -> usize {
        let listed = self.fields.get("id2label").and_then(Value::as_object);
        let number = || self.fields.get("num_labels").and_then(Value::as_u64);
        match listed {
            Some(labels) => labels.len(),
            None => number().map_or(2, |count| usize::try_from(count).unwrap_or(0)),
        }
    }

    /// The labels for a head of the adapter with that many outputs, `known` if the adapter says what
    /// they are; returns what there is to say about it.
    pub fn set_head(&mut self, outputs: usize, known: Option<&Outputs>) -> Option<String> {
        let before = named_classes(&self.fields).ok().flatten();
        if let Some(known) = known {
            let fields = self.fields.clone();
            known.state(&mut self.fields);
            self.is_changed |= self.fields != fields;
            let before = before.filter(|before| before != known.classes())?;
            return Some(format!(
                "config.json: {} in place of the base's {}",
                match known {
                    Outputs::Classes { classes } => format!("the classes {}", first_names(classes)),
                    Outputs::Score => "one output, a score,".to_owned(),
                    Outputs::Span => "an answer's first and last token".to_owned(),
                },
                first_names(&before)
            ));
        }
        if self.labels() == outputs {
            let before = before?;
            return Some(format!(
                "config.json keeps the base's classes {}: nothing beside the adapter says what the \
                 outputs of its head are",
                first_names(&before)
            ));
        }
        let labels = self.labels();
        let names: Vec<String> = (0..outputs).map(unnamed).collect();
        // A stated number would contradict the list, and the kind of problem is the old head's.
        for field in ["num_labels", "problem_type"] {
            self.fields.shift_remove(field);
        }
        list(&mut self.fields, &names);
        self.is_changed = true;
        Some(format!(
            "config.json: {outputs} labels LABEL_0, … in place of the base's {labels}"
        ))
    }

    /// States the type that new tensors have.
    pub fn set_type(&mut self, dtype: NewType) {
        let name = match dtype {
            NewType::F32 => "float32",
            NewType::F16 => "float16",
            NewType::Bf16 => "bfloat16",
        };
        let known = ["dtype", "torch_dtype"];
        let stated: Vec<&str> = known
            .into_iter()
            .filter(|field| self.fields.contains_key(*field))
            .collect();
        let stated = if stated.is_empty() {
            vec!["torch_dtype"]
        } else {
            stated
        };
        for field in stated {
            if self.fields.get(field).and_then(Value::as_str) != Some(name) {
                self.fields.insert(field.to_owned(), json!(name));
                self.is_changed = true;
            }
        }
    }

    /// Gives the output layer a tensor of its own, wherever the configuration speaks of it; whether it
    /// was not said before.
    pub fn untie(&mut self) -> bool {
        let key = "tie_word_embeddings";
        let parts = tied_configurations(&self.fields);
        let parts: Vec<String> = parts.into_iter().map(str::to_owned).collect();
        let mut is_new = self.fields.insert(key.to_owned(), json!(false)) != Some(json!(false));
        for part in parts {
            if let Some(Value::Object(fields)) = self.fields.get_mut(&part) {
                is_new |= fields.insert(key.to_owned(), json!(false)) != Some(json!(false));
            }
        }
        self.is_changed |= is_new;
        is_new
    }

    /// Whether an output layer is tied to the table of embeddings unless the checkpoint has its own.
    pub fn is_tied(&self) -> bool {
        self.fields
            .get("tie_word_embeddings")
            .and_then(Value::as_bool)
            != Some(false)
    }

    /// The text: byte for byte the base's where nothing changed.
    pub fn text(&self) -> String {
        if self.is_changed {
            format!("{:#}\n", Value::Object(self.fields.clone()))
        } else {
            self.text.clone()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn configuration(text: &str) -> Configuration {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("config.json"), text).unwrap();
        Configuration::read(folder.path()).unwrap().unwrap()
    }

    #[test]
    fn labels_change_only_with_their_number() {
        let text = "{ \"a\":1, \"id2label\": {\"0\": \"no\", \"1\": \"yes\"} }";
        let mut same = configuration(text);
        let kept = same.set_head(2, None).unwrap();
        assert!(kept.contains("keeps the base's classes no, yes"), "{kept}");
        assert_eq!(same.text(), text);
        assert!(same.set_head(1, None).is_some());
        let new: Value = serde_json::from_str(&same.text()).unwrap();
        let expected = json!({"a": 1, "id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}});
        assert_eq!(new, expected);
        // Two are taken for granted.
        assert_eq!(configuration("{}").set_head(2, None), None);
        let mut stated = configuration("{\"num_labels\": 5}");
        assert_eq!(stated.set_head(5, None), None);
        assert!(stated.set_head(3, None).is_some());
        assert!(!stated.text().contains("num_labels"));
    }

    #[test]
    fn classes_that_the_adapter_names_take_the_place_of_the_bases() {
        let known = |classes: &[&str]| Outputs::Classes {
            classes: classes.iter().map(|&name| name.to_owned()).collect(),
        };
        let mut base = configuration(
            "{\"num_labels\": 2, \"id2label\": {\"0\": \"no\", \"1\": \"yes\"}, \
             \"problem_type\": \"multi_label_classification\"}",
        );
        let said = base.set_head(2, Some(&known(&["ham", "spam"]))).unwrap();
        assert_eq!(
            said,
            "config.json: the classes ham, spam in place of the base's no, yes"
        );
        let new: Value = serde_json::from_str(&base.text()).unwrap();
        let expected = json!({
            "id2label": {"0": "ham", "1": "spam"}, "label2id": {"ham": 0, "spam": 1},
            "problem_type": "single_label_classification",
        });
        assert_eq!(new, expected);
        // The same again changes nothing, so that the text is the base's.
        let text = base.text();
        let mut same = configuration(&text);
        assert_eq!(same.set_head(2, Some(&known(&["ham", "spam"]))), None);
        assert_eq!(same.text(), text);
    }

    #[test]
    fn a_head_of_its_own_is_said_in_every_part() {
        let mut nested = configuration(
            "{\"tie_word_embeddings\": true, \"text_config\": {\"tie_word_embeddings\": true}, \"vision_config\": {}}",
        );
        assert!(nested.untie() && !nested.is_tied());
        let new: Value = serde_json::from_str(&nested.text()).unwrap();
        let expected = json!({
            "tie_word_embeddings": false, "text_config": {"tie_word_embeddings": false}, "vision_config": {},
        });
        assert_eq!(new, expected);
        assert!(!nested.untie());
    }

    #[test]
    fn the_type_is_stated_where_it_was() {
        let mut new = configuration("{\"dtype\": \"float32\"}");
        new.set_type(NewType::Bf16);
        assert!(new.text().contains("\"dtype\": \"bfloat16\""));
        let mut none = configuration("{}");
        none.set_type(NewType::F16);
        assert!(none.text().contains("\"torch_dtype\": \"float16\""));
    }
}
