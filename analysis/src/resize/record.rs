//! What a resizing did to every module: the names and the order here are the record's.

use serde::Serialize;

use crate::audit::{Kind, Method};

/// The distance of two updates.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Loss {
    /// ‖·‖_F of the difference.
    pub frobenius: f64,
    /// That by ‖ΔW‖_F; `None` for a zero update.
    pub relative: Option<f64>,
    /// σ_1 of the difference; `None` if it was not computed.
    pub spectral: Option<f64>,
}

impl Loss {
    /// Nothing is lost.
    pub(crate) const NONE: Self = Self {
        frobenius: 0.0,
        relative: Some(0.0),
        spectral: Some(0.0),
    };

    /// Of a difference with these norms, `whole` the update's Frobenius norm; a difference without
    /// singular values has σ_1 = 0.
    pub(crate) fn new(frobenius: f64, spectral: Option<f64>, whole: f64) -> Self {
        Self {
            frobenius,
            relative: (whole > 0.0).then(|| frobenius / whole),
            spectral: Some(spectral.unwrap_or(0.0)),
        }
    }

    /// Of all modules, `whole` the Frobenius norm of their updates together: √Σ of the squared errors
    /// and the largest spectral one, `None` if it is of some module.
    pub(crate) fn together<'a>(losses: impl Iterator<Item = &'a Self> + Clone, whole: f64) -> Self {
        let frobenius = root_sum(losses.clone().map(|loss| loss.frobenius));
        let mut spectral = losses.map(|loss| loss.spectral);
        Self {
            spectral: spectral.try_fold(0.0, |most: f64, one| Some(most.max(one?))),
            ..Self::new(frobenius, None, whole)
        }
    }
}

/// What became of a module.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Change {
    /// Its tensors were copied byte for byte: the rank is the one it had.
    Kept,
    /// New factors in the places of the old ones.
    Truncated,
    /// It had another form and is plain LoRA now.
    Converted,
}

/// One module.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ModuleResize {
    /// As the base model names it.
    pub name: String,
    /// Its kind.
    pub kind: Kind,
    /// How its update was parametrised.
    pub method: Method,
    /// Rows and columns of ΔW in the base weight's own orientation.
    pub shape: (usize, usize),
    /// What was done.
    pub change: Change,
    /// The rank that its form allowed (of LoHa R²).
    pub old_rank: usize,
    /// The rank that its factors have now.
    pub new_rank: usize,
    /// What the old product was multiplied with.
    pub old_scale: f64,
    /// What the new one is multiplied with.
    pub new_scale: f64,
    /// Whether the scale is known; if not, all norms are those of B A.
    pub scaled: bool,
    /// Numbers of the old tensors.
    pub old_parameters: usize,
    /// Numbers of the new ones.
    pub new_parameters: usize,
    /// ‖ΔW‖_F.
    pub frobenius_norm: f64,
    /// The share of Σσ² that is kept; `None` for a zero update.
    pub energy_kept: Option<f64>,
    /// The errors of the best approximation, by the spectrum: √Σ_{i>R} σ_i² and σ_{R+1}.
    pub error: Loss,
    /// The errors of what was written, measured on the rounded factors.
    pub written: Loss,
}

/// Something that was copied as it was, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Untouched {
    /// The module or tensor.
    pub name: String,
    /// Why it has no other rank.
    pub reason: String,
}

/// All modules together.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ResizeTotals {
    /// Modules in the record.
    pub modules: usize,
    /// Numbers of the modules' old tensors.
    pub old_parameters: usize,
    /// Numbers of the new ones.
    pub new_parameters: usize,
    /// Bytes of the old file's tensors.
    pub old_bytes: usize,
    /// Bytes of the new file's tensors.
    pub new_bytes: usize,
    /// Mean of the old ranks.
    pub old_rank: f64,
    /// Mean of the new ranks.
    pub new_rank: f64,
    /// √Σ‖ΔW‖_F² over the modules.
    pub frobenius_norm: f64,
    /// √Σ of the squared errors by the spectra, that by √Σ‖ΔW‖_F², and the largest spectral error.
    pub error: Loss,
    /// The same of what was written; the spectral one `None` if it is of some module.
    pub written: Loss,
}

/// The record of a resizing.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Resized {
    /// What was resized.
    pub path: String,
    /// The layout of the file, which is also the new file's.
    pub format: &'static str,
    /// The name of the new file.
    pub file: String,
    /// How the ranks were chosen.
    pub rule: String,
    /// `keep` or `fold`.
    pub scale: &'static str,
    /// What concerns the adapter as a whole.
    pub notes: Vec<String>,
    /// All modules together.
    pub totals: ResizeTotals,
    /// The modules, in the natural order of their names.
    pub modules: Vec<ModuleResize>,
    /// What was copied as it was.
    pub untouched: Vec<Untouched>,
}

impl ResizeTotals {
    pub(crate) fn new(modules: &[ModuleResize], old_bytes: usize, new_bytes: usize) -> Self {
        let mean = |rank: fn(&ModuleResize) -> usize| {
            modules.iter().map(rank).sum::<usize>() as f64 / modules.len().max(1) as f64
        };
        let frobenius_norm = root_sum(modules.iter().map(|m| m.frobenius_norm));
        Self {
            modules: modules.len(),
            old_parameters: modules.iter().map(|m| m.old_parameters).sum(),
            new_parameters: modules.iter().map(|m| m.new_parameters).sum(),
            old_bytes,
            new_bytes,
            old_rank: mean(|m| m.old_rank),
            new_rank: mean(|m| m.new_rank),
            frobenius_norm,
            error: Loss::together(modules.iter().map(|m| &m.error), frobenius_norm),
            written: Loss::together(modules.iter().map(|m| &m.written), frobenius_norm),
        }
    }
}

/// √Σx², without squares that overflow or vanish.
pub(crate) fn root_sum(values: impl Iterator<Item = f64> + Clone) -> f64 {
    let largest = values.clone().fold(0.0, f64::max);
    if largest > 0.0 {
        largest * values.map(|x| (x / largest).powi(2)).sum::<f64>().sqrt()
    } else {
        0.0
    }
}
