//! The rank of every module's ΔW, while it is trained.
//!
//! A plain product is measured from its factors. Where the method changed W itself (full
//! fine-tuning, PiSSA's residual, DoRA's lengths, Delta-LoRA) the whole difference from the
//! pretrained weight is decomposed.

use candle_core::{DType, Tensor};
use ndarray::{Array2, ArrayView2};
use rankwise_analysis::{Epsilon, Measures, TauRule, linalg, measures, product_singular_values};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::Tuned;
use crate::Error;
use crate::engine::decomposed::row_lengths;
use crate::module::{Adapter, Kind, Module, Value};

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
            let sigma = spectrum(tuned, module, initial)?;
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

fn spectrum(tuned: &Tuned, module: &Module, initial: &Tensor) -> Result<Vec<f64>, Error> {
    let weight = module.weight.tensor(&tuned.parameters);
    let is_changed = weight.id() != initial.id();
    let Some(adapter) = &module.adapter else {
        let difference = (wide(weight)? - wide(initial)?)?;
        return Ok(linalg::singular_values(
            host(&difference.flatten_from(1)?)?.view(),
        )?);
    };
    let (a, b) = factors(tuned, adapter)?;
    if !is_changed && adapter.magnitude.is_none() {
        let (a, b) = (host(&a)?, host(&b)?);
        return Ok(product_singular_values(b.t(), a.view(), adapter.scale)?);
    }
    // In × out throughout.
    let across = |weight: &Tensor| -> candle_core::Result<Tensor> {
        let weight = wide(weight)?;
        match module.declared.kind {
            Kind::Conv1d | Kind::Embedding => Ok(weight),
            _ => weight.flatten_from(1)?.t(),
        }
    };
    let (weight, initial) = (across(weight)?, across(initial)?);
    let sum = (&weight + (a.t()?.matmul(&b)? * adapter.scale)?)?;
    let sum = match adapter.magnitude {
        None => sum,
        Some(magnitude) => {
            let lengths = row_lengths(&weight, &a, &b, adapter.scale)?;
            let factor = (wide(tuned.parameters.view(magnitude))? / lengths)?;
            sum.broadcast_mul(&factor)?
        }
    };
    let difference = host(&(sum - initial)?)?;
    Ok(linalg::singular_values(difference.view())?)
}

/// A and Bᵀ with the gates in them, the directions in use.
fn factors(tuned: &Tuned, adapter: &Adapter) -> Result<(Tensor, Tensor), Error> {
    let of = |value: &Value| wide(value.tensor(&tuned.parameters));
    let (mut a, mut b) = (of(&adapter.a)?, of(&adapter.b)?);
    if let Some(gate) = &adapter.gate {
        let gate = of(gate)?.flatten_all()?;
        let rank = gate.dim(0)?;
        a = a.broadcast_mul(&gate.reshape((rank, 1))?)?;
    }
    if let Some(output) = &adapter.output_gate {
        b = b.broadcast_mul(&of(output)?)?;
    }
    Ok((a, b))
}

fn wide(tensor: &Tensor) -> candle_core::Result<Tensor> {
    tensor
        .to_device(&candle_core::Device::Cpu)?
        .to_dtype(DType::F64)
}

fn host(tensor: &Tensor) -> Result<Array2<f64>, Error> {
    let shape = tensor.dims2()?;
    let values = tensor.flatten_all()?.to_vec1::<f64>()?;
    let view = ArrayView2::from_shape(shape, &values);
    Ok(view
        .map_err(|error| candle_core::Error::msg(error.to_string()))?
        .to_owned())
}
