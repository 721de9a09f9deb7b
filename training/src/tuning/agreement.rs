//! Whether a device computes what the loops of the CPU compute: what `rankwise bench device` measures.
//!
//! The loops are checked against the reference implementation; a device computes by tensor operations
//! instead, and in bfloat16 by narrower ones. Small models of every family with the same random numbers
//! on both sides tell how far it is from them.

use std::time::Instant;

use candle_core::{DType, Device, Tensor};
use rand::Rng;
use rankwise_data::stream;
use serde::Serialize;

use super::Tuned;
use super::batch::{Batch, Item, Target};
use crate::draw::normal;
use crate::method::{MethodTable, numbers};
use crate::model::{Head, Loaded, ModelConfig};
use crate::{DeviceName, Error};

/// Models of two layers, one of every family, by the names of their families.
const MODELS: [(&str, &str); 4] = [
    (
        "BERT",
        r#"{"model_type": "bert", "hidden_size": 64, "num_hidden_layers": 2,
            "num_attention_heads": 4, "intermediate_size": 128, "max_position_embeddings": 64,
            "vocab_size": 100}"#,
    ),
    (
        "DeBERTa-v3",
        r#"{"model_type": "deberta-v2", "hidden_size": 64, "num_hidden_layers": 2,
            "num_attention_heads": 4, "intermediate_size": 128, "max_position_embeddings": 64,
            "vocab_size": 100, "relative_attention": true, "position_buckets": 8,
            "norm_rel_ebd": "layer_norm", "share_att_key": true, "pos_att_type": ["p2c", "c2p"],
            "position_biased_input": false, "type_vocab_size": 0}"#,
    ),
    (
        "GPT-2",
        r#"{"model_type": "gpt2", "n_embd": 64, "n_layer": 2, "n_head": 4, "n_inner": 128,
            "n_positions": 64, "vocab_size": 100, "pad_token_id": 0}"#,
    ),
    (
        "ViT",
        r#"{"model_type": "vit", "hidden_size": 64, "num_hidden_layers": 2,
            "num_attention_heads": 4, "intermediate_size": 128, "image_size": 32, "patch_size": 8}"#,
    ),
];

/// Methods whose kernels are all there are: plain factors, and the rows' lengths of DoRA.
const METHODS: [&str; 2] = ["lora", "dora"];

/// Examples of a batch, and the longest's tokens.
const EXAMPLES: usize = 12;
const TOKENS: usize = 48;

/// How far a device is from the CPU's loops in float32, for one model, method and type.
#[derive(Debug, Clone, Serialize)]
pub struct DeviceAgreement {
    /// The family of the model.
    pub model: &'static str,
    /// The method.
    pub method: &'static str,
    /// `f32` or `bf16`: the type of weights and hidden states there.
    pub precision: &'static str,
    /// ‖logits − theirs‖₂/‖theirs‖₂.
    pub outputs: f64,
    /// |loss − theirs|.
    pub loss: f64,
    /// ‖g − theirs‖₂/‖theirs‖₂ of the gradient of all that trains.
    pub gradient: f64,
    /// Seconds of the second forward and backward pass.
    pub seconds: f64,
    /// Whether all three are within what the type's rounding allows.
    pub is_within: bool,
}

impl DeviceAgreement {
    /// What float32 may differ by: sums in another order.
    pub const F32: f64 = 1e-4;
    /// What bfloat16 may differ by: 8 bits through two layers and back.
    pub const BF16: f64 = 5e-2;
}

/// Compares `device` with the CPU's loops on small random models of every family.
///
/// # Errors
/// [`Error::Device`] if the device is not there; [`Error::Tensor`] if it cannot do an operation.
pub fn compare_devices(device: DeviceName) -> Result<Vec<DeviceAgreement>, Error> {
    crate::single_threaded_products();
    let device = device.open()?;
    let mut all = Vec::new();
    for (model, config) in MODELS {
        let config = ModelConfig::parse(config, "bench".into())?;
        let items = items(&config)?;
        for method in METHODS {
            let table = MethodTable {
                method: method.parse().map_err(candle_core::Error::msg)?,
                ..MethodTable::default()
            };
            let exact = pass(&config, &table, &items, DType::F32, &Device::Cpu)?;
            for (precision, dtype, allowed) in [
                ("f32", DType::F32, DeviceAgreement::F32),
                ("bf16", DType::BF16, DeviceAgreement::BF16),
            ] {
                let made = pass(&config, &table, &items, dtype, &device)?;
                let outputs = distance(&made.outputs, &exact.outputs);
                let gradient = distance(&made.gradient, &exact.gradient);
                let loss = (made.loss - exact.loss).abs();
                all.push(DeviceAgreement {
                    model,
                    method,
                    precision,
                    outputs,
                    loss,
                    gradient,
                    seconds: made.seconds,
                    is_within: [outputs, loss, gradient].iter().all(|x| *x <= allowed),
                });
            }
        }
    }
    Ok(all)
}

/// Random texts of different lengths, or images.
fn items(config: &ModelConfig) -> Result<Vec<Item>, Error> {
    let is_image = config.model_type()? == "vit";
    let mut rng = stream(0, "agreement items", 0);
    let each = (0..EXAMPLES).map(|index| {
        let target = Target::Class(index as u32 % 3);
        if is_image {
            let pixels = (0..3 * 32 * 32).map(|_| rng.random_range(-1.0..1.0));
            return Item {
                ids: Vec::new(),
                types: Vec::new(),
                pixels: pixels.collect(),
                shape: [3, 32, 32],
                target,
            };
        }
        let length = TOKENS - 3 * index;
        // The first ids are padding and other special tokens.
        let ids = (0..length).map(|_| rng.random_range(5..100)).collect();
        Item::text(ids, Vec::new(), target)
    });
    Ok(each.collect())
}

struct Made {
    outputs: Vec<f64>,
    loss: f64,
    gradient: Vec<f64>,
    seconds: f64,
}

/// One forward and backward pass, without dropout.
fn pass(
    config: &ModelConfig,
    table: &MethodTable,
    items: &[Item],
    dtype: DType,
    device: &Device,
) -> Result<Made, Error> {
    let loaded = Loaded::random(config, Head::Classes(3), 0, dtype, device)?;
    let mut tuned = Tuned::new(loaded, table, 0, DType::F32, device)?;
    // Factors of zero would leave half of the backward pass unseen.
    let count = tuned.parameters.values().elem_count();
    let added = normal(0, "agreement values", count, 0.05);
    let added = Tensor::from_vec(added, count, &Device::Cpu)?;
    let added = added.to_dtype(DType::F32)?.to_device(device)?;
    let values = (tuned.parameters.values() + added)?;
    tuned.parameters.restore(values)?;
    let batch = Batch::new(items, !device.is_cpu(), dtype, device)?;
    // The first pass loads kernels.
    tuned.pull(&batch, None)?;
    device.synchronize()?;
    let start = Instant::now();
    let pull = tuned.pull(&batch, None)?;
    device.synchronize()?;
    let seconds = start.elapsed().as_secs_f64();
    let mut outputs = Vec::new();
    for part in tuned.outputs(&batch)? {
        outputs.extend(numbers(&part)?);
    }
    let mut gradient = Vec::new();
    for (id, part) in tuned.parameters.parts() {
        match pull.gradients.parameter(id) {
            Some(own) => gradient.extend(numbers(own)?),
            None => gradient.extend(std::iter::repeat_n(0.0, part.count())),
        }
    }
    Ok(Made {
        outputs,
        loss: pull.loss,
        gradient,
        seconds,
    })
}

/// ‖ours − theirs‖₂/‖theirs‖₂.
fn distance(ours: &[f64], theirs: &[f64]) -> f64 {
    let length = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>().sqrt();
    let difference = length(&mut ours.iter().zip(theirs).map(|(a, b)| a - b));
    difference / length(&mut theirs.iter().copied()).max(f64::MIN_POSITIVE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::host::elsewhere;

    #[test]
    fn the_cpu_agrees_with_itself_and_its_half_precision_nearly() {
        let all = compare_devices(DeviceName::Cpu).unwrap();
        assert_eq!(all.len(), MODELS.len() * METHODS.len() * 2);
        for one in all {
            assert!(one.is_within, "{one:?}");
            // bfloat16 really is another computation.
            assert_eq!(one.gradient == 0.0, one.precision == "f32", "{one:?}");
        }
    }

    #[test]
    fn operations_of_other_devices_agree() {
        let config = ModelConfig::parse(MODELS[1].1, "bench".into()).unwrap();
        let items = items(&config).unwrap();
        let table = MethodTable::default();
        let run = || pass(&config, &table, &items, DType::F32, &Device::Cpu).unwrap();
        let (exact, made) = (run(), elsewhere::compute(run));
        let error = distance(&made.gradient, &exact.gradient);
        assert!(error > 0.0 && error < DeviceAgreement::F32, "{error}");
    }

    #[test]
    fn distances_by_hand() {
        assert_eq!(distance(&[3.0, 0.0], &[3.0, 4.0]), 0.8);
        assert_eq!(distance(&[0.0], &[0.0]), 0.0);
    }
}
