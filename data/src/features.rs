use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use half::f16;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde::{Deserialize, Serialize};

use crate::{Error, write_atomic};

const FORMAT: &str = "rankwise features v1";

/// All metadata is under one key: the safetensors library writes several in random order, and the
/// same set must give the same bytes.
const METADATA_KEY: &str = "rankwise";

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    format: String,
    classes: Vec<String>,
    notes: BTreeMap<String, String>,
}

/// One part of a [`FeatureSet`]: `rows` feature vectors, row-major, and their class indices.
#[derive(Debug, Clone, PartialEq)]
pub struct Split {
    features: Vec<f32>,
    labels: Vec<u32>,
    width: usize,
}

impl Split {
    /// The number of examples.
    pub fn rows(&self) -> usize {
        self.labels.len()
    }

    /// Length of one feature vector.
    pub fn width(&self) -> usize {
        self.width
    }

    /// The features, rows × width, row-major.
    pub fn features(&self) -> &[f32] {
        &self.features
    }

    /// The class index of every row.
    pub fn labels(&self) -> &[u32] {
        &self.labels
    }

    fn select(&self, rows: &[usize]) -> Self {
        Self {
            features: rows
                .iter()
                .flat_map(|&row| &self.features[row * self.width..][..self.width])
                .copied()
                .collect(),
            labels: rows.iter().map(|&row| self.labels[row]).collect(),
            width: self.width,
        }
    }
}

/// Fixed features of a classification task: a train and a test split over the same classes.
///
/// On disk a safetensors file: `train_features` and `test_features` (float16, rows × width),
/// `train_labels` and `test_labels` (int64), and under the metadata key `rankwise` a JSON object
/// with the format's name, the class names and whatever the [`notes`](Self::notes) say of the origin.
#[derive(Debug, Clone, PartialEq)]
pub struct FeatureSet {
    train: Split,
    test: Split,
    classes: Vec<String>,
    notes: Vec<(String, String)>,
}

impl FeatureSet {
    /// Puts a task together. Features are given as (rows × width, row-major) and are rounded to
    /// float16, the precision of the file, so that a set in memory equals the set read back.
    ///
    /// # Errors
    /// [`Error::Format`] naming `origin` and the first thing that does not fit: lengths, a feature
    /// that is not finite in float16, a label outside the classes, an empty split.
    pub fn new(
        origin: &Path,
        width: usize,
        classes: Vec<String>,
        train: (&[f64], &[u32]),
        test: (&[f64], &[u32]),
    ) -> Result<Self, Error> {
        let split = |name: &str, (features, labels): (&[f64], &[u32])| {
            let features = features
                .iter()
                .map(|&value| f16::from_f64(value).to_f32())
                .collect();
            checked_split(
                origin,
                name,
                features,
                labels.to_vec(),
                width,
                classes.len(),
            )
        };
        Ok(Self {
            train: split("train", train)?,
            test: split("test", test)?,
            classes,
            notes: Vec::new(),
        })
    }

    /// Adds a statement about the origin, such as `("licence", "CC BY 4.0")`.
    #[must_use]
    pub fn with_note(mut self, key: &str, text: &str) -> Self {
        self.notes.push((key.to_owned(), text.to_owned()));
        self
    }

    /// The training split.
    pub fn train(&self) -> &Split {
        &self.train
    }

    /// The test split.
    pub fn test(&self) -> &Split {
        &self.test
    }

    /// The class names, in the order of the label indices.
    pub fn classes(&self) -> &[String] {
        &self.classes
    }

    /// Statements about the origin; sorted by key when read from a file.
    pub fn notes(&self) -> &[(String, String)] {
        &self.notes
    }

    /// The same task with the last `per_class` training rows of every class as its test split: a
    /// validation set for choosing settings, so that the real test split stays unseen.
    ///
    /// # Errors
    /// [`Error::Format`] if a class would keep no training row or lend no validation row.
    pub fn with_validation(&self, origin: &Path, per_class: usize) -> Result<Self, Error> {
        let mut rows_of = vec![Vec::new(); self.classes.len()];
        for (row, &label) in self.train.labels.iter().enumerate() {
            rows_of[label as usize].push(row);
        }
        let mut held_out = vec![false; self.train.rows()];
        for (class, rows) in self.classes.iter().zip(&rows_of) {
            if per_class == 0 || rows.len() <= per_class {
                return Err(Error::format(
                    origin,
                    format!("validation rows of class {class}"),
                    format!("between 1 and {}", rows.len().saturating_sub(1)),
                    per_class.to_string(),
                ));
            }
            for &row in &rows[rows.len() - per_class..] {
                held_out[row] = true;
            }
        }
        let (test, train): (Vec<_>, Vec<_>) =
            (0..self.train.rows()).partition(|&row| held_out[row]);
        Ok(Self {
            train: self.train.select(&train),
            test: self.train.select(&test),
            ..self.clone()
        })
    }

    /// Reads a features file.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be read; [`Error::Format`] naming the tensor or key that is
    /// missing, misshapen, not finite or outside its range.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let bytes = std::fs::read(path).map_err(Error::io(path, "read"))?;
        Self::from_bytes(path, &bytes)
    }

    /// Reads a features file that is already in memory; `origin` names it in errors.
    ///
    /// # Errors
    /// As [`read`](Self::read), less the reading.
    pub fn from_bytes(origin: &Path, bytes: &[u8]) -> Result<Self, Error> {
        let not_safetensors = |error: safetensors::SafeTensorError| {
            Error::format(
                origin,
                "file",
                "a whole safetensors file",
                error.to_string(),
            )
        };
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(not_safetensors)?;
        let tensors = SafeTensors::deserialize(bytes).map_err(not_safetensors)?;
        let header = header
            .metadata()
            .as_ref()
            .and_then(|all| all.get(METADATA_KEY));
        let Some(header) = header else {
            let what = format!("metadata key {METADATA_KEY}");
            return Err(Error::format(origin, what, FORMAT, "no such key"));
        };
        let header: Header = serde_json::from_str(header).map_err(|error| {
            let what = format!("metadata key {METADATA_KEY}");
            Error::format(origin, what, "format, classes and notes", error.to_string())
        })?;
        if header.format != FORMAT {
            let what = format!("metadata key {METADATA_KEY}: format");
            return Err(Error::format(origin, what, FORMAT, header.format));
        }
        let classes = header.classes;

        let width = shape::<2>(origin, &tensors, "train_features", Dtype::F16)?[1];
        let split = |name: &str| {
            let features_key = format!("{name}_features");
            let labels_key = format!("{name}_labels");
            let [rows, columns] = shape::<2>(origin, &tensors, &features_key, Dtype::F16)?;
            let [labels] = shape::<1>(origin, &tensors, &labels_key, Dtype::I64)?;
            if columns != width || labels != rows {
                return Err(Error::format(
                    origin,
                    format!("shape of {features_key} and {labels_key}"),
                    format!("[{labels}, {width}] and [{labels}]"),
                    format!("[{rows}, {columns}] and [{labels}]"),
                ));
            }
            let features = view(origin, &tensors, &features_key)?
                .data()
                .chunks_exact(2)
                .map(|pair| f16::from_le_bytes([pair[0], pair[1]]).to_f32())
                .collect();
            let labels = view(origin, &tensors, &labels_key)?
                .data()
                .as_chunks::<8>()
                .0
                .iter()
                .map(|&eight| {
                    // Out of range stays out of range: the check that follows names the row.
                    u32::try_from(i64::from_le_bytes(eight)).unwrap_or(u32::MAX)
                })
                .collect();
            checked_split(origin, name, features, labels, width, classes.len())
        };
        Ok(Self {
            train: split("train")?,
            test: split("test")?,
            classes,
            notes: header.notes.into_iter().collect(),
        })
    }

    /// Writes the features file, whole or not at all. The same set gives the same bytes.
    ///
    /// # Errors
    /// [`Error::Io`] if that fails.
    pub fn write(&self, path: &Path) -> Result<(), Error> {
        let parts = [("test", &self.test), ("train", &self.train)];
        let bytes: Vec<_> = parts
            .iter()
            .map(|(_, split)| {
                let features = split.features.iter();
                let labels = split.labels.iter();
                (
                    features
                        .flat_map(|&value| f16::from_f32(value).to_le_bytes())
                        .collect::<Vec<u8>>(),
                    labels
                        .flat_map(|&label| i64::from(label).to_le_bytes())
                        .collect::<Vec<u8>>(),
                )
            })
            .collect();
        let mut tensors = Vec::new();
        for ((name, split), (features, labels)) in parts.iter().zip(&bytes) {
            let shape = vec![split.rows(), split.width];
            let features = TensorView::new(Dtype::F16, shape, features);
            let labels = TensorView::new(Dtype::I64, vec![split.rows()], labels);
            let fits = "the buffers were made for these shapes";
            tensors.push((format!("{name}_features"), features.expect(fits)));
            tensors.push((format!("{name}_labels"), labels.expect(fits)));
        }
        let header = Header {
            format: FORMAT.to_owned(),
            classes: self.classes.clone(),
            notes: self.notes.iter().cloned().collect(),
        };
        let header = serde_json::to_string(&header).expect("texts serialise");
        let metadata = HashMap::from([(METADATA_KEY.to_owned(), header)]);
        let whole = safetensors::serialize(tensors, Some(metadata))
            .expect("named tensors of known shape serialise");
        write_atomic(path, |out| out.write_all(&whole))
    }
}

fn view<'a>(origin: &Path, tensors: &SafeTensors<'a>, key: &str) -> Result<TensorView<'a>, Error> {
    tensors.tensor(key).map_err(|_| {
        let found = tensors.names().join(", ");
        Error::format(
            origin,
            format!("tensor {key}"),
            "present",
            format!("only {found}"),
        )
    })
}

/// The dimensions of tensor `key`, which must have `N` of them and the given type.
fn shape<const N: usize>(
    origin: &Path,
    tensors: &SafeTensors<'_>,
    key: &str,
    dtype: Dtype,
) -> Result<[usize; N], Error> {
    let tensor = view(origin, tensors, key)?;
    match <[usize; N]>::try_from(tensor.shape()) {
        Ok(shape) if tensor.dtype() == dtype => Ok(shape),
        _ => Err(Error::format(
            origin,
            format!("tensor {key}"),
            format!("{dtype:?} of {N} dimensions"),
            format!("{:?} of shape {:?}", tensor.dtype(), tensor.shape()),
        )),
    }
}

fn checked_split(
    origin: &Path,
    name: &str,
    features: Vec<f32>,
    labels: Vec<u32>,
    width: usize,
    classes: usize,
) -> Result<Split, Error> {
    if labels.is_empty() || width == 0 || features.len() != labels.len() * width {
        return Err(Error::format(
            origin,
            format!("{name} split"),
            "at least one row, and width numbers a row",
            format!(
                "{} numbers, {} labels, width {width}",
                features.len(),
                labels.len()
            ),
        ));
    }
    if let Some(at) = features.iter().position(|value| !value.is_finite()) {
        return Err(Error::format(
            origin,
            format!("{name}_features, row {}, column {}", at / width, at % width),
            "a finite number",
            features[at].to_string(),
        ));
    }
    if let Some(row) = labels.iter().position(|&label| label as usize >= classes) {
        return Err(Error::format(
            origin,
            format!("{name}_labels, row {row}"),
            format!("a class index from 0 to {}", classes.saturating_sub(1)),
            match labels[row] {
                u32::MAX => "an index outside the 32-bit range".to_owned(),
                label => label.to_string(),
            },
        ));
    }
    Ok(Split {
        features,
        labels,
        width,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn names(count: usize) -> Vec<String> {
        (0..count).map(|index| format!("class {index}")).collect()
    }

    fn origin() -> &'static Path {
        Path::new("memory")
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(
            width in 1_usize..6,
            labels in proptest::collection::vec(0_u32..4, 1..20),
            seed in -1e3_f64..1e3,
        ) {
            let features: Vec<f64> =
                (0..labels.len() * width).map(|i| (seed + i as f64).sin() * 50.0).collect();
            let set = FeatureSet::new(
                origin(), width, names(4), (&features, &labels), (&features, &labels),
            ).unwrap().with_note("licence", "none");
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("set.safetensors");
            set.write(&path).unwrap();
            let first = std::fs::read(&path).unwrap();
            prop_assert_eq!(&FeatureSet::read(&path).unwrap(), &set);
            set.write(&path).unwrap();
            prop_assert_eq!(first, std::fs::read(&path).unwrap());
        }

        /// Any prefix of a good file, and any one flipped byte of its header, is refused or read;
        /// it never panics.
        #[test]
        fn damaged_files_do_not_panic(cut in 0_usize..400, flip in 0_usize..300, bit in 0_u8..8) {
            let set = FeatureSet::new(
                origin(), 1, names(2), (&[1.0, 2.0], &[0, 1]), (&[3.0], &[1]),
            ).unwrap();
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("set.safetensors");
            set.write(&path).unwrap();
            let whole = std::fs::read(&path).unwrap();
            if cut < whole.len() {
                prop_assert!(FeatureSet::from_bytes(origin(), &whole[..cut]).is_err());
            }
            let mut flipped = whole.clone();
            let at = flip % whole.len();
            flipped[at] ^= 1 << bit;
            let _ = FeatureSet::from_bytes(origin(), &flipped);
        }
    }

    #[test]
    fn faults_are_named() {
        let message = |train: (&[f64], &[u32])| {
            FeatureSet::new(origin(), 1, names(2), train, (&[0.0], &[0]))
                .unwrap_err()
                .to_string()
        };
        assert!(message((&[1.0, f64::NAN], &[0, 1])).contains("train_features, row 1, column 0"));
        // Beyond float16's range.
        assert!(message((&[1e6, 0.0], &[0, 1])).contains("expected a finite number, found inf"));
        assert!(message((&[1.0, 2.0], &[0, 2])).contains("train_labels, row 1"));
        assert!(message((&[1.0], &[0, 1])).contains("train split"));
        assert!(message((&[], &[])).contains("at least one row"));
    }

    #[test]
    fn validation_takes_the_last_rows_of_every_class() {
        let train: (&[f64], &[u32]) = (&[0.0, 1.0, 2.0, 3.0, 4.0], &[0, 1, 0, 1, 0]);
        let set = FeatureSet::new(origin(), 1, names(2), train, (&[9.0], &[0])).unwrap();
        let validation = set.with_validation(origin(), 1).unwrap();
        assert_eq!(validation.train().features(), [0.0, 1.0, 2.0]);
        assert_eq!(validation.test().features(), [3.0, 4.0]);
        assert_eq!(validation.test().labels(), [1, 0]);
        let error = set.with_validation(origin(), 2).unwrap_err().to_string();
        assert!(error.contains("class 1"), "{error}");
    }
}
