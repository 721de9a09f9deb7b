//! Windows over long paragraphs, as the reference's question answering makes them.
//!
//! A feature is the question (without spaces at its beginning) and as much of the paragraph as fits;
//! the next one begins `stride` tokens before the last one's end. Where the whole answer is in the
//! window, its start is the last token that begins at or before the answer's first character, its end
//! the first token that ends at or behind its last; else both are token 0, `[CLS]`.
//!
//! Source: `run_qa.py` of transformers (its behaviour; the code is ours).

use serde::{Deserialize, Serialize};

use super::Question;
use crate::{Encoding, Error, Tokenizer};

/// How paragraphs are cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Windowing {
    /// Tokens of a feature, special ones included.
    pub max_length: usize,
    /// Tokens that neighbours share.
    pub stride: usize,
}

impl Default for Windowing {
    fn default() -> Self {
        Self {
            max_length: 384,
            stride: 128,
        }
    }
}

/// A question and a part of its paragraph.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    /// The tokens; offsets of those of sequence 1 are characters of the paragraph.
    pub encoding: Encoding,
    /// The token where the first answer starts, or 0.
    pub start: usize,
    /// The token where it ends, inclusive, or 0.
    pub end: usize,
}

impl Windowing {
    /// The features of a question, in order.
    ///
    /// # Errors
    /// [`Error::Format`] if the question leaves no room for windows.
    pub fn windows(
        &self,
        tokenizer: &Tokenizer,
        question: &Question,
    ) -> Result<Vec<Window>, Error> {
        // Long runs of spaces at the beginning would use up the window; Python's `lstrip`.
        let asked = question.question.trim_start();
        let encodings =
            tokenizer.encode_windows(asked, &question.context, self.max_length, self.stride)?;
        let answer = question
            .answers
            .first()
            .map(|answer| (answer.start, answer.start + answer.text.chars().count()));
        let window = |encoding: Encoding| {
            let (start, end) = answer
                .and_then(|(start, end)| place(&encoding, start, end))
                .unwrap_or((0, 0));
            Window {
                encoding,
                start,
                end,
            }
        };
        Ok(encodings.into_iter().map(window).collect())
    }
}

/// The tokens of an answer that is in the window.
fn place(encoding: &Encoding, start: usize, end: usize) -> Option<(usize, usize)> {
    let is_context = |text: &Option<u8>| *text == Some(1);
    let first = encoding.sequence.iter().position(is_context)?;
    let last = encoding.sequence.iter().rposition(is_context)?;
    let offsets = &encoding.offsets;
    if offsets[first].0 > start || offsets[last].1 < end {
        return None;
    }
    let from = (first..=last)
        .rev()
        .find(|&token| offsets[token].0 <= start)?;
    let to = (first..=last).find(|&token| offsets[token].1 >= end)?;
    Some((from, to))
}

impl Window {
    /// The paragraph's text from one token to another, inclusive; `None` where one of them is no part
    /// of it or they are the wrong way round.
    pub fn text<'a>(&self, context: &'a str, start: usize, end: usize) -> Option<&'a str> {
        let is_context = |token: usize| self.encoding.sequence.get(token) == Some(&Some(1));
        if start > end || !is_context(start) || !is_context(end) {
            return None;
        }
        let (from, to) = (self.encoding.offsets[start].0, self.encoding.offsets[end].1);
        let byte = |character: usize| {
            let places = context.char_indices().map(|(place, _)| place);
            places.chain([context.len()]).nth(character)
        };
        context.get(byte(from)?..byte(to)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(start: usize, end: usize) -> Window {
        // [CLS] q [SEP] "Für" " Élise" " is" [SEP]
        let encoding = Encoding {
            ids: vec![1, 9, 2, 5, 6, 7, 2],
            types: vec![0, 0, 0, 1, 1, 1, 1],
            offsets: vec![(0, 0), (0, 1), (0, 0), (0, 3), (3, 9), (9, 12), (0, 0)],
            sequence: vec![None, Some(0), None, Some(1), Some(1), Some(1), None],
        };
        let (start, end) = place(&encoding, start, end).unwrap_or((0, 0));
        Window {
            encoding,
            start,
            end,
        }
    }

    #[test]
    fn answers_by_hand() {
        let tokens = |start, end| {
            let window = window(start, end);
            (window.start, window.end)
        };
        assert_eq!(tokens(4, 9), (4, 4));
        assert_eq!(tokens(0, 12), (3, 5));
        // Inside of a token.
        assert_eq!(tokens(5, 6), (4, 4));
        // Reaches out of the window.
        assert_eq!(tokens(4, 13), (0, 0));
    }

    #[test]
    fn texts_are_cut_at_characters() {
        let window = window(4, 9);
        let context = "Für Élise is";
        assert_eq!(window.text(context, 4, 5), Some(" Élise is"));
        assert_eq!(window.text(context, 3, 3), Some("Für"));
        for (start, end) in [(0, 3), (4, 3), (3, 6), (3, 99)] {
            assert_eq!(window.text(context, start, end), None);
        }
    }
}
