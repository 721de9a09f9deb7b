//! Adapters on disk: PEFT's begin runs here, and what is written here begins another run alike.

use std::fs;
use std::path::Path;

use rankwise_analysis::Outputs;
use serde_json::Value as Json;

use super::peft::{CHECKPOINTS, checkpoint, folder, reference_batch};
use super::*;
use crate::Error;
use crate::model::parity::case::distance;
use crate::tuning::{Beginning, Prepared, write_adapter};

/// Of logits, absolute; the reference's own error is below 1e-6.
const LOGITS: f64 = 2e-5;

fn classes() -> Outputs {
    Outputs::Classes {
        classes: ["a", "b", "c"].map(str::to_owned).to_vec(),
    }
}

/// A model that begins with the adapter in `folder`.
fn begun(case: &Case, table: &str, folder: &Path) -> Result<(Tuned, Vec<String>), Error> {
    let table: MethodTable = toml::from_str(table).unwrap();
    let loaded = case.load(DType::F32);
    let beginning = Beginning::read(folder)?;
    let table = beginning.fitted(&table, &loaded.modules)?;
    let mut prepared = Prepared::new(loaded, &table, 7)?;
    let notes = beginning.fill(&mut prepared, &mut Vec::new())?;
    let tuned = Tuned::of(prepared, DType::F32, &Device::Cpu)?;
    Ok((tuned, notes))
}

#[test]
fn adapters_of_peft_begin_a_run() {
    for checkpoint_name in CHECKPOINTS {
        for (theirs, ours) in [
            ("lora", "name = \"lora\""),
            ("lora", "name = \"rm-lora\"\ndirections = 2"),
            ("lora", "name = \"delta-lora\"\nstart = 1"),
            ("rslora", "name = \"rs-lora\""),
            ("rslora", "name = \"lora\""),
            ("dora", "name = \"dora\""),
            ("vera", "name = \"vera\""),
            ("adalora", "name = \"adalora\"\nrank = 3"),
            ("adalora", "name = \"sora\""),
        ] {
            let name = format!("{checkpoint_name}-{theirs}");
            let case = Case::read(&format!("peft/{name}"));
            let result = begun(&checkpoint(&case), ours, &folder(&name));
            let (tuned, _) = result.unwrap_or_else(|error| panic!("{name}, {ours}: {error}"));
            let logits = flat(&tuned.outputs(&reference_batch(&case)).unwrap()[0]);
            let error = distance(&logits, case.values("logits"));
            assert!(error < LOGITS, "{name}, {ours}: logits differ by {error}");
        }
    }
}

#[test]
fn a_head_that_was_drawn_is_the_adapters_then() {
    let case = Case::read("bert-cls");
    let beginning = Beginning::read(&folder("bert-cls-lora")).unwrap();
    let loaded = case.load(DType::F32);
    let table = beginning
        .fitted(&MethodTable::default(), &loaded.modules)
        .unwrap();
    let mut prepared = Prepared::new(loaded, &table, 7).unwrap();
    let mut drawn = vec!["classifier.weight".to_owned(), "another".to_owned()];
    beginning.fill(&mut prepared, &mut drawn).unwrap();
    assert_eq!(drawn, ["another"]);
}

/// A module that trained as a whole, under the name that it has in a model without a head.
#[test]
fn whole_tensors_find_their_module_without_its_prefix() {
    let lora = folder("bert-cls-lora");
    let out = tempfile::tempdir().unwrap();
    let config = "adapter_config.json";
    fs::copy(lora.join(config), out.path().join(config)).unwrap();
    let file = "adapter_model.safetensors";
    let mut tensors = candle_core::safetensors::load(lora.join(file), &Device::Cpu).unwrap();
    for (part, shape) in [("weight", vec![32, 32]), ("bias", vec![32])] {
        let values = Tensor::full(0.25_f32, shape, &Device::Cpu).unwrap();
        let name = format!("base_model.model.pooler.dense.{part}");
        tensors.insert(name, values);
    }
    candle_core::safetensors::save(&tensors, out.path().join(file)).unwrap();
    let (tuned, notes) = begun(&Case::read("bert-cls"), "name = \"lora\"", out.path()).unwrap();
    assert_eq!(notes.len(), 1, "{notes:?}");
    for part in ["weight", "bias"] {
        let id = find(&tuned.parameters, &format!("bert.pooler.dense.{part}"));
        let values = flat(tuned.parameters.view(id));
        assert!(values.iter().all(|value| *value == 0.25), "{part}");
    }
}

#[test]
fn what_is_written_begins_a_run_with_the_same_numbers() {
    let mut compared = 0;
    for text in TABLES {
        let table = table(text);
        let mut run = Run::of(&table, DType::F32);
        if !run.tuned.rule.adapts() {
            continue;
        }
        run.steps(3);
        let folder = tempfile::tempdir().unwrap();
        write_adapter(
            &run.tuned,
            &table,
            Some(&classes()),
            folder.path(),
            "bert-cls",
        )
        .unwrap();
        // A plain product is what any adapter comes to; a gated one goes on as it is.
        let own: Json = read(folder.path());
        let (name, is_own) = match own["peft_type"].as_str().unwrap() {
            "ADALORA" => ("adalora", true),
            "VERA" => ("vera", true),
            _ if own["use_dora"] == true => ("dora", true),
            _ => ("lora", table.method.key() == "lora"),
        };
        let case = Case::read("bert-cls");
        let rank = if name == "adalora" { "rank = 4\n" } else { "" };
        let (tuned, _) = begun(&case, &format!("{rank}name = \"{name}\""), folder.path())
            .unwrap_or_else(|error| panic!("{text}: {error}"));
        let outputs: Vec<_> = tuned
            .outputs(&run.batch)
            .unwrap()
            .iter()
            .flat_map(flat)
            .collect();
        let error = relative(&outputs, &run.outputs());
        assert!(error < LOGITS, "{text}: {error}");
        if is_own {
            for (id, part) in run.tuned.parameters.parts() {
                let again = tuned.parameters.view(find(&tuned.parameters, &part.name));
                assert_eq!(
                    flat(again),
                    flat(run.tuned.parameters.view(id)),
                    "{text}: {}",
                    part.name
                );
            }
        }
        compared += 1;
    }
    assert!(compared >= 20, "{compared}");
}

fn read(folder: &Path) -> Json {
    let text = fs::read_to_string(folder.join("adapter_config.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// Name and shape of every tensor.
fn tensors(folder: &Path) -> BTreeMap<String, Vec<usize>> {
    let file = folder.join("adapter_model.safetensors");
    let tensors = candle_core::safetensors::load(file, &Device::Cpu).unwrap();
    let shapes = tensors
        .into_iter()
        .map(|(name, tensor)| (name, tensor.dims().to_vec()));
    shapes.collect()
}

#[test]
fn what_is_written_looks_as_peft_writes_it() {
    for (theirs, text) in [
        ("lora", "name = \"lora\"\nrank = 4\nalpha = 8"),
        ("dora", "name = \"dora\"\nrank = 4\nalpha = 8"),
        ("vera", "name = \"vera\"\nrank = 8"),
        (
            "adalora",
            "name = \"adalora\"\nrank = 3\nfirst_rank = 6\nalpha = 8\ninitial_steps = 1\n\
             final_steps = 2\nregulariser = \"mean-norm\"\nregularisation = 0.5",
        ),
    ] {
        let table = table(text);
        let mut run = Run::of(&table, DType::F32);
        run.steps(1);
        let out = tempfile::tempdir().unwrap();
        write_adapter(&run.tuned, &table, Some(&classes()), out.path(), "bert-cls").unwrap();
        let theirs = folder(&format!("bert-cls-{theirs}"));
        assert_eq!(tensors(out.path()), tensors(&theirs), "{text}");
        let (ours, known) = (read(out.path()), read(&theirs));
        for (key, value) in ours.as_object().unwrap() {
            // Ours lists whole names; the run has other steps.
            let is_own =
                ["target_modules", "modules_to_save", "total_step"].contains(&key.as_str());
            // PEFT writes the ignored default of plain LoRA beside AdaLoRA's ranks.
            let is_ignored = key == "r" && known["peft_type"] == "ADALORA";
            if is_own || is_ignored {
                continue;
            }
            match (value.as_f64(), known[key].as_f64()) {
                (Some(ours), Some(theirs)) => {
                    assert!((ours - theirs).abs() < 1e-9, "{text}: {key}");
                }
                _ => assert_eq!(*value, known[key], "{text}: {key}"),
            }
        }
    }
}

/// Transformers 5 has other names for a vision transformer's blocks in memory, and PEFT's adapter of
/// the same model has those.
#[test]
fn adapters_of_images_have_the_names_of_both_versions() {
    let case = Case::read("vit-cls");
    let pattern = "name = \"lora\"\nrank_pattern = { \"layer.0.attention.attention.query\" = 3 }";
    for (text, on) in [
        (pattern, "name = \"lora\""),
        ("name = \"dora\"", "name = \"dora\""),
        ("name = \"adalora\"", "name = \"adalora\"\nrank = 4"),
        ("name = \"vera\"", "name = \"vera\""),
    ] {
        let table = table(text);
        let loaded = case.load(DType::F32);
        let tuned = Tuned::new(loaded, &table, 7, DType::F32, &Device::Cpu).unwrap();
        let out = tempfile::tempdir().unwrap();
        write_adapter(&tuned, &table, Some(&classes()), out.path(), "vit-cls").unwrap();
        let ours = tensors(out.path());
        let of_blocks = |(name, _): &(&String, &Vec<usize>)| name.contains("vit.encoder.layer.");
        let blocks: Vec<_> = ours.iter().filter(of_blocks).collect();
        for (name, shape) in &blocks {
            let (frame, own) = name.split_at("base_model.model.".len());
            let alias = tuned.architecture.alias(own).unwrap();
            assert_eq!(ours.get(&format!("{frame}{alias}")), Some(*shape), "{name}");
        }
        let modules = tuned.modules.adapters().count();
        assert!(blocks.len() >= 2 * modules, "{text}: {}", blocks.len());
        let config = read(out.path());
        let targets = config["target_modules"].as_array().unwrap();
        for name in ["vit.encoder.layer.1.output.dense", "vit.layers.1.mlp.fc2"] {
            assert!(targets.contains(&name.into()), "{name}");
        }
        let ranks = config["rank_pattern"].to_string();
        let both = "query|vit.layers.0.attention.q_proj)";
        assert_eq!(ranks.contains(both), text == pattern, "{ranks}");
        let class = &config["auto_mapping"]["base_model_class"];
        assert_eq!(class, "ViTForImageClassification");
        assert_eq!(config["task_type"], Json::Null);
        // Read here, each module is there once.
        let again = rankwise_analysis::TrainedAdapter::read(out.path()).unwrap();
        assert_eq!(again.modules.len(), modules, "{text}");
        if let Err(error) = begun(&case, on, out.path()) {
            panic!("{text}: {error}");
        }
    }
}

#[test]
fn what_does_not_fit_an_adapter_is_named() {
    let lora = folder("bert-cls-lora");
    let case = Case::read("bert-cls");
    let refused = |table: &str, folder: &Path| {
        let error = begun(&case, table, folder).err();
        error
            .unwrap_or_else(|| panic!("{table}: accepted"))
            .to_string()
    };
    let message = refused("name = \"lora\"\nalpha = 3", &lora);
    assert!(
        message.contains("method.alpha") && message.contains("found 3"),
        "{message}"
    );
    let message = refused("name = \"lora\"\ntargets = [\"query\"]", &lora);
    assert!(message.contains("method.targets"), "{message}");
    let message = refused("name = \"pissa\"", &lora);
    assert!(message.contains("takes a part off"), "{message}");
    let message = refused("name = \"dora\"", &lora);
    assert!(
        message.contains("32 magnitudes for the method, found no magnitudes"),
        "{message}"
    );
    let message = refused("name = \"adalora\"", &lora);
    assert!(
        message.contains("4 direction gates for the method, found no direction gates"),
        "{message}"
    );
    let message = refused("name = \"lora\"", &folder("bert-cls-adalora"));
    assert!(
        message.contains("no direction gates for the method, found 6 direction gates"),
        "{message}"
    );
    let message = refused("name = \"lora\"", &folder("bert-cls-pissa"));
    assert!(message.contains("changed the base"), "{message}");
    let message = refused("name = \"lora\"", &folder("gpt2-cls-lora"));
    assert!(
        message.contains("a module of the model, found none"),
        "{message}"
    );
    let message = refused("name = \"lora\"", Path::new("no/such/adapter"));
    assert!(message.contains("no/such/adapter"), "{message}");
}
