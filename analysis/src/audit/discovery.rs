use std::fs;
use std::path::{Path, PathBuf};

use super::natural_order;
use crate::Error;

/// Endings of files that may hold weights.
const WEIGHTS: [&str; 5] = ["safetensors", "bin", "pt", "pth", "ckpt"];

/// The names of a folder's adapter, in the order in which one is preferred.
const MAIN: [&str; 4] = [
    "adapter_model.safetensors",
    "adapter_model.safetensors.index.json",
    "adapter_model.bin",
    "adapter_model.bin.index.json",
];

/// Deeper folders are not looked into; no layout of runs or checkpoints comes near.
const DEEPEST: usize = 32;

/// A file that may hold an adapter.
#[derive(Debug)]
pub(super) struct Candidate {
    pub file: PathBuf,
    /// What the audit calls it: its folder if it is the adapter of a folder.
    pub path: PathBuf,
    /// Whether the file's place or name says that it is an adapter.
    pub is_certain: bool,
}

/// The candidates at or below `path`, in natural order.
///
/// A folder with `adapter_config.json` or a file called `adapter_model.…` is an adapter's: only its
/// `adapter_model.…` files count, not the optimiser's state beside them. In other folders every
/// weight file does. Links to folders are not followed.
pub(super) fn candidates(path: &Path) -> Result<Vec<Candidate>, Error> {
    let metadata = fs::metadata(path).map_err(Error::io(path, "open"))?;
    if !metadata.is_dir() {
        let (file, path) = (path.to_path_buf(), path.to_path_buf());
        return Ok(vec![Candidate {
            file,
            path,
            is_certain: true,
        }]);
    }
    let mut found = Vec::new();
    walk(path, 0, &mut found)?;
    Ok(found)
}

fn walk(folder: &Path, depth: usize, found: &mut Vec<Candidate>) -> Result<(), Error> {
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

    let name = |file: &Path| {
        file.file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned()
    };
    let is_adapter = |file: &PathBuf| name(file).starts_with("adapter_model.");
    let has_config = files.iter().any(|file| name(file) == "adapter_config.json");
    if has_config || files.iter().any(is_adapter) {
        files.retain(is_adapter);
        if files.is_empty() {
            files.push(folder.join("adapter_model.safetensors"));
        }
        // The folder's adapter is what PEFT would load; others beside it go by their own names.
        let main = MAIN
            .iter()
            .find(|main| files.iter().any(|file| name(file) == **main));
        found.extend(files.into_iter().map(|file| {
            let path = if main.is_some_and(|main| name(&file) == *main) {
                folder.to_path_buf()
            } else {
                file.clone()
            };
            Candidate {
                file,
                path,
                is_certain: true,
            }
        }));
    } else {
        let ending = |file: &Path| file.extension().map(|e| e.to_string_lossy().into_owned());
        files.retain(|file| ending(file).is_some_and(|e| WEIGHTS.contains(&e.as_str())));
        found.extend(files.into_iter().map(|file| {
            let path = file.clone();
            Candidate {
                file,
                path,
                is_certain: false,
            }
        }));
    }
    if depth < DEEPEST {
        for folder in folders {
            walk(&folder, depth + 1, found)?;
        }
    }
    Ok(())
}
