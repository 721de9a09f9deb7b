//! The rank of every module's ΔW, while it is trained.
//!
//! A product is measured from its factors. Where the method changes W itself (full fine-tuning,
//! DoRA's lengths, Delta-LoRA) the whole difference from the pretrained weight is decomposed.

use candle_core::{DType, Tensor};
use rankwise_analysis::{Epsilon, Measures, TauRule, linalg, measures, product_singular_values};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::Tuned;
use super::change::Change;
use super::snapshot::Snapshot;
use crate::Error;
use crate::module::Module;

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
    let tuned = &tuned.on_host()?;
    let change = |(at, initial): &(usize, Tensor)| {
        let module = &tuned.modules.0[*at];
        Ok((module, Change::of(tuned, module, initial)?))
    };
    if tuned
        .initial
        .iter()
        .all(|(_, weight)| weight.device().is_cpu())
    {
        let all = tuned.initial.par_iter();
        return all
            .map(|one| {
                let (module, change) = change(one)?;
                rank(tuned, module, &change)
            })
            .collect();
    }
    // What is read from a device is read by the thread that wrote it: others do not wait for that.
    let mut ranks = Vec::new();
    for part in tuned.initial.chunks(rayon::current_num_threads()) {
        let changes: Vec<(&Module, Change)> =
            part.iter().map(change).collect::<Result<_, Error>>()?;
        let measured = changes.par_iter();
        let measured = measured.map(|(module, change)| rank(tuned, module, change));
        ranks.extend(measured.collect::<Result<Vec<_>, _>>()?);
    }
    Ok(ranks)
}

fn rank(tuned: &Snapshot<'_>, module: &Module, change: &Change) -> Result<ModuleRank, Error> {
    let sigma = match change {
        Change::Product { a, b, scale } => product_singular_values(b.t(), a.view(), *scale)?,
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
}
