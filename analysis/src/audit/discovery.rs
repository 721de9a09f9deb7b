//! From what a person names to the files that are looked into: a file, a folder, a pattern, or an id
//! in the local cache of the Hub.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use rankwise_data::{HubCache, RepoId, RepoKind};

use super::record::{PassedOver, RunPart};
use super::{Epoch, natural_order};
use crate::Error;

/// Endings of files that may hold weights.
const WEIGHTS: [&str; 5] = ["safetensors", "bin", "pt", "pth", "ckpt"];

/// How the file is called that lists the files of a split set of weights.
const INDEX_ENDING: &str = ".index.json";

/// The names of a folder's adapter, in the order in which one is preferred.
const MAIN: [&str; 5] = [
    "adapters.safetensors",
    "adapter_model.safetensors",
    "adapter_model.safetensors.index.json",
    "adapter_model.bin",
    "adapter_model.bin.index.json",
];

/// Files that a trainer and a tokenizer keep beside weights, by the beginnings of their names.
const NO_WEIGHTS: [&str; 12] = [
    "optimizer",
    "optim_states",
    "scheduler",
    "scaler",
    "rng_state",
    "random_states",
    "training_args",
    "trainer_state",
    "tokenizer",
    "vocab",
    "spiece",
    "sentencepiece",
];

/// What `rankwise train` writes beside its `config.toml`, some of it from the first epoch on.
const RUN_FILES: [&str; 4] = ["run.json", "epochs.parquet", "metrics.parquet", RUN_STATE];

/// The state of a run that is not finished.
const RUN_STATE: &str = "checkpoint.safetensors";

/// Deeper folders are not looked into; no layout of runs or checkpoints comes near.
const DEEPEST: usize = 32;

/// A file that may hold an adapter.
#[derive(Debug)]
pub(crate) struct Candidate {
    pub file: PathBuf,
    /// What the audit calls it: its folder if it is the adapter of a folder.
    pub path: PathBuf,
    /// Other files of the folder with an adapter's name, which libraries do not load beside this one.
    pub passed_over: Vec<PathBuf>,
}

impl Candidate {
    /// What there is to say of the files beside it.
    pub fn remark(&self) -> Option<String> {
        let names: Vec<String> = self.passed_over.iter().map(|file| name(file)).collect();
        (!names.is_empty()).then(|| {
            format!(
                "{} in the same folder was passed over: PEFT loads {}",
                names.join(", "),
                name(&self.file)
            )
        })
    }
}

/// What is found at a path.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// In natural order.
    pub candidates: Vec<Candidate>,
    /// The rest of what runs of `rankwise train` keep.
    pub passed_over: Vec<PassedOver>,
}

/// The candidates at or below `path`.
///
/// Of a folder with `adapter_config.json` only the files that PEFT or mlx-lm name so are the
/// adapter's, not the optimiser's state beside them. Of a run of `rankwise train` only the adapter is
/// one, after the epoch that is asked for where there is a choice. In other folders every weight file
/// counts. Links to folders are not followed.
pub(crate) fn candidates(path: &Path, epoch: Epoch) -> Result<Found, Error> {
    let metadata = match fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) => match elsewhere(path, epoch)? {
            Some(found) => return Ok(found),
            None => return Err(Error::io(path, "open")(error)),
        },
    };
    if !metadata.is_dir() {
        let (file, path) = (path.to_path_buf(), path.to_path_buf());
        return Ok(Found {
            candidates: vec![Candidate {
                file,
                path,
                passed_over: Vec::new(),
            }],
            passed_over: Vec::new(),
        });
    }
    let mut found = Found::default();
    walk(path, 0, epoch, &mut found)?;
    Ok(found)
}

/// Whether a file that could not be read is no adapter by its name: a trainer's state, a tokenizer.
pub(crate) fn holds_no_weights(file: &Path) -> bool {
    let name = name(file);
    // `tok512.bin` is llama2.c's name of a tokenizer.
    let is_numbered = |rest: &str| rest.starts_with(|c: char| c.is_ascii_digit());
    NO_WEIGHTS.iter().any(|own| name.starts_with(own))
        || name.strip_prefix("tok").is_some_and(is_numbered)
}

/// The file of the one adapter at `path`; those in folders below it count only if there is none.
///
/// # Errors
/// [`Error::File`] if there is none or more than one.
pub(crate) fn adapter_file(path: &Path) -> Result<PathBuf, Error> {
    Ok(one_adapter(path)?.file)
}

/// As [`adapter_file`], with what there is beside it.
///
/// # Errors
/// As [`adapter_file`].
pub(crate) fn one_adapter(path: &Path) -> Result<Candidate, Error> {
    let mut found = candidates(path, Epoch::Last)?.candidates;
    if found.iter().any(|one| one.file.parent() == Some(path)) {
        found.retain(|one| one.file.parent() == Some(path));
    }
    match (found.pop(), found.pop()) {
        (Some(one), None) => Ok(one),
        (None, _) => Err(Error::format(path, "path", "an adapter", "no weight file")),
        (Some(last), Some(other)) => {
            let found = format!("{} and {}", other.file.display(), last.file.display());
            Err(Error::format(path, "path", "one adapter", found))
        }
    }
}

/// What a name that is no path stands for.
fn elsewhere(path: &Path, epoch: Epoch) -> Result<Option<Found>, Error> {
    let Some(text) = path.to_str() else {
        return Ok(None);
    };
    if text.contains(['*', '?', '[']) {
        let wrong = |error: glob::PatternError| {
            Error::format(path, "pattern", "a pattern of paths", error.msg)
        };
        let mut paths: Vec<PathBuf> = glob::glob(text).map_err(wrong)?.flatten().collect();
        paths.sort_by(|x, y| natural_order(&x.to_string_lossy(), &y.to_string_lossy()));
        if paths.is_empty() {
            return Err(Error::format(path, "pattern", "at least one path", "none"));
        }
        // A pattern that matches a folder and what is in it names its files twice.
        let mut seen = BTreeSet::new();
        let mut found = Found::default();
        for path in paths
            .iter()
            .filter(|path| path.is_dir() || is_weights(path))
        {
            let new = candidates(path, epoch)?;
            let candidates = new.candidates.into_iter();
            found
                .candidates
                .extend(candidates.filter(|c| seen.insert(c.file.clone())));
            found.passed_over.extend(new.passed_over);
        }
        let is_taken = |part: &PassedOver| {
            let is_below = |c: &Candidate| c.file.starts_with(&part.path);
            found.candidates.iter().any(is_below)
        };
        found.passed_over = {
            let all = std::mem::take(&mut found.passed_over);
            all.into_iter().filter(|part| !is_taken(part)).collect()
        };
        return Ok(Some(found));
    }
    cached(text)?
        .map(|folder| candidates(&folder, epoch))
        .transpose()
}

/// The folder of a model in the local cache of the Hub; `None` if the text is no id, or of a model
/// that the cache does not know.
fn cached(id: &str) -> Result<Option<PathBuf>, Error> {
    // A name without an owner is rather a path that is not there.
    let repo = RepoId::parse(RepoKind::Model, id)
        .ok()
        .filter(|repo| repo.name().contains('/'));
    let (Some(repo), Some(cache)) = (repo, HubCache::from_environment()) else {
        return Ok(None);
    };
    let model = cache.folder(&repo);
    if !model.is_dir() {
        return Ok(None);
    }
    let snapshot = cache.snapshot(&repo)?.ok_or_else(|| {
        let expected = format!("a snapshot of revision {}", repo.revision());
        Error::format(&model, "snapshots", expected, "none")
    })?;
    Ok(Some(snapshot))
}

fn name(file: &Path) -> String {
    file.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

fn is_weights(file: &Path) -> bool {
    let ending = file.extension().map(|e| e.to_string_lossy().into_owned());
    ending.is_some_and(|e| WEIGHTS.contains(&e.as_str())) || name(file).ends_with(INDEX_ENDING)
}

fn walk(folder: &Path, depth: usize, epoch: Epoch, found: &mut Found) -> Result<(), Error> {
    let io = |source| Error::io(folder, "list")(source);
    let (mut files, mut folders) = (Vec::new(), Vec::new());
    for entry in fs::read_dir(folder).map_err(io)? {
        let entry = entry.map_err(io)?;
        let path = entry.path();
        if entry.file_type().map_err(io)?.is_dir() {
            folders.push(path);
        } else if path.is_file() {
            files.push(path);
        }
    }
    let order =
        |x: &PathBuf, y: &PathBuf| natural_order(&x.to_string_lossy(), &y.to_string_lossy());
    files.sort_by(order);
    folders.sort_by(order);
    let has = |wanted: &str| files.iter().any(|file| name(file) == wanted);
    if has("config.toml") && RUN_FILES.into_iter().any(has) {
        for (path, what) in rest_of_run(folder, epoch) {
            files.retain(|file| *file != path);
            folders.retain(|folder| *folder != path);
            let path = path.display().to_string();
            found.passed_over.push(PassedOver { path, what });
        }
    }
    found.candidates.extend(of_folder(folder, files));
    if depth < DEEPEST {
        for folder in folders {
            walk(&folder, depth + 1, epoch, found)?;
        }
    }
    Ok(())
}

/// What a run's folder has beside the adapter that is asked for.
fn rest_of_run(folder: &Path, epoch: Epoch) -> Vec<(PathBuf, RunPart)> {
    let is_there = |part: &str| folder.join(part).exists();
    let (last, best) = (is_there("adapter"), is_there("best/adapter"));
    let other = match epoch {
        Epoch::Last if last => Some("best"),
        Epoch::Best if best => Some("adapter"),
        Epoch::Last | Epoch::Best | Epoch::Every => None,
    };
    let parts = [
        (RUN_STATE, RunPart::State),
        ("base", RunPart::Weights),
        ("tuned", RunPart::Weights),
    ];
    let mut rest: Vec<(&str, RunPart)> = parts.to_vec();
    match other {
        Some("best") if !best => rest.push(("best", RunPart::Weights)),
        Some(other) => rest.push((other, RunPart::OtherEpoch)),
        None if !best => rest.push(("best", RunPart::Weights)),
        None => {}
    }
    rest.retain(|(part, _)| is_there(part));
    let whole = |(part, what): (&str, RunPart)| (folder.join(part), what);
    rest.into_iter().map(whole).collect()
}

/// The candidates among the files of one folder.
fn of_folder(folder: &Path, mut files: Vec<PathBuf>) -> Vec<Candidate> {
    let is_peft = |file: &PathBuf| name(file).starts_with("adapter_model.");
    let is_mlx = |file: &PathBuf| name(file).ends_with("adapters.safetensors");
    let has_config = files.iter().any(|file| name(file) == "adapter_config.json");
    let is_folder_of_one = files.iter().any(is_peft) || has_config;
    let mains: Vec<PathBuf> = files
        .iter()
        .filter(|file| MAIN.contains(&name(file).as_str()))
        .cloned()
        .collect();
    if files.iter().any(is_peft) {
        files.retain(|file| is_peft(file) && is_weights(file));
    } else if files.iter().any(is_mlx) {
        files.retain(is_mlx);
    } else {
        files.retain(|file| is_weights(file));
        if has_config && files.is_empty() {
            files.push(folder.join("adapter_model.safetensors"));
        }
    }
    // The files that an index stands for are read by way of it.
    let stems: Vec<String> = files
        .iter()
        .filter_map(|file| Some(stem(name(file).strip_suffix(INDEX_ENDING)?)))
        .collect();
    files.retain(|file| {
        let name = name(file);
        let is_shard =
            |stem: &String| name.starts_with(&format!("{stem}-")) && name.contains("-of-");
        name.ends_with(INDEX_ENDING) || !stems.iter().any(is_shard)
    });
    // The folder's adapter is what the libraries would load; others beside it go by their own names.
    let main = MAIN
        .iter()
        .find(|main| is_folder_of_one && files.iter().any(|file| name(file) == **main));
    let is_main = |file: &Path| main.is_some_and(|main| name(file) == *main);
    if main.is_some() {
        files.retain(|file| is_main(file) || !mains.contains(file));
    }
    files
        .into_iter()
        .map(|file| {
            let (path, passed_over) = if is_main(&file) {
                let others = mains.iter().filter(|other| **other != file);
                (folder.to_path_buf(), others.cloned().collect())
            } else {
                (file.clone(), Vec::new())
            };
            Candidate {
                file,
                path,
                passed_over,
            }
        })
        .collect()
}

/// `adapter_model` of `adapter_model.safetensors`.
fn stem(name: &str) -> String {
    name.rsplit_once('.')
        .map_or(name, |(stem, _)| stem)
        .to_owned()
}
