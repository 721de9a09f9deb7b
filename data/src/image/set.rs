//! Labelled images, decoded when they are asked for.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use super::{Image, cifar, files, parquet};
use crate::{Error, Part, Provenance, SkipBad};

/// Images with labels, in the order of their files. Nothing is decoded before it is asked for, so an
/// image that is damaged inside is found then: give what [`image`](Self::image) returned to a
/// [`SkipBad`].
#[derive(Debug)]
pub struct ImageSet {
    pub(super) source: Source,
    pub(super) labels: Vec<u32>,
    pub(super) classes: Vec<String>,
    pub(super) provenance: Provenance,
}

/// The two sets of 32 × 32 images.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cifar {
    /// Ten classes.
    Ten,
    /// A hundred classes: the fine labels.
    Hundred,
}

/// Which columns of a Parquet file hold images and labels, where the names do not say so.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageColumns {
    /// The images: bytes, or a struct with a field `bytes`. By default `image`, `img` or `pixel_values`.
    pub image: Option<String>,
    /// Whole numbers or names. By default `label`, `fine_label` or `labels`.
    pub label: Option<String>,
    /// The classes in the order of their indices. By default the file's own names (as the Hub's
    /// library writes them), or what labels there are, sorted.
    pub classes: Option<Vec<String>>,
}

impl ImageSet {
    /// Reads the binary layout of CIFAR: `train.bin`, `test.bin` or parts of them, `data_batch_*.bin`
    /// and `test_batch.bin`, with the classes' names beside them where they are. There is no
    /// validation part.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Format`] naming the folder without such files, the file that is cut,
    /// or the record whose label is none.
    pub fn cifar(
        folder: &Path,
        kind: Cifar,
        part: Part,
        skip: &mut SkipBad,
    ) -> Result<Self, Error> {
        cifar::read(folder, kind, part, skip)
    }

    /// Reads Food-101's layout: `images/<class>/<id>.jpg`, the part's images in `meta/train.txt` or
    /// `meta/test.txt`, the classes in `meta/classes.txt`.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Format`] naming the line whose class is none or whose image is not
    /// there.
    pub fn food101(folder: &Path, part: Part, skip: &mut SkipBad) -> Result<Self, Error> {
        files::food101(folder, part, skip)
    }

    /// Reads a folder with one folder of images for every class, in which they may lie at any depth.
    /// The classes are the folders' names, sorted, or `classes` if given. The notes count what is left
    /// out: hidden files, images of formats that are not read, files that are no images.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Format`] if there are no images, a class has none, or a folder is none
    /// of `classes`.
    pub fn folder(folder: &Path, classes: Option<&[String]>) -> Result<Self, Error> {
        files::folder(folder, classes)
    }

    /// Reads Parquet files with a column of encoded images and one of labels, in order. The encoded
    /// images go into a temporary file that disappears with the set.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Format`] naming the file and the column that is not there or of another
    /// type, or the row whose label is none.
    pub fn parquet(
        files: &[PathBuf],
        columns: &ImageColumns,
        skip: &mut SkipBad,
    ) -> Result<Self, Error> {
        parquet::read(files, columns, skip)
    }

    /// The number of images.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there are none: a set that was read has some.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// Leaves the first `count` images.
    pub fn truncate(&mut self, count: usize) {
        self.labels.truncate(count);
        match &mut self.source {
            Source::Planes(records) => records.truncate(count),
            Source::Files(paths) => paths.truncate(count),
            Source::Stored(store) => store.entries.truncate(count),
        }
    }

    /// The index in [`classes`](Self::classes) of every image's label.
    pub fn labels(&self) -> &[u32] {
        &self.labels
    }

    /// The classes' names.
    pub fn classes(&self) -> &[String] {
        &self.classes
    }

    /// Where the images came from.
    pub fn provenance(&self) -> &Provenance {
        &self.provenance
    }

    /// Decodes an image.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be read; [`Error::Format`] naming its file and row if it is damaged.
    ///
    /// # Panics
    /// If there are not that many images.
    pub fn image(&self, index: usize) -> Result<Image, Error> {
        match &self.source {
            Source::Planes(records) => Ok(cifar::image(&records[index])),
            Source::Files(paths) => Image::open(&paths[index]),
            Source::Stored(store) => {
                let (bytes, path, row) = store.read(index)?;
                Image::decode(path, &format!("image of row {row}"), &bytes)
            }
        }
    }

    /// The file that an image is in; for CIFAR's binary layout the first of its files.
    ///
    /// # Panics
    /// If there are not that many images.
    pub fn origin(&self, index: usize) -> &Path {
        match &self.source {
            Source::Planes(_) => &self.provenance.files[0],
            Source::Files(paths) => &paths[index],
            Source::Stored(store) => &store.files[store.entries[index].file],
        }
    }
}

/// Where the pixels are.
#[derive(Debug)]
pub(super) enum Source {
    /// Three planes of 32 × 32 bytes for every image.
    Planes(Vec<Box<[u8]>>),
    /// A file for every image.
    Files(Vec<PathBuf>),
    /// Encoded images in one temporary file.
    Stored(Store),
}

/// Encoded images one after another in a file without a name, and where each is.
#[derive(Debug)]
pub(super) struct Store {
    spilled: Mutex<File>,
    /// Where the temporary file is, for messages.
    folder: PathBuf,
    files: Vec<PathBuf>,
    entries: Vec<Entry>,
    end: u64,
}

#[derive(Debug)]
struct Entry {
    start: u64,
    length: usize,
    /// In `files`.
    file: usize,
    /// From 1.
    row: usize,
}

impl Store {
    pub(super) fn new(files: Vec<PathBuf>) -> Result<Self, Error> {
        let folder = std::env::temp_dir();
        let file = tempfile::tempfile_in(&folder).map_err(Error::io(&folder, "create"))?;
        Ok(Self {
            spilled: Mutex::new(file),
            folder,
            files,
            entries: Vec::new(),
            end: 0,
        })
    }

    pub(super) fn push(&mut self, file: usize, row: usize, bytes: &[u8]) -> Result<(), Error> {
        let spilled = self.spilled.get_mut().expect("no thread panics with it");
        let written = spilled.write_all(bytes);
        written.map_err(Error::io(&self.folder, "write"))?;
        self.entries.push(Entry {
            start: self.end,
            length: bytes.len(),
            file,
            row,
        });
        self.end += bytes.len() as u64;
        Ok(())
    }

    fn read(&self, index: usize) -> Result<(Vec<u8>, &Path, usize), Error> {
        let entry = &self.entries[index];
        let mut bytes = vec![0; entry.length];
        {
            let mut file = self.spilled.lock().expect("no thread panics with it");
            file.seek(SeekFrom::Start(entry.start))
                .and_then(|_| file.read_exact(&mut bytes))
                .map_err(Error::io(&self.folder, "read"))?;
        }
        Ok((bytes, &self.files[entry.file], entry.row))
    }
}
