//! How many numbers a method trains on a model, counted by attaching it: no weights are needed.

use std::path::Path;

use candle_core::{DType, Device, Tensor};
use serde::Serialize;

use crate::Error;
use crate::engine::parameters::Parameter;
use crate::method::MethodTable;
use crate::model::{Architecture, Head, KNOWN, Loaded, ModelConfig, known};
use crate::module::{Declared, Module, ModuleId, Modules, Value};
use crate::tuning::Prepared;

/// What trains, by kind of module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ParameterCount {
    /// Numbers of the pretrained model with its head.
    pub model: usize,
    /// Kinds of modules with what trains in them, in the model's order.
    pub kinds: Vec<KindCount>,
    /// In updates, or the pretrained part where it trains itself.
    pub updates: usize,
    /// In modules that train as they are: the head, and what `train_also` names.
    pub whole: usize,
    /// All that trains.
    pub total: usize,
}

/// Modules that differ in their layer only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct KindCount {
    /// The name with `*` for the layer.
    pub kind: String,
    /// How many there are.
    pub modules: usize,
    /// Inputs and outputs of one.
    pub shape: (usize, usize),
    /// Numbers that train in one.
    pub each: usize,
    /// Numbers that train in all.
    pub sum: usize,
    /// Whether the module itself trains rather than an update beside it.
    pub is_whole: bool,
}

/// Counts what `method` trains on `model`: the name of a published one (`deberta-v3-base`,
/// `vit-b-16`, `gpt2`, `bert-base`, …), or a folder with a `config.json`.
///
/// ```
/// use rankwise_training::{MethodTable, count_parameters};
/// let count = count_parameters("deberta-v3-base", 2, &MethodTable::default())?;
/// // R(in + out) for q, k, v, o (768, 768), intermediate (768, 3072), output (3072, 768) in twelve
/// // layers; the head: a pooler and a classifier, which the pretrained checkpoint lacks.
/// assert_eq!(count.updates, 8 * 12 * (4 * 1536 + 2 * 3840));
/// assert_eq!(count.whole, 768 * 768 + 768 + 2 * 768 + 2);
/// assert_eq!(count.total, 1_919_234);
/// # Ok::<(), rankwise_training::Error>(())
/// ```
///
/// # Errors
/// [`Error::Model`] for a value of the configuration that is not supported; [`Error::Setting`] if
/// there is no such model or the method does not fit it.
pub fn count_parameters(
    model: &str,
    classes: usize,
    method: &MethodTable,
) -> Result<ParameterCount, Error> {
    let config = config_of(model)?;
    let (architecture, declaration) = Architecture::declare(&config, Head::Classes(classes))?;
    let declared = declaration.into_modules();
    let modules = declared
        .iter()
        .enumerate()
        .map(|(index, declared)| hollow(index, declared))
        .collect::<Result<_, Error>>()?;
    let loaded = Loaded {
        architecture,
        modules: Modules(modules),
        drawn: Vec::new(),
        unused: Vec::new(),
    };
    let prepared = Prepared::new(loaded, method, 0)?;
    let parts = prepared.gathering.parts();
    let mut kinds: Vec<KindCount> = Vec::new();
    for module in &prepared.modules.0 {
        let declared = &module.declared;
        let each: usize = parts
            .iter()
            .filter(|part| declared.owns(&part.name))
            .map(Parameter::count)
            .sum();
        if each == 0 {
            continue;
        }
        let counted = KindCount {
            kind: kind(&declared.name),
            modules: 1,
            shape: (declared.inputs(), declared.outputs()),
            each,
            sum: each,
            is_whole: module.adapter.is_none(),
        };
        match kinds.iter_mut().find(|known| {
            let same = (known.kind == counted.kind) && known.each == each;
            same && known.is_whole == counted.is_whole
        }) {
            Some(known) => {
                known.modules += 1;
                known.sum += each;
            }
            None => kinds.push(counted),
        }
    }
    let sum = |is_whole: bool| {
        let of = kinds.iter().filter(|kind| kind.is_whole == is_whole);
        of.map(|kind| kind.sum).sum::<usize>()
    };
    let total = parts.iter().map(Parameter::count).sum();
    let adapts = prepared
        .modules
        .0
        .iter()
        .any(|module| module.adapter.is_some());
    let head: usize = prepared
        .modules
        .0
        .iter()
        .filter(|module| module.declared.is_head)
        .map(|module| module.declared.count())
        .sum();
    let (updates, whole) = match adapts {
        // What belongs to no module (shared projections) is a part of the updates.
        true => (total - sum(true), sum(true)),
        false => (total - head, head),
    };
    Ok(ParameterCount {
        model: declared.iter().map(Declared::count).sum(),
        kinds,
        updates,
        whole,
        total,
    })
}

fn config_of(model: &str) -> Result<ModelConfig, Error> {
    if let Some(config) = known(model) {
        return Ok(config);
    }
    let folder = Path::new(model);
    if folder.is_dir() {
        return ModelConfig::read(folder);
    }
    let nearest = crate::settings::nearest(model, KNOWN);
    Err(Error::Setting {
        origin: "--model".to_owned(),
        key: "model".to_owned(),
        expected: format!("one of {} or a folder with a config.json", KNOWN.join(", ")),
        found: format!("{model:?}{nearest}"),
    })
}

/// A module without numbers: one zero that is seen everywhere.
fn hollow(index: usize, declared: &Declared) -> Result<Module, Error> {
    let zero = |shape: &[usize]| -> Result<Value, Error> {
        let zero = Tensor::zeros(vec![1; shape.len()], DType::F32, &Device::Cpu)?;
        Ok(Value::Frozen(zero.broadcast_as(shape)?))
    };
    Ok(Module {
        weight: zero(&declared.shape)?,
        bias: match declared.has_bias {
            true => Some(zero(&[declared.bias_count()])?),
            false => None,
        },
        declared: declared.clone(),
        adapter: None,
        id: ModuleId(index),
    })
}

/// A name with `*` for its numbers.
fn kind(name: &str) -> String {
    let parts = name.split('.').map(|part| match part.parse::<usize>() {
        Ok(_) => "*",
        Err(_) => part,
    });
    parts.collect::<Vec<_>>().join(".")
}
