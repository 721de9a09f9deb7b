//! The header of a safetensors file, checked before anything is allocated for what it describes.
//!
//! A file is 8 bytes N (little-endian), N bytes of JSON that give every tensor's `dtype`, `shape` and
//! `data_offsets`, and the data. Source: the format section of the safetensors README.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;
use std::io::BufReader;

use safetensors::Dtype;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use super::source::Source;
use super::{Contents, Place, TensorInfo};
use crate::Error;

const LENGTH_BYTES: u64 = 8;

/// The limit of the safetensors library; real headers are a few hundred kilobytes.
const LONGEST_HEADER: u64 = 100_000_000;

/// Entries of the metadata that say something about the tensors; trainers keep megabytes of others.
const KEPT_METADATA: [&str; 1] = ["lora_adapter_metadata"];

/// As many as PyTorch allows.
pub(super) const MOST_DIMENSIONS: usize = 64;

/// Reads the header and checks that it fits into the file, names no tensor twice, and that the
/// tensors have their shapes' lengths and cover the data exactly, one after the other.
pub(super) fn read(source: &Source) -> Result<Contents, Error> {
    let size = source.size();
    if size < LENGTH_BYTES {
        let expected = "safetensors or a PyTorch state dict";
        return Err(source.wrong("file", expected, format!("{size} bytes")));
    }
    let mut length = [0; LENGTH_BYTES as usize];
    source.fill(&mut length, 0)?;
    let length = u64::from_le_bytes(length);
    let most = (size - LENGTH_BYTES).min(LONGEST_HEADER);
    if length > most {
        let expected = format!("at most {most} bytes");
        return Err(source.wrong("header length", expected, length.to_string()));
    }
    let data = LENGTH_BYTES + length;
    // In pieces: the header of very many tensors would take its size once more.
    let text = BufReader::new(source.section(LENGTH_BYTES, data)?);
    let header: Header = serde_json::from_reader(text).map_err(|error| {
        source.wrong("header", "JSON that describes tensors", error.to_string())
    })?;
    Ok(Contents {
        tensors: placed(source, header.tensors, data)?,
        metadata: header.metadata,
    })
}

/// All texts of the header's metadata in their order, those too that say nothing of the tensors; none
/// if the file is of another kind.
pub(super) fn texts(source: &Source) -> Result<Map<String, Value>, Error> {
    #[derive(Deserialize)]
    struct Texts {
        #[serde(default, rename = "__metadata__")]
        metadata: Map<String, Value>,
    }
    let mut beginning = [0; LENGTH_BYTES as usize + 1];
    if source.size() < beginning.len() as u64 {
        return Ok(Map::new());
    }
    source.fill(&mut beginning, 0)?;
    let [length @ .., brace] = beginning;
    let length = u64::from_le_bytes(length);
    if brace != b'{' || length > (source.size() - LENGTH_BYTES).min(LONGEST_HEADER) {
        return Ok(Map::new());
    }
    let header = source.bytes(LENGTH_BYTES, LENGTH_BYTES + length)?;
    let header: Texts = serde_json::from_slice(&header).map_err(|error| {
        source.wrong("header", "JSON that describes tensors", error.to_string())
    })?;
    Ok(header.metadata)
}

/// Checks every tensor's range and moves it from the data's beginning to the file's.
fn placed(
    source: &Source,
    mut tensors: BTreeMap<String, TensorInfo>,
    data: u64,
) -> Result<BTreeMap<String, TensorInfo>, Error> {
    let held = source.size() - data;
    let mut ranges = Vec::with_capacity(tensors.len());
    for (name, tensor) in &mut tensors {
        let wrong = |expected: String, found: String| {
            Err(source.wrong(format!("tensor {name}"), expected, found))
        };
        let TensorInfo { dtype, shape, .. } = tensor;
        let Place::Run { start, end } = &mut tensor.place else {
            unreachable!("the header has only runs")
        };
        if *start > *end || *end > held {
            let expected = format!("a byte range inside the {held} bytes of data");
            return wrong(expected, format!("{start}..{end}"));
        }
        let bits = bits(*dtype, shape);
        if bits.is_none() || bits != (*end - *start).checked_mul(8) {
            let expected = format!("the bytes of {dtype:?} {shape:?}");
            return wrong(expected, format!("{} bytes", *end - *start));
        }
        ranges.push((*start, *end, name.as_str()));
        *start += data;
        *end += data;
    }
    ranges.sort_unstable();
    let mut covered = 0;
    for (start, end, name) in ranges {
        if start != covered {
            let place = |byte| format!("byte {byte} of the data");
            let what = format!("begin of tensor {name}");
            return Err(source.wrong(what, place(covered), place(start)));
        }
        covered = end;
    }
    if covered != held {
        let expected = format!("{covered} bytes, the end of the last tensor");
        return Err(source.wrong("data", expected, format!("{held} bytes")));
    }
    Ok(tensors)
}

/// How many bits a tensor takes; `None` if that or a product of some dimensions overflows.
pub(super) fn bits(dtype: Dtype, shape: &[usize]) -> Option<u64> {
    // Zeros count as ones against overflow, so that products of some dimensions are safe too.
    let fold = |n: usize, d: &usize| {
        n.checked_mul((*d).max(1))
            .filter(|&n| n <= isize::MAX as usize)
    };
    let bits = shape.iter().try_fold(dtype.bitsize(), fold)?;
    Some(if shape.contains(&0) { 0 } else { bits as u64 })
}

/// The entries by name, places counted from the data's beginning.
struct Header {
    tensors: BTreeMap<String, TensorInfo>,
    metadata: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TensorEntry {
    dtype: Dtype,
    shape: Shape,
    data_offsets: [u64; 2],
}

struct Shape(Vec<usize>);

/// A text that is checked and forgotten.
struct Text;

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;

        impl<'de> Visitor<'de> for Entries {
            type Value = Header;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
                let (mut tensors, mut metadata) = (BTreeMap::new(), BTreeMap::new());
                while let Some(name) = map.next_key::<String>()? {
                    let named = |error: A::Error| A::Error::custom(format!("{name}: {error}"));
                    if name == "__metadata__" {
                        metadata = map.next_value::<Metadata>().map_err(named)?.0;
                        continue;
                    }
                    let entry: TensorEntry = map.next_value().map_err(named)?;
                    match tensors.entry(name) {
                        Entry::Vacant(free) => {
                            let [start, end] = entry.data_offsets;
                            free.insert(TensorInfo {
                                dtype: entry.dtype,
                                shape: entry.shape.0,
                                file: 0,
                                place: Place::Run { start, end },
                            });
                        }
                        // A map that let the last one win would hide the first.
                        Entry::Occupied(taken) => {
                            return Err(A::Error::custom(format!(
                                "{}: expected one tensor of this name, found two",
                                taken.key()
                            )));
                        }
                    }
                }
                Ok(Header { tensors, metadata })
            }
        }

        deserializer.deserialize_map(Entries)
    }
}

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Dimensions;

        impl<'de> Visitor<'de> for Dimensions {
            type Value = Shape;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a list of at most {MOST_DIMENSIONS} dimensions")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Shape, A::Error> {
                let mut shape = Vec::new();
                while let Some(dimension) = list.next_element()? {
                    if shape.len() == MOST_DIMENSIONS {
                        return Err(A::Error::invalid_length(shape.len() + 1, &self));
                    }
                    shape.push(dimension);
                }
                // Files of very many tensors are mostly header: no room is kept for more.
                shape.shrink_to_fit();
                Ok(Shape(shape))
            }
        }

        deserializer.deserialize_seq(Dimensions)
    }
}

/// `__metadata__`: the [kept](KEPT_METADATA) texts by name.
struct Metadata(BTreeMap<String, String>);

impl<'de> Deserialize<'de> for Metadata {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Texts;

        impl<'de> Visitor<'de> for Texts {
            type Value = Metadata;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of texts")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Metadata, A::Error> {
                let mut kept = BTreeMap::new();
                while let Some(name) = map.next_key::<String>()? {
                    if KEPT_METADATA.contains(&name.as_str()) {
                        kept.insert(name, map.next_value()?);
                    } else {
                        map.next_value::<Text>()?;
                    }
                }
                Ok(Metadata(kept))
            }
        }

        deserializer.deserialize_map(Texts)
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AnyText;

        impl Visitor<'_> for AnyText {
            type Value = Text;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text")
            }

            fn visit_str<E>(self, _: &str) -> Result<Text, E> {
                Ok(Text)
            }
        }

        deserializer.deserialize_str(AnyText)
    }
}
