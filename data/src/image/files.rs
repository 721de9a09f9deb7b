//! Images in files of their own: Food-101, and folders by class.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use super::set::{ImageSet, Source};
use crate::files::walk;
use crate::{Error, Part, Provenance, SkipBad, read_text};

/// How the names of images end that are read.
const ENDINGS: [&str; 16] = [
    "jpg", "jpeg", "jpe", "jfif", "png", "apng", "webp", "bmp", "dib", "tif", "tiff", "gif", "ppm",
    "pgm", "pbm", "pnm",
];
/// And of some that are not.
const UNREAD: [&str; 21] = [
    "avif", "heic", "heif", "jp2", "j2k", "jpx", "jxl", "svg", "psd", "tga", "ico", "exr", "hdr",
    "dds", "pcx", "cr2", "nef", "arw", "dng", "raw", "pam",
];
/// Endings that a note names.
const NAMED: usize = 8;
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
    let mut found = Found::default();
    for entry in std::fs::read_dir(folder).map_err(Error::io(folder, "list"))? {
        let entry = entry.map_err(Error::io(folder, "list"))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with('.') {
            found.hidden += 1;
        } else if entry.path().is_dir() {
            folders.push((name, entry.path()));
        } else {
            found.beside += 1;
        }
    }
    folders.sort();
    let names = folders.iter().map(|(name, _)| name.as_str());
    let is_given = classes.is_some();
    let classes = classes.map_or_else(|| distinct(names), <[String]>::to_vec);
    let index = indices(&classes);
    let (mut labels, mut paths) = (Vec::new(), Vec::new());
    for (name, path) in &folders {
        let (images, own) = Found::below(path)?;
        if images.is_empty() {
            let expected = format!("an image that ends in .{}", ENDINGS.join(", ."));
            let found = own.left_out().unwrap_or_else(|| "nothing".to_owned());
            return Err(Error::format(path, "class", expected, found));
        }
        let Some(&label) = index.get(name.as_str()) else {
            let expected = format!("one of the {} classes", classes.len());
            return Err(Error::format(path, "folder", expected, format!("{name:?}")));
        };
        labels.extend(std::iter::repeat_n(label, images.len()));
        paths.extend(images);
        found.add(own);
    }
    if labels.is_empty() {
        let expected = "a folder for every class, with images in it";
        let left_out = found.left_out().unwrap_or_else(|| "none".to_owned());
        return Err(Error::format(folder, "folder", expected, left_out));
    }
    let mut notes = Vec::new();
    notes.extend(found.said(folder, labels.len()));
    let absent = classes.len() - folders.len();
    if is_given && absent > 0 {
        notes.push(format!(
            "{}: no image of {absent} of the {} classes",
            folder.display(),
            classes.len()
        ));
    }
    Ok(ImageSet {
        source: Source::Files(paths),
        labels,
        classes,
        provenance: Provenance {
            files: vec![folder.to_path_buf()],
            notes,
        },
    })
}

/// What was found below a folder, counted.
#[derive(Debug, Default)]
struct Found {
    /// Images by their endings.
    images: BTreeMap<String, usize>,
    /// Images of formats that are not read, by their endings.
    unread: BTreeMap<String, usize>,
    /// Other files, by their endings.
    others: BTreeMap<String, usize>,
    /// Files and folders whose name begins with a point, and what is in such folders.
    hidden: usize,
    /// Links to nothing, or to a folder that was found already.
    links: usize,
    /// Files beside the folders of classes.
    beside: usize,
}

impl Found {
    /// The images below a class's folder, at any depth.
    fn below(folder: &Path) -> Result<(Vec<PathBuf>, Self), Error> {
        let mut found = Self::default();
        let mut images = Vec::new();
        let walked = walk(folder)?;
        found.links = walked.links.len();
        for path in walked.files {
            let inside = path.strip_prefix(folder).unwrap_or(&path);
            let mut parts = inside.iter().map(|part| part.to_string_lossy());
            let ending = inside.extension().unwrap_or_default();
            let ending = ending.to_string_lossy().to_ascii_lowercase();
            if parts.any(|part| part.starts_with('.')) {
                found.hidden += 1;
            } else if ENDINGS.contains(&&*ending) {
                *found.images.entry(ending).or_default() += 1;
                images.push(path);
            } else if UNREAD.contains(&&*ending) {
                *found.unread.entry(ending).or_default() += 1;
            } else {
                *found.others.entry(ending).or_default() += 1;
            }
        }
        Ok((images, found))
    }

    fn add(&mut self, other: Self) {
        for (sum, part) in [
            (&mut self.images, other.images),
            (&mut self.unread, other.unread),
            (&mut self.others, other.others),
        ] {
            for (ending, count) in part {
                *sum.entry(ending).or_default() += count;
            }
        }
        self.hidden += other.hidden;
        self.links += other.links;
        self.beside += other.beside;
    }

    /// What is no image to be read, by count.
    fn left_out(&self) -> Option<String> {
        let mut parts = Vec::new();
        let mut say = |count: usize, one: &str, many: &str, endings: String| {
            if count > 0 {
                let what = if count == 1 { one } else { many };
                parts.push(format!("{count} {what}{endings}"));
            }
        };
        let counted = |counts: &BTreeMap<String, usize>| {
            (counts.values().sum(), format!(" ({})", listed(counts)))
        };
        let (unread, endings) = counted(&self.unread);
        let one = "image of a format that is not read";
        say(unread, one, "images of formats that are not read", endings);
        let (others, endings) = counted(&self.others);
        say(
            others,
            "file that is no image",
            "files that are no images",
            endings,
        );
        say(self.hidden, "hidden file", "hidden files", String::new());
        let one = "link to nothing or back";
        say(self.links, one, "links to nothing or back", String::new());
        let one = "file beside the folders";
        say(self.beside, one, "files beside the folders", String::new());
        (!parts.is_empty()).then(|| parts.join(", "))
    }

    /// What a reader of the results should know: what was left out, and which formats there are where
    /// it is not one.
    fn said(&self, folder: &Path, images: usize) -> Option<String> {
        let left_out = self.left_out();
        if left_out.is_none() && self.images.len() < 2 {
            return None;
        }
        let left_out = left_out.map_or(String::new(), |left_out| format!("; left out: {left_out}"));
        let (folder, read) = (folder.display(), listed(&self.images));
        Some(format!("{folder}: {images} images ({read}){left_out}"))
    }
}

/// `2 .png, 1 without ending`, the most frequent first.
fn listed(counts: &BTreeMap<String, usize>) -> String {
    let mut counts: Vec<_> = counts.iter().collect();
    counts.sort_by_key(|(_, count)| Reverse(**count));
    let each = counts
        .iter()
        .take(NAMED)
        .map(|(ending, count)| match ending.as_str() {
            "" => format!("{count} without ending"),
            ending => format!("{count} .{ending}"),
        });
    let mut text = each.collect::<Vec<_>>().join(", ");
    let rest: usize = counts.iter().skip(NAMED).map(|(_, count)| **count).sum();
    if rest > 0 {
        text += &format!(", {rest} others");
    }
    text
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
        let set = ImageSet::folder(folder.path(), None).unwrap();
        assert!(set.provenance().notes.is_empty());
        write(&folder.path().join("ape/a.bmp"), 30);
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
        let none = none.to_string();
        assert!(
            none.contains("a folder for every class")
                && none.contains("2 files beside the folders"),
            "{none}"
        );
    }

    #[test]
    fn what_is_left_out_is_counted() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        write(&at("ape/old/b.tiff"), 40);
        let gif = include_bytes!("../../tests/fixtures/images/grey.gif");
        std::fs::write(at("ape/old/a.gif"), gif).unwrap();
        write(&at("ape/z.jfif.jpg"), 60);
        write(&at("zebra/1.png"), 10);
        for name in [
            "ape/1.AVIF",
            "ape/._z.jfif.jpg",
            "ape/.git/2.png",
            "ape/Thumbs.db",
            "ape/old/notes.txt",
            "ape/README",
            "list.csv",
            ".DS_Store",
        ] {
            std::fs::create_dir_all(at(name).parent().unwrap()).unwrap();
            std::fs::write(at(name), "x").unwrap();
        }
        #[cfg(unix)]
        std::os::unix::fs::symlink(folder.path(), at("ape/back")).unwrap();
        let classes = ["ape", "fox", "zebra"].map(str::to_owned);
        let set = ImageSet::folder(folder.path(), Some(&classes)).unwrap();
        assert_eq!(set.labels(), [0, 0, 0, 2]);
        let name = |index: usize| set.origin(index).file_name().unwrap().to_owned();
        assert_eq!([0, 1, 2].map(name), ["z.jfif.jpg", "a.gif", "b.tiff"]);
        let [left_out, absent] = &set.provenance().notes[..] else {
            panic!("{:?}", set.provenance().notes);
        };
        for part in [
            "4 images (1 .gif, 1 .jpg, 1 .png, 1 .tiff)",
            "1 image of a format that is not read (1 .avif)",
            "3 files that are no images (1 without ending, 1 .db, 1 .txt)",
            "3 hidden files",
            "1 file beside the folders",
        ] {
            assert!(left_out.contains(part), "{left_out}: {part}");
        }
        assert!(
            absent.ends_with("no image of 1 of the 3 classes"),
            "{absent}"
        );
        #[cfg(unix)]
        assert!(left_out.contains("1 link to nothing or back"), "{left_out}");
        // A class without an image is none.
        std::fs::create_dir(at("fox")).unwrap();
        std::fs::write(at("fox/1.heic"), "x").unwrap();
        let fault = ImageSet::folder(folder.path(), None)
            .unwrap_err()
            .to_string();
        assert!(
            fault.contains("fox: class: expected an image that ends in .jpg, .jpeg"),
            "{fault}"
        );
        assert!(fault.ends_with("not read (1 .heic)"), "{fault}");
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
