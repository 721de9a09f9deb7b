//! DeBERTa's `spm.model`: normalise, segment, bytes for what is unknown.
//!
//! Ids are the places of the pieces in the file; `[MASK]` comes after the last. A special token that
//! is spelled out in a text is one, and what is between is tokenised by itself, as the reference's
//! tokenizers do. All the rest is SentencePiece's, to the id. (transformers 5 builds its DeBERTa
//! tokenizer without the model's charsmap and bytes: there, full-width letters, ligatures or emoji
//! become `[UNK]`, which the model never saw for them.)

use std::path::Path;

use super::charsmap::Normaliser;
use super::proto::{Kind, Model};
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
    /// `[CLS]`, `[SEP]`, `[PAD]`, `[UNK]`, `[MASK]`.
    special: [(&'static str, u32); 5],
    vocabulary: usize,
}

impl Spm {
    pub(super) fn read(path: &Path) -> Result<Self, Error> {
        let bytes = std::fs::read(path).map_err(Error::io(path, "read"))?;
        Self::parse(path, &bytes)
    }

    pub(super) fn parse(path: &Path, bytes: &[u8]) -> Result<Self, Error> {
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
        let last = model.pieces.len() as u32;
        let mut special = ["[CLS]", "[SEP]", "[PAD]", "[UNK]", "[MASK]"].map(|name| (name, last));
        let mut vocabulary = model.pieces.len();
        for (name, id) in &mut special {
            match place(name) {
                Some(place) => *id = place as u32,
                None if *name == "[MASK]" => vocabulary += 1,
                None => {
                    let expected = "DeBERTa's pieces [CLS], [SEP], [PAD] and [UNK]";
                    return Err(wrong("pieces", expected, format!("no {name}")));
                }
            }
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
            special,
            vocabulary,
        })
    }

    pub(super) fn vocabulary(&self) -> usize {
        self.vocabulary
    }

    /// The id of a special token, such as `[CLS]`.
    pub(super) fn id(&self, name: &str) -> Option<u32> {
        let special = self.special.iter().find(|special| special.0 == name);
        special.map(|special| special.1)
    }

    pub(super) fn tokens(&self, text: &str) -> Vec<Token> {
        let mut tokens = Vec::new();
        let mut rest = text;
        // In characters.
        let mut at = 0;
        while !rest.is_empty() {
            let starts = self.special.iter().filter_map(|(name, id)| {
                let start = rest.find(name)?;
                Some((start, *name, *id))
            });
            let (before, special) = match starts.min() {
                Some((start, name, id)) => (&rest[..start], Some((name, id))),
                None => (rest, None),
            };
            self.plain(before, at, &mut tokens);
            at += before.chars().count();
            rest = &rest[before.len()..];
            if let Some((name, id)) = special {
                tokens.push((id, (at, at + name.len())));
                at += name.len();
                rest = &rest[name.len()..];
            }
        }
        tokens
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
                    _ => tokens.push((self.special[3].1, span)),
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
        Spm::parse(Path::new("spm.model"), &write(pieces, b"", byte_fallback))
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
        let cut = Spm::parse(Path::new("spm.model"), b"\x0A\x05");
        assert!(
            cut.err()
                .unwrap()
                .to_string()
                .starts_with("spm.model: byte 2: expected as many")
        );
        let map = write(&PIECES, b"\xFF\xFF\xFF\xFF", false);
        let fault = Spm::parse(Path::new("spm.model"), &map)
            .err()
            .unwrap()
            .to_string();
        assert!(
            fault.contains("precompiled_charsmap: expected an array and texts"),
            "{fault}"
        );
    }
}
