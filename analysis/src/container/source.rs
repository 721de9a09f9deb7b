use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::Error;

/// One file, read at any place without moving a cursor, so that several threads may share it.
#[derive(Debug)]
pub(super) struct Source {
    path: PathBuf,
    content: Content,
    size: u64,
}

#[derive(Debug)]
enum Content {
    Disk(File),
    /// What the fuzz targets and tests read.
    Memory(Vec<u8>),
}

impl Source {
    /// # Errors
    /// [`Error::File`] if there is no such file, or a folder or device in its place.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let metadata = fs::metadata(path).map_err(Error::io(path, "open"))?;
        // Opening a pipe would wait for its writer.
        if !metadata.is_file() {
            let found = if metadata.is_dir() {
                "a folder"
            } else {
                "a device, pipe or socket"
            };
            return Err(Error::format(path, "path", "a file", found));
        }
        let file = File::open(path).map_err(Error::io(path, "open"))?;
        let size = file.metadata().map_err(Error::io(path, "examine"))?.len();
        Ok(Self {
            path: path.to_path_buf(),
            content: Content::Disk(file),
            size,
        })
    }

    pub fn of_bytes(path: &Path, bytes: Vec<u8>) -> Self {
        Self {
            path: path.to_path_buf(),
            size: bytes.len() as u64,
            content: Content::Memory(bytes),
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn size(&self) -> u64 {
        self.size
    }

    /// Fills `buffer` from byte `start` on.
    pub fn fill(&self, buffer: &mut [u8], start: u64) -> Result<(), Error> {
        self.read(buffer, start)
            .map_err(Error::io(&self.path, "read"))
    }

    fn read(&self, buffer: &mut [u8], start: u64) -> io::Result<()> {
        match &self.content {
            Content::Disk(file) => file.read_exact_at(buffer, start),
            Content::Memory(bytes) => usize::try_from(start)
                .ok()
                .and_then(|start| bytes.get(start..)?.get(..buffer.len()))
                .map(|bytes| buffer.copy_from_slice(bytes))
                .ok_or_else(|| io::ErrorKind::UnexpectedEof.into()),
        }
    }

    /// The bytes `start..end`, which must lie in the file, to be read from front to back.
    pub fn section(&self, start: u64, end: u64) -> Result<Section<'_>, Error> {
        self.check(start, end)?;
        Ok(Section {
            source: self,
            at: start,
            end,
        })
    }

    fn check(&self, start: u64, end: u64) -> Result<(), Error> {
        if start > end || end > self.size {
            let expected = format!("a range inside the file's {} bytes", self.size);
            return Err(self.wrong("bytes", expected, format!("{start}..{end}")));
        }
        Ok(())
    }

    /// The bytes `start..end`, which must lie in the file: no more is allocated than it has.
    pub fn bytes(&self, start: u64, end: u64) -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::new();
        self.replace(&mut bytes, start, end)?;
        Ok(bytes)
    }

    /// Replaces what is in `buffer` by the bytes `start..end`.
    pub fn replace(&self, buffer: &mut Vec<u8>, start: u64, end: u64) -> Result<(), Error> {
        self.check(start, end)?;
        buffer.clear();
        buffer.resize((end - start) as usize, 0);
        self.fill(buffer, start)
    }

    /// The error that something in this file is not as expected.
    pub fn wrong(
        &self,
        what: impl Into<String>,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> Error {
        Error::format(&self.path, what, expected, found)
    }
}

/// A part of a file as a stream.
#[derive(Debug)]
pub(super) struct Section<'a> {
    source: &'a Source,
    at: u64,
    end: u64,
}

impl io::Read for Section<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = buffer.len().min((self.end - self.at) as usize);
        self.source.read(&mut buffer[..count], self.at)?;
        self.at += count as u64;
        Ok(count)
    }
}
