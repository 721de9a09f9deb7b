//! Labels as texts: the same class is the same text in every file, whoever wrote it.
//!
//! | in a file | read as |
//! |---|---|
//! | spaces around a label | no part of it |
//! | `1.0`, `-2.00` (pandas writes so the whole numbers of a column with gaps) | `1`, `-2` |
//! | JSON's or Parquet's truth values | `True`, `False`, as pandas writes them |
//! | nothing, or a text that pandas reads as missing (`NaN`, `None`, `null`, …) | no label, unless a class is called so |

use std::borrow::Cow;

/// Texts that pandas takes for missing values by default.
const MISSING: [&str; 19] = [
    "", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN",
    "<NA>", "N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null",
];

/// What a truth value is called.
pub(crate) fn truth(value: bool) -> &'static str {
    if value { "True" } else { "False" }
}

/// The label without spaces around it, a whole number without a point.
pub(super) fn plain(text: &str) -> Cow<'_, str> {
    let text = text.trim();
    let whole = text.split_once('.').and_then(|(whole, rest)| {
        let is_zero = !rest.is_empty() && rest.bytes().all(|digit| digit == b'0');
        let digits = whole.strip_prefix('-').unwrap_or(whole);
        let is_number = digits.bytes().all(|digit| digit.is_ascii_digit())
            && (digits == "0" || !digits.starts_with('0'))
            && !digits.is_empty();
        (is_zero && is_number).then_some(whole)
    });
    match whole {
        Some("-0") => Cow::Borrowed("0"),
        Some(whole) => Cow::Borrowed(whole),
        None => Cow::Borrowed(text),
    }
}

/// Whether the text stands for no label.
pub(super) fn is_missing(text: &str) -> bool {
    MISSING.contains(&text.trim())
}

/// The place of the class that a label names.
pub(super) fn place<C: AsRef<str>>(label: &str, classes: &[C]) -> Option<usize> {
    let label = label.trim();
    let find = |fits: &dyn Fn(&str) -> bool| classes.iter().position(|class| fits(class.as_ref()));
    let by_name =
        find(&|class| class == label).or_else(|| find(&|class| plain(class) == plain(label)));
    by_name.or_else(|| {
        // Programs spell truth differently, or as numbers.
        let value = value(label)?;
        let number = if value { "1" } else { "0" };
        find(&|class| self::value(class) == Some(value)).or_else(|| find(&|class| class == number))
    })
}

/// The whole number that a label is, from 0 on.
pub(super) fn index(label: &str) -> Option<usize> {
    plain(label).parse().ok()
}

/// The truth value that a text spells.
pub(super) fn value(text: &str) -> Option<bool> {
    let is = |value: bool| text.trim().eq_ignore_ascii_case(truth(value));
    [true, false].into_iter().find(|value| is(*value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_class_has_one_spelling() {
        for (text, label) in [
            (" a b\t", "a b"),
            ("1.0", "1"),
            ("-2.00 ", "-2"),
            ("0.0", "0"),
            ("-0.0", "0"),
            // Names, and numbers that are not whole.
            ("007.0", "007.0"),
            ("1.", "1."),
            (".0", ".0"),
            ("1.10", "1.10"),
            ("1.0.0", "1.0.0"),
            ("v1.0", "v1.0"),
            ("-.0", "-.0"),
        ] {
            assert_eq!(plain(text), label, "{text:?}");
        }
        for (label, classes, found) in [
            ("1.0", vec!["0", "1"], Some(1)),
            ("1", vec!["0.0", "1.0"], Some(1)),
            // A class of just that name is meant before another spelling of it.
            ("3.0", vec!["3", "3.0"], Some(1)),
            ("true", vec!["False", "True"], Some(1)),
            ("False", vec!["0", "1"], Some(0)),
            ("TRUE", vec!["true", "false"], Some(0)),
            ("true", vec!["yes", "no"], None),
        ] {
            assert_eq!(place(label, &classes), found, "{label}");
        }
    }

    #[test]
    fn what_pandas_reads_as_missing_is_no_label() {
        for text in ["", "  ", "nan", "NaN", "None", "null", "<NA>"] {
            assert!(is_missing(text), "{text:?}");
        }
        // The name of a class in stance detection, and a country.
        for text in ["none", "NONE", "Na", "0"] {
            assert!(!is_missing(text), "{text:?}");
        }
    }
}
