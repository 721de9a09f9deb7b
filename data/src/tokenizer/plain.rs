//! Tokenizers of the `tokenizers` crate, from the files that a model's folder has.
//!
//! The reference's classes for BERT, GPT-2 and RoBERTa take no more from a `tokenizer.json` than the
//! vocabulary, the added tokens and (GPT-2) what is put around a text: how a text is normalised and
//! split is the class's own, as `tokenizer_config.json` sets it. So it is here; any other class's
//! `tokenizer.json` is read as it is written.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use serde_json::{Value, json};
use tokenizers::models::bpe::BPE;
use tokenizers::models::wordpiece::WordPiece;
use tokenizers::normalizers::bert::BertNormalizer;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::processors::roberta::RobertaProcessing;
use tokenizers::processors::template::TemplateProcessing;
use tokenizers::utils::padding::PaddingParams;
use tokenizers::{PostProcessorWrapper, Tokenizer, TruncationDirection};

use super::settings::{Class, Settings};
use crate::{Error, read_text};

/// What the crate's error says, as ours.
pub(super) fn fault(path: &Path, error: &tokenizers::Error) -> Error {
    Error::format(path, "file", "a tokenizer", error.to_string())
}

/// Other people's code on other people's files: a panic is an error.
pub(super) fn guarded<T>(path: &Path, run: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
    let result = catch_unwind(AssertUnwindSafe(run));
    result.unwrap_or_else(|_| Err(Error::format(path, "file", "a tokenizer", "a damaged one")))
}

/// A `tokenizer.json`.
pub(super) struct Described {
    pub tokenizer: Tokenizer,
    /// How it would pad.
    pub padding: Option<PaddingParams>,
    /// The side that it would cut.
    pub truncation: Option<TruncationDirection>,
    /// What the class sets in another way than the file.
    pub notes: Vec<String>,
}

/// Reads a `tokenizer.json`'s JSON.
pub(super) fn parse(path: &Path) -> Result<Value, Error> {
    let text = read_text(path)?;
    let value = serde_json::from_str(&text);
    value.map_err(|error| Error::format(path, "file", "a tokenizer", error.to_string()))
}

/// Makes the tokenizer that a `tokenizer.json` and the settings beside it describe.
pub(super) fn described(
    path: &Path,
    mut value: Value,
    settings: &Settings,
) -> Result<Described, Error> {
    let model = value.get("model");
    let dropout = model.and_then(|model| model.get("dropout"));
    if let Some(share) = dropout.and_then(Value::as_f64).filter(|share| *share > 0.0) {
        let what = "key model.dropout";
        return Err(Error::format(
            path,
            what,
            "null: tokens that no chance decides",
            share.to_string(),
        ));
    }
    let has = |key: &str| model.is_some_and(|model| model.get(key).is_some());
    let kind = model
        .and_then(|model| model.get("type"))
        .and_then(Value::as_str);
    // The first files have no type.
    let is_pairs = kind.map_or(has("merges"), |kind| kind == "BPE");
    let is_pieces = kind.map_or(has("max_input_chars_per_word"), |kind| kind == "WordPiece");
    let class = match &settings.class {
        Some(class @ Class::Bert) if is_pieces => Some(class),
        Some(class @ (Class::Gpt2 | Class::Roberta)) if is_pairs => Some(class),
        None if is_pieces && asks_for_words(settings)? => Some(&Class::Bert),
        _ => None,
    };
    let mut notes = Vec::new();
    if let Some(class) = class {
        let (part, made) = match class {
            Class::Bert => (
                "normalizer",
                json!({
                    "type": "BertNormalizer",
                    "clean_text": true,
                    "handle_chinese_chars": settings.flag("tokenize_chinese_chars")?.unwrap_or(true),
                    "strip_accents": settings.flag("strip_accents")?,
                    "lowercase": settings.flag("do_lower_case")?.unwrap_or(true),
                }),
            ),
            _ => (
                "pre_tokenizer",
                json!({
                    "type": "ByteLevel",
                    "add_prefix_space": settings.flag("add_prefix_space")?.unwrap_or(false),
                }),
            ),
        };
        notes.extend(replaced(path, part, value.get(part), &made));
        for key in ["normalizer", "pre_tokenizer", "decoder"] {
            value[key] = Value::Null;
        }
        value["added_tokens"] = json!([]);
        if *class != Class::Gpt2 {
            value["post_processor"] = Value::Null;
        }
        if *class == Class::Bert
            && let Some(unknown) = settings.special("unk_token")?
        {
            value["model"]["unk_token"] = Value::String(unknown);
        }
    } else {
        check_normalizer(path, &value, settings)?;
    }
    let text = value.to_string();
    drop(value);
    guarded(path, || {
        let mut tokenizer = Tokenizer::from_bytes(text).map_err(|error| fault(path, &error))?;
        // Length is asked for with every text, and batches are not padded here.
        let padding = tokenizer.get_padding().cloned();
        tokenizer.with_padding(None);
        let truncation = tokenizer.get_truncation().map(|cut| cut.direction);
        let cut = tokenizer.with_truncation(None);
        cut.map_err(|error| fault(path, &error))?;
        match class {
            Some(Class::Bert) => words(path, &mut tokenizer, settings)?,
            Some(Class::Roberta) => bytes(path, &mut tokenizer, settings, true)?,
            Some(_) => bytes(path, &mut tokenizer, settings, false)?,
            None => add(path, &mut tokenizer, settings)?,
        }
        Ok(Described {
            tokenizer,
            padding,
            truncation,
            notes,
        })
    })
}

/// Which values of a part of a file the class has in another way.
fn replaced(path: &Path, part: &str, own: Option<&Value>, made: &Value) -> Option<String> {
    let differs = |(key, value): (&String, &Value)| {
        let own = own.and_then(|own| own.get(key)).unwrap_or(&Value::Null);
        (own != value).then(|| format!("{key} is {value}, not {own}"))
    };
    let differences: Vec<_> = made.as_object()?.iter().filter_map(differs).collect();
    (!differences.is_empty()).then(|| {
        format!(
            "{}: {part}: {}, as the model's class sets it (tokenizer_config.json)",
            path.display(),
            differences.join(", ")
        )
    })
}

/// Whether settings of BERT's normalisation are given.
fn asks_for_words(settings: &Settings) -> Result<bool, Error> {
    for key in ["do_lower_case", "strip_accents", "tokenize_chinese_chars"] {
        if settings.flag(key)?.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// DeBERTa's class makes a normaliser of its own as well, but one that leaves out the model's
/// characters; what the file has is kept, so a setting may not contradict it.
fn check_normalizer(path: &Path, value: &Value, settings: &Settings) -> Result<(), Error> {
    if settings.class != Some(Class::DebertaV2) {
        return Ok(());
    }
    let has = |part: &str, kind: &str| {
        let text = value.get(part).map(Value::to_string).unwrap_or_default();
        text.contains(&format!("\"type\":\"{kind}\""))
    };
    for (key, part, kind) in [
        ("do_lower_case", "normalizer", "Lowercase"),
        ("split_by_punct", "pre_tokenizer", "Punctuation"),
    ] {
        if let Some(asked) = settings.flag(key)?
            && asked != has(part, kind)
        {
            let (what, file) = (format!("key {key}"), path.display());
            let expected = format!("{}, as {part} of {file} has it", !asked);
            return Err(Error::format(
                &settings.path,
                what,
                expected,
                asked.to_string(),
            ));
        }
    }
    Ok(())
}

/// BERT's word pieces: one token a line.
pub(super) fn word_pieces(path: &Path, settings: &Settings) -> Result<Tokenizer, Error> {
    let text = read_text(path)?;
    let vocabulary = guarded(path, || {
        WordPiece::read_bytes(text.as_bytes()).map_err(|error| fault(path, &error))
    })?;
    let mut names = Vec::new();
    for (key, usual) in [
        ("cls_token", "[CLS]"),
        ("sep_token", "[SEP]"),
        ("unk_token", "[UNK]"),
    ] {
        let name = settings.special(key)?.unwrap_or_else(|| usual.to_owned());
        if !vocabulary.contains_key(&name) {
            let expected = "BERT's [CLS], [SEP] and [UNK], or what the settings call them";
            return Err(Error::format(
                path,
                "tokens",
                expected,
                format!("no {name}"),
            ));
        }
        names.push(name);
    }
    guarded(path, || {
        let model = WordPiece::builder()
            .vocab(vocabulary)
            .unk_token(names.remove(2));
        let model = model.build().map_err(|error| fault(path, &error))?;
        let mut tokenizer = Tokenizer::new(model);
        words(path, &mut tokenizer, settings)?;
        Ok(tokenizer)
    })
}

/// What BERT's class does around word pieces.
fn words(path: &Path, tokenizer: &mut Tokenizer, settings: &Settings) -> Result<(), Error> {
    let wrong = |error: tokenizers::Error| fault(path, &error);
    let normaliser = BertNormalizer::new(
        true,
        settings.flag("tokenize_chinese_chars")?.unwrap_or(true),
        settings.flag("strip_accents")?,
        settings.flag("do_lower_case")?.unwrap_or(true),
    );
    tokenizer.with_normalizer(Some(normaliser)).map_err(wrong)?;
    tokenizer.with_pre_tokenizer(Some(BertPreTokenizer));
    add(path, tokenizer, settings)?;
    let special = |key, usual| special(path, tokenizer, settings, key, usual);
    let (cls, sep) = (
        special("cls_token", "[CLS]")?,
        special("sep_token", "[SEP]")?,
    );
    tokenizer.with_post_processor(Some(template(path, cls, sep)?));
    Ok(())
}

/// `[CLS] A [SEP]` and `[CLS] A [SEP] B [SEP]`, the second text and its end of type 1.
pub(super) fn template(
    path: &Path,
    (cls, first): (String, u32),
    (sep, last): (String, u32),
) -> Result<PostProcessorWrapper, Error> {
    let single = format!("{cls}:0 $A:0 {sep}:0");
    let pair = format!("{cls}:0 $A:0 {sep}:0 $B:1 {sep}:1");
    around(path, single, pair, vec![(cls, first), (sep, last)])
}

fn around(
    path: &Path,
    single: String,
    pair: String,
    special: Vec<(String, u32)>,
) -> Result<PostProcessorWrapper, Error> {
    let wrong = |found: String| {
        let expected = "names of one word each, such as [CLS] and [SEP]";
        Error::format(path, "special tokens", expected, found)
    };
    let processing = TemplateProcessing::builder()
        .try_single(single)
        .map_err(wrong)?
        .try_pair(pair)
        .map_err(wrong)?
        .special_tokens(special)
        .build()
        .map_err(|error| wrong(error.to_string()))?;
    Ok(processing.into())
}

/// Byte-level pairs: GPT-2's, or RoBERTa's where the class is.
pub(super) fn byte_pairs(
    vocabulary: &Path,
    merges: &Path,
    settings: &Settings,
) -> Result<Tokenizer, Error> {
    let (vocabulary_name, merges_name) = (path_text(vocabulary)?, path_text(merges)?);
    if !merges.is_file() {
        let expected = "the merges of vocab.json";
        return Err(Error::format(merges, "file", expected, "none"));
    }
    guarded(vocabulary, || {
        let model = BPE::from_file(vocabulary_name, merges_name).build();
        let mut tokenizer = Tokenizer::new(model.map_err(|error| fault(vocabulary, &error))?);
        if tokenizer.token_to_id("[CLS]").is_some() {
            // Without a description it is not known how its models were given pairs of texts.
            let expected = "the special tokens of GPT-2 or RoBERTa, or a tokenizer.json";
            return Err(Error::format(vocabulary, "tokens", expected, "[CLS]"));
        }
        let is_roberta = settings.class == Some(Class::Roberta);
        bytes(vocabulary, &mut tokenizer, settings, is_roberta)?;
        if is_roberta {
            return Ok(tokenizer);
        }
        // Where there is a description, it says what is put around a text.
        let (mut single, mut pair) = ("$A:0".to_owned(), " $B:1".to_owned());
        let mut special = Vec::new();
        for (key, token) in [
            ("add_bos_token", "bos_token"),
            ("add_eos_token", "eos_token"),
        ] {
            if settings.flag(key)? != Some(true) {
                continue;
            }
            let name = settings
                .special(token)?
                .unwrap_or_else(|| "<|endoftext|>".to_owned());
            let Some(id) = tokenizer.token_to_id(&name) else {
                let expected = format!("false, or the token {name:?}");
                return Err(Error::format(
                    &settings.path,
                    format!("key {key}"),
                    expected,
                    "true",
                ));
            };
            match token {
                "bos_token" => {
                    single = format!("{name}:0 {single}");
                    pair = format!(" {name}:1{pair}");
                }
                _ => {
                    single += &format!(" {name}:0");
                    pair += &format!(" {name}:1");
                }
            }
            if !special.contains(&(name.clone(), id)) {
                special.push((name, id));
            }
        }
        if !special.is_empty() {
            let pair = format!("{single}{pair}");
            let around = around(vocabulary, single, pair, special)?;
            tokenizer.with_post_processor(Some(around));
        }
        Ok(tokenizer)
    })
}

/// What the classes of GPT-2 and RoBERTa do around byte-level pairs.
fn bytes(
    path: &Path,
    tokenizer: &mut Tokenizer,
    settings: &Settings,
    is_roberta: bool,
) -> Result<(), Error> {
    let space = settings.flag("add_prefix_space")?.unwrap_or(false);
    tokenizer.with_pre_tokenizer(Some(ByteLevel::default().add_prefix_space(space)));
    add(path, tokenizer, settings)?;
    if is_roberta {
        let special = |key, usual| special(path, tokenizer, settings, key, usual);
        let (sep, cls) = (special("sep_token", "</s>")?, special("cls_token", "<s>")?);
        let trim = settings.flag("trim_offsets")?.unwrap_or(true);
        let processing = RobertaProcessing::new(sep, cls).trim_offsets(trim);
        tokenizer.with_post_processor(Some(processing.add_prefix_space(space)));
    }
    Ok(())
}

/// A special token's name and id.
fn special(
    path: &Path,
    tokenizer: &Tokenizer,
    settings: &Settings,
    key: &str,
    usual: &str,
) -> Result<(String, u32), Error> {
    let name = settings.special(key)?.unwrap_or_else(|| usual.to_owned());
    match tokenizer.token_to_id(&name) {
        Some(id) => Ok((name, id)),
        None => Err(Error::format(
            path,
            "tokens",
            format!("{key} {name:?}"),
            "none",
        )),
    }
}

/// Adds the tokens that the settings list, each with the id that is next.
fn add(path: &Path, tokenizer: &mut Tokenizer, settings: &Settings) -> Result<(), Error> {
    let known = tokenizer.get_added_tokens_decoder();
    let added = settings.added(|content| known.values().any(|token| token.content == content))?;
    let tokens: Vec<_> = added.iter().map(|added| added.token.clone()).collect();
    let wrong = |error: tokenizers::Error| fault(path, &error);
    tokenizer.add_tokens(tokens).map_err(wrong)?;
    for added in &added {
        if let Some(id) = tokenizer.token_to_id(&added.token.content) {
            added.check(id)?;
        }
    }
    let splits = settings.flag("split_special_tokens")?.unwrap_or(false);
    tokenizer.set_encode_special_tokens(splits);
    Ok(())
}

/// The crate takes its files' names as texts.
fn path_text(path: &Path) -> Result<&str, Error> {
    path.to_str()
        .ok_or_else(|| Error::format(path, "file name", "UTF-8", "other bytes"))
}
