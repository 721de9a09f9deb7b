//! Two checkpoints of one model: what training changed in every matrix, told apart from rounding.
//!
//! | symbol | identifier |
//! |---|---|
//! | E = W_tuned − W_base | the matrix whose spectrum is taken |
//! | e_R = σ_{R+1}(E) | [`MatrixDifference::layer_error`] |
//! | ulp | spacing of the tuned tensor's type at an entry |
//! | s = √mean(ulp²/12) | [`Noise::deviation`] |
//! | s(√m + √n) | [`Noise::marchenko_pastur`] |
//! | 4/√3 √max(m, n) s | [`Noise::gavish_donoho`] |
//! | max_i √Σ_j ulp²/12 + max_j √Σ_i ulp²/12 | [`Noise::uneven`] |
//!
//! A tuned weight is the sum of a stored base weight and an update, rounded once to the storage
//! type: rounding adds to the update a matrix of nearly independent entries, uniform over half a
//! unit in the last place to either side. The largest singular value of such a matrix is at the
//! Marchenko–Pastur edge if all entries are of one size, so a direction counts as the training's
//! only above it. Real weights have rows of large entries, which round more coarsely and stand out of
//! that edge; the uneven edge takes each entry's own deviation. A naive numerical rank of a bfloat16
//! difference is full whatever the training did.
//!
//! Source: Marchenko & Pastur 1967; Bandeira & van Handel, “Sharp nonasymptotic bounds on the norm
//! of random matrices with independent entries”, 2016; Gavish & Donoho, “The Optimal Hard Threshold for Singular
//! Values is 4/√3”, 2014; e_R from Theorem 3.1 of the RM-LoRA paper.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use ndarray::Array2;
use rayon::prelude::*;
use safetensors::Dtype;
use serde::{Deserialize, Serialize};

use crate::container::Container;
use crate::linalg::singular_values;
use crate::{Error, Measures, TauRule, measures};

/// The names of a folder's weight files, as the model hubs write them.
const INDEX: &str = "model.safetensors.index.json";
const WHOLE: &str = "model.safetensors";

/// A model's weights on disk, in one file or several.
#[derive(Debug)]
struct Checkpoint {
    path: PathBuf,
    shards: Vec<Container>,
    /// In which shard each tensor is.
    places: BTreeMap<String, usize>,
}

/// What an index file says that concerns us.
#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

impl Checkpoint {
    /// Opens a .safetensors file, or a folder with one or with an index of several.
    fn open(path: &Path) -> Result<Self, Error> {
        let index = path.join(INDEX);
        let files = if path.is_file() {
            vec![path.to_path_buf()]
        } else if index.is_file() {
            shards(path, &index)?
        } else if path.join(WHOLE).is_file() {
            vec![path.join(WHOLE)]
        } else {
            let expected = format!("{WHOLE} or {INDEX}");
            return Err(Error::format(path, "folder", expected, "neither"));
        };
        let shards = files
            .iter()
            .map(|file| Container::open(file))
            .collect::<Result<Vec<_>, _>>()?;
        let mut places = BTreeMap::new();
        for (number, shard) in shards.iter().enumerate() {
            for name in shard.tensors().keys() {
                if let Some(other) = places.insert(name.clone(), number) {
                    let found = format!("also in {}", shards[other].path().display());
                    let what = format!("tensor {name}");
                    return Err(Error::format(shard.path(), what, "in one file only", found));
                }
            }
        }
        Ok(Self {
            path: path.to_path_buf(),
            shards,
            places,
        })
    }

    fn shape(&self, name: &str) -> Option<(&[usize], Dtype)> {
        let tensor = self.shards[*self.places.get(name)?].tensors().get(name)?;
        Some((&tensor.shape, tensor.dtype))
    }

    fn read(&self, name: &str) -> Result<Vec<f64>, Error> {
        match self.places.get(name) {
            Some(&shard) => self.shards[shard].read(name),
            None => Err(Error::format(&self.path, name, "a tensor", "none")),
        }
    }
}

/// The files of an index, which must lie in its own folder.
fn shards(folder: &Path, index: &Path) -> Result<Vec<PathBuf>, Error> {
    let text = rankwise_data::read_text(index)?;
    let index_of: Index = serde_json::from_str(&text).map_err(|error| {
        Error::format(index, "index", "a weight_map of files", error.to_string())
    })?;
    let mut names: Vec<&String> = index_of.weight_map.values().collect();
    names.sort_unstable();
    names.dedup();
    for name in &names {
        let is_plain = Path::new(name)
            .file_name()
            .is_some_and(|file| file == name.as_str());
        if !is_plain {
            let expected = "file names without a folder";
            return Err(Error::format(
                index,
                "weight_map",
                expected,
                (*name).clone(),
            ));
        }
    }
    Ok(names.into_iter().map(|name| folder.join(name)).collect())
}

/// What the storage type's rounding alone does to the singular values of a difference.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Noise {
    /// s, the standard deviation of an entry.
    pub deviation: f64,
    /// s(√m + √n): where the singular values of pure noise end.
    pub marchenko_pastur: f64,
    /// 4/√3 √max(m, n) s: below it a direction is better left out than kept.
    pub gavish_donoho: f64,
    /// The largest row norm plus the largest column norm of the entries' own deviations: the leading
    /// terms of the bound on pure noise whose entries differ in size; s(√m + √n) where they do not.
    pub uneven: f64,
    /// max(m, n) ε σ₁: what the decomposition itself, in double precision, may add.
    pub decomposition: f64,
}

impl Noise {
    /// Of rounding an m × n matrix to `dtype`; `first` is σ₁ of the difference.
    fn new(values: &[f64], dtype: Dtype, (m, n): (usize, usize), first: f64) -> Self {
        let (mut rows, mut columns) = (vec![0.0; m], vec![0.0; n]);
        for (i, row) in values.chunks_exact(n).enumerate() {
            for (&value, column) in row.iter().zip(&mut columns) {
                let variance = ulp(value, dtype).powi(2) / 12.0;
                rows[i] += variance;
                *column += variance;
            }
        }
        let largest = |sums: &[f64]| sums.iter().copied().fold(0.0, f64::max).sqrt();
        let uneven = largest(&rows) + largest(&columns);
        let (m, n) = (m as f64, n as f64);
        let deviation = (rows.iter().sum::<f64>() / (m * n)).sqrt();
        Self {
            deviation,
            marchenko_pastur: deviation * (m.sqrt() + n.sqrt()),
            gavish_donoho: deviation * 4.0 / 3_f64.sqrt() * m.max(n).sqrt(),
            uneven,
            decomposition: m.max(n) * f64::EPSILON * first,
        }
    }

    /// The largest of the four.
    pub fn floor(&self) -> f64 {
        let edges = [self.marchenko_pastur, self.gavish_donoho, self.uneven];
        edges.into_iter().fold(self.decomposition, f64::max)
    }
}

/// The change of one matrix.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MatrixDifference {
    /// Its name in the checkpoints.
    pub name: String,
    /// Rows and columns; a convolution's kernel is flattened to outputs × the rest.
    pub shape: [usize; 2],
    /// The tuned tensor's type, such as `BF16`.
    pub dtype: String,
    /// σ_1 ≥ σ_2 ≥ … of E, in double precision.
    pub singular_values: Vec<f64>,
    /// The rounding's own singular values.
    pub noise: Noise,
    /// How many singular values are above the noise's floor.
    pub rank_above_noise: usize,
    /// Every measure of the spectrum, noise included; the numerical rank's τ is the noise's floor.
    pub measures: Measures,
}

impl MatrixDifference {
    /// e_R = σ_{R+1}(E): the least spectral error of an adapter of rank R; zero past the last.
    pub fn layer_error(&self, rank: usize) -> f64 {
        self.singular_values.get(rank).copied().unwrap_or(0.0)
    }
}

/// A tensor that has no comparison, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Unmatched {
    /// Its name.
    pub name: String,
    /// What was expected and what was found.
    pub reason: String,
}

/// All differences of two checkpoints.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PairAudit {
    /// The matrices that both have in the same shape, in the order of their names.
    pub matrices: Vec<MatrixDifference>,
    /// Tensors that only one has, or in another shape, or without a spectrum.
    pub unmatched: Vec<Unmatched>,
}

/// Compares every matrix of two checkpoints: each a folder or a .safetensors file.
///
/// Matrices are read and decomposed one by one, several at a time on several threads; the numbers
/// do not depend on how many. `progress` is told how many matrices there are and called after each.
///
/// ```
/// use rankwise_analysis::audit_pair;
/// # let folder = tempfile::tempdir()?;
/// # let tensors = |path: &std::path::Path, w: [f32; 4]| {
/// #     let bytes: Vec<u8> = w.iter().flat_map(|value| value.to_le_bytes()).collect();
/// #     let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, vec![2, 2], &bytes);
/// #     safetensors::serialize_to_file([("w", view.unwrap())], None, path).unwrap();
/// # };
/// # let (base, tuned) = (&folder.path().join("a.safetensors"), &folder.path().join("b.safetensors"));
/// # tensors(base, [1.0, 0.0, 0.0, 1.0]);
/// # tensors(tuned, [1.0, 0.5, 0.0, 1.0]);
/// let audit = audit_pair(base, tuned, |_, _| {})?;
/// let change = &audit.matrices[0];
/// assert_eq!((change.singular_values[0], change.rank_above_noise), (0.5, 1));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// [`Error::File`] if a checkpoint cannot be read or has no matrix in common with the other,
/// [`Error::NonFinite`] if a weight is NaN or infinite, [`Error::NoConvergence`] if a decomposition
/// fails.
pub fn audit_pair(
    base: &Path,
    tuned: &Path,
    progress: impl Fn(usize, usize) + Sync,
) -> Result<PairAudit, Error> {
    let (base, tuned) = (Checkpoint::open(base)?, Checkpoint::open(tuned)?);
    let (mut names, mut unmatched) = (Vec::new(), Vec::new());
    for name in tuned.places.keys() {
        match comparable(name, &base, &tuned) {
            Ok(shape) => names.push((name, shape)),
            Err(reason) => unmatched.push((name, reason)),
        }
    }
    for name in base
        .places
        .keys()
        .filter(|name| !tuned.places.contains_key(*name))
    {
        unmatched.push((
            name,
            format!("expected in {}, found none", tuned.path.display()),
        ));
    }
    if names.is_empty() {
        let expected = format!("a matrix that is also in {}", base.path.display());
        return Err(Error::format(&tuned.path, "tensors", expected, "none"));
    }
    let total = names.len();
    let done = std::sync::atomic::AtomicUsize::new(0);
    let compare = |&(name, shape): &(&String, [usize; 2])| {
        let difference = difference(name, shape, &base, &tuned);
        progress(
            done.fetch_add(1, std::sync::atomic::Ordering::Relaxed) + 1,
            total,
        );
        difference
    };
    // Collected before the first error is looked for: which one it is does not depend on timing.
    let matrices: Vec<_> = names.par_iter().map(compare).collect();
    let unmatched = unmatched.into_iter().map(|(name, reason)| Unmatched {
        name: name.clone(),
        reason,
    });
    Ok(PairAudit {
        matrices: matrices.into_iter().collect::<Result<_, _>>()?,
        unmatched: unmatched.collect(),
    })
}

/// Rows and columns if the tensor is a matrix in both, else the reason why it is not compared.
fn comparable(name: &str, base: &Checkpoint, tuned: &Checkpoint) -> Result<[usize; 2], String> {
    let Some((shape, dtype)) = tuned.shape(name) else {
        return Err("no such tensor".to_owned());
    };
    let Some((other, other_dtype)) = base.shape(name) else {
        return Err(format!("expected in {}, found none", base.path.display()));
    };
    if shape != other {
        return Err(format!(
            "expected the base's shape {other:?}, found {shape:?}"
        ));
    }
    for dtype in [dtype, other_dtype] {
        if !matches!(dtype, Dtype::F64 | Dtype::F32 | Dtype::F16 | Dtype::BF16) {
            return Err(format!("expected F64, F32, F16 or BF16, found {dtype:?}"));
        }
    }
    match *shape {
        [] | [_] => Err(format!(
            "expected a matrix, found {} dimensions",
            shape.len()
        )),
        [rows, ref rest @ ..] => match (rows, rest.iter().product()) {
            (0, _) | (_, 0) => Err("expected a matrix, found an empty tensor".to_owned()),
            (rows, columns) => Ok([rows, columns]),
        },
    }
}

fn difference(
    name: &str,
    [m, n]: [usize; 2],
    base: &Checkpoint,
    tuned: &Checkpoint,
) -> Result<MatrixDifference, Error> {
    let dtype = tuned.shape(name).map_or(Dtype::F32, |(_, dtype)| dtype);
    let values = tuned.read(name)?;
    let mut matrix = Array2::from_shape_fn((m, n), |(i, j)| values[i * n + j]);
    for (value, before) in matrix.iter_mut().zip(base.read(name)?) {
        *value -= before;
    }
    let sigma = singular_values(matrix.view())?;
    let noise = Noise::new(&values, dtype, (m, n), sigma[0]);
    let rule = TauRule::Absolute(noise.floor());
    Ok(MatrixDifference {
        name: name.to_owned(),
        shape: [m, n],
        dtype: format!("{dtype:?}"),
        noise,
        rank_above_noise: sigma.iter().filter(|&&s| s > noise.floor()).count(),
        measures: measures(&sigma, (m, n), rule),
        singular_values: sigma,
    })
}

/// The spacing of the type's numbers at `value`, subnormal spacing near zero.
fn ulp(value: f64, dtype: Dtype) -> f64 {
    // Fraction bits and the least exponent of a normal number.
    let (bits, least) = match dtype {
        Dtype::BF16 => (7, -126),
        Dtype::F16 => (10, -14),
        Dtype::F32 => (23, -126),
        _ => (52, -1022),
    };
    // The exponent field: exact, where a logarithm would round up just below a power of two.
    let exponent = ((value.to_bits() >> 52) & 0x7ff) as i32 - 1023;
    2_f64.powi(exponent.max(least) - bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spacings_of_the_types() {
        for (value, dtype, expected) in [
            (1.0, Dtype::F32, f64::from(f32::EPSILON)),
            (-1.999, Dtype::F32, f64::from(f32::EPSILON)),
            (2.0, Dtype::BF16, 2_f64.powi(-6)),
            (0.75, Dtype::F16, 2_f64.powi(-11)),
            (0.0, Dtype::F16, 2_f64.powi(-24)),
            (1.0, Dtype::F64, f64::EPSILON),
        ] {
            assert_eq!(ulp(value, dtype), expected, "{value} {dtype:?}");
        }
    }
}
