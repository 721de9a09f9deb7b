use super::{ALLOWANCE, Object, Source, Span, Value};
use crate::Error;

/// Bytes that are read at once at least.
const PIECE: usize = 1 << 16;

/// Longer names of modules and functions do not occur.
pub(super) const LONGEST_NAME: usize = 256;

/// The first pickle of Python 2 numbers its memo from one, others from zero.
const WIDEST_GAP: usize = 8;

/// The stack machine and what it has read so far.
pub(super) struct Machine<'a> {
    pub(super) source: &'a Source,
    pub(super) name: &'a str,
    pub(super) start: u64,
    pub(super) limit: u64,
    /// What has been read of the pickle.
    pub(super) bytes: Vec<u8>,
    pub(super) at: usize,
    /// Where the opcode in work is.
    pub(super) opcode: usize,
    pub(super) stack: Vec<Value>,
    /// How high the stack was at every mark.
    pub(super) marks: Vec<usize>,
    pub(super) memo: Vec<Value>,
    pub(super) items: Vec<Value>,
    pub(super) objects: Vec<Object>,
    /// How many bytes the values may still take.
    pub(super) left: u64,
}

impl Machine<'_> {
    pub(super) fn run(&mut self) -> Result<Value, Error> {
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

    pub(super) fn wrong(&self, expected: &str, found: &str) -> Error {
        let what = format!("{}, byte {}", self.name, self.opcode);
        self.source.wrong(what, expected, found)
    }

    pub(super) fn too_much(&self) -> Error {
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

    pub(super) fn push(&mut self, value: Value) -> Result<(), Error> {
        push(&mut self.left, &mut self.stack, value).ok_or_else(|| self.too_much())
    }

    /// The stack's top, above the last mark.
    fn top(&self) -> Result<Value, Error> {
        let floor = self.marks.last().copied().unwrap_or(0);
        let value = self.stack[floor..].last().copied();
        value.ok_or_else(|| self.no_value())
    }

    pub(super) fn pop(&mut self) -> Result<Value, Error> {
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

    pub(super) fn create(&mut self, object: Object) -> Result<(), Error> {
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
