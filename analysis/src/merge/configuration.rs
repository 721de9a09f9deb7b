//! The configuration of a merged checkpoint: the base's, unless the adapter's head has another number
//! of outputs or another type was asked for.

use std::path::Path;

use rankwise_data::read_text;
use serde_json::{Map, Value, json};

use crate::Error;
use crate::adapter::tied_configurations;
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

    /// Gives a head of `outputs` outputs its labels, `LABEL_0` and so on, if there are others now;
    /// returns what to say about it.
    pub fn set_outputs(&mut self, outputs: usize) -> Option<String> {
        let before = self.labels();
        if before == outputs {
            return None;
        }
        let label = |at: usize| format!("LABEL_{at}");
        let names: Map<String, Value> = (0..outputs)
            .map(|at| (at.to_string(), json!(label(at))))
            .collect();
        let numbers: Map<String, Value> = (0..outputs).map(|at| (label(at), json!(at))).collect();
        // A stated number would contradict the list, and the kind of problem is the old head's.
        for field in ["num_labels", "problem_type"] {
            self.fields.shift_remove(field);
        }
        self.fields.insert("id2label".to_owned(), json!(names));
        self.fields.insert("label2id".to_owned(), json!(numbers));
        self.is_changed = true;
        Some(format!(
            "config.json: {outputs} labels LABEL_0, … in place of the base's {before}"
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
        assert_eq!(same.set_outputs(2), None);
        assert_eq!(same.text(), text);
        assert!(same.set_outputs(1).is_some());
        let new: Value = serde_json::from_str(&same.text()).unwrap();
        let expected = json!({"a": 1, "id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}});
        assert_eq!(new, expected);
        // Two are taken for granted.
        assert_eq!(configuration("{}").set_outputs(2), None);
        let mut stated = configuration("{\"num_labels\": 5}");
        assert_eq!(stated.set_outputs(5), None);
        assert!(stated.set_outputs(3).is_some());
        assert!(!stated.text().contains("num_labels"));
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
