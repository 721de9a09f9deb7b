//! Files with more than was trained in them, tied models, repeated layers, quantised bases and second
//! files: against what PEFT computes (`fixtures/states/make_states.py`) and small numbers by hand.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use rankwise_analysis::{
    AuditOptions, Checkpoint, CompareOptions, ExtractOptions, FindingKind, MergeOptions,
    PairOptions, PeftAdapter, RankRule, ResizeOptions, audit, audit_pair, compare, extract, merge,
    resize,
};
use safetensors::Dtype;
use serde_json::{Value, json};

mod support;

/// Of float32 factors, and of what is written in float32.
const SINGLE: f64 = 1e-6;

fn fixture(name: &str) -> PathBuf {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/states");
    fixtures.join(name)
}

fn with_base(name: &str) -> AuditOptions {
    AuditOptions {
        base: Some(fixture(name)),
        ..AuditOptions::default()
    }
}

fn assert_close(ours: &[f64], theirs: &[f64], what: &str) {
    let largest = theirs.iter().fold(0.0, |most: f64, x| most.max(x.abs()));
    assert_eq!(ours.len(), theirs.len(), "{what}");
    for (ours, theirs) in ours.iter().zip(theirs) {
        let error = (ours - theirs).abs();
        assert!(error <= SINGLE * largest, "{what}: {ours} for {theirs}");
    }
}

/// Merges a case into its base and compares every tensor; returns `config.json` and the notes.
fn merged(case: &str, base: &str) -> (Value, String) {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("merged");
    let (base, adapter) = (fixture(base), fixture(case));
    let adapter = adapter.join("adapter_model.safetensors");
    let merged = merge(&base, &adapter, &out, &MergeOptions::default(), |_, _| {});
    let merged = merged.unwrap_or_else(|error| panic!("{case}: {error}"));
    let expected = Checkpoint::open(&fixture(case).join("expected.safetensors")).unwrap();
    let (ours, base) = (
        Checkpoint::open(&out).unwrap(),
        Checkpoint::open(&base).unwrap(),
    );
    let changed: BTreeSet<&str> = expected.names().collect();
    for name in changed.iter().copied().chain(base.names()) {
        let source = if changed.contains(name) {
            &expected
        } else {
            &base
        };
        let what = format!("{case}: {name}");
        assert_close(
            &ours.read_f64(name).unwrap(),
            &source.read_f64(name).unwrap(),
            &what,
        );
    }
    let text = fs::read_to_string(out.join("config.json")).unwrap();
    (
        serde_json::from_str(&text).unwrap(),
        merged.notes.join("\n"),
    )
}

#[test]
fn frozen_copies_are_no_updates() {
    for (case, trained, copies) in [("table", 4, 2), ("whole", 3, 21), ("whole-table", 3, 21)] {
        let found = audit(
            &fixture(case).join("adapter_model.safetensors"),
            &with_base("base"),
        );
        let found = found.unwrap();
        assert!(found.refused.is_empty(), "{case}: {:?}", found.refused);
        let adapter = &found.adapters[0];
        assert_eq!(adapter.modules.len(), trained, "{case}");
        let kinds: Vec<_> = adapter.findings.iter().map(|f| f.kind).collect();
        assert!(!kinds.contains(&FindingKind::ZeroUpdate), "{case}");
        let mut frozen = adapter.findings.iter();
        let frozen = frozen
            .find(|f| f.kind == FindingKind::FrozenCopies)
            .unwrap();
        let count = format!(": {copies} (");
        assert!(
            frozen.message.contains(&count),
            "{case}: {}",
            frozen.message
        );
        let (_, notes) = merged(case, "base");
        assert!(notes.contains(&count), "{case}: {notes}");
    }
}

#[test]
fn a_copy_of_another_base_is_told() {
    // The base's numbers and others.
    let folder = tempfile::tempdir().unwrap();
    let other = folder.path().join("base");
    fs::create_dir(&other).unwrap();
    let base = Checkpoint::open(&fixture("base")).unwrap();
    let mut tensors = Vec::new();
    for name in base.names() {
        let mut values = base.read(name).unwrap();
        if name.contains("embed_tokens") || name.contains("k_proj") {
            values[0] += 1.0;
        }
        tensors.extend(support::tensor(name, base.shape(name).unwrap(), &values));
    }
    fs::write(other.join("model.safetensors"), support::bytes(&tensors)).unwrap();
    let merged = |case: &str, out: &str| {
        let adapter = fixture(case).join("adapter_model.safetensors");
        let out = folder.path().join(out);
        merge(&other, &adapter, &out, &MergeOptions::default(), |_, _| {})
    };
    // PEFT loads the table that it saved, and adds the update to that.
    let notes = merged("table", "table").unwrap().notes.join("\n");
    assert!(
        notes.contains("embed_tokens.base_layer.weight differs"),
        "{notes}"
    );
    let expected = Checkpoint::open(&fixture("table").join("expected.safetensors")).unwrap();
    let ours = Checkpoint::open(&folder.path().join("table")).unwrap();
    let name = "model.embed_tokens.weight";
    assert_close(
        &ours.read_f64(name).unwrap(),
        &expected.read_f64(name).unwrap(),
        name,
    );
    let error = merged("whole", "whole").unwrap_err().to_string();
    assert!(error.contains("trained on another base"), "{error}");
}

#[test]
fn tied_models_are_untied_where_one_side_was_trained() {
    for (case, is_tied) in [
        ("tied-head", false),
        ("tied-table", false),
        ("tied-lora-head", false),
        ("tied-lora-table", false),
        // PEFT kept both one (`ensure_weight_tying`); new tokens change both as one.
        ("tied-both", true),
        ("tied-tokens", true),
    ] {
        let (config, notes) = merged(case, "tied");
        assert_eq!(config["tie_word_embeddings"], json!(is_tied), "{case}");
        assert_eq!(
            notes.contains("tie_word_embeddings is false now"),
            !is_tied,
            "{case}: {notes}"
        );
    }
}

/// The error of merging `case` into a base of these float32 tensors and this configuration.
fn error_with(case: &str, base: &[(&str, [usize; 2])], config: &Value) -> String {
    let folder = tempfile::tempdir().unwrap();
    let (base, out) = (
        write_base(folder.path(), base, config),
        folder.path().join("out"),
    );
    let adapter = fixture(case).join("adapter_model.safetensors");
    let error = merge(&base, &adapter, &out, &MergeOptions::default(), |_, _| {});
    error.unwrap_err().to_string()
}

fn write_base(folder: &Path, tensors: &[(&str, [usize; 2])], config: &Value) -> PathBuf {
    let base = folder.join("base");
    fs::create_dir(&base).unwrap();
    let bytes = |shape: [usize; 2]| -> Vec<u8> {
        let numbers = (0..shape[0] * shape[1]).map(|i| i as f32);
        numbers.flat_map(f32::to_le_bytes).collect()
    };
    let data: Vec<_> = tensors
        .iter()
        .map(|&(name, s)| (name, s, bytes(s)))
        .collect();
    let views = data.iter().map(|(name, shape, bytes)| {
        // A bias is a vector.
        let shape = if shape[0] == 1 {
            vec![shape[1]]
        } else {
            shape.to_vec()
        };
        let view = safetensors::tensor::TensorView::new(Dtype::F32, shape, bytes);
        (*name, view.unwrap())
    });
    safetensors::serialize_to_file(views, None, &base.join("model.safetensors")).unwrap();
    fs::write(base.join("config.json"), config.to_string()).unwrap();
    base
}

/// An adapter of one update.
fn one_update(folder: &Path, module: &str, inputs: usize, outputs: usize) -> PathBuf {
    let adapter = folder.join("adapter");
    PeftAdapter {
        module: module.to_owned(),
        rank: 1,
        inputs,
        outputs,
        alpha: 1.0,
        a: vec![1.0; inputs],
        b: vec![1.0; outputs],
        bias: None,
    }
    .write(&adapter)
    .unwrap();
    adapter
}

#[test]
fn a_masked_models_untied_head_keeps_its_bias() {
    let folder = tempfile::tempdir().unwrap();
    let config = json!({"architectures": ["BertForMaskedLM"], "tie_word_embeddings": true});
    let tensors = [
        ("bert.embeddings.word_embeddings.weight", [4, 2]),
        ("cls.predictions.transform.dense.weight", [2, 2]),
        ("cls.predictions.bias", [1, 4]),
    ];
    let base = write_base(folder.path(), &tensors, &config);
    let adapter = one_update(folder.path(), "cls.predictions.decoder", 2, 4);
    let out = folder.path().join("out");
    merge(&base, &adapter, &out, &MergeOptions::default(), |_, _| {}).unwrap();
    let ours = Checkpoint::open(&out).unwrap();
    for name in ["cls.predictions.bias", "cls.predictions.decoder.bias"] {
        assert_eq!(ours.read_f64(name).unwrap(), [0.0, 1.0, 2.0, 3.0], "{name}");
    }
    let head = ours.read_f64("cls.predictions.decoder.weight").unwrap();
    assert_eq!(head, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]);
}

#[test]
fn heads_of_other_names_are_untied() {
    for (kind, table, head) in [
        ("whisper", "model.decoder.embed_tokens", "proj_out"),
        ("gpt_neox", "gpt_neox.embed_in", "embed_out"),
        ("trocr", "model.decoder.embed_tokens", "output_projection"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let config = json!({"model_type": kind, "tie_word_embeddings": true});
        let table = format!("{table}.weight");
        let base = write_base(folder.path(), &[(&table, [4, 2])], &config);
        let adapter = one_update(folder.path(), head, 2, 4);
        let out = folder.path().join("out");
        merge(&base, &adapter, &out, &MergeOptions::default(), |_, _| {}).unwrap();
        let ours = Checkpoint::open(&out).unwrap();
        let values = ours.read_f64(&format!("{head}.weight")).unwrap();
        assert_eq!(values, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0], "{kind}");
        let text = fs::read_to_string(out.join("config.json")).unwrap();
        assert!(
            text.contains("\"tie_word_embeddings\": false"),
            "{kind}: {text}"
        );
    }
}

#[test]
fn a_table_of_encoder_and_decoder_is_not_untied() {
    let folder = tempfile::tempdir().unwrap();
    let config = json!({
        "architectures": ["MarianMTModel"], "model_type": "marian", "tie_word_embeddings": true,
    });
    let base = write_base(folder.path(), &[("model.shared.weight", [4, 2])], &config);
    let adapter = one_update(folder.path(), "lm_head", 2, 4);
    let out = folder.path().join("out");
    let error = merge(&base, &adapter, &out, &MergeOptions::default(), |_, _| {});
    let error = error.unwrap_err().to_string();
    assert!(
        error.contains("the encoder's and the decoder's tables"),
        "{error}"
    );
}

#[test]
fn a_tied_head_without_a_known_name_is_refused() {
    let config = json!({
        "architectures": ["XLMWithLMHeadModel"], "model_type": "xlm", "tie_word_embeddings": true,
    });
    let tensors = [
        ("model.embed_tokens.weight", [12, 8]),
        ("model.layers.0.self_attn.q_proj.weight", [8, 8]),
        ("model.layers.1.self_attn.q_proj.weight", [8, 8]),
    ];
    let error = error_with("tied-table", &tensors, &config);
    let expected =
        "the output layer is tied to model.embed_tokens.weight under a name that is not known";
    assert!(error.contains(expected), "{error}");
}

#[test]
fn a_model_that_scales_where_it_ties_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(fixture("tied")).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
    }
    let path = folder.path().join("config.json");
    let text = fs::read_to_string(&path)
        .unwrap()
        .replace("\"llama\"", "\"t5\"");
    fs::write(&path, text).unwrap();
    let adapter = fixture("tied-head/adapter_model.safetensors");
    let out = folder.path().join("out");
    let error = merge(
        folder.path(),
        &adapter,
        &out,
        &MergeOptions::default(),
        |_, _| {},
    );
    let error = error.unwrap_err().to_string();
    assert!(error.contains("a t5 computes something else"), "{error}");
}

#[test]
fn repeated_layers_stand_on_the_bases() {
    let file = fixture("replicated/adapter_model.safetensors");
    let found = audit(&file, &with_base("base")).unwrap();
    let expected = Checkpoint::open(&fixture("replicated/expected.safetensors")).unwrap();
    let modules = &found.adapters[0].modules;
    assert_eq!(modules.len(), 3, "{:?}", found.refused);
    for module in modules {
        // ‖ΔW‖_F² and tr (ΔW ΔWᵀ)² tell the layers apart.
        let values = expected.read_f64(&module.name).unwrap();
        let spectrum = module.spectrum.as_ref().unwrap();
        let energy: f64 = values.iter().map(|x| x * x).sum();
        let ours: f64 = spectrum.singular_values.iter().map(|s| s * s).sum();
        assert!((energy - ours).abs() <= SINGLE * energy, "{}", module.name);
    }
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let error = merge(
        &fixture("base"),
        &file,
        &out,
        &MergeOptions::default(),
        |_, _| {},
    );
    assert!(error.unwrap_err().to_string().contains("layer_replication"));
    assert!(!out.exists());
}

#[test]
fn an_activated_adapter_is_measured_and_not_merged() {
    let config =
        json!({"peft_type": "LORA", "r": 2, "lora_alpha": 2, "alora_invocation_tokens": [1]});
    let folder = support::folder(&support::pair(), Some(config));
    let found = support::audited(folder.path());
    let kinds: Vec<_> = found.adapters[0].findings.iter().map(|f| f.kind).collect();
    assert!(kinds.contains(&FindingKind::NotEverywhere));
    let base = support::tensor("q.weight", &[2, 3], &[1.0; 6]);
    let path = folder.path().join("base.safetensors");
    fs::write(&path, support::bytes(&base)).unwrap();
    let adapter = folder.path().join("adapter_model.safetensors");
    let out = folder.path().join("out");
    let error = merge(&path, &adapter, &out, &MergeOptions::default(), |_, _| {});
    let error = error.unwrap_err().to_string();
    assert!(error.contains("alora_invocation_tokens"), "{error}");
}

#[test]
fn of_two_containers_the_safetensors_are_taken() {
    let folder = support::folder(
        &support::pair(),
        Some(json!({"peft_type": "LORA", "r": 2, "lora_alpha": 2})),
    );
    // Nothing that could be read.
    fs::write(folder.path().join("adapter_model.bin"), b"PK\x03\x04").unwrap();
    let found = support::audited(folder.path());
    assert!(found.refused.is_empty(), "{:?}", found.refused);
    let mut findings = found.adapters[0].findings.iter();
    let passed_over = findings
        .find(|f| f.kind == FindingKind::PassedOver)
        .unwrap();
    assert!(passed_over.message.starts_with("adapter_model.bin"));
    let base = folder.path().join("base");
    fs::create_dir(&base).unwrap();
    let weight = support::tensor("q.weight", &[2, 3], &[1.0; 6]);
    fs::write(base.join("model.safetensors"), support::bytes(&weight)).unwrap();
    fs::write(base.join("pytorch_model.bin"), b"PK\x03\x04").unwrap();
    let adapter = tempfile::tempdir().unwrap();
    for file in [
        "adapter_config.json",
        "adapter_model.safetensors",
        "adapter_model.bin",
    ] {
        fs::copy(folder.path().join(file), adapter.path().join(file)).unwrap();
    }
    let out = folder.path().join("out");
    let merged = merge(
        &base,
        adapter.path(),
        &out,
        &MergeOptions::default(),
        |_, _| {},
    )
    .unwrap();
    let notes = merged.notes.join("\n");
    for name in ["adapter_model.bin", "pytorch_model.bin"] {
        assert!(
            notes.contains(&format!("{name} was passed over"))
                || notes.contains(&format!("{name} in the same folder")),
            "{notes}"
        );
    }
}

/// One 8-bit weight of 2 × 3 in three forms, with what it means.
fn quantised() -> Vec<(support::Tensors<'static>, Vec<f64>)> {
    let numbers: Vec<u8> = [1_i8, -2, 3, 4, 5, -6]
        .iter()
        .map(|x| x.to_le_bytes()[0])
        .collect();
    let eight = || vec![("q.weight", Dtype::I8, vec![2, 3], numbers.clone())];
    let with = |name, shape: &[usize], values: &[f32]| {
        let mut tensors = eight();
        tensors.extend(support::tensor(name, shape, values));
        tensors
    };
    vec![
        (
            with("q.SCB", &[2], &[127.0, 254.0]),
            vec![1.0, -2.0, 3.0, 8.0, 10.0, -12.0],
        ),
        (
            with("q.weight_scale", &[2, 1], &[1.0, 0.5]),
            vec![1.0, -2.0, 3.0, 2.0, 2.5, -3.0],
        ),
        (
            with("q.weight_scale", &[1, 3], &[1.0, 0.5, 2.0]),
            vec![1.0, -1.0, 6.0, 4.0, 2.5, -12.0],
        ),
        (
            with("q.scale_weight", &[], &[0.5]),
            vec![0.5, -1.0, 1.5, 2.0, 2.5, -3.0],
        ),
    ]
}

#[test]
fn small_numbers_are_read_with_their_scales() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    for (tensors, expected) in quantised() {
        fs::write(&path, support::bytes(&tensors)).unwrap();
        let checkpoint = Checkpoint::open(folder.path()).unwrap();
        assert_eq!(checkpoint.read_f64("q.weight").unwrap(), expected);
        let single: Vec<f64> = checkpoint
            .read("q.weight")
            .unwrap()
            .into_iter()
            .map(f64::from)
            .collect();
        assert_eq!(single, expected);
    }
    // Blocks of FP8, by the configuration.
    let (scaled, plain) = (
        Checkpoint::open(&fixture("scaled")).unwrap(),
        Checkpoint::open(&fixture("dequantised")).unwrap(),
    );
    for name in plain.names() {
        assert_eq!(
            scaled.read_f64(name).unwrap(),
            plain.read_f64(name).unwrap(),
            "{name}"
        );
    }
}

#[test]
fn quantised_weights_are_scaled_or_refused_everywhere() {
    // The update of DoRA follows from the weight.
    let file = fixture("replicated/adapter_model.safetensors");
    let norms = |base: &str| -> Vec<f64> {
        let found = audit(&file, &with_base(base)).unwrap();
        let modules = found.adapters[0].modules.iter();
        modules
            .map(|m| m.spectrum.as_ref().unwrap().measures.frobenius_norm)
            .collect()
    };
    assert_close(&norms("scaled"), &norms("dequantised"), "DoRA");
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let adapter = fixture("whole/adapter_model.safetensors");
    let error = merge(
        &fixture("scaled"),
        &adapter,
        &out,
        &MergeOptions::default(),
        |_, _| {},
    );
    let error = error.unwrap_err().to_string();
    assert!(error.contains("q_proj.weight_scale_inv"), "{error}");
    let found = audit_pair(
        &fixture("scaled"),
        &fixture("base"),
        &PairOptions::default(),
        |_, _| {},
    );
    let found = found.unwrap();
    let is_small = |name: &str| name.contains("proj");
    assert!(!found.matrices.iter().any(|matrix| is_small(&matrix.name)));
    let named = found.unmatched.iter().filter(|other| is_small(&other.name));
    assert!(
        named
            .filter(|other| other.reason.contains("scale_inv"))
            .count()
            >= 14
    );
    let options = ExtractOptions {
        rule: Some(RankRule::Rank(1)),
        ..ExtractOptions::default()
    };
    let error = extract(&fixture("scaled"), &fixture("base"), &out, &options).unwrap_err();
    assert!(error.to_string().contains("quantised"), "{error}");
    assert!(!out.exists());
}

#[test]
fn packed_weights_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let bytes = |count| vec![0; count];
    let four = |beside: &'static str| {
        vec![
            ("q.weight", Dtype::U8, vec![3, 1], bytes(3)),
            (beside, Dtype::F32, vec![1], bytes(4)),
        ]
    };
    let packed = vec![
        ("q.qweight", Dtype::I32, vec![1, 3], bytes(12)),
        ("q.qzeros", Dtype::I32, vec![1, 1], bytes(4)),
        ("q.scales", Dtype::F16, vec![1, 3], bytes(6)),
    ];
    let alone = vec![("q.weight", Dtype::I8, vec![2, 3], bytes(6))];
    let blocks = vec![
        ("q.weight_blocks", Dtype::U8, vec![2, 1, 16], bytes(32)),
        ("q.weight_scales", Dtype::U8, vec![2, 1], bytes(2)),
    ];
    let config = json!({"peft_type": "LORA", "r": 2, "lora_alpha": 2, "use_dora": true});
    let mut tensors = support::pair();
    tensors.extend(support::tensor(
        "base_model.model.q.lora_magnitude_vector",
        &[2],
        &[1.0; 2],
    ));
    let adapter = support::folder(&tensors, Some(config));
    for (tensors, mark) in [
        (four("q.weight.absmax"), "absmax"),
        (packed, "q.qweight"),
        (alone, "without its scales"),
        (blocks, "MXFP4"),
    ] {
        fs::write(&path, support::bytes(&tensors)).unwrap();
        let options = AuditOptions {
            base: Some(folder.path().to_path_buf()),
            ..AuditOptions::default()
        };
        let found = audit(adapter.path(), &options).unwrap();
        let reason = &found.refused[0].reason;
        assert!(reason.contains(mark), "{reason}");
        let out = folder.path().join("out");
        let error = merge(
            folder.path(),
            adapter.path(),
            &out,
            &MergeOptions::default(),
            |_, _| {},
        );
        let error = error.unwrap_err().to_string();
        assert!(error.contains(mark), "{error}");
    }
}

/// A checkpoint of two layers and a table, with a prefix.
fn checkpoint(path: &Path, prefix: &str, change: f32, more: &[&str]) {
    fs::create_dir_all(path).unwrap();
    let names = ["layer.0.q.weight", "layer.1.q.weight", "norm.weight"];
    let names: Vec<String> = names.iter().map(|name| format!("{prefix}{name}")).collect();
    let mut tensors = Vec::new();
    for (at, name) in names
        .iter()
        .map(String::as_str)
        .chain(more.iter().copied())
        .enumerate()
    {
        let values: Vec<f32> = (0..6)
            .map(|i| (i + at) as f32 + change * (i % 2) as f32)
            .collect();
        let shape: &[usize] = if name.contains("norm") { &[6] } else { &[2, 3] };
        tensors.extend(support::tensor(name, shape, &values));
    }
    fs::write(path.join("model.safetensors"), support::bytes(&tensors)).unwrap();
}

#[test]
fn checkpoints_meet_with_and_without_a_prefix() {
    let folder = tempfile::tempdir().unwrap();
    let [bare, framed] = ["bare", "framed"].map(|name| folder.path().join(name));
    checkpoint(&bare, "", 0.0, &[]);
    checkpoint(&framed, "bert.", 1.0, &["head.weight"]);
    for (base, tuned, own) in [(&bare, &framed, ""), (&framed, &bare, "bert.")] {
        let found = audit_pair(base, tuned, &PairOptions::default(), |_, _| {}).unwrap();
        assert_eq!(found.matrices.len(), 2);
        // ±1 in every second place: two rows of (0, 1, 0) and (1, 0, 1).
        let values = &found.matrices[0].singular_values;
        assert_close(values, &[2_f64.sqrt(), 1.0], "difference");
        assert!(
            found.notes[0].contains("begin with bert."),
            "{:?}",
            found.notes
        );
        let options = ExtractOptions {
            rule: Some(RankRule::Rank(2)),
            ..ExtractOptions::default()
        };
        let out = folder.path().join(format!("adapter-{own}"));
        let extracted = extract(base, tuned, &out, &options).unwrap();
        let names: Vec<&str> = extracted.modules.iter().map(|m| m.name.as_str()).collect();
        // As the base names them, on which the adapter is loaded.
        assert_eq!(
            names,
            ["layer.0.q", "layer.1.q"].map(|name| format!("{own}{name}"))
        );
        let back = folder.path().join(format!("merged-{own}"));
        merge(base, &out, &back, &MergeOptions::default(), |_, _| {}).unwrap();
        let (ours, theirs) = (
            Checkpoint::open(&back).unwrap(),
            Checkpoint::open(tuned).unwrap(),
        );
        let other = if own.is_empty() { "bert." } else { "" };
        assert_close(
            &ours.read_f64(&format!("{own}layer.1.q.weight")).unwrap(),
            &theirs
                .read_f64(&format!("{other}layer.1.q.weight"))
                .unwrap(),
            "there and back",
        );
    }
    let adapters = ["adapter-", "adapter-bert."].map(|name| folder.path().join(name));
    let compared = compare(&adapters, &CompareOptions::default(), |_, _| {}).unwrap();
    assert_eq!(compared.pairs.len(), 2);
    assert!(
        compared.notes[0].contains("begin with bert."),
        "{:?}",
        compared.notes
    );
    // One is the other's negative.
    assert!(
        compared
            .pairs
            .iter()
            .all(|pair| (pair.cosine.unwrap() + 1.0).abs() < SINGLE)
    );
}

#[test]
fn an_adapter_that_changes_nothing_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let base = folder.path().join("base");
    checkpoint(&base, "", 0.0, &[]);
    for (name, b, mark) in [
        (
            "zero",
            0.0,
            "the merged model is the base: in all 1 tensors the adapter's change is zero",
        ),
        (
            "tiny",
            1e-12,
            "rounding to F32 takes the adapter's change away",
        ),
        ("some", 1.0, ""),
    ] {
        let adapter = folder.path().join(name);
        PeftAdapter {
            module: "layer.1.q".to_owned(),
            rank: 1,
            inputs: 3,
            outputs: 2,
            alpha: 1.0,
            a: vec![1.0; 3],
            b: vec![b; 2],
            bias: None,
        }
        .write(&adapter)
        .unwrap();
        let out = folder.path().join(format!("merged-{name}"));
        let merged = merge(&base, &adapter, &out, &MergeOptions::default(), |_, _| {}).unwrap();
        let notes = merged.notes.join("\n");
        assert!(notes.contains(mark), "{name}: {notes}");
        assert_eq!(
            merged.tensors[0].changed,
            if name == "some" { 6 } else { 0 }
        );
        let files = [&base, &out].map(|folder| fs::read(folder.join("model.safetensors")).unwrap());
        let weights = |file: &[u8]| file[file.len() - 72..].to_vec();
        assert_eq!(weights(&files[0]) == weights(&files[1]), name != "some");
    }
}

#[test]
fn names_within_wrappers_are_the_adapters() {
    let rename = |name: &str| name.replace("base_model.", "_orig_mod.base_model.");
    let names: Vec<String> = support::pair()
        .iter()
        .map(|(name, ..)| rename(name))
        .collect();
    let tensors = support::pair().into_iter().zip(&names);
    let tensors =
        tensors.map(|((_, dtype, shape, bytes), name)| (name.as_str(), dtype, shape, bytes));
    let folder = support::folder(&tensors.collect(), None);
    assert_eq!(
        support::audited(folder.path()).adapters[0].modules[0].name,
        "q"
    );
}

#[test]
fn a_resized_whole_state_has_what_peft_loads() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let file = fixture("whole").join("adapter_model.safetensors");
    let before = Checkpoint::open(&file).unwrap();
    assert!(before.names().any(|name| name.contains(".lora_A.default.")));
    let resized = resize(&file, &out, &ResizeOptions::new(RankRule::Rank(1))).unwrap();
    let notes = resized.notes.join("\n");
    assert!(
        notes.contains("frozen copies of the base model's: 21 ("),
        "{notes}"
    );
    let after = Checkpoint::open(&out.join("adapter_model.safetensors")).unwrap();
    let names: Vec<&str> = after.names().collect();
    let frame = "base_model.model";
    let head = format!("{frame}.lm_head.weight");
    assert!(names.contains(&&*head), "{names:?}");
    for name in &names {
        let is_factor = name.ends_with(".lora_A.weight") || name.ends_with(".lora_B.weight");
        assert!(is_factor || **name == head, "{name}");
    }
    let trained = format!("{frame}.lm_head.modules_to_save.default.weight");
    assert_eq!(
        after.read_f64(&head).unwrap(),
        before.read_f64(&trained).unwrap()
    );
}
