//! Every architecture against the reference implementation: on small random checkpoints, see
//! `tests/fixtures/models/NOTES.md`, and on real ones that are not part of the repository.

mod case;
mod half;
mod merged;
mod real;

use std::fs;

use candle_core::DType;

use self::case::{Case, LOGITS, distance, everything, flat, gradients, largest};
use super::Head;
use crate::engine::loss::loss;
use crate::engine::optimizer::{Optimizer, Rule};

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
