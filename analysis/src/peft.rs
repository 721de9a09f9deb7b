use std::path::Path;

use rankwise_data::{create_folder, discard_leftovers, write_atomic};
use safetensors::tensor::{Dtype, TensorView};

use crate::Error;

/// A LoRA adapter of one linear layer, to be written in PEFT's layout.
#[derive(Debug, Clone)]
pub struct PeftAdapter {
    /// The layer's name in its model.
    pub module: String,
    /// R.
    pub rank: usize,
    /// Inputs of the layer.
    pub inputs: usize,
    /// Outputs of the layer.
    pub outputs: usize,
    /// α; ΔW = α/R · B·A.
    pub alpha: f64,
    /// A, R × inputs, row-major.
    pub a: Vec<f32>,
    /// B, outputs × R, row-major.
    pub b: Vec<f32>,
    /// The layer's bias, where it was trained. It replaces the base model's.
    pub bias: Option<Vec<f32>>,
}

impl PeftAdapter {
    /// Writes `adapter_model.safetensors` and `adapter_config.json` into `folder`, which PEFT's
    /// `from_pretrained` loads. A trained bias is kept under `….base_layer.bias`, the key that PEFT
    /// itself saves with `bias = "lora_only"` (`….bias` would be ignored on loading).
    ///
    /// # Errors
    /// [`Error::Mismatch`] if a buffer does not have its shape's length; [`Error::File`].
    pub fn write(&self, folder: &Path) -> Result<(), Error> {
        let Self {
            module,
            rank,
            inputs,
            outputs,
            ..
        } = self;
        let a = tensor("A", &self.a, vec![*rank, *inputs])?;
        let b = tensor("B", &self.b, vec![*outputs, *rank])?;
        let bias = self
            .bias
            .as_ref()
            .map(|bias| tensor("bias", bias, vec![*outputs]))
            .transpose()?;
        let mut tensors = vec![
            (format!("base_model.model.{module}.lora_A.weight"), view(&a)),
            (format!("base_model.model.{module}.lora_B.weight"), view(&b)),
        ];
        if let Some(bias) = &bias {
            tensors.push((
                format!("base_model.model.{module}.base_layer.bias"),
                view(bias),
            ));
        }
        let whole = safetensors::serialize(tensors, None).expect("named tensors serialise");
        let config = serde_json::json!({
            "peft_type": "LORA",
            "task_type": null,
            "base_model_name_or_path": null,
            "inference_mode": true,
            "r": rank,
            "lora_alpha": self.alpha,
            "lora_dropout": 0.0,
            "target_modules": [module],
            "bias": if self.bias.is_some() { "lora_only" } else { "none" },
            "fan_in_fan_out": false,
            "use_rslora": false,
            "use_dora": false,
            "init_lora_weights": true,
            "rank_pattern": {},
            "alpha_pattern": {},
            "modules_to_save": null,
        });
        create_folder(folder)?;
        discard_leftovers(folder)?;
        let text = format!("{config:#}\n");
        write_atomic(&folder.join("adapter_model.safetensors"), |out| {
            out.write_all(&whole)
        })?;
        write_atomic(&folder.join("adapter_config.json"), |out| {
            out.write_all(text.as_bytes())
        })?;
        Ok(())
    }
}

type Shaped = (Vec<u8>, Vec<usize>);

fn tensor(what: &'static str, values: &[f32], shape: Vec<usize>) -> Result<Shaped, Error> {
    if values.len() != shape.iter().product::<usize>() {
        return Err(Error::Mismatch {
            what,
            expected: format!("{shape:?}"),
            found: format!("{} numbers", values.len()),
        });
    }
    Ok((
        values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect(),
        shape,
    ))
}

fn view((bytes, shape): &Shaped) -> TensorView<'_> {
    TensorView::new(Dtype::F32, shape.clone(), bytes).expect("the length was checked")
}
