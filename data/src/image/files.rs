//! Images in files of their own: Food-101, and folders by class.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::set::{ImageSet, Source};
use crate::part::list;
use crate::{Error, Part, Provenance, SkipBad, read_text};

/// How the names of images end.
const ENDINGS: [&str; 5] = ["jpg", "jpeg", "png", "webp", "bmp"];
/// Lines of the official lists.
const FOOD101_TRAIN: usize = 75_750;
const FOOD101_TEST: usize = 25_250;

pub(super) fn food101(folder: &Path, part: Part, skip: &mut SkipBad) -> Result<ImageSet, Error> {
    let (file, official) = match part {
        Part::Train => ("train.txt", FOOD101_TRAIN),
        Part::Test => ("test.txt", FOOD101_TEST),
        other => {
            let found = other.to_string();
            return Err(Error::format(folder, "part", "train or test", found));
        }
    };
    let path = folder.join("meta").join(file);
    let text = read_text(&path)?;
    let names = folder.join("meta/classes.txt");
    let classes = if names.is_file() {
        let names = read_text(&names)?;
        let names = names.lines().map(str::trim).filter(|name| !name.is_empty());
        names.map(str::to_owned).collect()
    } else {
        distinct(
            text.lines()
                .filter_map(|line| line.split_once('/'))
                .map(|(class, _)| class),
        )
    };
    let index = indices(&classes);
    let (mut labels, mut paths) = (Vec::new(), Vec::new());
    for (number, line) in text.lines().map(str::trim).enumerate() {
        if line.is_empty() {
            continue;
        }
        let what = format!("line {}", number + 1);
        let image = image_of(folder, &path, what, line, &index);
        if let Some((label, image)) = skip.take(image)? {
            labels.push(label);
            paths.push(image);
        }
    }
    if labels.is_empty() {
        return Err(Error::format(&path, "images", "at least one", "none"));
    }
    let mut notes = Vec::new();
    if labels.len() != official {
        notes.push(format!(
            "{} of the official {official} images",
            labels.len()
        ));
    }
    Ok(ImageSet {
        source: Source::Files(paths),
        labels,
        classes,
        provenance: Provenance {
            files: vec![path],
            notes,
        },
    })
}

/// The label and file that a line such as `apple_pie/1005649` means.
fn image_of(
    folder: &Path,
    list: &Path,
    what: String,
    line: &str,
    classes: &HashMap<&str, u32>,
) -> Result<(u32, PathBuf), Error> {
    let wrong = |expected: String| Error::format(list, what, expected, format!("{line:?}"));
    let is_name = |name: &str| !name.is_empty() && name != ".." && !name.contains(['/', '\\']);
    let Some((class, id)) = line.split_once('/').filter(|(_, id)| is_name(id)) else {
        return Err(wrong(
            "a class and a number, as in apple_pie/1005649".to_owned(),
        ));
    };
    let Some(&label) = classes.get(class).filter(|_| is_name(class)) else {
        return Err(wrong(format!("one of the {} classes", classes.len())));
    };
    let image = folder.join("images").join(class).join(format!("{id}.jpg"));
    if !image.is_file() {
        return Err(wrong(format!("the image {}", image.display())));
    }
    Ok((label, image))
}

pub(super) fn folder(folder: &Path, classes: Option<&[String]>) -> Result<ImageSet, Error> {
    let mut folders = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(Error::io(folder, "list"))? {
        let entry = entry.map_err(Error::io(folder, "list"))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if entry.path().is_dir() && !name.starts_with('.') {
            folders.push((name, entry.path()));
        }
    }
    folders.sort();
    let names = folders.iter().map(|(name, _)| name.as_str());
    let classes = classes.map_or_else(|| distinct(names), <[String]>::to_vec);
    let index = indices(&classes);
    let (mut labels, mut paths) = (Vec::new(), Vec::new());
    for (name, path) in &folders {
        let images = list(path, |file| {
            let ending = file
                .rsplit_once('.')
                .map(|(_, ending)| ending.to_ascii_lowercase());
            ending.is_some_and(|ending| ENDINGS.contains(&ending.as_str()))
        })?;
        if images.is_empty() {
            continue;
        }
        let Some(&label) = index.get(name.as_str()) else {
            let expected = format!("one of the {} classes", classes.len());
            return Err(Error::format(path, "folder", expected, format!("{name:?}")));
        };
        labels.extend(std::iter::repeat_n(label, images.len()));
        paths.extend(images);
    }
    if labels.is_empty() {
        let expected = "a folder for every class with images that end in .jpg, .png, .webp or .bmp";
        return Err(Error::format(folder, "folder", expected, "none"));
    }
    Ok(ImageSet {
        source: Source::Files(paths),
        labels,
        classes,
        provenance: Provenance {
            files: vec![folder.to_path_buf()],
            notes: Vec::new(),
        },
    })
}

/// Every name once, sorted.
fn distinct<'a>(names: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut names: Vec<String> = names.map(str::to_owned).collect();
    names.sort();
    names.dedup();
    names
}

fn indices(classes: &[String]) -> HashMap<&str, u32> {
    let names = classes.iter().map(String::as_str);
    names.zip(0..).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(path: &Path, value: u8) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        ::image::RgbImage::from_pixel(2, 3, ::image::Rgb([value; 3]))
            .save(path)
            .unwrap();
    }

    #[test]
    fn a_folder_for_every_class() {
        let folder = tempfile::tempdir().unwrap();
        write(&folder.path().join("zebra/1.png"), 10);
        write(&folder.path().join("ape/b.PNG"), 20);
        write(&folder.path().join("ape/a.bmp"), 30);
        std::fs::write(folder.path().join("ape/notes.txt"), "x").unwrap();
        let set = ImageSet::folder(folder.path(), None).unwrap();
        assert_eq!(set.classes(), ["ape", "zebra"]);
        assert_eq!(set.labels(), [0, 0, 1]);
        let first = |index: usize| set.image(index).unwrap().pixels()[0];
        assert_eq!([0, 1, 2].map(first), [30, 20, 10]);
        let other = ImageSet::folder(folder.path(), Some(&["zebra".to_owned()]));
        let fault = other.unwrap_err().to_string();
        assert!(
            fault.contains("ape: folder: expected one of the 1 classes"),
            "{fault}"
        );
        let none = ImageSet::folder(&folder.path().join("ape"), None).unwrap_err();
        assert!(none.to_string().contains("a folder for every class"));
    }

    #[test]
    fn lists_name_their_bad_lines() {
        let folder = tempfile::tempdir().unwrap();
        write(&folder.path().join("images/pie/1.jpg"), 200);
        std::fs::create_dir(folder.path().join("meta")).unwrap();
        std::fs::write(folder.path().join("meta/classes.txt"), "cake\npie\n").unwrap();
        let list = "pie/1\npie/2\nsoup/1\n../x/1\n\n";
        std::fs::write(folder.path().join("meta/train.txt"), list).unwrap();
        let mut skip = SkipBad::new(3);
        let set = ImageSet::food101(folder.path(), Part::Train, &mut skip).unwrap();
        assert_eq!((set.labels(), set.classes().len()), (&[1][..], 2));
        let wanted = [
            "line 2: expected the image",
            "line 3: expected one of",
            "line 4: expected a class",
        ];
        for (skipped, wanted) in skip.skipped().iter().zip(wanted) {
            assert!(skipped.contains(wanted), "{skipped}");
        }
        assert_eq!(skip.skipped().len(), 3);
        let fault = ImageSet::food101(folder.path(), Part::Train, &mut SkipBad::default());
        assert!(fault.unwrap_err().to_string().contains("line 2"));
    }
}
