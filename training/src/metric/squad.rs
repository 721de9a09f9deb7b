//! Answers to questions against those that people gave: the official evaluation of SQuAD 1.1.
//!
//! An answer is normalised: lower case, without ASCII punctuation, without the words a, an and the,
//! with single spaces. It matches exactly if it equals a gold answer that is normalised likewise; its
//! F₁ is 2 p r/(p + r) with p and r the shares of words in common (with multiplicity) of its own words
//! and of the gold answer's. The best gold answer counts, and both are means over the questions, in
//! percent; a question without an answer counts 0.
//!
//! Two consequences that other implementations change: an answer without any word that counts has F₁
//! 0 even against a gold answer without one, and matches it exactly nevertheless; and punctuation
//! goes before articles, so `a-b` is the word `ab`.
//!
//! What is a word, a space and lower case is what Python says: a word is a run of letters, numbers
//! and `_` without combining marks (so `a` with a combining accent is an article and an accent), and
//! the separators U+001C to U+001F are spaces.
//!
//! Source: `evaluate-v1.1.py` (Rajpurkar et al., SQuAD, EMNLP 2016).

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::LazyLock;

use regex::{Captures, Regex};
use serde::{Deserialize, Serialize};

use super::Metric;
use crate::Error;

/// A run of what Python's `\w` matches.
static WORD: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"[\p{L}\p{N}_]+").expect("the pattern is fixed"));

/// A question's gold answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GoldAnswers {
    /// The question's id.
    pub id: String,
    /// What people answered, at least one.
    pub texts: Vec<String>,
}

/// How good a set of answers is.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct AnswerScores {
    /// Percent of questions whose answer is a gold answer.
    pub exact_match: f64,
    /// Mean F₁ of the words, in percent.
    pub f1: f64,
    /// Number of questions.
    pub questions: usize,
    /// Questions without an answer, each of which counts 0.
    pub unanswered: usize,
}

/// Evaluates `answers` (id → text) of the questions `gold`. Answers to other questions do not count.
///
/// ```
/// use rankwise_training::{GoldAnswers, evaluate_answers};
/// let gold = [GoldAnswers { id: "1".into(), texts: vec!["the red house".into()] }];
/// let answers = [("1".to_owned(), "Red.".to_owned())].into();
/// let scores = evaluate_answers(&gold, &answers)?;
/// assert_eq!(scores.exact_match, 0.0);
/// assert!((scores.f1 - 200.0 / 3.0).abs() < 1e-12); // p = 1, r = 1/2
/// # Ok::<(), rankwise_training::Error>(())
/// ```
///
/// # Errors
/// [`Error::Metric`] if there is no question, or one without a gold answer.
pub fn evaluate_answers(
    gold: &[GoldAnswers],
    answers: &BTreeMap<String, String>,
) -> Result<AnswerScores, Error> {
    let wrong = |expected: &str, found: String| Error::Metric {
        metric: Metric::ExactMatch.key(),
        expected: expected.to_owned(),
        found,
    };
    if gold.is_empty() {
        return Err(wrong("at least 1 question", "0".to_owned()));
    }
    let (mut exact, mut f1, mut unanswered) = (0_usize, 0.0, 0);
    for question in gold {
        if question.texts.is_empty() {
            let found = format!("none of question {}", question.id);
            return Err(wrong("at least 1 gold answer of every question", found));
        }
        let Some(answer) = answers.get(&question.id) else {
            unanswered += 1;
            continue;
        };
        exact += usize::from(is_exact_match(answer, &question.texts));
        f1 += answer_f1(answer, &question.texts);
    }
    let percent = |sum: f64| 100.0 * sum / gold.len() as f64;
    Ok(AnswerScores {
        exact_match: percent(exact as f64),
        f1: percent(f1),
        questions: gold.len(),
        unanswered,
    })
}

/// Whether the answer equals one of the gold answers, once both are normalised.
pub fn is_exact_match(answer: &str, gold: &[impl AsRef<str>]) -> bool {
    let answer = normalized_answer(answer);
    gold.iter()
        .any(|gold| normalized_answer(gold.as_ref()) == answer)
}

/// F₁ of the answer's words against those of the best gold answer; 0 without gold answers.
pub fn answer_f1(answer: &str, gold: &[impl AsRef<str>]) -> f64 {
    let answer = normalized_answer(answer);
    gold.iter()
        .map(|gold| words_f1(&answer, &normalized_answer(gold.as_ref())))
        .fold(0.0, f64::max)
}

/// The text in lower case, without ASCII punctuation and articles, with single spaces.
///
/// ```
/// use rankwise_training::normalized_answer;
/// assert_eq!(normalized_answer("  The U.S.\u{a0}of an A-Team "), "us of ateam");
/// ```
pub fn normalized_answer(text: &str) -> String {
    let mut lower = text.to_lowercase();
    lower.retain(|c| !c.is_ascii_punctuation());
    // An article between word boundaries is a whole run of word characters.
    let bare = WORD.replace_all(&lower, |run: &Captures<'_>| match &run[0] {
        "a" | "an" | "the" => Cow::Borrowed(" "),
        word => Cow::Owned(word.to_owned()),
    });
    words(&bare).collect::<Vec<_>>().join(" ")
}

/// What stands between spaces, with Python's idea of a space.
fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c))
        .filter(|word| !word.is_empty())
}

/// F₁ of two normalised texts, operation by operation as the script computes it: the same bits.
fn words_f1(answer: &str, gold: &str) -> f64 {
    let mut left: BTreeMap<&str, usize> = BTreeMap::new();
    for word in words(gold) {
        *left.entry(word).or_default() += 1;
    }
    let mut common = 0;
    for word in words(answer) {
        if let Some(count) = left.get_mut(word).filter(|count| **count > 0) {
            *count -= 1;
            common += 1;
        }
    }
    if common == 0 {
        return 0.0;
    }
    let share = |text: &str| f64::from(common) / words(text).count() as f64;
    let (precision, recall) = (share(answer), share(gold));
    (2.0 * precision * recall) / (precision + recall)
}
