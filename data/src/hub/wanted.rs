//! Which of a repository's files are wanted.
//!
//! A pattern is a file's name, with `*` for any characters (slashes too, as in the Hub's own
//! libraries) and `?` for one. Patterns may be joined by `|`: the first that any file fits counts, and
//! an empty one at the end lets there be none: `model.safetensors|*.bin`, `added_tokens.json|`.

/// The files of `names` that the pattern asks for; `None` if it asks in vain.
pub(super) fn wanted<'a>(pattern: &str, names: &'a [String]) -> Option<Vec<&'a str>> {
    pattern.split('|').find_map(|pattern| {
        let found: Vec<&str> = names
            .iter()
            .map(String::as_str)
            .filter(|name| fits(pattern, name))
            .collect();
        (pattern.is_empty() || !found.is_empty()).then_some(found)
    })
}

/// Whether the pattern is one file's name and nothing else.
pub(super) fn is_exact(pattern: &str) -> bool {
    !pattern.is_empty() && !pattern.contains(['*', '?', '|'])
}

/// Whether the name is a path within a folder: plain components with slashes between them.
pub(super) fn is_within(name: &str) -> bool {
    let is_plain = |part: &str| !part.is_empty() && part != "." && part != "..";
    name.len() <= 1024
        && name.split('/').all(is_plain)
        && !name.contains('\\')
        && !name.chars().any(char::is_control)
        // A drive's letter, or a stream of a file, elsewhere than on Unix.
        && (cfg!(unix) || !name.contains(':'))
}

/// Whether the name fits, in time linear in both for a pattern with one `*`, and at most their product.
fn fits(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) =
        (pattern.chars().collect(), name.chars().collect());
    let (mut p, mut n) = (0, 0);
    // Behind the last `*`, and what it has taken so far.
    let mut last: Option<(usize, usize)> = None;
    while n < name.len() {
        match pattern.get(p) {
            Some('*') => {
                p += 1;
                last = Some((p, n));
            }
            Some(&c) if c == '?' || c == name[n] => {
                p += 1;
                n += 1;
            }
            _ => match last {
                Some((behind, taken)) => {
                    last = Some((behind, taken + 1));
                    (p, n) = (behind, taken + 1);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|&c| c == '*')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn names() -> Vec<String> {
        [
            "config.json",
            "a/model-1.safetensors",
            "a/model-2.safetensors",
            "model.bin",
        ]
        .map(str::to_owned)
        .to_vec()
    }

    #[test]
    fn the_first_alternative_with_a_file_counts() {
        let names = names();
        let found = |pattern| wanted(pattern, &names);
        assert_eq!(found("config.json"), Some(vec!["config.json"]));
        assert_eq!(found("*.safetensors|*.bin").unwrap().len(), 2);
        assert_eq!(found("x.safetensors|*.bin"), Some(vec!["model.bin"]));
        assert_eq!(found("vocab.txt"), None);
        assert_eq!(found("vocab.txt|"), Some(Vec::new()));
        assert_eq!(found("model-?.safetensors"), None);
        assert_eq!(found("a/model-?.*"), found("*/*"));
    }

    #[test]
    fn paths_that_lead_elsewhere_are_not_within() {
        for name in [
            "", "/a", "a/", "a//b", ".", "..", "../a", "a/../b", "a\\b", "a\nb", "a\0",
        ] {
            assert!(!is_within(name), "{name:?}");
        }
        assert!(is_within("a/.b/c..d"));
    }

    /// By recursion on both texts, the definition.
    fn fits_plainly(pattern: &[u8], name: &[u8]) -> bool {
        match (pattern.split_first(), name.split_first()) {
            (None, _) => name.is_empty(),
            (Some((b'*', rest)), _) => {
                (0..=name.len()).any(|skipped| fits_plainly(rest, &name[skipped..]))
            }
            (Some((c, rest)), Some((n, others))) => {
                (*c == b'?' || c == n) && fits_plainly(rest, others)
            }
            (Some(_), None) => false,
        }
    }

    proptest! {
        #[test]
        fn fits_as_defined(pattern in "[ab*?]{0,7}", name in "[ab/]{0,8}") {
            let expected = fits_plainly(pattern.as_bytes(), name.as_bytes());
            prop_assert_eq!(fits(&pattern, &name), expected);
        }
    }
}
