//! Methods that PEFT has, against it: see `tests/fixtures/models/NOTES.md`.

use std::fs;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor, safetensors};

use super::*;
use crate::engine::parameters::READ_BACK;
use crate::method::allocation::budget;
use crate::model::parity::case::{distance, largest};
use crate::module::{Module, Value};
use crate::tuning::write_adapter;

/// Of logits, absolute; the reference's own error is below 1e-6.
const LOGITS: f64 = 2e-5;

/// Of a gradient, relative to its largest entry, and 1e-6 of the largest of all.
const GRADIENT: f64 = 1e-4;

/// Of a decomposition in float32 against ours in float64, relative to the largest entry.
const DECOMPOSITION: f64 = 1e-4;

pub(super) fn folder(case: &str) -> PathBuf {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models/peft");
    fixtures.join(case)
}

/// PEFT's tensors as they are called and shaped here.
fn saved(folder: &Path) -> BTreeMap<String, Tensor> {
    let file = folder.join("adapter_model.safetensors");
    assert!(fs::exists(&file).unwrap(), "{}", file.display());
    let tensors = safetensors::load(&file, &Device::Cpu).unwrap();
    tensors
        .iter()
        .map(|(name, tensor)| ours(name, tensor))
        .collect()
}

/// Names that ViT's modules have in memory, and what its checkpoint calls them.
const VIT: [(&str, &str); 7] = [
    ("vit.layers.", "vit.encoder.layer."),
    ("attention.q_proj", "attention.attention.query"),
    ("attention.k_proj", "attention.attention.key"),
    ("attention.v_proj", "attention.attention.value"),
    ("attention.o_proj", "attention.output.dense"),
    ("mlp.fc1", "intermediate.dense"),
    ("mlp.fc2", "output.dense"),
];

/// The same of targets, which are ends of names.
const VIT_TARGETS: [(&str, &str); 6] = [
    ("q_proj", "query"),
    ("k_proj", "key"),
    ("v_proj", "value"),
    ("o_proj", "attention.output.dense"),
    ("fc1", "intermediate.dense"),
    ("fc2", "output.dense"),
];

fn renamed(name: &str, names: &[(&str, &str)]) -> String {
    let replaced = |name: String, (theirs, ours): &(&str, &str)| name.replace(theirs, ours);
    names.iter().fold(name.to_owned(), replaced)
}

/// PEFT's tensor under our name and in our shape.
fn ours(name: &str, tensor: &Tensor) -> (String, Tensor) {
    let name = name.strip_prefix("base_model.model.").unwrap_or(name);
    let is = |part: &str| name.contains(part);
    let name = match is(".lora_") {
        true => name.strip_suffix(".weight").unwrap_or(name),
        false => name,
    };
    let tensor = if is(".lora_B") {
        tensor.t().unwrap().contiguous().unwrap()
    } else if is(".lora_E") {
        tensor.flatten_all().unwrap()
    } else {
        tensor.clone()
    };
    let name = match name.starts_with("vit.") {
        true => renamed(name, &VIT),
        false => name.to_owned(),
    };
    (name, tensor)
}

/// The adapter's tensors into our parameters, every one of which must get its own.
fn load(tuned: &Tuned, folder: &Path) {
    let mut count = 0;
    for (name, tensor) in saved(folder) {
        // The projections that VeRA's layers share.
        if name.starts_with("base_model.") {
            continue;
        }
        let id = find(&tuned.parameters, &name);
        assert_eq!(tuned.parameters.part(id).shape, tensor.dims(), "{name}");
        tuned.parameters.set(id, &tensor).unwrap();
        count += 1;
    }
    assert_eq!(count, trained_there(tuned));
}

/// How many of our parameters train in PEFT as well: DeBERTa's pooler is a part of the head here,
/// and stays frozen there.
fn trained_there(tuned: &Tuned) -> usize {
    let parts = tuned.parameters.parts();
    parts
        .filter(|(_, part)| !part.name.starts_with("pooler."))
        .count()
}

/// The batch of a checkpoint's own case.
pub(super) fn reference_batch(case: &Case) -> Batch {
    let case = checkpoint(case);
    let part = Part {
        inputs: case.inputs(DType::F32),
        targets: case.targets(),
    };
    Batch {
        items: part.targets.count(),
        parts: vec![part],
    }
}

pub(super) fn checkpoint(case: &Case) -> Case {
    Case::read(case.notes["checkpoint"].as_str().unwrap())
}

/// The checkpoint with the method on the modules that the adapter's configuration names.
fn fitted(name: &str, text: &str) -> (Case, Tuned) {
    let case = Case::read(&format!("peft/{name}"));
    let configuration = fs::read_to_string(folder(name).join("adapter_config.json")).unwrap();
    let configuration: serde_json::Value = serde_json::from_str(&configuration).unwrap();
    // A list of names is the same in JSON and TOML.
    let targets = configuration["target_modules"].to_string();
    let targets = match name.starts_with("vit") {
        true => renamed(&targets, &VIT_TARGETS),
        false => targets,
    };
    let table = toml::from_str(&format!("{text}\ntargets = {targets}")).unwrap();
    let loaded = checkpoint(&case).load(DType::F32);
    let tuned = Tuned::new(loaded, &table, 7, DType::F32, &Device::Cpu).unwrap();
    (case, tuned)
}

fn pull(tuned: &Tuned, batch: &Batch, step: Step) -> (f64, Gradients) {
    let pull = tuned.pull(batch, None).unwrap();
    let mut gradients = pull.gradients;
    let term = tuned
        .rule
        .regularise(step, &tuned.modules, &tuned.parameters, &mut gradients)
        .unwrap();
    (pull.loss + term, gradients)
}

/// Logits, loss and every gradient.
fn check(name: &str, text: &str) -> Tuned {
    let (case, tuned) = fitted(name, text);
    load(&tuned, &folder(name));
    let batch = reference_batch(&case);
    let logits = flat(&tuned.outputs(&batch).unwrap()[0]);
    let error = distance(&logits, case.values("logits"));
    assert!(error < LOGITS, "{name}: logits differ by {error}");
    // PEFT leaves AdaLoRA's regulariser out where a model's loss is none of its own: the fixture of
    // such a case has no other loss.
    let is_bare = name.starts_with("vit") && name.ends_with("adalora");
    let (loss, gradients) = match is_bare {
        true => {
            let bare = tuned.pull(&batch, None).unwrap();
            (bare.loss, bare.gradients)
        }
        false => pull(&tuned, &batch, at(0)),
    };
    // A cross-entropy moves by at most twice what its logits do.
    let error = (loss - case.values("loss")[0]).abs();
    assert!(error < 2.0 * LOGITS, "{name}: loss differs by {error}");
    let theirs: Vec<_> = case
        .tensors
        .iter()
        .filter_map(|(name, shape, values)| {
            let tensor = Tensor::from_slice(values, shape.as_slice(), &Device::Cpu).unwrap();
            let (name, tensor) = ours(name.strip_prefix("grad.")?, &tensor);
            Some((name, flat(&tensor)))
        })
        .collect();
    let overall = largest(theirs.iter().flat_map(|(_, values)| values.clone()));
    for (part, theirs) in &theirs {
        let id = find(&tuned.parameters, part);
        let ours = flat(gradients.parameter(id).unwrap());
        let error = distance(&ours, theirs);
        let allowed = GRADIENT * largest(theirs.clone()) + 1e-6 * overall;
        assert!(
            error <= allowed,
            "{name}: gradient of {part} differs by {error}"
        );
    }
    assert_eq!(theirs.len(), trained_there(&tuned), "{name}");
    tuned
}

pub(super) const CHECKPOINTS: [&str; 4] = ["bert-cls", "deberta-v3-cls", "gpt2-cls", "vit-cls"];

#[test]
fn products() {
    for checkpoint in CHECKPOINTS {
        for (method, name) in [
            ("lora", "lora"),
            ("rslora", "rs-lora"),
            ("lora", "lora-plus"),
        ] {
            let text = format!("name = \"{name}\"\nrank = 4\nalpha = 8");
            check(&format!("{checkpoint}-{method}"), &text);
        }
    }
}

#[test]
fn decomposed_weights() {
    for checkpoint in CHECKPOINTS {
        let text = "name = \"dora\"\nrank = 4\nalpha = 8";
        check(&format!("{checkpoint}-dora"), text);
    }
}

#[test]
fn shared_projections_are_drawn_alike() {
    for checkpoint in CHECKPOINTS {
        let name = format!("{checkpoint}-vera");
        let tuned = check(&name, "name = \"vera\"\nrank = 8");
        let saved = saved(&folder(&name));
        let (a, b) = (&saved["base_model.vera_A"], &saved["base_model.vera_B"]);
        let mut compared = 0;
        for module in &tuned.modules.0 {
            let Some(adapter) = &module.adapter else {
                continue;
            };
            let of = |value: &Value| flat(value.tensor(&tuned.parameters));
            let a = a.narrow(1, 0, module.declared.inputs()).unwrap();
            let b = b.narrow(0, 0, module.declared.outputs()).unwrap();
            assert_eq!(of(&adapter.a), flat(&a));
            assert_eq!(of(&adapter.b), flat(&b.t().unwrap()));
            compared += 1;
        }
        assert!(compared >= 8, "{name}: {compared}");
    }
}

/// B A of a module, outputs × inputs.
fn product(saved: &BTreeMap<String, Tensor>, module: &Module) -> Vec<f64> {
    let part = |part: &str| &saved[&format!("{}.{part}", module.declared.name)];
    let product = part("lora_B").t().unwrap().matmul(part("lora_A")).unwrap();
    flat(&product)
}

#[test]
fn parts_of_the_weight() {
    for checkpoint in CHECKPOINTS {
        for name in ["pissa", "olora"] {
            // PEFT decomposes Conv1D in its stored orientation and fails.
            if (checkpoint, name) == ("gpt2-cls", "olora") {
                continue;
            }
            check_part(&format!("{checkpoint}-{name}"), name);
        }
    }
}

fn check_part(case: &str, name: &str) {
    let text = format!("name = \"{name}\"\nrank = 4\nalpha = 8");
    let trained = check(case, &text);
    let first = saved(&folder(case).join("initial"));
    let last = saved(&folder(case));
    let converted = saved(&folder(case).join("converted"));
    let mut compared = 0;
    for module in &trained.modules.0 {
        let Some((a, b)) = trained.rule.taken_off(module.id) else {
            continue;
        };
        let taken = flat(&b.t().unwrap().matmul(a).unwrap());
        let error = relative(&taken, &product(&first, module));
        assert!(error < DECOMPOSITION, "{case}: {error}");
        // PEFT's plain LoRA of twice the rank, s = 16/8.
        let change: Vec<_> = product(&last, module)
            .iter()
            .zip(&taken)
            .map(|(now, taken)| now - taken)
            .collect();
        let error = relative(&change, &product(&converted, module));
        assert!(error < DECOMPOSITION, "{case}: {error}");
        compared += 1;
    }
    assert!(compared >= 8, "{case}: {compared}");
}

const ADALORA: &str = "name = \"adalora\"\nrank = 3\nfirst_rank = 6\nalpha = 8\ninitial_steps = 1\n\
                       final_steps = 2\nregulariser = \"mean-norm\"\nregularisation = 0.5";

#[test]
fn adaptive_budgets() {
    for checkpoint in CHECKPOINTS {
        check(&format!("{checkpoint}-adalora"), ADALORA);
    }
}

/// Of E after steps of Adam at a rate of 0.01, absolute: float32 drifts apart by rounding.
const DRIFT: f64 = 5e-5;

#[test]
fn a_run_of_adaptive_budgets() {
    let (case, mut tuned) = fitted("bert-cls-adalora-run", ADALORA);
    load(&tuned, &folder("bert-cls-adalora-run").join("initial"));
    let rule = Rule::AdamW {
        beta1: 0.9,
        beta2: 0.999,
        epsilon: 1e-8,
        decay: 0.0,
    };
    let batch = reference_batch(&case);
    let mut optimizer = Optimizer::new(rule, &tuned.parameters, |_| false).unwrap();
    let budgets = case.notes["budgets"].as_array().unwrap();
    for number in 0..8 {
        let step = Step {
            of: 8,
            ..at(number)
        };
        tuned
            .rule
            .begin(step, &mut tuned.modules, &tuned.parameters)
            .unwrap();
        let (loss, gradients) = pull(&tuned, &batch, step);
        let error = (loss - case.values("losses")[number as usize]).abs();
        assert!(error < 1e-4, "step {number}: loss differs by {error}");
        optimizer
            .step(&tuned.parameters, &gradients, |_| None, 1e-2, 1.0)
            .unwrap();
        let made = Made {
            step,
            rate: 1e-2,
            peak: 1e-2,
            factor: 1.0,
            gradients: &gradients,
        };
        tuned
            .rule
            .settle(made, &mut tuned.modules, &tuned.parameters)
            .unwrap();
        let expected = budgets[number as usize].as_u64().unwrap() as usize;
        assert_eq!(budget(number, 1, 6, 72, 36), expected, "step {number}");
        let prefix = format!("step.{number}.");
        let mut compared = 0;
        for (name, _, theirs) in &case.tensors {
            let Some(name) = name.strip_prefix(&prefix) else {
                continue;
            };
            let name = name.strip_prefix("base_model.model.").unwrap_or(name);
            let ours = flat(tuned.parameters.view(find(&tuned.parameters, name)));
            let zeros = |values: &[f64]| values.iter().map(|e| *e == 0.0).collect::<Vec<_>>();
            assert_eq!(zeros(&ours), zeros(theirs), "step {number}: {name}");
            let error = distance(&ours, theirs);
            assert!(error < DRIFT, "step {number}: {name} differs by {error}");
            compared += 1;
        }
        assert_eq!(compared, 12, "step {number}");
    }
    for (name, rank) in case.notes["ranks"].as_object().unwrap() {
        let e = flat(tuned.parameters.view(find(&tuned.parameters, name)));
        let rank = rank.as_u64().unwrap() as usize;
        assert_eq!(e.iter().filter(|e| **e != 0.0).count(), rank, "{name}");
    }
    // Theirs is the pruned adapter, loaded again: the scale is still that of the first ranks.
    let logits = flat(&tuned.outputs(&batch).unwrap()[0]);
    let error = distance(&logits, case.values("logits"));
    assert!(error < 1e-3, "logits differ by {error}");
}

#[test]
fn saving_reads_the_trained_numbers_back_once() {
    for text in [
        "name = \"lora\"\nalpha = 8",
        "name = \"dora\"",
        "name = \"vera\"",
    ] {
        let (table, folder) = (table(text), tempfile::tempdir().unwrap());
        let run = Run::of(&table, DType::F32);
        let before = READ_BACK.get();
        write_adapter(&run.tuned, &table, None, folder.path(), "base").unwrap();
        let read = READ_BACK.get() - before;
        assert_eq!(read, run.tuned.parameters.values().elem_count(), "{text}");
        let file = folder.path().join("adapter_model.safetensors");
        let saved = file.metadata().unwrap().len();
        assert!(
            4 * read as u64 <= saved,
            "{text}: {read} numbers for {saved} bytes"
        );
    }
}
