//! Adapters of PEFT merged into their base models: the merged checkpoint, as a model without an
//! adapter, against the logits that PEFT's own model gives (`tests/fixtures/models/NOTES.md`).

use std::fs;
use std::path::{Path, PathBuf};

use candle_core::DType;
use rankwise_analysis::{Merge, MergeOptions, Merged, merge};
use serde_json::Value;

use super::case::{Case, LOGITS, distance, flat, tensors};

/// Of logits in float64, absolute: the merged weights are rounded to float32 (6e-8 of weights near 1)
/// before they are read again, which moves the logits by 6e-7 at most.
const LOGITS64: f64 = 2e-6;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models")
}

/// Merges `adapter` into `base` and compares both logits with those of the folder `known`.
fn check(base: &str, adapter: &str, initial: Option<&str>, known: &str) -> Merged {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("merged");
    let peft = fixtures().join("peft");
    let options = MergeOptions {
        initial: initial.map(|initial| peft.join(initial)),
        ..MergeOptions::default()
    };
    let base_folder = fixtures().join(base);
    let merged = merge(&base_folder, &peft.join(adapter), &out, &options, |_, _| {});
    let merged = merged.unwrap_or_else(|error| panic!("{adapter}: {error}"));
    let inputs = base.trim_end_matches("-bin").trim_end_matches("-sharded");
    let mut case = Case::read(inputs);
    case.folder = out;
    let known = tensors(&peft.join(known).join("case.safetensors"));
    for (dtype, name, allowed) in [
        (DType::F32, "logits", LOGITS),
        (DType::F64, "logits64", LOGITS64),
    ] {
        let model = case.load(dtype);
        assert!(model.drawn.is_empty(), "{adapter}: {:?}", model.drawn);
        assert!(model.unused.is_empty(), "{adapter}: {:?}", model.unused);
        let Some((_, _, theirs)) = known.iter().find(|(own, ..)| own == name) else {
            assert_eq!(name, "logits64", "{adapter}");
            continue;
        };
        let error = distance(&flat(&case.outputs(&model, dtype)), theirs);
        assert!(error < allowed, "{adapter}: {name} differ by {error}");
    }
    merged
}

#[test]
fn every_adapter_of_peft() {
    let mut count = 0;
    let mut folders: Vec<_> = fs::read_dir(fixtures().join("peft"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_dir())
        .collect();
    folders.sort();
    for folder in folders {
        let name = folder.file_name().unwrap().to_str().unwrap().to_owned();
        let notes = fs::read_to_string(folder.join("case.json")).unwrap();
        let notes: Value = serde_json::from_str(&notes).unwrap();
        let base = notes["checkpoint"].as_str().unwrap();
        let changes_base = name.ends_with("pissa") || name.ends_with("olora");
        let initial = changes_base.then(|| format!("{name}/initial"));
        let merged = check(base, &name, initial.as_deref(), &name);
        // Every linear layer of both blocks, four or six of them, and the head.
        let of = |what| {
            merged
                .tensors
                .iter()
                .filter(|tensor| tensor.merge == what)
                .count()
        };
        assert!([8, 12].contains(&of(Merge::Merged)), "{name}");
        assert!(of(Merge::Replaced) > 0, "{name}");
        count += 1;
    }
    assert_eq!(count, 28);
}

/// The files of the base may be a zip of PyTorch's or shards.
#[test]
fn bases_in_other_containers() {
    for base in ["bert-cls-bin", "bert-cls-sharded"] {
        let merged = check(base, "bert-cls-dora", None, "bert-cls-dora");
        let expected: &[&str] = match base {
            "bert-cls-bin" => &["model.safetensors"],
            _ => &[
                "model-00001-of-00002.safetensors",
                "model-00002-of-00002.safetensors",
            ],
        };
        assert_eq!(merged.files, expected);
    }
}
