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
        r#"{"pad_token": {"content": "<pad>"}, "mask_token": {"content": "<mask>", "lstrip": true}}"#,
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

/// A folder of a case of `added.py`.
fn small(known: &Value, files: &serde_json::Map<String, Value>) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let vocabulary = |value: &mut Value| {
        if let Some(name) = value.as_str() {
            *value = known["vocabularies"][name].clone();
        }
    };
    for (name, content) in files {
        let mut content = match content.as_str() {
            Some("=") => known["shared"][name].clone(),
            _ => content.clone(),
        };
        match name.as_str() {
            "vocab.json" => vocabulary(&mut content),
            "tokenizer.json" => vocabulary(&mut content["model"]["vocab"]),
            _ => {}
        }
        let text = content.as_str().map(str::to_owned);
        let text = text.unwrap_or_else(|| content.to_string());
        let bytes = match name.as_str() {
            "spm.model" => {
                let pairs = text.as_bytes().chunks(2);
                let pairs = pairs.map(|pair| std::str::from_utf8(pair).unwrap());
                pairs
                    .map(|pair| u8::from_str_radix(pair, 16).unwrap())
                    .collect()
            }
            _ => text.into_bytes(),
        };
        std::fs::write(folder.path().join(name), bytes).unwrap();
    }
    folder
}

/// Added tokens with their flags, and the settings of `tokenizer_config.json`, beside vocabularies and
/// beside a `tokenizer.json`: ids and types of the reference's.
#[test]
fn settings_are_obeyed_as_the_reference_obeys_them() {
    let known = json("settings.json");
    let lines = known["lines"].as_array().unwrap();
    let texts = known["texts"].as_array().unwrap();
    let line = |index: &Value| Some(lines[index.as_u64()? as usize].as_str().unwrap());
    let mut seen = 0;
    for case in known["cases"].as_array().unwrap() {
        let name = case["name"].as_str().unwrap();
        let folder = small(&known, case["files"].as_object().unwrap());
        let tokenizer = Tokenizer::load(folder.path()).unwrap();
        for (text, found) in texts.iter().zip(case["found"].as_array().unwrap()) {
            if found.is_null() {
                continue;
            }
            let length = text[2].as_u64().unwrap() as usize;
            let (first, second) = (line(&text[0]).unwrap(), line(&text[1]));
            let encoding = tokenizer.encode(first, second, length).unwrap();
            let text = format!("{name}: {first:?} and {second:?} cut to {length}");
            assert_eq!(of(&encoding.ids), numbers(&found[0]), "{text}");
            let firsts = encoding.types.iter().filter(|kind| **kind == 0).count();
            assert_eq!(Some(firsts as u64), found[1].as_u64(), "{text}");
            seen += 1;
        }
    }
    assert!(seen > 2000, "{seen}");
}

#[test]
fn what_the_class_sets_beside_a_description_is_said() {
    let known = json("settings.json");
    for case in known["cases"].as_array().unwrap() {
        let folder = small(&known, case["files"].as_object().unwrap());
        let tokenizer = Tokenizer::load(folder.path()).unwrap();
        let expected = match case["name"].as_str().unwrap() {
            "bert described, cased by the config" => "normalizer: lowercase is false, not true, as",
            "bert described cased, lower by the config" => "lowercase is true, not false, as",
            "bert described cased, nothing said" => {
                "strip_accents is null, not false, lowercase is true, not false, as"
            }
            "bert described, accents by the config" => "handle_chinese_chars is false, not true, ",
            "gpt2 described" | "roberta described" => {
                "pre_tokenizer: add_prefix_space is true, not false, as"
            }
            "gpt2 described, with a space" => "add_prefix_space is false, not true, as",
            _ => {
                assert_eq!(tokenizer.notes(), [""; 0], "{}", case["name"]);
                continue;
            }
        };
        let [note] = tokenizer.notes() else {
            panic!("{}: {:?}", case["name"], tokenizer.notes())
        };
        assert!(note.contains(expected), "{note}");
    }
}

#[test]
fn what_cannot_be_obeyed_names_file_and_key() {
    let known = json("settings.json");
    let fault = |case: &str, name: &str, content: &str| {
        let cases = known["cases"].as_array().unwrap();
        let case = cases.iter().find(|one| one["name"] == case).unwrap();
        let folder = small(&known, case["files"].as_object().unwrap());
        std::fs::write(folder.path().join(name), content).unwrap();
        Tokenizer::load(folder.path()).unwrap_err().to_string()
    };
    let config = "tokenizer_config.json";
    for (case, name, content, expected) in [
        // The reference would give it another id than the file says.
        (
            "bert",
            "added_tokens.json",
            r#"{"<x>": 500}"#,
            "added_tokens.json: added token \"<x>\": expected id",
        ),
        (
            "gpt2",
            "added_tokens.json",
            r#"{"<x>": "one"}"#,
            "added_tokens.json: token \"<x>\": expected an id",
        ),
        (
            "bert",
            config,
            r#"{"added_tokens_decoder": {"9": {"content": "<x>"}}}"#,
            "config.json: added token \"<x>\"",
        ),
        (
            "bert",
            config,
            r#"{"added_tokens_decoder": ["<x>"]}"#,
            "key added_tokens_decoder: expected tokens by",
        ),
        (
            "bert",
            config,
            r#"{"do_lower_case": "no"}"#,
            "key do_lower_case: expected true or false, found \"no\"",
        ),
        (
            "bert",
            config,
            r#"{"truncation_side": "top"}"#,
            "key truncation_side: expected \"left\" or",
        ),
        (
            "bert",
            config,
            r#"{"extra_special_tokens": 3}"#,
            "key extra_special_tokens: expected a list",
        ),
        (
            "bert",
            config,
            r#"{"tokenizer_class": "BertJapaneseTokenizer"}"#,
            "key tokenizer_class: expected BertTokenizer",
        ),
        (
            "bert",
            config,
            r#"{"tokenizer_class": "GPT2Tokenizer"}"#,
            "expected tokenizer.json, or vocab.json",
        ),
        (
            "bert",
            config,
            r#"{"cls_token": "<no>"}"#,
            "vocab.txt: tokens: expected BERT's [CLS]",
        ),
        (
            "gpt2",
            config,
            r#"{"tokenizer_class": "BertTokenizer"}"#,
            "tokenizer: expected tokenizer.json or vocab.txt",
        ),
        (
            "deberta",
            config,
            r#"{"do_lower_case": true}"#,
            "key do_lower_case: expected false, found true",
        ),
        (
            "deberta",
            config,
            r#"{"add_prefix_space": false}"#,
            "key add_prefix_space: expected true",
        ),
        (
            "deberta",
            config,
            r#"{"cls_token": "<s>"}"#,
            "key cls_token: expected \"[CLS]\"",
        ),
        (
            "deberta",
            config,
            r#"{"additional_special_tokens": [{"content": "a", "single_word": true}]}"#,
            "added token \"a\"",
        ),
        (
            "bert",
            "special_tokens_map.json",
            "[",
            "special_tokens_map.json: file: expected settings",
        ),
    ] {
        let found = fault(case, name, content);
        assert!(found.contains(expected), "{found}");
    }
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("sentencepiece.bpe.model"), "x").unwrap();
    let found = Tokenizer::load(folder.path()).unwrap_err().to_string();
    assert!(
        found.ends_with("found only sentencepiece.bpe.model"),
        "{found}"
    );
}

/// A token that was added without a row of the embedding is found when a text has it.
#[test]
fn ids_beyond_the_models_rows_are_named() {
    let known = json("settings.json");
    let cases = known["cases"].as_array().unwrap();
    for (name, text) in [
        ("bert added", "the <ticket> x"),
        ("deberta added", "the <user>x"),
    ] {
        let case = cases.iter().find(|one| one["name"] == name).unwrap();
        let folder = small(&known, case["files"].as_object().unwrap());
        let tokenizer = Tokenizer::load(folder.path()).unwrap();
        let ids = tokenizer.encode(text, None, 64).unwrap().ids;
        let most = *ids.iter().max().unwrap() as usize;
        let few = tokenizer.with_rows(most);
        let fault = few.encode(text, None, 64).unwrap_err().to_string();
        let token = text.split(['<', '>']).nth(1).unwrap();
        assert!(
            fault.contains(&format!(
                "token \"<{token}>\": expected an id below {most}, the rows"
            )) && fault.ends_with(&format!("found {most}")),
            "{fault}"
        );
        assert!(few.encode("the printer", None, 64).is_ok());
        // What is cut off needs no row.
        assert!(
            few.encode("the printer is <ticket> <user>", None, 4)
                .is_ok()
        );
        assert!(few.with_rows(most + 1).encode(text, None, 64).is_ok());
    }
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
