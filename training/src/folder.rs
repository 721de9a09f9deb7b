//! The folder of a run of any kind: `config.toml` first, `checkpoint.safetensors` while the run goes
//! on, `run.json` last of all.
//!
//! A checkpoint is the run's tensors, with what it says in words and numbers (its notes) as JSON in
//! the metadata; the notes name the configuration that they belong to. The SHA-256 of the file, taken
//! with zeros in its place, stands in the metadata too: a byte that is another one is found.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor, WithDType};
use rankwise_data::{create_folder, discard_leftovers, read_text, sha256_hex, write_atomic};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::Error;

const METADATA_KEY: &str = "rankwise";

const DIGEST_KEY: &str = "sha256";

/// In the place of a digest while it is taken.
const NO_DIGEST: [u8; 64] = [b'0'; 64];

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
        if let Some(difference) = difference(config, &found) {
            return Err(foreign(format!(
                "config.toml is another configuration's: {difference}"
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
        let no_digest = String::from_utf8_lossy(&NO_DIGEST).into_owned();
        let metadata = HashMap::from([
            (METADATA_KEY.to_owned(), notes),
            (DIGEST_KEY.to_owned(), no_digest),
        ]);
        let mut bytes = serialized(tensors, Some(metadata))?;
        if let Some(place) = digest_place(&bytes) {
            let digest = sha256_hex(&bytes);
            bytes[place].copy_from_slice(digest.as_bytes());
        }
        let path = self.checkpoint_path();
        Ok(write_atomic(&path, |out| out.write_all(&bytes))?)
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
        let mut whole = fs::read(&path).map_err(|error| damaged(&path, error))?;
        check_digest(&mut whole).map_err(|found| damaged(&path, found))?;
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

/// Where the digest of a checkpoint stands in its bytes.
fn digest_place(bytes: &[u8]) -> Option<std::ops::Range<usize>> {
    let length = u64::from_le_bytes(*bytes.first_chunk()?);
    let header = bytes.get(8..)?.get(..usize::try_from(length).ok()?)?;
    // In the notes, which are a text there, quotes have a backslash before them.
    let before = format!("\"{DIGEST_KEY}\":\"");
    let at = header
        .windows(before.len())
        .position(|part| part == before.as_bytes())?;
    let start = 8 + at + before.len();
    let place = start..start + NO_DIGEST.len();
    bytes.get(place.clone()).map(|_| place)
}

/// What is wrong with a checkpoint's bytes, if they are not those that were written.
fn check_digest(bytes: &mut [u8]) -> Result<(), String> {
    let Some(place) = digest_place(bytes) else {
        return Err("no SHA-256 of its own".to_owned());
    };
    let written = String::from_utf8_lossy(&bytes[place.clone()]).into_owned();
    bytes[place].copy_from_slice(&NO_DIGEST);
    let now = sha256_hex(bytes);
    match now == written {
        true => Ok(()),
        false => Err(format!(
            "a damaged one: its bytes have the SHA-256 {now}, and were written with {written}"
        )),
    }
}

/// In what another configuration differs: the first key, and how many more.
fn difference(ours: &str, theirs: &str) -> Option<String> {
    let lines = |text: &str| -> Result<BTreeMap<String, String>, toml::de::Error> {
        let mut lines = BTreeMap::new();
        add_lines(text.parse()?, "", &mut lines);
        Ok(lines)
    };
    let (ours, theirs) = match (lines(ours), lines(theirs)) {
        (Ok(ours), Ok(theirs)) => (ours, theirs),
        (Err(error), _) | (_, Err(error)) => {
            let error = error.to_string();
            return Some(format!(
                "expected TOML, found none ({})",
                error.trim().replace('\n', ", ")
            ));
        }
    };
    let keys: BTreeSet<&String> = ours.keys().chain(theirs.keys()).collect();
    let mut unlike = keys
        .into_iter()
        .filter(|key| ours.get(*key) != theirs.get(*key));
    let key = unlike.next()?;
    let of = |lines: &BTreeMap<String, String>| {
        lines.get(key).map_or("(no line)".to_owned(), Clone::clone)
    };
    let more = match unlike.count() {
        0 => String::new(),
        count => format!(", and {count} more keys differ"),
    };
    let how = match key.as_str() {
        "optimizer.learning_rate" => {
            "; several rates in one --learning-rate get a folder each, other settings need another --out"
        }
        _ => "; a run with other settings needs another --out",
    };
    Some(format!(
        "expected `{}`, found `{}`{more}{how}",
        of(&ours),
        of(&theirs)
    ))
}

/// `a.b = value` by the key `a.b`.
fn add_lines(table: toml::Table, before: &str, into: &mut BTreeMap<String, String>) {
    for (key, value) in table {
        let name = format!("{before}{key}");
        match value {
            toml::Value::Table(inner) => add_lines(inner, &format!("{name}."), into),
            value => {
                into.insert(name.clone(), format!("{name} = {value}"));
            }
        }
    }
}

/// Writes named tensors as safetensors, whole or not at all.
pub(crate) fn write_tensors(
    path: &Path,
    tensors: &[(String, Tensor)],
    metadata: Option<HashMap<String, String>>,
) -> Result<(), Error> {
    let bytes = serialized(tensors, metadata)?;
    write_atomic(path, |out| out.write_all(&bytes))?;
    Ok(())
}

/// Tensors as safetensors. One that is not on the host fills its buffer: all of that is read back.
fn serialized(
    tensors: &[(String, Tensor)],
    metadata: Option<HashMap<String, String>>,
) -> Result<Vec<u8>, Error> {
    let host = tensors
        .iter()
        .map(|(name, tensor)| Ok((name.as_str(), tensor.to_device(&Device::Cpu)?.contiguous()?)))
        .collect::<Result<Vec<_>, Error>>()?;
    let bytes = safetensors::serialize(host, metadata);
    Ok(bytes.map_err(|error| candle_core::Error::msg(error.to_string()))?)
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
                "a = 2\nb = 3\n",
                "expected `a = 2`, found `a = 1`, and 1 more keys differ; a run with other settings",
            ),
            (
                "a = 1\nb = 2\n[optimizer]\nlearning_rate = 0.1\n",
                "expected `optimizer.learning_rate = 0.1`, found `(no line)`; several rates in one \
                 --learning-rate get a folder each",
            ),
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

        // Whichever bit is another one is found.
        folder.write_checkpoint(&tensors, &own).unwrap();
        let file = path.path().join("checkpoint.safetensors");
        let good = fs::read(&file).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1 << (at % 8);
            fs::write(&file, bad).unwrap();
            let found = message(held(&folder));
            assert!(
                found.contains("removing it restarts the run"),
                "{at}: {found}"
            );
        }
        fs::write(&file, &good).unwrap();
        assert!(matches!(held(&folder).unwrap(), Held::Part(_)));

        // The record is looked for first.
        folder.finish(&own).unwrap();
        assert!(matches!(held(&folder).unwrap(), Held::Whole(whole) if whole == own));
        folder.discard_checkpoint();
        assert!(!path.path().join("checkpoint.safetensors").exists());
    }
}
