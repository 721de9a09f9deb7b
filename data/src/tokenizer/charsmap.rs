//! SentencePiece's normaliser: replace by a compiled map, put `▁` for spaces, drop superfluous ones.
//!
//! A charsmap is the length of a double array in bytes (little-endian, 4 bytes), the array (units of
//! 32 bits), and replacements that end in a zero byte. The array is a trie over the bytes of what is
//! replaced, in the form of Darts: from a node at position $p$ with unit $u$ the byte $b$ leads to
//! $q = p \oplus \text{offset}(u) \oplus b$ if the unit there is labelled $b$; if it has a leaf, the
//! value is in the low 31 bits of the unit at $q \oplus \text{offset}$: where the replacement begins.
//! The longest match counts; what matches nothing stays.
//!
//! Every byte of the result knows the characters of the original that it came from.
//! Source: SentencePiece's `normalizer.cc` (its behaviour; the code is ours).

use super::proto::Model;

/// What stands for a space.
pub(super) const SPACE: char = '▁';

pub(super) struct Normaliser {
    units: Vec<u32>,
    replacements: Vec<u8>,
    has_leading_space: bool,
    removes_extra_spaces: bool,
    escapes_spaces: bool,
}

/// A normalised text, and the characters of the original (first, and one after the last) that each of
/// its bytes stands for.
pub(super) struct Normalised {
    pub text: String,
    pub spans: Vec<(usize, usize)>,
}

impl Normalised {
    fn push(&mut self, character: char, span: (usize, usize)) {
        self.text.push(character);
        self.spans.resize(self.text.len(), span);
    }
}

impl Normaliser {
    /// Takes the settings of a model, or says what is wrong with its charsmap.
    pub(super) fn new(model: &Model) -> Result<Self, String> {
        let mut units = Vec::new();
        let mut replacements = Vec::new();
        if let Some((length, rest)) = model.charsmap.split_first_chunk::<4>() {
            let length = u32::from_le_bytes(*length) as usize;
            if length > rest.len() || !length.is_multiple_of(4) {
                return Err(format!("an array of {length} bytes in {}", rest.len()));
            }
            let (array, texts) = rest.split_at(length);
            if std::str::from_utf8(texts).is_err() {
                return Err("replacements that are not UTF-8".to_owned());
            }
            let unit = |bytes: &[u8]| u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
            units = array.chunks_exact(4).map(unit).collect();
            replacements = texts.to_vec();
        } else if !model.charsmap.is_empty() {
            return Err(format!("{} bytes", model.charsmap.len()));
        }
        Ok(Self {
            units,
            replacements,
            has_leading_space: model.has_leading_space,
            removes_extra_spaces: model.removes_extra_spaces,
            escapes_spaces: model.escapes_spaces,
        })
    }

    /// The longest beginning of `text` that is replaced: its bytes, and by what.
    fn longest(&self, text: &str) -> Option<(usize, &str)> {
        let mut at = offset(*self.units.first()?);
        let mut found = None;
        for (index, byte) in text.bytes().enumerate() {
            at ^= usize::from(byte);
            let Some(&unit) = self.units.get(at) else {
                break;
            };
            if unit & ((1 << 31) | 0xFF) != u32::from(byte) {
                break;
            }
            at ^= offset(unit);
            if (unit >> 8) & 1 == 1
                && let Some(&leaf) = self.units.get(at)
            {
                found = Some((index + 1, (leaf & !(1 << 31)) as usize));
            }
        }
        let (length, start) = found?;
        // A forged map may end inside of a character.
        text.is_char_boundary(length).then_some(())?;
        let replacement = self.replacements.get(start..)?;
        let end = replacement.iter().position(|&byte| byte == 0)?;
        let replacement = std::str::from_utf8(&replacement[..end]).ok()?;
        Some((length, replacement))
    }

    pub(super) fn normalise(&self, text: &str) -> Normalised {
        let mut result = Normalised {
            text: String::with_capacity(text.len() + text.len() / 4),
            spans: Vec::with_capacity(text.len() + text.len() / 4),
        };
        let space = if self.escapes_spaces { SPACE } else { ' ' };
        let mut rest = text;
        // In characters of the original.
        let mut at = 0;
        let mut is_begun = false;
        // What the leading space stands for: nothing, or the last of those dropped before it.
        let mut leading = (0, 0);
        let mut follows_space = self.removes_extra_spaces;
        while let Some(first) = rest.chars().next() {
            let (length, replacement) = self.longest(rest).unwrap_or_else(|| {
                let length = first.len_utf8();
                (length, &rest[..length])
            });
            let (consumed, after) = rest.split_at(length);
            let end = at + consumed.chars().count();
            rest = after;
            let mut kept = replacement;
            if self.removes_extra_spaces && !is_begun {
                // What becomes exactly one space is dropped at the beginning; other replacements
                // begin the text.
                if kept == " " {
                    leading = (at, end);
                    at = end;
                    continue;
                }
            }
            if !is_begun {
                is_begun = true;
                if self.has_leading_space {
                    result.push(space, leading);
                }
            }
            if follows_space && kept.starts_with(' ') {
                kept = kept.trim_start_matches(' ');
                // Of spaces in a row the last one stays, as in the reference's offsets.
                if result.text.ends_with(space) {
                    let last = result.text.len() - space.len_utf8();
                    result.spans[last..].fill((at, end));
                }
            }
            for character in kept.chars() {
                result.push(if character == ' ' { space } else { character }, (at, end));
            }
            if let Some(last) = kept.chars().next_back() {
                follows_space = self.removes_extra_spaces && last == ' ';
            }
            at = end;
        }
        if self.removes_extra_spaces {
            let kept = result.text.trim_end_matches(space).len();
            result.text.truncate(kept);
            result.spans.truncate(kept);
        }
        result
    }
}

/// How far a unit's children are.
fn offset(unit: u32) -> usize {
    ((unit >> 10) << ((unit & (1 << 9)) >> 6)) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn normaliser(charsmap: Vec<u8>) -> Result<Normaliser, String> {
        let mut model = Model::parse(&[]).unwrap();
        model.charsmap = charsmap;
        Normaliser::new(&model)
    }

    /// The map of one entry, by hand: "ab" to "c d".
    fn one() -> Vec<u8> {
        let mut units = vec![0_u32; 512];
        let (a, b) = (u32::from(b'a'), u32::from(b'b'));
        // Root at 0 with offset 256: 'a' at 256 ^ a; its children from there at offset 128.
        units[0] = 256 << 10;
        let at_a = 256 ^ a as usize;
        units[at_a] = a | 128 << 10;
        let at_b = at_a ^ 128 ^ b as usize;
        // With a leaf, whose value is at offset 1.
        units[at_b] = b | 1 << 8 | 1 << 10;
        units[at_b ^ 1] = 1 << 31 | 2;
        let mut map = (4 * units.len() as u32).to_le_bytes().to_vec();
        map.extend(units.iter().flat_map(|unit| unit.to_le_bytes()));
        map.extend(b"x\0c d\0");
        map
    }

    fn spans(normalised: &Normalised) -> Vec<(char, usize, usize)> {
        let characters = normalised.text.char_indices();
        let span = |(byte, character)| {
            let (start, end) = normalised.spans[byte];
            (character, start, end)
        };
        characters.map(span).collect()
    }

    #[test]
    fn a_map_by_hand() {
        let normaliser = normaliser(one()).unwrap();
        let found = normaliser.normalise("  ab  é ");
        assert_eq!(found.text, "▁c▁d▁é");
        assert_eq!(
            spans(&found),
            [
                ('▁', 1, 2),
                ('c', 2, 4),
                ('▁', 2, 4),
                ('d', 2, 4),
                ('▁', 5, 6),
                ('é', 6, 7)
            ]
        );
        assert_eq!(found.spans.len(), found.text.len());
        assert_eq!(normaliser.normalise("aab").text, "▁ac▁d");
        assert_eq!(normaliser.normalise("   ").text, "");
        assert_eq!(normaliser.normalise("").text, "");
    }

    proptest! {
        #[test]
        fn a_forged_map_stays_inside_of_itself(
            at in 4_usize..2052, to in any::<u32>(), text in "[ab é]{0,9}"
        ) {
            let mut map = one();
            map[at..at + 4].copy_from_slice(&to.to_le_bytes());
            if let Ok(normaliser) = normaliser(map) {
                let found = normaliser.normalise(&text);
                let length = text.chars().count();
                prop_assert!(found.spans.iter().all(|&(a, b)| a <= b && b <= length));
            }
        }

        #[test]
        fn any_map_is_taken_or_refused(map in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(normaliser) = normaliser(map) {
                let _ = normaliser.normalise("any text");
            }
        }
    }
}
