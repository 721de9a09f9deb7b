//! A tuning run's folder: the checkpoint's tensors while it goes on, and at the end the records as
//! Parquet.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{Device, Tensor};
use rankwise_data::sha256_path;
use serde::{Deserialize, Serialize};

use super::config::TuneConfig;
use super::record::{StepRecord, TuneRecord, TuneSummary, epochs_table, ranks_table, steps_table};
use crate::Error;
use crate::engine::host;
use crate::engine::optimizer::Moments;
use crate::folder::{Folder, Kept};

/// What a folder holds of a run.
pub(super) type Held = crate::folder::Held<Box<Checkpoint>, Box<TuneSummary>>;

/// The state of a run between two steps.
pub(super) struct Checkpoint {
    pub values: Tensor,
    pub moments: Moments,
    pub rule: BTreeMap<String, Tensor>,
    pub steps: Vec<StepRecord>,
    pub notes: Notes,
}

/// What a run reads: files' names with their SHA-256.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Inputs {
    pub data: Vec<(String, String)>,
    pub model: Vec<(String, String)>,
}

impl Inputs {
    /// Checks that a run goes on with what it began with.
    ///
    /// # Errors
    /// [`Error::ForeignFolder`] naming the first file that is another.
    pub fn check(&self, now: &Self, folder: &Path) -> Result<(), Error> {
        for (begun, now) in [(&self.data, &now.data), (&self.model, &now.model)] {
            let Some((expected, found)) = unlike(begun, now) else {
                continue;
            };
            return Err(Error::ForeignFolder {
                path: folder.to_path_buf(),
                what: format!("its run began with other files: expected {expected}, found {found}"),
            });
        }
        Ok(())
    }
}

/// What the first file that differs was, and what it is now: one that is missing or new before one
/// that changed, and that before another order.
fn unlike(begun: &[(String, String)], now: &[(String, String)]) -> Option<(String, String)> {
    let said = |(name, hash): &(String, String)| format!("{name} of SHA-256 {hash}");
    let without = |files: &[(String, String)], name: &str| files.iter().all(|file| file.0 != name);
    if let Some(file) = begun.iter().find(|file| without(now, &file.0)) {
        return Some((said(file), format!("no {}", file.0)));
    }
    if let Some(file) = now.iter().find(|file| without(begun, &file.0)) {
        return Some((format!("no {}", file.0), said(file)));
    }
    let longest = begun.len().max(now.len());
    let at = (0..longest).find(|at| begun.get(*at) != now.get(*at))?;
    let said = |file: Option<&(String, String)>| file.map_or("no further file".to_owned(), said);
    Some((said(begun.get(at)), said(now.get(at))))
}

/// What a checkpoint says in words and numbers.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Notes {
    pub config_sha256: String,
    pub inputs: Inputs,
    pub records: Vec<TuneRecord>,
    pub best: Option<(usize, f64)>,
    /// SHA-256 of the files under `best/` as they were written.
    #[serde(default)]
    pub best_sha256: Option<String>,
    pub wall_seconds: f64,
    /// Seconds of the unfinished epoch's steps.
    pub train_seconds: f64,
}

impl Notes {
    /// Checks that the best epoch's files are those that were written.
    ///
    /// # Errors
    /// [`Error::ForeignFolder`] if not, [`Error::Data`] if they cannot be read.
    pub fn check_best(&self, folder: &Path) -> Result<(), Error> {
        let Some(written) = &self.best_sha256 else {
            return Ok(());
        };
        let path = folder.join("best");
        let now = sha256_path(&path)?;
        if now == *written {
            return Ok(());
        }
        Err(Error::ForeignFolder {
            path,
            what: format!(
                "damaged since it was written: expected files of SHA-256 {written}, found {now}; \
                 removing {} restarts the run",
                folder.display()
            ),
        })
    }
}

pub(super) struct TuneFolder(Folder);

impl TuneFolder {
    /// Takes the folder for the run of `config` (resolved), creating it if need be.
    ///
    /// # Errors
    /// [`Error::ForeignFolder`] if it holds anything that is not this run's.
    pub fn open(path: &Path, config: &TuneConfig, device: &Device) -> Result<(Self, Held), Error> {
        let folder = Folder::open(path, &config.to_toml())?;
        let held = folder.held(|kept| Ok(Box::new(Checkpoint::of(kept, device)?)))?;
        Ok((Self(folder), held))
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    pub fn config_sha256(&self) -> &str {
        self.0.config_sha256()
    }

    /// Writes the state, whole or not at all.
    pub fn write_checkpoint(&self, checkpoint: &Checkpoint) -> Result<(), Error> {
        let moments = &checkpoint.moments;
        let updates: Vec<i64> = moments
            .updates
            .iter()
            .flatten()
            .map(|count| count.cast_signed())
            .collect();
        let sizes: Vec<i64> = moments
            .updates
            .iter()
            .map(|rows| rows.len() as i64)
            .collect();
        let steps: Vec<f64> = checkpoint
            .steps
            .iter()
            .flat_map(|s| [s.loss, s.regulariser, s.gradient_norm, s.learning_rate])
            .collect();
        let mut tensors: Vec<(String, Tensor)> = vec![
            ("values".to_owned(), checkpoint.values.clone()),
            ("first".to_owned(), moments.first.clone()),
            ("second".to_owned(), moments.second.clone()),
            ("updates".to_owned(), Tensor::new(updates, &Device::Cpu)?),
            ("update_sizes".to_owned(), Tensor::new(sizes, &Device::Cpu)?),
            ("steps".to_owned(), Tensor::new(steps, &Device::Cpu)?),
        ];
        for (name, tensor) in &checkpoint.rule {
            tensors.push((format!("rule.{name}"), host::fetch(tensor)?));
        }
        let notes = Notes {
            config_sha256: self.config_sha256().to_owned(),
            ..checkpoint.notes.clone()
        };
        self.0.write_checkpoint(&tensors, &notes)
    }

    /// Writes the records so far, readable by any tool while the run goes on.
    pub fn write_records(
        &self,
        records: &[TuneRecord],
        steps: &[StepRecord],
        per_epoch: u64,
    ) -> Result<(), Error> {
        let path = self.path();
        epochs_table(records)?.write_parquet(&path.join("epochs.parquet"))?;
        steps_table(steps, per_epoch)?.write_parquet(&path.join("steps.parquet"))?;
        if records.iter().any(|record| !record.ranks.is_empty()) {
            ranks_table(records)?.write_parquet(&path.join("ranks.parquet"))?;
        }
        Ok(())
    }

    /// Ends the run. Of one that diverged the last checkpoint stays.
    pub fn finish(&self, summary: &TuneSummary, is_whole: bool) -> Result<(), Error> {
        self.0.finish(summary)?;
        if is_whole {
            self.0.discard_checkpoint();
        }
        Ok(())
    }
}

impl Checkpoint {
    fn of(mut kept: Kept<Notes>, device: &Device) -> Result<Self, Error> {
        let (values, first, second) = (
            kept.take("values")?,
            kept.take("first")?,
            kept.take("second")?,
        );
        let updates = kept.numbers::<i64>("updates")?;
        let sizes = kept.numbers::<i64>("update_sizes")?;
        let steps = kept.numbers::<f64>("steps")?;
        let mut updates = updates.into_iter().map(i64::cast_unsigned);
        let updates = sizes
            .into_iter()
            .map(|size| updates.by_ref().take(size.max(0) as usize).collect())
            .collect();
        let (rest, notes) = kept.rest();
        let rule = rest
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
        Ok(Self {
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
}
