//! What training has made of a module's weight: ΔW as a product, or as a matrix where it is none.

use candle_core::{DType, Tensor};
use ndarray::{Array2, ArrayView2};

use super::snapshot::Snapshot;
use crate::Error;
use crate::engine::decomposed::row_lengths;
use crate::engine::host;
use crate::module::{Adapter, Kind, Module, Value};

/// ΔW of one module, in float64 on the host.
#[derive(Debug, Clone)]
pub(super) enum Change {
    /// s·B·A from A (R × in) and Bᵀ (R × out).
    Product {
        a: Array2<f64>,
        b: Array2<f64>,
        scale: f64,
    },
    /// Any matrix, out × in.
    Matrix(Array2<f64>),
}

impl Change {
    /// Of `module`, whose pretrained weight is `initial`.
    ///
    /// A part of the weight that was taken off at the beginning (PiSSA, OLoRA) makes a product of
    /// rank 2R with what trains; a weight that moves itself, and DoRA's lengths, make a matrix.
    pub fn of(tuned: &Snapshot<'_>, module: &Module, initial: &Tensor) -> Result<Self, Error> {
        let weight = module.weight.tensor(&tuned.parameters);
        let Some(adapter) = &module.adapter else {
            let difference = (across(module, weight)? - across(module, initial)?)?;
            return Ok(Self::Matrix(numbers(&difference.t()?)?));
        };
        let (a, b) = factors(tuned, adapter)?;
        let scale = adapter.scale;
        if adapter.magnitude.is_none() {
            if let Some((a0, b0)) = tuned.rule.taken_off(module.id) {
                let a = numbers(&Tensor::cat(&[a, wide(a0)?], 0)?)?;
                let b = numbers(&Tensor::cat(&[b, wide(b0)?.neg()?], 0)?)?;
                return Ok(Self::Product { a, b, scale });
            }
            if weight.id() == initial.id() {
                let (a, b) = (numbers(&a)?, numbers(&b)?);
                return Ok(Self::Product { a, b, scale });
            }
        }
        let (weight, initial) = (across(module, weight)?, across(module, initial)?);
        let sum = (&weight + (a.t()?.matmul(&b)? * scale)?)?;
        let sum = match adapter.magnitude {
            None => sum,
            Some(magnitude) => {
                let lengths = row_lengths(&weight, &a, &b, scale)?;
                let factor = (wide(tuned.parameters.view(magnitude))? / lengths)?;
                sum.broadcast_mul(&factor)?
            }
        };
        Ok(Self::Matrix(numbers(&(sum - initial)?.t()?)?))
    }
}

/// A and Bᵀ of the directions in use, with the gates in them.
pub(super) fn factors(tuned: &Snapshot<'_>, adapter: &Adapter) -> Result<(Tensor, Tensor), Error> {
    let of = |value: &Value| wide(value.tensor(&tuned.parameters));
    let (mut a, mut b) = (of(&adapter.a)?, of(&adapter.b)?);
    if let Some(gate) = &adapter.gate {
        let gate = adapter.squash.apply(&of(gate)?.flatten_all()?)?;
        let rank = gate.dim(0)?;
        a = a.broadcast_mul(&gate.reshape((rank, 1))?)?;
    }
    if let Some(output) = &adapter.output_gate {
        b = b.broadcast_mul(&of(output)?)?;
    }
    if let Some(used) = adapter.used {
        (a, b) = (a.narrow(0, 0, used)?, b.narrow(0, 0, used)?);
    }
    Ok((a, b))
}

/// A weight as in × out.
fn across(module: &Module, weight: &Tensor) -> candle_core::Result<Tensor> {
    let weight = wide(weight)?;
    match module.declared.kind {
        Kind::Conv1d | Kind::Embedding => Ok(weight),
        _ => weight.flatten_from(1)?.t(),
    }
}

fn wide(tensor: &Tensor) -> candle_core::Result<Tensor> {
    host::fetch(tensor)?.to_dtype(DType::F64)
}

fn numbers(tensor: &Tensor) -> Result<Array2<f64>, Error> {
    let shape = tensor.dims2()?;
    let values = tensor.flatten_all()?.to_vec1::<f64>()?;
    let view = ArrayView2::from_shape(shape, &values);
    let view = view.map_err(|error| candle_core::Error::msg(error.to_string()))?;
    Ok(view.to_owned())
}
