//! Images against Pillow (`fixtures/pillow.py`), and the real sets where they are present.
#![cfg(feature = "images")]

use std::path::{Path, PathBuf};

use rankwise_data::{
    Cifar, Filter, Image, ImageColumns, ImageProcessor, ImageSet, Part, SkipBad, parquet_files,
    sha256_hex,
};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

/// A folder of real data, or `None`, with the reason printed, where there is none.
fn shared(name: &str) -> Option<PathBuf> {
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared");
    let shared = std::env::var_os("RANKWISE_SHARED").map_or_else(beside, PathBuf::from);
    let folder = shared.join("data").join(name);
    if folder.is_dir() {
        return Some(folder);
    }
    eprintln!("skipped: no folder {}", folder.display());
    None
}

/// The generator of `pillow.py`.
fn noise(width: usize, height: usize, seed: u32) -> Image {
    let mut state = seed;
    let pixel = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    Image::new(width, height, (0..3 * width * height).map(pixel).collect())
}

#[test]
fn resizing_is_pillows_to_the_byte() {
    let text = std::fs::read_to_string(fixtures().join("resize.json")).unwrap();
    let cases: Vec<serde_json::Value> = serde_json::from_str(&text).unwrap();
    assert_eq!(cases.len(), 7 * 6 * 2);
    for case in cases {
        let number = |key: &str, at: usize| case[key][at].as_u64().unwrap() as usize;
        let seed = case["seed"].as_u64().unwrap() as u32;
        let image = noise(number("from", 0), number("from", 1), seed);
        let filter = match case["filter"].as_str().unwrap() {
            "bilinear" => Filter::Bilinear,
            _ => Filter::Bicubic,
        };
        let resized = image.resize(number("to", 0), number("to", 1), filter);
        assert_eq!(sha256_hex(resized.pixels()), case["sha256"], "{case}");
    }
}

/// Largest difference a channel, and the mean one.
fn difference(one: &[u8], other: &[u8]) -> (u8, f64) {
    assert_eq!(one.len(), other.len());
    let each = one.iter().zip(other).map(|(a, b)| a.abs_diff(*b));
    let sum: u64 = each.clone().map(u64::from).sum();
    (each.max().unwrap(), sum as f64 / one.len() as f64)
}

#[test]
fn decoding_is_pillows() {
    let folder = fixtures().join("images");
    let mut seen = 0;
    let mut report = String::new();
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
            panic!("{}", path.display())
        };
        if name.ends_with(".rgb") {
            continue;
        }
        let known = std::fs::read(folder.join(format!("{name}.rgb"))).unwrap();
        let image = Image::open(&path).unwrap();
        let side = |at: usize| usize::from(u16::from_le_bytes([known[at], known[at + 1]]));
        assert_eq!(
            (image.width(), image.height()),
            (side(0), side(2)),
            "{name}"
        );
        let (most, mean) = difference(image.pixels(), &known[4..]);
        report += &format!("{name}: at most {most}, mean {mean:.3}\n");
        seen += 1;
    }
    assert_eq!(seen, 14);
    eprintln!("{report}");
}
