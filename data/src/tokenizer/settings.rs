//! What a model's folder says of its tokenizer beside the vocabulary: `tokenizer_config.json`,
//! `special_tokens_map.json`, `added_tokens.json`, the added tokens of a `tokenizer.json`, and in
//! `config.json` which class reads them all.
//!
//! They count as in transformers 5.23: where `tokenizer_config.json` has `added_tokens_decoder`, that
//! is the list of added tokens and the other files are not looked at; else `special_tokens_map.json`
//! has the last word on special tokens, and `added_tokens.json` and `tokenizer.json` list the added
//! ones. An added token gets the next free id there, whatever the file says; here a file that says
//! otherwise is refused.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Map, Value};
use tokenizers::{AddedToken, TruncationDirection};

use crate::model_files::file;
use crate::{Error, read_text};

/// The keys of the special tokens that every class has, in the order in which they are added.
const ATTRIBUTES: [&str; 7] = [
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
];

/// The class of the reference that reads a tokenizer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Class {
    Bert,
    Gpt2,
    Roberta,
    DebertaV2,
    /// Reads `tokenizer.json` as it is written.
    Written,
    /// One that has no reader of plain vocabularies here.
    Other(String),
}

impl Class {
    fn of(name: &str) -> Self {
        match name.strip_suffix("Fast").unwrap_or(name) {
            "BertTokenizer" | "DistilBertTokenizer" | "ElectraTokenizer" => Self::Bert,
            "MobileBertTokenizer" | "SqueezeBertTokenizer" | "LayoutLMTokenizer" => Self::Bert,
            "GPT2Tokenizer" => Self::Gpt2,
            "RobertaTokenizer" | "LongformerTokenizer" | "BartTokenizer" => Self::Roberta,
            "DebertaV2Tokenizer" => Self::DebertaV2,
            "PreTrainedTokenizer" | "TokenizersBackend" | "PythonBackend" => Self::Written,
            _ => Self::Other(name.to_owned()),
        }
    }

    fn of_model(model_type: &str) -> Option<Self> {
        Some(match model_type {
            "bert" | "distilbert" | "electra" => Self::Bert,
            "gpt2" => Self::Gpt2,
            "roberta" => Self::Roberta,
            "deberta-v2" => Self::DebertaV2,
            _ => return None,
        })
    }

    /// A special token where no file names one.
    fn usual(&self, attribute: &str) -> Option<&'static str> {
        let index = ATTRIBUTES.iter().position(|key| *key == attribute)?;
        let all: [&str; 7] = match self {
            Self::Bert => ["", "", "[UNK]", "[SEP]", "[PAD]", "[CLS]", "[MASK]"],
            Self::Gpt2 => {
                let end = "<|endoftext|>";
                [end, end, end, "", "", "", ""]
            }
            Self::Roberta => ["<s>", "</s>", "<unk>", "</s>", "<pad>", "<s>", "<mask>"],
            Self::DebertaV2 => [
                "[CLS]", "[SEP]", "[UNK]", "[SEP]", "[PAD]", "[CLS]", "[MASK]",
            ],
            Self::Written | Self::Other(_) => [""; 7],
        };
        Some(all[index]).filter(|token| !token.is_empty())
    }
}

/// An added token, and the id and the file that say so if any do.
#[derive(Debug, Clone)]
pub(super) struct Added {
    pub token: AddedToken,
    pub stated: Option<(u32, PathBuf)>,
}

impl Added {
    /// Checks that a token's id is the one that its file says.
    ///
    /// # Errors
    /// [`Error::Format`] naming file and token.
    pub(super) fn check(&self, found: u32) -> Result<(), Error> {
        match &self.stated {
            Some((id, file)) if *id != found => {
                let what = format!("added token {:?}", self.token.content);
                let expected = format!("id {found}, its own or the next after the vocabulary's");
                Err(Error::format(file, what, expected, format!("id {id}")))
            }
            _ => Ok(()),
        }
    }
}

/// What the files say.
#[derive(Debug)]
pub(super) struct Settings {
    /// `tokenizer_config.json`.
    pub path: PathBuf,
    pub class: Option<Class>,
    keys: Map<String, Value>,
    listed: BTreeMap<u32, (Written, PathBuf)>,
}

/// An added token as files have it.
#[derive(Debug, Clone, Deserialize)]
struct Written {
    content: String,
    #[serde(default)]
    single_word: bool,
    #[serde(default)]
    lstrip: bool,
    #[serde(default)]
    rstrip: bool,
    normalized: Option<bool>,
    #[serde(default)]
    special: bool,
}

impl Written {
    fn special(content: &str) -> Self {
        Self {
            content: content.to_owned(),
            single_word: false,
            lstrip: false,
            rstrip: false,
            normalized: None,
            special: true,
        }
    }

    fn token(&self) -> AddedToken {
        AddedToken::from(&self.content, self.special)
            .single_word(self.single_word)
            .lstrip(self.lstrip)
            .rstrip(self.rstrip)
            .normalized(self.normalized.unwrap_or(!self.special))
    }
}

impl Settings {
    /// Reads the files in a model's folder; `described` is what its `tokenizer.json` has as
    /// `added_tokens`.
    pub(super) fn read(folder: &Path, described: Option<&Value>) -> Result<Self, Error> {
        let mut keys = object(folder, "tokenizer_config.json")?;
        let class = class(folder, &keys)?;
        let extra = keys.get("extra_special_tokens");
        if extra.is_none_or(|extra| !is_given(extra))
            && let Some(old) = keys.shift_remove("additional_special_tokens")
        {
            keys.insert("extra_special_tokens".to_owned(), old);
        }
        let mut settings = Self {
            class,
            listed: BTreeMap::new(),
            path: folder.join("tokenizer_config.json"),
            keys,
        };
        if let Some(listed) = settings.keys.get("added_tokens_decoder") {
            let what = "key added_tokens_decoder";
            let expected = "tokens by their ids";
            let wrong =
                |found: &Value| Error::format(&settings.path, what, expected, found.to_string());
            for (id, value) in listed.as_object().ok_or_else(|| wrong(listed))? {
                let id = id.parse().map_err(|_| wrong(&Value::String(id.clone())))?;
                let token = Written::deserialize(value).map_err(|_| wrong(value))?;
                settings.listed.insert(id, (token, settings.path.clone()));
            }
            return Ok(settings);
        }
        settings.take_map(folder)?;
        settings.list_plain(folder)?;
        if let Some(described) = described.and_then(Value::as_array) {
            settings.list_described(&folder.join("tokenizer.json"), described)?;
        }
        Ok(settings)
    }

    /// `special_tokens_map.json`: what it names replaces what `tokenizer_config.json` names.
    fn take_map(&mut self, folder: &Path) -> Result<(), Error> {
        for (key, mut value) in object(folder, "special_tokens_map.json")? {
            if let Value::Object(token) = &mut value
                && key != "extra_special_tokens"
            {
                token.insert("special".to_owned(), Value::Bool(true));
            }
            match key.as_str() {
                // The configuration's list counts before this one's.
                "additional_special_tokens" => {
                    let own = self.keys.get("extra_special_tokens");
                    if own.is_none_or(|own| !is_given(own)) {
                        self.keys.insert("extra_special_tokens".to_owned(), value);
                    }
                }
                "extra_special_tokens" => {
                    let own = self.keys.entry(key).or_insert(Value::Null);
                    match (own, value) {
                        (Value::Array(own), Value::Array(more)) => own.extend(more),
                        (own, value) => *own = value,
                    }
                }
                _ => {
                    self.keys.insert(key, value);
                }
            }
        }
        Ok(())
    }

    /// `added_tokens.json`: ids by tokens.
    fn list_plain(&mut self, folder: &Path) -> Result<(), Error> {
        let path = &folder.join("added_tokens.json");
        let mut special = BTreeSet::new();
        for (_, token) in self.named()? {
            special.insert(token.content);
        }
        for token in self.extra()? {
            special.insert(token.content);
        }
        for (content, id) in object(folder, "added_tokens.json")? {
            let number = id.as_u64().and_then(|id| u32::try_from(id).ok());
            let number = number.ok_or_else(|| {
                let what = format!("token {content:?}");
                Error::format(path, what, "an id", id.to_string())
            })?;
            let is_special = special.contains(&content);
            let token = Written {
                normalized: Some(!is_special),
                special: is_special,
                ..Written::special(&content)
            };
            self.list(number, token, path)?;
        }
        Ok(())
    }

    fn list_described(&mut self, path: &Path, described: &[Value]) -> Result<(), Error> {
        for value in described {
            let id = value.get("id").and_then(Value::as_u64);
            let id = id.and_then(|id| u32::try_from(id).ok());
            let token = Written::deserialize(value).ok();
            let Some((id, token)) = id.zip(token) else {
                let expected = "tokens with ids";
                return Err(Error::format(
                    path,
                    "added_tokens",
                    expected,
                    value.to_string(),
                ));
            };
            // It has the last word.
            self.listed.remove(&id);
            self.list(id, token, path)?;
        }
        Ok(())
    }

    fn list(&mut self, id: u32, token: Written, path: &Path) -> Result<(), Error> {
        let content = token.content.clone();
        match self.listed.insert(id, (token, path.to_path_buf())) {
            Some((other, _)) if other.content != content => {
                let expected = format!("an id of its own for {content:?}");
                let found = format!("{id}, as for {:?}", other.content);
                Err(Error::format(path, "added tokens", expected, found))
            }
            _ => Ok(()),
        }
    }

    /// A truth value of `tokenizer_config.json`.
    pub(super) fn flag(&self, key: &str) -> Result<Option<bool>, Error> {
        match self.keys.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Bool(truth)) => Ok(Some(*truth)),
            Some(other) => Err(self.wrong(key, "true or false", other)),
        }
    }

    /// Whether a side that a key names is the left one.
    pub(super) fn is_left(&self, key: &str) -> Result<Option<bool>, Error> {
        match self.keys.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(side)) if side == "left" => Ok(Some(true)),
            Some(Value::String(side)) if side == "right" => Ok(Some(false)),
            Some(other) => Err(self.wrong(key, "\"left\" or \"right\"", other)),
        }
    }

    /// Whether the inputs that `model_input_names` lists have the texts' numbers among them.
    pub(super) fn gives_types(&self) -> Result<Option<bool>, Error> {
        match self.keys.get("model_input_names") {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Array(names)) => Ok(Some(names.contains(&"token_type_ids".into()))),
            Some(other) => Err(self.wrong("model_input_names", "a list of names", other)),
        }
    }

    /// The side of a long text that is cut off; `described` is `tokenizer.json`'s.
    pub(super) fn truncation(
        &self,
        described: Option<TruncationDirection>,
    ) -> Result<TruncationDirection, Error> {
        Ok(match self.is_left("truncation_side")? {
            Some(true) => TruncationDirection::Left,
            Some(false) => TruncationDirection::Right,
            None => described.unwrap_or_default(),
        })
    }

    /// A special token's text, such as that of `cls_token`.
    pub(super) fn special(&self, key: &str) -> Result<Option<String>, Error> {
        let named = self.named()?.into_iter().find(|(name, _)| name == key);
        let usual = || self.class.as_ref()?.usual(key).map(str::to_owned);
        Ok(named.map(|(_, token)| token.content).or_else(usual))
    }

    /// The special tokens that a file names, those that every class has first.
    fn named(&self) -> Result<Vec<(String, Written)>, Error> {
        let is_name = |key: &&str| key.ends_with("_token") && !ATTRIBUTES.contains(key);
        let others = self.keys.keys().map(String::as_str).filter(is_name);
        let mut named = Vec::new();
        for key in ATTRIBUTES.into_iter().chain(others) {
            match self.keys.get(key) {
                Some(value @ (Value::String(_) | Value::Object(_))) => {
                    named.push((key.to_owned(), self.token(key, value)?));
                }
                Some(other) if ATTRIBUTES.contains(&key) && !other.is_null() => {
                    return Err(self.wrong(key, "a token", other));
                }
                // `add_bos_token` and the like are settings.
                _ => {}
            }
        }
        if let Some(Value::Object(extra)) = self.keys.get("extra_special_tokens") {
            for (key, value) in extra {
                named.push((key.clone(), self.token(key, value)?));
            }
        }
        Ok(named)
    }

    /// The further special tokens, which have no names.
    fn extra(&self) -> Result<Vec<Written>, Error> {
        let key = "extra_special_tokens";
        match self.keys.get(key) {
            None | Some(Value::Null | Value::Object(_)) => Ok(Vec::new()),
            Some(Value::Array(tokens)) => {
                let one = |value: &Value| {
                    let token = self.token(key, value)?;
                    // What is in this list is special unless it says otherwise.
                    let special = token.special || value.get("special").is_none();
                    Ok(Written { special, ..token })
                };
                tokens.iter().map(one).collect()
            }
            Some(other) => Err(self.wrong(key, "a list of tokens", other)),
        }
    }

    fn token(&self, key: &str, value: &Value) -> Result<Written, Error> {
        match value {
            Value::String(content) => Ok(Written::special(content)),
            other => Written::deserialize(other).map_err(|_| self.wrong(key, "a token", other)),
        }
    }

    fn wrong(&self, key: &str, expected: &str, found: &Value) -> Error {
        Error::format(
            &self.path,
            format!("key {key}"),
            expected,
            found.to_string(),
        )
    }

    /// The tokens to add to a vocabulary, in order: those with ids, then special ones that are not
    /// among them nor, by `is_added`, added already.
    pub(super) fn added(&self, is_added: impl Fn(&str) -> bool) -> Result<Vec<Added>, Error> {
        let mut named = self.named()?;
        for key in ATTRIBUTES {
            let usual = self.class.as_ref().and_then(|class| class.usual(key));
            if let Some(usual) = usual.filter(|_| !self.keys.contains_key(key)) {
                named.push((key.to_owned(), Written::special(usual)));
            }
        }
        named.sort_by_key(|(key, _)| {
            let place = ATTRIBUTES.iter().position(|attribute| attribute == key);
            place.unwrap_or(ATTRIBUTES.len())
        });
        let mut added = Vec::new();
        for (id, (token, file)) in &self.listed {
            let is_named = named
                .iter()
                .any(|(_, other)| other.content == token.content);
            let token = Written {
                special: token.special || is_named,
                ..token.clone()
            };
            added.push(Added {
                token: token.token(),
                stated: Some((*id, file.clone())),
            });
        }
        let named = named.into_iter().map(|(_, token)| token);
        for token in named.chain(self.extra()?) {
            let is_listed = added
                .iter()
                .any(|other| other.token.content == token.content);
            if !is_listed && !is_added(&token.content) {
                added.push(Added {
                    token: token.token(),
                    stated: None,
                });
            }
        }
        Ok(added)
    }
}

/// Whether a list or table has something in it.
fn is_given(value: &Value) -> bool {
    match value {
        Value::Array(list) => !list.is_empty(),
        Value::Object(table) => !table.is_empty(),
        other => !other.is_null(),
    }
}

/// A file's JSON object; nothing where there is no file.
fn object(folder: &Path, name: &str) -> Result<Map<String, Value>, Error> {
    let Some(path) = file(folder, name) else {
        return Ok(Map::new());
    };
    serde_json::from_str(&read_text(&path)?).map_err(|error| {
        let expected = "settings, a JSON object";
        Error::format(&path, "file", expected, error.to_string())
    })
}

/// The class that the tokenizer's configuration names, else the model's, else that of the model.
fn class(folder: &Path, keys: &Map<String, Value>) -> Result<Option<Class>, Error> {
    let model_keys = object(folder, "config.json")?;
    for (name, keys) in [
        ("tokenizer_config.json", keys),
        ("config.json", &model_keys),
    ] {
        match keys.get("tokenizer_class") {
            None | Some(Value::Null) => {}
            Some(Value::String(name)) => return Ok(Some(Class::of(name))),
            Some(other) => {
                let (path, found) = (folder.join(name), other.to_string());
                return Err(Error::format(&path, "key tokenizer_class", "a name", found));
            }
        }
    }
    let model_type = model_keys.get("model_type").and_then(Value::as_str);
    Ok(model_type.and_then(Class::of_model))
}
