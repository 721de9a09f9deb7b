use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use ureq::tls::Certificate;

use super::address::Address;
use super::cache::HubCache;
use super::client::{Call, Client, Failure, OTHER_SERVER, Patience};
use super::download::{blob, remote};
use super::environment::{certificates, checked_token, is_set, token, variable};
use super::repo::{RepoId, RepoKind, is_commit};
use super::wanted::{is_exact, is_within, wanted};
use crate::files::write_atomic_by_way_of;
use crate::{Error, create_folder};

/// Where the Hub is.
const ENDPOINT: &str = "https://huggingface.co";

/// No repository's list of files is longer: 100,000 names are a tenth of it.
const LONGEST_LIST: u64 = 64 << 20;

/// Resolves ids to files: in the cache if they are there, by download otherwise.
///
/// ```
/// use rankwise_data::{Error, Hub, HubCache, RepoId, RepoKind};
/// let hub = Hub::new(HubCache::new("/nowhere")).with_offline(true);
/// let repo = RepoId::parse(RepoKind::Model, "microsoft/deberta-v3-base")?;
/// let wanted = ["config.json", "model.safetensors|*.bin"];
/// match hub.resolve(&repo, &wanted, |progress| println!("{} bytes", progress.done)) {
///     Err(Error::NotCached { file, folder, .. }) => {
///         assert_eq!(file, "config.json");
///         assert!(folder.ends_with("models--microsoft--deberta-v3-base"));
///     }
///     other => panic!("{other:?}"),
/// }
/// # Ok::<(), rankwise_data::Error>(())
/// ```
#[derive(Clone)]
pub struct Hub {
    cache: HubCache,
    endpoint: Address,
    token: Option<String>,
    certificates: Option<Vec<Certificate<'static>>>,
    is_offline: bool,
    is_refreshed: bool,
    patience: Patience,
}

/// The files that an id was resolved to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubFiles {
    /// The commit that they are of.
    pub commit: String,
    /// Its folder, which may hold further files.
    pub folder: PathBuf,
    /// The wanted ones, in the order of the patterns and of the repository.
    pub files: Vec<PathBuf>,
}

/// How far a download is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HubProgress<'a> {
    /// The file's name in the repository.
    pub file: &'a str,
    /// How many of its bytes are here.
    pub done: u64,
    /// How many it has, where the Hub says so.
    pub total: Option<u64>,
}

/// From here on a name is taken for a misspelt one, by Jaro and Winkler's measure; the beginning that
/// all folders share, `models--`, alone makes up to 0.7.
const SIMILAR: f64 = 0.9;

/// What the Hub's API says of a repository, as far as it is needed.
#[derive(Deserialize)]
struct Listing {
    sha: String,
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
}

impl Hub {
    /// The Hub as the environment describes it to all of its libraries: `HF_HOME`, `HF_HUB_CACHE`,
    /// `HF_ENDPOINT`, `HF_TOKEN` or the file of the login, `HF_HUB_OFFLINE`; `SSL_CERT_FILE` and
    /// proxies as usual.
    ///
    /// # Errors
    /// [`Error::Format`] if one of them cannot be used, [`Error::Io`] if a file cannot be read.
    pub fn from_environment() -> Result<Self, Error> {
        let home = || {
            let found = "neither HF_HUB_CACHE nor HF_HOME nor HOME";
            Error::format(Path::new("environment"), "cache", "a folder", found)
        };
        let mut hub = Self::new(HubCache::from_environment().ok_or_else(home)?);
        if let Some(endpoint) = variable("HF_ENDPOINT") {
            hub = hub.with_endpoint(&endpoint)?;
        }
        hub.token = token()?;
        hub.certificates = certificates()?;
        let is_offline = is_set("HF_HUB_OFFLINE") || is_set("TRANSFORMERS_OFFLINE");
        Ok(hub.with_offline(is_offline))
    }

    /// The Hub with this cache, without a token, whatever the environment says.
    pub fn new(cache: HubCache) -> Self {
        Self {
            cache,
            endpoint: Address::parse(ENDPOINT).expect("the Hub has an address"),
            token: None,
            certificates: None,
            is_offline: false,
            is_refreshed: false,
            patience: Patience::default(),
        }
    }

    /// Another cache.
    pub fn with_cache(mut self, cache: HubCache) -> Self {
        self.cache = cache;
        self
    }

    /// Another server with the Hub's interface, such as a mirror.
    ///
    /// # Errors
    /// [`Error::Format`] if it is no address with scheme http or https.
    pub fn with_endpoint(mut self, endpoint: &str) -> Result<Self, Error> {
        let wrong = || {
            let expected = "an address such as https://huggingface.co";
            Error::format(Path::new("HF_ENDPOINT"), "endpoint", expected, endpoint)
        };
        self.endpoint = Address::parse(endpoint.trim()).ok_or_else(wrong)?;
        Ok(self)
    }

    /// The token that private and gated repositories ask for; it goes to the endpoint only.
    ///
    /// # Errors
    /// [`Error::Format`] if it has spaces or characters outside ASCII.
    pub fn with_token(mut self, token: &str) -> Result<Self, Error> {
        self.token = checked_token(token, Path::new("token"))?;
        Ok(self)
    }

    /// Whether only the cache is asked.
    pub fn with_offline(mut self, is_offline: bool) -> Self {
        self.is_offline = is_offline;
        self
    }

    /// Whether the Hub is asked what a branch stands for now even where the cache has all that is
    /// wanted of the commit that it stood for.
    pub fn with_refresh(mut self, is_refreshed: bool) -> Self {
        self.is_refreshed = is_refreshed;
        self
    }

    /// How long a server is waited for.
    pub fn with_patience(mut self, patience: Patience) -> Self {
        self.patience = patience;
        self
    }

    /// The cache.
    pub fn cache(&self) -> &HubCache {
        &self.cache
    }

    /// The files of a repository that fit the patterns, from the cache or downloaded into it.
    ///
    /// A pattern is a file's name, where `*` is any characters and `?` one; of patterns joined by
    /// `|` the first that a file fits counts, and an empty one at the end lets there be none. Names
    /// without `*`, `?` and `|` that the cache has are taken from there without a request. Others
    /// need the Hub's list of files; offline, a pattern sees the files that the cache has. What is in
    /// the cache is not hashed again; a blob's size is looked at where the Hub says it.
    ///
    /// A second process that wants a blob waits for the first to download it.
    ///
    /// `see` is told the progress of every file that is asked for.
    ///
    /// # Errors
    /// [`Error::NotCached`] offline, if the cache lacks a file; [`Error::Hub`] if the Hub does not
    /// have one, refuses, cannot be reached, or sends what it should not; [`Error::Io`] if the cache
    /// cannot be written. What was downloaded until then is used by the next call.
    pub fn resolve(
        &self,
        repo: &RepoId,
        patterns: &[&str],
        mut see: impl FnMut(HubProgress<'_>),
    ) -> Result<HubFiles, Error> {
        let is_fixed = is_commit(repo.revision()) || !self.is_refreshed;
        if self.is_offline || is_fixed && patterns.iter().all(|pattern| is_exact(pattern)) {
            match self.cached(repo, patterns) {
                // A damaged cache may be mended.
                Err(_) if !self.is_offline => {}
                found => return found,
            }
        }
        let client = Client::new(
            self.endpoint.clone(),
            self.token.clone(),
            self.patience,
            self.certificates.clone(),
        );
        let (commit, names) = self.listing(&client, repo)?;
        let mut files: Vec<&str> = Vec::new();
        for pattern in patterns {
            let found =
                wanted(pattern, &names).ok_or_else(|| self.missing(repo, pattern, &names))?;
            files.extend(
                found
                    .iter()
                    .filter(|file| !files.contains(file))
                    .collect::<Vec<_>>(),
            );
        }
        let folder = self.cache.folder(repo);
        let snapshot = folder.join("snapshots").join(&commit);
        create_folder(&snapshot)?;
        for file in &files {
            self.bring(&client, repo, &commit, file, &mut see)?;
        }
        // Last: a branch stands for a commit whose files are here. Not again: a cache that has it
        // all may be read only.
        let known = self.cache.commit(repo).ok().flatten();
        if known.as_ref() != Some(&commit) {
            let reference = folder.join("refs").join(repo.revision());
            if let Some(parent) = reference.parent() {
                create_folder(parent)?;
            }
            // Other programs take every file in `refs` for a branch.
            write_atomic_by_way_of(&folder, &reference, |out| out.write_all(commit.as_bytes()))?;
        }
        Ok(HubFiles {
            files: files.iter().map(|file| snapshot.join(file)).collect(),
            folder: snapshot,
            commit,
        })
    }

    /// What the cache has of the patterns' files, all of them.
    fn cached(&self, repo: &RepoId, patterns: &[&str]) -> Result<HubFiles, Error> {
        let lacks = |file: &str, folder: PathBuf| Error::NotCached {
            repo: repo.to_string(),
            file: file.to_owned(),
            folder,
        };
        let Some(folder) = self.cache.snapshot(repo)? else {
            let wanted = patterns.first().copied().unwrap_or("any file");
            return Err(lacks(wanted, self.cache.folder(repo)));
        };
        let mut names = Vec::new();
        list(&folder, &folder, &mut names)?;
        names.sort();
        let mut files: Vec<PathBuf> = Vec::new();
        for pattern in patterns {
            let found = wanted(pattern, &names).ok_or_else(|| lacks(pattern, folder.clone()))?;
            for file in found.iter().map(|name| folder.join(name)) {
                if !files.contains(&file) {
                    files.push(file);
                }
            }
        }
        let commit = folder.file_name().unwrap_or_default();
        Ok(HubFiles {
            commit: commit.to_string_lossy().into_owned(),
            folder,
            files,
        })
    }

    /// The commit that the revision stands for now, and the names of its files.
    fn listing(&self, client: &Client, repo: &RepoId) -> Result<(String, Vec<String>), Error> {
        let parts = ["api", repo.kind().key()].into_iter();
        let parts = parts.chain(repo.name().split('/'));
        let address = self
            .endpoint
            .with(parts.chain(["revision", repo.revision()]));
        let missing = self.nearest(repo);
        let call = Call {
            repo,
            address: &address,
            is_head: false,
            from: 0,
            missing: &missing,
        };
        let wrong =
            |expected: &str, found: String| call.error(&address, expected, found, OTHER_SERVER);
        let mut bytes = Vec::new();
        client.retrying(|| {
            bytes.clear();
            let Some(response) = client.send(call, |_, _| false)? else {
                return Ok(());
            };
            let body = response.into_body().into_reader();
            body.take(LONGEST_LIST + 1)
                .read_to_end(&mut bytes)
                .map_err(|e| Failure::passing(wrong("a list of files", e.to_string())))?;
            Ok(())
        })?;
        if bytes.len() as u64 > LONGEST_LIST {
            return Err(wrong(
                "a list of files of at most 64 MiB",
                "more".to_owned(),
            ));
        }
        let listing: Listing = serde_json::from_slice(&bytes)
            .map_err(|error| wrong("a list of files", format!("JSON that is none: {error}")))?;
        if !is_commit(&listing.sha) {
            let found = format!("{:?}", listing.sha);
            return Err(wrong("a commit of 40 hexadecimal digits", found));
        }
        let names: Vec<String> = listing.siblings.into_iter().map(|s| s.rfilename).collect();
        if let Some(name) = names.iter().find(|name| !is_within(name)) {
            return Err(wrong(
                "names of files in the repository",
                format!("{name:?}"),
            ));
        }
        Ok((listing.sha, names))
    }

    /// What may help if there is no such repository or revision.
    fn nearest(&self, repo: &RepoId) -> String {
        let folder = repo.folder();
        let near = |other: &str| strsim::jaro_winkler(other, &folder);
        let others = fs::read_dir(self.cache.root())
            .into_iter()
            .flatten()
            .flatten();
        let nearest = others
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|other| *other != folder && near(other) > SIMILAR)
            .max_by(|x, y| near(x).total_cmp(&near(y)));
        let what = "the name or the revision may be wrong";
        let name = nearest.as_deref().and_then(|other| other.split_once("--"));
        match name {
            Some((_, name)) => format!("{what}; the cache has {}", name.replacen("--", "/", 1)),
            None => what.to_owned(),
        }
    }

    /// No file fits a pattern.
    fn missing(&self, repo: &RepoId, pattern: &str, names: &[String]) -> Error {
        let near = |name: &&String| strsim::jaro_winkler(name, pattern);
        let nearest = names.iter().max_by(|x, y| near(x).total_cmp(&near(y)));
        let hint = match nearest {
            Some(name) => format!("the nearest of its {} files is {name}", names.len()),
            None => "the repository is empty".to_owned(),
        };
        Error::Hub {
            url: self
                .endpoint
                .with(repo.name().split('/'))
                .to_string()
                .into(),
            repo: repo.to_string().into(),
            expected: format!("file {pattern}").into(),
            found: "none of that name".into(),
            hint: hint.into(),
        }
    }

    /// Downloads one file, unless its blob is there, and links it into the snapshot.
    fn bring(
        &self,
        client: &Client,
        repo: &RepoId,
        commit: &str,
        file: &str,
        see: &mut impl FnMut(HubProgress<'_>),
    ) -> Result<(), Error> {
        let folder = self.cache.folder(repo);
        let link = folder.join("snapshots").join(commit).join(file);
        // What a commit's file is never changes.
        if link.is_file() {
            return Ok(());
        }
        let prefix = match repo.kind() {
            RepoKind::Model => None,
            RepoKind::Dataset => Some("datasets"),
        };
        let parts = prefix.into_iter().chain(repo.name().split('/'));
        let parts = parts.chain(["resolve", commit]).chain(file.split('/'));
        let address = self.endpoint.with(parts);
        let remote = remote(client, repo, &address, commit)?;
        let (locks, blobs) = (self.cache.root().join(".locks"), folder.join("blobs"));
        create_folder(&blobs)?;
        let lock = locks
            .join(repo.folder())
            .join(format!("{}.lock", remote.etag));
        let held = hold(&lock)?;
        let total = remote.size;
        let seen = |done| see(HubProgress { file, done, total });
        let blob = blob(client, repo, &address, &remote, &blobs, seen)?;
        drop(held);
        link_to(&blob, &link, file)
    }
}

impl std::fmt::Debug for Hub {
    /// Without the token.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hub")
            .field("cache", &self.cache)
            .field("endpoint", &self.endpoint.to_string())
            .field("has_token", &self.token.is_some())
            .field("is_offline", &self.is_offline)
            .field("is_refreshed", &self.is_refreshed)
            .field("patience", &self.patience)
            .finish_non_exhaustive()
    }
}

/// The names below `folder`, with slashes, of what leads to a file.
fn list(root: &Path, folder: &Path, names: &mut Vec<String>) -> Result<(), Error> {
    for entry in fs::read_dir(folder).map_err(Error::io(folder, "list"))? {
        let entry = entry.map_err(Error::io(folder, "list"))?;
        let path = entry.path();
        // Links to folders are not followed: no library makes them.
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            list(root, &path, names)?;
        } else if path.is_file() {
            let parts = path.strip_prefix(root).unwrap_or(&path).iter();
            let parts: Vec<_> = parts.map(|part| part.to_string_lossy()).collect();
            names.push(parts.join("/"));
        }
    }
    Ok(())
}

/// Waits until no other process downloads this blob. The Hub's libraries lock the same file.
fn hold(lock: &Path) -> Result<File, Error> {
    if let Some(parent) = lock.parent() {
        create_folder(parent)?;
    }
    let file = File::create(lock).map_err(Error::io(lock, "create"))?;
    match file.lock() {
        // A file system without locks: as good as there can be.
        Err(error) if error.kind() == io::ErrorKind::Unsupported => Ok(file),
        Err(error) => Err(Error::io(lock, "lock")(error)),
        Ok(()) => Ok(file),
    }
}

/// Makes `link` lead to `blob` by a relative path, as the whole cache may be moved; a copy where
/// there are no links.
fn link_to(blob: &Path, link: &Path, file: &str) -> Result<(), Error> {
    if let Some(parent) = link.parent() {
        create_folder(parent)?;
    }
    // Leads nowhere: its blob was removed.
    if link.is_symlink() && !link.exists() {
        fs::remove_file(link).map_err(Error::io(link, "remove"))?;
    }
    #[cfg(unix)]
    let made = {
        let up = "../".repeat(2 + file.matches('/').count());
        let target = PathBuf::from(up)
            .join("blobs")
            .join(blob.file_name().unwrap_or_default());
        std::os::unix::fs::symlink(target, link)
    };
    #[cfg(not(unix))]
    let made = {
        let _ = file;
        fs::copy(blob, link).map(|_| ())
    };
    match made {
        // Another process was as fast.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && link.is_file() => Ok(()),
        Err(error) => Err(Error::io(link, "link")(error)),
        Ok(()) => Ok(()),
    }
}
