//! Text tasks: what a trainer reads, whatever its file.

mod glue;
pub(crate) mod label;
mod lines;
mod records;
mod squad;
mod table;
mod window;

use crate::{Error, Provenance};

pub use glue::GlueTask;
pub use squad::{Answer, Question, Squad};
pub use table::TextColumns;
pub use window::{Window, Windowing};

/// What an example's answer is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Target {
    /// The index of a class.
    Class(u32),
    /// A number: the task is a regression.
    Score(f32),
}

/// One text or a pair of them, and the answer.
#[derive(Debug, Clone, PartialEq)]
pub struct TextExample {
    /// The text, or the first of two.
    pub first: String,
    /// The second text.
    pub second: Option<String>,
    /// The answer.
    pub target: Target,
    /// Where it stands: which of the set's files, and the line, record or row.
    pub origin: (usize, String),
}

/// Examples in the order of their files.
#[derive(Debug, Clone, PartialEq)]
pub struct TextSet {
    /// The examples.
    pub examples: Vec<TextExample>,
    /// The classes' names in the order of their indices; none for a regression.
    pub classes: Vec<String>,
    /// Where the examples came from.
    pub provenance: Provenance,
}

impl TextSet {
    /// An error about an example.
    ///
    /// # Panics
    /// If it is none of the set's.
    pub fn error(&self, example: &TextExample, expected: &str, found: &str) -> Error {
        let (file, what) = &example.origin;
        Error::format(&self.provenance.files[*file], what, expected, found)
    }

    /// The number of outputs that a model needs: the classes, or 1 for a regression.
    pub fn outputs(&self) -> usize {
        self.classes.len().max(1)
    }
}
