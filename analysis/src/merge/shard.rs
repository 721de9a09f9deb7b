//! Which tensors the files of a merged checkpoint have, of which type, and where each comes from.

use std::collections::BTreeMap;

use safetensors::Dtype;

use super::files;
use super::plan::{Change, Head, Plan};
use crate::Error;
use crate::adapter::{Adapter, Other};
use crate::container::Container;
use crate::resize::NewType;
use crate::writer::NewTensor;

/// Where a tensor of the merged checkpoint comes from.
#[derive(Debug, Clone, Copy)]
pub(super) enum Origin<'a> {
    /// The base's, byte for byte.
    Copied(&'a str),
    Changed(&'a str, Change<'a>),
    /// The adapter's, which the base lacks.
    Added(&'a Other),
    /// An output layer that was tied.
    Head(&'a Head<'a>),
}

/// One file of the merged checkpoint.
pub(super) struct Shard<'a> {
    pub name: String,
    pub tensors: Vec<NewTensor<Origin<'a>>>,
}

/// The base's files with their tensors, the added ones in the last.
pub(super) fn shards<'a>(
    weights: &'a Container,
    adapter: &Adapter,
    plan: &'a Plan<'a>,
    dtype: Option<NewType>,
) -> Result<Vec<Shard<'a>>, Error> {
    let is_shard = files::index_name(weights).is_some();
    let mut shards: Vec<Shard<'a>> = weights
        .files()
        .map(|path| Shard {
            name: files::new_name(path, is_shard),
            tensors: Vec::new(),
        })
        .collect();
    for (name, info) in weights.tensors() {
        let place = weights.file_of(name).unwrap_or(0);
        let (content, own, shape) = match plan.changes.get(name) {
            None => (Origin::Copied(name), info.dtype, &info.shape),
            Some(&change) => {
                let shape = match change {
                    Change::Other(other) => plan.shape(other, adapter).unwrap_or(&info.shape),
                    Change::Update(_) => &info.shape,
                };
                let own = new_type(weights, name, info.dtype, dtype)?;
                (Origin::Changed(name, change), own, shape)
            }
        };
        shards[place].tensors.push(NewTensor {
            name: plan.renamed(name),
            dtype: own,
            shape: shape.clone(),
            content,
        });
    }
    let common = common_type(weights);
    let last = shards
        .last_mut()
        .ok_or_else(|| Error::format(weights.path(), "base model", "a file", "none"))?;
    for (name, &other) in &plan.added {
        last.tensors.push(NewTensor {
            name: name.clone(),
            dtype: new_type(weights, name, common, dtype)?,
            shape: adapter.weights().tensors()[&other.tensor].shape.clone(),
            content: Origin::Added(other),
        });
    }
    if let Some((name, from)) = &plan.bias {
        let info = &weights.tensors()[from];
        let (content, own) = match plan.changes.get(from) {
            None => (Origin::Copied(from), info.dtype),
            Some(&change) => {
                let own = new_type(weights, from, info.dtype, dtype)?;
                (Origin::Changed(from, change), own)
            }
        };
        last.tensors.push(NewTensor {
            name: name.clone(),
            dtype: own,
            shape: info.shape.clone(),
            content,
        });
    }
    if let Some(head) = &plan.head {
        let table = &weights.tensors()[&head.table];
        last.tensors.push(NewTensor {
            name: head.name.clone(),
            dtype: new_type(weights, &head.name, table.dtype, dtype)?,
            shape: table.shape.clone(),
            content: Origin::Head(head),
        });
    }
    Ok(shards)
}

/// The type of a new tensor: the one asked for, or the old one's.
fn new_type(
    weights: &Container,
    name: &str,
    old: Dtype,
    asked: Option<NewType>,
) -> Result<Dtype, Error> {
    match old {
        Dtype::F64 | Dtype::F32 | Dtype::F16 | Dtype::BF16 => Ok(asked.map_or(old, NewType::dtype)),
        // The numbers of other types are to be multiplied by scales that are kept elsewhere.
        _ => {
            let expected = "F64, F32, F16 or BF16";
            Err(Error::format(
                weights.path(),
                name,
                expected,
                format!("{old:?}"),
            ))
        }
    }
}

/// The type that most of the base's numbers have.
fn common_type(weights: &Container) -> Dtype {
    let mut counts: BTreeMap<usize, (usize, Dtype)> = BTreeMap::new();
    for info in weights.tensors().values() {
        let order = match info.dtype {
            Dtype::F32 => 3,
            Dtype::BF16 => 2,
            Dtype::F16 => 1,
            Dtype::F64 => 0,
            _ => continue,
        };
        let count = &mut counts.entry(order).or_insert((0, info.dtype)).0;
        *count = count.saturating_add(info.shape.iter().product());
    }
    let most = counts.values().max_by_key(|(count, _)| *count);
    most.map_or(Dtype::F32, |(_, dtype)| *dtype)
}
