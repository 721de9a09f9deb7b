//! The tensors of two checkpoints that are one: by their names, or by their names without a prefix that
//! one of the two has before all of a model's (`bert.encoder.…` beside `encoder.…`).
//!
//! The prefix is the one under which most tensors meet in the same shape; where two prefixes do so
//! equally well, none is taken.

use std::collections::BTreeMap;

use crate::container::Container;

/// Parts of a name that a prefix may have: a wrapper, a model and its inner model.
const LONGEST: usize = 4;

/// How the names of a checkpoint lead to those of another.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Alignment {
    /// What the tuned checkpoint's names have before the base's.
    tuned: String,
    /// What the base's have before the tuned checkpoint's.
    base: String,
}

impl Alignment {
    /// Of two checkpoints.
    pub fn new(base: &Container, tuned: &Container) -> Self {
        let named = |checkpoint: &'_ Container| -> BTreeMap<String, Vec<usize>> {
            let tensors = checkpoint.tensors().iter();
            tensors
                .map(|(name, info)| (name.clone(), info.shape.clone()))
                .collect()
        };
        Self::of(&named(base), &named(tuned))
    }

    /// Of things with names and shapes.
    pub fn of<S: PartialEq>(base: &BTreeMap<String, S>, tuned: &BTreeMap<String, S>) -> Self {
        let same = |(name, shape): &(&String, &S)| base.get(*name) == Some(*shape);
        let identical = tuned.iter().filter(same).count();
        let (longer_tuned, longer_base) = (votes(tuned, base), votes(base, tuned));
        let of_tuned = longer_tuned
            .iter()
            .map(|(prefix, votes)| (*votes, true, prefix));
        let of_base = longer_base
            .iter()
            .map(|(prefix, votes)| (*votes, false, prefix));
        let mut ways: Vec<_> = of_tuned.chain(of_base).collect();
        ways.sort_by_key(|way| std::cmp::Reverse(way.0));
        let best = match ways[..] {
            [(votes, ..), (others, ..), ..] if votes == others => None,
            [best, ..] if best.0 > identical => Some(best),
            _ => None,
        };
        match best {
            None => Self::default(),
            Some((_, true, prefix)) => Self {
                tuned: (*prefix).to_owned(),
                ..Self::default()
            },
            Some((_, false, prefix)) => Self {
                base: (*prefix).to_owned(),
                ..Self::default()
            },
        }
    }

    /// What the tuned checkpoint's names have before the base's.
    pub fn of_tuned(&self) -> &str {
        &self.tuned
    }

    /// The base's name of the tuned checkpoint's tensor, which may not be there.
    pub fn of_base(&self, name: &str, base: &Container) -> String {
        self.mapped(name, |name| base.tensors().contains_key(name))
    }

    /// The other side's name, if it is there, else the same.
    pub fn mapped(&self, name: &str, is_there: impl Fn(&str) -> bool) -> String {
        let other = name.strip_prefix(&self.tuned);
        let other = other.map(|rest| format!("{}{rest}", self.base));
        match other {
            Some(other) if is_there(&other) => other,
            _ => name.to_owned(),
        }
    }

    /// What there is to say, by what the base and the other are called.
    pub fn described(&self, base: &str, tuned: &str) -> Option<String> {
        let (longer, shorter, prefix) = match (&self.tuned[..], &self.base[..]) {
            ("", "") => return None,
            (prefix, "") => (tuned, base, prefix),
            (_, prefix) => (base, tuned, prefix),
        };
        Some(format!(
            "names of {longer} begin with {prefix}, those of {shorter} do not: they were matched without it"
        ))
    }
}

/// By prefix, how many names of `longer` are names of `shorter` without it, with the same shape.
fn votes<'a, S: PartialEq>(
    longer: &'a BTreeMap<String, S>,
    shorter: &BTreeMap<String, S>,
) -> BTreeMap<&'a str, usize> {
    let mut votes = BTreeMap::new();
    for (name, shape) in longer {
        for (dot, _) in name.match_indices('.').take(LONGEST) {
            let (prefix, rest) = name.split_at(dot + 1);
            if shorter.get(rest) == Some(shape) {
                *votes.entry(prefix).or_insert(0) += 1;
            }
        }
    }
    votes
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn checkpoint(tensors: &[(&str, usize)]) -> Container {
        let bytes = [0; 64];
        let views = tensors.iter().map(|(name, size)| {
            let bytes = &bytes[..4 * size];
            let view =
                safetensors::tensor::TensorView::new(safetensors::Dtype::F32, vec![*size], bytes);
            (*name, view.unwrap())
        });
        let bytes = safetensors::serialize(views, None).unwrap();
        Container::of_bytes(Path::new("model.safetensors"), bytes).unwrap()
    }

    #[test]
    fn the_common_prefix_is_found_on_either_side() {
        let bare = checkpoint(&[("layer.0.q", 2), ("layer.1.q", 2), ("pooler", 3)]);
        let whole = checkpoint(&[
            ("bert.layer.0.q", 2),
            ("bert.layer.1.q", 2),
            ("bert.pooler", 3),
            ("head", 4),
        ]);
        let to_bare = Alignment::new(&bare, &whole);
        assert_eq!(to_bare.of_base("bert.layer.1.q", &bare), "layer.1.q");
        assert_eq!(to_bare.of_base("head", &bare), "head");
        let to_whole = Alignment::new(&whole, &bare);
        assert_eq!(to_whole.of_base("pooler", &whole), "bert.pooler");
        assert!(
            to_whole
                .described("one", "other")
                .unwrap()
                .starts_with("names of one begin with bert.")
        );
        for same in [&bare, &whole] {
            assert_eq!(Alignment::new(same, same), Alignment::default());
        }
    }

    #[test]
    fn two_prefixes_that_fit_alike_are_none() {
        let bare = checkpoint(&[("q", 2), ("k", 2)]);
        let two = checkpoint(&[("a.q", 2), ("a.k", 2), ("b.q", 2), ("b.k", 2)]);
        assert_eq!(Alignment::new(&bare, &two), Alignment::default());
        let other_shapes = checkpoint(&[("a.q", 3), ("a.k", 3)]);
        assert_eq!(Alignment::new(&bare, &other_shapes), Alignment::default());
    }
}
