//! The audit of small adapters: some that PEFT saved, some made here.

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use rankwise_analysis::{
    AdapterAudit, Audit, AuditOptions, FindingKind, Kind, PeftAdapter, Side, TauRule, audit,
};
use safetensors::Dtype;
use serde::Deserialize;
use serde_json::{Value, json};
use support::{A, B, audited, bytes, folder, pair, tensor};

fn only(mut audit: Audit) -> AdapterAudit {
    assert_eq!((audit.adapters.len(), &audit.refused[..]), (1, &[][..]));
    audit.adapters.remove(0)
}

fn kinds(adapter: &AdapterAudit) -> Vec<FindingKind> {
    adapter
        .findings
        .iter()
        .map(|finding| finding.kind)
        .collect()
}

#[derive(Deserialize)]
struct Expected {
    shape: (usize, usize),
    scale: f64,
    rank_budget: usize,
    singular_values: Vec<f64>,
}

/// PEFT multiplies in float32: rounding of 2⁻²⁴ each in sums of at most four products.
const PEFT_TOLERANCE: f64 = 1e-6;

#[test]
fn updates_are_the_ones_that_peft_computes() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let mut seen = Vec::new();
    for name in ["peft-layers", "peft-conv1d"] {
        let folder = fixtures.join(name);
        let text = fs::read_to_string(folder.join("expected.json")).unwrap();
        let expected: BTreeMap<String, Expected> = serde_json::from_str(&text).unwrap();
        let adapter = &audited(&folder).adapters[0];
        assert_eq!(adapter.modules.len(), expected.len());
        for module in &adapter.modules {
            let known = &expected[&module.name];
            assert_eq!(module.shape, known.shape, "{}", module.name);
            assert_eq!(
                (module.rank_budget, module.scaled),
                (known.rank_budget, true)
            );
            assert!((module.scale - known.scale).abs() < 1e-15 * known.scale);
            let sigma = &module.spectrum.as_ref().unwrap().singular_values;
            for (found, known) in sigma.iter().zip(&known.singular_values) {
                assert!(
                    (found - known).abs() < PEFT_TOLERANCE * sigma[0],
                    "{found}, not {known}"
                );
            }
            seen.push((module.name.clone(), module.kind, module.layer));
        }
    }
    let row = |name: &str, kind, layer| (name.to_owned(), kind, layer);
    assert_eq!(
        seen,
        [
            row("blocks.0", Kind::Linear, Some(0)),
            row("blocks.1", Kind::Linear, Some(1)),
            row("conv", Kind::Conv2d, None),
            row("embed", Kind::Embedding, None),
            row("c_attn", Kind::Conv1d, None),
        ]
    );
    let refused: Vec<_> = audited(&fixtures.join("peft-layers"))
        .refused
        .into_iter()
        .map(|r| r.name)
        .collect();
    assert_eq!(
        refused,
        [
            "base_model.model.score.bias",
            "base_model.model.score.weight"
        ]
    );
}

#[test]
fn the_machine_readable_form_is_the_agreed_one() {
    let config =
        json!({ "peft_type": "LORA", "r": 2, "lora_alpha": 2, "base_model_name_or_path": "m" });
    let folder = folder(&pair(), Some(config));
    let options = AuditOptions {
        tau: Some(TauRule::Relative(0.75)),
        side: Side::Columns,
        ..AuditOptions::default()
    };
    let found = serde_json::to_value(audit(folder.path(), &options).unwrap()).unwrap();
    let module = &found["adapters"][0]["modules"][0];
    let keys: Vec<_> = module
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    let agreed = "name kind layer shape rank_budget scale scaled singular_values tau tau_rule \
        numerical_rank energy_rank_90 energy_rank_95 energy_rank_99 stable_rank effective_rank \
        effective_rank_energy participation_ratio nuclear_ratio frobenius_norm spectral_norm \
        orthogonality_loss orthogonality_floor orthogonality_excess orthogonality_side method \
        role parameters";
    assert_eq!(keys, agreed.split_whitespace().collect::<Vec<_>>());
    for (key, value) in [
        ("name", json!("q")),
        ("kind", json!("linear")),
        ("layer", Value::Null),
        ("shape", json!([2, 3])),
        ("singular_values", json!([2.0, 1.0])),
        ("tau", json!(1.5)),
        ("tau_rule", json!("7.5e-1*sigma_1")),
        ("numerical_rank", json!(1)),
        ("energy_rank_90", json!(2)),
        ("stable_rank", json!(1.25)),
        // (4 − 1)² + (1 − 1)² and one of three columns that two directions cannot reach.
        ("orthogonality_loss", json!(10.0)),
        ("orthogonality_floor", json!(1.0)),
        ("orthogonality_excess", json!(9.0)),
        ("orthogonality_side", json!("columns")),
    ] {
        assert_eq!(module[key], value, "{key}");
    }
    let adapter = found["adapters"][0].as_object().unwrap();
    let keys: Vec<_> = adapter.keys().map(String::as_str).collect();
    assert_eq!(
        keys,
        [
            "path",
            "format",
            "base_model",
            "modules",
            "summary",
            "findings"
        ]
    );
    assert_eq!(
        (&adapter["format"], &adapter["base_model"]),
        (&json!("peft"), &json!("m"))
    );
    assert_eq!(
        adapter["summary"]["measures"]["frobenius_norm"]["max"],
        json!(5_f64.sqrt())
    );
    assert_eq!(adapter["summary"]["parameters"], json!(10));
    // Below τ one direction counts for nothing.
    assert_eq!(
        adapter["findings"],
        json!([{
            "kind": "dead_direction",
            "severity": "suspicious",
            "module": "q",
            "message": "1 of 2 directions are dead",
            "values": { "dead": 1.0, "rank_budget": 2.0 },
        }])
    );
    assert_eq!(adapter["summary"]["severity"], "suspicious");
    assert_eq!(found["refused"], json!([]));
    assert_eq!(found["passed_over"], json!([]));
}

#[test]
fn the_scale_follows_the_configuration() {
    for (config, scale) in [
        (json!({ "lora_alpha": 6 }), 3.0),
        (
            json!({ "lora_alpha": 6, "use_rslora": true }),
            6.0 / 2_f64.sqrt(),
        ),
        // R is believed of the factors, not of the configuration.
        (json!({ "lora_alpha": 6, "r": 64 }), 3.0),
        (
            json!({ "lora_alpha": 6, "alpha_pattern": { "q": 10 } }),
            5.0,
        ),
        (json!({ "lora_alpha": -6 }), -3.0),
    ] {
        let folder = folder(&pair(), Some(config));
        let module = &only(audited(folder.path())).modules[0];
        assert_eq!((module.scale, module.scaled), (scale, true));
        let sigma = &module.spectrum.as_ref().unwrap().singular_values;
        assert_eq!(sigma, &[2.0 * scale.abs(), scale.abs()]);
    }
}

#[test]
fn without_a_scale_the_update_is_measured_unscaled_and_said_so() {
    for config in [None, Some(json!({ "r": 2 }))] {
        let folder = folder(&pair(), config);
        let adapter = only(audited(folder.path()));
        let module = &adapter.modules[0];
        assert_eq!((module.scale, module.scaled), (1.0, false));
        assert_eq!(kinds(&adapter), [FindingKind::AlphaMissing]);
    }
}

#[test]
fn every_storage_type_is_read_and_half_precision_judged_in_single() {
    let values = [1.0, 0.5, -0.25, 3.0];
    type Encode = fn(f64) -> Vec<u8>;
    let encoded: [(Dtype, Encode, &str); 4] = [
        (
            Dtype::F64,
            |x| x.to_le_bytes().to_vec(),
            "max(m,n)*eps(f64)*sigma_1",
        ),
        (
            Dtype::F32,
            |x| (x as f32).to_le_bytes().to_vec(),
            "max(m,n)*eps(f32)*sigma_1",
        ),
        (
            Dtype::F16,
            |x| f16::from_f64(x).to_le_bytes().to_vec(),
            "max(m,n)*eps(f32)*sigma_1",
        ),
        (
            Dtype::BF16,
            |x| bf16::from_f64(x).to_le_bytes().to_vec(),
            "max(m,n)*eps(f32)*sigma_1",
        ),
    ];
    let mut spectra = Vec::new();
    for (dtype, encode, rule) in encoded {
        let a = (
            A,
            dtype,
            vec![1, 4],
            values.into_iter().flat_map(encode).collect(),
        );
        let mut tensors = tensor(B, &[1, 1], &[1.0]);
        tensors[0] = (B, dtype, vec![1, 1], encode(1.0));
        tensors.push(a);
        let folder = folder(&tensors, Some(json!({ "lora_alpha": 1 })));
        let adapter = only(audited(folder.path()));
        let spectrum = adapter.modules[0].spectrum.clone().unwrap();
        assert_eq!(spectrum.measures.tau_rule, rule);
        spectra.push(spectrum.singular_values);
    }
    // ‖(1, ½, −¼, 3)‖; all four types hold these numbers exactly.
    assert!((spectra[0][0] - 10.3125_f64.sqrt()).abs() < 1e-15);
    assert!(spectra.iter().all(|spectrum| spectrum == &spectra[0]));
}

/// With float16's own ε the threshold of a layer wider than 1,024 would exceed σ₁.
#[test]
fn a_wide_layer_in_half_precision_keeps_its_rank() {
    for (dtype, one) in [
        (Dtype::F16, f16::ONE.to_le_bytes()),
        (Dtype::BF16, bf16::ONE.to_le_bytes()),
    ] {
        let a: Vec<u8> = one.into_iter().cycle().take(2 * 5000).collect();
        let tensors = vec![
            (A, dtype, vec![1, 5000], a),
            (B, dtype, vec![1, 1], one.to_vec()),
        ];
        let folder = folder(&tensors, Some(json!({ "lora_alpha": 1 })));
        let adapter = only(audited(folder.path()));
        let spectrum = adapter.modules[0].spectrum.clone().unwrap();
        assert_eq!(spectrum.measures.numerical_rank, 1);
        assert!(spectrum.measures.tau < 1e-3 * spectrum.measures.spectral_norm);
    }
}

#[test]
fn findings_are_found() {
    let config = json!({ "lora_alpha": 2, "r": 2 });
    let one = |a: &[f32], b: &[f32], config: &Value| {
        let mut tensors = tensor(A, &[2, 3], a);
        tensors.extend(tensor(B, &[2, 2], b));
        only(audited(folder(&tensors, Some(config.clone())).path()))
    };
    let (unit, identity) = ([1.0, 0.0, 0.0, 0.0, 1.0, 0.0], [1.0, 0.0, 0.0, 1.0]);
    assert_eq!(kinds(&one(&unit, &identity, &config)), []);

    let zero = one(&unit, &[0.0; 4], &config);
    assert_eq!(kinds(&zero), [FindingKind::ZeroUpdate]);
    let spectrum = zero.modules[0].spectrum.as_ref().unwrap();
    assert_eq!(
        (
            spectrum.measures.numerical_rank,
            spectrum.measures.stable_rank
        ),
        (0, None)
    );

    let nan = one(&unit, &[f32::NAN, 0.0, 0.0, 1.0], &config);
    assert_eq!(
        (kinds(&nan), &nan.modules[0].spectrum),
        (vec![FindingKind::NonFinite], &None)
    );
    assert!(nan.findings[0].message.contains("factor B"));
    assert_eq!(
        serde_json::to_value(&nan).unwrap()["modules"][0]["singular_values"],
        Value::Null
    );

    let pissa = json!({ "lora_alpha": 2, "r": 2, "init_lora_weights": "pissa" });
    assert_eq!(
        kinds(&one(&unit, &identity, &pissa)),
        [FindingKind::ChangedBase]
    );
    let pattern = json!({ "lora_alpha": 2, "r": 8, "rank_pattern": { "q": 5 } });
    let mismatch = one(&unit, &identity, &pattern);
    assert_eq!(kinds(&mismatch), [FindingKind::RankPatternMismatch]);
    assert_eq!(
        mismatch.findings[0].values,
        [("expected", 5.0), ("found", 2.0)]
    );

    // One of five directions holds nearly everything, but all five are above τ.
    let mut a = [0.0; 25];
    (0..5).for_each(|i| a[i * 6] = if i == 0 { 1.0 } else { 1e-3 });
    let mut tensors = tensor(A, &[5, 5], &a);
    a.iter_mut().for_each(|x| *x = x.ceil());
    tensors.extend(tensor(B, &[5, 5], &a));
    let folder = folder(&tensors, Some(json!({ "lora_alpha": 5, "r": 5 })));
    let low = only(audited(folder.path()));
    assert_eq!(
        kinds(&low),
        [FindingKind::UnusedBudget, FindingKind::DefinitionsDisagree]
    );
    assert_eq!(
        low.findings[0].values,
        [("rank_budget", 5.0), ("energy_rank_99", 1.0)]
    );
}

#[test]
fn a_written_adapter_is_read_back() {
    let folder = tempfile::tempdir().unwrap();
    let adapter = PeftAdapter {
        module: "classifier".to_owned(),
        rank: 1,
        inputs: 2,
        outputs: 3,
        alpha: 0.5,
        a: vec![3.0, 4.0],
        b: vec![0.0, 2.0, 0.0],
        bias: Some(vec![1.0; 3]),
    };
    adapter.write(folder.path()).unwrap();
    let read = only(audited(folder.path()));
    let module = &read.modules[0];
    assert_eq!((module.name.as_str(), module.shape), ("classifier", (3, 2)));
    assert_eq!(module.spectrum.as_ref().unwrap().singular_values, [5.0]);
    assert_eq!(kinds(&read), [FindingKind::TrainedBias]);
    let broken = PeftAdapter {
        b: vec![0.0; 4],
        ..adapter
    };
    let error = broken.write(folder.path()).unwrap_err().to_string();
    assert!(
        error.contains("expected [3, 1], found 4 numbers"),
        "{error}"
    );
}

#[test]
fn every_adapter_below_a_folder_is_found_in_natural_order() {
    let root = tempfile::tempdir().unwrap();
    let place = |name: &str, content: &[u8]| {
        let path = root.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    };
    let adapter = bytes(&pair());
    for step in ["step-10", "step-9"] {
        place(&format!("{step}/adapter_model.safetensors"), &adapter);
        place(&format!("{step}/optimizer.pt"), b"PK\x03\x04");
    }
    place("loose.safetensors", &adapter);
    place(
        "tuned/model.safetensors",
        &bytes(&tensor("layer.weight", &[1], &[1.0])),
    );
    place("old/adapter_model.bin", b"PK\x03\x04");
    let audit = audited(root.path());
    let paths: Vec<_> = audit
        .adapters
        .iter()
        .map(|adapter| PathBuf::from(&adapter.path))
        .collect();
    let expected = ["loose.safetensors", "step-9", "step-10"].map(|name| root.path().join(name));
    assert_eq!(paths, expected);
    // A model's weights are no adapter, and are named; the optimiser's state is not looked into.
    let refused: Vec<_> = audit
        .refused
        .iter()
        .map(|r| PathBuf::from(&r.path))
        .collect();
    let expected = ["old/adapter_model.bin", "tuned/model.safetensors"];
    assert_eq!(refused, expected.map(|name| root.path().join(name)));
    // A pattern names the same files, each once, though it matches folders and what is in them.
    let pattern = root.path().join("step-*");
    let matched = audited(&pattern);
    assert_eq!((matched.adapters.len(), matched.refused.len()), (2, 0));
    let error = audit_error(&root.path().join("nothing-*"));
    assert!(error.contains("expected at least one path"), "{error}");
}

fn audit_error(path: &Path) -> String {
    audit(path, &AuditOptions::default())
        .unwrap_err()
        .to_string()
}

#[test]
fn the_bits_do_not_depend_on_the_number_of_threads() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let with = |threads| {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        pool.install(|| serde_json::to_string(&audited(&fixtures)).unwrap())
    };
    let one = with(1);
    assert!(one.contains("c_attn") && one.contains("embed"));
    assert_eq!(one, with(3));
}
