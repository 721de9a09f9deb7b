//! Numbers and names as text: a true minus sign in what is read, a hyphen in what programs read.

use rankwise_analysis::Interval;

use crate::statistics::Spread;

/// From here on a number is told by its power of ten, as losses of runs that go astray are.
const LARGE: f64 = 1e6;

/// A number to so many decimals, or `1.2073e31`; what rounds to zero has no sign.
pub(crate) fn decimals(value: f64, digits: usize) -> String {
    let text = match value.abs() >= LARGE {
        true => format!("{value:.4e}"),
        false => format!("{value:.digits$}"),
    };
    unsigned_zero(text)
}

/// A difference with its sign.
pub(crate) fn signed(value: f64, digits: usize) -> String {
    let text = match value.abs() >= LARGE {
        true => format!("{value:+.4e}"),
        false => format!("{value:+.digits$}"),
    };
    unsigned_zero(text)
}

fn unsigned_zero(text: String) -> String {
    let digits = text.trim_start_matches(['+', '-']);
    if digits.bytes().all(|byte| matches!(byte, b'0' | b'.')) {
        return digits.to_owned();
    }
    match text.strip_prefix('-') {
        Some(digits) => format!("−{digits}"),
        None => text,
    }
}

/// `mean ± standard error`; the mean alone of one value, a dash of none.
pub(crate) fn told(spread: Option<&Spread>, digits: usize) -> String {
    with_error(spread, digits, decimals)
}

/// The same of a difference.
pub(crate) fn told_signed(spread: Option<&Spread>, digits: usize) -> String {
    with_error(spread, digits, signed)
}

fn with_error(spread: Option<&Spread>, digits: usize, mean: fn(f64, usize) -> String) -> String {
    let Some(spread) = spread.filter(|spread| spread.count > 0) else {
        return "–".to_owned();
    };
    let told = mean(spread.mean, digits);
    match spread.standard_error() {
        None => told,
        Some(error) => format!("{told} ± {}", decimals(error, digits)),
    }
}

/// A number to so many decimals, or a dash.
pub(crate) fn optional(value: Option<f64>, digits: usize) -> String {
    value.map_or("–".to_owned(), |value| decimals(value, digits))
}

/// An interval of correlations in a cell, or a dash.
pub(crate) fn interval(interval: Option<Interval>) -> String {
    interval.map_or("–".to_owned(), |i| span(i.low, i.high, "…"))
}

/// Two correlations with a word between them.
pub(crate) fn span(low: f64, high: f64, between: &str) -> String {
    format!("{} {between} {}", decimals(low, 2), decimals(high, 2))
}

/// A column's name as words: the same ones everywhere.
pub(crate) fn heading(column: &str) -> String {
    if let Some(share) = column.strip_prefix("energy_rank_") {
        return format!("Energy rank {share} %");
    }
    if column == "generalization_error" {
        return "Gap".to_owned();
    }
    let text = column.replace('_', " ");
    let mut letters = text.chars();
    match letters.next() {
        Some(first) => first.to_uppercase().chain(letters).collect(),
        None => text,
    }
}

/// The same within a sentence.
pub(crate) fn words(column: &str) -> String {
    if column.starts_with("energy_rank_") || column == "generalization_error" {
        return heading(column).to_lowercase();
    }
    column.replace('_', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn minus_signs_are_true_and_zero_has_none() {
        assert_eq!(decimals(-0.25, 2), "−0.25");
        assert_eq!(decimals(-0.001, 2), "0.00");
        assert_eq!(signed(0.25, 1), "+0.2");
        assert_eq!(signed(-0.001, 2), "0.00");
        assert_eq!(signed(-2.5e-9, 4), "0.0000");
        assert_eq!(decimals(-1e7, 2), "−1.0000e7");
    }

    #[test]
    fn an_error_needs_two_values() {
        assert_eq!(told(Some(&Spread::of([0.5])), 2), "0.50");
        assert_eq!(told(Some(&Spread::of([0.0, 1.0])), 2), "0.50 ± 0.50");
        assert_eq!(told_signed(Some(&Spread::of([-2.0, 0.0])), 1), "−1.0 ± 1.0");
        assert_eq!(told(Some(&Spread::of([])), 2), "–");
        assert_eq!(told(None, 2), "–");
    }

    #[test]
    fn columns_have_one_name() {
        assert_eq!(heading("energy_rank_99"), "Energy rank 99 %");
        assert_eq!(words("energy_rank_99"), "energy rank 99 %");
        assert_eq!(words("generalization_error"), "gap");
        assert_eq!(heading("stable_rank"), "Stable rank");
        assert_eq!(words("stable_rank"), "stable rank");
    }
}
