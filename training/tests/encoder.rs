//! The sentence encoder against the reference implementation (`training/reference/encoder_fixture.py`
//! makes the numbers), and its answers to damaged folders.

use std::fs;
use std::path::{Path, PathBuf};

use rankwise_training::{DeviceName, Precision, SentenceEncoder};
use safetensors::SafeTensors;

/// Reference and encoder both round float32 sums over 384 and 1,536 terms, six layers deep; the
/// reference itself differs from float64 by 1.1e-6.
const TOLERANCE: f64 = 1e-5;

/// all-MiniLM-L6-v2: `$RANKWISE_MINILM`, or `target/minilm` of the workspace.
fn model() -> Option<PathBuf> {
    let folder = std::env::var_os("RANKWISE_MINILM").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/minilm"),
        PathBuf::from,
    );
    if folder.join("model.safetensors").is_file() {
        return Some(folder);
    }
    eprintln!(
        "skipped: no all-MiniLM-L6-v2 in {}; data/README.md says where it is",
        folder.display()
    );
    None
}

#[test]
fn features_agree_with_the_reference_alone_and_in_a_batch() {
    let Some(folder) = model() else { return };
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("reference/encoder_fixture.safetensors");
    let bytes = fs::read(path).unwrap();
    let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
    let notes = &header.metadata().as_ref().unwrap()["rankwise"];
    let notes: serde_json::Value = serde_json::from_str(notes).unwrap();
    let texts: Vec<&str> = notes["sentences"]
        .as_array()
        .unwrap()
        .iter()
        .map(|text| text.as_str().unwrap())
        .collect();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let integers = |name: &str| -> Vec<usize> {
        let view = tensors.tensor(name).unwrap();
        let eights = view.data().as_chunks::<8>().0.iter();
        eights
            .map(|&eight| i64::from_le_bytes(eight) as usize)
            .collect()
    };
    let (ids, offsets) = (integers("ids"), integers("offsets"));
    let expected: Vec<f64> = tensors
        .tensor("features")
        .unwrap()
        .data()
        .as_chunks::<4>()
        .0
        .iter()
        .map(|&four| f64::from(f32::from_le_bytes(four)))
        .collect();

    let encoder = SentenceEncoder::load(&folder, Precision::F32, DeviceName::Cpu).unwrap();
    for (index, text) in texts.iter().enumerate() {
        let ours: Vec<usize> = encoder
            .token_ids(text)
            .unwrap()
            .into_iter()
            .map(|id| id as usize)
            .collect();
        assert_eq!(ours, ids[offsets[index]..offsets[index + 1]], "{text:?}");
    }
    let together = encoder.encode(&texts, |_| {}).unwrap();
    let alone: Vec<f64> = texts
        .iter()
        .flat_map(|text| encoder.encode(&[text], |_| {}).unwrap())
        .collect();
    for features in [together, alone] {
        assert_eq!(features.len(), expected.len());
        let worst = features
            .iter()
            .zip(&expected)
            .fold(0.0_f64, |worst, (a, b)| worst.max((a - b).abs()));
        assert!(worst < TOLERANCE, "{worst}");
    }
}

fn message(files: &[(&str, &str)]) -> String {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        fs::write(folder.path().join(name), text).unwrap();
    }
    match SentenceEncoder::load(folder.path(), Precision::F32, DeviceName::Cpu) {
        Ok(_) => panic!("a damaged folder was loaded"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn damaged_folders_are_refused_by_file_and_key() {
    let config = r#"{"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2,
        "intermediate_size": 16, "max_position_embeddings": 4, "vocab_size": 5,
        "layer_norm_eps": 1e-12, "hidden_act": "gelu"}"#;
    assert!(message(&[]).contains("config.json"));
    let relu = config.replace("\"gelu\"", "\"relu\"");
    let relu = message(&[("config.json", &relu)]);
    assert!(
        relu.contains("hidden_act: expected gelu, found relu"),
        "{relu}"
    );
    let heads = config.replace("heads\": 2", "heads\": 3");
    let heads = message(&[("config.json", &heads)]);
    assert!(
        heads.contains("num_attention_heads: expected a divisor"),
        "{heads}"
    );
    assert!(message(&[("config.json", config)]).contains("model.safetensors"));
    let cut = message(&[("config.json", config), ("model.safetensors", "\u{1}\u{2}")]);
    assert!(cut.contains("a whole safetensors file"), "{cut}");
    let empty = "\u{2}\0\0\0\0\0\0\0{}";
    let empty = message(&[("config.json", config), ("model.safetensors", empty)]);
    assert!(
        empty.contains("tensor embeddings.word_embeddings.weight"),
        "{empty}"
    );
}
