//! How many directions of an update are kept.

use serde_json::Value;

use crate::adapter::{Match, Pattern};
use crate::measures::energy_rank;
use crate::{Epsilon, Error, TauRule};

/// A choice of rank for every update; never more than the update has, never less than 1.
#[derive(Debug, Clone, PartialEq)]
pub enum RankRule {
    /// The same R everywhere.
    Rank(usize),
    /// The least R that keeps this share of Σσ², in (0, 1].
    Energy(f64),
    /// The directions with σ_i > t·σ_1, t in (0, 1).
    SpectralRatio(f64),
    /// The numerical rank: σ_i > max(m, n)·ε·σ_1 with the ε of the audit.
    Numerical,
    /// R of the modules that a key fits, by PEFT's rule for `rank_pattern`: the first key with
    /// `re.match(r"(.*\.)?(KEY)$", module)`. The others stay as they are.
    Patterns(Vec<(String, usize)>),
}

impl RankRule {
    /// The rule in words, as records keep it.
    pub fn describe(&self) -> String {
        match self {
            Self::Rank(rank) => format!("rank {rank}"),
            Self::Energy(share) => format!("energy {share}"),
            Self::SpectralRatio(ratio) => format!("spectral ratio {ratio}"),
            Self::Numerical => "numerical rank".to_owned(),
            Self::Patterns(patterns) => format!("{} patterns", patterns.len()),
        }
    }

    /// Checks the numbers.
    ///
    /// # Errors
    /// [`Error::Mismatch`] if a rank is 0 or a share is out of its range.
    pub fn check(&self) -> Result<(), Error> {
        let wrong = |what, expected: &str, found: String| {
            let expected = expected.to_owned();
            Err(Error::Mismatch {
                what,
                expected,
                found,
            })
        };
        match self {
            Self::Rank(0) => wrong("rank", "at least 1", "0".to_owned()),
            Self::Energy(share) if !(*share > 0.0 && *share <= 1.0) => {
                wrong("energy", "more than 0 and at most 1", share.to_string())
            }
            Self::SpectralRatio(ratio) if !(*ratio > 0.0 && *ratio < 1.0) => wrong(
                "spectral ratio",
                "more than 0 and less than 1",
                ratio.to_string(),
            ),
            Self::Patterns(patterns) if patterns.is_empty() => wrong(
                "rank of every module",
                "at least one pattern",
                "none".into(),
            ),
            Self::Patterns(patterns) => match patterns.iter().find(|(_, rank)| *rank == 0) {
                Some((key, _)) => wrong("rank", "at least 1", format!("0 for {key:?}")),
                None => Ok(()),
            },
            _ => Ok(()),
        }
    }

    /// Checks that every pattern fits one of the modules, given by all their names.
    pub(crate) fn check_names<'a>(
        &self,
        names: impl Iterator<Item = &'a str> + Clone,
    ) -> Result<(), Error> {
        let Self::Patterns(patterns) = self else {
            return Ok(());
        };
        for (key, _) in patterns {
            let alone = Pattern::from_iter([(key.clone(), Value::Null)]);
            let mut matches = names.clone().map(|name| alone.first_match(name));
            let found = matches.find(|found| *found != Match::General);
            let (expected, found) = match found {
                Some(Match::Special(_)) => continue,
                Some(_) => ("a regular expression that is understood here", "another"),
                None => ("a module that it fits", "none in the adapter"),
            };
            return Err(Error::Mismatch {
                what: "pattern of a rank",
                expected: expected.to_owned(),
                found: format!("{found}: {key:?}"),
            });
        }
        Ok(())
    }

    /// The ranks by name, ready to be looked up; none of a rule for all updates.
    pub(crate) fn patterns(&self) -> Pattern {
        let entries = match self {
            Self::Patterns(entries) => &entries[..],
            _ => &[],
        };
        let entries = entries.iter();
        entries
            .map(|(key, rank)| (key.clone(), Value::from(*rank)))
            .collect()
    }

    /// The rank for an update with these singular values, `patterns` this rule's own; `None`: as it
    /// is.
    pub(crate) fn rank(
        &self,
        patterns: &Pattern,
        names: [&str; 2],
        sigma: &[f64],
        shape: (usize, usize),
        epsilon: Epsilon,
    ) -> Option<usize> {
        let first = sigma.first().copied().unwrap_or(0.0);
        let above = |threshold: f64| sigma.iter().filter(|&&s| s > threshold).count();
        let rank = match self {
            Self::Rank(rank) => *rank,
            Self::Energy(share) => energy_rank(sigma, *share),
            Self::SpectralRatio(ratio) => above(ratio * first),
            Self::Numerical => above(TauRule::Precision(epsilon).tau(shape, first)),
            Self::Patterns(_) => {
                let fits = |name| match patterns.first_match(name) {
                    Match::Special(value) => value.as_u64(),
                    _ => None,
                };
                let rank = names.into_iter().find_map(fits)?;
                usize::try_from(rank).ok()?
            }
        };
        // No library loads factors without directions; those of a zero update are zeros.
        let most = if first > 0.0 { sigma.len() } else { 1 };
        Some(rank.min(most).max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIGMA: [f64; 4] = [4.0, 2.0, 1.0, 0.0];

    fn rank(rule: &RankRule, sigma: &[f64]) -> Option<usize> {
        rule.rank(&rule.patterns(), ["a.q", "b"], sigma, (6, 5), Epsilon::F32)
    }

    #[test]
    fn every_rule_in_closed_form() {
        // Σσ² = 21: 16 is 76 %, 20 is 95.2 %.
        for (rule, expected) in [
            (RankRule::Rank(2), 2),
            (RankRule::Rank(9), 4),
            (RankRule::Energy(0.76), 1),
            (RankRule::Energy(0.77), 2),
            (RankRule::Energy(1.0), 3),
            (RankRule::SpectralRatio(0.25), 2),
            (RankRule::SpectralRatio(0.24), 3),
            (RankRule::Numerical, 3),
        ] {
            rule.check().unwrap();
            assert_eq!(rank(&rule, &SIGMA), Some(expected), "{rule:?}");
            assert_eq!(rank(&rule, &[0.0, 0.0]), Some(1), "{rule:?}");
        }
    }

    #[test]
    fn the_first_pattern_that_fits_decides() {
        let patterns = |list: &[(&str, usize)]| {
            RankRule::Patterns(list.iter().map(|(k, r)| ((*k).to_owned(), *r)).collect())
        };
        assert_eq!(rank(&patterns(&[("q", 3), ("a.q", 1)]), &SIGMA), Some(3));
        assert_eq!(rank(&patterns(&[("b", 2)]), &SIGMA), Some(2));
        assert_eq!(rank(&patterns(&[("k", 2)]), &SIGMA), None);
        let names = ["a.q", "a.v"];
        let check = |rule: &RankRule| rule.check_names(names.into_iter());
        check(&patterns(&[("q", 3), ("[av]", 1)])).unwrap();
        let error = check(&patterns(&[("q", 3), ("o", 1)])).unwrap_err();
        assert!(error.to_string().contains("\"o\""), "{error}");
        let error = check(&patterns(&[("(?=q)q", 3)])).unwrap_err();
        assert!(error.to_string().contains("regular expression"), "{error}");
    }

    #[test]
    fn numbers_out_of_range_are_refused() {
        for rule in [
            RankRule::Rank(0),
            RankRule::Energy(0.0),
            RankRule::Energy(1.5),
            RankRule::Energy(f64::NAN),
            RankRule::SpectralRatio(1.0),
            RankRule::Patterns(vec![("q".to_owned(), 0)]),
            RankRule::Patterns(Vec::new()),
        ] {
            assert!(rule.check().is_err(), "{rule:?}");
        }
    }
}
