//! Tensors in several files under one index, as the transformers library writes them: a JSON object
//! whose `weight_map` names the file of every tensor.
//!
//! A shard's name is a plain file name in the index's own folder. A link is followed only inside that
//! folder, or, in a snapshot of a Hub cache, into its store of files: there
//! `models--…/snapshots/REVISION/name` is a link to `models--…/blobs/HASH`. An index that came with
//! a download can so not point at another file of this machine.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::Container;
use super::source::Source;
use crate::Error;

/// The largest indices of the Hub have a few megabytes.
const LONGEST_INDEX: u64 = 100_000_000;

/// More would exhaust the file descriptors; the largest models have about two hundred.
const MOST_SHARDS: usize = 512;

/// What an index says that concerns us.
#[derive(Debug, Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

pub(super) fn open(path: &Path) -> Result<Container, Error> {
    let source = Source::open(path)?;
    if source.size() > LONGEST_INDEX {
        let expected = format!("at most {LONGEST_INDEX} bytes");
        return Err(source.wrong("file", expected, source.size().to_string()));
    }
    let index = parsed(&source)?;
    let names = shards(&source, &index)?;
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let files = names
        .iter()
        .map(|name| Source::open(&inside(folder, name, &source)?))
        .collect::<Result<Vec<_>, _>>()?;
    let container = Container::of_files(path, files)?;
    for (tensor, shard) in &index.weight_map {
        let found = match container.tensors().get(tensor) {
            Some(info) if names[info.file as usize] == shard.as_str() => continue,
            Some(info) => format!("in {}", names[info.file as usize]),
            None => "in none".to_owned(),
        };
        let what = format!("tensor {tensor}");
        return Err(source.wrong(what, format!("in {shard}"), found));
    }
    Ok(container)
}

/// Reads and checks an index, not its shards.
pub(super) fn checked(source: &Source) -> Result<(), Error> {
    shards(source, &parsed(source)?).map(drop)
}

fn parsed(source: &Source) -> Result<Index, Error> {
    let text = source.bytes(0, source.size())?;
    serde_json::from_slice(&text)
        .map_err(|error| source.wrong("index", "a weight_map of files", error.to_string()))
}

/// The names of the shards, each once, in order.
fn shards<'a>(source: &Source, index: &'a Index) -> Result<Vec<&'a str>, Error> {
    let mut names: Vec<&str> = index.weight_map.values().map(String::as_str).collect();
    names.sort_unstable();
    names.dedup();
    for &name in &names {
        let path = Path::new(name);
        let is_plain = path.file_name().is_some_and(|file| file == name) && !name.contains('\\');
        if !is_plain {
            let expected = "file names without a folder";
            return Err(source.wrong("weight_map", expected, format!("{name:?}")));
        }
        // An index of indices could lead back to itself.
        if name.ends_with(".json") {
            return Err(source.wrong("weight_map", "weight files", format!("{name:?}")));
        }
    }
    if names.is_empty() || names.len() > MOST_SHARDS {
        let expected = format!("1 to {MOST_SHARDS} files");
        return Err(source.wrong("weight_map", expected, names.len().to_string()));
    }
    Ok(names)
}

/// The path of a shard, unless it is a link that leads out of the folder.
fn inside(folder: &Path, name: &str, index: &Source) -> Result<PathBuf, Error> {
    let path = folder.join(name);
    let target = path.canonicalize().map_err(Error::io(&path, "open"))?;
    let home = folder.canonicalize().map_err(Error::io(folder, "open"))?;
    let of_cache = home
        .ancestors()
        .find(|folder| folder.file_name().is_some_and(|name| name == "snapshots"))
        .and_then(Path::parent)
        .map(|cache| cache.join("blobs"));
    let is_inside = target.starts_with(&home)
        || of_cache.is_some_and(|blobs| target.parent() == Some(blobs.as_path()));
    if !is_inside {
        let expected = "a file in the index's folder or its Hub cache";
        let found = format!("a link to {}", target.display());
        return Err(index.wrong(format!("shard {name}"), expected, found));
    }
    Ok(path)
}
