//! CIFAR's binary layout: records of one label byte (CIFAR-100: the coarse and the fine one) and three
//! planes of 32 × 32 bytes, red, green and blue, each row after row.

use std::path::{Path, PathBuf};

use super::Image;
use super::set::{Cifar, ImageSet, Source};
use crate::part::list;
use crate::{Error, Part, Provenance, SkipBad, read_text};

const SIDE: usize = 32;
const PLANE: usize = SIDE * SIDE;

/// CIFAR-10's classes in the order of their indices: those of `batches.meta.txt`.
const TEN: [&str; 10] = [
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
];

/// The images of the official parts.
const OFFICIAL: [(Cifar, Part, usize); 4] = [
    (Cifar::Ten, Part::Train, 50_000),
    (Cifar::Ten, Part::Test, 10_000),
    (Cifar::Hundred, Part::Train, 50_000),
    (Cifar::Hundred, Part::Test, 10_000),
];

pub(super) fn read(
    folder: &Path,
    kind: Cifar,
    part: Part,
    skip: &mut SkipBad,
) -> Result<ImageSet, Error> {
    let files = find(folder, kind, part)?;
    let classes = classes(folder, kind)?;
    let label_bytes = match kind {
        Cifar::Ten => 1,
        Cifar::Hundred => 2,
    };
    let length = label_bytes + 3 * PLANE;
    let (mut labels, mut planes) = (Vec::new(), Vec::new());
    for path in &files {
        let bytes = std::fs::read(path).map_err(Error::io(path, "read"))?;
        for (index, record) in bytes.chunks(length).enumerate() {
            if let Some((label, pixels)) =
                skip.take(parse(path, index + 1, record, length, classes.len()))?
            {
                labels.push(label);
                planes.push(pixels);
            }
        }
    }
    if labels.is_empty() {
        return Err(Error::format(&files[0], "images", "at least one", "none"));
    }
    let mut notes = Vec::new();
    for (of, official, rows) in OFFICIAL {
        if (of, official) == (kind, part) && labels.len() != rows {
            notes.push(format!("{} of the official {rows} images", labels.len()));
        }
    }
    Ok(ImageSet {
        source: Source::Planes(planes),
        labels,
        classes,
        provenance: Provenance { files, notes },
    })
}

/// The official files, or what begins with their names: parts of them.
fn find(folder: &Path, kind: Cifar, part: Part) -> Result<Vec<PathBuf>, Error> {
    let beginning = match (kind, part) {
        (Cifar::Ten, Part::Train) => "data_batch_",
        (_, Part::Train) => "train",
        _ => "test",
    };
    let has_beginning = |name: &str| name.starts_with(beginning) && name.ends_with(".bin");
    let files = match part {
        Part::Train | Part::Test => list(folder, has_beginning)?,
        Part::Validation | Part::Mismatched => Vec::new(),
    };
    if files.is_empty() {
        let expected = format!("{beginning}*.bin for {part}");
        return Err(Error::format(folder, "folder", expected, "none"));
    }
    Ok(files)
}

/// The names beside the images; CIFAR-10's are known, CIFAR-100's are else numbers.
fn classes(folder: &Path, kind: Cifar) -> Result<Vec<String>, Error> {
    let (file, count) = match kind {
        Cifar::Ten => ("batches.meta.txt", 10),
        Cifar::Hundred => ("fine_label_names.txt", 100),
    };
    let path = folder.join(file);
    if path.is_file() {
        let text = read_text(&path)?;
        let names = text.lines().map(str::trim).filter(|name| !name.is_empty());
        let names: Vec<String> = names.map(str::to_owned).collect();
        if names.len() != count {
            let found = names.len().to_string();
            return Err(Error::format(&path, "names", count.to_string(), found));
        }
        return Ok(names);
    }
    Ok(match kind {
        Cifar::Ten => TEN.map(str::to_owned).to_vec(),
        Cifar::Hundred => (0..count).map(|class| class.to_string()).collect(),
    })
}

fn parse(
    path: &Path,
    number: usize,
    record: &[u8],
    length: usize,
    classes: usize,
) -> Result<(u32, Box<[u8]>), Error> {
    let what = format!("record {number}");
    if record.len() != length {
        let found = record.len().to_string();
        return Err(Error::format(path, what, format!("{length} bytes"), found));
    }
    let (head, pixels) = record.split_at(length - 3 * PLANE);
    let label = head[head.len() - 1];
    if usize::from(label) >= classes {
        let expected = format!("a label below {classes}");
        return Err(Error::format(path, what, expected, label.to_string()));
    }
    Ok((u32::from(label), pixels.into()))
}

/// The planes put together.
pub(super) fn image(planes: &[u8]) -> Image {
    let pixels = (0..PLANE).flat_map(|at| [planes[at], planes[PLANE + at], planes[2 * PLANE + at]]);
    Image::new(SIDE, SIDE, pixels.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(labels: &[u8], value: u8) -> Vec<u8> {
        let mut record = labels.to_vec();
        record.extend((0..3 * PLANE).map(|at| value ^ (at / PLANE) as u8));
        record
    }

    #[test]
    fn planes_become_pixels_and_the_fine_label_counts() {
        let folder = tempfile::tempdir().unwrap();
        let bytes = [record(&[19, 99], 8), record(&[0, 3], 16)].concat();
        std::fs::write(folder.path().join("train.bin"), bytes).unwrap();
        let mut skip = SkipBad::default();
        let set = ImageSet::cifar(folder.path(), Cifar::Hundred, Part::Train, &mut skip).unwrap();
        assert_eq!(set.labels(), [99, 3]);
        assert_eq!(
            set.image(1).unwrap().pixels()[..6],
            [16, 17, 18, 16, 17, 18]
        );
        assert_eq!(set.provenance().notes, ["2 of the official 50000 images"]);
        let missing = ImageSet::cifar(folder.path(), Cifar::Hundred, Part::Test, &mut skip);
        let fault = missing.unwrap_err().to_string();
        assert!(
            fault.contains("expected test*.bin for test, found none"),
            "{fault}"
        );
    }

    #[test]
    fn bad_records_are_named_and_counted() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("test_batch.bin");
        let mut bytes = [record(&[9], 0), record(&[10], 0), record(&[1], 0)].concat();
        bytes.extend([1, 2, 3]);
        std::fs::write(path, bytes).unwrap();
        let read =
            |skip: &mut SkipBad| ImageSet::cifar(folder.path(), Cifar::Ten, Part::Test, skip);
        let fault = read(&mut SkipBad::default()).unwrap_err().to_string();
        assert!(
            fault.ends_with("test_batch.bin: record 2: expected a label below 10, found 10"),
            "{fault}"
        );
        let fault = read(&mut SkipBad::new(1)).unwrap_err().to_string();
        assert!(
            fault.ends_with("record 4: expected 3073 bytes, found 3 (bad items allowed: 1)"),
            "{fault}"
        );
        let mut skip = SkipBad::new(2);
        assert_eq!(read(&mut skip).unwrap().labels(), [9, 1]);
        assert_eq!(skip.skipped().len(), 2);
    }
}
