//! SQuAD 1.1: questions about paragraphs, with the answers' places in them.

use std::path::Path;

use serde::Deserialize;

use crate::{Error, Provenance, SkipBad};

/// An answer and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The answer's text, which is a part of the paragraph.
    pub text: String,
    /// Its first character, counted from 0.
    pub start: usize,
}

/// A question, the paragraph that has the answer, and the answers that people gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// By which predictions are compared.
    pub id: String,
    /// The question.
    pub question: String,
    /// The paragraph.
    pub context: String,
    /// At least one answer; training uses the first.
    pub answers: Vec<Answer>,
}

/// Questions in the order of their file.
#[derive(Debug, Clone, PartialEq)]
pub struct Squad {
    /// The questions.
    pub questions: Vec<Question>,
    /// Where they came from.
    pub provenance: Provenance,
}

#[derive(Deserialize)]
struct File {
    data: Vec<Article>,
}

#[derive(Deserialize)]
struct Article {
    paragraphs: Vec<Paragraph>,
}

#[derive(Deserialize)]
struct Paragraph {
    context: String,
    qas: Vec<Asked>,
}

#[derive(Deserialize)]
struct Asked {
    id: String,
    question: String,
    answers: Vec<Found>,
}

#[derive(Deserialize)]
struct Found {
    text: String,
    answer_start: i64,
}

impl Squad {
    /// Reads the official JSON.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be read; [`Error::Format`] naming the place in it that is not
    /// SQuAD's, or the question that has no answer or one that does not stand where it says.
    pub fn read(path: &Path, skip: &mut SkipBad) -> Result<Self, Error> {
        let bytes = std::fs::read(path).map_err(Error::io(path, "read"))?;
        let file: File = serde_json::from_slice(&bytes).map_err(|error| {
            let what = format!("line {}, column {}", error.line(), error.column());
            Error::format(path, what, "SQuAD 1.1", error.to_string())
        })?;
        let paragraphs = file.data.into_iter().flat_map(|article| article.paragraphs);
        let mut questions = Vec::new();
        for paragraph in paragraphs {
            for asked in paragraph.qas {
                let question = question(path, &paragraph.context, asked);
                questions.extend(skip.take(question)?);
            }
        }
        if questions.is_empty() {
            return Err(Error::format(path, "questions", "at least one", "none"));
        }
        Ok(Self {
            questions,
            provenance: Provenance {
                files: vec![path.to_path_buf()],
                notes: Vec::new(),
            },
        })
    }
}

fn question(path: &Path, context: &str, asked: Asked) -> Result<Question, Error> {
    let what = || format!("question {}", asked.id);
    if asked.answers.is_empty() {
        return Err(Error::format(path, what(), "at least one answer", "none"));
    }
    let mut answers = Vec::with_capacity(asked.answers.len());
    for answer in asked.answers {
        let start = usize::try_from(answer.answer_start).ok();
        let place = start.and_then(|start| {
            let (place, _) = context.char_indices().nth(start)?;
            context[place..].starts_with(&answer.text).then_some(start)
        });
        match place.filter(|_| !answer.text.is_empty()) {
            Some(start) => answers.push(Answer {
                text: answer.text,
                start,
            }),
            None => {
                let expected = format!("the answer {:?} in the paragraph", answer.text);
                let start = start.unwrap_or(usize::MAX);
                let there: String = context.chars().skip(start).take(30).collect();
                let found = format!("{there:?} at character {}", answer.answer_start);
                return Err(Error::format(path, what(), expected, found));
            }
        }
    }
    Ok(Question {
        id: asked.id,
        question: asked.question,
        context: context.to_owned(),
        answers,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(answers: &str, skip: &mut SkipBad) -> Result<Squad, Error> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("dev.json");
        let text = format!(
            r#"{{"version": "1.1", "data": [{{"title": "t", "paragraphs": [{{"context":
            "Für Élise is by Beethoven.", "qas": [{{"id": "a1", "question": "Who?", "answers":
            [{answers}]}}, {{"id": "a2", "question": "What?", "answers":
            [{{"text": "Für Élise", "answer_start": 0}}]}}]}}]}}]}}"#
        );
        std::fs::write(&path, text).unwrap();
        Squad::read(&path, skip)
    }

    #[test]
    fn places_are_characters() {
        let good = r#"{"text": "Beethoven", "answer_start": 16}"#;
        let squad = read(good, &mut SkipBad::default()).unwrap();
        assert_eq!(squad.questions.len(), 2);
        let expected = Answer {
            text: "Beethoven".to_owned(),
            start: 16,
        };
        assert_eq!(squad.questions[0].answers, [expected]);
    }

    #[test]
    fn answers_that_are_not_there_are_named() {
        let fault = |answers| {
            read(answers, &mut SkipBad::default())
                .unwrap_err()
                .to_string()
        };
        let moved = fault(r#"{"text": "Beethoven", "answer_start": 17}"#);
        assert!(
            moved.contains("question a1: expected the answer \"Beethoven\" in the paragraph, found \"eethoven.\" at character 17"),
            "{moved}"
        );
        assert!(fault(r#"{"text": "Bach", "answer_start": -1}"#).contains("at character -1"));
        assert!(fault(r#"{"text": "Bach", "answer_start": 99}"#).contains("\"\" at character 99"));
        assert!(fault("").contains("question a1: expected at least one answer, found none"));
        assert!(fault("{").contains("expected SQuAD 1.1"));
        let mut skip = SkipBad::new(1);
        assert_eq!(read("", &mut skip).unwrap().questions.len(), 1);
        assert_eq!(skip.skipped().len(), 1);
    }
}
