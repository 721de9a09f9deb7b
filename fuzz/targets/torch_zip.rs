#![no_main]
//! A zip archive by its bytes. The mutations rarely keep an archive's records in step, so a second
//! pass takes the input as a directory and moves its end record to where that is.

use libfuzzer_sys::fuzz_target;
use rankwise_analysis::fuzzing;
use rankwise_fuzz::within_bounds;

fuzz_target!(|input: &[u8]| {
    let named = [b"PK\x03\x04", input.get(4..).unwrap_or_default()].concat();
    within_bounds(named, fuzzing::container);
    within_bounds(with_end(input), fuzzing::container);
});

/// The input with an end record for a directory that begins at its first directory signature.
fn with_end(input: &[u8]) -> Vec<u8> {
    let start = input
        .windows(4)
        .position(|four| four == b"PK\x01\x02")
        .unwrap_or(input.len());
    let end = input
        .windows(4)
        .position(|four| four == b"PK\x05\x06")
        .unwrap_or(input.len());
    let directory = &input[start..end.max(start)];
    let count = directory
        .windows(4)
        .filter(|four| *four == b"PK\x01\x02")
        .count();
    let mut archive = input[..end.max(start)].to_vec();
    archive.extend(b"PK\x05\x06\0\0\0\0");
    archive.extend((count as u16).to_le_bytes());
    archive.extend((count as u16).to_le_bytes());
    archive.extend((directory.len() as u32).to_le_bytes());
    archive.extend((start as u32).to_le_bytes());
    archive.extend([0, 0]);
    archive
}
