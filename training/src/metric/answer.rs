//! From a reader's logits to the answer's text.
//!
//! A context that is longer than the model's input is read in overlapping windows. Of every window
//! the `n_best` likeliest starts and ends are paired; a pair counts if both tokens lie in the context,
//! the end does not come before the start, and the answer has at most `longest` tokens. Its score is
//! the sum of both logits. The best over all windows of a question is its answer, cut out of the
//! original text by the tokens' offsets.
//!
//! This is what the question-answering example of Hugging Face's transformers does without
//! unanswerable questions, ties included: of equal logits the later token goes first, of equal scores
//! the pair that was found first (numpy's reversed stable sort, then Python's). Scores are summed in
//! float32, the logits' own type: sums that differ only beyond it are ties.

use std::cmp::Ordering;

use crate::Error;

/// The answer where no pair counts: the script's own, which is wrong for every question unless
/// somebody asks for this word.
const NO_ANSWER: &str = "empty";

/// What a reader says of one window of a question's context.
#[derive(Debug, Clone, Copy)]
pub struct AnswerWindow<'a> {
    /// One logit a token: that the answer starts there.
    pub start: &'a [f32],
    /// One logit a token: that the answer ends there.
    pub end: &'a [f32],
    /// The bytes of the context that a token covers; `None` for tokens outside the context. Tokens
    /// beyond the list lie outside.
    pub offsets: &'a [Option<(usize, usize)>],
}

/// Which pairs of tokens count as answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AnswerOptions {
    /// So many starts and so many ends are paired, and so many answers are kept.
    pub n_best: usize,
    /// The most tokens of an answer.
    pub longest: usize,
}

impl Default for AnswerOptions {
    /// 20 and 30, as in the example and the paper.
    fn default() -> Self {
        Self {
            n_best: 20,
            longest: 30,
        }
    }
}

/// A piece of the context as an answer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Answer<'a> {
    /// The text.
    pub text: &'a str,
    /// Its first byte in the context.
    pub offset: usize,
    /// The sum of its start's and end's logits.
    pub score: f32,
}

/// The best answers of a question, the best first, at most `options.n_best`; none where no pair
/// counts. The windows are all of this question.
///
/// # Errors
/// [`Error::Answer`] if a window has not as many starts as ends, more offsets than logits, a logit
/// that is NaN or infinity (minus infinity is a way to say never), or offsets that are no piece of
/// the context.
pub fn best_answers<'a>(
    context: &'a str,
    windows: &[AnswerWindow<'_>],
    options: AnswerOptions,
) -> Result<Vec<Answer<'a>>, Error> {
    let mut answers = Vec::new();
    for window in windows {
        check(window)?;
        let ends = likeliest(window.end, options.n_best);
        for start in likeliest(window.start, options.n_best) {
            for &end in &ends {
                let of = |token: usize| window.offsets.get(token).copied().flatten();
                let (Some((from, _)), Some((_, to))) = (of(start), of(end)) else {
                    continue;
                };
                if end < start || end - start + 1 > options.longest {
                    continue;
                }
                let text = context.get(from..to).ok_or_else(|| Error::Answer {
                    what: format!("offsets of the tokens {start} to {end}"),
                    expected: format!("a piece of the context's {} bytes", context.len()),
                    found: format!("{from}..{to}"),
                })?;
                let score = window.start[start] + window.end[end];
                let offset = from;
                answers.push(Answer {
                    text,
                    offset,
                    score,
                });
            }
        }
    }
    answers.sort_by(|x, y| descending(x.score, y.score));
    answers.truncate(options.n_best);
    Ok(answers)
}

/// The text that stands for a question's answer in an evaluation: the best, or the word that the
/// example puts where there is none, or only one without text.
///
/// ```
/// use rankwise_training::{AnswerOptions, AnswerWindow, best_answers, chosen_answer};
/// let window = AnswerWindow {
///     start: &[9.0, 0.0, 1.0],
///     end: &[9.0, 3.0, 1.0],
///     offsets: &[None, Some((0, 3)), Some((4, 7))],
/// };
/// let answers = best_answers("two red", &[window], AnswerOptions::default())?;
/// assert_eq!((answers[0].text, answers[0].score), ("two", 3.0));
/// assert_eq!(chosen_answer(&answers), "two");
/// # Ok::<(), rankwise_training::Error>(())
/// ```
pub fn chosen_answer<'a>(answers: &[Answer<'a>]) -> &'a str {
    match answers {
        [] => NO_ANSWER,
        [only] if only.text.is_empty() => NO_ANSWER,
        [best, ..] => best.text,
    }
}

fn check(window: &AnswerWindow<'_>) -> Result<(), Error> {
    let wrong = |what: &str, expected: String, found: String| Error::Answer {
        what: what.to_owned(),
        expected,
        found,
    };
    let (starts, ends, offsets) = (window.start.len(), window.end.len(), window.offsets.len());
    if starts != ends {
        let expected = format!("{starts}, as many as starts");
        return Err(wrong("number of ends", expected, ends.to_string()));
    }
    if offsets > starts {
        let expected = format!("at most {starts}, one a logit");
        return Err(wrong("number of offsets", expected, offsets.to_string()));
    }
    let is_wrong = |logit: &&f32| logit.is_nan() || **logit == f32::INFINITY;
    if let Some(logit) = window.start.iter().chain(window.end).find(is_wrong) {
        let expected = "a number below infinity".to_owned();
        return Err(wrong("logit", expected, logit.to_string()));
    }
    Ok(())
}

/// The tokens with the `count` largest logits, the largest first, of equals the later first.
fn likeliest(logits: &[f32], count: usize) -> Vec<usize> {
    let mut tokens: Vec<usize> = (0..logits.len()).rev().collect();
    tokens.sort_by(|&x, &y| descending(logits[x], logits[y]));
    tokens.truncate(count);
    tokens
}

fn descending(x: f32, y: f32) -> Ordering {
    // Checked to be comparable; −0 equals 0 here, as in numpy.
    y.partial_cmp(&x).unwrap_or(Ordering::Equal)
}
