//! The readers of files on bytes in memory, for the fuzz targets in `fuzz/` and the tests of the
//! readers. No stable interface.

use std::path::Path;

use crate::Error;
use crate::adapter::AdapterConfig;
use crate::container::{self, Container, TensorInfo};

/// Opens a file of tensors and reads every one of them; returns how many could be.
///
/// # Errors
/// [`Error::File`] if the container is refused.
pub fn container(bytes: Vec<u8>) -> Result<usize, Error> {
    let container = Container::of_bytes(Path::new("input"), bytes)?;
    let mut raw = Vec::new();
    let mut read = 0;
    for (name, info) in container.tensors() {
        container.read_raw(name, &mut raw)?;
        let elements: usize = info.shape.iter().product();
        assert_eq!(raw.len() * 8, elements * info.dtype.bitsize(), "{name}");
        // One byte is decoded into eight: read what is small, as a fast path would all.
        if raw.len() <= 1 << 16
            && let Ok(values) = container.read(name)
        {
            assert_eq!(values.len(), elements, "{name}");
            read += 1;
        }
    }
    Ok(read)
}

/// Checks an index of shards.
///
/// # Errors
/// [`Error::File`] if it is refused.
pub fn index(bytes: Vec<u8>) -> Result<(), Error> {
    container::checked_index(Path::new("input"), bytes)
}

/// Reads an adapter's configuration and asks of it what an audit asks for a module.
///
/// # Errors
/// [`Error::File`] if it is refused.
pub fn config(bytes: &[u8]) -> Result<(), Error> {
    let config = AdapterConfig::parse(Path::new("input"), bytes)?;
    for module in ["", "q", "model.layers.0.self_attn.q_proj", "q.base_layer"] {
        let _ = (config.alpha(module), config.rank(module));
        let _ = (config.parameters_of(module), config.is_feedforward(module));
        let _ = config.tokens(module);
    }
    let _ = (
        config.rank_pattern.unread(),
        config.changed_base(),
        config.variant(),
    );
    Ok(())
}

/// A tensor that was read.
#[derive(Debug, Clone, PartialEq)]
pub struct Tensor {
    /// Its name.
    pub name: String,
    /// Its storage type, such as `BF16`.
    pub dtype: String,
    /// Its dimensions.
    pub shape: Vec<usize>,
    /// Its numbers, row-major.
    pub values: Vec<f64>,
}

/// Every tensor of a file or an index, in the order of their names, for tests of the readers.
///
/// # Errors
/// [`Error::File`] if the file is refused or a type cannot mean a weight.
pub fn tensors(path: &Path) -> Result<Vec<Tensor>, Error> {
    let container = Container::open(path)?;
    let tensors = container.tensors().iter();
    let read = |(name, info): (&String, &TensorInfo)| {
        Ok(Tensor {
            name: name.clone(),
            dtype: format!("{:?}", info.dtype),
            shape: info.shape.clone(),
            values: container.read(name)?,
        })
    };
    tensors.map(read).collect()
}
