use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::repo::{RepoId, is_commit, is_word};
use crate::Error;

/// No commit's name is longer, whatever a file of `refs` holds.
const LONGEST_COMMIT: u64 = 256;

/// The folder in which the Hub's libraries keep what they downloaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubCache {
    root: PathBuf,
}

impl HubCache {
    /// The cache in the folder `root`, which need not be there.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Where the environment says: `HF_HUB_CACHE`, `HUGGINGFACE_HUB_CACHE`, else `hub` in `HF_HOME`,
    /// in `huggingface` of `XDG_CACHE_HOME`, or in `~/.cache/huggingface`; `None` where there is not
    /// even a home folder.
    pub fn from_environment() -> Option<Self> {
        folder_variable("HF_HUB_CACHE")
            .or_else(|| folder_variable("HUGGINGFACE_HUB_CACHE"))
            .or_else(|| Some(hub_home()?.join("hub")))
            .map(Self::new)
    }

    /// The folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The folder of a repository, such as `models--OWNER--NAME`, which need not be there.
    pub fn folder(&self, repo: &RepoId) -> PathBuf {
        self.root.join(repo.folder())
    }

    /// The commit that the revision stands for: itself, or what `refs` says; `None` if nothing does.
    ///
    /// # Errors
    /// [`Error::Format`] if the file in `refs` holds no name of a commit, [`Error::Io`] if it cannot
    /// be read.
    pub fn commit(&self, repo: &RepoId) -> Result<Option<String>, Error> {
        if is_commit(repo.revision()) {
            return Ok(Some(repo.revision().to_owned()));
        }
        let path = self.folder(repo).join("refs").join(repo.revision());
        let mut text = String::new();
        let read =
            File::open(&path).and_then(|file| file.take(LONGEST_COMMIT).read_to_string(&mut text));
        match read {
            Ok(_) if is_word(text.trim()) => Ok(Some(text.trim().to_owned())),
            Ok(_) => Err(Error::format(
                &path,
                "reference",
                "a commit",
                format!("{text:?}"),
            )),
            Err(error) if is_nothing(&error) => Ok(None),
            Err(error) => Err(Error::io(&path, "read")(error)),
        }
    }

    /// The folder of the revision's files; `None` if none of it was ever downloaded. It may lack
    /// files that the repository has.
    ///
    /// # Errors
    /// As [`commit`](Self::commit).
    pub fn snapshot(&self, repo: &RepoId) -> Result<Option<PathBuf>, Error> {
        // Not only what `refs` says: a few tools call a snapshot by a short commit or a tag.
        let commit = self.commit(repo)?;
        let name = commit.as_deref().unwrap_or(repo.revision());
        let folder = self.folder(repo).join("snapshots").join(name);
        Ok(folder.is_dir().then_some(folder))
    }
}

/// A reference that is not there, or whose name goes through a file or ends at a folder.
fn is_nothing(error: &io::Error) -> bool {
    use io::ErrorKind::{IsADirectory, NotADirectory, NotFound};
    matches!(error.kind(), NotFound | NotADirectory | IsADirectory)
}

/// The folder of the Hub's libraries: `HF_HOME`, `huggingface` in `XDG_CACHE_HOME`, or
/// `~/.cache/huggingface`.
pub(super) fn hub_home() -> Option<PathBuf> {
    folder_variable("HF_HOME")
        .or_else(|| Some(folder_variable("XDG_CACHE_HOME")?.join("huggingface")))
        .or_else(|| Some(folder_variable("HOME")?.join(".cache/huggingface")))
}

/// A folder that the environment names; `~` is the home folder where no shell has replaced it.
pub(super) fn folder_variable(name: &str) -> Option<PathBuf> {
    let path = PathBuf::from(std::env::var_os(name).filter(|value| !value.is_empty())?);
    match path.strip_prefix("~") {
        Ok(rest) => Some(PathBuf::from(std::env::var_os("HOME")?).join(rest)),
        Err(_) => Some(path),
    }
}
