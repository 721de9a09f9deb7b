//! A run's folder: `config.toml` first, `checkpoint.safetensors` while it goes on, and at the end
//! `metrics.parquet`, the trained tensors and, last of all, `run.json`.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use rankwise_analysis::PeftAdapter;
use rankwise_data::{create_folder, discard_leftovers, read_text, sha256_hex, write_atomic};
use safetensors::tensor::{Dtype, TensorView};
use serde::{Deserialize, Serialize};

use super::model::Head;
use super::record::{EpochRecord, RunSummary, metrics_table};
use crate::{Error, RunConfig};

/// The name that the head has in adapters and weight files.
const MODULE: &str = "classifier";
const METADATA_KEY: &str = "rankwise";

/// What a folder holds of a run.
pub(super) enum Held {
    Nothing,
    Part(Checkpoint),
    Whole(Box<RunSummary>),
}

/// The state of a run between two epochs.
pub(super) struct Checkpoint {
    pub records: Vec<EpochRecord>,
    pub wall_seconds: f64,
    pub state: Tensor,
    pub updates: Vec<u64>,
}

#[derive(Serialize, Deserialize)]
struct CheckpointNotes {
    config_sha256: String,
    wall_seconds: f64,
    records: Vec<EpochRecord>,
}

pub(super) struct RunFolder {
    path: PathBuf,
    config_sha256: String,
}

impl RunFolder {
    /// Takes the folder for the run of `config` (resolved), creating it if need be.
    ///
    /// # Errors
    /// [`Error::ForeignFolder`] if it holds anything that is not this run's.
    pub fn open(path: &Path, config: &RunConfig, device: &Device) -> Result<(Self, Held), Error> {
        let text = config.to_toml();
        let folder = Self {
            path: path.to_path_buf(),
            config_sha256: sha256_hex(text.as_bytes()),
        };
        let config_path = path.join("config.toml");
        let foreign = |what: String| Error::ForeignFolder {
            path: path.to_path_buf(),
            what,
        };
        create_folder(path)?;
        discard_leftovers(path)?;
        if !config_path.exists() {
            let first = fs::read_dir(path)
                .ok()
                .and_then(|mut entries| entries.next());
            if let Some(Ok(entry)) = first {
                let name = entry.file_name();
                return Err(foreign(format!(
                    "expected an empty folder or one with this run's config.toml, found {}",
                    name.to_string_lossy()
                )));
            }
            write_atomic(&config_path, |out| out.write_all(text.as_bytes()))?;
        }
        let found = read_text(&config_path)?;
        if let Some((ours, theirs)) = first_difference(&text, &found) {
            return Err(foreign(format!(
                "config.toml is another configuration's: expected `{ours}`, found `{theirs}`"
            )));
        }
        let held = if path.join("run.json").exists() {
            Held::Whole(Box::new(folder.summary()?))
        } else if path.join("checkpoint.safetensors").exists() {
            Held::Part(folder.checkpoint(device)?)
        } else {
            Held::Nothing
        };
        Ok((folder, held))
    }

    fn summary(&self) -> Result<RunSummary, Error> {
        let path = self.path.join("run.json");
        serde_json::from_str(&read_text(&path)?).map_err(|error| Error::Model {
            path,
            what: "file".to_owned(),
            expected: "the record of a finished run".to_owned(),
            found: error.to_string(),
        })
    }

    pub fn config_sha256(&self) -> &str {
        &self.config_sha256
    }

    pub fn write_checkpoint(
        &self,
        head: &Head,
        records: &[EpochRecord],
        wall_seconds: f64,
    ) -> Result<(), Error> {
        let notes = CheckpointNotes {
            config_sha256: self.config_sha256.clone(),
            wall_seconds,
            records: records.to_vec(),
        };
        let notes = serde_json::to_string(&notes).expect("numbers and texts serialise");
        let (state, updates) = head.state();
        let updates: Vec<u8> = updates
            .iter()
            .flat_map(|count| count.to_le_bytes())
            .collect();
        let count = updates.len() / 8;
        let (dtype, values) = bytes(state)?;
        write_safetensors(
            &self.path.join("checkpoint.safetensors"),
            &[
                ("state", dtype, vec![state.elem_count()], &values),
                ("updates", Dtype::I64, vec![count], &updates),
            ],
            Some(notes),
        )
    }

    fn checkpoint(&self, device: &Device) -> Result<Checkpoint, Error> {
        let path = self.path.join("checkpoint.safetensors");
        let damaged = |found: String| Error::Model {
            path: path.clone(),
            what: "file".to_owned(),
            expected: "a checkpoint of this run (removing it restarts the run)".to_owned(),
            found,
        };
        let whole = fs::read(&path).map_err(|error| damaged(error.to_string()))?;
        let metadata = safetensors::SafeTensors::read_metadata(&whole)
            .map_err(|error| damaged(error.to_string()))?
            .1;
        let notes = metadata
            .metadata()
            .as_ref()
            .and_then(|all| all.get(METADATA_KEY));
        let notes: CheckpointNotes = notes
            .ok_or_else(|| damaged(format!("no metadata key {METADATA_KEY}")))
            .and_then(|text| serde_json::from_str(text).map_err(|e| damaged(e.to_string())))?;
        if notes.config_sha256 != self.config_sha256 {
            return Err(damaged("a checkpoint of another configuration".to_owned()));
        }
        let mut tensors = candle_core::safetensors::load_buffer(&whole, &Device::Cpu)?;
        let mut take = |name: &str| {
            tensors
                .remove(name)
                .ok_or_else(|| damaged(format!("no tensor {name}")))
        };
        let (state, updates) = (take("state")?, take("updates")?);
        let updates = updates
            .to_vec1::<i64>()
            .map_err(|error| damaged(error.to_string()))?;
        Ok(Checkpoint {
            records: notes.records,
            wall_seconds: notes.wall_seconds,
            state: state.to_device(device)?,
            updates: updates.into_iter().map(i64::cast_unsigned).collect(),
        })
    }

    /// Writes the finished run; `run.json` comes last, so that a folder with it is whole.
    pub fn write_results(
        &self,
        head: &Head,
        initial_bias: &[f64],
        config: &RunConfig,
        records: &[EpochRecord],
        summary: &RunSummary,
    ) -> Result<(), Error> {
        metrics_table(records)?.write_parquet(&self.path.join("metrics.parquet"))?;
        let (weight_key, bias_key) = (format!("{MODULE}.weight"), format!("{MODULE}.bias"));
        let write_layer = |name: &str, weight: &Tensor, bias: &[f32]| {
            let folder = self.path.join(name);
            create_folder(&folder)?;
            discard_leftovers(&folder)?;
            let (outputs, inputs) = weight.dims2()?;
            let weight = le_bytes(&host(weight)?);
            write_safetensors(
                &folder.join("model.safetensors"),
                &[
                    (&weight_key, Dtype::F32, vec![outputs, inputs], &weight),
                    (&bias_key, Dtype::F32, vec![outputs], &le_bytes(bias)),
                ],
                None,
            )
        };
        let initial_bias: Vec<f32> = initial_bias.iter().map(|&value| value as f32).collect();
        write_layer("base", head.frozen(), &initial_bias)?;
        let bias = host(&head.bias()?)?;
        if let Some(weight) = head.weight()? {
            write_layer("tuned", &weight, &bias)?;
        }
        if let Some(factors) = head.factors()? {
            let (rank, inputs) = factors.a.dims2()?;
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
            .write(&self.path.join("adapter"))?;
        }
        let json = serde_json::to_string_pretty(summary).expect("numbers and texts serialise");
        write_atomic(&self.path.join("run.json"), |out| {
            out.write_all(json.as_bytes())
        })?;
        // The checkpoint has served; a leftover does no harm, since run.json is looked for first.
        let _ = fs::remove_file(self.path.join("checkpoint.safetensors"));
        Ok(())
    }
}

fn first_difference<'a>(ours: &'a str, theirs: &'a str) -> Option<(&'a str, &'a str)> {
    let longest = ours.lines().count().max(theirs.lines().count());
    let lines = |text: &'a str| text.lines().chain(std::iter::repeat("(no line)"));
    lines(ours)
        .zip(lines(theirs))
        .take(longest)
        .find(|(ours, theirs)| ours != theirs)
}

/// Row-major float32 values on the host.
fn host(tensor: &Tensor) -> Result<Vec<f32>, Error> {
    Ok(tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?)
}

fn bytes(tensor: &Tensor) -> Result<(Dtype, Vec<u8>), Error> {
    Ok(match tensor.dtype() {
        DType::F64 => {
            let values = tensor.to_vec1::<f64>()?;
            (
                Dtype::F64,
                values
                    .iter()
                    .flat_map(|value| value.to_le_bytes())
                    .collect(),
            )
        }
        _ => (Dtype::F32, le_bytes(&host(tensor)?)),
    })
}

fn le_bytes(values: &[f32]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}

fn write_safetensors(
    path: &Path,
    tensors: &[(&str, Dtype, Vec<usize>, &[u8])],
    notes: Option<String>,
) -> Result<(), Error> {
    let views = tensors.iter().map(|(name, dtype, shape, bytes)| {
        let view = TensorView::new(*dtype, shape.clone(), bytes);
        (*name, view.expect("the bytes were made for this shape"))
    });
    let metadata = notes.map(|notes| HashMap::from([(METADATA_KEY.to_owned(), notes)]));
    let whole = safetensors::serialize(views, metadata).expect("named tensors serialise");
    write_atomic(path, |out| out.write_all(&whole))?;
    Ok(())
}
