//! What Python would do by calling, done here: the few names of [`Global`].

use super::machine::{LONGEST_NAME, Machine};
use super::{Global, Object, Span, Storage, Tensor, Value};
use crate::Error;

impl Machine<'_> {
    pub(super) fn global(&mut self, module: Span, name: Span) -> Result<(), Error> {
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
    pub(super) fn call(&mut self, function: Value, arguments: Value) -> Result<Value, Error> {
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
    pub(super) fn persistent(&mut self) -> Result<(), Error> {
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
