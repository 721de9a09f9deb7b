//! Adapters at another rank: what is written is read back by the audit, which knows nothing of how it
//! was made.

use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use rankwise_analysis::{
    Audit, AuditOptions, Change, NewScale, NewType, PeftAdapter, RankRule, ResizeOptions, Resized,
    audit, resize,
};
use serde_json::{Value, json};

mod support;

/// Factors in float32 of an update of size 1.
const SINGLE: f64 = 1e-6;

fn by(rule: RankRule) -> ResizeOptions {
    ResizeOptions::new(rule)
}

fn config(path: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(path.join("adapter_config.json")).unwrap()).unwrap()
}

/// The singular values of every module, by name.
fn spectra(audit: &Audit) -> Vec<(String, Vec<f64>, f64)> {
    let modules = audit.adapters.iter().flat_map(|adapter| &adapter.modules);
    modules
        .map(|module| {
            let spectrum = module.spectrum.as_ref().unwrap();
            let values = spectrum.singular_values.clone();
            (module.name.clone(), values, module.scale)
        })
        .collect()
}

/// Checks that the audit of `out` finds the first singular values of the audit of the original.
fn check_spectra(before: &Audit, out: &Path, resized: &Resized, tolerance: f64) {
    let after = spectra(&support::audited(out));
    for (name, old, _) in spectra(before) {
        let Some(record) = resized.modules.iter().find(|m| m.name == name) else {
            continue;
        };
        let (_, new, scale) = after
            .iter()
            .find(|(other, ..)| *other == name)
            .unwrap_or_else(|| panic!("{name} is missing from {after:?}"));
        assert_eq!(*scale, record.new_scale, "{name}");
        let largest = old.first().copied().unwrap_or(0.0);
        for k in 0..old.len().max(new.len()) {
            let expected = match k < record.new_rank {
                true => old.get(k).copied().unwrap_or(0.0),
                false => 0.0,
            };
            let found = new.get(k).copied().unwrap_or(0.0);
            assert!(
                (expected - found).abs() <= tolerance * largest,
                "{name}: singular value {k} is {found}, expected {expected} ({record:?})"
            );
        }
    }
}

#[test]
fn ranks_and_scales_are_stated_as_peft_reads_them() {
    let names = ["q", "layers.0.q", "layers.1.q"];
    let mut tensors = Vec::new();
    let keys: Vec<(String, String)> = names
        .iter()
        .map(|name| {
            let key = |factor| format!("base_model.model.{name}.lora_{factor}.weight");
            (key("A"), key("B"))
        })
        .collect();
    // σ of B A: (2, 1), (2, 0), (1, 1).
    for ((a, b), diagonal) in keys.iter().zip([[2.0, 1.0], [2.0, 0.0], [1.0, 1.0]]) {
        tensors.extend(support::tensor(a, &[2, 3], &[1.0, 0.0, 0.0, 0.0, 1.0, 0.0]));
        tensors.extend(support::tensor(
            b,
            &[2, 2],
            &[diagonal[0], 0.0, 0.0, diagonal[1]],
        ));
    }
    let bias = "base_model.model.layers.0.q.base_layer.bias";
    tensors.extend(support::tensor(bias, &[2], &[0.1, 0.2]));
    let old = json!({
        "zebra": [1.5, null], "peft_type": "LORA", "r": 2, "lora_alpha": 6,
        "alpha_pattern": {"layers.0.q": 4}, "use_rslora": false, "target_modules": ["q"],
    });
    let folder = support::folder(&tensors, Some(old));
    let out = folder.path().join("out");
    let resized = resize(folder.path(), &out, &by(RankRule::SpectralRatio(0.6))).unwrap();
    let found: Vec<_> = resized
        .modules
        .iter()
        .map(|m| (m.new_rank, m.new_scale, m.change))
        .collect();
    let expected = [
        (1, 2.0, Change::Truncated),
        (2, 3.0, Change::Kept),
        (1, 3.0, Change::Truncated),
    ];
    assert_eq!(resized.modules[0].name, "layers.0.q");
    assert_eq!(found, expected);
    let whole = fs::read_to_string(out.join("adapter_config.json")).unwrap();
    assert!(whole.find("zebra") < whole.find("peft_type"), "{whole}");
    let config = config(&out);
    assert_eq!(
        (&config["r"], &config["lora_alpha"]),
        (&json!(1), &json!(6))
    );
    assert_eq!(config["rank_pattern"], json!({"^layers\\.1\\.q": 2}));
    assert_eq!(
        config["alpha_pattern"],
        json!({"^layers\\.0\\.q": 2, "^q": 3})
    );
    assert_eq!(config["zebra"], json!([1.5, null]));
    check_spectra(&support::audited(folder.path()), &out, &resized, SINGLE);
    // σ = 2·(2, 0), 3·(1, 1), 3·(2, 1): only the last one loses something.
    let losses: Vec<f64> = resized.modules.iter().map(|m| m.error.frobenius).collect();
    assert!((losses[2] - 3.0).abs() < SINGLE && losses[0] == 0.0 && losses[1] == 0.0);
    let bytes = fs::read(out.join("adapter_model.safetensors")).unwrap();
    let read = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let expected: Vec<u8> = [0.1_f32, 0.2]
        .iter()
        .flat_map(|x| x.to_le_bytes())
        .collect();
    assert_eq!(read.tensor(bias).unwrap().data(), expected);
    let kept: Value =
        serde_json::from_str(&fs::read_to_string(out.join("resize.json")).unwrap()).unwrap();
    assert_eq!(kept, serde_json::to_value(&resized).unwrap());
}

/// Several experts lie in one tensor, which is copied; a layer's key is its parameter's where PEFT
/// targets the parameter (`gate.weight`).
#[test]
fn experts_stay_as_they_are_and_a_parameter_is_named_as_such() {
    let fixture =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/formats/peft-experts-converted");
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let resized = resize(&fixture, &out, &by(RankRule::Rank(1))).unwrap();
    let names: Vec<&str> = resized.modules.iter().map(|m| &m.name[..]).collect();
    assert_eq!(
        names,
        ["model.layers.0.mlp.gate", "model.layers.0.self_attn.q_proj"]
    );
    assert_eq!(resized.untouched.len(), 6);
    let (old, new) = (config(&fixture), config(&out));
    for field in ["r", "lora_alpha", "target_parameters", "target_modules"] {
        assert_eq!(new[field], old[field], "{field}");
    }
    let expected = json!({
        "^model\\.layers\\.0\\.mlp\\.gate\\.weight": 1,
        "^model\\.layers\\.0\\.self_attn\\.q_proj": 1,
        ".*\\.gate_up_proj": 4,
    });
    assert_eq!(new["rank_pattern"], expected);
    let (before, after) = (support::audited(&fixture), support::audited(&out));
    let experts = |audit: &Audit| -> Vec<_> {
        let all = spectra(audit).into_iter();
        all.filter(|(name, ..)| name.contains(".experts."))
            .collect()
    };
    assert_eq!(experts(&after), experts(&before));
    assert_eq!(experts(&after).len(), 6);
}

#[test]
fn a_folded_scale_is_in_the_factors() {
    let old = json!({"peft_type": "LORA", "r": 2, "lora_alpha": -6, "use_rslora": true});
    let folder = support::folder(&support::pair(), Some(old));
    let (kept, folded) = (folder.path().join("kept"), folder.path().join("folded"));
    let fold = ResizeOptions {
        scale: NewScale::Fold,
        ..by(RankRule::Rank(1))
    };
    let before = support::audited(folder.path());
    for (out, options, scale) in [
        (&kept, by(RankRule::Rank(1)), -6.0 / 2_f64.sqrt()),
        (&folded, fold, 1.0),
    ] {
        let resized = resize(
            folder.path().join("adapter_model.safetensors").as_path(),
            out,
            &options,
        )
        .unwrap();
        assert!(
            (resized.modules[0].new_scale - scale).abs() < 1e-15,
            "{resized:?}"
        );
        check_spectra(&before, out, &resized, SINGLE);
    }
}

#[test]
fn zero_updates_become_rank_one_and_nan_is_refused_by_name() {
    let mut tensors = support::tensor(support::A, &[2, 3], &[1.0; 6]);
    tensors.extend(support::tensor(support::B, &[2, 2], &[0.0; 4]));
    let settings = json!({"peft_type": "LORA", "r": 2, "lora_alpha": 4});
    let folder = support::folder(&tensors, Some(settings.clone()));
    let out = folder.path().join("out");
    let resized = resize(folder.path(), &out, &by(RankRule::Energy(0.9))).unwrap();
    let module = &resized.modules[0];
    assert_eq!(
        (module.new_rank, module.energy_kept, module.error.relative),
        (1, None, None)
    );
    assert_eq!(config(&out)["r"], json!(1));
    let audit = support::audited(&out);
    assert_eq!(audit.adapters[0].summary.zero_updates, 1);

    let mut tensors = support::tensor(support::A, &[2, 3], &[1.0, f32::NAN, 0.0, 0.0, 1.0, 0.0]);
    tensors.extend(support::tensor(support::B, &[2, 2], &[1.0; 4]));
    let folder = support::folder(&tensors, Some(settings));
    let out = folder.path().join("out");
    let error = resize(folder.path(), &out, &by(RankRule::Rank(1)))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("q: factor A") && error.contains("NaN"),
        "{error}"
    );
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
}

#[test]
fn narrow_types_are_measured_as_they_are_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("adapter");
    let values = |n: usize, step: f32| (0..n).map(|i| (i as f32 * step).sin()).collect::<Vec<_>>();
    let adapter = PeftAdapter {
        module: "h".to_owned(),
        rank: 3,
        inputs: 20,
        outputs: 15,
        alpha: 1.5,
        a: values(60, 0.7),
        b: values(45, 1.3),
        bias: None,
    };
    adapter.write(&path).unwrap();
    let before = support::audited(&path);
    for (dtype, low, high) in [
        (NewType::F32, 1e-9, 1e-7),
        (NewType::F16, 1e-5, 1e-3),
        (NewType::Bf16, 1e-4, 1e-2),
    ] {
        let out = folder.path().join(format!("{dtype:?}"));
        let options = ResizeOptions {
            dtype: Some(dtype),
            ..by(RankRule::Rank(3))
        };
        let resized = resize(&path, &out, &options).unwrap();
        let module = &resized.modules[0];
        assert_eq!(module.error.frobenius, 0.0);
        // The factors' rounding alone: some part of the type's ε.
        let written = module.written.relative.unwrap();
        let is_same_type = dtype == NewType::F32;
        assert!(
            is_same_type && written == 0.0 || (low..high).contains(&written),
            "{dtype:?} {written}"
        );
        check_spectra(&before, &out, &resized, high);
    }
    // Out of float16's range.
    let large = PeftAdapter {
        a: vec![1e13; 60],
        ..adapter
    };
    let path = folder.path().join("large");
    large.write(&path).unwrap();
    let options = ResizeOptions {
        dtype: Some(NewType::F16),
        ..by(RankRule::Rank(1))
    };
    let error = resize(&path, &folder.path().join("x"), &options)
        .unwrap_err()
        .to_string();
    assert!(error.contains("h: ") && error.contains("F16"), "{error}");
}

#[test]
fn bad_input_is_refused_and_nothing_is_written() {
    let settings = json!({"peft_type": "LORA", "r": 2, "lora_alpha": 4});
    let folder = support::folder(&support::pair(), Some(settings));
    let path = folder.path();
    let out = path.join("out");
    let patterns = RankRule::Patterns(vec![("k_proj".to_owned(), 1)]);
    let message =
        |path: &Path, out: &Path, rule| resize(path, out, &by(rule)).unwrap_err().to_string();
    for (found, parts) in [
        (
            message(path, &out, RankRule::Rank(0)),
            ["rank", "at least 1"],
        ),
        (
            message(path, &out, RankRule::Energy(1.5)),
            ["energy", "1.5"],
        ),
        (
            message(path, &out, patterns),
            ["none in the adapter", "k_proj"],
        ),
        (
            message(&path.join("none"), &out, RankRule::Rank(1)),
            ["none", "open"],
        ),
        (
            message(path, path, RankRule::Rank(1)),
            ["something in it", "new name"],
        ),
    ] {
        assert!(parts.iter().all(|part| found.contains(part)), "{found}");
    }
    assert!(!out.exists());
    // Two adapters at one place.
    let twice = tempfile::tempdir().unwrap();
    for name in ["a.safetensors", "b.safetensors"] {
        fs::write(twice.path().join(name), support::bytes(&support::pair())).unwrap();
    }
    let found = message(twice.path(), &out, RankRule::Rank(1));
    assert!(
        found.contains("one adapter") && found.contains("b.safetensors"),
        "{found}"
    );
}

/// The folders at or below `folder` that have an adapter's expected numbers.
fn fixtures(folder: &Path, found: &mut Vec<PathBuf>) {
    if folder.join("expected.json").is_file() {
        found.push(folder.to_path_buf());
    }
    let mut entries: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect();
    entries.sort();
    for entry in entries.iter().filter(|entry| entry.is_dir()) {
        fixtures(entry, found);
    }
}

/// Every adapter that the libraries wrote, of every format, is either refused or has afterwards, read
/// anew, the first singular values that it had.
#[test]
fn adapters_of_every_format_keep_their_first_singular_values() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/formats");
    let mut folders = Vec::new();
    fixtures(&root, &mut folders);
    let place = tempfile::tempdir().unwrap();
    let (mut resized_count, mut refused) = (0, Vec::new());
    for folder in folders {
        let text = fs::read_to_string(folder.join("expected.json")).unwrap();
        let expected: Value = serde_json::from_str(&text).unwrap();
        let name = folder.file_name().unwrap().to_string_lossy().into_owned();
        if name.starts_with("refused") {
            continue;
        }
        let path = match expected["file"].as_str().unwrap() {
            "." => folder.clone(),
            file => folder.join(file),
        };
        let file = |field: &str| Some(folder.join(expected[field].as_str()?));
        let (base, initial) = (file("base"), file("initial"));
        let options = AuditOptions {
            base: base.clone(),
            initial: initial.clone(),
            ..AuditOptions::default()
        };
        let mut before = audit(&path, &options).unwrap();
        before.adapters.truncate(1);
        let fold = ResizeOptions {
            scale: NewScale::Fold,
            ..by(RankRule::Rank(2))
        };
        for (number, options) in [by(RankRule::Rank(1)), by(RankRule::Numerical), fold]
            .into_iter()
            .enumerate()
        {
            let options = ResizeOptions {
                base: base.clone(),
                initial: initial.clone(),
                // Stored scales of narrow types are checked elsewhere.
                dtype: Some(NewType::F32),
                ..options
            };
            let out = place.path().join(format!("{name}-{number}"));
            match resize(&path, &out, &options) {
                Ok(resized) => {
                    resized_count += 1;
                    check_spectra(&before, &out, &resized, SINGLE);
                    for module in &resized.modules {
                        let (error, written) = (module.error.frobenius, module.written.frobenius);
                        assert!(
                            (error - written).abs() <= SINGLE * module.frobenius_norm,
                            "{name}: {module:?}"
                        );
                    }
                }
                Err(error) => {
                    assert!(!out.exists(), "{name}");
                    refused.push(format!("{name}: {error}"));
                }
            }
        }
    }
    println!("{resized_count} resized; refused:\n{}", refused.join("\n"));
    assert!(resized_count > 150, "{resized_count}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// The stated error is the tail's, and once cut, an adapter of that rank stays as it is.
    #[test]
    fn resizing_twice_is_resizing_once(
        a in proptest::collection::vec(-1.0_f32..1.0, 3 * 7),
        b in proptest::collection::vec(-1.0_f32..1.0, 3 * 5),
        rank in 1_usize..4,
        alpha in 1_u32..9,
    ) {
        let folder = tempfile::tempdir().unwrap();
        let (path, once, twice) =
            (folder.path().join("a"), folder.path().join("b"), folder.path().join("c"));
        let adapter = PeftAdapter {
            module: "model.q".to_owned(), rank: 3, inputs: 7, outputs: 5,
            alpha: f64::from(alpha), a, b, bias: None,
        };
        adapter.write(&path).unwrap();
        let before = support::audited(&path);
        let resized = resize(&path, &once, &by(RankRule::Rank(rank))).unwrap();
        check_spectra(&before, &once, &resized, SINGLE);
        let sigma = &spectra(&before)[0].1;
        let tail = sigma[rank..].iter().map(|s| s * s).sum::<f64>().sqrt();
        let module = &resized.modules[0];
        prop_assert!((module.error.frobenius - tail).abs() <= 1e-12 * sigma[0]);
        prop_assert!((module.written.frobenius - tail).abs() <= SINGLE * sigma[0]);
        let again = resize(&once, &twice, &by(RankRule::Rank(rank))).unwrap();
        prop_assert_eq!(again.modules[0].change, Change::Kept);
        for file in ["adapter_model.safetensors", "adapter_config.json"] {
            prop_assert_eq!(fs::read(once.join(file)).unwrap(), fs::read(twice.join(file)).unwrap());
        }
    }
}

#[test]
fn half_a_pair_keeps_the_rank_that_the_configuration_says() {
    let mut tensors = support::pair();
    tensors.extend(support::tensor(
        "base_model.model.other.lora_A.weight",
        &[2, 2],
        &[1.0, 2.0, 3.0, 4.0],
    ));
    let settings = json!({"peft_type": "LORA", "r": 2, "lora_alpha": 4});
    let folder = support::folder(&tensors, Some(settings));
    let out = folder.path().join("out");
    resize(folder.path(), &out, &by(RankRule::Rank(1))).unwrap();
    let config = config(&out);
    assert_eq!(
        (&config["r"], &config["lora_alpha"]),
        (&json!(2), &json!(4))
    );
    let ranks = config["rank_pattern"].as_object().unwrap();
    assert_eq!(Vec::from_iter(ranks.values()), [&json!(1)]);
}

#[test]
fn matrices_of_a_peft_loha_are_said_to_tell_no_window() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/formats/peft-loha");
    let folder = tempfile::tempdir().unwrap();
    let resized = resize(&path, &folder.path().join("out"), &by(RankRule::Rank(1))).unwrap();
    let notes = resized.notes.join("\n");
    assert!(notes.contains("are written as matrices"), "{notes}");
}
