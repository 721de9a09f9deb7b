//! The rank of every module's ΔW, while it is trained.
//!
//! A product is measured from its factors. Where the method changes W itself (full fine-tuning,
//! DoRA's lengths, Delta-LoRA) the whole difference from the pretrained weight is decomposed.

use candle_core::DType;
use rankwise_analysis::{Epsilon, Measures, TauRule, linalg, measures, product_singular_values};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::Tuned;
use super::change::Change;
use crate::Error;

/// One module's rank at the end of an epoch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModuleRank {
    /// The module's name in its checkpoint.
    pub module: String,
    /// R; none under full fine-tuning.
    pub budget: Option<usize>,
    /// Inputs and outputs of the layer.
    pub shape: (usize, usize),
    /// Every measure of ΔW's rank.
    pub measures: Measures,
    /// The singular values, descending.
    pub singular_values: Vec<f64>,
}

/// Measures every adapted module; the bits do not depend on the threads.
pub(super) fn ranks(tuned: &Tuned) -> Result<Vec<ModuleRank>, Error> {
    tuned
        .initial
        .par_iter()
        .map(|(at, initial)| {
            let module = &tuned.modules.0[*at];
            let change = Change::of(tuned, module, initial)?;
            let sigma = match &change {
                Change::Product { a, b, scale } => {
                    product_singular_values(b.t(), a.view(), *scale)?
                }
                Change::Matrix(matrix) => linalg::singular_values(matrix.view())?,
            };
            let shape = (module.declared.outputs(), module.declared.inputs());
            let rule = TauRule::Precision(match tuned.parameters.values().dtype() {
                DType::F64 => Epsilon::F64,
                _ => Epsilon::F32,
            });
            let budget = module.adapter.as_ref().map(|adapter| {
                let rows = adapter.a.tensor(&tuned.parameters).dims().first().copied();
                rows.unwrap_or(0)
            });
            Ok(ModuleRank {
                module: module.declared.name.clone(),
                budget,
                shape: (shape.1, shape.0),
                measures: measures(&sigma, shape, rule),
                singular_values: sigma,
            })
        })
        .collect()
}
