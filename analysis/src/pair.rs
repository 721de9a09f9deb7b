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
//! A large matrix is decomposed in single precision where what that may err by,
//! [`Arithmetic::error`], is no more than the rounding's own edges, and in double precision
//! otherwise; it is a part of the floor in either case.
//!
//! Source: Marchenko & Pastur 1967; Bandeira & van Handel, “Sharp nonasymptotic bounds on the norm
//! of random matrices with independent entries”, 2016; Gavish & Donoho, “The Optimal Hard Threshold for Singular
//! Values is 4/√3”, 2014; e_R from Theorem 3.1 of the RM-LoRA paper.

use std::collections::BTreeSet;
use std::path::Path;

use ndarray::Array2;
use rayon::prelude::*;
use safetensors::Dtype;
use serde::Serialize;

use crate::alignment::Alignment;
use crate::container::Container;
use crate::linalg::{
    Arithmetic, TWO_STAGE, TopOptions, frobenius_norm, single_error, singular_values_in,
    top_singular_values,
};
use crate::stack::stack;
use crate::{Error, Measures, TauRule, measures};

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
    /// What the decomposition itself may err by: [`Arithmetic::error`].
    pub decomposition: f64,
}

impl Noise {
    /// Of rounding an m × n matrix to `dtype`; `first` is σ₁ of the difference.
    pub(crate) fn new(values: &[f64], dtype: Dtype, shape: (usize, usize), first: f64) -> Self {
        let noise = Self::of_rounding(values, dtype, shape);
        noise.decomposed(Arithmetic::Double.error(shape, &[first]))
    }

    /// Of rounding alone, before the difference is decomposed.
    fn of_rounding(values: &[f64], dtype: Dtype, (m, n): (usize, usize)) -> Self {
        let (mut rows, mut columns) = (vec![0.0; m], vec![0.0; n]);
        let precision = precision(dtype).unwrap_or(DOUBLE);
        for (i, row) in values.chunks_exact(n).enumerate() {
            for (&value, column) in row.iter().zip(&mut columns) {
                let spacing = spacing(value, precision);
                let variance = spacing * spacing / 12.0;
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
            decomposition: 0.0,
        }
    }

    /// With what the decomposition may err by.
    fn decomposed(self, decomposition: f64) -> Self {
        Self {
            decomposition,
            ..self
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
    /// σ_1 ≥ σ_2 ≥ … of E, each within `noise.decomposition`.
    pub singular_values: Vec<f64>,
    /// The precision that they were computed in.
    pub arithmetic: Arithmetic,
    /// The rounding's own singular values.
    pub noise: Noise,
    /// How many singular values are above the noise's floor.
    pub rank_above_noise: usize,
    /// Every measure of the spectrum, noise included; the numerical rank's τ is the noise's floor.
    /// `None` if only the largest singular values are known.
    pub measures: Option<Measures>,
    /// How well the largest singular values are known; `None` if all were computed.
    pub certificate: Option<Certificate>,
}

impl MatrixDifference {
    /// e_R = σ_{R+1}(E): the least spectral error of an adapter of rank R; zero past the last, NaN
    /// where it was not computed.
    pub fn layer_error(&self, rank: usize) -> f64 {
        let beyond = if self.certificate.is_some() {
            f64::NAN
        } else {
            0.0
        };
        self.singular_values.get(rank).copied().unwrap_or(beyond)
    }
}

/// What is certain of the largest singular values where the others were not computed; see
/// [`Top`](crate::linalg::Top).
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Certificate {
    /// For every singular value, how far the nearest true one can be away.
    pub residuals: Vec<f64>,
    /// The root of the sum of squares of all the others, and so each of them, is at most this.
    pub rest: f64,
    /// Whether all residuals above the noise's floor are below it.
    pub is_converged: bool,
}

/// Choices of a comparison.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PairOptions {
    /// Only so many of the largest singular values of every matrix, which is much faster for large
    /// matrices; all of them otherwise.
    pub top: Option<usize>,
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
    /// What concerns the checkpoints as a whole.
    pub notes: Vec<String>,
}

/// Compares every matrix of two checkpoints: each a folder with one of the names that
/// model libraries write, an index of shards, a .safetensors file or a PyTorch state dict. Tensors of
/// one name are compared, and, where all of one checkpoint's names have a prefix that the other's lack
/// (`bert.`, `model.`), tensors of one name without it.
///
/// Matrices are read and decomposed one by one, several at a time on several threads; the numbers
/// do not depend on how many. `progress` is told how many matrices there are and called after each.
///
/// ```
/// use rankwise_analysis::{PairOptions, audit_pair};
/// # let folder = tempfile::tempdir()?;
/// # let tensors = |path: &std::path::Path, w: [f32; 4]| {
/// #     let bytes: Vec<u8> = w.iter().flat_map(|value| value.to_le_bytes()).collect();
/// #     let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, vec![2, 2], &bytes);
/// #     safetensors::serialize_to_file([("w", view.unwrap())], None, path).unwrap();
/// # };
/// # let (base, tuned) = (&folder.path().join("a.safetensors"), &folder.path().join("b.safetensors"));
/// # tensors(base, [1.0, 0.0, 0.0, 1.0]);
/// # tensors(tuned, [1.0, 0.5, 0.0, 1.0]);
/// let audit = audit_pair(base, tuned, &PairOptions::default(), |_, _| {})?;
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
    options: &PairOptions,
    progress: impl Fn(usize, usize) + Sync,
) -> Result<PairAudit, Error> {
    let (base, tuned) = (Container::open_model(base)?, Container::open_model(tuned)?);
    let alignment = Alignment::new(&base, &tuned);
    let (mut names, mut unmatched) = (Vec::new(), Vec::new());
    let mut found = BTreeSet::new();
    for name in tuned.tensors().keys() {
        let before = alignment.of_base(name, &base);
        match comparable((&before, &base), (name, &tuned)) {
            Ok(shape) => names.push((name, before.clone(), shape)),
            Err(reason) => unmatched.push((name, reason)),
        }
        found.insert(before);
    }
    let is_left = |name: &&String| !found.contains(*name);
    for name in base.tensors().keys().filter(is_left) {
        let reason = format!("expected in {}, found none", tuned.path().display());
        unmatched.push((name, reason));
    }
    if names.is_empty() {
        let expected = format!("a matrix that is also in {}", base.path().display());
        let found = match unmatched.first() {
            Some((name, reason)) => format!("none; {name}: {reason}"),
            None => "none".to_owned(),
        };
        return Err(Error::format(tuned.path(), "tensors", expected, found));
    }
    let total = names.len();
    let done = std::sync::atomic::AtomicUsize::new(0);
    let compare = |(name, before, shape): &(&String, String, [usize; 2])| {
        let difference = difference((before, &base), (name, &tuned), *shape, options);
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
        notes: notes(&alignment, [&base, &tuned]),
    })
}

/// How the two checkpoints were matched, and which files of theirs were not looked at.
pub(crate) fn notes(alignment: &Alignment, checkpoints: [&Container; 2]) -> Vec<String> {
    let passed_over = checkpoints
        .into_iter()
        .filter_map(Container::passed_over_in_words);
    alignment
        .described("the base checkpoint", "the tuned checkpoint")
        .into_iter()
        .chain(passed_over)
        .collect()
}

/// Rows and columns if the tensor is a matrix in both, each by its name there, else the reason why it
/// is not compared.
pub(crate) fn comparable(
    (before, base): (&str, &Container),
    (name, tuned): (&str, &Container),
) -> Result<[usize; 2], String> {
    for (name, checkpoint) in [(name, tuned), (before, base)] {
        let path = checkpoint.path().display();
        if checkpoint.is_scale(name) {
            return Err(format!("{path}: it says how a quantised weight is stored"));
        }
        if let Some(how) = checkpoint.quantised(name) {
            return Err(format!(
                "{path}: {how}, so that the difference would be its rounding; expected the weight before that"
            ));
        }
    }
    let Some(after) = tuned.tensors().get(name) else {
        return Err("no such tensor".to_owned());
    };
    let Some(before) = base.tensors().get(before) else {
        return Err(format!("expected in {}, found none", base.path().display()));
    };
    if after.shape != before.shape {
        let (shape, other) = (&after.shape, &before.shape);
        return Err(format!(
            "expected the base's shape {other:?}, found {shape:?}"
        ));
    }
    for dtype in [after.dtype, before.dtype] {
        if precision(dtype).is_none() {
            let expected = "F64, F32, F16, BF16, F8_E4M3 or F8_E5M2";
            return Err(format!("expected {expected}, found {dtype:?}"));
        }
    }
    if let Some(why) = stack(name, &after.shape) {
        return Err(why);
    }
    match after.shape[..] {
        [] | [_] => Err(format!(
            "expected a matrix, found {} dimensions",
            after.shape.len()
        )),
        [rows, ref rest @ ..] => match (rows, rest.iter().product()) {
            (0, _) | (_, 0) => Err("expected a matrix, found an empty tensor".to_owned()),
            (rows, columns) => Ok([rows, columns]),
        },
    }
}

/// A spectrum so flat that this many blocks do not find its largest values is as soon computed whole.
const TOP: TopOptions = TopOptions {
    tolerance: 1e-8,
    steps: 24,
};

fn difference(
    (base_name, base): (&str, &Container),
    (name, tuned): (&str, &Container),
    [m, n]: [usize; 2],
    options: &PairOptions,
) -> Result<MatrixDifference, Error> {
    let dtype = tuned.tensors()[name].dtype;
    let (values, before) = rayon::join(|| tuned.read(name), || base.read(base_name));
    let (values, mut matrix) = (values?, before?);
    for (before, value) in matrix.iter_mut().zip(&values) {
        *before = value - *before;
    }
    let matrix = Array2::from_shape_vec((m, n), matrix).expect("the shape was checked on opening");
    // Where the largest are most of them, all cost no more.
    let top = options.top.filter(|&top| 4 * top <= m.min(n));
    let rounding = || Noise::of_rounding(&values, dtype, (m, n));
    let (sigma, arithmetic, noise, certificate) = if let Some(top) = top {
        // Its own stream for every matrix: the numbers depend on nothing else that is compared.
        let mut rng = rankwise_data::stream(0, "largest singular values", top as u64);
        let find = || top_singular_values(matrix.view(), top, &TOP, &mut rng);
        let (top, noise) = rayon::join(find, rounding);
        let top = top?;
        let certificate = Some((top.residuals, top.rest));
        (top.values, Arithmetic::Double, noise, certificate)
    } else {
        let noise = rounding();
        let (sigma, arithmetic) = decomposed(&matrix, noise.floor())?;
        (sigma, arithmetic, noise, None)
    };
    let noise = noise.decomposed(arithmetic.error((m, n), &sigma));
    let certificate = certificate.map(|(residuals, rest)| {
        // Within the noise the values lie close together, and none of them means anything.
        let floor = noise.floor();
        let is_certain = |(s, residual): (&f64, &f64)| *s <= floor || *residual <= floor;
        Certificate {
            is_converged: sigma.iter().zip(&residuals).all(is_certain),
            residuals,
            rest,
        }
    });
    let rule = TauRule::Absolute(noise.floor());
    let is_whole = certificate.is_none();
    Ok(MatrixDifference {
        name: name.to_owned(),
        shape: [m, n],
        dtype: format!("{dtype:?}"),
        noise,
        rank_above_noise: sigma.iter().filter(|&&s| s > noise.floor()).count(),
        measures: is_whole.then(|| measures(&sigma, (m, n), rule)),
        certificate,
        singular_values: sigma,
        arithmetic,
    })
}

/// All singular values, in single precision if what that errs by is at most `floor`.
fn decomposed(matrix: &Array2<f64>, floor: f64) -> Result<(Vec<f64>, Arithmetic), Error> {
    let is_large = matrix.nrows().min(matrix.ncols()) >= TWO_STAGE;
    let arithmetic = if is_large && single_error(matrix.dim(), frobenius_norm(matrix)) <= floor {
        Arithmetic::Single
    } else {
        Arithmetic::Double
    };
    Ok((singular_values_in(matrix.view(), arithmetic)?, arithmetic))
}

/// The spacing of the type's numbers at `value`, subnormal spacing near zero.
#[cfg(test)]
fn ulp(value: f64, dtype: Dtype) -> f64 {
    spacing(value, precision(dtype).unwrap_or(DOUBLE))
}

/// The same by the type's fraction bits and least exponent.
fn spacing(value: f64, (bits, least): (i32, i32)) -> f64 {
    // The exponent field: exact, where a logarithm would round up just below a power of two.
    let exponent = ((value.to_bits() >> 52) & 0x7ff) as i32 - 1023;
    let exponent = exponent.max(least) - bits;
    if exponent > -1023 {
        f64::from_bits(((exponent + 1023) as u64) << 52)
    } else {
        // Below float64's normal numbers one bit of the fraction is the power of two.
        f64::from_bits(1 << (exponent + 1074))
    }
}

/// Fraction bits and the least exponent of a normal number.
const DOUBLE: (i32, i32) = (52, -1022);

/// The same of any type that a weight can be rounded to.
fn precision(dtype: Dtype) -> Option<(i32, i32)> {
    Some(match dtype {
        Dtype::F64 => DOUBLE,
        Dtype::F32 => (23, -126),
        Dtype::F16 => (10, -14),
        Dtype::BF16 => (7, -126),
        Dtype::F8_E4M3 => (3, -6),
        Dtype::F8_E5M2 => (2, -14),
        _ => return None,
    })
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
            (0.0, Dtype::F64, f64::from_bits(1)),
            (0.0, Dtype::F32, 2_f64.powi(-149)),
            (1.0, Dtype::F8_E4M3, 2_f64.powi(-3)),
            (-0.001, Dtype::F8_E4M3, 2_f64.powi(-9)),
            (3.0, Dtype::F8_E5M2, 0.5),
        ] {
            assert_eq!(ulp(value, dtype), expected, "{value} {dtype:?}");
        }
    }
}
