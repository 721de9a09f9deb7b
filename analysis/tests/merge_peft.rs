//! Merged by PEFT itself (`fixtures/merge/make_merge.py`): linear layers, GPT-2's Conv1D, convolutions,
//! tables, biases and whole tensors under every method that is read.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use rankwise_analysis::{Checkpoint, MergeOptions, merge};

/// Of the largest number of a tensor: PEFT's sums are in float64 here, but DoRA's norms, the residual
/// base of PiSSA and what we write are float32.
const SINGLE: f64 = 1e-6;

#[test]
fn every_method_gives_pefts_weights() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/merge");
    let base = fixtures.join("base.safetensors");
    let mut names: Vec<_> = fs::read_dir(&fixtures)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_dir())
        .collect();
    names.sort();
    assert_eq!(names.len(), 20);
    for adapter in names {
        let name = adapter.file_name().unwrap().to_string_lossy().into_owned();
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("merged");
        let initial = Some(adapter.join("initial")).filter(|path| path.is_dir());
        let options = MergeOptions {
            dtype: None,
            initial,
        };
        let file = adapter.join("adapter_model.safetensors");
        let merged = merge(&base, &file, &out, &options, |_, _| {});
        let merged = merged.unwrap_or_else(|error| panic!("{name}: {error}"));
        let known = Checkpoint::open(&adapter.join("merged.safetensors")).unwrap();
        let changed: BTreeSet<&str> = merged.tensors.iter().map(|t| t.name.as_str()).collect();
        assert_eq!(changed, known.names().collect(), "{name}");
        let ours = Checkpoint::open(&out).unwrap();
        for tensor in known.names() {
            assert_eq!(ours.shape(tensor), known.shape(tensor), "{name}: {tensor}");
            let theirs = known.read_f64(tensor).unwrap();
            let largest = theirs.iter().fold(0.0, |most: f64, x| most.max(x.abs()));
            for (ours, theirs) in ours.read_f64(tensor).unwrap().iter().zip(&theirs) {
                let error = (ours - theirs).abs();
                assert!(
                    error <= SINGLE * largest,
                    "{name}: {tensor} has {ours}, expected {theirs}"
                );
            }
        }
    }
}
