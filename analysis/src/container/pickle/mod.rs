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

mod value;

use super::source::Source;
use crate::Error;
pub(super) use value::{Global, Object, Span, Storage, Tensor, Value};

/// What the values of any pickle may take, however small its file is: enough for a hundred thousand
/// tensors of a few bytes.
const ALLOWANCE: u64 = 1 << 26;

/// Bytes that are read at once at least.
const PIECE: usize = 1 << 16;

/// Longer names of modules and functions do not occur.
const LONGEST_NAME: usize = 256;

/// The first pickle of Python 2 numbers its memo from one, others from zero.
const WIDEST_GAP: usize = 8;

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

struct Machine<'a> {
    source: &'a Source,
    name: &'a str,
    start: u64,
    limit: u64,
    /// What has been read of the pickle.
    bytes: Vec<u8>,
    at: usize,
    /// Where the opcode in work is.
    opcode: usize,
    stack: Vec<Value>,
    /// How high the stack was at every mark.
    marks: Vec<usize>,
    memo: Vec<Value>,
    items: Vec<Value>,
    objects: Vec<Object>,
    /// How many bytes the values may still take.
    left: u64,
}

impl Machine<'_> {
    fn run(&mut self) -> Result<Value, Error> {
        loop {
            self.opcode = self.at;
            let [code] = self.array()?;
            match code {
                // STOP
                b'.' => return self.pop(),
                // PROTO, FRAME: frames only group the bytes.
                0x80 => self.skip(1)?,
                0x95 => self.skip(8)?,
                b'(' => {
                    let height = self.stack.len();
                    push(&mut self.left, &mut self.marks, height).ok_or_else(|| self.too_much())?;
                }
                // POP, POP_MARK, DUP
                b'0' => drop(self.pop()?),
                b'1' => {
                    let height = self.mark()?;
                    self.stack.truncate(height);
                }
                b'2' => {
                    let value = self.top()?;
                    self.push(value)?;
                }
                b'N' => self.push(Value::Other)?,
                0x88 => self.push(Value::Bool(true))?,
                0x89 => self.push(Value::Bool(false))?,
                b'J' => {
                    let number = i32::from_le_bytes(self.array()?);
                    self.push(Value::Int(number.into()))?;
                }
                b'K' => {
                    let number = u8::from_le_bytes(self.array()?);
                    self.push(Value::Int(number.into()))?;
                }
                b'M' => {
                    let number = u16::from_le_bytes(self.array()?);
                    self.push(Value::Int(number.into()))?;
                }
                // LONG1, LONG4
                0x8a => {
                    let length = u8::from_le_bytes(self.array()?);
                    self.long(length.into())?;
                }
                0x8b => {
                    let length = u32::from_le_bytes(self.array()?);
                    self.long(length.into())?;
                }
                // BINFLOAT
                b'G' => {
                    self.skip(8)?;
                    self.push(Value::Other)?;
                }
                // SHORT_BINSTRING, BINSTRING: what Python 2 calls str.
                b'U' | 0x8c => {
                    let length = u8::from_le_bytes(self.array()?);
                    self.text(length.into())?;
                }
                b'T' | b'X' => {
                    let length = u32::from_le_bytes(self.array()?);
                    self.text(length.into())?;
                }
                // BINUNICODE8
                0x8d => {
                    let length = u64::from_le_bytes(self.array()?);
                    self.text(length)?;
                }
                // SHORT_BINBYTES, BINBYTES, BINBYTES8
                b'C' => {
                    let length = u8::from_le_bytes(self.array()?);
                    self.skip(length.into())?;
                    self.push(Value::Other)?;
                }
                b'B' => {
                    let length = u32::from_le_bytes(self.array()?);
                    self.skip(length.into())?;
                    self.push(Value::Other)?;
                }
                0x8e => {
                    let length = u64::from_le_bytes(self.array()?);
                    self.skip(length)?;
                    self.push(Value::Other)?;
                }
                // EMPTY_TUPLE, TUPLE1 to TUPLE3, TUPLE
                b')' => self.tuple(self.stack.len())?,
                0x85..=0x87 => {
                    let count = usize::from(code - 0x84);
                    let floor = self.marks.last().copied().unwrap_or(0);
                    match self.stack.len().checked_sub(count) {
                        Some(from) if from >= floor => self.tuple(from)?,
                        _ => return Err(self.no_value()),
                    }
                }
                b't' => {
                    let from = self.mark()?;
                    self.tuple(from)?;
                }
                b']' => self.create(Object::List(Vec::new()))?,
                b'}' => self.create(Object::Dict(Vec::new()))?,
                // APPEND, APPENDS, SETITEM, SETITEMS
                b'a' => {
                    let from = self.below(1)?;
                    self.append(from)?;
                }
                b'e' => {
                    let from = self.mark()?;
                    self.append(from)?;
                }
                b's' => {
                    let from = self.below(2)?;
                    self.set(from)?;
                }
                b'u' => {
                    let from = self.mark()?;
                    self.set(from)?;
                }
                // BINPUT, LONG_BINPUT, MEMOIZE
                b'q' => {
                    let [place] = self.array()?;
                    self.memorise(place.into())?;
                }
                b'r' => {
                    let place = u32::from_le_bytes(self.array()?);
                    self.memorise(place as usize)?;
                }
                0x94 => self.memorise(self.memo.len())?,
                // BINGET, LONG_BINGET
                b'h' => {
                    let [place] = self.array()?;
                    self.recall(place.into())?;
                }
                b'j' => {
                    let place = u32::from_le_bytes(self.array()?);
                    self.recall(place as usize)?;
                }
                b'c' => {
                    let (module, name) = (self.line()?, self.line()?);
                    self.global(module, name)?;
                }
                // STACK_GLOBAL
                0x93 => match (self.pop()?, self.pop()?) {
                    (Value::Text(name), Value::Text(module)) => self.global(module, name)?,
                    _ => return Err(self.wrong("a module and a name", "other values")),
                },
                // REDUCE, NEWOBJ
                b'R' | 0x81 => {
                    let (arguments, function) = (self.pop()?, self.pop()?);
                    let value = self.call(function, arguments)?;
                    self.push(value)?;
                }
                // BUILD: attributes of an object, which for ours carry nothing.
                b'b' => {
                    self.pop()?;
                    let Value::Object(_) = self.top()? else {
                        return Err(self.wrong("a dict or tensor", "attributes of something else"));
                    };
                }
                b'Q' => self.persistent()?,
                _ => {
                    let found = match code {
                        b'i' | b'o' | 0x92 => "an opcode that makes any object: refused",
                        b'P' | 0x82..=0x84 => "an opcode that refers to objects elsewhere: refused",
                        b'I' | b'F' | b'L' | b'S' | b'V' | b'g' | b'p' | b'd' | b'l' => {
                            "an opcode of the textual protocols: refused"
                        }
                        _ => "",
                    };
                    let found = format!("{found} (0x{code:02x})");
                    return Err(self.wrong("an opcode of a state dict", found.trim()));
                }
            }
        }
    }

    fn wrong(&self, expected: &str, found: &str) -> Error {
        let what = format!("{}, byte {}", self.name, self.opcode);
        self.source.wrong(what, expected, found)
    }

    fn too_much(&self) -> Error {
        let most = self.source.size().saturating_mul(2).max(ALLOWANCE);
        self.wrong(&format!("values that take at most {most} bytes"), "more")
    }

    fn no_value(&self) -> Error {
        self.wrong("a value on the stack", "none")
    }

    /// Moves `count` bytes on, reading them if they have not been, and returns where they are.
    fn take(&mut self, count: u64) -> Result<Span, Error> {
        let rest = self.limit - self.start - self.at as u64;
        let ends = u32::try_from(self.at as u64 + count.min(rest));
        let (Ok(end), true) = (ends, count <= rest) else {
            let found = format!("{rest}: the pickle is cut off or lies about a length");
            return Err(self.wrong(&format!("{count} bytes more"), &found));
        };
        let missing = (end as usize).saturating_sub(self.bytes.len());
        if missing > 0 {
            let held = self.bytes.len();
            let unread = (self.limit - self.start - held as u64) as usize;
            let piece = missing.max(PIECE).max(held / 2).min(unread);
            self.bytes.reserve_exact(piece);
            self.bytes.resize(held + piece, 0);
            let from = self.start + held as u64;
            self.source.fill(&mut self.bytes[held..], from)?;
        }
        let start = self.at as u32;
        self.at = end as usize;
        Ok(Span {
            start,
            length: end - start,
        })
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let span = self.take(N as u64)?;
        let mut bytes = [0; N];
        bytes.copy_from_slice(&self.bytes[span.range()]);
        Ok(bytes)
    }

    fn skip(&mut self, count: u64) -> Result<(), Error> {
        self.take(count).map(drop)
    }

    /// The rest of a line, without its end.
    fn line(&mut self) -> Result<Span, Error> {
        let start = self.at as u32;
        loop {
            let [byte] = self.array()?;
            let length = self.at as u32 - start - 1;
            if byte == b'\n' {
                return self.checked(Span { start, length });
            }
            if length as usize == LONGEST_NAME {
                let expected = format!("a name of at most {LONGEST_NAME} bytes");
                return Err(self.wrong(&expected, "a longer one"));
            }
        }
    }

    fn checked(&self, span: Span) -> Result<Span, Error> {
        match std::str::from_utf8(&self.bytes[span.range()]) {
            Ok(_) => Ok(span),
            Err(error) => Err(self.wrong("a text in UTF-8", &error.to_string())),
        }
    }

    fn text(&mut self, length: u64) -> Result<(), Error> {
        let span = self.take(length)?;
        let span = self.checked(span)?;
        self.push(Value::Text(span))
    }

    fn long(&mut self, length: u64) -> Result<(), Error> {
        let span = self.take(length)?;
        let digits = &self.bytes[span.range()];
        let value = if digits.len() <= 8 {
            let is_negative = digits.last().is_some_and(|last| last & 0x80 != 0);
            let mut whole = [if is_negative { 0xff } else { 0 }; 8];
            whole[..digits.len()].copy_from_slice(digits);
            Value::Int(i64::from_le_bytes(whole))
        } else {
            Value::Long(span)
        };
        self.push(value)
    }

    fn push(&mut self, value: Value) -> Result<(), Error> {
        push(&mut self.left, &mut self.stack, value).ok_or_else(|| self.too_much())
    }

    /// The stack's top, above the last mark.
    fn top(&self) -> Result<Value, Error> {
        let floor = self.marks.last().copied().unwrap_or(0);
        let value = self.stack[floor..].last().copied();
        value.ok_or_else(|| self.no_value())
    }

    fn pop(&mut self) -> Result<Value, Error> {
        let value = self.top()?;
        self.stack.pop();
        Ok(value)
    }

    /// The height of the stack below the topmost `count` values, which leave a value below them.
    fn below(&self, count: usize) -> Result<usize, Error> {
        let floor = self.marks.last().copied().unwrap_or(0);
        match self.stack.len().checked_sub(count) {
            Some(from) if from > floor => Ok(from),
            _ => Err(self.no_value()),
        }
    }

    /// Takes the last mark off.
    fn mark(&mut self) -> Result<usize, Error> {
        self.marks
            .pop()
            .ok_or_else(|| self.wrong("a mark on the stack", "none"))
    }

    fn create(&mut self, object: Object) -> Result<(), Error> {
        let number = self.objects.len();
        // The values' allowance ends long before the numbers do.
        let number = u32::try_from(number).map_err(|_| self.too_much())?;
        push(&mut self.left, &mut self.objects, object).ok_or_else(|| self.too_much())?;
        self.push(Value::Object(number))
    }

    /// Makes a tuple of the stack's values from `from` on.
    fn tuple(&mut self, from: usize) -> Result<(), Error> {
        let count = self.stack.len() - from;
        let span = u32::try_from(self.items.len())
            .ok()
            .zip(u32::try_from(count).ok());
        let (start, length) = span.ok_or_else(|| self.too_much())?;
        make_room(&mut self.left, &mut self.items, count).ok_or_else(|| self.too_much())?;
        self.items.extend(self.stack.drain(from..));
        self.push(Value::Tuple(Span { start, length }))
    }

    /// Appends the stack's values from `from` on to the list below them.
    fn append(&mut self, from: usize) -> Result<(), Error> {
        let list = match self.target(from) {
            Some(Object::List(list)) => list,
            _ => return Err(self.wrong("a list to append to", "another value")),
        };
        let mut list = std::mem::take(list);
        make_room(&mut self.left, &mut list, self.stack.len() - from)
            .ok_or_else(|| self.too_much())?;
        list.extend(self.stack.drain(from..));
        if let Some(Object::List(place)) = self.target(from) {
            *place = list;
        }
        Ok(())
    }

    /// Puts the keys and values of the stack from `from` on into the dict below them.
    fn set(&mut self, from: usize) -> Result<(), Error> {
        let count = self.stack.len() - from;
        let entries = match self.target(from) {
            Some(Object::Dict(entries)) if count.is_multiple_of(2) => entries,
            _ => return Err(self.wrong("keys and values for a dict", "another value")),
        };
        let mut entries = std::mem::take(entries);
        make_room(&mut self.left, &mut entries, count / 2).ok_or_else(|| self.too_much())?;
        let (pairs, _) = self.stack[from..].as_chunks::<2>();
        entries.extend(pairs.iter().map(|&[key, value]| (key, value)));
        self.stack.truncate(from);
        if let Some(Object::Dict(place)) = self.target(from) {
            *place = entries;
        }
        Ok(())
    }

    /// The object that the value below `from` refers to.
    fn target(&mut self, from: usize) -> Option<&mut Object> {
        let floor = self.marks.last().copied().unwrap_or(0);
        let place = from.checked_sub(1).filter(|&place| place >= floor)?;
        match self.stack.get(place)? {
            Value::Object(number) => self.objects.get_mut(*number as usize),
            _ => None,
        }
    }

    fn memorise(&mut self, place: usize) -> Result<(), Error> {
        let value = self.top()?;
        if place > self.memo.len() + WIDEST_GAP {
            let expected = format!("a memo number up to {}", self.memo.len() + WIDEST_GAP);
            return Err(self.wrong(&expected, &place.to_string()));
        }
        while self.memo.len() <= place {
            push(&mut self.left, &mut self.memo, Value::Other).ok_or_else(|| self.too_much())?;
        }
        self.memo[place] = value;
        Ok(())
    }

    fn recall(&mut self, place: usize) -> Result<(), Error> {
        match self.memo.get(place) {
            Some(&value) => self.push(value),
            None => Err(self.wrong("a memo number that was given", &place.to_string())),
        }
    }

    fn global(&mut self, module: Span, name: Span) -> Result<(), Error> {
        let [module, name] = [module, name].map(|span| {
            let text = std::str::from_utf8(&self.bytes[span.range()]).unwrap_or_default();
            &text[..text.floor_char_boundary(LONGEST_NAME)]
        });
        match Global::of(module, name) {
            Some(global) => self.push(Value::Global(global)),
            None => {
                let found = format!("{module}.{name}: refused, nothing was run");
                Err(self.wrong("only names that a state dict of tensors needs", &found))
            }
        }
    }

    /// What Python would get by calling `function`.
    fn call(&mut self, function: Value, arguments: Value) -> Result<Value, Error> {
        let (Value::Global(function), Value::Tuple(span)) = (function, arguments) else {
            return Err(self.wrong("a function and a tuple of arguments", "other values"));
        };
        let wrong = |machine: &Self| {
            let expected = format!("the arguments of {function:?}");
            Err(machine.wrong(&expected, "others"))
        };
        let arguments = &self.items[span.range()];
        match (function, arguments) {
            (Global::OrderedDict, []) => self.dict(Vec::new()),
            (Global::OrderedDict, &[Value::Object(list)]) => match self.pairs(list) {
                Some(entries) => self.dict(entries),
                None => wrong(self),
            },
            (Global::Size, &[sizes @ Value::Tuple(_)]) => Ok(sizes),
            (Global::Device, _) => Ok(Value::Other),
            (Global::Parameter, &[tensor @ Value::Object(number), ..])
                if matches!(self.objects.get(number as usize), Some(Object::Tensor(_))) =>
            {
                Ok(tensor)
            }
            (
                Global::FromType,
                &[
                    Value::Global(inner),
                    Value::Global(Global::Class),
                    arguments,
                    ..,
                ],
            ) if inner != Global::FromType => self.call(Value::Global(inner), arguments),
            (Global::Tensor | Global::TensorV2 | Global::TensorV3, _) => {
                match self.rebuilt(function, span) {
                    Some(tensor) => {
                        self.create(Object::Tensor(tensor))?;
                        self.pop()
                    }
                    None => wrong(self),
                }
            }
            _ => wrong(self),
        }
    }

    fn dict(&mut self, entries: Vec<(Value, Value)>) -> Result<Value, Error> {
        let bytes = size_of_val(&entries[..]) as u64;
        self.left = self
            .left
            .checked_sub(bytes)
            .ok_or_else(|| self.too_much())?;
        self.create(Object::Dict(entries))?;
        self.pop()
    }

    /// The pairs of a list of pairs.
    fn pairs(&self, list: u32) -> Option<Vec<(Value, Value)>> {
        let Object::List(list) = self.objects.get(list as usize)? else {
            return None;
        };
        let pair = |value: &Value| match value {
            Value::Tuple(span) => match self.items[span.range()] {
                [key, value] => Some((key, value)),
                _ => None,
            },
            Value::Object(number) => match self.objects.get(*number as usize)? {
                Object::List(list) => match list[..] {
                    [key, value] => Some((key, value)),
                    _ => None,
                },
                _ => None,
            },
            _ => None,
        };
        list.iter().map(pair).collect()
    }

    /// A tensor by the arguments of a `_rebuild_tensor…`: storage, offset, size, stride, and more.
    fn rebuilt(&self, function: Global, arguments: Span) -> Option<Tensor> {
        let arguments = &self.items[arguments.range()];
        let &[
            Value::Object(storage),
            Value::Int(offset),
            Value::Tuple(size),
            Value::Tuple(stride),
            ..,
        ] = arguments
        else {
            return None;
        };
        let Object::Storage(of) = self.objects.get(storage as usize)? else {
            return None;
        };
        let dtype = match (function, arguments.get(6)) {
            (Global::TensorV3, Some(Value::Global(Global::Dtype(dtype)))) => *dtype,
            (Global::TensorV3, _) => return None,
            _ => of.dtype,
        };
        Some(Tensor {
            storage,
            dtype,
            offset: u64::try_from(offset).ok()?,
            size,
            stride,
        })
    }

    /// A storage, named by `('storage', class, key, location, count)`.
    fn persistent(&mut self) -> Result<(), Error> {
        let storage = match self.pop()? {
            Value::Tuple(span) => match self.items[span.range()] {
                [
                    Value::Text(kind),
                    Value::Global(Global::Storage(dtype)),
                    Value::Text(key),
                    _,
                    Value::Int(count),
                    // Views of storages, which PyTorch has not written since 2017, are not read.
                    ref rest @ ..,
                ] if self.bytes[kind.range()] == *b"storage"
                    && matches!(rest, [] | [Value::Other]) =>
                {
                    u64::try_from(count)
                        .ok()
                        .map(|count| Storage { dtype, key, count })
                }
                _ => None,
            },
            _ => None,
        };
        match storage {
            Some(storage) => self.create(Object::Storage(storage)),
            None => Err(self.wrong("the name of a storage", "another reference")),
        }
    }
}

/// Pushes within the allowance; `None` if that is used up.
fn push<T>(left: &mut u64, list: &mut Vec<T>, value: T) -> Option<()> {
    make_room(left, list, 1)?;
    list.push(value);
    Some(())
}

/// Reserves room for `count` more values and half as many as there are, and takes it off the
/// allowance.
fn make_room<T>(left: &mut u64, list: &mut Vec<T>, count: usize) -> Option<()> {
    if list.capacity() - list.len() < count {
        let more = count.max(list.len() / 2);
        let bytes = (more as u64).checked_mul(size_of::<T>() as u64)?;
        *left = left.checked_sub(bytes)?;
        list.reserve_exact(more);
    }
    Some(())
}
