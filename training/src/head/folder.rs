//! A run's folder: the head's state between two epochs, and at the end `metrics.parquet` and the
//! trained tensors.

use std::path::Path;

use candle_core::{DType, Device, Tensor};
use rankwise_analysis::PeftAdapter;
use rankwise_data::{create_folder, discard_leftovers};
use serde::{Deserialize, Serialize};

use super::model::Head;
use super::record::{EpochRecord, RunSummary, metrics_table};
use crate::folder::{Folder, Kept, write_tensors};
use crate::{Error, RunConfig};

/// The name that the head has in adapters and weight files.
const MODULE: &str = "classifier";

/// What a folder holds of a run.
pub(super) type Held = crate::folder::Held<Checkpoint, Box<RunSummary>>;

/// The state of a run between two epochs.
pub(super) struct Checkpoint {
    pub records: Vec<EpochRecord>,
    pub wall_seconds: f64,
    pub data_sha256: String,
    pub state: Tensor,
    pub updates: Vec<u64>,
}

#[derive(Serialize, Deserialize)]
struct CheckpointNotes {
    config_sha256: String,
    wall_seconds: f64,
    data_sha256: String,
    records: Vec<EpochRecord>,
}

pub(super) struct RunFolder(Folder);

impl RunFolder {
    /// Takes the folder for the run of `config` (resolved), creating it if need be.
    ///
    /// # Errors
    /// [`Error::ForeignFolder`] if it holds anything that is not this run's.
    pub fn open(path: &Path, config: &RunConfig, device: &Device) -> Result<(Self, Held), Error> {
        let folder = Folder::open(path, &config.to_toml())?;
        let held = folder.held(|kept| Checkpoint::of(kept, device))?;
        Ok((Self(folder), held))
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    pub fn config_sha256(&self) -> &str {
        self.0.config_sha256()
    }

    pub fn write_checkpoint(
        &self,
        head: &Head,
        records: &[EpochRecord],
        wall_seconds: f64,
        data_sha256: &str,
    ) -> Result<(), Error> {
        let notes = CheckpointNotes {
            config_sha256: self.config_sha256().to_owned(),
            wall_seconds,
            data_sha256: data_sha256.to_owned(),
            records: records.to_vec(),
        };
        let (state, updates) = head.state();
        let updates: Vec<i64> = updates.iter().map(|count| count.cast_signed()).collect();
        let tensors = [
            ("state".to_owned(), state.flatten_all()?),
            ("updates".to_owned(), Tensor::new(updates, &Device::Cpu)?),
        ];
        self.0.write_checkpoint(&tensors, &notes)
    }

    /// Writes the finished run.
    pub fn write_results(
        &self,
        head: &Head,
        initial_bias: &[f64],
        config: &RunConfig,
        records: &[EpochRecord],
        summary: &RunSummary,
    ) -> Result<(), Error> {
        let path = self.0.path();
        metrics_table(records)?.write_parquet(&path.join("metrics.parquet"))?;
        let (weight_key, bias_key) = (format!("{MODULE}.weight"), format!("{MODULE}.bias"));
        let write_layer = |name: &str, weight: &Tensor, bias: Tensor| {
            let folder = path.join(name);
            create_folder(&folder)?;
            discard_leftovers(&folder)?;
            let tensors = [
                (weight_key.clone(), weight.to_dtype(DType::F32)?),
                (bias_key.clone(), bias),
            ];
            write_tensors(&folder.join("model.safetensors"), &tensors, None)
        };
        let initial_bias: Vec<f32> = initial_bias.iter().map(|&value| value as f32).collect();
        let initial_bias = Tensor::new(initial_bias, &Device::Cpu)?;
        write_layer("base", head.frozen(), initial_bias)?;
        let bias = head.bias()?.to_dtype(DType::F32)?;
        if let Some(weight) = head.weight()? {
            write_layer("tuned", &weight, bias.clone())?;
        }
        if let Some(factors) = head.factors()? {
            let (rank, inputs) = factors.a.dims2()?;
            let bias = host(&bias)?;
            let outputs = bias.len();
            let b = host(&factors.b_transposed.t()?)?;
            PeftAdapter {
                module: MODULE.to_owned(),
                rank,
                inputs,
                outputs,
                alpha: config.method.alpha.unwrap_or(rank as f64),
                a: host(&factors.a)?,
                b,
                bias: Some(bias),
            }
            .write(&path.join("adapter"))?;
        }
        self.0.finish(summary)?;
        self.0.discard_checkpoint();
        Ok(())
    }
}

impl Checkpoint {
    fn of(mut kept: Kept<CheckpointNotes>, device: &Device) -> Result<Self, Error> {
        let state = kept.take("state")?;
        let updates = kept.numbers::<i64>("updates")?;
        let (_, notes) = kept.rest();
        Ok(Self {
            records: notes.records,
            wall_seconds: notes.wall_seconds,
            data_sha256: notes.data_sha256,
            state: state.to_device(device)?,
            updates: updates.into_iter().map(i64::cast_unsigned).collect(),
        })
    }
}

/// Row-major float32 values on the host.
fn host(tensor: &Tensor) -> Result<Vec<f32>, Error> {
    Ok(tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?)
}
