//! The best segmentation of a text into the pieces of a unigram model.
//!
//! Of all ways to write a text as a sequence of pieces, take one of greatest sum of scores
//! (log-probabilities), by dynamic programming over its bytes: best(0) = 0, best(j) = maximum over
//! pieces that end at j. A character that is no piece itself may stand alone as unknown, with the
//! lowest score of all pieces less 10. Scores are added in the order and precision of SentencePiece
//! (float32; of two equal sums the first found counts), so that ties fall as its do.
//!
//! Source: T. Kudo, “Subword Regularization”, 2018; SentencePiece's `unigram_model.cc` (its behaviour;
//! the code is ours).

use std::collections::VecDeque;

use super::proto::{Kind, Model};

/// How much less than the lowest score an unknown character has.
const UNKNOWN_PENALTY: f32 = 10.0;

/// A trie of the pieces, and their scores.
pub(super) struct Unigram {
    nodes: Vec<Node>,
    /// The byte that leads to each node; a node's children are together and in order.
    bytes: Vec<u8>,
    scores: Vec<Score>,
    unknown: f32,
}

#[derive(Clone, Copy, Default)]
struct Node {
    first_child: u32,
    children: u32,
    /// The piece that ends here, plus one.
    piece: u32,
}

#[derive(Clone, Copy)]
enum Score {
    Trained(f32),
    /// A symbol that a user defined: about as good as all of its bytes being the best piece.
    Defined(f64),
}

/// A part of the text: where it ends, and the piece that it is, if any.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Part {
    pub start: usize,
    pub end: usize,
    pub piece: Option<u32>,
}

impl Unigram {
    /// Takes the pieces that can be in a text; `Err` with one that comes twice.
    pub(super) fn new(model: &Model) -> Result<Self, String> {
        let of_text = |kind| matches!(kind, Kind::Normal | Kind::UserDefined);
        let mut pieces: Vec<(&[u8], u32)> = (model.pieces.iter().zip(0..))
            .filter(|(piece, _)| of_text(piece.kind))
            .map(|(piece, id)| (piece.text.as_bytes(), id))
            .collect();
        pieces.sort_unstable();
        if let Some(twice) = pieces.windows(2).find(|two| two[0].0 == two[1].0) {
            return Err(model.pieces[twice[0].1 as usize].text.clone());
        }
        let trained = model
            .pieces
            .iter()
            .filter(|piece| piece.kind == Kind::Normal);
        let trained = trained.map(|piece| piece.score);
        let (lowest, highest) = trained
            .fold((f32::INFINITY, f32::NEG_INFINITY), |(low, high), one| {
                (low.min(one), high.max(one))
            });
        let lowest = if lowest.is_finite() { lowest } else { 0.0 };
        let score = |piece: &super::proto::Piece| match piece.kind {
            Kind::UserDefined => Score::Defined(f64::from(piece.text.len() as f32 * highest) - 0.1),
            _ => Score::Trained(piece.score),
        };
        let mut unigram = Self {
            nodes: vec![Node::default()],
            bytes: vec![0],
            scores: model.pieces.iter().map(score).collect(),
            unknown: lowest - UNKNOWN_PENALTY,
        };
        // Breadth first: a node, the pieces below it, and how many of their bytes lead to it.
        let mut open = VecDeque::from([(0, 0..pieces.len(), 0)]);
        while let Some((node, mut range, depth)) = open.pop_front() {
            if let Some((piece, id)) = pieces.get(range.start)
                && !range.is_empty()
                && piece.len() == depth
            {
                unigram.nodes[node].piece = id + 1;
                range.start += 1;
            }
            unigram.nodes[node].first_child = unigram.nodes.len() as u32;
            while !range.is_empty() {
                let byte = pieces[range.start].0[depth];
                let same = pieces[range.clone()].partition_point(|piece| piece.0[depth] == byte);
                open.push_back((
                    unigram.nodes.len(),
                    range.start..range.start + same,
                    depth + 1,
                ));
                unigram.nodes.push(Node::default());
                unigram.bytes.push(byte);
                unigram.nodes[node].children += 1;
                range.start += same;
            }
        }
        Ok(unigram)
    }

    fn child(&self, node: usize, byte: u8) -> Option<usize> {
        let Node {
            first_child,
            children,
            ..
        } = self.nodes[node];
        let first = first_child as usize;
        let siblings = &self.bytes[first..first + children as usize];
        siblings
            .binary_search(&byte)
            .ok()
            .map(|place| first + place)
    }

    /// The parts of a text in order; unknown ones are single characters.
    pub(super) fn segment(&self, text: &str) -> Vec<Part> {
        #[derive(Clone, Copy)]
        struct Best {
            score: f32,
            /// Where the last part begins.
            start: Option<usize>,
            piece: Option<u32>,
        }
        let none = Best {
            score: 0.0,
            start: None,
            piece: None,
        };
        let bytes = text.as_bytes();
        let mut best = vec![none; bytes.len() + 1];
        for (start, character) in text.char_indices() {
            let before = best[start].score;
            let alone = start + character.len_utf8();
            let mut is_known = false;
            let mut node = 0;
            for end in start + 1..=bytes.len() {
                match self.child(node, bytes[end - 1]) {
                    Some(child) => node = child,
                    None => break,
                }
                let Some(piece) = self.nodes[node].piece.checked_sub(1) else {
                    continue;
                };
                let (sum, is_better) = match self.scores[piece as usize] {
                    Score::Trained(score) => {
                        let sum = score + before;
                        (sum, sum > best[end].score)
                    }
                    Score::Defined(score) => {
                        let sum = score + f64::from(before);
                        (sum as f32, sum > f64::from(best[end].score))
                    }
                };
                if is_better || best[end].start.is_none() {
                    best[end] = Best {
                        score: sum,
                        start: Some(start),
                        piece: Some(piece),
                    };
                }
                is_known |= end == alone;
            }
            if !is_known {
                let sum = self.unknown + before;
                if best[alone].start.is_none() || sum > best[alone].score {
                    best[alone] = Best {
                        score: sum,
                        start: Some(start),
                        piece: None,
                    };
                }
            }
        }
        let mut parts = Vec::new();
        let mut end = bytes.len();
        while let Some(start) = best[end].start {
            let piece = best[end].piece;
            parts.push(Part { start, end, piece });
            end = start;
        }
        parts.reverse();
        parts
    }
}

#[cfg(test)]
mod tests {
    use super::super::proto::tests::write;
    use super::*;
    use proptest::prelude::*;

    const PIECES: [(&str, f32, u8); 7] = [
        ("[UNK]", 0.0, 2),
        ("a", -3.0, 1),
        ("b", -2.5, 1),
        ("ab", -4.0, 1),
        ("bab", -6.5, 1),
        ("é", -5.0, 1),
        ("[CLS]", 0.0, 3),
    ];

    fn unigram(pieces: &[(&str, f32, u8)]) -> Unigram {
        Unigram::new(&Model::parse(&write(pieces, b"", false)).unwrap()).unwrap()
    }

    fn pieces(parts: &[Part]) -> Vec<Option<u32>> {
        parts.iter().map(|part| part.piece).collect()
    }

    #[test]
    fn the_greatest_sum_by_hand() {
        let model = unigram(&PIECES);
        // a·bab: −9.5; ab·ab: −8; a·b·ab: −9.5.
        assert_eq!(pieces(&model.segment("abab")), [Some(3), Some(3)]);
        // bab: −6.5; b·ab: −6.5 as well: the one that begins first in the text was found first.
        assert_eq!(pieces(&model.segment("bab")), [Some(4)]);
        // A control piece is not in texts; c is unknown.
        assert_eq!(pieces(&model.segment("c[é")), [None, None, Some(5)]);
        assert!(model.segment("").is_empty());
        let twice = Model::parse(&write(&[("a", 0.0, 1), ("a", 1.0, 1)], b"", false)).unwrap();
        assert_eq!(Unigram::new(&twice).err(), Some("a".to_owned()));
    }

    proptest! {
        /// No other segmentation is better, and the parts are the text.
        #[test]
        fn against_all_segmentations(text in "[abcé]{0,9}") {
            let model = unigram(&PIECES);
            let value = |text: &str| match PIECES.iter().find(|piece| piece.0 == text && piece.2 == 1) {
                Some(piece) => Some(f64::from(piece.1)),
                None => (text.chars().count() == 1).then_some(-6.5 - 10.0),
            };
            fn best(text: &str, value: &dyn Fn(&str) -> Option<f64>) -> f64 {
                if text.is_empty() {
                    return 0.0;
                }
                let ends = text.char_indices().map(|(at, c)| at + c.len_utf8());
                ends.filter_map(|end| Some(value(&text[..end])? + best(&text[end..], value)))
                    .fold(f64::NEG_INFINITY, f64::max)
            }
            let parts = model.segment(&text);
            let found: f64 = parts.iter().map(|part| value(&text[part.start..part.end]).unwrap()).sum();
            // The scores are multiples of ½ below 2⁹: their sums are exact.
            prop_assert_eq!(found, best(&text, &value));
            let joined: String = parts.iter().map(|part| &text[part.start..part.end]).collect();
            prop_assert_eq!(joined, text);
        }
    }
}
