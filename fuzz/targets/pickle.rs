#![no_main]
//! A pickle by its bytes, as the `data.pkl` of an archive whose storages 0, 1 and 2 have 64 bytes
//! each: what is written around it is always sound.

use libfuzzer_sys::fuzz_target;
use rankwise_analysis::fuzzing;
use rankwise_fuzz::within_bounds;

fuzz_target!(|input: &[u8]| within_bounds(archive(input), fuzzing::container));

fn archive(pickle: &[u8]) -> Vec<u8> {
    let numbers: [u8; 64] = std::array::from_fn(|i| i as u8);
    let entries: [(&str, &[u8]); 4] = [
        ("a/data.pkl", pickle),
        ("a/data/0", &numbers),
        ("a/data/1", &numbers),
        ("a/data/2", &numbers),
    ];
    let (mut archive, mut directory) = (Vec::new(), Vec::new());
    for (name, content) in entries {
        let place = archive.len() as u32;
        let sizes = [content.len() as u32, content.len() as u32]
            .map(u32::to_le_bytes)
            .concat();
        let lengths = [name.len() as u8, 0, 0, 0];
        archive.extend(b"PK\x03\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
        archive.extend([&sizes, &lengths[..], name.as_bytes(), content].concat());
        directory.extend(b"PK\x01\x02\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
        directory.extend(
            [
                &sizes,
                &lengths[..],
                &[0; 10],
                &place.to_le_bytes(),
                name.as_bytes(),
            ]
            .concat(),
        );
    }
    let start = (archive.len() as u32).to_le_bytes();
    let length = (directory.len() as u32).to_le_bytes();
    archive.extend(directory);
    archive.extend(b"PK\x05\x06\0\0\0\0\x04\0\x04\0");
    archive.extend([length, start].concat());
    archive.extend([0, 0]);
    archive
}
