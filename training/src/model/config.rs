use std::path::{Path, PathBuf};

use rankwise_analysis::named_classes;
use rankwise_data::ImageProcessor;
use serde_json::{Map, Value};

use super::small_vit;
use crate::Error;
use crate::engine::Activation;

/// A model's `config.json`: every key that a forward pass depends on is asked for by name, and a
/// value that is not supported is refused by name.
#[derive(Debug, Clone)]
pub(crate) struct ModelConfig {
    path: PathBuf,
    values: Map<String, Value>,
}

impl ModelConfig {
    /// Reads `folder/config.json`; without one, a checkpoint that its tensors give away is described
    /// by them ([`small_vit::recognised`]).
    ///
    /// # Errors
    /// [`Error::Data`] if it cannot be read, [`Error::Model`] if it is no JSON object.
    pub fn read(folder: &Path) -> Result<Self, Error> {
        let path = folder.join("config.json");
        if !path.exists()
            && let Some(recognised) = small_vit::recognised(folder)?
        {
            return Ok(recognised);
        }
        let text = rankwise_data::read_text(&path)?;
        Self::parse(&text, path)
    }

    /// From text; `path` names it in errors.
    ///
    /// # Errors
    /// [`Error::Model`] if it is no JSON object.
    pub fn parse(text: &str, path: PathBuf) -> Result<Self, Error> {
        match serde_json::from_str(text) {
            Ok(values) => Ok(Self { path, values }),
            Err(error) => Err(Error::Model {
                path,
                what: "file".to_owned(),
                expected: "a model's configuration, a JSON object".to_owned(),
                found: error.to_string(),
            }),
        }
    }

    /// From values; `path` names them in errors.
    pub fn of(values: Map<String, Value>, path: PathBuf) -> Self {
        Self { path, values }
    }

    /// Replaces the values that `other` has.
    pub fn with(mut self, other: Self) -> Self {
        self.values.extend(other.values);
        self
    }

    /// The standard deviation that new weights are drawn with.
    ///
    /// # Errors
    /// [`Error::Model`] if it is no such number.
    pub fn spread(&self) -> Result<f64, Error> {
        self.number_or("initializer_range", 0.02)
    }

    /// An error about `key`.
    pub fn wrong(&self, key: &str, expected: impl Into<String>, found: impl Into<String>) -> Error {
        Error::Model {
            path: self.path.clone(),
            what: format!("key {key}"),
            expected: expected.into(),
            found: found.into(),
        }
    }

    /// Which architecture it is.
    pub fn model_type(&self) -> Result<&str, Error> {
        self.text("model_type")?
            .ok_or_else(|| self.wrong("model_type", "a name", "nothing"))
    }

    fn value(&self, key: &str) -> Option<&Value> {
        self.values.get(key).filter(|value| !value.is_null())
    }

    /// The classes that its head's outputs are named after ([`named_classes`]).
    ///
    /// # Errors
    /// In words, if the names contradict themselves.
    pub fn classes(&self) -> Result<Option<Vec<String>>, String> {
        named_classes(&self.values)
    }

    /// How images are made ready where no `preprocessor_config.json` says it: at the model's own size,
    /// with `image_mean` and `image_std` if the configuration has them, else with ½.
    ///
    /// # Errors
    /// [`Error::Model`] for values that are no such numbers.
    pub fn image_processor(&self) -> Result<ImageProcessor, Error> {
        let side = self.size_or("image_size", Some(224))?;
        let usual = ImageProcessor::default();
        let deviation = self.channels("image_std", usual.deviation)?;
        if !deviation.iter().all(|one| *one > 0.0) {
            let found = format!("{deviation:?}");
            return Err(self.wrong("image_std", "three positive numbers", found));
        }
        Ok(ImageProcessor {
            width: side,
            height: side,
            mean: self.channels("image_mean", usual.mean)?,
            deviation,
            ..usual
        })
    }

    /// Three numbers, for red, green and blue.
    fn channels(&self, key: &str, default: [f64; 3]) -> Result<[f64; 3], Error> {
        let Some(value) = self.value(key) else {
            return Ok(default);
        };
        serde_json::from_value(value.clone())
            .map_err(|_| self.wrong(key, "three numbers", value.to_string()))
    }

    /// A text, if the key is there.
    pub fn text(&self, key: &str) -> Result<Option<&str>, Error> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(self.wrong(key, "a text", other.to_string())),
        }
    }

    /// A size of at least one that must be there.
    pub fn size(&self, key: &str) -> Result<usize, Error> {
        self.size_or(key, None)
    }

    /// A size of at least one; `default` where the key is missing.
    pub fn size_or(&self, key: &str, default: Option<usize>) -> Result<usize, Error> {
        // No model's dimension comes near; products of a few of them stay far from overflowing.
        const LARGEST: u64 = 1 << 24;
        match (self.value(key), default) {
            (None, Some(default)) => Ok(default),
            (None, None) => Err(self.wrong(key, "a number", "nothing")),
            (Some(value), _) => match value.as_u64() {
                Some(size @ 1..=LARGEST) => Ok(size as usize),
                _ => Err(self.wrong(
                    key,
                    format!("a size from 1 to {LARGEST}"),
                    value.to_string(),
                )),
            },
        }
    }

    /// A whole number, perhaps negative.
    pub fn integer_or(&self, key: &str, default: i64) -> Result<i64, Error> {
        match self.value(key) {
            None => Ok(default),
            Some(value) => value
                .as_i64()
                .filter(|number| number.abs() <= 1 << 24)
                .ok_or_else(|| self.wrong(key, "a whole number", value.to_string())),
        }
    }

    /// A token's id, if there is one.
    pub fn id(&self, key: &str) -> Result<Option<u32>, Error> {
        let Some(value) = self.value(key) else {
            return Ok(None);
        };
        let id = value.as_u64().and_then(|id| u32::try_from(id).ok());
        id.map(Some)
            .ok_or_else(|| self.wrong(key, "a token's id", value.to_string()))
    }

    /// A finite number that is not negative.
    pub fn number_or(&self, key: &str, default: f64) -> Result<f64, Error> {
        match self.value(key) {
            None => Ok(default),
            Some(value) => value
                .as_f64()
                .filter(|number| number.is_finite() && *number >= 0.0)
                .ok_or_else(|| self.wrong(key, "a number of at least 0", value.to_string())),
        }
    }

    /// A probability below one.
    pub fn probability_or(&self, key: &str, default: f64) -> Result<f64, Error> {
        let value = self.number_or(key, default)?;
        if value < 1.0 {
            Ok(value)
        } else {
            Err(self.wrong(key, "a probability below 1", value.to_string()))
        }
    }

    /// True or false.
    pub fn flag_or(&self, key: &str, default: bool) -> Result<bool, Error> {
        match self.value(key) {
            None => Ok(default),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(other) => Err(self.wrong(key, "true or false", other.to_string())),
        }
    }

    /// A list of texts, or one text with parts between `separator`.
    pub fn texts(&self, key: &str, separator: char) -> Result<Vec<String>, Error> {
        let wrong = |found: &Value| self.wrong(key, "a list of texts", found.to_string());
        match self.value(key) {
            None => Ok(Vec::new()),
            Some(Value::String(text)) => Ok(text
                .split(separator)
                .map(|part| part.trim().to_owned())
                .filter(|part| !part.is_empty())
                .collect()),
            Some(list @ Value::Array(parts)) => parts
                .iter()
                .map(|part| part.as_str().map(str::to_owned).ok_or_else(|| wrong(list)))
                .collect(),
            Some(other) => Err(wrong(other)),
        }
    }

    /// A non-linearity by its name in checkpoints.
    pub fn activation_or(&self, key: &str, default: &str) -> Result<Activation, Error> {
        let name = self.text(key)?.unwrap_or(default);
        let known = Activation::NAMES.map(|(name, _)| name);
        Activation::NAMES
            .into_iter()
            .find(|(known, _)| *known == name)
            .map(|(_, function)| function)
            .ok_or_else(|| {
                self.wrong(
                    key,
                    format!("one of {}", known.join(", ")),
                    format!("{name:?}"),
                )
            })
    }

    /// Heads, held against the width that they divide.
    pub fn heads(&self, key: &str, width: usize) -> Result<usize, Error> {
        let heads = self.size(key)?;
        if width.is_multiple_of(heads) {
            Ok(heads)
        } else {
            Err(self.wrong(
                key,
                format!("a divisor of the width {width}"),
                heads.to_string(),
            ))
        }
    }

    /// A number of blocks.
    pub fn layers(&self, key: &str) -> Result<usize, Error> {
        // Every block is some names in memory, so the number is bounded before they are made.
        const MOST: usize = 1000;
        match self.size(key)? {
            layers @ ..=MOST => Ok(layers),
            more => Err(self.wrong(key, format!("at most {MOST} blocks"), more.to_string())),
        }
    }

    /// Refuses any value but `supported` (or the key's absence).
    pub fn only(&self, key: &str, supported: &str) -> Result<(), Error> {
        let found = match self.value(key) {
            None => return Ok(()),
            Some(Value::String(text)) if text == supported => return Ok(()),
            Some(other) => other.to_string(),
        };
        if found == supported {
            return Ok(());
        }
        let expected = format!("{supported}, the only value supported");
        Err(self.wrong(key, expected, found))
    }
}
