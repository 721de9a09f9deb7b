//! SQuAD 1.1: questions about paragraphs, with the answers' places in them: the official JSON, or the
//! Hub's Parquet.

use std::path::{Path, PathBuf};

use polars::prelude::{Column, DataType};
use serde::Deserialize;

use crate::shard::{Labels, Shard};
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
        Self::of(questions, &[path.to_path_buf()])
    }

    /// Reads Parquet as the Hub has it (`rajpurkar/squad`): columns `id`, `question`, `context`, and
    /// `answers`, a struct of the lists `text` and `answer_start`.
    ///
    /// # Errors
    /// As [`read`](Self::read), and for a column that is missing or of another type.
    pub fn parquet(files: &[PathBuf], skip: &mut SkipBad) -> Result<Self, Error> {
        let mut questions = Vec::new();
        for path in files {
            let shard = Shard::open(path)?;
            for rows in shard.groups() {
                let first = rows.start + 1;
                let frame = shard.read(rows, &["id", "question", "context", "answers"])?;
                let column = |name: &str| {
                    let found = frame.column(name);
                    found.map_err(|error| {
                        Error::format(path, "columns", "SQuAD's", error.to_string())
                    })
                };
                let (ids, asked) = (
                    texts(path, column("id")?, first)?,
                    texts(path, column("question")?, first)?,
                );
                let contexts = texts(path, column("context")?, first)?;
                let answers = answers(path, column("answers")?, first)?;
                let rows = ids.into_iter().zip(asked).zip(contexts).zip(answers);
                for (((id, asked), context), answers) in rows {
                    let asked = Asked {
                        id,
                        question: asked,
                        answers,
                    };
                    questions.extend(skip.take(question(path, &context, asked))?);
                }
            }
        }
        Self::of(questions, files)
    }

    fn of(questions: Vec<Question>, files: &[PathBuf]) -> Result<Self, Error> {
        if questions.is_empty() {
            let path = files.first().map_or(Path::new("."), PathBuf::as_path);
            return Err(Error::format(path, "questions", "at least one", "none"));
        }
        Ok(Self {
            questions,
            provenance: Provenance {
                files: files.to_vec(),
                notes: Vec::new(),
            },
        })
    }
}

/// A column of texts, none of which is missing; `first` is the number of its first row.
fn texts(path: &Path, column: &Column, first: usize) -> Result<Vec<String>, Error> {
    let texts = Labels::texts(path, column, false)?;
    let rows = texts.into_iter().zip(first..);
    rows.map(|(text, row)| {
        text.ok_or_else(|| {
            let what = format!("{} of row {row}", column.name());
            Error::format(path, what, "a text", "nothing")
        })
    })
    .collect()
}

/// The answers of every row; `first` is the number of the first.
fn answers(path: &Path, column: &Column, first: usize) -> Result<Vec<Vec<Found>>, Error> {
    let wrong = || {
        let expected = "structs of lists text (texts) and answer_start (whole numbers)";
        Error::format(path, "column answers", expected, column.dtype().to_string())
    };
    let lists = column.struct_().map_err(|_| wrong())?;
    let list = |name: &str| lists.field_by_name(name).map_err(|_| wrong());
    let (texts, starts) = (list("text")?, list("answer_start")?);
    let (texts, starts) = (
        texts.list().map_err(|_| wrong())?,
        starts.list().map_err(|_| wrong())?,
    );
    let mut rows = Vec::with_capacity(column.len());
    for row in 0..column.len() {
        let (Some(texts), Some(starts)) = (texts.get_as_series(row), starts.get_as_series(row))
        else {
            rows.push(Vec::new());
            continue;
        };
        let starts = starts.cast(&DataType::Int64).map_err(|_| wrong())?;
        let (texts, starts) = (
            texts.str().map_err(|_| wrong())?,
            starts.i64().map_err(|_| wrong())?,
        );
        if texts.len() != starts.len() {
            let what = format!("answers of row {}", first + row);
            let expected = format!("{} places", texts.len());
            return Err(Error::format(
                path,
                what,
                expected,
                starts.len().to_string(),
            ));
        }
        let found = texts.iter().zip(starts.iter()).map(|(text, start)| Found {
            text: text.unwrap_or_default().to_owned(),
            answer_start: start.unwrap_or(-1),
        });
        rows.push(found.collect());
    }
    Ok(rows)
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
    use polars::prelude::*;

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

    /// The frame of the Hub's columns.
    fn frame(starts: &[i32]) -> DataFrame {
        let texts = Series::new("text".into(), ["Beethoven", "Für Élise"]);
        let starts = Series::new("answer_start".into(), starts);
        let lists = |name: &str, series: &Series| {
            let rows = [series.slice(0, 1), series.slice(1, series.len())];
            Series::new(name.into(), rows).into_column()
        };
        let fields = [lists("text", &texts), lists("answer_start", &starts)];
        let answers = DataFrame::new(2, fields.to_vec())
            .unwrap()
            .into_struct("answers".into());
        let context = "Für Élise is by Beethoven.";
        let columns = vec![
            Series::new("id".into(), ["a1", "a2"]).into_column(),
            Series::new("title".into(), ["t", "t"]).into_column(),
            Series::new("context".into(), [context, context]).into_column(),
            Series::new("question".into(), ["Who?", "What?"]).into_column(),
            answers.into_series().into_column(),
        ];
        DataFrame::new(2, columns).unwrap()
    }

    #[test]
    fn parquet_has_what_json_has() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("validation-00000-of-00001.parquet");
        let parquet = |mut frame: DataFrame, skip: &mut SkipBad| {
            let file = std::fs::File::create(&path).unwrap();
            ParquetWriter::new(file).finish(&mut frame).unwrap();
            Squad::parquet(std::slice::from_ref(&path), skip)
        };
        let good = r#"{"text": "Beethoven", "answer_start": 16}"#;
        let json = read(good, &mut SkipBad::default()).unwrap();
        let same = parquet(frame(&[16, 0]), &mut SkipBad::default()).unwrap();
        assert_eq!(same.questions, json.questions);
        let fault = |frame| {
            parquet(frame, &mut SkipBad::default())
                .unwrap_err()
                .to_string()
        };
        let moved = fault(frame(&[17, 0]));
        assert!(
            moved.contains("question a1") && moved.contains("at character 17"),
            "{moved}"
        );
        let more = fault(frame(&[16, 0, 0]));
        assert!(
            more.contains("answers of row 2: expected 1 places, found 2"),
            "{more}"
        );
        let none = fault(frame(&[16, 0]).drop("answers").unwrap());
        assert!(none.contains("answers"), "{none}");
        let mut frame = frame(&[16, 0]);
        frame.rename("title", "answers_old".into()).unwrap();
        frame
            .with_column(Series::new("answers".into(), ["x", "y"]).into_column())
            .unwrap();
        let other = fault(frame);
        assert!(
            other.contains("column answers: expected structs of lists"),
            "{other}"
        );
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
