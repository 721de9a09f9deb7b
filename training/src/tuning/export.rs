//! What a run leaves to be used: an adapter in PEFT's layout, or the tuned checkpoint.
//!
//! Every update is written as the plain product that it comes to, and DoRA's lengths beside it, so
//! that PEFT loads all of them on the untouched base; `rankwise.json` says which method it was and
//! what PEFT calls it.
//!
//! Modules that train as they are (the head, `train_also`) go into the adapter under PEFT's names
//! for `modules_to_save`. Under full fine-tuning the whole model is written as its checkpoint was.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use ndarray::{Array2, ArrayView2};
use rankwise_analysis::linalg;
use rankwise_data::{create_folder, discard_leftovers, read_text, write_atomic};
use serde_json::{Map, Value as Json, json};

use super::Tuned;
use super::change::{Change, factors};
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
            let (a, b, scale) = plain(tuned, module, adapter)?;
            let rank = a.dim(0)?;
            push(tuned, module, a, b, &mut tensors)?;
            targets.push(name.clone());
            ranks.insert(name.clone(), rank);
            alphas.insert(name.clone(), scale * rank as f64);
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
    });
    // Other methods' updates are written as the plain products that they come to.
    let is_dora = tuned.modules.0.iter().any(|module| {
        let adapter = module.adapter.as_ref();
        adapter.is_some_and(|adapter| adapter.magnitude.is_some())
    });
    if is_dora {
        config["use_dora"] = true.into();
    }
    create_folder(folder)?;
    discard_leftovers(folder)?;
    write_tensors(&folder.join("adapter_model.safetensors"), &tensors, None)?;
    write_json(&folder.join("adapter_config.json"), &config)?;
    let peft = tuned.rule.peft();
    let words: Map<String, Json> = peft
        .keys
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value))
        .collect();
    let notes = json!({
        "method": method.method.key(),
        "peft_type": peft.kind.unwrap_or("LORA"),
        "peft_keys": words,
    });
    write_json(&folder.join("rankwise.json"), &notes)
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

/// A module's update as a plain product: A (R × in), Bᵀ (R × out) and s. DoRA's lengths stay beside
/// it; a weight that moves itself is decomposed.
fn plain(
    tuned: &Tuned,
    module: &Module,
    adapter: &Adapter,
) -> Result<(Tensor, Tensor, f64), Error> {
    let initial = tuned.initial.iter().find(|(at, _)| *at == module.id.0);
    let initial = initial.map(|(_, weight)| weight);
    if let (None, Some(initial)) = (adapter.magnitude, initial) {
        return match Change::of(tuned, module, initial)? {
            Change::Product { a, b, scale } => Ok((tensor(a.view())?, tensor(b.view())?, scale)),
            Change::Matrix(matrix) => {
                let (a, b) = halves(matrix.view())?;
                Ok((a, b, 1.0))
            }
        };
    }
    let (a, b) = factors(tuned, adapter)?;
    Ok((a, b, adapter.scale))
}

/// A (R × in) and Bᵀ (R × out) whose product is the matrix, up to its numerical rank in float32;
/// each has a square root of the singular values.
fn halves(matrix: ArrayView2<'_, f64>) -> Result<(Tensor, Tensor), Error> {
    let svd = linalg::svd(matrix)?;
    let first = svd.s.first().copied().unwrap_or(0.0);
    let size = matrix.nrows().max(matrix.ncols()) as f64;
    let least = size * f64::from(f32::EPSILON) * first;
    let rank = svd.s.iter().filter(|sigma| **sigma > least).count();
    // A zero update is a product of one direction of zeros.
    let rank = rank.max(1);
    let roots: Vec<_> = svd.s.iter().take(rank).map(|sigma| sigma.sqrt()).collect();
    let a = Array2::from_shape_fn((rank, matrix.ncols()), |(i, j)| roots[i] * svd.vt[(i, j)]);
    let b = Array2::from_shape_fn((rank, matrix.nrows()), |(i, j)| roots[i] * svd.u[(j, i)]);
    Ok((tensor(a.view())?, tensor(b.view())?))
}

fn tensor(matrix: ArrayView2<'_, f64>) -> Result<Tensor, Error> {
    let values = matrix.iter().copied().collect();
    Ok(Tensor::from_vec(values, matrix.dim(), &Device::Cpu)?)
}

/// A module's factors, and DoRA's lengths, under PEFT's names.
fn push(
    tuned: &Tuned,
    module: &Module,
    a: Tensor,
    b: Tensor,
    tensors: &mut Vec<(String, Tensor)>,
) -> Result<(), Error> {
    let name = format!("base_model.model.{}", module.declared.name);
    let (a, b) = (a.to_dtype(DType::F32)?, b.to_dtype(DType::F32)?);
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
    if let Some(magnitude) = module
        .adapter
        .as_ref()
        .and_then(|adapter| adapter.magnitude)
    {
        let magnitude = tuned.parameters.view(magnitude).to_dtype(DType::F32)?;
        tensors.push((format!("{name}.lora_magnitude_vector"), magnitude));
    }
    Ok(())
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
    // The small layouts are known by their tensors alone.
    let path = model.join("config.json");
    let mut config: Map<String, Json> = match path.is_file() {
        true => serde_json::from_str(&read_text(&path)?).unwrap_or_default(),
        false => Map::new(),
    };
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
    if config.contains_key("model_type") {
        write_json(&folder.join("config.json"), &Json::Object(config))?;
    }
    Ok(())
}

fn write_json(path: &Path, value: &Json) -> Result<(), Error> {
    let text = serde_json::to_string_pretty(value).expect("numbers and texts serialise");
    write_atomic(path, |out| out.write_all(text.as_bytes()))?;
    Ok(())
}
