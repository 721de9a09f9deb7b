//! Rows of a table by their numbers, with the table's update.
//!
//! PEFT's factors of an embedding stand the other way round: A (R × entries) begins at zero, and row
//! i of the update is s (B A[:, i])ᵀ. With x one-hot this is a linear layer whose weight is the
//! table transposed, so gates, masks and DoRA's lengths (one a column, over all entries) are those of
//! `low_rank` and `decomposed`.

use candle_core::{Result, Tensor};

use super::tape::{Tape, Var};
use crate::module::Module;

impl Tape<'_> {
    /// The rows `indices` of a module's weight (entries × width) with its update: an embedding, or a
    /// table of positions.
    pub fn embedding(&self, module: &Module, indices: &[u32]) -> Result<Var> {
        let weight = module.weight.tensor(self.parameters);
        let weight = match weight.rank() {
            2 => weight.clone(),
            // Tables are kept as 1 × entries × width.
            _ => weight.flatten_to(weight.rank() - 2)?,
        };
        let shape = module.declared.shape.clone();
        let entries = weight.dim(0)?;
        let indices = Tensor::new(indices, weight.device())?;
        let base = weight.index_select(&indices, 0)?;
        let own = module.weight.parameter();
        let adapter = module.adapter.as_ref();
        let branch = adapter
            .map(|adapter| self.one_hot_branch(adapter, &indices, &weight))
            .transpose()?;
        let scaling = adapter
            .filter(|adapter| adapter.magnitude.is_some())
            .map(|adapter| self.scaling(adapter, &weight))
            .transpose()?;
        let whole = match &branch {
            None => base,
            Some(branch) => branch.add_to(base, None)?,
        };
        let value = match &scaling {
            None => whole.clone(),
            Some(scaling) => whole.broadcast_mul(&scaling.factor)?,
        };
        if !self.wants([], own.is_some() || branch.is_some()) {
            return Ok(Var::constant(value));
        }
        let observer = module.observer();
        Ok(self.record(value, move |dy, gradients| {
            let dy = dy.contiguous()?;
            if let Some(module) = observer {
                // The squares of one-hot rows sum to how often an entry was asked for.
                let zeros = Tensor::zeros(entries, dy.dtype(), dy.device())?;
                let ones = Tensor::ones(indices.dim(0)?, dy.dtype(), dy.device())?;
                gradients.observe(module, zeros.index_add(&indices, &ones, 0)?)?;
            }
            let dy = match &scaling {
                Some(scaling) => {
                    scaling.backward(&dy, &whole, &weight, gradients)?;
                    dy.broadcast_mul(&scaling.factor)?
                }
                None => dy,
            };
            if let Some(id) = own {
                let zeros = Tensor::zeros((entries, dy.dim(1)?), dy.dtype(), dy.device())?;
                let dweight = zeros.index_add(&indices, &dy, 0)?;
                gradients.add_parameter(id, dweight.reshape(shape.as_slice())?)?;
            }
            if let Some(branch) = &branch {
                branch.backward(&dy, None, gradients)?;
            }
            Ok(())
        }))
    }
}
