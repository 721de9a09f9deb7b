//! What an extraction did to every matrix: the names and the order here are the record's.

use serde::Serialize;

use crate::audit::Kind;
use crate::resize::{Loss, Untouched};

/// The adapter of one matrix.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MatrixExtract {
    /// The module's name in the checkpoints.
    pub name: String,
    /// Its kind.
    pub kind: Kind,
    /// Rows and columns of E as the checkpoints keep it.
    pub shape: (usize, usize),
    /// The tuned tensor's type, such as `BF16`.
    pub dtype: String,
    /// R.
    pub rank: usize,
    /// Singular values above the noise of rounding.
    pub rank_above_noise: usize,
    /// Where the noise ends.
    pub noise_floor: f64,
    /// ‖E‖_F.
    pub frobenius_norm: f64,
    /// The share of Σσ² that is kept.
    pub energy_kept: Option<f64>,
    /// The errors of the best approximation, by the spectrum.
    pub error: Loss,
    /// The errors of what was written, measured on the rounded factors; the spectral one is not.
    pub written: Loss,
}

/// The record of an extraction.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Extracted {
    /// The checkpoint before training.
    pub base: String,
    /// The checkpoint after training.
    pub tuned: String,
    /// How the ranks were chosen.
    pub rule: String,
    /// Numbers of all factors.
    pub parameters: usize,
    /// √Σ‖E‖_F² over the modules.
    pub frobenius_norm: f64,
    /// √Σ of the squared errors by the spectra, that by √Σ‖E‖_F², the largest spectral error.
    pub error: Loss,
    /// The same of what was written.
    pub written: Loss,
    /// The modules, in the natural order of their names.
    pub modules: Vec<MatrixExtract>,
    /// Tensors that were taken over as a whole.
    pub whole: Vec<String>,
    /// What differs and is not in the adapter.
    pub not_covered: Vec<Untouched>,
    /// What concerns the checkpoints as a whole.
    pub notes: Vec<String>,
}
