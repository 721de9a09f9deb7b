//! A run's folder: `config.toml` first, `checkpoint.safetensors` while it goes on, at the end the
//! records as Parquet and, last of all, `run.json`.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use rankwise_data::{create_folder, discard_leftovers, read_text, sha256_hex, write_atomic};
use serde::{Deserialize, Serialize};

use super::config::TuneConfig;
use super::record::{StepRecord, TuneRecord, TuneSummary, epochs_table, ranks_table, steps_table};
use crate::Error;
use crate::engine::optimizer::Moments;

const METADATA_KEY: &str = "rankwise";

/// What a folder holds of a run.
pub(super) enum Held {
    Nothing,
    Part(Box<Checkpoint>),
    Whole(Box<TuneSummary>),
}

/// The state of a run between two steps.
pub(super) struct Checkpoint {
    pub values: Tensor,
    pub moments: Moments,
    pub rule: BTreeMap<String, Tensor>,
    pub steps: Vec<StepRecord>,
    pub notes: Notes,
}

/// What a checkpoint says in words and numbers.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Notes {
    pub config_sha256: String,
    pub records: Vec<TuneRecord>,
    pub best: Option<(usize, f64)>,
    pub wall_seconds: f64,
    /// Seconds of the unfinished epoch's steps.
    pub train_seconds: f64,
}

pub(super) struct TuneFolder {
    pub path: PathBuf,
    config_sha256: String,
}

impl TuneFolder {
    /// Takes the folder for the run of `config` (resolved), creating it if need be.
    ///
    /// # Errors
    /// [`Error::ForeignFolder`] if it holds anything that is not this run's.
    pub fn open(path: &Path, config: &TuneConfig, device: &Device) -> Result<(Self, Held), Error> {
        let text = config.to_toml();
        let folder = Self {
            path: path.to_path_buf(),
            config_sha256: sha256_hex(text.as_bytes()),
        };
        let foreign = |what: String| Error::ForeignFolder {
            path: path.to_path_buf(),
            what,
        };
        create_folder(path)?;
        discard_leftovers(path)?;
        let config_path = path.join("config.toml");
        if config_path.exists() {
            let found = read_text(&config_path)?;
            if found != text {
                let lines = text.lines().zip(found.lines());
                let differing = lines.into_iter().find(|(ours, theirs)| ours != theirs);
                let (ours, theirs) = differing.unwrap_or(("(more lines)", "(fewer)"));
                return Err(foreign(format!(
                    "config.toml is another configuration's: expected `{ours}`, found `{theirs}`"
                )));
            }
        } else {
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
        let held = if path.join("run.json").exists() {
            Held::Whole(Box::new(folder.summary()?))
        } else if path.join("checkpoint.safetensors").exists() {
            Held::Part(Box::new(folder.checkpoint(device)?))
        } else {
            Held::Nothing
        };
        Ok((folder, held))
    }

    pub fn config_sha256(&self) -> &str {
        &self.config_sha256
    }

    fn summary(&self) -> Result<TuneSummary, Error> {
        let path = self.path.join("run.json");
        serde_json::from_str(&read_text(&path)?).map_err(|error| Error::Model {
            path,
            what: "file".to_owned(),
            expected: "the record of a finished run".to_owned(),
            found: error.to_string(),
        })
    }

    /// Writes the state to a temporary name and renames it.
    pub fn write_checkpoint(&self, checkpoint: &Checkpoint) -> Result<(), Error> {
        let mut tensors: Vec<(String, Tensor)> = vec![
            ("values".to_owned(), checkpoint.values.clone()),
            ("first".to_owned(), checkpoint.moments.first.clone()),
            ("second".to_owned(), checkpoint.moments.second.clone()),
        ];
        let updates: Vec<i64> = checkpoint
            .moments
            .updates
            .iter()
            .flatten()
            .map(|count| count.cast_signed())
            .collect();
        let sizes: Vec<i64> = checkpoint
            .moments
            .updates
            .iter()
            .map(|rows| rows.len() as i64)
            .collect();
        let steps: Vec<f64> = checkpoint
            .steps
            .iter()
            .flat_map(|s| [s.loss, s.regulariser, s.gradient_norm, s.learning_rate])
            .collect();
        tensors.push(("updates".to_owned(), Tensor::new(updates, &Device::Cpu)?));
        tensors.push(("update_sizes".to_owned(), Tensor::new(sizes, &Device::Cpu)?));
        tensors.push(("steps".to_owned(), Tensor::new(steps, &Device::Cpu)?));
        for (name, tensor) in &checkpoint.rule {
            tensors.push((format!("rule.{name}"), tensor.clone()));
        }
        let notes = Notes {
            config_sha256: self.config_sha256.clone(),
            ..checkpoint.notes.clone()
        };
        let notes = serde_json::to_string(&notes).expect("numbers and texts serialise");
        write_tensors(
            &self.path.join("checkpoint.safetensors"),
            &tensors,
            Some(HashMap::from([(METADATA_KEY.to_owned(), notes)])),
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
        let (_, metadata) = safetensors::SafeTensors::read_metadata(&whole)
            .map_err(|error| damaged(error.to_string()))?;
        let notes = metadata
            .metadata()
            .as_ref()
            .and_then(|all| all.get(METADATA_KEY));
        let notes: Notes = notes
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
        let (values, first, second) = (take("values")?, take("first")?, take("second")?);
        let whole_numbers = |tensor: Tensor| {
            tensor
                .to_vec1::<i64>()
                .map_err(|error| damaged(error.to_string()))
        };
        let updates = whole_numbers(take("updates")?)?;
        let sizes = whole_numbers(take("update_sizes")?)?;
        let steps = take("steps")?
            .to_vec1::<f64>()
            .map_err(|e| damaged(e.to_string()))?;
        let mut updates = updates.into_iter().map(i64::cast_unsigned);
        let updates = sizes
            .into_iter()
            .map(|size| updates.by_ref().take(size.max(0) as usize).collect())
            .collect();
        let rule = tensors
            .into_iter()
            .filter_map(|(name, tensor)| Some((name.strip_prefix("rule.")?.to_owned(), tensor)))
            .collect();
        let steps = steps.as_chunks::<4>().0.iter().map(|chunk| {
            let [loss, regulariser, gradient_norm, learning_rate] = *chunk;
            StepRecord {
                loss,
                regulariser,
                gradient_norm,
                learning_rate,
            }
        });
        Ok(Checkpoint {
            values: values.to_device(device)?,
            moments: Moments {
                first: first.to_device(device)?,
                second: second.to_device(device)?,
                updates,
            },
            rule,
            steps: steps.collect(),
            notes,
        })
    }

    /// Writes the records so far, readable by any tool while the run goes on.
    pub fn write_records(
        &self,
        records: &[TuneRecord],
        steps: &[StepRecord],
        per_epoch: u64,
    ) -> Result<(), Error> {
        epochs_table(records)?.write_parquet(&self.path.join("epochs.parquet"))?;
        steps_table(steps, per_epoch)?.write_parquet(&self.path.join("steps.parquet"))?;
        if records.iter().any(|record| !record.ranks.is_empty()) {
            ranks_table(records)?.write_parquet(&self.path.join("ranks.parquet"))?;
        }
        Ok(())
    }

    /// Ends the run: `run.json` comes last, so that a folder with it is whole. Of a run that
    /// diverged the last checkpoint stays.
    pub fn finish(&self, summary: &TuneSummary, is_whole: bool) -> Result<(), Error> {
        let json = serde_json::to_string_pretty(summary).expect("numbers and texts serialise");
        write_atomic(&self.path.join("run.json"), |out| {
            out.write_all(json.as_bytes())
        })?;
        if is_whole {
            // It has served; a leftover does no harm, since run.json is looked for first.
            let _ = fs::remove_file(self.path.join("checkpoint.safetensors"));
        }
        Ok(())
    }
}

/// Writes named tensors as safetensors, whole or not at all.
pub(crate) fn write_tensors(
    path: &Path,
    tensors: &[(String, Tensor)],
    metadata: Option<HashMap<String, String>>,
) -> Result<(), Error> {
    let host = tensors
        .iter()
        .map(|(name, tensor)| Ok((name.as_str(), tensor.to_device(&Device::Cpu)?.contiguous()?)))
        .collect::<Result<Vec<_>, Error>>()?;
    let bytes = safetensors::serialize(host, metadata)
        .map_err(|error| candle_core::Error::msg(error.to_string()))?;
    write_atomic(path, |out| out.write_all(&bytes))?;
    Ok(())
}
