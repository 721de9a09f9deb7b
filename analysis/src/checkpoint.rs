use std::path::Path;

use crate::Error;
use crate::container::Container;

/// The tensors of a model's checkpoint: a file, an index of shards, or a folder with one of the
/// usual names (`model.safetensors`, `pytorch_model.bin`, …). Nothing in it is run.
///
/// ```
/// use rankwise_analysis::Checkpoint;
/// # use rankwise_analysis::PeftAdapter;
/// # let folder = tempfile::tempdir()?;
/// # PeftAdapter {
/// #     module: "classifier".to_owned(), rank: 1, inputs: 2, outputs: 1, alpha: 1.0,
/// #     a: vec![3.0, 4.0], b: vec![1.0], bias: None,
/// # }.write(folder.path())?;
/// # let path = folder.path().join("adapter_model.safetensors");
/// let checkpoint = Checkpoint::open(&path)?;
/// let name = "base_model.model.classifier.lora_A.weight";
/// assert_eq!(checkpoint.shape(name), Some(&[1, 2][..]));
/// assert_eq!(checkpoint.read(name)?, [3.0, 4.0]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Checkpoint(Container);

impl Checkpoint {
    /// Opens it; numbers are read when they are asked for.
    ///
    /// # Errors
    /// [`Error::File`] naming the file, what was expected and what was found.
    pub fn open(path: &Path) -> Result<Self, Error> {
        Ok(Self(Container::open_model(path)?))
    }

    /// The tensors' names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.tensors().keys().map(String::as_str)
    }

    /// A tensor's dimensions, if there is one of that name.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        Some(&self.0.tensors().get(name)?.shape)
    }

    /// A tensor's numbers, row-major, as float32.
    ///
    /// # Errors
    /// [`Error::File`] if there is no such tensor, its type means no weight, or the file cannot be
    /// read.
    pub fn read(&self, name: &str) -> Result<Vec<f32>, Error> {
        self.0.read_f32(name)
    }

    /// A tensor's numbers, row-major, as float64.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn read_f64(&self, name: &str) -> Result<Vec<f64>, Error> {
        self.0.read(name)
    }
}
