//! One tensor of a merged checkpoint, in float64 until it is rounded once.

use std::collections::BTreeMap;

use ndarray::{Array2, Axis, concatenate};
use safetensors::Dtype;

use super::plan::Change;
use super::record::{Merge, TensorMerge};
use crate::Error;
use crate::adapter::{Adapter, Base, Effect, Module, Other, flat};
use crate::container::numbers::encode;
use crate::update::Update;

/// A tensor that was made, and what there is to say of it.
pub(super) struct Made {
    pub bytes: Vec<u8>,
    pub record: TensorMerge,
}

/// What a tensor is made with.
#[derive(Clone, Copy)]
pub(super) struct Maker<'a> {
    pub adapter: &'a Adapter,
    pub base: &'a Base,
    /// Tables of the base that the adapter's file brings along, by the base's names.
    pub tables: &'a BTreeMap<String, String>,
}

impl Maker<'_> {
    /// The base's tensor `name` with its change, as `new` in the type `dtype`.
    ///
    /// # Errors
    /// [`Error::NonFinite`] if a number is not finite; [`Error::Mismatch`] if one is beyond the type's
    /// range; [`Error::File`].
    pub fn changed(
        &self,
        name: &str,
        new: &str,
        change: Change<'_>,
        dtype: Dtype,
    ) -> Result<Made, Error> {
        match change {
            Change::Update(module) => self.updated(name, new, module, dtype),
            Change::Other(other) => self.combined(Some(name), new, other, dtype),
        }
    }

    /// The adapter's own tensor, which the base lacks.
    ///
    /// # Errors
    /// As [`changed`](Self::changed).
    pub fn added(&self, new: &str, other: &Other, dtype: Dtype) -> Result<Made, Error> {
        self.combined(None, new, other, dtype)
    }

    /// The output layer of a model that ties it to the table `name`, with an update of its own.
    ///
    /// # Errors
    /// As [`changed`](Self::changed).
    pub fn head(
        &self,
        name: &str,
        new: &str,
        update: Option<&Module>,
        dtype: Dtype,
    ) -> Result<Made, Error> {
        if let Some(module) = update {
            return self.updated(name, new, module, dtype);
        }
        let info = &self.base.weights().tensors()[name];
        let values = self.base.weights().read(name)?;
        let columns = flat(&info.shape).1;
        Ok(Made {
            bytes: rounded(values.iter().copied(), columns, dtype)?,
            record: TensorMerge {
                name: new.to_owned(),
                from: name.to_owned(),
                merge: Merge::Untied,
                method: None,
                rank: None,
                scale: None,
                shape: info.shape.clone(),
                dtype: format!("{dtype:?}"),
                weight_norm: Some(norm(values.iter().copied())),
                change_norm: Some(0.0),
                relative: Some(0.0),
                changed: 0,
            },
        })
    }

    fn updated(&self, name: &str, new: &str, module: &Module, dtype: Dtype) -> Result<Made, Error> {
        let weights = self.base.weights();
        let shape = weights.tensors()[name].shape.clone();
        let stored = weights.read(name)?;
        let old = encode(stored.iter().copied(), dtype);
        let stored = match self.tables.get(name) {
            Some(own) => self.adapter.weights().read(own)?,
            None => stored,
        };
        let before =
            Array2::from_shape_vec(flat(&shape), stored).expect("opening checked the shape");
        let update = stacked(self.adapter.update(module)?)?;
        let change = if module.is_transposed {
            update.reversed_axes()
        } else {
            update
        };
        let weight_norm = norm(before.iter().copied());
        let change_norm = norm(change.iter().copied());
        let mut after = before;
        match module.rows() {
            None => after += &change,
            Some(rows) => {
                for (&row, change) in rows.iter().zip(change.rows()) {
                    let mut own = after.row_mut(row);
                    own += &change;
                }
            }
        }
        let columns = after.ncols();
        let bytes = rounded(after.iter().copied(), columns, dtype)?;
        Ok(Made {
            record: TensorMerge {
                changed: changed(old.as_deref(), &bytes, dtype),
                name: new.to_owned(),
                from: module.name.clone(),
                merge: match module.rows() {
                    None => Merge::Merged,
                    Some(_) => Merge::Rows,
                },
                method: Some(module.method),
                rank: Some(module.rank),
                scale: module.scale,
                shape,
                dtype: format!("{dtype:?}"),
                weight_norm: Some(weight_norm),
                change_norm: Some(change_norm),
                relative: (weight_norm > 0.0).then(|| change_norm / weight_norm),
            },
            bytes,
        })
    }

    fn combined(
        &self,
        name: Option<&str>,
        new: &str,
        other: &Other,
        dtype: Dtype,
    ) -> Result<Made, Error> {
        let own = self.adapter.weights();
        let values = own.read(&other.tensor)?;
        let mut shape = own.tensors()[&other.tensor].shape.clone();
        let before = match name {
            Some(name) => Some(self.base.weights().read(name)?),
            None => None,
        };
        let (mut after, merge) = (values, Merge::Added);
        let merge = match (&before, other.effect) {
            (None, _) => merge,
            (Some(_), Effect::Replaces) => Merge::Replaced,
            (Some(before), Effect::Adds(scale)) => {
                let pairs = after.iter_mut().zip(before);
                pairs.for_each(|(own, base)| *own = base + scale * *own);
                Merge::Shifted
            }
            (Some(before), Effect::Multiplies) => {
                let pairs = after.iter_mut().zip(before);
                pairs.for_each(|(own, base)| *own *= base);
                Merge::Scaled
            }
        };
        if merge != Merge::Replaced
            && let Some(name) = name
        {
            shape = self.base.weights().tensors()[name].shape.clone();
        }
        let before = before.filter(|before| before.len() == after.len());
        let weight_norm = before.as_ref().map(|b| norm(b.iter().copied()));
        let change_norm = before.as_ref().map(|before| {
            let pairs = after.iter().zip(before);
            norm(pairs.map(|(own, base)| own - base))
        });
        let scale = match other.effect {
            Effect::Adds(scale) => Some(scale),
            _ => None,
        };
        let bytes = rounded(after.iter().copied(), flat(&shape).1, dtype)?;
        let old = before.and_then(|before| encode(before.into_iter(), dtype));
        Ok(Made {
            record: TensorMerge {
                changed: changed(old.as_deref(), &bytes, dtype),
                name: new.to_owned(),
                from: other.tensor.clone(),
                merge,
                method: None,
                rank: None,
                scale,
                shape,
                dtype: format!("{dtype:?}"),
                weight_norm,
                change_norm,
                relative: change_norm
                    .zip(weight_norm)
                    .and_then(|(change, weight)| (weight > 0.0).then(|| change / weight)),
            },
            bytes,
        })
    }
}

/// How many stored numbers are others now: all of them where there was nothing.
fn changed(before: Option<&[u8]>, after: &[u8], dtype: Dtype) -> usize {
    let width = (dtype.bitsize() / 8).max(1);
    match before {
        None => after.len() / width,
        Some(before) => {
            let pairs = before.chunks(width).zip(after.chunks(width));
            pairs.filter(|(before, after)| before != after).count()
        }
    }
}

/// Every entry of an update; the groups of a convolution, which see different inputs, one below the
/// other, as the base keeps them.
fn stacked(update: Update) -> Result<Array2<f64>, Error> {
    let Update::Blocks(blocks) = &update else {
        return Ok(update.to_dense());
    };
    let blocks: Vec<_> = blocks.iter().map(Update::to_dense).collect();
    let views: Vec<_> = blocks.iter().map(|block| block.view()).collect();
    concatenate(Axis(0), &views).map_err(|error| Error::Mismatch {
        what: "groups of a convolution",
        expected: "blocks of one width".to_owned(),
        found: error.to_string(),
    })
}

/// √Σx², without squares that overflow or vanish.
fn norm(values: impl Iterator<Item = f64> + Clone) -> f64 {
    let largest = values.clone().fold(0.0, |most: f64, x| most.max(x.abs()));
    if largest > 0.0 && largest.is_finite() {
        largest * values.map(|x| (x / largest).powi(2)).sum::<f64>().sqrt()
    } else {
        largest
    }
}

/// The bytes of a tensor with so many columns.
fn rounded(
    values: impl Iterator<Item = f64> + Clone,
    columns: usize,
    dtype: Dtype,
) -> Result<Vec<u8>, Error> {
    // From here on numbers are rounded to infinity: the largest number and half its last place.
    let limit = match dtype {
        Dtype::F16 => 65_520.0,
        Dtype::BF16 => 2_f64.powi(128) * (1.0 - 2_f64.powi(-9)),
        Dtype::F32 => 2_f64.powi(128) * (1.0 - 2_f64.powi(-25)),
        _ => f64::INFINITY,
    };
    for (at, value) in values.clone().enumerate() {
        if !value.is_finite() {
            return Err(Error::NonFinite {
                what: "merged tensor",
                row: at / columns.max(1),
                column: at % columns.max(1),
                value,
            });
        }
        if value.abs() >= limit {
            return Err(Error::Mismatch {
                what: "merged tensor",
                expected: format!("numbers in the range of {dtype:?}"),
                found: format!("{value:e}"),
            });
        }
    }
    encode(values, dtype).ok_or_else(|| Error::Mismatch {
        what: "type of the merged tensor",
        expected: "F64, F32, F16 or BF16".to_owned(),
        found: format!("{dtype:?}"),
    })
}
