use std::path::Path;

use candle_core::{Device, Tensor};
use rankwise_data::{FeatureSet, banking77, banking77_sha256, sha256_file};

use crate::Error;
use crate::config::{EvaluateOn, TaskConfig};

/// A classification task over fixed features, ready to be trained on.
#[derive(Debug, Clone)]
pub struct Task {
    pub(super) set: FeatureSet,
    pub(super) sha256: String,
}

impl Task {
    /// Loads what the configuration names.
    ///
    /// # Errors
    /// [`Error::Data`] if the file is missing, damaged or lacks rows for validation.
    pub fn load(config: &TaskConfig) -> Result<Self, Error> {
        let origin = Path::new(&config.features);
        let (set, sha256) = if config.features == "banking77" {
            (banking77()?, banking77_sha256())
        } else {
            (FeatureSet::read(origin)?, sha256_file(origin)?)
        };
        let set = match config.evaluate_on {
            EvaluateOn::Test => set,
            EvaluateOn::Validation => set.with_validation(origin, config.validation_per_class)?,
        };
        Ok(Self { set, sha256 })
    }

    /// Length of a feature vector: the head's inputs.
    pub fn inputs(&self) -> usize {
        self.set.train().width()
    }

    /// Number of classes: the head's outputs.
    pub fn outputs(&self) -> usize {
        self.set.classes().len()
    }

    /// Number of training rows.
    pub fn train_rows(&self) -> usize {
        self.set.train().rows()
    }

    pub(super) fn tensor(
        split: &rankwise_data::Split,
        dtype: candle_core::DType,
        device: &Device,
    ) -> candle_core::Result<Tensor> {
        Tensor::from_slice(split.features(), (split.rows(), split.width()), device)?.to_dtype(dtype)
    }
}
