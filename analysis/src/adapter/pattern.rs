//! The values that a configuration has for some modules: PEFT's `rank_pattern` and `alpha_pattern`.
//!
//! PEFT's rule is that the first key with `re.match(r"(.*\.)?(KEY)$", module)` holds. Adapters whose
//! ranks were chosen one by one have a key for every module, so keys are not gone through for each:
//!
//! | key | example | how the first that fits is found |
//! |---|---|---|
//! | a whole name | `^layers\.0\.q` | in the order of the names |
//! | no sign of an expression but the dot | `layers.0.q` | in the order of the keys from their ends: the module's characters from the last on narrow a range, every one by itself and by the dot |
//! | any other | `q\|k` | each in turn, as long as none of the others is before it |

use regex::{Regex, RegexBuilder};
use serde::Deserialize;
use serde_json::{Map, Value};

/// Bytes of a compiled pattern; real ones take a few thousand.
const LARGEST_EXPRESSION: usize = 1 << 20;

/// Expressions that are kept compiled, and the bytes of each: real configurations have a handful of a
/// few thousand. A short file of long repetitions takes no more than these together.
const KEPT: usize = 16;
const LARGEST_KEPT: usize = 1 << 16;

/// Characters of a key that is found by its end; the longest real names have a hundred.
const LONGEST: usize = 256;

/// Values by the modules' names; of several keys that fit, the first holds.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(from = "Map<String, Value>")]
pub(crate) struct Pattern {
    entries: Vec<(String, Value)>,
    /// Whole names and their places in `entries`.
    names: Vec<(String, usize)>,
    /// Places of the keys without an expression, by their characters from the last to the first.
    literal: Vec<usize>,
    /// The others, in the order of their places.
    others: Vec<(usize, Other)>,
}

/// How a key is held against a name.
#[derive(Debug, Clone)]
enum Other {
    Kept(Regex),
    /// Compiled anew each time, if it can be.
    Anew,
}

/// What a pattern says of a module.
#[derive(Debug, PartialEq)]
pub(crate) enum Match<'a> {
    /// No key fits; the configuration's general value holds.
    General,
    /// The value of the first key that fits.
    Special(&'a Value),
    /// Whether this key fits cannot be said: it is no regular expression that is understood here.
    Unread(&'a str),
}

impl From<Map<String, Value>> for Pattern {
    fn from(entries: Map<String, Value>) -> Self {
        entries.into_iter().collect()
    }
}

impl FromIterator<(String, Value)> for Pattern {
    fn from_iter<I: IntoIterator<Item = (String, Value)>>(entries: I) -> Self {
        let entries: Vec<(String, Value)> = entries.into_iter().collect();
        let (mut names, mut literal, mut others) = (Vec::new(), Vec::new(), Vec::new());
        for (place, (key, _)) in entries.iter().enumerate() {
            if let Some(name) = only_name(key) {
                names.push((name, place));
            } else if is_literal(key) && key.len() <= LONGEST {
                literal.push(place);
            } else {
                let kept = others.len() < KEPT;
                let kept = kept.then(|| whole(key, LARGEST_KEPT)).flatten();
                others.push((place, kept.map_or(Other::Anew, Other::Kept)));
            }
        }
        names.sort();
        let key = |place: usize| own_key(&entries[place].0).chars().rev();
        literal.sort_by(|&x, &y| key(x).cmp(key(y)).then(x.cmp(&y)));
        Self {
            entries,
            names,
            literal,
            others,
        }
    }
}

impl Pattern {
    /// What the first key that fits says.
    pub fn first_match(&self, module: &str) -> Match<'_> {
        let from = self.names.partition_point(|(name, _)| &name[..] < module);
        let named = self.names[from..].first();
        let named = named.filter(|(name, _)| name == module);
        let mut first = named.map_or(usize::MAX, |&(_, place)| place);
        self.narrow(&self.literal, 0, module, &mut first);
        for (place, other) in &self.others {
            if *place > first {
                break;
            }
            let key = &self.entries[*place].0;
            let fits = match other {
                Other::Kept(expression) => Some(expression.is_match(module)),
                Other::Anew => {
                    whole(key, LARGEST_EXPRESSION).map(|expression| expression.is_match(module))
                }
            };
            match fits {
                Some(true) => first = *place,
                Some(false) => {}
                None => return Match::Unread(key),
            }
        }
        match self.entries.get(first) {
            Some((_, value)) => Match::Special(value),
            None => Match::General,
        }
    }

    /// The first place among keys that end as `module` goes on to end: all of `range` have the same
    /// last `depth` characters, which fit those that were taken off.
    fn narrow(&self, range: &[usize], depth: usize, module: &str, first: &mut usize) {
        let at = |place: usize| own_key(&self.entries[place].0).chars().rev().nth(depth);
        let (ended, longer) = range.split_at(range.partition_point(|&place| at(place).is_none()));
        let mut rest = module.chars();
        let last = rest.next_back();
        if let (Some(&place), None | Some('.')) = (ended.first(), last) {
            *first = place.min(*first);
        }
        let Some(last) = last else { return };
        // In an expression the dot is any character.
        let both = [Some(last), (last != '.').then_some('.')];
        for wanted in both.into_iter().flatten() {
            let begin = longer.partition_point(|&place| at(place) < Some(wanted));
            let end = longer.partition_point(|&place| at(place) <= Some(wanted));
            if begin < end {
                self.narrow(&longer[begin..end], depth + 1, rest.as_str(), first);
            }
        }
    }

    /// The first key that is not understood.
    pub fn unread(&self) -> Option<&str> {
        let anew = self
            .others
            .iter()
            .filter(|(_, other)| matches!(other, Other::Anew));
        let mut keys = anew.map(|&(place, _)| &self.entries[place].0[..]);
        keys.find(|key| whole(key, LARGEST_EXPRESSION).is_none())
    }
}

/// AdaLoRA's keys name the tensor of the singular values.
fn own_key(key: &str) -> &str {
    key.strip_suffix(".lora_E").unwrap_or(key)
}

/// A key as the expression that PEFT makes of it.
fn whole(key: &str, largest: usize) -> Option<Regex> {
    let key = if is_literal(key) { own_key(key) } else { key };
    compiled(&format!(r"^(?:.*\.)?(?:{key})$"), largest)
}

/// A regular expression of a bounded size.
pub(super) fn bounded(expression: &str) -> Option<Regex> {
    compiled(expression, LARGEST_EXPRESSION)
}

fn compiled(expression: &str, largest: usize) -> Option<Regex> {
    RegexBuilder::new(expression)
        .size_limit(largest)
        .dfa_size_limit(largest)
        .build()
        .ok()
}

/// Whether a key has no sign of a regular expression but the dot.
fn is_literal(key: &str) -> bool {
    !key.contains([
        '^', '$', '*', '+', '?', '(', ')', '[', ']', '{', '}', '|', '\\',
    ])
}

/// The one name that a key such as `^layers\.0\.q` stands for, if it is of that form.
fn only_name(key: &str) -> Option<String> {
    let name = key.strip_prefix('^')?.replace("\\.", "\0");
    (!name.contains('.') && is_literal(&name)).then(|| name.replace('\0', "."))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn places(keys: &[&str]) -> Pattern {
        let entries = keys.iter().enumerate();
        entries
            .map(|(place, key)| ((*key).to_owned(), Value::from(place)))
            .collect()
    }

    #[test]
    fn the_first_key_holds_whatever_its_kind() {
        let pattern = places(&[
            "l.1.k",
            "^m\\.l\\.0\\.q",
            "(q|k)",
            "l.0.q",
            "^m\\.l\\.0\\.q",
            "v",
        ]);
        let of = |module| match pattern.first_match(module) {
            Match::Special(value) => value.as_u64(),
            _ => None,
        };
        assert_eq!(of("m.l.0.q"), Some(1));
        assert_eq!(of("n.l.0.q"), Some(2));
        assert_eq!(of("m.l.1.k"), Some(0));
        assert_eq!((of("m.v"), of("mv"), of("v")), (Some(5), None, Some(5)));
        // A dot of the key is any character, one of the module only itself or that.
        assert_eq!(of("m.l_1_k"), Some(0));
    }

    proptest! {
        /// Against PEFT's rule, key by key.
        #[test]
        fn the_index_finds_what_the_rule_says(
            keys in proptest::collection::vec(r"(\^)?[ab.]{0,4}|\^a\\\.b|[ab]\*|\(a|b\.lora_E", 0..12),
            module in "[ab.]{0,5}",
        ) {
            let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
            let pattern = places(&keys);
            let mut expected = Match::General;
            let numbers: Vec<Value> = (0..keys.len()).map(Value::from).collect();
            for (key, number) in keys.iter().zip(&numbers) {
                match whole(key, LARGEST_EXPRESSION) {
                    None => expected = Match::Unread(key),
                    // `^` after the optional prefix means the name's own beginning.
                    Some(expression) if expression.is_match(&module) => {
                        expected = Match::Special(number);
                    }
                    Some(_) => continue,
                }
                break;
            }
            prop_assert_eq!(pattern.first_match(&module), expected);
        }
    }
}
