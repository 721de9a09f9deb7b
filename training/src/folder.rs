//! The folder of a run of any kind: `config.toml` first, `checkpoint.safetensors` while the run goes
//! on, `run.json` last of all.
//!
//! A checkpoint is the run's tensors, with what it says in words and numbers (its notes) as JSON in
//! the metadata; the notes name the configuration that they belong to.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor, WithDType};
use rankwise_data::{create_folder, discard_leftovers, read_text, sha256_hex, write_atomic};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::Error;

const METADATA_KEY: &str = "rankwise";

/// How far the run of a folder has come: nowhere, to a checkpoint, to its end.
pub(crate) enum Held<P, W> {
    Nothing,
    Part(P),
    Whole(W),
}

/// A folder that one run has taken.
pub(crate) struct Folder {
    path: PathBuf,
    config_sha256: String,
    /// The opened folder, locked as long as it is; `None` where the system locks no folders.
    _lock: Option<fs::File>,
}

/// What a folder's checkpoint holds.
pub(crate) struct Kept<N> {
    path: PathBuf,
    pub notes: N,
    tensors: HashMap<String, Tensor>,
}

/// The part of any checkpoint's notes that says whose it is.
#[derive(Deserialize)]
struct Owner {
    config_sha256: String,
}

impl Folder {
    /// Takes the folder for the run of the resolved configuration `config`, creating it if need be.
    ///
    /// # Errors
    /// [`Error::ForeignFolder`] if it holds anything that is not this run's, or another process is at
    /// work there.
    pub fn open(path: &Path, config: &str) -> Result<Self, Error> {
        let foreign = |what: String| Error::ForeignFolder {
            path: path.to_path_buf(),
            what,
        };
        create_folder(path)?;
        let lock = fs::File::open(path).ok();
        if let Some(Err(fs::TryLockError::WouldBlock)) = lock.as_ref().map(fs::File::try_lock) {
            return Err(foreign("another process is at work there".to_owned()));
        }
        discard_leftovers(path)?;
        let config_path = path.join("config.toml");
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
            write_atomic(&config_path, |out| out.write_all(config.as_bytes()))?;
        }
        let found = read_text(&config_path)?;
        if let Some((ours, theirs)) = first_difference(config, &found) {
            return Err(foreign(format!(
                "config.toml is another configuration's: expected `{ours}`, found `{theirs}`"
            )));
        }
        Ok(Self {
            path: path.to_path_buf(),
            config_sha256: sha256_hex(config.as_bytes()),
            _lock: lock,
        })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn config_sha256(&self) -> &str {
        &self.config_sha256
    }

    /// What is there: the record of a finished run, or what `read` makes of the checkpoint of one
    /// that is not.
    ///
    /// # Errors
    /// [`Error::Model`] if that file is damaged or another configuration's.
    pub fn held<N: DeserializeOwned, P, W: DeserializeOwned>(
        &self,
        read: impl FnOnce(Kept<N>) -> Result<P, Error>,
    ) -> Result<Held<P, W>, Error> {
        let (record, checkpoint) = (self.record_path(), self.checkpoint_path());
        if record.exists() {
            let whole = serde_json::from_str(&read_text(&record)?);
            return whole.map(Held::Whole).map_err(|error| Error::Model {
                path: record,
                what: "file".to_owned(),
                expected: "the record of a finished run".to_owned(),
                found: error.to_string(),
            });
        }
        if checkpoint.exists() {
            let kept = Kept::read(checkpoint, &self.config_sha256)?;
            return Ok(Held::Part(read(kept)?));
        }
        Ok(Held::Nothing)
    }

    /// Writes a checkpoint, whole or not at all. The notes have a key `config_sha256`.
    pub fn write_checkpoint(
        &self,
        tensors: &[(String, Tensor)],
        notes: &impl Serialize,
    ) -> Result<(), Error> {
        let notes = serde_json::to_string(notes).expect("numbers and texts serialise");
        let metadata = HashMap::from([(METADATA_KEY.to_owned(), notes)]);
        write_tensors(&self.checkpoint_path(), tensors, Some(metadata))
    }

    /// Ends the run: its record comes last, so that a folder with one is whole.
    pub fn finish(&self, record: &impl Serialize) -> Result<(), Error> {
        write_json(&self.record_path(), record)
    }

    /// Removes the checkpoint of a finished run: it has served. A leftover does no harm, since the
    /// record is looked for first.
    pub fn discard_checkpoint(&self) {
        let _ = fs::remove_file(self.checkpoint_path());
    }

    fn record_path(&self) -> PathBuf {
        self.path.join("run.json")
    }

    fn checkpoint_path(&self) -> PathBuf {
        self.path.join("checkpoint.safetensors")
    }
}

impl<N: DeserializeOwned> Kept<N> {
    fn read(path: PathBuf, config_sha256: &str) -> Result<Self, Error> {
        let whole = fs::read(&path).map_err(|error| damaged(&path, error))?;
        let (_, metadata) = safetensors::SafeTensors::read_metadata(&whole)
            .map_err(|error| damaged(&path, error))?;
        let notes = metadata
            .metadata()
            .as_ref()
            .and_then(|all| all.get(METADATA_KEY))
            .ok_or_else(|| damaged(&path, format!("no metadata key {METADATA_KEY}")))?;
        let owner: Owner = serde_json::from_str(notes).map_err(|error| damaged(&path, error))?;
        if owner.config_sha256 != config_sha256 {
            return Err(damaged(&path, "a checkpoint of another configuration"));
        }
        Ok(Self {
            notes: serde_json::from_str(notes).map_err(|error| damaged(&path, error))?,
            tensors: candle_core::safetensors::load_buffer(&whole, &Device::Cpu)?,
            path,
        })
    }
}

impl<N> Kept<N> {
    /// Takes out the tensor `name`, on the CPU.
    pub fn take(&mut self, name: &str) -> Result<Tensor, Error> {
        self.tensors
            .remove(name)
            .ok_or_else(|| damaged(&self.path, format!("no tensor {name}")))
    }

    /// The numbers of the tensor `name`.
    pub fn numbers<T: WithDType>(&mut self, name: &str) -> Result<Vec<T>, Error> {
        self.take(name)?
            .to_vec1()
            .map_err(|error| damaged(&self.path, error))
    }

    /// What has not been taken out, and the notes.
    pub fn rest(self) -> (HashMap<String, Tensor>, N) {
        (self.tensors, self.notes)
    }
}

fn damaged(path: &Path, found: impl ToString) -> Error {
    Error::Model {
        path: path.to_path_buf(),
        what: "file".to_owned(),
        expected: "a checkpoint of this run (removing it restarts the run)".to_owned(),
        found: found.to_string(),
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

/// Writes a value as JSON, whole or not at all.
pub(crate) fn write_json(path: &Path, value: &impl Serialize) -> Result<(), Error> {
    let text = serde_json::to_string_pretty(value).expect("numbers and texts serialise");
    write_atomic(path, |out| out.write_all(text.as_bytes()))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Notes {
        config_sha256: String,
        words: String,
    }

    fn message<T>(result: Result<T, Error>) -> String {
        match result {
            Ok(_) => panic!("nothing was refused"),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn another_configuration_is_refused_by_its_first_difference() {
        let folder = tempfile::tempdir().unwrap();
        Folder::open(folder.path(), "a = 1\nb = 2\n").unwrap();
        Folder::open(folder.path(), "a = 1\nb = 2\n").unwrap();
        for (config, difference) in [
            ("a = 1\nb = 3\n", "expected `b = 3`, found `b = 2`"),
            ("a = 1\n", "expected `(no line)`, found `b = 2`"),
            (
                "a = 1\nb = 2\nc = 3\n",
                "expected `c = 3`, found `(no line)`",
            ),
        ] {
            let found = message(Folder::open(folder.path(), config));
            assert!(found.contains(difference), "{found}");
        }
    }

    #[test]
    #[cfg(unix)]
    fn a_folder_is_one_processes_at_a_time() {
        let path = tempfile::tempdir().unwrap();
        let first = Folder::open(path.path(), "a = 1\n").unwrap();
        let found = message(Folder::open(path.path(), "a = 1\n"));
        assert!(found.contains("another process is at work"), "{found}");
        drop(first);
        Folder::open(path.path(), "a = 1\n").unwrap();
    }

    #[test]
    fn a_checkpoint_comes_back_to_its_own_run_only() {
        let path = tempfile::tempdir().unwrap();
        let folder = Folder::open(path.path(), "a = 1\n").unwrap();
        let notes = |config_sha256: &str| Notes {
            config_sha256: config_sha256.to_owned(),
            words: "half way".to_owned(),
        };
        let numbers = [0.1_f64, f64::MIN_POSITIVE, -3.0];
        let tensors = [("x".to_owned(), Tensor::new(&numbers, &Device::Cpu).unwrap())];
        let held = |folder: &Folder| folder.held::<Notes, _, Notes>(Ok);
        let own = notes(folder.config_sha256());
        folder.write_checkpoint(&tensors, &own).unwrap();
        let Held::Part(mut kept) = held(&folder).unwrap() else {
            panic!("no checkpoint was found");
        };
        assert_eq!(kept.notes, own);
        assert_eq!(kept.numbers::<f64>("x").unwrap(), numbers);
        assert!(message(kept.take("x")).contains("no tensor x"));

        folder
            .write_checkpoint(&tensors, &notes("another"))
            .unwrap();
        assert!(message(held(&folder)).contains("a checkpoint of another configuration"));

        // The record is looked for first.
        folder.finish(&own).unwrap();
        assert!(matches!(held(&folder).unwrap(), Held::Whole(whole) if whole == own));
        folder.discard_checkpoint();
        assert!(!path.path().join("checkpoint.safetensors").exists());
    }
}
