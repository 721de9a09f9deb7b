//! Steps of RM-LoRA beside those of the peer's script (`make_rm_lora.py`), with its masks.

use std::path::Path;

use super::*;
use crate::model::parity::case::{distance, tensors};

const RATE: f64 = 1e-2;

#[test]
fn steps_are_the_peers() {
    let file =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models/rm-lora.safetensors");
    let kept = tensors(&file);
    let find = |name: &str| {
        let (_, shape, values) = kept.iter().find(|(own, ..)| own == name)?;
        Some((shape.clone(), values.clone()))
    };
    // Rows are directions here; of B they are columns there.
    let rows = |name: &str| {
        let (shape, values) = find(name).unwrap_or_else(|| panic!("no {name}"));
        let tensor = Tensor::from_vec(values, shape, &Device::Cpu).unwrap();
        match name.trim_end_matches(".0").ends_with(".B") {
            true => tensor.t().unwrap().contiguous().unwrap(),
            false => tensor,
        }
    };
    // In float32 Adam's first steps turn on the signs of gradients near zero.
    for (dtype, tolerance) in [(DType::F64, 1e-9), (DType::F32, 2e-4)] {
        let text = "name = \"rm-lora\"\nrank = 4\ndirections = 3\nlambda = 0.01";
        let mut tuned = tuned(&table(text), dtype);
        let rule = Rule::AdamW {
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            decay: 0.0,
        };
        let by_rows = directional(&tuned.modules);
        let mut optimizer =
            Optimizer::new(rule, &tuned.parameters, |id| by_rows.contains(&id)).unwrap();
        let mut names = Vec::new();
        for module in tuned
            .modules
            .0
            .iter()
            .filter(|module| module.adapter.is_some())
        {
            let name = module.declared.name.clone();
            for part in ["A", "B"] {
                let id = super::find(&tuned.parameters, &format!("{name}.lora_{part}"));
                let first = rows(&format!("{name}.{part}.0"));
                tuned.parameters.set(id, &first).unwrap();
            }
            names.push((module.id, name));
        }
        assert_eq!(names.len(), 12);
        let batch = batch(dtype);
        let steps = find(&format!("{}.mask", names[0].1)).unwrap().0[0];
        for number in 0..steps {
            let step = at(number as u64);
            let Tuned {
                rule,
                modules,
                parameters,
                ..
            } = &mut tuned;
            rule.begin(step, modules, parameters).unwrap();
            for (id, name) in &names {
                let (shape, masks) = find(&format!("{name}.mask")).unwrap();
                let own = masks.chunks_exact(shape[1]).nth(number).unwrap();
                let adapter = modules.0[id.0].adapter.as_mut().unwrap();
                assert_eq!(adapter.moving.as_ref().unwrap().len(), own.len());
                adapter.moving = Some(own.iter().map(|row| *row as u32).collect());
            }
            let mut gradients = tuned.pull(&batch, None).unwrap().gradients;
            let (modules, parameters) = (&tuned.modules, &tuned.parameters);
            tuned
                .rule
                .regularise(step, modules, parameters, &mut gradients)
                .unwrap();
            let norm = gradient_norm(parameters, &gradients).unwrap();
            let factor = (1.0 / (norm + 1e-6)).min(1.0);
            let moving = moving(modules);
            optimizer
                .step(
                    parameters,
                    &gradients,
                    |id| moving.get(&id).map(Vec::as_slice),
                    RATE,
                    factor,
                )
                .unwrap();
        }
        let mut ends: Vec<(String, String)> = ["weight", "bias"]
            .map(|part| format!("classifier.{part}"))
            .map(|name| (name.clone(), name))
            .to_vec();
        for (_, name) in &names {
            for part in ["A", "B"] {
                ends.push((format!("{name}.lora_{part}"), format!("{name}.{part}")));
            }
        }
        for (ours, theirs) in ends {
            let id = super::find(&tuned.parameters, &ours);
            let found = flat(tuned.parameters.view(id));
            let error = distance(&found, &flat(&rows(&theirs)));
            assert!(
                error <= tolerance,
                "{ours} in {dtype:?}: differs by {error}"
            );
        }
    }
}
