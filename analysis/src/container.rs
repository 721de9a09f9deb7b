//! Reading safetensors: the header first, checked before anything is allocated for it, then single
//! tensors when they are asked for.
//!
//! A file is 8 bytes N (little-endian), N bytes of JSON that give every tensor's `dtype`, `shape` and
//! `data_offsets`, and the data. Source: the format section of the safetensors README.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use safetensors::Dtype;
use serde::Deserialize;
use serde::de::{Error as _, MapAccess, Visitor};

use crate::Error;

const LENGTH_BYTES: u64 = 8;

/// The limit of the safetensors library; real headers are a few hundred kilobytes.
const LONGEST_HEADER: u64 = 100_000_000;

/// Files that are often found under a weight file's name, by how they begin.
const IMPOSTORS: [(&[u8], &str); 4] = [
    (
        b"version https://git-lfs",
        "a git-lfs pointer: the file itself was not downloaded",
    ),
    (
        b"PK\x03\x04",
        "a zip archive, probably a PyTorch pickle, which can run code and is not read",
    ),
    (b"\x80\x02", "a pickle, which can run code and is not read"),
    (b"GGUF", "a GGUF file"),
];

/// Where a tensor lies in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TensorInfo {
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    /// Byte range, counted from the beginning of the file.
    start: u64,
    end: u64,
}

/// An open safetensors file.
#[derive(Debug)]
pub(crate) struct Container {
    path: PathBuf,
    file: File,
    tensors: BTreeMap<String, TensorInfo>,
}

impl Container {
    /// Opens a file and checks its header: that it fits into the file, names no tensor twice, and
    /// that the tensors have their shapes' lengths and cover the data exactly, one after the other.
    ///
    /// # Errors
    /// [`Error::File`] naming the file, the tensor, what was expected and what was found.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let io = |action| Error::io(path, action);
        let file = File::open(path).map_err(io("open"))?;
        let size = file.metadata().map_err(io("examine"))?.len();
        let mut beginning = [0; 32];
        let known = &mut beginning[..size.min(32) as usize];
        file.read_exact_at(known, 0).map_err(io("read"))?;
        let whole = |found: String| Error::format(path, "file", "safetensors", found);
        if size == 0 {
            return Err(whole("an empty file".to_owned()));
        }
        if let Some((_, what)) = IMPOSTORS.iter().find(|(magic, _)| known.starts_with(magic)) {
            return Err(whole((*what).to_owned()));
        }
        if size < LENGTH_BYTES {
            return Err(whole(format!("{size} bytes")));
        }
        let length = u64::from_le_bytes(*beginning.first_chunk().expect("32 bytes have 8"));
        let most = (size - LENGTH_BYTES).min(LONGEST_HEADER);
        if length > most {
            return Err(Error::format(
                path,
                "header length",
                format!("at most {most} bytes"),
                format!("{length}"),
            ));
        }
        let mut header = vec![0; length as usize];
        file.read_exact_at(&mut header, LENGTH_BYTES)
            .map_err(io("read"))?;
        let header: Header = serde_json::from_slice(&header).map_err(|error| {
            Error::format(
                path,
                "header",
                "JSON that describes tensors",
                error.to_string(),
            )
        })?;
        let data = LENGTH_BYTES + length;
        Ok(Self {
            path: path.to_path_buf(),
            file,
            tensors: placed(path, header, data, size)?,
        })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All tensors by name.
    pub fn tensors(&self) -> &BTreeMap<String, TensorInfo> {
        &self.tensors
    }

    /// The values of the tensor `name`, row-major.
    ///
    /// # Errors
    /// [`Error::File`] if there is no such tensor, its numbers are not F64, F32, F16 or BF16, or the
    /// file cannot be read.
    pub fn read(&self, name: &str) -> Result<Vec<f64>, Error> {
        let Some(info) = self.tensors.get(name) else {
            return Err(Error::format(&self.path, name, "a tensor", "none"));
        };
        let mut bytes = vec![0; (info.end - info.start) as usize];
        self.file
            .read_exact_at(&mut bytes, info.start)
            .map_err(Error::io(&self.path, "read"))?;
        Ok(match info.dtype {
            Dtype::F64 => decoded(&bytes, f64::from_le_bytes),
            Dtype::F32 => decoded(&bytes, |four| f32::from_le_bytes(four).into()),
            Dtype::F16 => decoded(&bytes, |two| f16::from_le_bytes(two).to_f64()),
            Dtype::BF16 => decoded(&bytes, |two| bf16::from_le_bytes(two).to_f64()),
            other => {
                let found = format!("{other:?}");
                return Err(Error::format(
                    &self.path,
                    name,
                    "F64, F32, F16 or BF16",
                    found,
                ));
            }
        })
    }
}

fn decoded<const N: usize>(bytes: &[u8], value: impl Fn([u8; N]) -> f64) -> Vec<f64> {
    bytes
        .as_chunks::<N>()
        .0
        .iter()
        .map(|&chunk| value(chunk))
        .collect()
}

/// Checks every tensor's range and moves it from the data's beginning to the file's.
fn placed(
    path: &Path,
    header: Header,
    data: u64,
    size: u64,
) -> Result<BTreeMap<String, TensorInfo>, Error> {
    let mut tensors = BTreeMap::new();
    for (name, entry) in header.0 {
        let wrong = |expected: String, found: String| {
            Err(Error::format(
                path,
                format!("tensor {name}"),
                expected,
                found,
            ))
        };
        let [start, end] = entry.data_offsets;
        if start > end || end > size - data {
            let expected = format!("a byte range inside the {} bytes of data", size - data);
            return wrong(expected, format!("{start}..{end}"));
        }
        // Zeros count as ones against overflow, so that products of some dimensions are safe too.
        let fold = |n: usize, d: usize| {
            n.checked_mul(d.max(1))
                .filter(|&n| n <= isize::MAX as usize)
        };
        let limit = entry
            .shape
            .iter()
            .try_fold(entry.dtype.bitsize(), |n, &d| fold(n, d));
        let is_empty = entry.shape.contains(&0);
        let bits = limit.map(|bits| if is_empty { 0 } else { bits as u64 });
        if bits.is_none() || bits != (end - start).checked_mul(8) {
            let expected = format!("the bytes of {:?} {:?}", entry.dtype, entry.shape);
            return wrong(expected, format!("{} bytes", end - start));
        }
        if tensors.contains_key(&name) {
            return wrong("one tensor of this name".to_owned(), "two".to_owned());
        }
        let TensorEntry { dtype, shape, .. } = entry;
        tensors.insert(
            name,
            TensorInfo {
                dtype,
                shape,
                start: data + start,
                end: data + end,
            },
        );
    }
    let mut ranges: Vec<_> = tensors
        .iter()
        .map(|(name, t)| (t.start, t.end, name))
        .collect();
    ranges.sort_unstable();
    let mut covered = data;
    for (start, end, name) in ranges {
        if start != covered {
            let place = |byte| format!("byte {byte} of the data");
            let (expected, found) = (place(covered - data), place(start - data));
            return Err(Error::format(
                path,
                format!("begin of tensor {name}"),
                expected,
                found,
            ));
        }
        covered = end;
    }
    if covered != size {
        let expected = format!("{} bytes, the end of the last tensor", covered - data);
        return Err(Error::format(
            path,
            "data",
            expected,
            format!("{} bytes", size - data),
        ));
    }
    Ok(tensors)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TensorEntry {
    dtype: Dtype,
    shape: Vec<usize>,
    data_offsets: [u64; 2],
}

/// The entries in the file's order; a map would forget a name's first occurrence.
struct Header(Vec<(String, TensorEntry)>);

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;

        impl<'de> Visitor<'de> for Entries {
            type Value = Header;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
                let mut entries = Vec::new();
                while let Some(name) = map.next_key::<String>()? {
                    let named = |error: A::Error| A::Error::custom(format!("{name}: {error}"));
                    if name == "__metadata__" {
                        map.next_value::<BTreeMap<String, String>>()
                            .map_err(named)?;
                    } else {
                        let entry = map.next_value().map_err(named)?;
                        entries.push((name, entry));
                    }
                }
                Ok(Header(entries))
            }
        }

        deserializer.deserialize_map(Entries)
    }
}
