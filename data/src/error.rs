use std::path::PathBuf;

/// What can go wrong with data: every variant names the file and what was wrong with it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused to read or write.
    #[error("{}: {action} failed", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was tried, such as `read`.
        action: &'static str,
        /// The system's own reason.
        source: std::io::Error,
    },
    /// The file's format is not the one that its reader expects.
    #[error("{}: {what}: expected {expected}, found {found}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// The key, column or part that is wrong.
        what: String,
        /// What a well-formed file has there.
        expected: String,
        /// What this file has there.
        found: String,
    },
    /// A table's columns differ in length, or a column is missing or of another type.
    #[error("column {name}: expected {expected}, found {found}")]
    Column {
        /// The column's name.
        name: String,
        /// The length or type that was expected.
        expected: String,
        /// The length or type that is there.
        found: String,
    },
    /// More lines or images are bad than [`SkipBad`](crate::SkipBad) allows.
    #[error("{bad} (bad items allowed: {allowed})")]
    TooManyBad {
        /// How many are allowed.
        allowed: usize,
        /// What is wrong with the one that is too many.
        bad: Box<Error>,
    },
    /// What should name a repository of the Hub does not.
    #[error("repository {text}: expected {expected}")]
    Repository {
        /// What was given.
        text: String,
        /// The form of a name.
        expected: &'static str,
    },
    /// The Hub, or what answers in its place, does not do what was asked.
    #[error("{url}: {repo}: expected {expected}, found {found} ({hint})")]
    Hub {
        /// What was asked for, without signatures.
        url: Box<str>,
        /// The repository.
        repo: Box<str>,
        /// What a Hub answers.
        expected: Box<str>,
        /// What came.
        found: Box<str>,
        /// What may help.
        hint: Box<str>,
    },
    /// Nothing may be downloaded, and the cache does not have it.
    #[error(
        "{}: expected {file} of {repo} in the cache, found none (offline: unset HF_HUB_OFFLINE to download it)",
        folder.display()
    )]
    NotCached {
        /// The repository.
        repo: String,
        /// The name or pattern of what is missing.
        file: String,
        /// Where it was looked for.
        folder: PathBuf,
    },
}

impl Error {
    pub(crate) fn io(
        path: &std::path::Path,
        action: &'static str,
    ) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Io {
            path: path.to_path_buf(),
            action,
            source,
        }
    }

    pub(crate) fn format(
        path: &std::path::Path,
        what: impl Into<String>,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> Self {
        Self::Format {
            path: path.to_path_buf(),
            what: what.into(),
            expected: expected.into(),
            found: found.into(),
        }
    }
}
