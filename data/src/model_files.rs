//! The files of a model's folder: one list for what is downloaded, what a run's hashes cover and what
//! a tokenizer is read from.

#[cfg(feature = "texts")]
use std::path::{Path, PathBuf};

/// What is read beside the weights, where it is there.
const READ: [&str; 12] = [
    "config.json",
    "preprocessor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "spm.model",
    "spiece.model",
    // To be refused by its name.
    "sentencepiece.bpe.model",
];

/// The weights, whole or in parts, and the list of parts.
const WEIGHTS: [&str; 2] = [
    "model.safetensors|model-*.safetensors|pytorch_model.bin|pytorch_model-*.bin",
    "model.safetensors.index.json|pytorch_model.bin.index.json|",
];

/// The patterns of a model's files for a `Hub`: the configuration and weights, which must be there, and
/// every other file that is read.
pub fn model_patterns() -> Vec<String> {
    let (needed, others) = READ.split_at(1);
    let others = others.iter().map(|name| format!("{name}|"));
    let needed = needed.iter().chain(&WEIGHTS);
    needed
        .map(|name| (*name).to_owned())
        .chain(others)
        .collect()
}

/// Whether what a run computes can depend on the file of this name in a model's folder.
pub fn is_model_file(name: &str) -> bool {
    let is_weights = name.starts_with("model") || name.starts_with("pytorch_model");
    READ.contains(&name) || is_weights && (name.ends_with(".safetensors") || name.ends_with(".bin"))
}

/// A file that is read, if it is there.
#[cfg(feature = "texts")]
pub(crate) fn file(folder: &Path, name: &str) -> Option<PathBuf> {
    debug_assert!(is_model_file(name), "{name} is downloaded and hashed");
    Some(folder.join(name)).filter(|path| path.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_is_downloaded_and_hashed() {
        let patterns = model_patterns();
        assert_eq!(patterns[0], "config.json");
        for name in READ.into_iter().skip(1) {
            assert!(
                patterns.contains(&format!("{name}|")) && is_model_file(name),
                "{name}"
            );
        }
        assert!(is_model_file("model-00001-of-00002.safetensors"));
        assert!(!is_model_file("optimizer.bin") && !is_model_file("README.md"));
    }
}
