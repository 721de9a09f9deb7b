//! Tables that rows are read from: embeddings with their updates, positions, and the tied head that
//! multiplies by an embedding.
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
        let weight = as_rows(module.weight.tensor(self.parameters))?;
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

    /// `x` (tokens × width) times the transpose of an embedding's weight: logits of its entries. The
    /// embedding's own update has no part in them.
    pub fn tied(&self, x: &Var, module: &Module) -> Result<Var> {
        let input = x.value.clone();
        let weight = module.weight.tensor(self.parameters);
        let weight = weight.to_dtype(input.dtype())?;
        let value = input.matmul(&weight.t()?)?;
        let own = module.weight.parameter();
        if !self.wants([x], own.is_some()) {
            return Ok(Var::constant(value));
        }
        let x = x.clone();
        Ok(self.record(value, move |dy, gradients| {
            if let Some(id) = own {
                gradients.add_parameter(id, dy.t()?.matmul(&input)?)?;
            }
            if x.is_recorded() {
                gradients.add(&x, dy.matmul(&weight)?)?;
            }
            Ok(())
        }))
    }

    /// `map` (rows × entries), a constant, times a table of entries × width: its rows at places
    /// between those that it has.
    pub fn mapped(&self, map: &Tensor, module: &Module) -> Result<Var> {
        let weight = as_rows(module.weight.tensor(self.parameters))?;
        let map = map.to_device(weight.device())?.to_dtype(weight.dtype())?;
        let value = map.matmul(&weight)?;
        let Some(id) = module.weight.parameter() else {
            return Ok(Var::constant(value));
        };
        if !self.wants([], true) {
            return Ok(Var::constant(value));
        }
        let shape = module.declared.shape.clone();
        Ok(self.record(value, move |dy, gradients| {
            let dweight = map.t()?.matmul(&dy)?;
            gradients.add_parameter(id, dweight.reshape(shape.as_slice())?)
        }))
    }
}

/// A table as entries × width: some are kept as 1 × entries × width.
fn as_rows(weight: &Tensor) -> Result<Tensor> {
    match weight.rank() {
        2 => Ok(weight.clone()),
        rank => weight.flatten_to(rank - 2),
    }
}
