//! The part of a SentencePiece model file that a tokenizer needs.
//!
//! The file is one protocol buffer message `ModelProto`: a sequence of fields, each a varint
//! (number · 8 + wire type) and a value. Field 1, repeated, is a piece (1: text, 2: score as float32,
//! 3: kind), field 2 the trainer's settings (3: model type, 24: space at the end of words, 35: byte
//! fallback), field 3 the normaliser's (2: charsmap, 3: leading space, 4: extra spaces removed,
//! 5: spaces written as `▁`). Unknown fields are passed over. Source: `sentencepiece_model.proto`.

/// A piece of the vocabulary.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Piece {
    pub text: String,
    pub score: f32,
    pub kind: Kind,
}

/// What a piece is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Normal,
    Unknown,
    Control,
    UserDefined,
    Unused,
    Byte,
}

/// A model file.
#[derive(Debug, Clone)]
pub(super) struct Model {
    pub pieces: Vec<Piece>,
    /// 1 is Unigram.
    pub model_type: u64,
    pub has_space_at_end: bool,
    pub has_byte_fallback: bool,
    pub charsmap: Vec<u8>,
    pub has_leading_space: bool,
    pub removes_extra_spaces: bool,
    pub escapes_spaces: bool,
}

/// What is wrong with a file: where, and what.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub at: usize,
    pub what: &'static str,
}

impl Model {
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, Fault> {
        let mut model = Self {
            pieces: Vec::new(),
            model_type: 1,
            has_space_at_end: false,
            has_byte_fallback: false,
            charsmap: Vec::new(),
            has_leading_space: true,
            removes_extra_spaces: true,
            escapes_spaces: true,
        };
        let mut message = Message {
            bytes,
            at: 0,
            base: 0,
        };
        while let Some(field) = message.next()? {
            match field {
                (1, Value::Bytes(mut piece)) => model.pieces.push(piece.piece()?),
                (2, Value::Bytes(mut settings)) => {
                    while let Some(field) = settings.next()? {
                        match field {
                            (3, Value::Number(kind)) => model.model_type = kind,
                            (24, Value::Number(truth)) => model.has_space_at_end = truth != 0,
                            (35, Value::Number(truth)) => model.has_byte_fallback = truth != 0,
                            _ => {}
                        }
                    }
                }
                (3, Value::Bytes(mut settings)) => {
                    while let Some(field) = settings.next()? {
                        match field {
                            (2, Value::Bytes(map)) => model.charsmap = map.bytes.to_vec(),
                            (3, Value::Number(truth)) => model.has_leading_space = truth != 0,
                            (4, Value::Number(truth)) => model.removes_extra_spaces = truth != 0,
                            (5, Value::Number(truth)) => model.escapes_spaces = truth != 0,
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        Ok(model)
    }
}

/// A message whose fields are still to be read.
struct Message<'a> {
    bytes: &'a [u8],
    at: usize,
    /// Where in the file it begins.
    base: usize,
}

enum Value<'a> {
    Number(u64),
    Float(f32),
    Bytes(Message<'a>),
    /// Eight bytes, of no use here.
    Long,
}

impl<'a> Message<'a> {
    fn fault(&self, what: &'static str) -> Fault {
        Fault {
            at: self.base + self.at,
            what,
        }
    }

    fn next(&mut self) -> Result<Option<(u64, Value<'a>)>, Fault> {
        if self.at == self.bytes.len() {
            return Ok(None);
        }
        let key = self.varint()?;
        let value = match key & 7 {
            0 => Value::Number(self.varint()?),
            1 => {
                self.take(8)?;
                Value::Long
            }
            2 => {
                let length = self.varint()?;
                let length = usize::try_from(length).map_err(|_| self.fault("a length"))?;
                let base = self.base + self.at;
                let bytes = self.take(length)?;
                Value::Bytes(Message { bytes, at: 0, base })
            }
            5 => {
                let mut float = [0; 4];
                float.copy_from_slice(self.take(4)?);
                Value::Float(f32::from_le_bytes(float))
            }
            _ => return Err(self.fault("a wire type of 0, 1, 2 or 5")),
        };
        Ok(Some((key >> 3, value)))
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], Fault> {
        let rest = &self.bytes[self.at..];
        let taken = rest
            .get(..length)
            .ok_or(self.fault("as many bytes as the length says"))?;
        self.at += length;
        Ok(taken)
    }

    fn varint(&mut self) -> Result<u64, Fault> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            value |= u64::from(byte & 0x7F) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(self.fault("a varint of at most 10 bytes"))
    }

    fn piece(&mut self) -> Result<Piece, Fault> {
        let mut piece = Piece {
            text: String::new(),
            score: 0.0,
            kind: Kind::Normal,
        };
        while let Some(field) = self.next()? {
            match field {
                (1, Value::Bytes(text)) => {
                    let read = std::str::from_utf8(text.bytes);
                    piece.text = read.map_err(|_| self.fault("a piece in UTF-8"))?.to_owned();
                }
                (2, Value::Float(score)) if score.is_finite() => piece.score = score,
                (2, _) => return Err(self.fault("a finite score")),
                (3, Value::Number(kind)) => {
                    piece.kind = match kind {
                        1 => Kind::Normal,
                        2 => Kind::Unknown,
                        3 => Kind::Control,
                        4 => Kind::UserDefined,
                        5 => Kind::Unused,
                        6 => Kind::Byte,
                        _ => return Err(self.fault("a kind of piece from 1 to 6")),
                    }
                }
                _ => {}
            }
        }
        match piece.text.is_empty() {
            true => Err(self.fault("a piece with a text")),
            false => Ok(piece),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    fn varint(mut value: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        while value > 0x7F {
            bytes.push(0x80 | (value & 0x7F) as u8);
            value >>= 7;
        }
        bytes.push(value as u8);
        bytes
    }

    fn field(number: usize, bytes: &[u8]) -> Vec<u8> {
        [varint(number << 3 | 2), varint(bytes.len()), bytes.to_vec()].concat()
    }

    /// A model file with these pieces and this charsmap.
    pub(crate) fn write(
        pieces: &[(&str, f32, u8)],
        charsmap: &[u8],
        byte_fallback: bool,
    ) -> Vec<u8> {
        let mut file = Vec::new();
        for (text, score, kind) in pieces {
            let score = [vec![0x15], score.to_le_bytes().to_vec()].concat();
            let piece = [field(1, text.as_bytes()), score, vec![0x18, *kind]].concat();
            file.extend(field(1, &piece));
        }
        let trainer = [
            vec![0x18, 1],
            varint(35 << 3),
            vec![u8::from(byte_fallback)],
        ]
        .concat();
        file.extend(field(2, &trainer));
        file.extend(field(3, &[field(1, b"nmt"), field(2, charsmap)].concat()));
        file
    }

    #[test]
    fn fields_are_found_and_unknown_ones_passed_over() {
        let mut file = write(&[("[UNK]", 0.0, 2), ("▁a", -1.5, 1)], b"map", true);
        file.extend(field(17, b"unknown"));
        file.extend([varint(18 << 3 | 1), vec![0; 8]].concat());
        let model = Model::parse(&file).unwrap();
        assert_eq!(model.pieces[0].kind, Kind::Unknown);
        let last = Piece {
            text: "▁a".to_owned(),
            score: -1.5,
            kind: Kind::Normal,
        };
        assert_eq!(model.pieces[1], last);
        assert_eq!(model.charsmap, b"map");
        assert!(model.has_byte_fallback && model.has_leading_space && model.removes_extra_spaces);
        assert_eq!((model.model_type, model.has_space_at_end), (1, false));
    }

    #[test]
    fn faults_say_where() {
        let file = write(&[("a", 0.0, 1)], b"", false);
        let fault = |bytes: &[u8]| Model::parse(bytes).unwrap_err();
        assert_eq!(fault(&file[..5]).what, "as many bytes as the length says");
        assert_eq!(fault(&[0xFF; 12]).what, "a varint of at most 10 bytes");
        assert_eq!(fault(&[0x0B]).what, "a wire type of 0, 1, 2 or 5");
        let nan = write(&[("a", f32::NAN, 1)], b"", false);
        assert_eq!(fault(&nan).what, "a finite score");
        assert_eq!(
            fault(&write(&[("", 0.0, 1)], b"", false)).what,
            "a piece with a text"
        );
        assert_eq!(
            fault(&write(&[("a", 0.0, 9)], b"", false)).what,
            "a kind of piece from 1 to 6"
        );
        assert_eq!(
            fault(&file[..1]),
            Fault {
                at: 1,
                what: "as many bytes as the length says"
            }
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = Model::parse(&bytes);
        }

        #[test]
        fn a_damaged_file_is_read_or_refused(at in any::<usize>(), to in any::<u8>()) {
            let mut file = write(&[("[UNK]", 0.0, 2), ("▁a", -1.5, 1)], b"map", true);
            let at = at % file.len();
            file[at] = to;
            let _ = Model::parse(&file);
        }
    }
}
