//! Adapters out of checkpoint pairs, read back by the audit.

use std::fs;
use std::path::Path;

use rankwise_analysis::{
    ExtractOptions, Kind, NewType, PairOptions, RankRule, audit_pair, extract,
};
use safetensors::Dtype;
use serde_json::{Value, json};

mod support;

/// Factors in float32 of an update of size 1.
const SINGLE: f64 = 1e-6;

fn rank(rank: usize) -> ExtractOptions {
    ExtractOptions {
        rule: Some(RankRule::Rank(rank)),
        ..ExtractOptions::default()
    }
}

/// A model's folder with these float32 tensors.
fn model(folder: &Path, tensors: &[(&str, &[usize], Vec<f32>)], config: Option<Value>) {
    fs::create_dir_all(folder).unwrap();
    let mut all = Vec::new();
    for (name, shape, values) in tensors {
        all.extend(support::tensor(name, shape, values));
    }
    fs::write(folder.join("model.safetensors"), support::bytes(&all)).unwrap();
    if let Some(config) = config {
        fs::write(folder.join("config.json"), config.to_string()).unwrap();
    }
}

fn noise(count: usize, seed: f32) -> Vec<f32> {
    (0..count)
        .map(|i| ((i as f32 + 1.0) * seed).sin())
        .collect()
}

fn added(values: &[f32], change: &[f32]) -> Vec<f32> {
    values.iter().zip(change).map(|(x, y)| x + y).collect()
}

fn config(path: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(path.join("adapter_config.json")).unwrap()).unwrap()
}

#[test]
fn every_kind_of_matrix_is_found_and_the_rest_is_listed() {
    let folder = tempfile::tempdir().unwrap();
    let (base, tuned, out) = (
        folder.path().join("base"),
        folder.path().join("tuned"),
        folder.path().join("out"),
    );
    let same = noise(12, 0.3);
    let shapes: [(&str, &[usize]); 8] = [
        ("h.0.attn.c_attn.weight", &[4, 6]),
        ("h.0.mlp.weight", &[5, 4]),
        ("conv.weight", &[3, 2, 2, 2]),
        ("wte.weight", &[7, 4]),
        ("ln.weight", &[4]),
        ("ln.bias", &[4]),
        ("h.0.mlp.bias", &[5]),
        ("h.0.raw", &[2, 2]),
    ];
    let before: Vec<_> = shapes
        .iter()
        .enumerate()
        .map(|(i, (name, shape))| (*name, *shape, noise(shape.iter().product(), 0.1 + i as f32)))
        .collect();
    let after: Vec<_> = before
        .iter()
        .map(|(name, shape, values)| (*name, *shape, added(values, &noise(values.len(), 2.7))))
        .collect();
    let with = |mut list: Vec<_>, name, values: &[f32]| {
        list.push((name, &[3, 4][..], values.to_vec()));
        list
    };
    let gpt2 = Some(json!({"model_type": "gpt2"}));
    model(
        &base,
        &with(with(before, "same.weight", &same), "old.weight", &same),
        gpt2,
    );
    model(
        &tuned,
        &with(with(after, "same.weight", &same), "new.weight", &same),
        None,
    );
    let extracted = extract(&base, &tuned, &out, &rank(2)).unwrap();
    let found: Vec<_> = extracted
        .modules
        .iter()
        .map(|m| (m.name.as_str(), m.kind, m.shape))
        .collect();
    let expected = [
        ("conv", Kind::Conv2d, (3, 8)),
        ("h.0.attn.c_attn", Kind::Conv1d, (4, 6)),
        ("h.0.mlp", Kind::Linear, (5, 4)),
    ];
    assert_eq!(found, expected);
    let mut left: Vec<&str> = extracted
        .not_covered
        .iter()
        .map(|u| u.name.as_str())
        .collect();
    left.sort_unstable();
    let expected = [
        "h.0.mlp.bias",
        "h.0.raw",
        "ln.bias",
        "ln.weight",
        "new.weight",
        "old.weight",
        "wte.weight",
    ];
    assert_eq!(left, expected);
    // The audit of the adapter finds the first singular values of the audit of the pair.
    let pair = audit_pair(&base, &tuned, &PairOptions::default(), |_, _| {}).unwrap();
    let audit = support::audited(&out);
    assert_eq!(audit.adapters[0].modules.len(), 3);
    for module in &audit.adapters[0].modules {
        let name = format!("{}.weight", module.name);
        let known = pair.matrices.iter().find(|m| m.name == name).unwrap();
        let record = extracted
            .modules
            .iter()
            .find(|m| m.name == module.name)
            .unwrap();
        let sigma = &module.spectrum.as_ref().unwrap().singular_values;
        assert_eq!((sigma.len(), module.scale), (2, 1.0));
        for (found, known) in sigma.iter().zip(&known.singular_values) {
            assert!((found - known).abs() <= SINGLE * known, "{name}");
        }
        let tail = &known.singular_values[2..];
        let lost = tail.iter().map(|s| s * s).sum::<f64>().sqrt();
        assert!((record.error.frobenius - lost).abs() < 1e-12, "{record:?}");
        assert!(
            (record.written.frobenius - lost).abs() < SINGLE,
            "{record:?}"
        );
        let spectral = record.error.spectral.unwrap();
        assert!(
            (spectral - known.layer_error(2)).abs() < 1e-12,
            "{record:?}"
        );
    }
    let config = config(&out);
    assert_eq!(
        config["target_modules"],
        json!(["conv", "h.0.attn.c_attn", "h.0.mlp"])
    );
    assert_eq!(
        (&config["r"], &config["fan_in_fan_out"]),
        (&json!(2), &json!(true))
    );
    let bytes = fs::read(out.join("adapter_model.safetensors")).unwrap();
    let read = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let shape = |name: &str| {
        read.tensor(&format!("base_model.model.{name}"))
            .unwrap()
            .shape()
            .to_vec()
    };
    assert_eq!(shape("conv.lora_A.weight"), [2, 2, 2, 2]);
    assert_eq!(shape("conv.lora_B.weight"), [3, 2, 1, 1]);
    assert_eq!(shape("h.0.attn.c_attn.lora_A.weight"), [2, 4]);
    assert_eq!(shape("h.0.attn.c_attn.lora_B.weight"), [6, 2]);

    let whole = folder.path().join("whole");
    let options = ExtractOptions {
        whole: true,
        target: Some(r"(h\..*|ln)(\.bias)?".to_owned()),
        dtype: Some(NewType::Bf16),
        ..rank(1)
    };
    let extracted = extract(&base, &tuned, &whole, &options).unwrap();
    let left: Vec<&str> = extracted
        .not_covered
        .iter()
        .map(|u| u.name.as_str())
        .collect();
    assert_eq!(left, ["h.0.raw", "old.weight"]);
    assert_eq!(extracted.whole, ["h.0.mlp.bias", "ln.bias", "ln.weight"]);
    let config = self::config(&whole);
    assert_eq!(config["modules_to_save"], json!(["ln"]));
    assert_eq!(config["bias"], json!("lora_only"));
    let bytes = fs::read(whole.join("adapter_model.safetensors")).unwrap();
    let read = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let bias = read
        .tensor("base_model.model.h.0.mlp.base_layer.bias")
        .unwrap();
    assert_eq!((bias.shape(), bias.dtype()), (&[5][..], Dtype::F32));
    let factor = read
        .tensor("base_model.model.h.0.mlp.lora_A.weight")
        .unwrap();
    assert_eq!((factor.shape(), factor.dtype()), (&[1, 4][..], Dtype::BF16));
}

/// A merged adapter of rank 2 in bfloat16: above the rounding there are two directions.
#[test]
fn above_the_noise_is_what_was_merged() {
    let folder = tempfile::tempdir().unwrap();
    let (base, tuned, out) = (
        folder.path().join("a.safetensors"),
        folder.path().join("b.safetensors"),
        folder.path().join("out"),
    );
    let (m, n) = (60, 50);
    let bytes = |values: &[f32]| -> Vec<u8> {
        values
            .iter()
            .flat_map(|&x| half::bf16::from_f32(x).to_le_bytes())
            .collect()
    };
    let weight: Vec<f32> = noise(m * n, 0.37);
    let (u, v) = (noise(2 * m, 0.9), noise(2 * n, 1.7));
    let change: Vec<f32> = (0..m * n)
        .map(|k| (0..2).map(|r| u[r * m + k / n] * v[r * n + k % n]).sum())
        .collect();
    let write = |path: &Path, list: Vec<(&'static str, Vec<f32>)>| {
        let tensors: Vec<_> = list
            .iter()
            .map(|(name, values)| (*name, Dtype::BF16, vec![m, n], bytes(values)))
            .collect();
        fs::write(path, support::bytes(&tensors)).unwrap();
    };
    let rounding: Vec<f32> = weight.iter().map(|x| x * (1.0 + 1.0 / 256.0)).collect();
    write(
        &base,
        vec![("q.weight", weight.clone()), ("k.weight", weight.clone())],
    );
    write(
        &tuned,
        vec![
            ("q.weight", added(&weight, &change)),
            ("k.weight", rounding),
        ],
    );
    let extracted = extract(&base, &tuned, &out, &ExtractOptions::default()).unwrap();
    let ranks: Vec<_> = extracted
        .modules
        .iter()
        .map(|m| (m.name.as_str(), m.rank))
        .collect();
    let q = extracted.modules.iter().find(|m| m.name == "q").unwrap();
    assert_eq!(
        (q.rank, q.rank_above_noise, q.dtype.as_str()),
        (2, 2, "BF16"),
        "{ranks:?}"
    );
    // What is left out is rounding: σ_3 is below the noise.
    assert!(q.error.spectral.unwrap() <= q.noise_floor);
}

#[test]
fn bad_input_is_refused_and_nothing_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let (base, tuned, out) = (path("base"), path("tuned"), path("out"));
    model(
        &base,
        &[("q.weight", &[2, 2], vec![1.0, 0.0, 0.0, 1.0])],
        None,
    );
    model(
        &tuned,
        &[("q.weight", &[2, 2], vec![1.0, 0.5, 0.0, 1.0])],
        None,
    );
    model(
        &path("nan"),
        &[("q.weight", &[2, 2], vec![1.0, f32::NAN, 0.0, 1.0])],
        None,
    );
    let target = ExtractOptions {
        target: Some("(".to_owned()),
        ..rank(1)
    };
    let nothing = ExtractOptions {
        target: Some("k".to_owned()),
        ..rank(1)
    };
    let energy = ExtractOptions {
        rule: Some(RankRule::Energy(2.0)),
        ..ExtractOptions::default()
    };
    let message = |tuned: &Path, out: &Path, options: &ExtractOptions| {
        extract(&base, tuned, out, options).unwrap_err().to_string()
    };
    for (found, parts) in [
        (message(&tuned, &out, &rank(0)), ["rank", "at least 1"]),
        (message(&tuned, &out, &energy), ["energy", "2"]),
        (
            message(&tuned, &out, &target),
            ["target", "regular expression"],
        ),
        (
            message(&tuned, &out, &nothing),
            ["a matrix that differs", "none"],
        ),
        (
            message(&base, &out, &rank(1)),
            ["a matrix that differs", "none"],
        ),
        (message(&path("none"), &out, &rank(1)), ["none", "open"]),
        (message(&path("nan"), &out, &rank(1)), ["q.weight", "NaN"]),
        (
            message(&tuned, &tuned, &rank(1)),
            ["something in it", "tuned"],
        ),
    ] {
        assert!(parts.iter().all(|part| found.contains(part)), "{found}");
    }
    assert!(!out.exists());
}

#[test]
fn names_are_those_that_the_base_has_in_memory() {
    let folder = tempfile::tempdir().unwrap();
    let (base, tuned) = (folder.path().join("base"), folder.path().join("tuned"));
    let before = noise(16, 0.3);
    let after = added(&before, &noise(16, 2.7));
    let shape = &[4, 4][..];
    for (class, name, note) in [
        (
            "GPT2LMHeadModel",
            "transformer.h.0.attn.c_attn",
            "begin with transformer.",
        ),
        ("GPT2Model", "h.0.attn.c_attn", "a model without a head"),
    ] {
        let kind = Some(json!({"model_type": "gpt2", "architectures": [class]}));
        let one = ("h.0.attn.c_attn.weight", shape, before.clone());
        model(&base, &[one], kind);
        let name_of_tuned = "transformer.h.0.attn.c_attn.weight";
        model(&tuned, &[(name_of_tuned, shape, after.clone())], None);
        let extracted = extract(&base, &tuned, &folder.path().join(class), &rank(2)).unwrap();
        assert_eq!(extracted.modules[0].name, name);
        let notes = extracted.notes.join("\n");
        assert!(notes.contains(note), "{notes}");
    }
}

#[test]
fn layers_of_a_vision_transformer_have_both_names() {
    let folder = tempfile::tempdir().unwrap();
    let (base, tuned) = (folder.path().join("base"), folder.path().join("tuned"));
    let before = noise(16, 0.3);
    let after = added(&before, &noise(16, 2.7));
    let name = "vit.encoder.layer.0.attention.attention.query.weight";
    let kind = Some(json!({"model_type": "vit"}));
    model(&base, &[(name, &[4, 4], before)], kind);
    model(&tuned, &[(name, &[4, 4], after)], None);
    let out = folder.path().join("out");
    extract(&base, &tuned, &out, &rank(2)).unwrap();
    let written = fs::read(out.join("adapter_model.safetensors")).unwrap();
    let written = safetensors::SafeTensors::deserialize(&written).unwrap();
    for module in [
        "vit.encoder.layer.0.attention.attention.query",
        "vit.layers.0.attention.q_proj",
    ] {
        let name = format!("base_model.model.{module}.lora_A.weight");
        assert!(written.tensor(&name).is_ok(), "{name}");
        let targets = &config(&out)["target_modules"];
        assert!(targets.as_array().unwrap().contains(&json!(module)));
    }
}

#[test]
fn a_part_of_a_module_with_modules_in_it_is_not_taken_alone() {
    let folder = tempfile::tempdir().unwrap();
    let (base, tuned) = (folder.path().join("base"), folder.path().join("tuned"));
    let before = noise(16, 0.3);
    let after = added(&before, &noise(16, 2.7));
    let all = |matrix: &[f32], bias: f32| {
        vec![
            ("q.weight", &[4, 4][..], matrix.to_vec()),
            ("cls.predictions.bias", &[2][..], vec![bias; 2]),
            (
                "cls.predictions.transform.dense.weight",
                &[2, 2][..],
                vec![1.0; 4],
            ),
        ]
    };
    model(&base, &all(&before, 0.0), None);
    model(&tuned, &all(&after, 1.0), None);
    let options = ExtractOptions {
        whole: true,
        ..rank(2)
    };
    let out = folder.path().join("out");
    let extracted = extract(&base, &tuned, &out, &options).unwrap();
    assert!(extracted.whole.is_empty());
    assert_eq!(extracted.not_covered[0].name, "cls.predictions.bias");
    assert!(extracted.not_covered[0].reason.contains("as a whole only"));
    assert_eq!(config(&out)["modules_to_save"], Value::Null);
}
