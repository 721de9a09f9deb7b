use std::fmt;

use crate::Error;

/// The revision of a repository that is meant where none is named.
const MAIN: &str = "main";

/// The longest name of a repository.
const LONGEST: usize = 96;

/// What a repository of the Hub holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RepoKind {
    /// Weights, a configuration, a tokenizer.
    Model,
    /// Tables or files of examples.
    Dataset,
}

impl RepoKind {
    /// The name in folders of the cache and in the Hub's paths: `models` or `datasets`.
    pub fn key(self) -> &'static str {
        match self {
            Self::Model => "models",
            Self::Dataset => "datasets",
        }
    }
}

/// A repository of the Hub at a revision: a name that is safe as part of a path.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RepoId {
    kind: RepoKind,
    name: String,
    revision: String,
}

impl RepoId {
    /// Reads `OWNER/NAME`, `NAME`, or either with `@REVISION`.
    ///
    /// ```
    /// use rankwise_data::{RepoId, RepoKind};
    /// let id = RepoId::parse(RepoKind::Model, "microsoft/deberta-v3-base@refs/pr/7")?;
    /// assert_eq!((id.name(), id.revision()), ("microsoft/deberta-v3-base", "refs/pr/7"));
    /// assert!(RepoId::parse(RepoKind::Model, "../secret").is_err());
    /// # Ok::<(), rankwise_data::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Repository`] if the name or the revision is not of the Hub's form: at most 96
    /// letters, digits, `-`, `_` and `.`, without `--` or `..`, and none of `-` and `.` at either
    /// end; in a revision also words of these between slashes.
    pub fn parse(kind: RepoKind, text: &str) -> Result<Self, Error> {
        let (name, revision) = text.split_once('@').unwrap_or((text, MAIN));
        let wrong = |expected: &'static str| Error::Repository {
            text: text.to_owned(),
            expected,
        };
        let parts: Vec<&str> = name.split('/').collect();
        let is_part = |part: &&str| {
            let ends_well = |c: &str| !part.starts_with(c) && !part.ends_with(c);
            is_word(part) && !part.contains("--") && ends_well("-") && ends_well(".")
        };
        if parts.len() > 2 || !parts.iter().all(is_part) || name.len() > LONGEST {
            return Err(wrong("OWNER/NAME of letters, digits, '-', '_' and '.'"));
        }
        if !revision.split('/').all(is_word) || revision.len() > 255 {
            return Err(wrong("a branch, tag or commit after '@'"));
        }
        let (name, revision) = (name.to_owned(), revision.to_owned());
        Ok(Self {
            kind,
            name,
            revision,
        })
    }

    /// The same repository at another revision.
    ///
    /// # Errors
    /// [`Error::Repository`] if the revision is not of the Hub's form.
    pub fn with_revision(&self, revision: &str) -> Result<Self, Error> {
        Self::parse(self.kind, &format!("{}@{revision}", self.name))
    }

    /// What it holds.
    pub fn kind(&self) -> RepoKind {
        self.kind
    }

    /// `OWNER/NAME`, or `NAME` for a few old repositories.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A branch, a tag or a commit.
    pub fn revision(&self) -> &str {
        &self.revision
    }

    /// The name of its folder in the cache.
    pub(crate) fn folder(&self) -> String {
        let name = self.name.replace('/', "--");
        format!("{}--{name}", self.kind.key())
    }
}

impl fmt::Display for RepoId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            RepoKind::Model => "model",
            RepoKind::Dataset => "data set",
        };
        write!(f, "{kind} {}", self.name)?;
        match self.revision.as_str() {
            MAIN => Ok(()),
            revision => write!(f, "@{revision}"),
        }
    }
}

/// Whether the text is one harmless component of a path.
pub(crate) fn is_word(text: &str) -> bool {
    !text.is_empty()
        && !text.starts_with('.')
        && !text.contains("..")
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
}

/// Whether the text is a commit's name: 40 hexadecimal digits.
pub(crate) fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        for text in [
            "",
            "/",
            "a/",
            "/a",
            "a/b/c",
            "..",
            "../a",
            "a/..",
            ".hidden/a",
            "a/b.",
            "-a/b",
            "a--b/c",
            "a/b@",
            "a/b@..",
            "a/b@../x",
            "a/b@x//y",
            "a/b@/x",
            "a b/c",
            "a\\b",
            "a/b@x\\y",
            "a/b%2fc",
            "caf\u{e9}/x",
        ] {
            let refused = RepoId::parse(RepoKind::Model, text);
            assert!(
                matches!(refused, Err(Error::Repository { .. })),
                "{text:?} is accepted"
            );
        }
        assert!(RepoId::parse(RepoKind::Model, &"a".repeat(97)).is_err());
    }

    #[test]
    fn the_folder_is_the_libraries_own() {
        let id = |kind, text| RepoId::parse(kind, text).unwrap().folder();
        assert_eq!(id(RepoKind::Model, "gpt2"), "models--gpt2");
        assert_eq!(
            id(RepoKind::Dataset, "nyu-mll/glue"),
            "datasets--nyu-mll--glue"
        );
    }
}
