//! State dicts as `torch.save` writes them: a pickle of views, and the storages that they look at.
//!
//! | format | pickle | storages |
//! |---|---|---|
//! | zip archive | entry `NAME/data.pkl` | entries `NAME/data/KEY` |
//! | sequence (before PyTorch 1.6) | magic number, version, machine, the object, the keys | after the pickles: every key's count (64 bits) and numbers |
//!
//! What the root holds may be the state dict itself or a training's record with the state dict in it;
//! lists and dicts in dicts are flattened, with dots between the keys.
//!
//! A view may take at most what the rules in [`Tensors::place`] allow, so that a small file with
//! expanded (stride 0) or very many overlapping tensors is refused.
//!
//! Source: torch/serialization.py and torch/_utils.py of PyTorch 2.

use std::collections::BTreeMap;

use super::pickle::{Object, Pickle, Tensor, Value};
use super::safetensors::{MOST_DIMENSIONS, bits};
use super::source::Source;
use super::zip::{self, Stored};
use super::{Place, Strided, TensorInfo};
use crate::Error;

/// The first pickle of the older format: 0x1950a86a20f9469cfc6c, little-endian.
const MAGIC: [u8; 10] = [0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];

/// The second.
const VERSION: i64 = 1001;

/// Where training programs keep the state dict in what they save.
const WRAPPERS: [&str; 4] = ["state_dict", "model_state_dict", "model", "module"];

/// What training programs save beside it. Tensors in these are not weights.
const TRAINING: [&str; 10] = [
    "optimizer",
    "optimizer_state",
    "optimizer_state_dict",
    "optimizer_states",
    "scheduler",
    "lr_scheduler",
    "lr_schedulers",
    "scaler",
    "callbacks",
    "loops",
];

/// Wrappers in wrappers, and dicts in dicts.
const DEEPEST: usize = 16;

/// The tensors of a file may take so many times its size.
const LARGEST: u64 = 4;

/// The tensors of a zip archive.
pub(super) fn archived(source: &Source) -> Result<BTreeMap<String, TensorInfo>, Error> {
    let entries = zip::entries(source)?;
    let expected = "PyTorch's data.pkl";
    let mut pickles = entries.iter().filter_map(|(name, entry)| {
        let folder = name.strip_suffix("data.pkl")?;
        (folder.is_empty() || folder.ends_with('/')).then_some((folder, *entry))
    });
    let Some((folder, pickle)) = pickles.next() else {
        let found = "a zip archive without it";
        return Err(source.wrong("file", expected, found));
    };
    if let Some((other, _)) = pickles.next() {
        let found = format!("one in {folder:?} and one in {other:?}");
        return Err(source.wrong("zip archive", "one data.pkl", found));
    }
    let entry = |name: &str| entries.get(&format!("{folder}{name}"));
    if entry("constants.pkl").is_some() {
        let found = "a TorchScript archive, which is a program";
        return Err(source.wrong("file", "a PyTorch state dict", found));
    }
    if let Some(order) = entry("byteorder") {
        let bytes = source.bytes(order.start, order.end.min(order.start + 16))?;
        if bytes != b"little" {
            let found = format!("{:?}", String::from_utf8_lossy(&bytes));
            return Err(source.wrong("byteorder", "\"little\"", found));
        }
    }
    let pickle = Pickle::read(source, "data.pkl", pickle.start, pickle.end)?;
    tensors(source, &pickle, |key| {
        entry(&format!("data/{key}")).copied()
    })
}

/// The tensors of pickles in sequence.
pub(super) fn sequence(source: &Source) -> Result<BTreeMap<String, TensorInfo>, Error> {
    let next = |name, start| Pickle::read(source, name, start, source.size());
    let magic = next("first pickle", 0)?;
    match magic.root {
        Value::Long(digits) if *magic.digits(digits) == MAGIC => (),
        _ => {
            let found = "a pickle of something else";
            return Err(source.wrong("file", "a PyTorch state dict", found));
        }
    }
    let version = next("second pickle", magic.end)?;
    if version.root != Value::Int(VERSION) {
        let found = format!("{:?}", version.root);
        return Err(source.wrong("format version", VERSION.to_string(), found));
    }
    let machine = next("third pickle", version.end)?;
    let is_little = |(key, value): &(Value, Value)| {
        matches!(*key, Value::Text(key) if machine.text(key) == "little_endian")
            && *value == Value::Bool(true)
    };
    match machine.object(machine.root) {
        Some(Object::Dict(entries)) if entries.iter().any(is_little) => (),
        _ => {
            let found = "a machine without it";
            return Err(source.wrong("byte order", "little_endian", found));
        }
    }
    let pickle = next("fourth pickle", machine.end)?;
    let keys = next("fifth pickle", pickle.end)?;
    let storages = following(source, &pickle, &keys)?;
    tensors(source, &pickle, |key| storages.get(key).copied())
}

/// Where the storages after the pickles are.
fn following<'a>(
    source: &Source,
    pickle: &Pickle,
    keys: &'a Pickle,
) -> Result<BTreeMap<&'a str, Stored>, Error> {
    let Some(Object::List(list)) = keys.object(keys.root) else {
        return Err(source.wrong("fifth pickle", "a list of keys", "another value"));
    };
    let widths: BTreeMap<&str, usize> = pickle
        .storages()
        .map(|storage| (pickle.text(storage.key), storage.dtype.bitsize() / 8))
        .collect();
    let mut storages = BTreeMap::new();
    let mut at = keys.end;
    for key in list {
        let Value::Text(key) = *key else {
            return Err(source.wrong("fifth pickle", "a list of texts", "another value"));
        };
        let key = keys.text(key);
        let what = || format!("storage {key:?}");
        let Some(&width) = widths.get(key) else {
            return Err(source.wrong(what(), "a tensor of it", "none"));
        };
        let count = source.bytes(at, at.saturating_add(8))?;
        let count = count
            .iter()
            .rev()
            .fold(0, |n, &byte| n << 8 | u64::from(byte));
        let start = at + 8;
        let end = count
            .checked_mul(width as u64)
            .and_then(|length| start.checked_add(length))
            .filter(|&end| end <= source.size());
        let Some(end) = end else {
            let expected = format!("at most the file's last {} bytes", source.size() - start);
            return Err(source.wrong(what(), expected, format!("{count} numbers")));
        };
        if storages.insert(key, Stored { start, end }).is_some() {
            return Err(source.wrong(what(), "once", "twice"));
        }
        at = end;
    }
    if at != source.size() {
        let found = format!("{} bytes more", source.size() - at);
        return Err(source.wrong("file", "an end after the last storage", found));
    }
    Ok(storages)
}

/// The tensors that a pickle's root holds, in the storages that `stored` finds by their keys.
fn tensors(
    source: &Source,
    pickle: &Pickle,
    stored: impl Fn(&str) -> Option<Stored>,
) -> Result<BTreeMap<String, TensorInfo>, Error> {
    if !matches!(
        pickle.object(pickle.root),
        Some(Object::Dict(_) | Object::List(_))
    ) {
        let found = "another value";
        return Err(source.wrong("pickle", "a dict of tensors", found));
    }
    let mut tensors = Tensors {
        source,
        pickle,
        stored,
        name: String::new(),
        visits: pickle.len(),
        taken: 0,
        found: BTreeMap::new(),
    };
    tensors.unwrap(pickle.root, 0)?;
    Ok(tensors.found)
}

/// A walk through a pickle's values.
struct Tensors<'a, F> {
    source: &'a Source,
    pickle: &'a Pickle,
    stored: F,
    /// The keys on the way, joined by dots.
    name: String,
    /// How many more values may be visited: no value takes less than a byte, unless lists in lists
    /// that are all the same one are to be unfolded.
    visits: usize,
    /// How many bytes all tensors, names included, take.
    taken: u64,
    found: BTreeMap<String, TensorInfo>,
}

impl<F: Fn(&str) -> Option<Stored>> Tensors<'_, F> {
    /// Walks through the root, or through what a training program wrapped it in.
    fn unwrap(&mut self, root: Value, depth: usize) -> Result<(), Error> {
        let pickle = self.pickle;
        let Some(Object::Dict(entries)) = pickle.object(root) else {
            return self.walk(root, depth);
        };
        let key = |key: Value| match key {
            Value::Text(key) => Some(pickle.text(key)),
            _ => None,
        };
        let is_dict = |value| matches!(pickle.object(value), Some(Object::Dict(_)));
        let is_tensor = |value| matches!(pickle.object(value), Some(Object::Tensor(_)));
        let wrapped = WRAPPERS.iter().find_map(|wrapper| {
            entries
                .iter()
                .position(|&(name, value)| key(name) == Some(wrapper) && is_dict(value))
        });
        let wrapped = wrapped.filter(|_| !entries.iter().any(|&(_, value)| is_tensor(value)));
        let (Some(wrapped), true) = (wrapped, depth < DEEPEST) else {
            return self.walk(root, depth);
        };
        self.unwrap(entries[wrapped].1, depth + 1)?;
        for (place, &(name, value)) in entries.iter().enumerate() {
            if place != wrapped && !key(name).is_some_and(|name| TRAINING.contains(&name)) {
                self.step(name, value, depth)?;
            }
        }
        Ok(())
    }

    fn walk(&mut self, value: Value, depth: usize) -> Result<(), Error> {
        let wrong = |expected: &str, found: &str| {
            let what = format!("pickle, {:?}", self.name);
            Err(self.source.wrong(what, expected, found))
        };
        if depth > DEEPEST {
            return wrong(&format!("at most {DEEPEST} dicts in dicts"), "more");
        }
        let Some(visits) = self.visits.checked_sub(1) else {
            return wrong("at most as many values as bytes", "more");
        };
        self.visits = visits;
        let pickle = self.pickle;
        match (value, pickle.object(value)) {
            (_, Some(Object::Tensor(tensor))) => self.place(tensor),
            (_, Some(Object::Storage(_))) => wrong("a tensor", "a storage without a view"),
            (_, Some(Object::Dict(entries))) => entries
                .iter()
                .try_for_each(|&(key, value)| self.step(key, value, depth)),
            (_, Some(Object::List(list))) => self.list(list, depth),
            (Value::Tuple(items), _) => self.list(pickle.tuple(items), depth),
            // Numbers, texts and the like: no weights.
            _ => Ok(()),
        }
    }

    fn list(&mut self, values: &[Value], depth: usize) -> Result<(), Error> {
        let mut numbered = (0..).zip(values);
        numbered.try_for_each(|(number, &value)| self.step(Value::Int(number), value, depth))
    }

    /// Goes to the value under `key` and comes back.
    fn step(&mut self, key: Value, value: Value, depth: usize) -> Result<(), Error> {
        let length = self.name.len();
        if length > 0 {
            self.name.push('.');
        }
        match key {
            Value::Text(key) => self.name.push_str(self.pickle.text(key)),
            Value::Int(key) => self.name.push_str(&key.to_string()),
            _ => {
                let what = format!("pickle, {:?}", self.name);
                let found = "another value";
                return Err(self.source.wrong(what, "texts or numbers as keys", found));
            }
        }
        self.walk(value, depth + 1)?;
        self.name.truncate(length);
        Ok(())
    }

    /// Adds a tensor under the name of the way to it, if it lies in its storage.
    ///
    /// All tensors together may take four times the file's size: each as many bytes as it is read
    /// into, and if it has more elements than its storage, as many as they take in float64.
    fn place(&mut self, tensor: &Tensor) -> Result<(), Error> {
        let (source, pickle) = (self.source, self.pickle);
        let name = &self.name;
        let wrong = |expected: &str, found: String| {
            Err(source.wrong(format!("tensor {name}"), expected, found))
        };
        let Some(storage) = pickle.storage(tensor) else {
            return wrong("a storage", "none".to_owned());
        };
        let key = pickle.text(storage.key);
        let Some(stored) = (self.stored)(key) else {
            return wrong("its storage in the file", format!("no storage {key:?}"));
        };
        let held = stored.end - stored.start;
        let width = storage.dtype.bitsize() as u64 / 8;
        if storage.count.checked_mul(width) != Some(held) {
            let expected = format!("storage {key:?} of {} numbers", storage.count);
            return wrong(&expected, format!("{held} bytes"));
        }
        let dimensions = (numbers(pickle, tensor.size), numbers(pickle, tensor.stride));
        let (Some(shape), Some(strides)) = dimensions else {
            return wrong(
                "dimensions and strides that are whole numbers",
                "others".to_owned(),
            );
        };
        if shape.len() != strides.len() || shape.len() > MOST_DIMENSIONS {
            let found = format!("{} and {}", shape.len(), strides.len());
            let expected = format!("as many strides as dimensions, at most {MOST_DIMENSIONS}");
            return wrong(&expected, found);
        }
        let dtype = tensor.dtype;
        let width = dtype.bitsize() as u64 / 8;
        let Some(length) = bits(dtype, &shape).map(|bits| bits / 8) else {
            return wrong("dimensions whose product is a size", format!("{shape:?}"));
        };
        let last = if length == 0 {
            Some(stored.start)
        } else {
            reach(&shape, &strides, tensor.offset)
                .and_then(|last| last.checked_add(1)?.checked_mul(width))
                .filter(|&end| end <= held)
                .map(|end| stored.start + end)
        };
        let Some(end) = last else {
            let expected = format!("elements inside the {held} bytes of its storage");
            let offset = tensor.offset;
            let found = format!("{shape:?} with strides {strides:?} from element {offset}");
            return wrong(&expected, found);
        };
        let cost = if length > held {
            length / width * 8
        } else {
            length
        };
        let total = self.taken.saturating_add(cost);
        let taken = total.saturating_add(name.len() as u64);
        if taken > source.size().saturating_mul(LARGEST) {
            let expected = format!("tensors that take at most {LARGEST} times the file's size");
            return wrong(&expected, format!("{taken} bytes"));
        }
        self.taken = taken;
        let place = if length == 0 {
            Place::Run { start: end, end }
        } else if is_contiguous(&shape, &strides) {
            let start = end - length;
            Place::Run { start, end }
        } else {
            Place::Strided(Box::new(Strided {
                start: stored.start + tensor.offset * width,
                end,
                strides: strides.iter().map(|stride| stride * width).collect(),
            }))
        };
        let info = TensorInfo {
            dtype,
            shape,
            file: 0,
            place,
        };
        if self.found.contains_key(name) {
            return wrong("one tensor of this name", "two".to_owned());
        }
        self.found.insert(name.clone(), info);
        Ok(())
    }
}

/// The whole numbers of a tuple, at most as many as a tensor has dimensions, and one.
fn numbers<T: TryFrom<i64>>(pickle: &Pickle, span: super::pickle::Span) -> Option<Vec<T>> {
    let items = pickle.tuple(span).iter().take(MOST_DIMENSIONS + 1);
    items
        .map(|item| match *item {
            Value::Int(number) => T::try_from(number).ok(),
            _ => None,
        })
        .collect()
}

/// The place of a tensor's last element in its storage; it has at least one.
fn reach(shape: &[usize], strides: &[u64], offset: u64) -> Option<u64> {
    let mut axes = shape.iter().zip(strides);
    axes.try_fold(offset, |last, (&size, &stride)| {
        last.checked_add((size as u64 - 1).checked_mul(stride)?)
    })
}

/// Whether the elements follow each other, row-major; the stride of a single one does not matter.
fn is_contiguous(shape: &[usize], strides: &[u64]) -> bool {
    let mut expected = 1;
    let mut axes = shape.iter().zip(strides).rev();
    axes.all(|(&size, &stride)| {
        let is_next = size == 1 || stride == expected;
        expected *= size as u64;
        is_next
    })
}
