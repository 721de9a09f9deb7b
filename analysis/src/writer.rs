//! A safetensors file, written tensor by tensor: new ones from memory, others copied byte for byte
//! from the file that they are in, or each made when its turn comes.
//!
//! 8 bytes N (little-endian), N bytes of JSON padded with spaces to a multiple of 8, the data. Tensors
//! lie in the order of the safetensors library: wider types first, so that all are aligned, then by
//! name. Source: the format section of the safetensors README.

use std::borrow::Cow;
use std::path::Path;

use rankwise_data::write_atomic;
use rayon::prelude::*;
use safetensors::Dtype;
use serde_json::{Map, Value, json};

use crate::Error;
use crate::container::Container;

/// A tensor to be written.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct NewTensor<C = Content> {
    pub name: String,
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    pub content: C,
}

/// Where a tensor's bytes are.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Content {
    /// Here: row-major, little-endian.
    Made(Vec<u8>),
    /// In the source's tensor of this name.
    Copied(String),
}

impl NewTensor {
    /// A copy of the source's tensor `name`, called `new`.
    ///
    /// # Errors
    /// [`Error::File`] if there is none.
    pub fn copy(source: &Container, name: &str, new: &str) -> Result<Self, Error> {
        match source.tensors().get(name) {
            Some(info) => Ok(Self {
                name: new.to_owned(),
                dtype: info.dtype,
                shape: info.shape.clone(),
                content: Content::Copied(name.to_owned()),
            }),
            None => Err(Error::format(source.path(), name, "a tensor", "none")),
        }
    }
}

impl<C> NewTensor<C> {
    /// How many bytes it takes.
    pub fn size(&self) -> usize {
        self.shape.iter().product::<usize>() * self.dtype.bitsize() / 8
    }
}

/// Writes the tensors and the metadata to `path`.
///
/// # Errors
/// [`Error::Mismatch`] if two tensors have one name; [`Error::File`].
pub(crate) fn write_tensors(
    path: &Path,
    tensors: Vec<NewTensor>,
    metadata: &Map<String, Value>,
    source: &Container,
) -> Result<(), Error> {
    write_each(path, tensors, metadata, 1, |tensor| match &tensor.content {
        Content::Made(bytes) => Ok(Cow::Borrowed(bytes)),
        Content::Copied(name) => {
            let mut bytes = Vec::new();
            source.read_raw(name, &mut bytes)?;
            Ok(Cow::Owned(bytes))
        }
    })
}

/// Writes tensors whose bytes, little-endian and row-major, `bytes` gives when their turn comes:
/// `together` of them are in memory, each made by a thread of its own.
///
/// # Errors
/// As [`write_tensors`]; what `bytes` returns.
pub(crate) fn write_each<C: Sync>(
    path: &Path,
    mut tensors: Vec<NewTensor<C>>,
    metadata: &Map<String, Value>,
    together: usize,
    bytes: impl Fn(&NewTensor<C>) -> Result<Cow<'_, [u8]>, Error> + Sync,
) -> Result<(), Error> {
    tensors.sort_by(|x, y| {
        let width = |tensor: &NewTensor<C>| std::cmp::Reverse(tensor.dtype.bitsize());
        (width(x), &x.name).cmp(&(width(y), &y.name))
    });
    let mut header = Map::new();
    if !metadata.is_empty() {
        header.insert("__metadata__".to_owned(), Value::Object(metadata.clone()));
    }
    let mut end = 0;
    for tensor in &tensors {
        let start = end;
        end += tensor.size();
        let entry = json!({
            "dtype": tensor.dtype,
            "shape": tensor.shape,
            "data_offsets": [start, end],
        });
        if header.insert(tensor.name.clone(), entry).is_some() {
            return Err(Error::Mismatch {
                what: "tensors of the new file",
                expected: "one of every name".to_owned(),
                found: format!("two of {}", tensor.name),
            });
        }
    }
    let mut header = Value::Object(header).to_string();
    while !header.len().is_multiple_of(8) {
        header.push(' ');
    }
    // What fails inside the closure can only be the operating system's: reading is done there too,
    // so that few tensors at a time are in memory.
    let mut failed = None;
    let written = write_atomic(path, |out| {
        out.write_all(&(header.len() as u64).to_le_bytes())?;
        out.write_all(header.as_bytes())?;
        for some in tensors.chunks(together.max(1)) {
            // Collected before the first error is looked for: which one it is does not depend on
            // timing.
            let made: Vec<_> = match some {
                [one] => vec![bytes(one)],
                some => some.par_iter().map(&bytes).collect(),
            };
            for bytes in made {
                match bytes {
                    Ok(bytes) => out.write_all(&bytes)?,
                    Err(error) => {
                        failed = Some(error);
                        return Err(std::io::ErrorKind::InvalidData.into());
                    }
                }
            }
        }
        Ok(())
    });
    match failed {
        Some(error) => Err(error),
        None => Ok(written?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(name: &str, dtype: Dtype, shape: &[usize], bytes: &[u8]) -> NewTensor {
        NewTensor {
            name: name.to_owned(),
            dtype,
            shape: shape.to_vec(),
            content: Content::Made(bytes.to_vec()),
        }
    }

    /// A source without tensors.
    fn empty() -> Container {
        let bytes = safetensors::serialize(
            Vec::<(String, safetensors::tensor::TensorView)>::new(),
            None,
        );
        Container::of_bytes(Path::new("empty"), bytes.unwrap()).unwrap()
    }

    #[test]
    fn the_library_reads_what_is_written_and_copies_keep_their_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let first = folder.path().join("first.safetensors");
        let tensors = vec![
            tensor("a", Dtype::F16, &[3], &[1, 2, 3, 4, 5, 6]),
            tensor("z", Dtype::F64, &[1], &1.5_f64.to_le_bytes()),
            tensor("empty \"\n", Dtype::F32, &[0, 2], &[]),
        ];
        let metadata = Map::from_iter([("y".to_owned(), json!("2")), ("b".to_owned(), json!("1"))]);
        write_tensors(&first, tensors, &metadata, &empty()).unwrap();
        let source = Container::open(&first).unwrap();
        assert_eq!(source.texts().unwrap(), metadata);
        let second = folder.path().join("second.safetensors");
        let copies = source.tensors().keys();
        let copies = copies.map(|name| NewTensor::copy(&source, name, name).unwrap());
        write_tensors(&second, copies.collect(), &metadata, &source).unwrap();
        let (one, two) = (
            std::fs::read(&first).unwrap(),
            std::fs::read(&second).unwrap(),
        );
        assert_eq!(one, two);
        let read = safetensors::SafeTensors::deserialize(&one).unwrap();
        assert_eq!(read.tensor("a").unwrap().data(), [1, 2, 3, 4, 5, 6]);
        assert_eq!(read.tensor("z").unwrap().data(), 1.5_f64.to_le_bytes());
        assert_eq!(read.tensor("empty \"\n").unwrap().shape(), [0, 2]);
    }

    #[test]
    fn two_tensors_of_one_name_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let one = tensor("a", Dtype::F32, &[1], &[0; 4]);
        let path = folder.path().join("file");
        let error = write_tensors(&path, vec![one.clone(), one], &Map::new(), &empty());
        let error = error.unwrap_err().to_string();
        assert!(error.contains("two of a"), "{error}");
        assert!(!path.exists());
    }
}
