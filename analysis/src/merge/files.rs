//! The files of a merged checkpoint: the base's shards under names for safetensors, their index, and
//! what lies beside them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rankwise_data::write_atomic;
use serde_json::{Map, Value, json};

use crate::Error;
use crate::container::Container;
use crate::resize::write_json;

/// What loads a model reads beside its weights and its configuration.
const COMPANIONS: [&str; 23] = [
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "config_sentence_transformers.json",
    "feature_extractor_config.json",
    "generation_config.json",
    "merges.txt",
    "modules.json",
    "preprocessor_config.json",
    "processor_config.json",
    "sentence_bert_config.json",
    "sentencepiece.bpe.model",
    "special_tokens_map.json",
    "spiece.model",
    "spm.model",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "video_preprocessor_config.json",
    "vocab.bpe",
    "vocab.json",
    "vocab.txt",
    "1_Pooling/config.json",
];

/// The new name of a file of weights. A shard's is the old one, a single file's what libraries look for
/// in a folder.
pub(super) fn new_name(path: &Path, is_shard: bool) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let stem = name.rsplit_once('.').map_or(&*name, |(stem, _)| stem);
    if !is_shard {
        let kept = Some(stem).filter(|stem| *stem == "diffusion_pytorch_model");
        return format!("{}.safetensors", kept.unwrap_or("model"));
    }
    match stem.strip_prefix("pytorch_model") {
        Some(rest) => format!("model{rest}.safetensors"),
        None => format!("{stem}.safetensors"),
    }
}

/// The new name of the index that the base was opened by, if it has several files.
pub(super) fn index_name(base: &Container) -> Option<String> {
    let name = base.path().file_name()?.to_string_lossy();
    let stem = name.strip_suffix(".index.json")?;
    Some(format!("{}.index.json", new_name(Path::new(stem), true)))
}

/// Writes an index: `files` names the file of every tensor.
pub(super) fn write_index(
    path: &Path,
    files: &BTreeMap<String, String>,
    (parameters, size): (usize, usize),
) -> Result<(), Error> {
    let mut fields = Map::new();
    fields.insert(
        "metadata".to_owned(),
        json!({"total_parameters": parameters, "total_size": size}),
    );
    fields.insert("weight_map".to_owned(), json!(files));
    write_json(path, &Value::Object(fields))
}

/// The folder that a checkpoint's files are in.
pub(super) fn folder_of(model: &Path) -> PathBuf {
    if model.is_dir() {
        return model.to_path_buf();
    }
    match model.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_path_buf(),
        _ => PathBuf::from("."),
    }
}

/// Copies what lies beside a model's weights and configuration and is needed to use it (tokenizer,
/// image processor, modules of a sentence encoder) into another folder, and returns the names.
///
/// # Errors
/// [`Error::File`] if one cannot be read, and if it cannot be written.
pub fn copy_companions(from: &Path, to: &Path) -> Result<Vec<String>, Error> {
    let mut copied = Vec::new();
    for name in COMPANIONS {
        let (source, target) = (from.join(name), to.join(name));
        if !source.is_file() {
            continue;
        }
        let bytes = std::fs::read(&source).map_err(Error::io(&source, "read"))?;
        if let Some(folder) = target.parent() {
            rankwise_data::create_folder(folder)?;
        }
        write_atomic(&target, |out| out.write_all(&bytes))?;
        copied.push(name.to_owned());
    }
    Ok(copied)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_get_the_names_that_are_looked_for() {
        for (old, is_shard, new) in [
            ("pytorch_model.bin", false, "model.safetensors"),
            ("mine.ckpt", false, "model.safetensors"),
            (
                "diffusion_pytorch_model.bin",
                false,
                "diffusion_pytorch_model.safetensors",
            ),
            (
                "pytorch_model-00001-of-00002.bin",
                true,
                "model-00001-of-00002.safetensors",
            ),
            ("part-1.safetensors", true, "part-1.safetensors"),
        ] {
            assert_eq!(new_name(Path::new(old), is_shard), new);
        }
    }
}
