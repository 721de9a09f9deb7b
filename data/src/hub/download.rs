//! One file of the Hub into the cache's `blobs`.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use sha1::Sha1;
use sha2::{Digest, Sha256};
use ureq::http::StatusCode;

use super::address::Address;
use super::client::{Call, Client, Failure, OTHER_SERVER, header};
use super::repo::{RepoId, is_commit};
use crate::Error;

/// The longest file whose size nobody says; the Hub says every size.
const LONGEST_UNSIZED: u64 = 64 << 20;

/// Said where the Hub lists a file that it does not have.
const LISTED: &str = "the repository's list has it: it may have been removed just now";

/// What the Hub says of a file before it sends it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Remote {
    /// The blob's name: the SHA-256 of a large file, git's SHA-1 of another.
    pub etag: String,
    /// In bytes, where it says so.
    pub size: Option<u64>,
}

/// The hash that an etag is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hash {
    Sha256,
    Git,
    /// Neither: a mirror's own etag, which says nothing about the bytes.
    Unknown,
}

/// Asks for the file's etag and size, at commit `commit`.
pub(super) fn remote(
    client: &Client,
    repo: &RepoId,
    address: &Address,
    commit: &str,
) -> Result<Remote, Error> {
    let call = Call {
        repo,
        address,
        is_head: true,
        from: 0,
        missing: LISTED,
    };
    client.retrying(|| {
        let mut etag = None;
        let mut size = None;
        let mut other = None;
        client.send(call, |headers, is_redirect| {
            let text = |name| header(headers, name).map(str::to_owned);
            if let Some(found) = text("x-repo-commit").filter(|found| found != commit) {
                other.get_or_insert(found);
            }
            let linked = text("x-linked-etag");
            // The length of a redirect, or beside a linked etag, is that of its own short text.
            size = text("x-linked-size");
            if size.is_none() && linked.is_none() && !is_redirect {
                size = text("content-length");
            }
            etag = linked.clone().or_else(|| text("etag"));
            linked.is_some()
        })?;
        let wrong = |expected: &str, found: String| {
            Failure::lasting(call.error(address, expected, found, OTHER_SERVER))
        };
        if let Some(other) = other {
            return Err(wrong(
                &format!("commit {commit}"),
                format!("commit {other:?}"),
            ));
        }
        let etag = etag.ok_or_else(|| wrong("an etag", "none".to_owned()))?;
        let plain = etag.strip_prefix("W/").unwrap_or(&etag).trim_matches('"');
        let is_plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        if plain.is_empty() || plain.len() > 128 || !plain.bytes().all(is_plain) {
            return Err(wrong("an etag of letters and digits", format!("{etag:?}")));
        }
        let size = match size {
            Some(text) => Some(
                text.parse()
                    .map_err(|_| wrong("a size in bytes", text.clone()))?,
            ),
            None => None,
        };
        let etag = plain.to_owned();
        if size.is_none() && Hash::of(&etag) == Hash::Unknown {
            let found = format!("neither of file with etag {etag}");
            return Err(wrong("a size or a hash to check the file against", found));
        }
        Ok(Remote { etag, size })
    })
}

/// Brings the file into `blobs` under its etag, unless it is there; `see` is told how many of its
/// bytes are here. Gives the blob's path.
pub(super) fn blob(
    client: &Client,
    repo: &RepoId,
    address: &Address,
    remote: &Remote,
    blobs: &Path,
    mut see: impl FnMut(u64),
) -> Result<PathBuf, Error> {
    let path = blobs.join(&remote.etag);
    if let Ok(metadata) = fs::metadata(&path)
        && metadata.is_file()
        && remote.size.is_none_or(|size| size == metadata.len())
    {
        see(metadata.len());
        return Ok(path);
    }
    let part = blobs.join(format!("{}.incomplete", remote.etag));
    client.retrying(|| {
        let have = fs::metadata(&part).map_or(0, |metadata| metadata.len());
        let have = match remote.size {
            // Longer than the whole: not of this file.
            Some(size) if have > size => 0,
            _ => have,
        };
        let call = Call {
            repo,
            address,
            is_head: false,
            from: have,
            missing: LISTED,
        };
        if remote.size != Some(have) || have == 0 {
            receive(client, call, remote, &part, &mut see)?;
        }
        check(call, remote, &part)?;
        let persist = || {
            File::open(&part)?.sync_all()?;
            fs::rename(&part, &path)
        };
        persist().map_err(|error| Failure::lasting(Error::io(&path, "complete")(error)))
    })?;
    Ok(path)
}

/// Appends to `part` what it lacks.
fn receive(
    client: &Client,
    call: Call<'_>,
    remote: &Remote,
    part: &Path,
    see: &mut impl FnMut(u64),
) -> Result<(), Failure> {
    let lasting = |expected: String, found: String| {
        Failure::lasting(call.error(call.address, expected, found, OTHER_SERVER))
    };
    let local = |action| move |error| Failure::lasting(Error::io(part, action)(error));
    let Some(response) = client.send(call, |_, _| false)? else {
        return Err(lasting("an answer".to_owned(), "none".to_owned()));
    };
    let mut have = call.from;
    let start = header(response.headers(), "content-range").and_then(range_start);
    match response.status() {
        StatusCode::PARTIAL_CONTENT if start == Some(have) => {}
        StatusCode::PARTIAL_CONTENT => {
            let found = start.map_or("another".to_owned(), |start| format!("from {start}"));
            return Err(lasting(format!("the bytes from {have}"), found));
        }
        StatusCode::RANGE_NOT_SATISFIABLE => {
            // There is no such rest: what is here is of another file.
            fs::remove_file(part).map_err(local("remove"))?;
            let found = format!("none beyond {have}");
            let error = call.error(call.address, "further bytes", found, OTHER_SERVER);
            return Err(Failure::passing(error));
        }
        // A server that knows no ranges sends it all.
        _ => have = 0,
    }
    let length = header(response.headers(), "content-length").and_then(|text| text.parse().ok());
    if let (Some(size), Some(length)) = (remote.size, length)
        && have.checked_add(length) != Some(size)
    {
        let found = format!("{length} bytes to the {have} that are here");
        return Err(lasting(format!("{size} bytes"), found));
    }
    let mut file = OpenOptions::new()
        .create(true)
        .append(true)
        .open(part)
        .map_err(local("open"))?;
    file.set_len(have).map_err(local("shorten"))?;
    let begun = have;
    see(have);
    let mut body = response.into_body().into_reader();
    let mut buffer = vec![0; 64 * 1024];
    let broken = |have: u64, found: String| {
        let expected = match remote.size {
            Some(size) => format!("{size} bytes"),
            None => "the whole file".to_owned(),
        };
        let hint = "the connection broke; the next attempt goes on from there";
        Failure {
            progress: have - begun,
            ..Failure::passing(call.error(call.address, expected, found, hint))
        }
    };
    loop {
        let read = match body.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(broken(have, format!("{have} bytes, then {error}"))),
        };
        have += read as u64;
        let most = remote.size.unwrap_or(LONGEST_UNSIZED);
        if have > most {
            drop(file);
            fs::remove_file(part).map_err(local("remove"))?;
            return Err(lasting(format!("{most} bytes"), "more".to_owned()));
        }
        file.write_all(&buffer[..read]).map_err(local("write"))?;
        see(have);
    }
    match remote.size {
        Some(size) if have < size => Err(broken(have, format!("{have} bytes"))),
        _ => Ok(()),
    }
}

/// Checks the whole of `part` against its etag, and removes it if it is something else.
fn check(call: Call<'_>, remote: &Remote, part: &Path) -> Result<(), Failure> {
    let kind = Hash::of(&remote.etag);
    let found = kind
        .file(part)
        .map_err(|error| Failure::lasting(Error::io(part, "read")(error)))?;
    if found.as_deref().is_none_or(|found| found == remote.etag) {
        return Ok(());
    }
    let remove = |error| Failure::lasting(Error::io(part, "remove")(error));
    fs::remove_file(part).map_err(remove)?;
    let expected = format!("a file with {} {}", kind.name(), remote.etag);
    let hint = "what came was thrown away; it was changed on its way, or HF_ENDPOINT names a \
                server that does not have the Hub's files";
    let error = call.error(call.address, expected, found.unwrap_or_default(), hint);
    // The first part may have been of another download, and without a size a break is not seen.
    match call.from > 0 || remote.size.is_none() {
        true => Err(Failure::passing(error)),
        false => Err(Failure::lasting(error)),
    }
}

impl Hash {
    fn of(etag: &str) -> Self {
        let is_hex = |b: u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
        if etag.len() == 64 && etag.bytes().all(is_hex) {
            Self::Sha256
        } else if is_commit(etag) {
            Self::Git
        } else {
            Self::Unknown
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Git => "git's sha1",
            Self::Unknown => "etag",
        }
    }

    /// The file's own hash, where the etag is one.
    fn file(self, path: &Path) -> io::Result<Option<String>> {
        match self {
            Self::Sha256 => digest(Sha256::new(), path).map(Some),
            Self::Git => {
                let size = fs::metadata(path)?.len();
                // Git hashes a file behind this header.
                digest(Sha1::new_with_prefix(format!("blob {size}\0")), path).map(Some)
            }
            Self::Unknown => Ok(None),
        }
    }
}

fn digest(mut hash: impl Digest, path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(crate::files::hex(&hash.finalize())),
            read => hash.update(&buffer[..read]),
        }
    }
}

/// The first byte of `bytes FIRST-LAST/SIZE`.
fn range_start(text: &str) -> Option<u64> {
    text.strip_prefix("bytes ")?
        .split('-')
        .next()?
        .trim()
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_those_of_the_programs() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, "abc").unwrap();
        // FIPS 180-2, appendix B.1.
        let sha256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(
            Hash::of(sha256).file(&path).unwrap().as_deref(),
            Some(sha256)
        );
        // `printf abc | git hash-object --stdin`.
        let git = "f2ba8f84ab5c1bce84a7b441cb1959cfc7093b7f";
        assert_eq!(Hash::of(git).file(&path).unwrap().as_deref(), Some(git));
        assert_eq!(Hash::of("abc-12").file(&path).unwrap(), None);
    }
}
