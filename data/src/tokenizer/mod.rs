//! From a text to the ids that a model reads.
//!
//! Word pieces, byte-level pairs and whatever a `tokenizer.json` describes run in the `tokenizers`
//! crate; DeBERTa's SentencePiece model has a reader of its own.

mod charsmap;
mod plain;
mod proto;
mod spm;
mod unigram;

use std::fmt;
use std::path::{Path, PathBuf};

use tokenizers::utils::padding::PaddingDirection;
use tokenizers::utils::truncation::truncate_encodings;
use tokenizers::{
    PostProcessor, PostProcessorWrapper, Token, TruncationDirection, TruncationParams,
    TruncationStrategy,
};

use crate::Error;
use plain::{Config, guarded};
use spm::Spm;

/// The tokens of one text or a pair, special ones included.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Encoding {
    /// What the model reads.
    pub ids: Vec<u32>,
    /// 0 for the first text, 1 for the second, where the model makes the difference.
    pub types: Vec<u32>,
    /// The characters of its text that each token stands for: the first, and one after the last;
    /// (0, 0) for special tokens.
    pub offsets: Vec<(usize, usize)>,
    /// Which text each token belongs to, 0 or 1; special tokens to none.
    pub sequence: Vec<Option<u8>>,
}

impl Encoding {
    /// The number of tokens.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether there are no tokens.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    fn of(encoding: &tokenizers::Encoding, has_types: bool) -> Self {
        let sequence = encoding.get_sequence_ids();
        let sequence = sequence.into_iter().zip(encoding.get_special_tokens_mask());
        // Special tokens are in no text, also where the processor counts them to one.
        let sequence = sequence.map(|(text, &special)| match special {
            0 => text.map(|text| text as u8),
            _ => None,
        });
        Self {
            ids: encoding.get_ids().to_vec(),
            types: match has_types {
                true => encoding.get_type_ids().to_vec(),
                false => vec![0; encoding.len()],
            },
            offsets: encoding.get_offsets().to_vec(),
            sequence: sequence.collect(),
        }
    }
}

/// On which side of its tokens a short text is padded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Before them.
    Left,
    /// After them.
    Right,
}

/// A model's tokenizer. It can be shared between threads.
pub struct Tokenizer {
    kind: Kind,
    processor: Option<PostProcessorWrapper>,
    path: PathBuf,
    pad: Option<u32>,
    side: Side,
}

enum Kind {
    Crate(Box<tokenizers::Tokenizer>),
    Spm(Box<Spm>),
}

impl Tokenizer {
    /// Reads the tokenizer in a model's folder: `tokenizer.json`, else `spm.model` or `spiece.model`
    /// (DeBERTa v2 and v3), else `vocab.json` with `merges.txt` (GPT-2, RoBERTa), else `vocab.txt`
    /// (BERT), with the settings of `tokenizer_config.json` if it is there.
    ///
    /// # Errors
    /// [`Error::Io`] if a file cannot be read; [`Error::Format`] if there is none of these, or it is
    /// damaged or of another kind.
    pub fn load(folder: &Path) -> Result<Self, Error> {
        let config = Config::read(folder)?;
        let file = |name: &str| Some(folder.join(name)).filter(|path| path.is_file());
        let mut side = None;
        let mut pad = None;
        let (path, kind, processor) = if let Some(path) = file("tokenizer.json") {
            let (tokenizer, padding) = plain::json(&path)?;
            if let Some(padding) = padding {
                pad = Some(padding.pad_id);
                side = Some(match padding.direction {
                    PaddingDirection::Left => Side::Left,
                    PaddingDirection::Right => Side::Right,
                });
            }
            let (tokenizer, processor) = apart(tokenizer);
            (path, tokenizer, processor)
        } else if let Some(path) = file("spm.model").or_else(|| file("spiece.model")) {
            for (key, value) in [
                ("do_lower_case", config.do_lower_case),
                ("split_by_punct", config.split_by_punct),
            ] {
                if value == Some(true) {
                    let path = folder.join("tokenizer_config.json");
                    return Err(Error::format(&path, format!("key {key}"), "false", "true"));
                }
            }
            let spm = Spm::read(&path)?;
            let id = |name| spm.id(name).unwrap_or_default();
            let processor = plain::template(&path, id("[CLS]"), id("[SEP]"))?;
            (path, Kind::Spm(Box::new(spm)), Some(processor))
        } else if let Some(path) = file("vocab.json") {
            let tokenizer = plain::byte_pairs(&path, &folder.join("merges.txt"), &config)?;
            let (tokenizer, processor) = apart(tokenizer);
            (path, tokenizer, processor)
        } else if let Some(path) = file("vocab.txt") {
            let (tokenizer, processor) = apart(plain::word_pieces(&path, &config)?);
            (path, tokenizer, processor)
        } else {
            let expected = "tokenizer.json, spm.model, vocab.json and merges.txt, or vocab.txt";
            return Err(Error::format(folder, "tokenizer", expected, "none"));
        };
        let mut tokenizer = Self {
            kind,
            processor,
            path,
            pad: None,
            side: Side::Right,
        };
        let name = config.pad_token.as_ref().and_then(|token| {
            let content = token.get("content").unwrap_or(token);
            content.as_str()
        });
        let usual = ["[PAD]", "<pad>"].into_iter();
        let named = name.and_then(|name| tokenizer.token_id(name));
        let pad = named.or(pad);
        tokenizer.pad = pad.or_else(|| usual.filter_map(|name| tokenizer.token_id(name)).next());
        tokenizer.side = match config.padding_side.as_deref() {
            Some("left") => Side::Left,
            Some(_) => Side::Right,
            None => side.unwrap_or(Side::Right),
        };
        Ok(tokenizer)
    }

    /// The tokens of one text or a pair, cut to `max_length` with the special ones: the longer of two
    /// texts is cut until both are equally long, then both.
    ///
    /// # Errors
    /// [`Error::Format`] if not even the special tokens fit, or the tokenizer refuses the text.
    pub fn encode(
        &self,
        first: &str,
        second: Option<&str>,
        max_length: usize,
    ) -> Result<Encoding, Error> {
        let strategy = TruncationStrategy::LongestFirst;
        let encoding = self.encode_cut(first, second, max_length, strategy, 0)?;
        Ok(Encoding::of(&encoding, self.processor.is_some()))
    }

    /// A pair whose second text is cut into windows that share `stride` tokens.
    pub(crate) fn encode_windows(
        &self,
        first: &str,
        second: &str,
        max_length: usize,
        stride: usize,
    ) -> Result<Vec<Encoding>, Error> {
        let room = max_length.saturating_sub(self.special_tokens(true));
        let first_length = self.part(first)?.len();
        if first_length.saturating_add(stride) >= room {
            let expected = format!(
                "at most {} tokens beside windows of stride {stride}",
                room.saturating_sub(stride + 1)
            );
            let found = first_length.to_string();
            return Err(Error::format(&self.path, "first text", expected, found));
        }
        let strategy = TruncationStrategy::OnlySecond;
        let mut encoding = self.encode_cut(first, Some(second), max_length, strategy, stride)?;
        let others = encoding.take_overflowing();
        let has_types = self.processor.is_some();
        let windows = std::iter::once(&encoding).chain(&others);
        Ok(windows.map(|one| Encoding::of(one, has_types)).collect())
    }

    fn encode_cut(
        &self,
        first: &str,
        second: Option<&str>,
        max_length: usize,
        strategy: TruncationStrategy,
        stride: usize,
    ) -> Result<tokenizers::Encoding, Error> {
        let special = self.special_tokens(second.is_some());
        if max_length <= special {
            let expected = format!("more than the {special} special tokens");
            return Err(Error::format(
                &self.path,
                "max_length",
                expected,
                max_length.to_string(),
            ));
        }
        let first = self.part(first)?;
        let second = second.map(|text| self.part(text)).transpose()?;
        guarded(&self.path, || {
            let wrong = |error: tokenizers::Error| plain::fault(&self.path, &error);
            let params = TruncationParams {
                direction: TruncationDirection::Right,
                max_length: max_length - special,
                strategy,
                stride,
            };
            let (mut first, second) = truncate_encodings(first, second, &params).map_err(wrong)?;
            match (&self.processor, second) {
                (Some(processor), second) => processor.process(first, second, true).map_err(wrong),
                (None, None) => {
                    first.set_sequence_id(0);
                    Ok(first)
                }
                (None, Some(mut second)) => {
                    // The crate forgets the windows that are not the first.
                    for window in second.get_overflowing_mut() {
                        window.set_sequence_id(1);
                    }
                    let both = vec![first, second];
                    let mut both =
                        <dyn PostProcessor>::default_process(both, true).map_err(wrong)?;
                    Ok(both.pop().unwrap_or_default())
                }
            }
        })
    }

    /// The tokens of one text, without special ones.
    fn part(&self, text: &str) -> Result<tokenizers::Encoding, Error> {
        match &self.kind {
            Kind::Crate(tokenizer) => guarded(&self.path, || {
                let encoding = tokenizer.encode_char_offsets(text, false);
                encoding.map_err(|error| plain::fault(&self.path, &error))
            }),
            Kind::Spm(spm) => {
                let tokens = spm.tokens(text).into_iter();
                let tokens = tokens.map(|(id, offsets)| Token::new(id, String::new(), offsets));
                Ok(tokenizers::Encoding::from_tokens(tokens.collect(), 0))
            }
        }
    }

    /// How many special tokens come with one text or a pair.
    pub fn special_tokens(&self, is_pair: bool) -> usize {
        let processor = self.processor.as_ref();
        processor.map_or(0, |processor| processor.added_tokens(is_pair))
    }

    /// The id of a token by its text.
    pub fn token_id(&self, token: &str) -> Option<u32> {
        match &self.kind {
            Kind::Crate(tokenizer) => tokenizer.token_to_id(token),
            Kind::Spm(spm) => spm.id(token),
        }
    }

    /// The number of tokens; a model's vocabulary may be larger.
    pub fn vocab_size(&self) -> usize {
        match &self.kind {
            Kind::Crate(tokenizer) => tokenizer.get_vocab_size(true),
            Kind::Spm(spm) => spm.vocabulary(),
        }
    }

    /// What short texts are padded with. GPT-2 has none.
    pub fn pad_id(&self) -> Option<u32> {
        self.pad
    }

    /// On which side they are padded.
    pub fn padding_side(&self) -> Side {
        self.side
    }

    /// The file that it was read from.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Says the file and the size, not every token.
impl fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Tokenizer({}, {} tokens)",
            self.path.display(),
            self.vocab_size()
        )
    }
}

/// The processor is applied after cutting, so it is taken out of the tokenizer, which would apply it
/// before.
fn apart(mut tokenizer: tokenizers::Tokenizer) -> (Kind, Option<PostProcessorWrapper>) {
    let processor = tokenizer.get_post_processor().cloned();
    tokenizer.with_post_processor(None::<PostProcessorWrapper>);
    (Kind::Crate(Box::new(tokenizer)), processor)
}
