//! Files of named tensors: what is in them is checked when they are opened, and single tensors are
//! read when they are asked for.
//!
//! | container | read by |
//! |---|---|
//! | safetensors | `safetensors` |
//! | PyTorch's zip archive (`.bin`, `.pt`, `.pth`, `.ckpt`) | `zip`, `pickle`, `torch` |
//! | PyTorch's format before 1.6 (pickles in sequence) | `pickle`, `torch` |
//! | several of these under one index (`….index.json`) | `index` |
//!
//! What a file is, its beginning says, not its name. Nothing is allocated from a header's word: all
//! sizes are checked against the file's first, and what opening a file takes stays within four times
//! its size, or 100 MB if that is more. A pickle runs no code: see `pickle`.

mod index;
pub(crate) mod numbers;
mod pickle;
mod quantised;
mod safetensors;
mod source;
mod torch;
mod zip;

use std::borrow::Cow;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use ::safetensors::Dtype;
use serde_json::{Map, Value};

use crate::Error;
use quantised::Quantised;
use source::Source;

/// The files of a folder that holds a model, in the order in which libraries prefer them.
const MODELS: [&str; 6] = [
    "model.safetensors",
    "model.safetensors.index.json",
    "diffusion_pytorch_model.safetensors",
    "diffusion_pytorch_model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
];

/// A tensor's type and dimensions, and where it lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TensorInfo {
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    /// Which of the container's files it is in.
    file: u32,
    place: Place,
}

/// Bytes of a tensor, counted from the beginning of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    /// All of `start..end`, row-major.
    Run { start: u64, end: u64 },
    /// Rare, and in a box so that very many tensors take little room.
    Strided(Box<Strided>),
}

/// The element with indices i is at `start` + Σ i·stride, before `end`; strides are in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Strided {
    start: u64,
    end: u64,
    strides: Vec<u64>,
}

/// Open files of tensors that belong together: one, or the shards of an index.
#[derive(Debug)]
pub(crate) struct Container {
    path: PathBuf,
    files: Vec<Source>,
    tensors: BTreeMap<String, TensorInfo>,
    metadata: BTreeMap<String, String>,
    /// Weights of a model that are more than their stored numbers.
    quantised: quantised::Weights,
    /// The tensors that say how weights are quantised.
    scales: BTreeSet<String>,
    /// Files of the same model beside this one, which libraries do not load.
    passed_over: Vec<PathBuf>,
}

/// What the beginning of one file tells.
struct Contents {
    tensors: BTreeMap<String, TensorInfo>,
    metadata: BTreeMap<String, String>,
}

impl From<BTreeMap<String, TensorInfo>> for Contents {
    fn from(tensors: BTreeMap<String, TensorInfo>) -> Self {
        let metadata = BTreeMap::new();
        Self { tensors, metadata }
    }
}

impl Container {
    /// Opens a file of weights, or the shards that an index (`….index.json`) names.
    ///
    /// # Errors
    /// [`Error::File`] naming the file, the tensor, what was expected and what was found.
    pub fn open(path: &Path) -> Result<Self, Error> {
        if path.to_string_lossy().ends_with(".index.json") {
            return index::open(path);
        }
        Self::of_files(path, vec![Source::open(path)?])
    }

    /// Opens a model: a file, an index, or a folder with one of the [known](MODELS) names. Its
    /// quantised weights are read with their scales, or not at all.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn open_model(path: &Path) -> Result<Self, Error> {
        let mut model = if path.is_dir() {
            let files = MODELS.iter().map(|name| path.join(name));
            let mut files = files.filter(|file| file.is_file());
            let Some(file) = files.next() else {
                let expected = format!("one of {}", MODELS.join(", "));
                return Err(Error::format(path, "folder", expected, "none of them"));
            };
            Self {
                passed_over: files.collect(),
                ..Self::open(&file)?
            }
        } else {
            Self::open(path)?
        };
        let folder = model.path.parent().unwrap_or(Path::new(""));
        (model.quantised, model.scales) = quantised::find(&model.tensors, folder);
        Ok(model)
    }

    fn of_files(path: &Path, files: Vec<Source>) -> Result<Self, Error> {
        let (mut tensors, mut metadata) = (BTreeMap::new(), BTreeMap::new());
        for (number, source) in (0..).zip(&files) {
            let Contents {
                tensors: mut of_file,
                metadata: texts,
            } = examined(source)?;
            metadata.extend(texts);
            of_file.values_mut().for_each(|tensor| tensor.file = number);
            if number == 0 {
                tensors = of_file;
                continue;
            }
            for (name, tensor) in of_file {
                match tensors.entry(name) {
                    Entry::Vacant(free) => {
                        free.insert(tensor);
                    }
                    Entry::Occupied(taken) => {
                        let other = &files[taken.get().file as usize];
                        let what = format!("tensor {}", taken.key());
                        let found = format!("also in {}", other.path().display());
                        return Err(source.wrong(what, "in one file only", found));
                    }
                }
            }
        }
        Ok(Self {
            path: path.to_path_buf(),
            files,
            tensors,
            metadata,
            quantised: BTreeMap::new(),
            scales: BTreeSet::new(),
            passed_over: Vec::new(),
        })
    }

    /// Calls the tensors by other names, unless two would then have one.
    pub fn rename(&mut self, name: impl Fn(&str) -> Cow<'_, str>) {
        if self.tensors.keys().all(|old| name(old) == *old) {
            return;
        }
        let tensors = self.tensors.iter();
        let renamed: BTreeMap<String, TensorInfo> = tensors
            .map(|(old, info)| (name(old).into_owned(), info.clone()))
            .collect();
        if renamed.len() == self.tensors.len() {
            self.tensors = renamed;
        }
    }

    /// A file that is in memory, under a name for its messages.
    ///
    /// # Errors
    /// [`Error::File`], as [`Self::open`].
    pub fn of_bytes(path: &Path, bytes: Vec<u8>) -> Result<Self, Error> {
        Self::of_files(path, vec![Source::of_bytes(path, bytes)])
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the file says of itself beside its tensors, as far as it matters here.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// Everything that the first file says of itself, in its order; nothing if it is no safetensors.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn texts(&self) -> Result<Map<String, Value>, Error> {
        match self.files.first() {
            Some(source) => safetensors::texts(source),
            None => Ok(Map::new()),
        }
    }

    /// Whether it is one safetensors file, so that a file of the same name can take its place.
    pub fn is_safetensors(&self) -> bool {
        let name = self.path.extension();
        self.files.len() == 1 && name.is_some_and(|ending| ending == "safetensors")
    }

    /// The paths of its files, in the order that [`file_of`](Self::file_of) counts.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(Source::path)
    }

    /// Which file a tensor is in.
    pub fn file_of(&self, name: &str) -> Option<usize> {
        Some(self.tensors.get(name)?.file as usize)
    }

    /// Makes as if there were no tensor of that name.
    pub fn leave_out(&mut self, name: &str) {
        self.tensors.remove(name);
    }

    /// All tensors by name.
    pub fn tensors(&self) -> &BTreeMap<String, TensorInfo> {
        &self.tensors
    }

    /// What there is to say of files of the same model beside this one, which libraries do not load.
    pub fn passed_over_in_words(&self) -> Option<String> {
        let name = |file: &Path| {
            let name = file.file_name().unwrap_or_default();
            name.to_string_lossy().into_owned()
        };
        let others: Vec<String> = self.passed_over.iter().map(|file| name(file)).collect();
        (!others.is_empty()).then(|| {
            let folder = self.path.parent().unwrap_or(Path::new(""));
            format!(
                "{}: {} was passed over: libraries load {}",
                folder.display(),
                others.join(", "),
                name(&self.path)
            )
        })
    }

    /// How a weight is quantised, in words; `None` if its numbers are the weight.
    pub fn quantised(&self, name: &str) -> Option<String> {
        Some(match self.quantised.get(name)? {
            Quantised::Scaled { scales, .. } => {
                let dtype = self.tensors.get(name).map(|info| info.dtype);
                let dtype = dtype.map_or_else(String::new, |dtype| format!("{dtype:?} "));
                format!("quantised ({dtype}with the scales {scales})")
            }
            Quantised::Unread(how) => how.clone(),
        })
    }

    /// As [`quantised`](Self::quantised), if it is in a way that is not read.
    pub fn unread(&self, name: &str) -> Option<&str> {
        match self.quantised.get(name)? {
            Quantised::Scaled { .. } => None,
            Quantised::Unread(how) => Some(how),
        }
    }

    /// Whether the tensor only says how a weight is quantised.
    pub fn is_scale(&self, name: &str) -> bool {
        self.scales.contains(name)
    }

    /// The names of weights of which only other tensors are stored, beside those of all tensors.
    pub fn packed(&self) -> impl Iterator<Item = &str> {
        let names = self.quantised.keys().map(String::as_str);
        names.filter(|name| !self.tensors.contains_key(*name))
    }

    /// The numbers of the tensor `name`, row-major, rounded to float32.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn read_f32(&self, name: &str) -> Result<Vec<f32>, Error> {
        if self.quantised.contains_key(name) {
            return Ok(self.read(name)?.into_iter().map(|x| x as f32).collect());
        }
        let mut bytes = Vec::new();
        let info = self.read_raw(name, &mut bytes)?;
        numbers::decode_f32(&bytes, info.dtype).ok_or_else(|| {
            let found = format!("{:?}", info.dtype);
            self.file(info).wrong(name, numbers::READABLE, found)
        })
    }

    /// The values of the tensor `name`, row-major; of a model's quantised weight times its scales.
    ///
    /// # Errors
    /// [`Error::File`] if there is no such tensor, its type is not one that can mean a weight, it is
    /// quantised in a way that is not read, or the file cannot be read.
    pub fn read(&self, name: &str) -> Result<Vec<f64>, Error> {
        match self.quantised.get(name) {
            None => self.read_stored(name),
            Some(Quantised::Unread(how)) => {
                Err(Error::format(&self.path, name, "a weight as it is", how))
            }
            Some(Quantised::Scaled {
                scales,
                divisor,
                block,
                across,
            }) => {
                let mut values = self.read_stored(name)?;
                let columns = match self.tensors.get(name).map(|info| &info.shape[..]) {
                    Some([_, columns]) => *columns,
                    _ => values.len(),
                };
                let layout = (*block, *across);
                let scales = self.read_stored(scales)?;
                quantised::scale(&mut values, columns, &scales, *divisor, layout);
                Ok(values)
            }
        }
    }

    /// The numbers as they are stored.
    fn read_stored(&self, name: &str) -> Result<Vec<f64>, Error> {
        let mut bytes = Vec::new();
        let info = self.read_raw(name, &mut bytes)?;
        numbers::decode(&bytes, info.dtype).ok_or_else(|| {
            let found = format!("{:?}", info.dtype);
            self.file(info).wrong(name, numbers::READABLE, found)
        })
    }

    /// Replaces what is in `bytes` by the tensor's numbers as they are stored: little-endian,
    /// row-major, without gaps. A buffer that is used again is not allocated again.
    ///
    /// # Errors
    /// [`Error::File`] if there is no such tensor or the file cannot be read.
    pub fn read_raw(&self, name: &str, bytes: &mut Vec<u8>) -> Result<&TensorInfo, Error> {
        let Some(info) = self.tensors.get(name) else {
            return Err(Error::format(&self.path, name, "a tensor", "none"));
        };
        let source = self.file(info);
        match &info.place {
            Place::Run { start, end } => source.replace(bytes, *start, *end)?,
            Place::Strided(place) => {
                let span = source.bytes(place.start, place.end)?;
                gather(bytes, &span, info, &place.strides);
            }
        }
        Ok(info)
    }

    fn file(&self, info: &TensorInfo) -> &Source {
        &self.files[info.file as usize]
    }
}

/// An index of shards, without the shards.
///
/// # Errors
/// [`Error::File`] if it is malformed or names a file outside its folder.
pub(crate) fn checked_index(path: &Path, bytes: Vec<u8>) -> Result<(), Error> {
    index::checked(&Source::of_bytes(path, bytes))
}

/// The tensors of one file, by the kind that its beginning shows.
fn examined(source: &Source) -> Result<Contents, Error> {
    let mut beginning = [0; 64];
    let known = &mut beginning[..source.size().min(64) as usize];
    source.fill(known, 0)?;
    let whole = |found: &str| {
        let expected = "safetensors or a PyTorch state dict";
        Err(source.wrong("file", expected, found))
    };
    if known.is_empty() {
        return whole("an empty file");
    }
    // A header of 640 bytes begins like a pickle: where an object follows the length, it is one.
    if known.get(8) == Some(&b'{') && known[4..8] == [0; 4] {
        return safetensors::read(source);
    }
    if known.starts_with(b"PK\x03\x04") || known.starts_with(b"PK\x05\x06") {
        return torch::archived(source).map(Contents::from);
    }
    // Protocols 2 to 5: the older ones are text.
    if known[0] == 0x80
        && known
            .get(1)
            .is_some_and(|protocol| (2..=5).contains(protocol))
    {
        return torch::sequence(source).map(Contents::from);
    }
    match impostor(known) {
        Some(what) => whole(what),
        None => safetensors::read(source),
    }
}

/// What is often found under a weight file's name, by how it begins.
fn impostor(beginning: &[u8]) -> Option<&'static str> {
    const KNOWN: [(&[u8], &str); 7] = [
        (
            b"version https://git-lfs",
            "a git-lfs pointer: the file itself was not downloaded",
        ),
        (b"GGUF", "a GGUF file"),
        (b"\x89HDF", "an HDF5 file"),
        (b"\x1f\x8b", "a gzip file"),
        (b"\x93NUMPY", "a NumPy array"),
        (b"TFL3", "a TensorFlow Lite model"),
        (b"\xef\xbb\xbf", "a text"),
    ];
    let known = KNOWN.iter().find(|(magic, _)| beginning.starts_with(magic));
    if let Some((_, what)) = known {
        return Some(what);
    }
    let text = beginning.trim_ascii_start().to_ascii_lowercase();
    if text.starts_with(b"<!doctype html") || text.starts_with(b"<html") {
        return Some("an HTML page: probably the message of a download that failed");
    }
    if text.starts_with(b"<?xml") {
        return Some("an XML text: probably the message of a download that failed");
    }
    // A length that begins so would be beyond any file's.
    let is_text = beginning.len() >= 8 && beginning[..8].iter().all(|b| (b' '..0x7f).contains(b));
    is_text.then_some("a text")
}

/// Copies the elements of a strided tensor from its span, in row-major order.
fn gather(bytes: &mut Vec<u8>, span: &[u8], info: &TensorInfo, strides: &[u64]) {
    let width = info.dtype.bitsize() / 8;
    bytes.clear();
    // Opening has checked that neither product nor sum overflows, and where the last element ends.
    bytes.reserve_exact(info.shape.iter().product::<usize>() * width);
    let mut indices = vec![0; info.shape.len()];
    let mut at = 0_usize;
    loop {
        bytes.extend_from_slice(&span[at..at + width]);
        let mut axis = info.shape.len();
        loop {
            if axis == 0 {
                return;
            }
            axis -= 1;
            let stride = strides[axis] as usize;
            indices[axis] += 1;
            if indices[axis] < info.shape[axis] {
                at += stride;
                break;
            }
            at -= stride * (info.shape[axis] - 1);
            indices[axis] = 0;
        }
    }
}
