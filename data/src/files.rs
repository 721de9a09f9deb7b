use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::{self, File, TryLockError};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::Error;
use crate::journal::Unfinished;

/// How the names of unfinished files begin.
const TEMPORARY: &str = ".rankwise-unfinished-";

/// Writes `path` whole or not at all: to a temporary name in the same folder, flushed to the disk,
/// then renamed over `path`.
///
/// # Errors
/// [`Error::Io`] if the folder cannot be written or the disk is full; `path` is then as it was.
pub fn write_atomic(
    path: &Path,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<(), Error> {
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    write_atomic_by_way_of(folder, path, write)
}

/// As [`write_atomic`], with the temporary name in `folder`, on the same disk: for a folder in which
/// others take every file for a result.
pub(crate) fn write_atomic_by_way_of(
    folder: &Path,
    path: &Path,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<(), Error> {
    // A killed program's, if any: it wrote here as this one does.
    let _ = discard_leftovers(folder);
    let mut builder = tempfile::Builder::new();
    builder.prefix(TEMPORARY);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        // Temporary files are private by default; a result is as readable as the umask says.
        builder.permissions(fs::Permissions::from_mode(0o666));
    }
    let file = taken(|| {
        let file = builder.tempfile_in(folder)?;
        let lock = file.as_file().try_lock();
        Ok((is_taken(&lock) && file.path().exists()).then_some(file))
    })
    .map_err(Error::io(path, "create"))?;
    let unfinished = Unfinished::new(file.path());
    let mut buffer = BufWriter::new(file);
    write(&mut buffer).map_err(Error::io(path, "write"))?;
    let file = buffer
        .into_inner()
        .map_err(|error| Error::io(path, "write")(error.into_error()))?;
    file.as_file().sync_all().map_err(Error::io(path, "sync"))?;
    unfinished.finish(path, || {
        let renamed = file.persist(path).map(drop);
        renamed.map_err(|error| Error::io(path, "rename")(error.error))
    })
}

/// Makes the folder `path` whole or not at all: `fill` writes into a temporary folder beside it, which
/// is then renamed. There may be an empty folder of that name, but nothing else.
///
/// # Errors
/// [`Error::Format`] if `path` is there and not an empty folder; what `fill` returns; [`Error::Io`].
/// Nothing is then left behind.
pub fn write_folder<E: From<Error>>(
    path: &Path,
    fill: impl FnOnce(&Path) -> Result<(), E>,
) -> Result<(), E> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    check_free(path)?;
    create_folder(parent)?;
    let _ = discard_leftovers(parent);
    let mut builder = tempfile::Builder::new();
    builder.prefix(TEMPORARY);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(fs::Permissions::from_mode(0o777));
    }
    let (folder, _lock) = taken(|| {
        let folder = builder.tempdir_in(parent)?;
        // Where folders cannot be opened they cannot be removed by others either.
        let lock = File::open(folder.path()).ok();
        let is_ours = lock.as_ref().is_none_or(|lock| is_taken(&lock.try_lock()));
        Ok((is_ours && folder.path().exists()).then_some((folder, lock)))
    })
    .map_err(Error::io(path, "create folder"))?;
    let unfinished = Unfinished::new(folder.path());
    fill(folder.path())?;
    unfinished.finish(path, || {
        // An empty folder gives way to another one's name on Unix, but not everywhere.
        if path.is_dir() {
            fs::remove_dir(path).map_err(Error::io(path, "replace"))?;
        }
        fs::rename(folder.path(), path).map_err(Error::io(path, "rename"))
    })?;
    // It is no longer where it would be removed.
    let _ = folder.keep();
    Ok(())
}

/// Checks that a folder of this name can be made: there is none, or an empty one.
///
/// # Errors
/// [`Error::Format`] if there is a file or a folder with something in it, [`Error::Io`] if that cannot
/// be found out.
pub fn check_free(path: &Path) -> Result<(), Error> {
    let metadata = match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other.map_err(Error::io(path, "examine"))?,
    };
    let taken = |found: &str| Error::Format {
        path: path.to_path_buf(),
        what: "folder for results".to_owned(),
        expected: "a new name or an empty folder".to_owned(),
        found: found.to_owned(),
    };
    if !metadata.is_dir() {
        return Err(taken("a file"));
    }
    let mut entries = fs::read_dir(path).map_err(Error::io(path, "list"))?;
    match entries.next() {
        None => Ok(()),
        Some(_) => Err(taken("a folder with something in it; nothing was changed")),
    }
}

/// What `make` makes, again until it is not taken away at once: a program that tidies up at this very
/// moment holds what it found for a leftover.
fn taken<T>(mut make: impl FnMut() -> io::Result<Option<T>>) -> io::Result<T> {
    const TRIES: usize = 100;
    for _ in 0..TRIES {
        if let Some(made) = make()? {
            return Ok(made);
        }
    }
    Err(io::Error::other(
        "every temporary name was taken away again",
    ))
}

/// Whether nobody else has a file; where the system locks none, it is taken for ours.
fn is_taken(lock: &Result<(), TryLockError>) -> bool {
    !matches!(lock, Err(TryLockError::WouldBlock))
}

/// Removes what a killed [`write_atomic`] or [`write_folder`] left in `folder`; what is being written
/// is locked and stays.
///
/// # Errors
/// [`Error::Io`] if the folder cannot be listed or a leftover cannot be removed.
pub fn discard_leftovers(folder: &Path) -> Result<(), Error> {
    for entry in fs::read_dir(folder).map_err(Error::io(folder, "list"))? {
        let entry = entry.map_err(Error::io(folder, "list"))?;
        if entry.file_name().to_string_lossy().starts_with(TEMPORARY) {
            let path = entry.path();
            // Another program's, or gone meanwhile.
            let Ok(lock) = File::open(&path) else {
                continue;
            };
            if lock.try_lock().is_err() {
                continue;
            }
            let removed = if path.is_dir() {
                fs::remove_dir_all(&path)
            } else {
                fs::remove_file(&path)
            };
            match removed {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                removed => removed.map_err(Error::io(&path, "remove"))?,
            }
        }
    }
    Ok(())
}

/// Creates `folder` and the folders above it.
///
/// # Errors
/// [`Error::Io`] if that is not possible, for instance because a file has that name.
pub fn create_folder(folder: &Path) -> Result<(), Error> {
    fs::create_dir_all(folder).map_err(Error::io(folder, "create folder"))
}

/// The whole of a UTF-8 text file.
///
/// # Errors
/// [`Error::Io`] if it cannot be read or is not UTF-8.
pub fn read_text(path: &Path) -> Result<String, Error> {
    fs::read_to_string(path).map_err(Error::io(path, "read"))
}

/// SHA-256 of `bytes` as 64 hexadecimal digits.
pub fn sha256_hex(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// SHA-256 of a file as 64 hexadecimal digits, read in pieces.
///
/// # Errors
/// [`Error::Io`] if the file cannot be read.
pub fn sha256_file(path: &Path) -> Result<String, Error> {
    let mut file = File::open(path).map_err(Error::io(path, "open"))?;
    let mut hash = Sha256::new();
    io::copy(&mut file, &mut HashWriter(&mut hash)).map_err(Error::io(path, "read"))?;
    Ok(hex(&hash.finalize()))
}

/// SHA-256 of a file, or of a folder: of its files' relative paths and hashes in order, a line each.
/// Links to folders are followed, but to none twice; links to nothing and what is no file (pipes,
/// devices) are passed over.
///
/// # Errors
/// [`Error::Io`] if something cannot be listed or read.
pub fn sha256_path(path: &Path) -> Result<String, Error> {
    if !path.is_dir() {
        return sha256_file(path);
    }
    let mut files = walk(path)?.files;
    files.sort();
    let mut whole = Sha256::new();
    for file in files {
        let name = file
            .strip_prefix(path)
            .unwrap_or(&file)
            .display()
            .to_string();
        whole.update(format!("{name} {}\n", sha256_file(&file)?));
    }
    Ok(hex(&whole.finalize()))
}

/// What is found below a folder.
#[derive(Debug, Default)]
pub(crate) struct Walked {
    /// The files, also those behind links, in the order of their folders' paths and of their names.
    pub files: Vec<PathBuf>,
    /// Links that lead to nothing or to a folder that was found already, such as the one above.
    pub links: Vec<PathBuf>,
}

/// Lists what is below `folder`, every folder once.
pub(crate) fn walk(folder: &Path) -> Result<Walked, Error> {
    let mut walked = Walked::default();
    let mut seen = HashSet::new();
    // Nor a folder that this one lies in.
    let real = folder.canonicalize();
    seen.extend(
        real.iter()
            .flat_map(|real| real.ancestors())
            .map(Path::to_path_buf),
    );
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        let mut below = Vec::new();
        for entry in fs::read_dir(&folder).map_err(Error::io(&folder, "list"))? {
            let entry = entry.map_err(Error::io(&folder, "list"))?;
            let found = entry.path();
            let is_link = entry.file_type().is_ok_and(|kind| kind.is_symlink());
            if found.is_dir() {
                below.push((is_link, found));
            } else if found.is_file() {
                walked.files.push(found);
            } else if is_link {
                walked.links.push(found);
            }
        }
        // Folders before links to them, so that which of the two is passed over is no chance.
        below.sort();
        for (is_link, found) in below {
            let real = found.canonicalize();
            match real.map_err(Error::io(&found, "resolve"))? {
                real if seen.insert(real.clone()) => folders.push(found),
                _ if is_link => walked.links.push(found),
                // It was met behind a link before.
                _ => folders.push(found),
            }
        }
    }
    walked.files.sort_by_cached_key(|file| {
        let text = |part: Option<&OsStr>| part.unwrap_or_default().to_string_lossy().into_owned();
        (
            text(file.parent().map(Path::as_os_str)),
            text(file.file_name()),
        )
    });
    Ok(walked)
}

struct HashWriter<'a>(&'a mut Sha256);

impl Write for HashWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

pub(crate) fn hex(digest: &[u8]) -> String {
    use std::fmt::Write as _;
    digest.iter().fold(String::new(), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sha256_of_the_standard_example() {
        // FIPS 180-2, appendix B.1.
        let expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(sha256_hex(b"abc"), expected);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("abc");
        fs::write(&path, "abc").unwrap();
        assert_eq!(sha256_file(&path).unwrap(), expected);
    }

    #[test]
    fn a_failed_write_leaves_the_old_file_and_no_leftover() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("result");
        write_atomic(&path, |out| out.write_all(b"old")).unwrap();
        let full = write_atomic(&path, |out| {
            out.write_all(b"new")?;
            Err(io::Error::from(io::ErrorKind::StorageFull))
        });
        assert!(full.unwrap_err().to_string().contains("result"));
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_folder_is_written_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("above/result");
        let fails = write_folder::<Error>(&path, |new| {
            fs::write(new.join("half"), "half").map_err(Error::io(new, "write"))?;
            Err(Error::io(new, "write")(io::Error::from(
                io::ErrorKind::StorageFull,
            )))
        });
        assert!(fails.is_err());
        assert_eq!(
            fs::read_dir(folder.path().join("above")).unwrap().count(),
            0
        );
        fs::create_dir(&path).unwrap();
        let fill =
            |new: &Path| fs::write(new.join("one"), "whole").map_err(Error::io(new, "write"));
        write_folder::<Error>(&path, fill).unwrap();
        assert_eq!(fs::read(path.join("one")).unwrap(), b"whole");
        // What is there stays.
        let taken = write_folder::<Error>(&path, fill).unwrap_err().to_string();
        assert!(taken.contains("something in it"), "{taken}");
        assert_eq!(fs::read_dir(&path).unwrap().count(), 1);
    }

    #[cfg(unix)]
    #[test]
    fn links_are_followed_once() {
        use std::os::unix::fs::symlink;
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir_all(at("data/a b")).unwrap();
        fs::create_dir_all(at("data/a/c")).unwrap();
        fs::create_dir_all(at("other")).unwrap();
        for name in [
            "data/z",
            "data/a b/1",
            "data/a/c/2",
            "data/a/10",
            "data/a/9",
            "other/3",
        ] {
            fs::write(at(name), name).unwrap();
        }
        let whole = sha256_path(&at("data")).unwrap();
        // A loop, a link to nothing, and two to a folder elsewhere.
        symlink(at("data"), at("data/a/loop")).unwrap();
        symlink(at("nothing"), at("data/a/lost")).unwrap();
        assert_eq!(sha256_path(&at("data")).unwrap(), whole);
        symlink(at("other"), at("data/x")).unwrap();
        symlink(at("other"), at("data/y")).unwrap();
        symlink(at("other/3"), at("data/a/8")).unwrap();
        let walked = walk(&at("data")).unwrap();
        let names = |paths: &[PathBuf]| {
            let names = paths
                .iter()
                .map(|path| path.strip_prefix(at("data")).unwrap());
            let names = names.map(|name| name.display().to_string());
            names.collect::<Vec<_>>().join(" ")
        };
        assert_eq!(names(&walked.files), "z a/10 a/8 a/9 a b/1 a/c/2 x/3");
        let mut links = walked.links;
        links.sort();
        assert_eq!(names(&links), "a/loop a/lost y");
        assert_ne!(sha256_path(&at("data")).unwrap(), whole);
    }

    #[test]
    fn leftovers_of_a_killed_write_are_discarded() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(format!("{TEMPORARY}x")), "half").unwrap();
        fs::create_dir_all(folder.path().join(format!("{TEMPORARY}y/z"))).unwrap();
        fs::write(folder.path().join("result"), "whole").unwrap();
        discard_leftovers(folder.path()).unwrap();
        let left: Vec<_> = fs::read_dir(folder.path()).unwrap().collect();
        assert_eq!(left.len(), 1);
    }

    #[test]
    fn writing_tidies_up_and_leaves_what_others_write() {
        let folder = tempfile::tempdir().unwrap();
        let (path, stale) = (
            folder.path().join("result"),
            folder.path().join(format!("{TEMPORARY}x")),
        );
        fs::write(&stale, "half").unwrap();
        let written = write_atomic(&path, |out| {
            assert!(!stale.exists(), "the leftover of a killed program is there");
            // Another one writes into the same folder meanwhile.
            let other = folder.path().join("other");
            write_atomic(&other, |out| out.write_all(b"other")).unwrap();
            write_folder::<Error>(&folder.path().join("made"), |_| Ok(())).unwrap();
            out.write_all(b"whole")
        });
        written.unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"whole");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 3);
    }
}
