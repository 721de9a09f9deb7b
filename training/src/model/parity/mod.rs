//! Every architecture against the reference implementation: on small random checkpoints, see
//! `tests/fixtures/models/NOTES.md`, and on real ones that are not part of the repository.

pub(crate) mod case;
mod half;
mod merged;
mod real;

use std::collections::BTreeSet;
use std::fs;

use candle_core::{DType, Device};
use safetensors::SafeTensors;

use self::case::{Case, LOGITS, distance, everything, flat, gradients, largest};
use super::vit;
use super::{Head, Loaded};
use crate::engine::host::elsewhere;
use crate::engine::loss::loss;
use crate::engine::optimizer::{Optimizer, Rule};
use crate::module::Kind;

/// Of a gradient, relative to its largest entry (and 1e-6 of the largest gradient of all for tensors
/// that are nearly zero).
const GRADIENT: f64 = 1e-4;

/// Of parameters after five steps of Adam, where the first gradient is no rounding error.
const AFTER: f64 = 2e-5;

/// Where it is: Adam makes steps of the whole learning rate from it.
const UNSTEERED: f64 = 1e-2;

/// Logits, loss, every gradient, and every parameter after five steps.
fn check(name: &str) {
    let case = Case::read(name);
    let dtype = DType::F32;
    let inputs = case.inputs(dtype);
    let mut model = case.loaded();

    // Losses of spans run over padding in the reference; without padding there is none.
    let real = if case.head() == Head::Span {
        "real."
    } else {
        ""
    };
    let targets = case.targets();
    let parameters = everything(&mut model, dtype);
    let (value, first) = gradients(&model, &parameters, &inputs, &targets);
    let error = (value - case.values(&format!("{real}loss"))[0]).abs();
    assert!(error < 1e-5, "{name}: loss {value} differs by {error}");
    let prefix = format!("{real}grad.");
    let overall = largest(
        case.with_prefix(&prefix)
            .map(|(_, values)| largest(values.to_vec())),
    );
    let mut compared = 0;
    for (id, part) in parameters.parts() {
        let theirs = case.values(&format!("{prefix}{}", part.name));
        let ours = match first.parameter(id) {
            Some(gradient) => flat(gradient),
            None => vec![0.0; theirs.len()],
        };
        let error = distance(&ours, theirs);
        let allowed = GRADIENT * largest(theirs.to_vec()) + 1e-6 * overall;
        assert!(
            error <= allowed,
            "{name}: gradient of {} differs by {error}",
            part.name
        );
        compared += 1;
    }
    let known = case.with_prefix(&prefix).count();
    assert_eq!(compared, known, "{name}: gradients");

    if real.is_empty() {
        let rule = Rule::AdamW {
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            decay: 0.01,
        };
        let mut optimizer = Optimizer::new(rule, &parameters, |_| false).unwrap();
        for _ in 0..5 {
            let (_, gradients) = gradients(&model, &parameters, &inputs, &targets);
            optimizer
                .step(&parameters, &gradients, |_| None, 1e-3, 1.0)
                .unwrap();
        }
        for (id, part) in parameters.parts() {
            let theirs = case.values(&format!("after.{}", part.name));
            let grads = case.values(&format!("grad.{}", part.name));
            for ((ours, theirs), gradient) in
                flat(parameters.view(id)).iter().zip(theirs).zip(grads)
            {
                let error = (ours - theirs).abs();
                let allowed = if gradient.abs() > 1e-5 {
                    AFTER
                } else {
                    UNSTEERED
                };
                assert!(
                    error <= allowed,
                    "{name}: {} after five steps differs by {error}",
                    part.name
                );
            }
        }
    }
}

/// Logits alone, and the loss where the case has one.
fn check_logits(case: &Case) {
    let model = case.loaded();
    if let Some((_, theirs)) = case.find("loss") {
        let inputs = case.inputs(DType::F32);
        let ours = case.outputs(&model, DType::F32);
        let targets = case.targets();
        let loss = loss(&ours, &targets, &inputs.lengths, targets.count()).unwrap();
        assert!((loss.value - theirs[0]).abs() < 1e-5);
    }
}

#[test]
fn bert() {
    for name in ["bert-cls", "bert-regression", "bert-pair-types", "bert-qa"] {
        check(name);
    }
}

/// The tensor operations that a GPU computes with, on the CPU: the same numbers.
#[test]
fn operations_of_other_devices() {
    elsewhere::compute(|| {
        for name in [
            "bert-cls",
            "bert-qa",
            "roberta-cls",
            "gpt2-cls",
            "gpt2-lm",
            "vit-cls",
            "deberta-v3-cls",
            "deberta-c2p",
            "deberta-p2c",
            "deberta-conv",
        ] {
            check(name);
        }
    });
}

#[test]
fn bert_from_other_containers() {
    for folder in ["bert-cls-bin", "bert-cls-sharded"] {
        check_logits(&Case::read("bert-cls").of(folder));
    }
}

/// Names of the first checkpoints, no prefix and no head: the head is drawn, then put in.
#[test]
fn bert_from_the_first_checkpoints() {
    let case = Case::read("bert-old-names");
    let mut model = case.load(DType::F32);
    assert_eq!(model.drawn, ["classifier.weight", "classifier.bias"]);
    assert!(model.unused.is_empty(), "{:?}", model.unused);
    case.put_head(&mut model, DType::F32);
    let error = distance(&flat(&case.outputs(&model, DType::F32)), &case.logits(""));
    assert!(error < LOGITS, "logits differ by {error}");
}

#[test]
fn roberta() {
    for name in ["roberta-cls", "roberta-regression", "roberta-qa"] {
        check(name);
    }
}

#[test]
fn gpt2() {
    for name in ["gpt2-cls", "gpt2-lm", "gpt2-qa"] {
        check(name);
    }
    // Padding on the left, and real tokens with the padding's id.
    for name in ["gpt2-cls-left", "gpt2-cls-eos"] {
        check_logits(&Case::read(name));
    }
    // Without the prefix, and with masks that nothing learned.
    check_logits(&Case::read("gpt2-lm").of("gpt2-old-names"));
}

#[test]
fn vit() {
    for name in ["vit-cls", "vit-no-bias"] {
        check(name);
    }
    for name in ["vit-interpolate", "vit-interpolate-wide"] {
        check_logits(&Case::read(name));
    }
}

/// A checkpoint whose tensors have the names that transformers 5 has in memory.
#[test]
fn vit_by_names_in_memory() {
    let mut case = Case::read("vit-cls");
    let bytes = fs::read(case.folder.join("model.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let renamed = tensors.iter().map(|(name, view)| {
        let alias = vit::alias(name).unwrap_or_else(|| name.to_owned());
        (alias, view)
    });
    let renamed: Vec<_> = renamed.collect();
    let names = [
        "vit.layers.1.attention.o_proj.bias",
        "vit.layers.0.mlp.fc1.weight",
    ];
    for name in names {
        assert!(renamed.iter().any(|(alias, _)| alias == name), "{name}");
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    safetensors::serialize_to_file(renamed, None, &path).unwrap();
    fs::copy(
        case.folder.join("config.json"),
        folder.path().join("config.json"),
    )
    .unwrap();
    case.folder = folder.path().to_path_buf();
    check_logits(&case);
}

/// The modules of an adapter that PEFT made are the aliases of the blocks' matrices, all of them.
#[test]
fn vit_by_names_of_an_adapter() {
    let case = Case::read("vit-cls");
    let adapter = case.folder.with_file_name("peft").join("vit-cls-lora");
    let bytes = fs::read(adapter.join("adapter_model.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let module = |name: &str| {
        let name = name.strip_prefix("base_model.model.")?;
        Some(name.strip_suffix(".lora_A.weight")?.to_owned())
    };
    let named: BTreeSet<_> = tensors.names().into_iter().filter_map(module).collect();
    let model = case.load(DType::F32);
    let modules = model.modules.0.iter().map(|module| &module.declared);
    let own: BTreeSet<_> = modules
        .filter(|declared| declared.kind == Kind::Linear && !declared.is_head)
        .map(|declared| model.architecture.alias(&declared.name).unwrap())
        .collect();
    assert_eq!(named, own);
}

/// A configuration that asks for another model than the weights are: one error, nothing made in the
/// sizes that it claims.
#[test]
fn sizes_that_the_weights_do_not_have_are_named() {
    let case = Case::read("bert-cls");
    let folder = tempfile::tempdir().unwrap();
    let config = fs::read_to_string(case.folder.join("config.json")).unwrap();
    let mut config: serde_json::Value = serde_json::from_str(&config).unwrap();
    config["hidden_size"] = 16_777_216.into();
    fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    let weights = "model.safetensors";
    fs::copy(case.folder.join(weights), folder.path().join(weights)).unwrap();
    let head = Head::Classes(1 << 24);
    let error = Loaded::read(folder.path(), head, 0, DType::F32, &Device::Cpu).unwrap_err();
    let message = error.to_string();
    assert!(message.contains("instead of [120, 16777216]"), "{message}");
    assert!(message.contains("more"), "{message}");
}

#[test]
fn deberta() {
    for name in [
        "deberta-v3-cls",
        "deberta-regression",
        "deberta-qa",
        "deberta-own-keys",
        "deberta-c2p",
        "deberta-p2c",
        "deberta-biased-types",
        "deberta-no-relative",
        "deberta-no-norm",
        "deberta-no-buckets",
        "deberta-embedding-size",
        "deberta-conv",
    ] {
        check(name);
    }
}

/// The published configurations have a text where newer ones have a list.
#[test]
fn deberta_from_a_published_configuration() {
    let mut case = Case::read("deberta-v3-cls");
    let folder = tempfile::tempdir().unwrap();
    for (from, to) in [
        ("config-published.json", "config.json"),
        ("model.safetensors", "model.safetensors"),
    ] {
        fs::copy(case.folder.join(from), folder.path().join(to)).unwrap();
    }
    case.folder = folder.path().to_path_buf();
    check_logits(&case);
}
