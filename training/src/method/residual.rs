//! Updates that begin as a part of the weight: W − s B₀A₀ stays behind, frozen, and s B A trains.
//!
//! The part is computed anew from the checkpoint whenever a run is begun or resumed, in float64 and
//! on one thread a module, so nothing of it needs to be kept. The factors are rounded to the type
//! that they train in before their product is taken off: what is left is then exact to one rounding.
//!
//! The update on the original weight is s (B A − B₀ A₀), of rank 2R at most: as a plain LoRA its
//! factors are [B, −B₀] and [A; A₀] with rank and α doubled.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};
use ndarray::{Array2, ArrayView2};
use rayon::prelude::*;

use super::product;
use super::{Planned, Site};
use crate::Error;
use crate::engine::host;
use crate::module::{Declared, ModuleId, Value};

/// A (R × in) and B (out × R).
pub(super) type Factors = (Array2<f64>, Array2<f64>);

/// The parts of all modules.
#[derive(Debug, Default)]
pub(super) struct Residual {
    /// Before they are attached, at s = 1.
    planned: BTreeMap<ModuleId, Factors>,
    taken_off: BTreeMap<ModuleId, (Tensor, Tensor)>,
}

impl Residual {
    /// Computes every module's part by `part`, from the weight as outputs × inputs and the rank.
    pub fn prepare(
        &mut self,
        plan: &[Planned<'_>],
        part: impl Fn(ArrayView2<'_, f64>, usize) -> Result<Factors, Error> + Sync,
    ) -> Result<(), Error> {
        // Read by the thread that wrote it: a device's other threads do not wait for that.
        let weights = plan.iter().map(|planned| {
            let Value::Frozen(weight) = &planned.module.weight else {
                return Err(product::no_frozen_weight(&planned.module.declared));
            };
            Ok(host::fetch(weight)?)
        });
        let weights = weights.collect::<Result<Vec<_>, Error>>()?;
        self.planned = plan
            .par_iter()
            .zip(weights)
            .map(|(planned, weight)| {
                let module = planned.module;
                let declared = &module.declared;
                let largest = declared.inputs().min(declared.outputs());
                // A rank that is too large is reported when it is attached.
                let rank = planned.rank.min(largest);
                Ok((module.id, part(matrix(declared, &weight)?.view(), rank)?))
            })
            .collect::<Result<_, Error>>()?;
        Ok(())
    }

    /// Attaches a module's part, its factors divided by `divisor`, and takes s B A off its weight.
    pub fn attach(&mut self, mut site: Site<'_>, scale: f64, divisor: f64) -> Result<(), Error> {
        let declared = site.module.declared.clone();
        let Some((a, b)) = self.planned.remove(&site.module.id) else {
            return Err(product::no_frozen_weight(&declared));
        };
        let Value::Frozen(weight) = &site.module.weight else {
            return Err(product::no_frozen_weight(&declared));
        };
        let dtype = match weight.dtype() {
            DType::F64 => DType::F64,
            _ => DType::F32,
        };
        let rounded = |factor: &Array2<f64>| -> Result<Tensor, Error> {
            let values: Vec<f64> = factor.iter().map(|value| value / divisor).collect();
            let tensor = Tensor::from_vec(values, factor.dim(), &Device::Cpu)?;
            Ok(tensor.to_dtype(dtype)?.to_dtype(DType::F64)?)
        };
        let (a, b) = (rounded(&a)?, rounded(&b)?);
        let product = (b.matmul(&a)? * scale)?;
        let on_host = host::fetch(weight)?.to_dtype(DType::F64)?;
        let rest = (declared.matrix(&on_host)? - product)?;
        let rest = declared.stored(&rest)?.to_dtype(weight.dtype())?;
        let rest = rest.to_device(weight.device())?;
        site.module.weight = Value::Frozen(rest);
        let b = b.t()?.contiguous()?;
        self.taken_off
            .insert(site.module.id, (a.clone(), b.clone()));
        product::attach_factors(&mut site, a, b, scale);
        Ok(())
    }

    pub fn taken_off(&self, module: ModuleId) -> Option<&(Tensor, Tensor)> {
        self.taken_off.get(&module)
    }
}

/// The largest rank of a part of a weight.
pub(super) fn largest_rank(declared: &Declared) -> usize {
    declared.inputs().min(declared.outputs())
}

/// A weight on the host as outputs × inputs.
fn matrix(declared: &Declared, weight: &Tensor) -> Result<Array2<f64>, Error> {
    let weight = weight.to_dtype(DType::F64)?;
    let matrix = declared.matrix(&weight)?.contiguous()?;
    let shape = matrix.dims2()?;
    let values = matrix.flatten_all()?.to_vec1()?;
    Ok(Array2::from_shape_vec(shape, values).expect("as many numbers as the shape says"))
}
