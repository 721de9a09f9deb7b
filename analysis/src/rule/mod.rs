//! Rules that an audit must not break: a small language for continuous integration.
//!
//! A rule states what is wrong; an adapter for which it is true fails.
//!
//! ```
//! use rankwise_analysis::Rule;
//! let rule: Rule = "share(energy_rank_99 <= 1) > 0.5 and not name ~ \"lm_head\"".parse()?;
//! assert_eq!(rule.to_string(), "share(energy_rank_99 <= 1) > 0.5 and not name ~ \"lm_head\"");
//! let error = Rule::parse("effective_rnk < 2").unwrap_err().to_string();
//! assert!(error.contains("character 1") && error.ends_with("found \"effective_rnk\""), "{error}");
//! # Ok::<(), rankwise_analysis::Error>(())
//! ```
//!
//! The language is described in `language.md`, which is the documentation of [`Rule::parse`].

mod evaluation;
mod expression;
mod parser;
mod token;
mod vocabulary;

use std::fmt;
use std::str::FromStr;

use crate::{Audit, Error};
pub use evaluation::{FailingModule, Violation};
use expression::Condition;

/// The description of the language, as Markdown.
pub const RULE_LANGUAGE: &str = include_str!("language.md");

/// A rule, read and checked: see [`parse`](Self::parse).
#[derive(Debug, Clone, PartialEq)]
pub struct Rule(Condition);

impl Rule {
    /// Reads a rule of the language below.
    ///
    #[doc = include_str!("language.md")]
    ///
    /// # Errors
    /// [`Error::Rule`] with the position of what is not understood; for unknown names with the
    /// nearest known ones.
    pub fn parse(text: &str) -> Result<Self, Error> {
        parser::parse(text).map(Self)
    }

    /// Where an audit breaks the rule: at most one violation an adapter, in the audit's order.
    ///
    /// The numbers do not depend on the number of threads: there is one.
    pub fn check(&self, audit: &Audit) -> Vec<Violation> {
        evaluation::check(self, &self.0, audit)
    }
}

impl FromStr for Rule {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        Self::parse(text)
    }
}

/// Writes the rule so that [`Rule::parse`] reads the same one, without needless parentheses.
impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
