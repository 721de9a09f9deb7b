//! What a run leaves to be used: an adapter in PEFT's layout, or the tuned checkpoint.
//!
//! Modules that train as they are (the head, `train_also`) go into the adapter under PEFT's names
//! for `modules_to_save`. Under full fine-tuning the whole model is written as its checkpoint was.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Tensor};
use rankwise_data::{create_folder, discard_leftovers, read_text, write_atomic};
use serde_json::{Map, Value as Json, json};

use super::Tuned;
use super::config::TuneConfig;
use super::folder::write_tensors;
use crate::Error;
use crate::method::MethodTable;
use crate::module::{Adapter, Kind, Module, Value};

/// Writes `folder/adapter` or, if the model's own tensors trained, `folder/tuned`.
pub(super) fn write(
    tuned: &Tuned,
    config: &TuneConfig,
    classes: &[String],
    folder: &Path,
    model: &Path,
) -> Result<(), Error> {
    if tuned.rule.adapts() {
        write_adapter(
            tuned,
            &config.method,
            &folder.join("adapter"),
            &config.model.path,
        )
    } else {
        write_checkpoint(tuned, classes, &folder.join("tuned"), model)
    }
}

fn write_adapter(
    tuned: &Tuned,
    method: &MethodTable,
    folder: &Path,
    base: &str,
) -> Result<(), Error> {
    let mut tensors = Vec::new();
    let mut targets = Vec::new();
    let mut ranks = BTreeMap::new();
    let mut alphas = BTreeMap::new();
    let mut saved = Vec::new();
    let mut is_transposed = false;
    for module in &tuned.modules.0 {
        let name = &module.declared.name;
        if let Some(adapter) = &module.adapter {
            let rank = push_factors(tuned, module, adapter, &mut tensors)?;
            targets.push(name.clone());
            ranks.insert(name.clone(), rank);
            alphas.insert(name.clone(), adapter.scale * rank as f64);
            is_transposed |= module.declared.kind == Kind::Conv1d;
            continue;
        }
        let own = [
            (module.declared.weight_name(), Some(&module.weight)),
            (format!("{name}.bias"), module.bias.as_ref()),
        ];
        let mut trains = false;
        for (key, value) in own {
            if let Some(Value::Trained(id)) = value {
                let tensor = tuned.parameters.view(*id).to_dtype(DType::F32)?;
                tensors.push((format!("base_model.model.{key}"), tensor));
                trains = true;
            }
        }
        if trains {
            saved.push(name.clone());
        }
    }
    let most = |values: &BTreeMap<String, f64>| values.values().copied().fold(0.0, f64::max);
    let rank = ranks.values().copied().max().unwrap_or(0);
    let alpha = most(&alphas);
    let mut config = json!({
        "peft_type": "LORA",
        "base_model_name_or_path": base,
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": method.common.dropout,
        "bias": "none",
        "fan_in_fan_out": is_transposed,
        "inference_mode": true,
        "init_lora_weights": true,
        "modules_to_save": saved,
        "target_modules": targets,
        "rank_pattern": pattern(&ranks, |value| *value != rank),
        "alpha_pattern": pattern(&alphas, |value| *value != alpha),
        "rankwise_method": method.method.key(),
    });
    for (key, value) in tuned.rule.peft().keys {
        config[key] = value;
    }
    create_folder(folder)?;
    discard_leftovers(folder)?;
    write_tensors(&folder.join("adapter_model.safetensors"), &tensors, None)?;
    write_json(&folder.join("adapter_config.json"), &config)
}

/// The entries that differ, by whole names.
fn pattern<T: Clone + Into<Json>>(
    values: &BTreeMap<String, T>,
    differs: impl Fn(&T) -> bool,
) -> Json {
    let entries = values.iter().filter(|(_, value)| differs(value));
    let entries = entries.map(|(name, value)| (format!("^{name}"), value.clone().into()));
    Json::Object(entries.collect())
}

/// A module's factors under PEFT's names; returns R.
fn push_factors(
    tuned: &Tuned,
    module: &Module,
    adapter: &Adapter,
    tensors: &mut Vec<(String, Tensor)>,
) -> Result<usize, Error> {
    let of = |value: &Value| value.tensor(&tuned.parameters).to_dtype(DType::F32);
    let name = format!("base_model.model.{}", module.declared.name);
    let mut a = of(&adapter.a)?;
    let b = of(&adapter.b)?;
    if let Some(gate) = &adapter.gate {
        let gate = of(gate)?.flatten_all()?;
        let rank = gate.dim(0)?;
        a = a.broadcast_mul(&gate.reshape((rank, 1))?)?;
    }
    let b = match &adapter.output_gate {
        Some(output) => b.broadcast_mul(&of(output)?)?,
        None => b,
    };
    let rank = a.dim(0)?;
    let b = b.t()?.contiguous()?;
    match module.declared.kind {
        Kind::Embedding => {
            tensors.push((format!("{name}.lora_embedding_A"), a));
            tensors.push((format!("{name}.lora_embedding_B"), b));
        }
        Kind::Patches => {
            let shape = &module.declared.shape;
            let a = a.reshape((rank, shape[1], shape[2], shape[3]))?;
            let outputs = b.dim(0)?;
            tensors.push((format!("{name}.lora_A.weight"), a));
            tensors.push((
                format!("{name}.lora_B.weight"),
                b.reshape((outputs, rank, 1, 1))?,
            ));
        }
        _ => {
            tensors.push((format!("{name}.lora_A.weight"), a));
            tensors.push((format!("{name}.lora_B.weight"), b));
        }
    }
    if let Some(magnitude) = adapter.magnitude {
        let magnitude = tuned.parameters.view(magnitude).to_dtype(DType::F32)?;
        tensors.push((format!("{name}.lora_magnitude_vector"), magnitude));
    }
    Ok(rank)
}

fn write_checkpoint(
    tuned: &Tuned,
    classes: &[String],
    folder: &Path,
    model: &Path,
) -> Result<(), Error> {
    let mut tensors = Vec::new();
    for module in &tuned.modules.0 {
        let weight = module
            .weight
            .tensor(&tuned.parameters)
            .to_dtype(DType::F32)?;
        tensors.push((module.declared.weight_name(), weight));
        if let (Some(name), Some(bias)) = (module.declared.bias_name(), &module.bias) {
            tensors.push((name, bias.tensor(&tuned.parameters).to_dtype(DType::F32)?));
        }
    }
    let text = read_text(&model.join("config.json"))?;
    let mut config: Map<String, Json> = serde_json::from_str(&text).unwrap_or_default();
    if !classes.is_empty() {
        let by_number = classes.iter().enumerate();
        let id2label = by_number
            .clone()
            .map(|(at, name)| (at.to_string(), json!(name)));
        config.insert("id2label".to_owned(), Json::Object(id2label.collect()));
        let label2id = by_number.map(|(at, name)| (name.clone(), json!(at)));
        config.insert("label2id".to_owned(), Json::Object(label2id.collect()));
    }
    create_folder(folder)?;
    discard_leftovers(folder)?;
    write_tensors(
        &folder.join("model.safetensors"),
        &tensors,
        Some([("format".to_owned(), "pt".to_owned())].into()),
    )?;
    write_json(&folder.join("config.json"), &Json::Object(config))
}

fn write_json(path: &Path, value: &Json) -> Result<(), Error> {
    let text = serde_json::to_string_pretty(value).expect("numbers and texts serialise");
    write_atomic(path, |out| out.write_all(text.as_bytes()))?;
    Ok(())
}
