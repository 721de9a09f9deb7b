//! From a text to the ids that a model reads.
//!
//! Word pieces, byte-level pairs and whatever a `tokenizer.json` describes run in the `tokenizers`
//! crate; DeBERTa's SentencePiece model has a reader of its own.

mod charsmap;
mod plain;
mod proto;
mod settings;
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
use crate::model_files::file;
use plain::guarded;
use settings::{Class, Settings};
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
    truncation: TruncationDirection,
    has_types: bool,
    /// Ids from here on are none of the model's.
    rows: u32,
    notes: Vec<String>,
}

enum Kind {
    Crate(Box<tokenizers::Tokenizer>),
    Spm(Box<Spm>),
}

impl Tokenizer {
    /// Reads the tokenizer in a model's folder: `tokenizer.json`, else the vocabulary of the class
    /// that `tokenizer_config.json` or `config.json` names: `spm.model` or `spiece.model` (DeBERTa v2
    /// and v3), `vocab.json` with `merges.txt` (GPT-2, RoBERTa), `vocab.txt` (BERT); without a class
    /// the first of these that is there. Added tokens and settings are those of `added_tokens.json`,
    /// `special_tokens_map.json` and `tokenizer_config.json`, taken as transformers 5.23 takes them.
    ///
    /// # Errors
    /// [`Error::Io`] if a file cannot be read; [`Error::Format`] if there is none of these, or it is
    /// damaged or of another kind, or says what cannot be obeyed.
    pub fn load(folder: &Path) -> Result<Self, Error> {
        let path = file(folder, "tokenizer.json");
        let value = path.as_deref().map(plain::parse).transpose()?;
        let added = value.as_ref().and_then(|value| value.get("added_tokens"));
        let mut settings = Settings::read(folder, added)?;
        let (mut side, mut pad, mut truncation) = (None, None, None);
        let mut notes = Vec::new();
        let (path, kind, processor) = if let Some((path, value)) = path.zip(value) {
            let described = plain::described(&path, value, &settings)?;
            if let Some(padding) = described.padding {
                pad = Some(padding.pad_id);
                side = Some(matches!(padding.direction, PaddingDirection::Left));
            }
            truncation = described.truncation;
            notes = described.notes;
            let (kind, processor) = apart(described.tokenizer);
            (path, kind, processor)
        } else {
            let (path, class) = vocabulary(folder, &settings)?;
            settings.class = Some(class);
            if settings.class == Some(Class::DebertaV2) {
                let spm = Spm::read(&path, &settings)?;
                let special = |name: &str| (name.to_owned(), spm.id(name).unwrap_or_default());
                let processor = plain::template(&path, special("[CLS]"), special("[SEP]"))?;
                (path, Kind::Spm(Box::new(spm)), Some(processor))
            } else {
                let tokenizer = match settings.class {
                    Some(Class::Bert) => plain::word_pieces(&path, &settings)?,
                    _ => plain::byte_pairs(&path, &folder.join("merges.txt"), &settings)?,
                };
                let (kind, processor) = apart(tokenizer);
                (path, kind, processor)
            }
        };
        let usual = !matches!(
            settings.class,
            Some(Class::Gpt2 | Class::Roberta | Class::Written)
        );
        let has_types = settings.gives_types()?.unwrap_or(usual);
        let mut tokenizer = Self {
            has_types: has_types && processor.is_some(),
            kind,
            processor,
            path,
            pad: None,
            side: Side::Right,
            truncation: settings.truncation(truncation)?,
            rows: u32::MAX,
            notes,
        };
        let usual = ["[PAD]", "<pad>"].into_iter();
        let named = settings.special("pad_token")?;
        let pad = named.and_then(|name| tokenizer.token_id(&name)).or(pad);
        tokenizer.pad = pad.or_else(|| usual.filter_map(|name| tokenizer.token_id(name)).next());
        tokenizer.side = match settings.is_left("padding_side")?.or(side) {
            Some(true) => Side::Left,
            Some(false) | None => Side::Right,
        };
        Ok(tokenizer)
    }

    /// For a model whose embedding has so many rows: a text with an id beyond them is an error, which
    /// names the token.
    #[must_use]
    pub fn with_rows(mut self, rows: usize) -> Self {
        self.rows = u32::try_from(rows).unwrap_or(u32::MAX);
        self
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
        self.check_rows(&encoding)?;
        Ok(Encoding::of(&encoding, self.has_types))
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
        let windows = std::iter::once(&encoding).chain(&others);
        windows
            .map(|one| {
                self.check_rows(one)?;
                Ok(Encoding::of(one, self.has_types))
            })
            .collect()
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
                direction: self.truncation,
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

    /// Checks that the model has a row for every token.
    fn check_rows(&self, encoding: &tokenizers::Encoding) -> Result<(), Error> {
        let ids = encoding.get_ids().iter();
        let Some(id) = ids.copied().find(|id| *id >= self.rows) else {
            return Ok(());
        };
        let token = match &self.kind {
            Kind::Crate(tokenizer) => tokenizer.id_to_token(id).unwrap_or_default(),
            Kind::Spm(spm) => spm.name(id).unwrap_or_default().to_owned(),
        };
        let expected = format!(
            "an id below {}, the rows of the model's embedding",
            self.rows
        );
        let what = format!("token {token:?}");
        Err(Error::format(&self.path, what, expected, id.to_string()))
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

    /// What a reader of the results should know: where the model's class does not do what its
    /// `tokenizer.json` says.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The file that it was read from.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// The file that the class reads, and the class where only the file says it.
fn vocabulary(folder: &Path, settings: &Settings) -> Result<(PathBuf, Class), Error> {
    let file = |name| file(folder, name);
    let spm = || file("spm.model").or_else(|| file("spiece.model"));
    let (found, expected) = match &settings.class {
        Some(class @ Class::Bert) => (
            file("vocab.txt").map(|path| (path, class.clone())),
            "tokenizer.json or vocab.txt",
        ),
        Some(class @ (Class::Gpt2 | Class::Roberta)) => (
            file("vocab.json").map(|path| (path, class.clone())),
            "tokenizer.json, or vocab.json and merges.txt",
        ),
        Some(class @ Class::DebertaV2) => (
            spm().map(|path| (path, class.clone())),
            "tokenizer.json, spm.model or spiece.model",
        ),
        Some(Class::Written) => (None, "tokenizer.json"),
        Some(Class::Other(name)) => {
            let expected = "BertTokenizer, GPT2Tokenizer, RobertaTokenizer or DebertaV2Tokenizer, \
                            or a tokenizer.json beside it";
            let what = "key tokenizer_class";
            return Err(Error::format(
                &settings.path,
                what,
                expected,
                format!("{name:?}"),
            ));
        }
        None => (
            spm()
                .map(|path| (path, Class::DebertaV2))
                .or(file("vocab.json").map(pairs).transpose()?)
                .or_else(|| Some((file("vocab.txt")?, Class::Bert))),
            "tokenizer.json, spm.model, vocab.json and merges.txt, or vocab.txt",
        ),
    };
    found.ok_or_else(|| {
        let other = file("sentencepiece.bpe.model").map(|_| "only sentencepiece.bpe.model");
        Error::format(folder, "tokenizer", expected, other.unwrap_or("none"))
    })
}

/// RoBERTa's class for a vocabulary of pairs that has its special tokens, else GPT-2's.
fn pairs(path: PathBuf) -> Result<(PathBuf, Class), Error> {
    let value = plain::parse(&path)?;
    let has = |token: &str| value.get(token).is_some();
    let class = match has("<s>") && has("</s>") {
        true => Class::Roberta,
        false => Class::Gpt2,
    };
    Ok((path, class))
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
