//! A trained adapter in PEFT's layout, to be loaded on the untouched base.
//!
//! | method | what is written |
//! |---|---|
//! | LoRA and those that train its factors | `LORA`: A, B, α |
//! | DoRA | the same with m |
//! | AdaLoRA, all modules of one R₀ | `ADALORA`: A, B, E and its schedule |
//! | VeRA | `VERA`: d, b and the shared projections |
//! | others (gates, parts taken off the weight, weights that move) | `LORA`: the plain product that the update comes to |
//!
//! `rankwise.json` says which method it was, what PEFT calls it, and what the outputs of the head are.
//! Modules that train as they are (the head, `train_also`) go into the adapter under PEFT's names for
//! `modules_to_save`.
//!
//! PEFT finds the model's class by the task (`task_type`) or by its name (`auto_mapping`): images have
//! no task there, and the class of questions and answers drops the tokens' types.
//!
//! Where transformers 5 has other names in memory than transformers 4, which are the checkpoint's (a
//! vision transformer's blocks), every tensor is written under both: PEFT 0.21 does not translate them,
//! and passes over the names that a model does not have.

use std::path::Path;

use candle_core::{DType, Device, Tensor};
use ndarray::{Array2, ArrayView2};
use rankwise_analysis::{Outputs, linalg};
use rankwise_data::{create_folder, discard_leftovers};
use serde_json::{Map, Value as Json, json};

use super::Tuned;
use super::change::{Change, factors};
use super::snapshot::Snapshot;
use crate::Error;
use crate::folder::{write_json, write_tensors};
use crate::method::MethodTable;
use crate::module::{Adapter, Declared, Kind, Module, Value};

/// PEFT's names begin with it.
const PREFIX: &str = "base_model.model.";

/// Which of PEFT's methods an adapter is written as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Lora,
    AdaLora,
    Vera,
}

impl Form {
    /// The method's own where PEFT has it for all these modules.
    fn of(tuned: &Snapshot<'_>) -> Self {
        let is_linear =
            |module: &Module| matches!(module.declared.kind, Kind::Linear | Kind::Conv1d);
        let mut modules = tuned.modules.0.iter();
        if !modules.all(|module| module.adapter.is_none() || is_linear(module)) {
            return Self::Lora;
        }
        let rank = |adapter: &Adapter| adapter.a.tensor(&tuned.parameters).dim(0).ok();
        let mut ranks = tuned.modules.adapters().map(rank);
        let first = ranks.next();
        match tuned.rule.peft().kind {
            Some("ADALORA") if ranks.all(|rank| Some(rank) == first) => Self::AdaLora,
            Some("VERA") => Self::Vera,
            _ => Self::Lora,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Lora => "LORA",
            Self::AdaLora => "ADALORA",
            Self::Vera => "VERA",
        }
    }
}

/// What PEFT's configuration says of one module.
struct Entry {
    /// The module's names: the checkpoint's, and transformers 5's if it is another.
    names: Vec<String>,
    rank: usize,
    alpha: f64,
}

/// Writes the adapter's folder; `base` is what the run calls the pretrained model, `outputs` what its
/// head predicts (`None`: the next token).
pub(crate) fn write_adapter(
    tuned: &Tuned,
    method: &MethodTable,
    outputs: Option<&Outputs>,
    folder: &Path,
    base: &str,
) -> Result<(), Error> {
    let tuned = &tuned.on_host()?;
    let form = Form::of(tuned);
    let mut tensors = Vec::new();
    let mut entries = Vec::new();
    let mut saved = Vec::new();
    let mut is_transposed = false;
    for module in &tuned.modules.0 {
        let Some(adapter) = &module.adapter else {
            if push_whole(tuned, module, &mut tensors)? {
                saved.extend(names(tuned, &module.declared));
                // A head's layers follow each other.
                saved.dedup();
            }
            continue;
        };
        entries.push(match form {
            Form::Lora => push_product(tuned, module, adapter, &mut tensors)?,
            Form::AdaLora => push_triplet(tuned, module, adapter, &mut tensors)?,
            Form::Vera => push_gates(tuned, module, adapter, &mut tensors)?,
        });
        is_transposed |= module.declared.kind == Kind::Conv1d;
    }
    if form == Form::Vera {
        push_projections(tuned, &mut tensors)?;
    }
    let twins: Named = tensors
        .iter()
        .filter_map(|(key, tensor)| {
            let twin = tuned.architecture.alias(key.strip_prefix(PREFIX)?)?;
            Some((format!("{PREFIX}{twin}"), tensor.clone()))
        })
        .collect();
    let has_twins = !twins.is_empty();
    tensors.extend(twins);
    let peft = tuned.rule.peft();
    let words: Map<String, Json> = peft
        .keys
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value))
        .collect();
    let rank = entries.iter().map(|entry| entry.rank).max().unwrap_or(0);
    let alpha = entries.iter().map(|entry| entry.alpha).fold(0.0, f64::max);
    let targets: Vec<&String> = entries.iter().flat_map(|entry| &entry.names).collect();
    let (task, class) = loading(tuned, outputs);
    let mut config = json!({
        "peft_type": form.name(),
        "base_model_name_or_path": base,
        "r": rank,
        "bias": "none",
        "fan_in_fan_out": is_transposed,
        "inference_mode": true,
        "modules_to_save": saved,
        "target_modules": targets,
        "task_type": task,
        "auto_mapping": class,
    });
    let mut say = |key: &str, value: Json| config[key] = value;
    match form {
        Form::Lora => {
            say("lora_alpha", alpha.into());
            say("lora_dropout", method.common.dropout.into());
            say("init_lora_weights", true.into());
            let ranks = entries.iter().filter(|entry| entry.rank != rank);
            say("rank_pattern", pattern(ranks, |entry| entry.rank.into()));
            let alphas = entries.iter().filter(|entry| entry.alpha != alpha);
            say("alpha_pattern", pattern(alphas, |entry| entry.alpha.into()));
            let mut adapters = tuned.modules.adapters();
            if adapters.any(|adapter| adapter.magnitude.is_some()) {
                say("use_dora", true.into());
            }
        }
        Form::AdaLora => {
            say("lora_alpha", alpha.into());
            say("lora_dropout", method.common.dropout.into());
            words
                .iter()
                .for_each(|(key, value)| say(key, value.clone()));
            say("init_r", rank.into());
        }
        Form::Vera => {
            say("vera_dropout", method.common.dropout.into());
            words
                .iter()
                .for_each(|(key, value)| say(key, value.clone()));
        }
    }
    create_folder(folder)?;
    discard_leftovers(folder)?;
    write_tensors(&folder.join("adapter_model.safetensors"), &tensors, None)?;
    write_json(&folder.join("adapter_config.json"), &config)?;
    let mut notes = json!({
        "method": method.method.key(),
        "peft_type": peft.kind.unwrap_or("LORA"),
        "peft_keys": words,
    });
    if let (Some(outputs), Some(notes)) = (outputs, notes.as_object_mut())
        && let Ok(Json::Object(outputs)) = serde_json::to_value(outputs)
    {
        notes.extend(outputs);
    }
    if has_twins {
        notes["names"] = "each tensor of a block twice: as transformers 4 and as transformers 5 \
                          calls its module"
            .into();
    }
    write_json(&folder.join("rankwise.json"), &notes)
}

/// Settings of single modules, by whole names.
fn pattern<'a>(entries: impl Iterator<Item = &'a Entry>, of: impl Fn(&Entry) -> Json) -> Json {
    let key = |entry: &Entry| match entry.names.as_slice() {
        [name] => format!("^{name}"),
        // One key, as PEFT warns of a key that fits no module.
        names => format!("^(?:{})", names.join("|")),
    };
    Json::Object(entries.map(|entry| (key(entry), of(entry))).collect())
}

/// PEFT's name of the task, or where the model's class is, for what finds a class by itself.
fn loading(
    tuned: &Snapshot<'_>,
    outputs: Option<&Outputs>,
) -> (Option<&'static str>, Option<Json>) {
    let reads_images = tuned.architecture.patches().is_some();
    let class = |task: &str| {
        let (module, family) = tuned.architecture.library()?;
        Some(json!({"base_model_class": format!("{family}{task}"), "parent_library": module}))
    };
    match outputs {
        Some(Outputs::Classes { .. } | Outputs::Score) if reads_images => {
            (None, class("ForImageClassification"))
        }
        Some(Outputs::Classes { .. } | Outputs::Score) => (Some("SEQ_CLS"), None),
        Some(Outputs::Span) => (None, class("ForQuestionAnswering")),
        None => (Some("CAUSAL_LM"), None),
    }
}

/// What a module is called in PEFT's configuration. A head of several layers is one module there.
fn names(tuned: &Snapshot<'_>, declared: &Declared) -> Vec<String> {
    let name = match declared.name.split_once('.') {
        Some((root @ ("classifier" | "score"), _)) if declared.is_head => root,
        _ => &declared.name,
    };
    let alias = tuned.architecture.alias(name);
    [Some(name.to_owned()), alias]
        .into_iter()
        .flatten()
        .collect()
}

type Named = Vec<(String, Tensor)>;

/// A module's own tensors, as far as they train; whether any does.
fn push_whole(tuned: &Snapshot<'_>, module: &Module, tensors: &mut Named) -> Result<bool, Error> {
    let own = [
        (Some(module.declared.weight_name()), Some(&module.weight)),
        (module.declared.bias_name(), module.bias.as_ref()),
    ];
    let mut trains = false;
    for (key, value) in own {
        if let (Some(key), Some(Value::Trained(id))) = (key, value) {
            let tensor = tuned.parameters.view(*id).to_dtype(DType::F32)?;
            tensors.push((format!("{PREFIX}{key}"), tensor));
            trains = true;
        }
    }
    Ok(trains)
}

/// The factors of an update as a plain product, and DoRA's lengths.
fn push_product(
    tuned: &Snapshot<'_>,
    module: &Module,
    adapter: &Adapter,
    tensors: &mut Named,
) -> Result<Entry, Error> {
    let (a, b, scale) = plain(tuned, module, adapter)?;
    let name = format!("{PREFIX}{}", module.declared.name);
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
    if let Some(magnitude) = adapter.magnitude {
        let magnitude = tuned.parameters.view(magnitude).to_dtype(DType::F32)?;
        tensors.push((format!("{name}.lora_magnitude_vector"), magnitude));
    }
    Ok(Entry {
        names: names(tuned, &module.declared),
        rank,
        alpha: scale * rank as f64,
    })
}

/// AdaLoRA's B, E and A.
fn push_triplet(
    tuned: &Snapshot<'_>,
    module: &Module,
    adapter: &Adapter,
    tensors: &mut Named,
) -> Result<Entry, Error> {
    let name = &module.declared.name;
    let number = |value: &Value| value.tensor(&tuned.parameters).to_dtype(DType::F32);
    let (a, b) = (number(&adapter.a)?, number(&adapter.b)?.t()?.contiguous()?);
    let rank = a.dim(0)?;
    tensors.push((format!("{PREFIX}{name}.lora_A"), a));
    tensors.push((format!("{PREFIX}{name}.lora_B"), b));
    if let Some(gate) = &adapter.gate {
        let gate = number(gate)?.reshape((rank, 1))?;
        tensors.push((format!("{PREFIX}{name}.lora_E"), gate));
    }
    Ok(Entry {
        names: names(tuned, &module.declared),
        rank,
        alpha: adapter.scale / tuned.rule.scale(1.0, rank),
    })
}

/// VeRA's d and b.
fn push_gates(
    tuned: &Snapshot<'_>,
    module: &Module,
    adapter: &Adapter,
    tensors: &mut Named,
) -> Result<Entry, Error> {
    let name = &module.declared.name;
    for (part, gate) in [
        ("vera_lambda_b", &adapter.output_gate),
        ("vera_lambda_d", &adapter.gate),
    ] {
        if let Some(gate) = gate {
            let gate = gate.tensor(&tuned.parameters).to_dtype(DType::F32)?;
            tensors.push((format!("{PREFIX}{name}.{part}"), gate));
        }
    }
    Ok(Entry {
        names: names(tuned, &module.declared),
        rank: adapter.a.tensor(&tuned.parameters).dim(0)?,
        alpha: 0.0,
    })
}

/// VeRA's A and B, which all modules share: the widest module has all of each.
fn push_projections(tuned: &Snapshot<'_>, tensors: &mut Named) -> Result<(), Error> {
    let widest = |of: fn(&Adapter) -> &Value| -> Result<Option<Tensor>, Error> {
        let adapters = tuned.modules.adapters();
        let factors = adapters.map(|adapter| of(adapter).tensor(&tuned.parameters));
        let widest = factors.max_by_key(|factor| factor.dim(1).unwrap_or(0));
        Ok(widest
            .map(|factor| factor.to_dtype(DType::F32))
            .transpose()?)
    };
    if let (Some(a), Some(b)) = (widest(|x| &x.a)?, widest(|x| &x.b)?) {
        tensors.push(("base_model.vera_A".to_owned(), a));
        tensors.push(("base_model.vera_B".to_owned(), b.t()?.contiguous()?));
    }
    Ok(())
}

/// A module's update as a plain product: A (R × in), Bᵀ (R × out) and s. DoRA's lengths stay beside
/// it; a weight that moves itself is decomposed.
fn plain(
    tuned: &Snapshot<'_>,
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
