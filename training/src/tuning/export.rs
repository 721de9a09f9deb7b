//! What a run leaves to be used: an adapter in PEFT's layout, or the tuned checkpoint as the pretrained
//! one was.

use std::path::Path;

use candle_core::DType;
use rankwise_analysis::{Outputs, copy_companions};
use rankwise_data::{create_folder, discard_leftovers, read_text};
use serde_json::{Map, Value as Json};

use super::Tuned;
use super::config::TuneConfig;
use super::peft::write_adapter;
use crate::Error;
use crate::folder::{write_json, write_tensors};

/// Writes `folder/adapter` or, if the model's own tensors trained, `folder/tuned`.
pub(super) fn write(
    tuned: &Tuned,
    config: &TuneConfig,
    outputs: Option<&Outputs>,
    folder: &Path,
    model: &Path,
) -> Result<(), Error> {
    if tuned.rule.adapts() {
        write_adapter(
            tuned,
            &config.method,
            outputs,
            &folder.join("adapter"),
            &config.model.path,
        )
    } else {
        write_checkpoint(tuned, outputs, &folder.join("tuned"), model)
    }
}

fn write_checkpoint(
    tuned: &Tuned,
    outputs: Option<&Outputs>,
    folder: &Path,
    model: &Path,
) -> Result<(), Error> {
    let tuned = &tuned.on_host()?;
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
    if let Some(outputs) = outputs {
        outputs.state(&mut config);
    }
    create_folder(folder)?;
    discard_leftovers(folder)?;
    copy_companions(model, folder)?;
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
