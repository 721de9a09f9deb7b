//! Tokenizers of the `tokenizers` crate, from the files that a model's folder has.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use serde::Deserialize;
use tokenizers::models::bpe::BPE;
use tokenizers::models::wordpiece::WordPiece;
use tokenizers::normalizers::bert::BertNormalizer;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::processors::roberta::RobertaProcessing;
use tokenizers::processors::template::TemplateProcessing;
use tokenizers::utils::padding::PaddingParams;
use tokenizers::{AddedToken, PostProcessorWrapper, Tokenizer};

use crate::{Error, read_text};

/// The keys of `tokenizer_config.json` that matter here.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Config {
    pub do_lower_case: Option<bool>,
    pub split_by_punct: Option<bool>,
    strip_accents: Option<bool>,
    tokenize_chinese_chars: Option<bool>,
    add_prefix_space: Option<bool>,
    pub padding_side: Option<String>,
    /// A text, or an object with the text as `content`.
    pub pad_token: Option<serde_json::Value>,
}

impl Config {
    /// Reads the file in a model's folder; nothing is set where there is none.
    pub(super) fn read(folder: &Path) -> Result<Self, Error> {
        let path = folder.join("tokenizer_config.json");
        if !path.is_file() {
            return Ok(Self::default());
        }
        serde_json::from_str(&read_text(&path)?).map_err(|error| {
            Error::format(&path, "file", "settings of a tokenizer", error.to_string())
        })
    }
}

/// What the crate's error says, as ours.
pub(super) fn fault(path: &Path, error: &tokenizers::Error) -> Error {
    Error::format(path, "file", "a tokenizer", error.to_string())
}

/// Other people's code on other people's files: a panic is an error.
pub(super) fn guarded<T>(path: &Path, run: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
    let result = catch_unwind(AssertUnwindSafe(run));
    result.unwrap_or_else(|_| Err(Error::format(path, "file", "a tokenizer", "a damaged one")))
}

/// Reads a `tokenizer.json`, and how it would pad.
pub(super) fn json(path: &Path) -> Result<(Tokenizer, Option<PaddingParams>), Error> {
    let bytes = std::fs::read(path).map_err(Error::io(path, "read"))?;
    guarded(path, || {
        let mut tokenizer = Tokenizer::from_bytes(&bytes).map_err(|error| fault(path, &error))?;
        // Length is asked for with every text, and batches are not padded here.
        let padding = tokenizer.get_padding().cloned();
        tokenizer.with_padding(None);
        let cut = tokenizer.with_truncation(None);
        cut.map_err(|error| fault(path, &error))?;
        Ok((tokenizer, padding))
    })
}

/// BERT's word pieces: one token a line.
pub(super) fn word_pieces(path: &Path, config: &Config) -> Result<Tokenizer, Error> {
    let text = read_text(path)?;
    let vocabulary = guarded(path, || {
        WordPiece::read_bytes(text.as_bytes()).map_err(|error| fault(path, &error))
    })?;
    let id = |name: &str| {
        let place = vocabulary.get(name).copied();
        place.ok_or_else(|| {
            let expected = "BERT's [CLS], [SEP] and [UNK]";
            Error::format(path, "tokens", expected, format!("no {name}"))
        })
    };
    let (cls, sep) = (id("[CLS]")?, id("[SEP]")?);
    id("[UNK]")?;
    let specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"];
    let specials = specials
        .into_iter()
        .filter(|&token| vocabulary.contains_key(token));
    let specials: Vec<_> = specials
        .map(|token| AddedToken::from(token, true))
        .collect();
    guarded(path, || {
        let wrong = |error: tokenizers::Error| fault(path, &error);
        let model = WordPiece::builder()
            .vocab(vocabulary)
            .unk_token("[UNK]".to_owned())
            .build()
            .map_err(wrong)?;
        let mut tokenizer = Tokenizer::new(model);
        let normaliser = BertNormalizer::new(
            true,
            config.tokenize_chinese_chars.unwrap_or(true),
            config.strip_accents,
            config.do_lower_case.unwrap_or(true),
        );
        tokenizer.with_normalizer(Some(normaliser)).map_err(wrong)?;
        tokenizer.with_pre_tokenizer(Some(BertPreTokenizer));
        tokenizer.with_post_processor(Some(template(path, cls, sep)?));
        tokenizer.add_special_tokens(specials).map_err(wrong)?;
        Ok(tokenizer)
    })
}

/// `[CLS] A [SEP]` and `[CLS] A [SEP] B [SEP]`, the second text and its end of type 1.
pub(super) fn template(path: &Path, cls: u32, sep: u32) -> Result<PostProcessorWrapper, Error> {
    let wrong = |found: String| Error::format(path, "special tokens", "[CLS] and [SEP]", found);
    let single = "[CLS]:0 $A:0 [SEP]:0".to_owned();
    let pair = "[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1".to_owned();
    let processing = TemplateProcessing::builder()
        .try_single(single)
        .map_err(wrong)?
        .try_pair(pair)
        .map_err(wrong)?
        .special_tokens(vec![("[CLS]", cls), ("[SEP]", sep)])
        .build()
        .map_err(|error| wrong(error.to_string()))?;
    Ok(processing.into())
}

/// Byte-level pairs: GPT-2's, or RoBERTa's where the vocabulary has its special tokens.
pub(super) fn byte_pairs(
    vocabulary: &Path,
    merges: &Path,
    config: &Config,
) -> Result<Tokenizer, Error> {
    let (vocabulary_name, merges_name) = (path_text(vocabulary)?, path_text(merges)?);
    if !merges.is_file() {
        return Err(Error::format(
            merges,
            "file",
            "the merges of vocab.json",
            "none",
        ));
    }
    guarded(vocabulary, || {
        let wrong = |error: tokenizers::Error| fault(vocabulary, &error);
        let model = BPE::from_file(vocabulary_name, merges_name)
            .build()
            .map_err(wrong)?;
        let mut tokenizer = Tokenizer::new(model);
        let space = config.add_prefix_space.unwrap_or(false);
        tokenizer.with_pre_tokenizer(Some(ByteLevel::default().add_prefix_space(space)));
        let id = |name: &str| tokenizer.token_to_id(name);
        if id("[CLS]").is_some() {
            // Without a description it is not known how its models were given pairs of texts.
            let expected = "the special tokens of GPT-2 or RoBERTa, or a tokenizer.json";
            return Err(Error::format(vocabulary, "tokens", expected, "[CLS]"));
        }
        let special = match (id("<s>"), id("</s>")) {
            (Some(cls), Some(sep)) => {
                let ends = (("</s>".to_owned(), sep), ("<s>".to_owned(), cls));
                let processing = RobertaProcessing::new(ends.0, ends.1);
                let processing = processing.trim_offsets(true).add_prefix_space(space);
                tokenizer.with_post_processor(Some(processing));
                vec!["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
            }
            _ => vec!["<|endoftext|>"],
        };
        let special = special
            .into_iter()
            .filter(|name| tokenizer.token_to_id(name).is_some());
        let special: Vec<_> = special
            .map(|name| AddedToken::from(name, true).lstrip(name == "<mask>"))
            .collect();
        tokenizer.add_special_tokens(special).map_err(wrong)?;
        Ok(tokenizer)
    })
}

/// The crate takes its files' names as texts.
fn path_text(path: &Path) -> Result<&str, Error> {
    path.to_str()
        .ok_or_else(|| Error::format(path, "file name", "UTF-8", "other bytes"))
}
