use safetensors::Dtype;

/// A place in the pickle's bytes, or in the list of all tuples' items.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::container) struct Span {
    pub start: u32,
    pub length: u32,
}

impl Span {
    pub fn range(self) -> std::ops::Range<usize> {
        self.start as usize..self.start as usize + self.length as usize
    }
}

/// A value of the pickle. It owns nothing: texts lie in the pickle's bytes, and what has parts lies in
/// lists that are dropped as a whole, so that nothing recurses through nested or circular values.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(in crate::container) enum Value {
    Int(i64),
    Bool(bool),
    /// Little-endian digits of an integer that may be longer than 64 bits.
    Long(Span),
    Text(Span),
    Global(Global),
    /// Items, in the list of all tuples'.
    Tuple(Span),
    /// The number of an [`Object`].
    Object(u32),
    /// `None`, numbers with a fraction, bytes, devices: nothing that a tensor depends on.
    Other,
}

/// A value that others refer to.
#[derive(Debug)]
pub(in crate::container) enum Object {
    List(Vec<Value>),
    /// In the order of insertion; a key may come twice.
    Dict(Vec<(Value, Value)>),
    Storage(Storage),
    Tensor(Tensor),
}

/// Numbers outside the pickle.
#[derive(Debug, Clone, Copy)]
pub(in crate::container) struct Storage {
    pub dtype: Dtype,
    /// Its name, a text of the pickle.
    pub key: Span,
    /// How many numbers of this type.
    pub count: u64,
}

/// A view of a storage.
#[derive(Debug, Clone, Copy)]
pub(in crate::container) struct Tensor {
    /// The number of a [`Storage`] among the objects.
    pub storage: u32,
    pub dtype: Dtype,
    /// The first element's place in the storage, in elements.
    pub offset: u64,
    /// Two tuples.
    pub size: Span,
    pub stride: Span,
}

/// The Python names that a state dict of tensors may mention. None of them is ever imported: each
/// stands for what this reader itself does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::container) enum Global {
    OrderedDict,
    Size,
    Device,
    /// `_rebuild_tensor`, of the storage's own type.
    Tensor,
    /// `_rebuild_tensor_v2`, of the storage's own type.
    TensorV2,
    /// `_rebuild_tensor_v3`, of a type among its arguments.
    TensorV3,
    /// `_rebuild_parameter`, with or without a state.
    Parameter,
    /// `_rebuild_from_type_v2`: another of these, and a class.
    FromType,
    /// The class of tensors or parameters.
    Class,
    Storage(Dtype),
    Dtype(Dtype),
}

impl Global {
    /// What a module's name stands for, if it is one of the few that are allowed.
    pub fn of(module: &str, name: &str) -> Option<Self> {
        Some(match (module, name) {
            ("collections", "OrderedDict") => Self::OrderedDict,
            ("torch", "Size") => Self::Size,
            ("torch", "device") => Self::Device,
            ("torch", "Tensor") | ("torch.nn.parameter", "Parameter") => Self::Class,
            ("torch._utils", "_rebuild_tensor") => Self::Tensor,
            ("torch._utils", "_rebuild_tensor_v2") => Self::TensorV2,
            ("torch._utils", "_rebuild_tensor_v3") => Self::TensorV3,
            ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state") => {
                Self::Parameter
            }
            ("torch._tensor", "_rebuild_from_type_v2") => Self::FromType,
            ("torch.storage", "UntypedStorage" | "_UntypedStorage" | "TypedStorage") => {
                Self::Storage(Dtype::U8)
            }
            ("torch" | "torch.cuda", _) if name.ends_with("Storage") => {
                Self::Storage(storage(name)?)
            }
            ("torch", _) => Self::Dtype(dtype(name)?),
            _ => return None,
        })
    }
}

/// The type of numbers in a storage class; an untyped one counts bytes.
fn storage(class: &str) -> Option<Dtype> {
    Some(match class {
        "DoubleStorage" => Dtype::F64,
        "FloatStorage" => Dtype::F32,
        "HalfStorage" => Dtype::F16,
        "BFloat16Storage" => Dtype::BF16,
        "LongStorage" => Dtype::I64,
        "IntStorage" => Dtype::I32,
        "ShortStorage" => Dtype::I16,
        "CharStorage" => Dtype::I8,
        "ByteStorage" | "UntypedStorage" => Dtype::U8,
        "BoolStorage" => Dtype::BOOL,
        "ComplexFloatStorage" => Dtype::C64,
        _ => return None,
    })
}

fn dtype(name: &str) -> Option<Dtype> {
    Some(match name {
        "float64" => Dtype::F64,
        "float32" => Dtype::F32,
        "float16" => Dtype::F16,
        "bfloat16" => Dtype::BF16,
        "float8_e4m3fn" => Dtype::F8_E4M3,
        "float8_e5m2" => Dtype::F8_E5M2,
        "float8_e4m3fnuz" => Dtype::F8_E4M3FNUZ,
        "float8_e5m2fnuz" => Dtype::F8_E5M2FNUZ,
        "float8_e8m0fnu" => Dtype::F8_E8M0,
        "int64" => Dtype::I64,
        "int32" => Dtype::I32,
        "int16" => Dtype::I16,
        "int8" => Dtype::I8,
        "uint64" => Dtype::U64,
        "uint32" => Dtype::U32,
        "uint16" => Dtype::U16,
        "uint8" => Dtype::U8,
        "bool" => Dtype::BOOL,
        "complex64" => Dtype::C64,
        _ => return None,
    })
}
