//! DeBERTa's `spm.model`: normalise, segment, bytes for what is unknown.
//!
//! Ids are the places of the pieces in the file; added tokens, `[MASK]` among them, come after the
//! last. An added token that is spelled out in a text is one, with the spaces beside it that its flags
//! say, and what is between is tokenised by itself, as the reference's tokenizers do. All the rest is SentencePiece's, to the id. (transformers 5 builds its DeBERTa
//! tokenizer without the model's charsmap and bytes: there, full-width letters, ligatures or emoji
//! become `[UNK]`, which the model never saw for them.)

use std::cmp::Reverse;
use std::path::Path;

use tokenizers::AddedToken;

use super::charsmap::Normaliser;
use super::proto::{Kind, Model};
use super::settings::{Added, Settings};
use super::unigram::Unigram;
use crate::Error;

/// A token: its id, and the characters of the text that it stands for.
pub(super) type Token = (u32, (usize, usize));

/// A tokenizer of a SentencePiece unigram model with DeBERTa's special tokens.
pub(super) struct Spm {
    normaliser: Normaliser,
    unigram: Unigram,
    /// The ids of the 256 byte pieces.
    bytes: Option<Vec<u32>>,
    unknown: u32,
    added: Vec<(AddedToken, u32)>,
    vocabulary: usize,
}

/// The special tokens that a model must have as pieces, by their keys.
const SPECIAL: [(&str, &str); 4] = [
    ("cls_token", "[CLS]"),
    ("sep_token", "[SEP]"),
    ("pad_token", "[PAD]"),
    ("unk_token", "[UNK]"),
];

impl Spm {
    /// # Errors
    /// [`Error::Io`]; [`Error::Format`] for a file that is no such model, and for settings that this
    /// reader does not obey.
    pub(super) fn read(path: &Path, settings: &Settings) -> Result<Self, Error> {
        let wrong = |key: &str, expected: String, found: String| {
            Err(Error::format(
                &settings.path,
                format!("key {key}"),
                expected,
                found,
            ))
        };
        for (key, usual) in [
            ("do_lower_case", false),
            ("split_by_punct", false),
            ("split_special_tokens", false),
            ("add_prefix_space", true),
        ] {
            if let Some(found) = settings.flag(key)?.filter(|found| *found != usual) {
                return wrong(key, usual.to_string(), found.to_string());
            }
        }
        for (key, usual) in SPECIAL {
            if let Some(found) = settings.special(key)?.filter(|found| found != usual) {
                return wrong(key, format!("{usual:?}, DeBERTa's"), format!("{found:?}"));
            }
        }
        let bytes = std::fs::read(path).map_err(Error::io(path, "read"))?;
        Self::parse(path, &bytes, &settings.added(|_| false)?)
    }

    fn parse(path: &Path, bytes: &[u8], listed: &[Added]) -> Result<Self, Error> {
        let wrong =
            |what: &str, expected: &str, found: String| Error::format(path, what, expected, found);
        let model = Model::parse(bytes).map_err(|fault| {
            let what = format!("byte {}", fault.at);
            Error::format(path, what, fault.what, "something else")
        })?;
        if model.model_type != 1 || model.has_space_at_end {
            let found = match model.model_type {
                1 => "spaces at the end of pieces".to_owned(),
                other => format!("model type {other}"),
            };
            return Err(wrong("model", "a unigram model", found));
        }
        let place = |text: &str| model.pieces.iter().position(|piece| piece.text == text);
        if let Some((_, name)) = SPECIAL.iter().find(|(_, name)| place(name).is_none()) {
            let expected = "DeBERTa's pieces [CLS], [SEP], [PAD] and [UNK]";
            return Err(wrong("pieces", expected, format!("no {name}")));
        }
        let mut vocabulary = model.pieces.len();
        let mut added: Vec<(AddedToken, u32)> = Vec::new();
        for one in listed {
            let content = &one.token.content;
            if content.is_empty() || added.iter().any(|(other, _)| other.content == *content) {
                continue;
            }
            let is_plain = content.bytes().all(|byte| byte.is_ascii_graphic());
            if one.token.single_word || one.token.normalized && !is_plain {
                let file = one.stated.as_ref().map_or(path, |(_, file)| file.as_path());
                let expected = "one that is neither single_word nor, outside of ASCII, normalized";
                let what = format!("added token {content:?}");
                return Err(Error::format(file, what, expected, "another"));
            }
            let id = place(content).unwrap_or_else(|| {
                vocabulary += 1;
                vocabulary - 1
            });
            one.check(id as u32)?;
            added.push((one.token.clone(), id as u32));
        }
        let mut byte_pieces = Vec::new();
        if model.has_byte_fallback {
            for byte in 0..=u8::MAX {
                let name = format!("<0x{byte:02X}>");
                match place(&name).filter(|&place| model.pieces[place].kind == Kind::Byte) {
                    Some(place) => byte_pieces.push(place as u32),
                    None => {
                        return Err(wrong("pieces", "one for every byte", format!("no {name}")));
                    }
                }
            }
        }
        let normaliser = Normaliser::new(&model)
            .map_err(|found| wrong("precompiled_charsmap", "an array and texts", found))?;
        let unigram = Unigram::new(&model)
            .map_err(|piece| wrong("pieces", "each once", format!("{piece:?} again")))?;
        Ok(Self {
            normaliser,
            unigram,
            bytes: model.has_byte_fallback.then_some(byte_pieces),
            unknown: place("[UNK]").unwrap_or_default() as u32,
            added,
            vocabulary,
        })
    }

    pub(super) fn vocabulary(&self) -> usize {
        self.vocabulary
    }

    /// The id of an added token, such as `[CLS]`.
    pub(super) fn id(&self, name: &str) -> Option<u32> {
        let added = self.added.iter().find(|(token, _)| token.content == name);
        added.map(|(_, id)| *id)
    }

    /// The added token with this id.
    pub(super) fn name(&self, id: u32) -> Option<&str> {
        let added = self.added.iter().find(|(_, other)| *other == id);
        added.map(|(token, _)| token.content.as_str())
    }

    pub(super) fn tokens(&self, text: &str) -> Vec<Token> {
        let mut tokens = Vec::new();
        self.split(text, 0, false, &mut tokens);
        tokens
    }

    /// The tokens of a text that begins at a character of the whole: the added ones, the leftmost
    /// first and of several the longest, and what is between them. Those that are looked for in the
    /// normalised text come after those that are not.
    fn split(&self, text: &str, mut at: usize, is_normalized: bool, tokens: &mut Vec<Token>) {
        let mut rest = text;
        while !rest.is_empty() {
            let of_kind = |(token, _): &&(AddedToken, u32)| token.normalized == is_normalized;
            let starts = self.added.iter().filter(of_kind).filter_map(|(token, id)| {
                let start = rest.find(&token.content)?;
                Some((start, token, *id))
            });
            let found =
                starts.min_by_key(|(start, token, _)| (*start, Reverse(token.content.len())));
            let (start, end) = match found {
                None => (rest.len(), rest.len()),
                Some((start, token, _)) => {
                    let end = start + token.content.len();
                    let spaces = rest[end..].len() - rest[end..].trim_start().len();
                    let before = rest[..start].trim_end().len();
                    (
                        if token.lstrip { before } else { start },
                        if token.rstrip { end + spaces } else { end },
                    )
                }
            };
            match is_normalized {
                true => {
                    self.plain(&rest[..start], at, tokens);
                    if found.is_some() {
                        self.space_before(&rest[..start], at, tokens);
                    }
                }
                false => self.split(&rest[..start], at, true, tokens),
            }
            at += rest[..start].chars().count();
            if let Some((_, _, id)) = found {
                let length = rest[start..end].chars().count();
                tokens.push((id, (at, at + length)));
                at += length;
            }
            rest = &rest[end..];
        }
    }

    /// The space at the end of what stands before a token of the normalised text, which is no end of
    /// a text: the reference strips the whole of it, not the parts.
    fn space_before(&self, text: &str, at: usize, tokens: &mut Vec<Token>) {
        let kept = text.trim_end();
        if kept.len() < text.len() {
            let span = (at + kept.chars().count(), at + text.chars().count());
            let space = self.unigram.segment("▁").into_iter();
            tokens.extend(space.map(|part| (part.piece.unwrap_or(self.unknown), span)));
        }
    }

    /// The tokens of a text without special ones, which begins at a character of the whole.
    fn plain(&self, text: &str, at: usize, tokens: &mut Vec<Token>) {
        let normalised = self.normaliser.normalise(text);
        let mut was_unknown = false;
        for part in self.unigram.segment(&normalised.text) {
            let (start, end) = (
                normalised.spans[part.start].0,
                normalised.spans[part.end - 1].1,
            );
            let span = (at + start, at + end);
            match (part.piece, &self.bytes) {
                (Some(piece), _) => tokens.push((piece, span)),
                (None, Some(bytes)) => {
                    let unknown = normalised.text[part.start..part.end].bytes();
                    tokens.extend(unknown.map(|byte| (bytes[usize::from(byte)], span)));
                }
                // Unknown characters in a row are one token.
                (None, None) => match tokens.last_mut() {
                    Some(last) if was_unknown => last.1.1 = span.1,
                    _ => tokens.push((self.unknown, span)),
                },
            }
            was_unknown = part.piece.is_none();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::proto::tests::write;
    use super::*;

    const PIECES: [(&str, f32, u8); 8] = [
        ("[PAD]", 0.0, 3),
        ("[CLS]", 0.0, 3),
        ("[SEP]", 0.0, 3),
        ("[UNK]", 0.0, 2),
        ("▁", -3.0, 1),
        ("▁to", -2.0, 1),
        ("to", -2.5, 1),
        ("o", -4.0, 1),
    ];

    fn parse(pieces: &[(&str, f32, u8)], byte_fallback: bool) -> Result<Spm, Error> {
        parse_with(
            pieces,
            byte_fallback,
            &["[MASK]"].map(|name| AddedToken::from(name, true)),
        )
    }

    fn parse_with(
        pieces: &[(&str, f32, u8)],
        byte_fallback: bool,
        more: &[AddedToken],
    ) -> Result<Spm, Error> {
        let special = SPECIAL.map(|(_, name)| AddedToken::from(name, true));
        let added = special.iter().chain(more).map(|token| Added {
            token: token.clone(),
            stated: None,
        });
        let file = write(pieces, b"", byte_fallback);
        Spm::parse(Path::new("spm.model"), &file, &added.collect::<Vec<_>>())
    }

    #[test]
    fn added_tokens_take_the_spaces_that_their_flags_say() {
        let token = |name: &str| AddedToken::from(name, true);
        let more = [
            token("<a>").lstrip(true),
            token("<a>b").rstrip(true),
            token("to<").normalized(true),
        ];
        let spm = parse_with(&PIECES, false, &more).unwrap();
        assert_eq!((spm.vocabulary(), spm.name(9)), (11, Some("<a>b")));
        // The longest at the leftmost place; what is normalised comes after what is not.
        assert_eq!(
            spm.tokens("to  <a>to <a>b  to<a>to<"),
            [
                (5, (0, 2)),
                (8, (2, 7)),
                (5, (7, 9)),
                (9, (10, 16)),
                (5, (16, 18)),
                (8, (18, 21)),
                (10, (21, 24)),
            ]
        );
        let fault = |token| {
            parse_with(&PIECES, false, &[token])
                .err()
                .unwrap()
                .to_string()
        };
        let refused = fault(token("<a>").single_word(true));
        assert!(
            refused.contains("added token \"<a>\": expected one that"),
            "{refused}"
        );
        assert!(fault(token("<é>").normalized(true)).contains("added token"));
    }

    #[test]
    fn spans_specials_and_unknown_ones() {
        let spm = parse(&PIECES, false).unwrap();
        assert_eq!(
            spm.tokens("  to  éxo[MASK]to"),
            [
                (5, (1, 4)),
                (4, (5, 6)),
                (3, (6, 8)),
                (7, (8, 9)),
                (8, (9, 15)),
                (5, (15, 17)),
            ]
        );
        assert_eq!((spm.vocabulary(), spm.id("[MASK]")), (9, Some(8)));
        assert!(spm.tokens("").is_empty() && spm.tokens(" ").is_empty());
    }

    #[test]
    fn bytes_stand_for_what_is_unknown() {
        let names: Vec<String> = (0..256).map(|byte| format!("<0x{byte:02X}>")).collect();
        let mut pieces = PIECES.to_vec();
        pieces.extend(names.iter().map(|name| (name.as_str(), 0.0, 6)));
        let spm = parse(&pieces, true).unwrap();
        assert_eq!(
            spm.tokens("oé"),
            [
                (4, (0, 0)),
                (7, (0, 1)),
                (8 + 0xC3, (1, 2)),
                (8 + 0xA9, (1, 2))
            ]
        );
        // The name of a byte in a text is no byte.
        assert_eq!(spm.tokens("<0x41>")[1].0, 8 + u32::from(b'<'));
    }

    #[test]
    fn what_is_no_such_model_is_said() {
        let fault = |pieces: &[_], bytes| parse(pieces, bytes).err().unwrap().to_string();
        assert!(fault(&PIECES[1..], false).contains("found no [PAD]"));
        assert!(fault(&PIECES, true).contains("expected one for every byte, found no <0x00>"));
        let cut = Spm::parse(Path::new("spm.model"), b"\x0A\x05", &[]);
        assert!(
            cut.err()
                .unwrap()
                .to_string()
                .starts_with("spm.model: byte 2: expected as many")
        );
        let map = write(&PIECES, b"\xFF\xFF\xFF\xFF", false);
        let fault = Spm::parse(Path::new("spm.model"), &map, &[])
            .err()
            .unwrap()
            .to_string();
        assert!(
            fault.contains("precompiled_charsmap: expected an array and texts"),
            "{fault}"
        );
    }
}
