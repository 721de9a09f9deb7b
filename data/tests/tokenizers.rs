//! Tokenizers against the reference ones (`fixtures/tokens.py`). Their vocabularies are not part of
//! the repository: they are looked for in `data/tokenizers` of the folder that `RANKWISE_SHARED` names,
//! or of `shared` beside the repository.
#![cfg(feature = "texts")]

use std::path::{Path, PathBuf};

use rankwise_data::{Side, Tokenizer};
use serde_json::Value;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tokens")
}

/// A folder of a real tokenizer, or `None`, with the reason printed, where there is none.
fn shared(name: &str) -> Option<PathBuf> {
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared");
    let shared = std::env::var_os("RANKWISE_SHARED").map_or_else(beside, PathBuf::from);
    let folder = shared.join("data/tokenizers").join(name);
    if folder.is_dir() {
        return Some(folder);
    }
    eprintln!("skipped: no folder {}", folder.display());
    None
}

fn json(name: &str) -> Value {
    let text = std::fs::read_to_string(fixtures().join(name)).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// A list of numbers, or of numbers and nulls.
fn numbers(value: &Value) -> Vec<Option<u64>> {
    value
        .as_array()
        .unwrap()
        .iter()
        .map(Value::as_u64)
        .collect()
}

fn of(values: &[u32]) -> Vec<Option<u64>> {
    values.iter().map(|&value| Some(u64::from(value))).collect()
}

/// Compares every line and every pair; with offsets and sequences where the fixture has them.
fn compare(tokenizer: &Tokenizer, name: &str) {
    let input = json("lines.json");
    let known = json(name);
    let lines = input["lines"].as_array().unwrap();
    let line = |index: &Value| {
        let index = index.as_u64().unwrap() as usize;
        lines[index].as_str().unwrap()
    };
    assert!(lines.len() > 200);
    for (text, known) in lines.iter().zip(known["single"].as_array().unwrap()) {
        let found = tokenizer
            .encode(text.as_str().unwrap(), None, usize::MAX)
            .unwrap();
        let (ids, offsets) = match known[0].is_array() {
            true => (&known[0], Some(&known[1])),
            false => (known, None),
        };
        assert_eq!(of(&found.ids), numbers(ids), "{name}: {text}");
        for (index, offset) in offsets
            .iter()
            .flat_map(|list| list.as_array().unwrap())
            .enumerate()
        {
            let (start, end) = found.offsets[index];
            let expected = numbers(offset);
            assert_eq!(
                [Some(start as u64), Some(end as u64)],
                expected[..],
                "{name}: {text}"
            );
        }
    }
    let pairs = input["pairs"].as_array().unwrap().iter();
    for (pair, known) in pairs.zip(known["pairs"].as_array().unwrap()) {
        let (first, second) = (line(&pair[0]), line(&pair[1]));
        let length = pair[2].as_u64().unwrap() as usize;
        let found = tokenizer.encode(first, Some(second), length).unwrap();
        let text = format!("{name}: {first:?} and {second:?} cut to {length}");
        assert_eq!(of(&found.ids), numbers(&known[0]), "{text}");
        match known[1].is_array() {
            true => assert_eq!(of(&found.types), numbers(&known[1]), "{text}"),
            false => assert!(found.types.iter().all(|&one| one == 0), "{text}"),
        }
        if known[2].is_array() {
            let sequence = found.sequence.iter().map(|text| text.map(u64::from));
            assert_eq!(sequence.collect::<Vec<_>>(), numbers(&known[2]), "{text}");
        }
        assert!(found.len() <= length, "{text}");
    }
}

/// A folder with some of another's files.
fn with(folder: &Path, files: &[&str], config: &str) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for file in files {
        std::fs::copy(folder.join(file), copy.path().join(file)).unwrap();
    }
    if !config.is_empty() {
        std::fs::write(copy.path().join("tokenizer_config.json"), config).unwrap();
    }
    copy
}

#[test]
fn bert_by_its_description_and_by_its_vocabulary() {
    let Some(folder) = shared("bert-base-uncased") else {
        return;
    };
    let described = Tokenizer::load(&folder).unwrap();
    assert!(described.path().ends_with("tokenizer.json"));
    compare(&described, "bert.json");
    let plain = with(&folder, &["vocab.txt"], "");
    let plain = Tokenizer::load(plain.path()).unwrap();
    compare(&plain, "bert.json");
    for tokenizer in [described, plain] {
        assert_eq!(tokenizer.vocab_size(), 30_522);
        assert_eq!(
            (tokenizer.pad_id(), tokenizer.padding_side()),
            (Some(0), Side::Right)
        );
        assert_eq!(tokenizer.special_tokens(true), 3);
    }
    let cased = with(
        &folder,
        &["vocab.txt"],
        r#"{"do_lower_case": false, "padding_side": "left"}"#,
    );
    let cased = Tokenizer::load(cased.path()).unwrap();
    compare(&cased, "bert-cased.json");
    assert_eq!(cased.padding_side(), Side::Left);
}

#[test]
fn gpt2_and_roberta_by_pairs() {
    let Some(folder) = shared("gpt2") else { return };
    let gpt2 = Tokenizer::load(&folder).unwrap();
    compare(&gpt2, "gpt2.json");
    assert_eq!((gpt2.vocab_size(), gpt2.pad_id()), (50_257, None));
    // RoBERTa's special tokens at the end of GPT-2's vocabulary, as in the fixture's program.
    let copy = with(
        &folder,
        &["merges.txt"],
        r#"{"pad_token": {"content": "<pad>"}}"#,
    );
    let text = std::fs::read_to_string(folder.join("vocab.json")).unwrap();
    let mut vocabulary: serde_json::Map<String, Value> = serde_json::from_str(&text).unwrap();
    for token in ["<s>", "<pad>", "</s>", "<unk>", "<mask>"] {
        vocabulary.insert(token.to_owned(), vocabulary.len().into());
    }
    let text = serde_json::to_string(&vocabulary).unwrap();
    std::fs::write(copy.path().join("vocab.json"), text).unwrap();
    let roberta = Tokenizer::load(copy.path()).unwrap();
    compare(&roberta, "roberta.json");
    assert_eq!(roberta.pad_id(), Some(50_258));
}

#[test]
fn deberta_as_sentencepiece() {
    let Some(folder) = shared("deberta-v3") else {
        return;
    };
    let deberta = Tokenizer::load(&folder).unwrap();
    compare(&deberta, "deberta.json");
    assert_eq!((deberta.vocab_size(), deberta.pad_id()), (128_001, Some(0)));
    assert_eq!(deberta.token_id("[MASK]"), Some(128_000));
}

/// Offsets as the reference has them, which are of the text, with the space before a word.
#[test]
fn debertas_offsets() {
    let Some(folder) = shared("deberta-v3") else {
        return;
    };
    let deberta = Tokenizer::load(&folder).unwrap();
    let found = deberta.encode("Für  Élise, ﬁne", None, 64).unwrap();
    let text: Vec<char> = "Für  Élise, ﬁne".chars().collect();
    let part = |&(start, end): &(usize, usize)| text[start..end].iter().collect::<String>();
    let parts: Vec<String> = found.offsets.iter().map(part).collect();
    assert_eq!(parts.concat().replace(' ', ""), "FürÉlise,ﬁne", "{parts:?}");
    assert_eq!(found.offsets.last(), Some(&(0, 0)));
}

#[test]
fn faults_are_said() {
    let empty = tempfile::tempdir().unwrap();
    let fault = |folder: &Path| Tokenizer::load(folder).unwrap_err().to_string();
    assert!(fault(empty.path()).contains("tokenizer: expected tokenizer.json, spm.model"));
    std::fs::write(empty.path().join("vocab.txt"), "[CLS]\n[SEP]\nx\n").unwrap();
    assert!(fault(empty.path()).contains("found no [UNK]"));
    std::fs::write(empty.path().join("vocab.json"), "{\"a\": 0}").unwrap();
    assert!(fault(empty.path()).contains("merges.txt: file: expected the merges of vocab.json"));
    std::fs::write(empty.path().join("merges.txt"), "#version: 0.2\nb c\n").unwrap();
    assert!(
        fault(empty.path()).contains("expected a tokenizer"),
        "{}",
        fault(empty.path())
    );
    std::fs::write(empty.path().join("vocab.json"), "{\"a\": 0, \"[CLS]\": 1}").unwrap();
    std::fs::write(empty.path().join("merges.txt"), "#version: 0.2\n").unwrap();
    assert!(
        fault(empty.path()).contains("tokens: expected the special tokens of GPT-2 or RoBERTa")
    );
    std::fs::write(empty.path().join("spm.model"), "not a model").unwrap();
    assert!(
        fault(empty.path()).contains("spm.model: byte"),
        "{}",
        fault(empty.path())
    );
    std::fs::write(
        empty.path().join("tokenizer.json"),
        "{\"version\": \"1.0\"}",
    )
    .unwrap();
    assert!(fault(empty.path()).contains("tokenizer.json: file: expected a tokenizer"));
    std::fs::write(empty.path().join("tokenizer_config.json"), "[").unwrap();
    assert!(fault(empty.path()).contains("tokenizer_config.json: file: expected settings"));
}

#[test]
fn a_length_without_room_is_refused() {
    let Some(folder) = shared("bert-base-uncased") else {
        return;
    };
    let tokenizer = Tokenizer::load(&folder).unwrap();
    let fault = tokenizer.encode("a", Some("b"), 3).unwrap_err().to_string();
    assert!(
        fault.contains("max_length: expected more than the 3 special tokens, found 3"),
        "{fault}"
    );
    assert_eq!(tokenizer.encode("a b c", None, 3).unwrap().len(), 3);
}
