//! SQuAD's windows against `run_qa.py` (`fixtures/squad.py`), and the real questions where they are
//! present, in `data/squad` of the folder that `RANKWISE_SHARED` names or of `shared` beside the
//! repository.
#![cfg(feature = "texts")]

use std::path::{Path, PathBuf};

use rankwise_data::{Answer, Question, SkipBad, Squad, Tokenizer, Window, Windowing};
use serde_json::Value;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

/// A folder of real data, or `None`, with the reason printed, where there is none.
fn shared(name: &str) -> Option<PathBuf> {
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared");
    let shared = std::env::var_os("RANKWISE_SHARED").map_or_else(beside, PathBuf::from);
    let folder = shared.join("data").join(name);
    if folder.is_dir() {
        return Some(folder);
    }
    eprintln!("skipped: no folder {}", folder.display());
    None
}

fn number(value: &Value) -> usize {
    value.as_u64().unwrap() as usize
}

/// Ids, offsets in the paragraph (else null), and the answer's tokens, as the fixture writes them.
fn written(window: &Window) -> Value {
    let encoding = &window.encoding;
    let offsets = encoding.offsets.iter().zip(&encoding.sequence);
    let offsets = offsets.map(|(offset, text)| match text {
        Some(1) => serde_json::json!([offset.0, offset.1]),
        _ => Value::Null,
    });
    let offsets: Vec<Value> = offsets.collect();
    serde_json::json!([encoding.ids, offsets, [window.start, window.end]])
}

#[test]
fn windows_are_the_references() {
    let text = std::fs::read_to_string(fixtures().join("squad.json")).unwrap();
    let cases: Vec<Value> = serde_json::from_str(&text).unwrap();
    let windowing = Windowing {
        max_length: 64,
        stride: 16,
    };
    for name in ["bert-base-uncased", "deberta-v3"] {
        let Some(folder) = shared("tokenizers").map(|folder| folder.join(name)) else {
            return;
        };
        let tokenizer = Tokenizer::load(&folder).unwrap();
        let mut windows = 0;
        for case in &cases {
            let text = |key: &str| case[key].as_str().unwrap().to_owned();
            let question = Question {
                id: "q".to_owned(),
                question: text("question"),
                context: text("context"),
                answers: vec![Answer {
                    text: text("answer"),
                    start: number(&case["start"]),
                }],
            };
            let found = windowing.windows(&tokenizer, &question).unwrap();
            let found: Vec<Value> = found.iter().map(written).collect();
            let known = case["features"][name].as_array().unwrap();
            assert_eq!(found.len(), known.len(), "{name}: {}", question.question);
            for (found, known) in found.iter().zip(known) {
                assert_eq!(found, known, "{name}: {}", question.question);
                windows += 1;
            }
        }
        assert!(windows > 25, "{windows}");
    }
}

/// GPT-2 has no special tokens; its windows know their texts all the same.
#[test]
fn windows_without_special_tokens() {
    let Some(folder) = shared("tokenizers") else {
        return;
    };
    let tokenizer = Tokenizer::load(&folder.join("gpt2")).unwrap();
    let sentence = |number| format!("Number {number} is written here. ");
    let question = Question {
        id: "q".to_owned(),
        question: "Which number?".to_owned(),
        context: (0..40).map(sentence).collect(),
        answers: vec![Answer {
            text: "31".to_owned(),
            start: sentence(0).len() * 10 + sentence(10).len() * 21 + "Number ".len(),
        }],
    };
    let windowing = Windowing {
        max_length: 48,
        stride: 12,
    };
    let windows = windowing.windows(&tokenizer, &question).unwrap();
    assert!(windows.len() > 5);
    let asked = windows[0]
        .encoding
        .sequence
        .iter()
        .filter(|&&text| text == Some(0))
        .count();
    for two in windows.windows(2) {
        let [one, next] = [&two[0].encoding, &two[1].encoding];
        assert_eq!(one.len(), 48);
        assert_eq!(one.offsets[48 - 12..], next.offsets[asked..asked + 12]);
        assert!(next.sequence[asked..].iter().all(|&text| text == Some(1)));
    }
    let found = windows.iter().filter(|window| window.end > 0);
    let found: Vec<_> = found
        .map(|one| one.text(&question.context, one.start, one.end))
        .collect();
    assert!(!found.is_empty());
    assert!(found.iter().all(|&text| text == Some(" 31")), "{found:?}");
}

#[test]
fn a_question_without_room_is_refused() {
    let Some(folder) = shared("tokenizers") else {
        return;
    };
    let tokenizer = Tokenizer::load(&folder.join("bert-base-uncased")).unwrap();
    let question = Question {
        id: "q".to_owned(),
        question: "one two three four five six".to_owned(),
        context: "seven".to_owned(),
        answers: Vec::new(),
    };
    let windowing = |max_length, stride| Windowing { max_length, stride };
    let fault = windowing(12, 4)
        .windows(&tokenizer, &question)
        .unwrap_err()
        .to_string();
    assert!(
        fault.contains("first text: expected at most 4 tokens beside windows of stride 4, found 6"),
        "{fault}"
    );
    assert!(windowing(3, 9).windows(&tokenizer, &question).is_err());
    assert_eq!(
        windowing(14, 4)
            .windows(&tokenizer, &question)
            .unwrap()
            .len(),
        1
    );
}

/// Rows of the real files, and that every answer which is in a window is found there again.
#[test]
fn real_questions() {
    let Some(folder) = shared("squad") else {
        return;
    };
    let mut skip = SkipBad::default();
    let dev = Squad::read(&folder.join("dev-v1.1.json"), &mut skip).unwrap();
    assert_eq!(dev.questions.len(), 10_570);
    let train = folder.join("train-v1.1.subset-44-articles.json");
    let train = Squad::read(&train, &mut skip).unwrap();
    assert_eq!(train.questions.len(), 11_877);
    let Some(tokenizers) = shared("tokenizers") else {
        return;
    };
    let windowing = Windowing::default();
    for (name, known) in [("bert-base-uncased", BERT), ("deberta-v3", DEBERTA)] {
        let tokenizer = Tokenizer::load(&tokenizers.join(name)).unwrap();
        let mut hash = Vec::new();
        let (mut windows, mut tokens, mut answered) = (0, 0, 0);
        for question in &train.questions {
            let answer = &question.answers[0];
            for window in windowing.windows(&tokenizer, question).unwrap() {
                windows += 1;
                tokens += window.encoding.len();
                let Window { start, end, .. } = window;
                hash.extend([start as u8, (start >> 8) as u8, end as u8, (end >> 8) as u8]);
                for id in &window.encoding.ids {
                    hash.extend(id.to_le_bytes());
                }
                if start > 0 {
                    answered += 1;
                    let found = window.text(&question.context, start, end).unwrap();
                    assert!(found.contains(&answer.text), "{}: {found}", question.id);
                }
            }
        }
        let hash = rankwise_data::sha256_hex(&hash);
        assert_eq!((windows, answered), (known.0, known.1), "{name}");
        if let Some(known) = known.2 {
            assert_eq!((tokens, &hash[..16]), known, "{name}");
        }
    }
}

/// DeBERTa's ids of every question and paragraph are SentencePiece's.
#[test]
fn real_texts_of_deberta() {
    let (Some(folder), Some(tokenizers)) = (shared("squad"), shared("tokenizers")) else {
        return;
    };
    let tokenizer = Tokenizer::load(&tokenizers.join("deberta-v3")).unwrap();
    let train = folder.join("train-v1.1.subset-44-articles.json");
    let train = Squad::read(&train, &mut SkipBad::default()).unwrap();
    let (mut hash, mut count) = (Vec::new(), 0);
    for question in &train.questions {
        for text in [&question.question, &question.context] {
            let ids = tokenizer.encode(text, None, usize::MAX).unwrap().ids;
            count += ids.len() - 2;
            for id in &ids[1..ids.len() - 1] {
                hash.extend(id.to_le_bytes());
            }
        }
    }
    let hash = rankwise_data::sha256_hex(&hash);
    assert_eq!((count, &hash[..16]), SENTENCEPIECE);
}

/// What `squad.py` prints with a second argument: windows, windows with the answer; tokens, and the
/// beginning of the SHA-256 of all answers' tokens and ids.
type Known = (usize, usize, Option<(usize, &'static str)>);
const BERT: Known = (12_022, 11_901, Some((1_934_605, "2d27728d5afb4906")));
/// transformers 5.23 has other ids for 139 of the 11,877 questions (see `tokenizer/spm.rs`), and the
/// same offsets and answers for all the others.
const DEBERTA: Known = (12_003, 11_898, None);
/// SentencePiece's own ids of the same texts.
const SENTENCEPIECE: (usize, &str) = (1_813_898, "33a40e327e26517f");
