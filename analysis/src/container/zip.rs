//! The entries of a zip archive whose contents are stored, not deflated: as PyTorch writes them.
//!
//! A zip file is read from its end: the end record gives the place of the central directory, which
//! gives every entry's name, size and place. Whatever says a size is held against the file; an
//! archive whose entries overlap (so that a small file would hold much) is refused, and so are
//! deflated and encrypted entries. Sizes and places of 64 bits are read (zip64).
//!
//! Source: PKWARE's .ZIP File Format Specification 6.3.10, sections 4.3 and 4.5.3.

use std::collections::BTreeMap;

use super::source::Source;
use crate::Error;

const END: u32 = 0x0605_4b50;
const END_64: u32 = 0x0606_4b50;
const LOCATOR_64: u32 = 0x0706_4b50;
const DIRECTORY: u32 = 0x0201_4b50;
const LOCAL: u32 = 0x0403_4b50;

const END_BYTES: u64 = 22;
const LOCATOR_BYTES: u64 = 20;
const END_64_BYTES: u64 = 56;
const DIRECTORY_BYTES: usize = 46;
const LOCAL_BYTES: u64 = 30;

/// An entry's bytes, `start..end` of the file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stored {
    pub start: u64,
    pub end: u64,
}

/// The stored entries of an archive by name.
pub(super) fn entries(source: &Source) -> Result<BTreeMap<String, Stored>, Error> {
    let (count, start, end) = directory(source)?;
    let bytes = source.bytes(start, end)?;
    let mut rest = &bytes[..];
    let mut entries = BTreeMap::new();
    let mut ranges = Vec::new();
    for number in 0..count {
        let wrong = |found: String| {
            let what = format!("entry {} of {count} in the zip directory", number + 1);
            source.wrong(what, "a stored file", found)
        };
        let (entry, after) = Entry::split(rest).map_err(|found| wrong(found.to_owned()))?;
        rest = after;
        let name = std::str::from_utf8(entry.name)
            .map_err(|_| wrong("a name that is not UTF-8".to_owned()))?;
        let wrong = |expected: &str, found: &str| {
            source.wrong(format!("zip entry {name}"), expected, found)
        };
        if entry.flags & 1 != 0 {
            return Err(wrong("no encryption", "an encrypted file"));
        }
        if entry.method != 0 {
            let found = format!("compression method {}", entry.method);
            return Err(wrong("a stored file, as PyTorch writes", &found));
        }
        if entry.packed != entry.size {
            let found = format!("{} bytes stored in {}", entry.size, entry.packed);
            return Err(wrong("one size", &found));
        }
        let stored = located(source, &entry, start)?;
        ranges.push((entry.place, stored.end));
        if entries.insert(name.to_owned(), stored).is_some() {
            return Err(wrong("one file of this name", "two"));
        }
    }
    if !rest.is_empty() {
        let found = format!("{} bytes more", rest.len());
        return Err(source.wrong("zip directory", format!("{count} entries"), found));
    }
    ranges.sort_unstable();
    if let Some(pair) = ranges.windows(2).find(|pair| pair[0].1 > pair[1].0) {
        let found = format!("one begins at byte {} of another", pair[1].0);
        return Err(source.wrong("zip entries", "files that do not overlap", found));
    }
    Ok(entries)
}

/// Number of entries and byte range of the central directory.
fn directory(source: &Source) -> Result<(u64, u64, u64), Error> {
    let size = source.size();
    let missing = || {
        let expected = "an end record, without which the archive is cut off";
        source.wrong("zip archive", expected, "none")
    };
    // The record ends in a comment of at most 65,535 bytes; PyTorch writes none.
    let first = size.saturating_sub(END_BYTES + 0xffff);
    let tail = source.bytes(first, size)?;
    let ends_the_file = |&at: &usize| {
        let record = &tail[at..];
        u32_at(record, 0) == END && u64::from(u16_at(record, 20)) + END_BYTES == record.len() as u64
    };
    let last = tail
        .len()
        .checked_sub(END_BYTES as usize)
        .ok_or_else(missing)?;
    let at = (0..=last).rev().find(ends_the_file).ok_or_else(missing)?;
    let record = &tail[at..];
    let place = first + at as u64;
    let mut count = u64::from(u16_at(record, 10));
    let mut length = u64::from(u32_at(record, 12));
    let mut start = u64::from(u32_at(record, 16));
    let mut end = place;
    let is_large = count == 0xffff || length == 0xffff_ffff || start == 0xffff_ffff;
    if let Some(locator) = place.checked_sub(LOCATOR_BYTES).filter(|_| is_large) {
        let bytes = source.bytes(locator, place)?;
        if u32_at(&bytes, 0) == LOCATOR_64 {
            end = u64_at(&bytes, 8);
            let record = source.bytes(end, end.saturating_add(END_64_BYTES))?;
            if u32_at(&record, 0) != END_64 {
                return Err(source.wrong("zip64 end record", "its signature", "another"));
            }
            count = u64_at(&record, 32);
            length = u64_at(&record, 40);
            start = u64_at(&record, 48);
        }
    }
    if start.checked_add(length).is_none_or(|sum| sum > end) {
        let found = format!("{length} bytes from byte {start}");
        return Err(source.wrong("zip directory", format!("inside {end} bytes"), found));
    }
    if count > length / DIRECTORY_BYTES as u64 {
        let expected = format!("at most the entries of {length} bytes");
        return Err(source.wrong("zip directory", expected, format!("{count} entries")));
    }
    Ok((count, start, start + length))
}

/// Where an entry's bytes are: after its own header, whose name must be the directory's.
fn located(source: &Source, entry: &Entry<'_>, directory: u64) -> Result<Stored, Error> {
    let wrong = |expected: &str, found: String| {
        let what = format!("zip entry {}", String::from_utf8_lossy(entry.name));
        Err(source.wrong(what, expected, found))
    };
    let outside = || {
        wrong(
            "a place before the directory",
            format!("byte {}", entry.place),
        )
    };
    let named = LOCAL_BYTES + entry.name.len() as u64;
    match entry.place.checked_add(named) {
        Some(end) if end <= directory => (),
        _ => return outside(),
    }
    let header = source.bytes(entry.place, entry.place + named)?;
    if u32_at(&header, 0) != LOCAL || header[LOCAL_BYTES as usize..] != *entry.name {
        return wrong("a header with this name at its place", "another".to_owned());
    }
    let start = entry.place + named + u64::from(u16_at(&header, 28));
    match start.checked_add(entry.size) {
        Some(end) if end <= directory => Ok(Stored { start, end }),
        _ => wrong(
            "bytes before the directory",
            format!("{} from byte {start}", entry.size),
        ),
    }
}

/// One record of the central directory.
struct Entry<'a> {
    name: &'a [u8],
    flags: u16,
    method: u16,
    packed: u64,
    size: u64,
    place: u64,
}

impl<'a> Entry<'a> {
    /// Takes the first record off; the error is what was found instead.
    fn split(bytes: &'a [u8]) -> Result<(Self, &'a [u8]), &'static str> {
        if bytes.len() < DIRECTORY_BYTES || u32_at(bytes, 0) != DIRECTORY {
            return Err("no record");
        }
        let lengths = [28, 30, 32].map(|at| usize::from(u16_at(bytes, at)));
        let (name, rest) = bytes[DIRECTORY_BYTES..]
            .split_at_checked(lengths[0])
            .ok_or("a name beyond the directory's end")?;
        let (extra, rest) = rest
            .split_at_checked(lengths[1])
            .ok_or("a field beyond the directory's end")?;
        let (_, rest) = rest
            .split_at_checked(lengths[2])
            .ok_or("a comment beyond the directory's end")?;
        let mut entry = Self {
            name,
            flags: u16_at(bytes, 8),
            method: u16_at(bytes, 10),
            packed: u64::from(u32_at(bytes, 20)),
            size: u64::from(u32_at(bytes, 24)),
            place: u64::from(u32_at(bytes, 42)),
        };
        entry.widen(extra)?;
        Ok((entry, rest))
    }

    /// Takes sizes that do not fit into 32 bits from the zip64 field.
    fn widen(&mut self, mut extra: &[u8]) -> Result<(), &'static str> {
        let wanted = [&mut self.size, &mut self.packed, &mut self.place];
        let mut wanted = wanted
            .into_iter()
            .filter(|value| **value == 0xffff_ffff)
            .peekable();
        while wanted.peek().is_some() {
            let Some((head, rest)) = extra.split_at_checked(4) else {
                return Err("no zip64 field for its sizes");
            };
            let Some((field, rest)) = rest.split_at_checked(usize::from(u16_at(head, 2))) else {
                return Err("a field that is cut off");
            };
            extra = rest;
            if u16_at(head, 0) == 1 {
                for (value, bytes) in wanted.by_ref().zip(field.chunks_exact(8)) {
                    *value = u64_at(bytes, 0);
                }
                break;
            }
        }
        Ok(())
    }
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from(u16_at(bytes, at)) | u32::from(u16_at(bytes, at + 2)) << 16
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}
