//! What a merge did to every tensor: the names and the order here are the record's.

use serde::Serialize;

use crate::audit::Method;

/// What became of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Merge {
    /// W + ΔW.
    Merged,
    /// W + ΔW in the rows of some tokens.
    Rows,
    /// The adapter's in place of the base's.
    Replaced,
    /// The base has none.
    Added,
    /// A bias or normalisation plus the adapter's vector.
    Shifted,
    /// A bias times the adapter's vector.
    Scaled,
    /// The table that the output layer was tied to, now a tensor of its own.
    Untied,
}

/// One tensor that is not the base's.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TensorMerge {
    /// Its name in the merged checkpoint.
    pub name: String,
    /// The module or tensor of the adapter that it comes from.
    pub from: String,
    /// What was done.
    pub merge: Merge,
    /// How the update was parametrised; `None` if it is no update.
    pub method: Option<Method>,
    /// The rank that its form allows (of LoHa R²); `None` if it is no update.
    pub rank: Option<usize>,
    /// What the product was multiplied with.
    pub scale: Option<f64>,
    /// Its dimensions.
    pub shape: Vec<usize>,
    /// Its type, such as `BF16`.
    pub dtype: String,
    /// ‖W‖_F before; `None` if there was none of this shape.
    pub weight_norm: Option<f64>,
    /// ‖ΔW‖_F before rounding.
    pub change_norm: Option<f64>,
    /// ‖ΔW‖_F / ‖W‖_F; `None` if W is zero.
    pub relative: Option<f64>,
    /// Stored numbers that are not the base's; rounding takes small changes away.
    pub changed: usize,
}

/// The record of a merge.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Merged {
    /// The base model's checkpoint.
    pub base: String,
    /// The adapter.
    pub adapter: String,
    /// The adapter's layout.
    pub format: &'static str,
    /// The new files of weights.
    pub files: Vec<String>,
    /// What the merge went on from beside weights: copied as it was, or with the changes in `notes`.
    pub companions: Vec<String>,
    /// What concerns the checkpoint as a whole.
    pub notes: Vec<String>,
    /// Tensors that were copied byte for byte.
    pub copied: usize,
    /// The others, in the natural order of their names.
    pub tensors: Vec<TensorMerge>,
}
