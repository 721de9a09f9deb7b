//! Tables that rows are read from: embeddings with their updates, positions, and the tied head that
//! multiplies by an embedding.

use candle_core::{Result, Tensor};

use super::tape::{Tape, Var};
use crate::module::{Adapter, Module, Value};

impl Tape<'_> {
    /// The rows `indices` of a module's weight (entries × width) with its update: an embedding, or a
    /// table of positions.
    ///
    /// PEFT's factors of an embedding stand the other way round: A (R × entries) begins at zero, and
    /// row i of the update is s (B A[:, i])ᵀ.
    pub fn embedding(&self, module: &Module, indices: &[u32]) -> Result<Var> {
        let weight = as_rows(module.weight.tensor(self.parameters))?;
        let shape = module.declared.shape.clone();
        let entries = weight.dim(0)?;
        let indices = Tensor::new(indices, weight.device())?;
        let base = weight.index_select(&indices, 0)?;
        let own = module.weight.parameter();
        let branch = module
            .adapter
            .as_ref()
            .map(|adapter| self.embedding_branch(adapter, &indices))
            .transpose()?;
        let value = match &branch {
            None => base,
            Some((inner, b, adapter)) => {
                let update = (inner.matmul(b)? * adapter.scale)?;
                (base + update.to_dtype(weight.dtype())?)?
            }
        };
        if !self.wants([], own.is_some() || branch.is_some()) {
            return Ok(Var::constant(value));
        }
        Ok(self.record(value, move |dy, gradients| {
            let dy = dy.contiguous()?;
            if let Some(id) = own {
                let zeros = Tensor::zeros((entries, dy.dim(1)?), dy.dtype(), dy.device())?;
                let dweight = zeros.index_add(&indices, &dy, 0)?;
                gradients.add_parameter(id, dweight.reshape(shape.as_slice())?)?;
            }
            let Some((inner, b, adapter)) = branch else {
                return Ok(());
            };
            let dy = (dy.to_dtype(b.dtype())? * adapter.scale)?;
            if let Some(id) = adapter.b.parameter() {
                gradients.add_parameter(id, inner.t()?.matmul(&dy)?)?;
            }
            if let Some(id) = adapter.a.parameter() {
                let dinner = dy.matmul(&b.t()?)?;
                let zeros = Tensor::zeros((entries, b.dim(0)?), dy.dtype(), dy.device())?;
                let da = zeros.index_add(&indices, &dinner, 0)?;
                gradients.add_parameter(id, da.t()?.contiguous()?)?;
            }
            Ok(())
        }))
    }

    /// A[:, ids]ᵀ (tokens × R), Bᵀ and the adapter.
    fn embedding_branch(
        &self,
        adapter: &Adapter,
        indices: &Tensor,
    ) -> Result<(Tensor, Tensor, Adapter)> {
        let of = |value: &Value| value.tensor(self.parameters).clone();
        let inner = of(&adapter.a).index_select(indices, 1)?.t()?.contiguous()?;
        Ok((inner, of(&adapter.b), adapter.clone()))
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
