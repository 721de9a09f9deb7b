//! Small adapters made on the spot.

#![allow(dead_code, reason = "every test file uses some of them")]

use std::fs;
use std::path::Path;

use rankwise_analysis::{Audit, AuditOptions, audit};
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::Value;
use tempfile::TempDir;

pub const A: &str = "base_model.model.q.lora_A.weight";
pub const B: &str = "base_model.model.q.lora_B.weight";

pub type Tensors<'a> = Vec<(&'a str, Dtype, Vec<usize>, Vec<u8>)>;

/// A tensor of 32-bit numbers.
pub fn tensor<'a>(name: &'a str, shape: &[usize], values: &[f32]) -> Tensors<'a> {
    let bytes = values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect();
    vec![(name, Dtype::F32, shape.to_vec(), bytes)]
}

/// Factors of one module `q` with ΔW = s·diag(2, 1) in 2 × 3.
pub fn pair() -> Tensors<'static> {
    let mut tensors = tensor(A, &[2, 3], &[1.0, 0.0, 0.0, 0.0, 1.0, 0.0]);
    tensors.extend(tensor(B, &[2, 2], &[2.0, 0.0, 0.0, 1.0]));
    tensors
}

pub fn bytes(tensors: &Tensors) -> Vec<u8> {
    let views = tensors.iter().map(|(name, dtype, shape, bytes)| {
        (
            *name,
            TensorView::new(*dtype, shape.clone(), bytes).unwrap(),
        )
    });
    safetensors::serialize(views, None).unwrap()
}

/// A folder with these tensors and this configuration.
pub fn folder(tensors: &Tensors, config: Option<Value>) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(
        folder.path().join("adapter_model.safetensors"),
        bytes(tensors),
    )
    .unwrap();
    if let Some(config) = config {
        fs::write(
            folder.path().join("adapter_config.json"),
            config.to_string(),
        )
        .unwrap();
    }
    folder
}

pub fn audited(path: &Path) -> Audit {
    audit(path, &AuditOptions::default()).unwrap()
}
