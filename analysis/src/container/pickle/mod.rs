//! A reader of pickles that runs nothing: what a state dict of tensors needs, and no more.
//!
//! A pickle is a program for a stack machine, and Python's own machine calls any function that the
//! program names. This one has no way to call: the few names of [`Global`] each stand for a step of
//! this reader, every other name and every opcode that a state dict does not need is refused, with
//! the name in the message. Protocols 2 to 5 are read.
//!
//! What the values take is counted against twice the file's size ([`ALLOWANCE`] at least), texts stay
//! in the pickle's own bytes, and nothing here recurses.
//!
//! Source: CPython's Lib/pickletools.py, which states every opcode.

mod calls;
mod machine;
mod value;

use super::source::Source;
use crate::Error;
use machine::Machine;
pub(super) use value::{Global, Object, Span, Storage, Tensor, Value};

/// What the values of any pickle may take, however small its file is: enough for a hundred thousand
/// tensors of a few bytes.
const ALLOWANCE: u64 = 1 << 26;

/// A pickle that was read, with everything that it holds.
#[derive(Debug)]
pub(super) struct Pickle {
    bytes: Vec<u8>,
    /// The items of all tuples.
    items: Vec<Value>,
    objects: Vec<Object>,
    pub root: Value,
    /// Where it ends in the file.
    pub end: u64,
}

impl Pickle {
    /// Reads the pickle that begins at byte `start` of a file and ends before `limit`; `name` is what
    /// messages call it.
    pub fn read(source: &Source, name: &str, start: u64, limit: u64) -> Result<Self, Error> {
        let mut machine = Machine {
            source,
            name,
            start,
            limit,
            bytes: Vec::new(),
            at: 0,
            opcode: 0,
            stack: Vec::new(),
            marks: Vec::new(),
            memo: Vec::new(),
            items: Vec::new(),
            objects: Vec::new(),
            left: source.size().saturating_mul(2).max(ALLOWANCE),
        };
        let root = machine.run()?;
        Ok(Self {
            end: start + machine.at as u64,
            bytes: machine.bytes,
            items: machine.items,
            objects: machine.objects,
            root,
        })
    }

    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    pub fn text(&self, span: Span) -> &str {
        // Was checked when it was read.
        std::str::from_utf8(&self.bytes[span.range()]).unwrap_or_default()
    }

    pub fn digits(&self, span: Span) -> &[u8] {
        &self.bytes[span.range()]
    }

    pub fn tuple(&self, span: Span) -> &[Value] {
        &self.items[span.range()]
    }

    /// `None` of a value that is no object.
    pub fn object(&self, value: Value) -> Option<&Object> {
        match value {
            Value::Object(number) => self.objects.get(number as usize),
            _ => None,
        }
    }

    /// All storages that it names, in the order of their mention.
    pub fn storages(&self) -> impl Iterator<Item = &Storage> {
        self.objects.iter().filter_map(|object| match object {
            Object::Storage(storage) => Some(storage),
            _ => None,
        })
    }

    pub fn storage(&self, tensor: &Tensor) -> Option<&Storage> {
        match self.object(Value::Object(tensor.storage))? {
            Object::Storage(storage) => Some(storage),
            _ => None,
        }
    }
}
