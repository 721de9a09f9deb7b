//! The low-rank branch of an operation: u = (h ⊙ g) Bᵀ ⊙ o from h = x Aᵀ, and its way back.
//!
//! | symbol | identifier |
//! |---|---|
//! | h (tokens × R) | `inner` |
//! | g, o | `gate`, `output_gate` |
//! | x | `source`: rows of numbers, or one-hot rows by their numbers |

use candle_core::{Result, Tensor};

use super::dropout::Drop;
use super::host;
use super::linear::{add_bias, add_product_in_place, column_sums};
use super::tape::{Gradients, Tape};
use crate::module::{Adapter, Value};

/// What A is applied to.
enum Source {
    /// Rows after dropout, and the dropout.
    Dense(Tensor, Option<Drop>),
    /// One-hot rows: the columns of A that they choose, and how many columns there are.
    OneHot(Tensor, usize),
}

/// An adapter's tensors as one step uses them, in the type of the hidden states.
pub(super) struct Branch {
    /// R' × in, R' × out: the directions in use.
    a: Tensor,
    b: Tensor,
    /// Bᵀ ⊙ o: nothing of the width of the output is multiplied by o.
    weighted: Tensor,
    gate: Option<Tensor>,
    output_gate: Option<Tensor>,
    adapter: Adapter,
    inner: Tensor,
    source: Source,
    /// R.
    rank: usize,
}

impl Tape<'_> {
    /// The branch of a layer with rows of numbers as its input.
    pub(super) fn dense_branch(
        &self,
        adapter: &Adapter,
        x: &Tensor,
        site: usize,
    ) -> Result<Branch> {
        let drop = self
            .noise
            .filter(|_| adapter.dropout > 0.0)
            .map(|noise| noise.site(site, adapter.dropout));
        let dropped = match drop {
            Some(drop) => drop.apply(x)?,
            None => x.clone(),
        };
        self.branch(adapter, x, Source::Dense(dropped, drop))
    }

    /// The branch of an embedding, whose weight is `like`; nothing is dropped there.
    pub(super) fn one_hot_branch(
        &self,
        adapter: &Adapter,
        indices: &Tensor,
        like: &Tensor,
    ) -> Result<Branch> {
        let entries = like.dim(0)?;
        self.branch(adapter, like, Source::OneHot(indices.clone(), entries))
    }

    fn branch(&self, adapter: &Adapter, like: &Tensor, source: Source) -> Result<Branch> {
        let of = |value: &Value| value.tensor(self.parameters).to_dtype(like.dtype());
        let used = |tensor: Tensor| match adapter.used {
            Some(used) => tensor.narrow(0, 0, used),
            None => Ok(tensor),
        };
        let a = used(of(&adapter.a)?)?;
        let gate = match &adapter.gate {
            Some(gate) => Some(used(adapter.squash.apply(&of(gate)?)?)?),
            None => None,
        };
        let inner = match &source {
            Source::Dense(dropped, _) => dropped.matmul(&a.t()?)?,
            Source::OneHot(indices, _) => a.contiguous()?.index_select(indices, 1)?.t()?,
        };
        let b = used(of(&adapter.b)?)?;
        let output_gate = adapter.output_gate.as_ref().map(of).transpose()?;
        let weighted = match &output_gate {
            Some(output) => b.broadcast_mul(output)?,
            None => b.clone(),
        };
        Ok(Branch {
            inner: inner.contiguous()?,
            a,
            b,
            weighted,
            gate,
            output_gate,
            adapter: adapter.clone(),
            source,
            rank: adapter.a.tensor(self.parameters).dim(0)?,
        })
    }
}

impl Branch {
    /// h ⊙ g.
    fn gated(&self, inner: &Tensor) -> Result<Tensor> {
        match &self.gate {
            Some(gate) => inner.broadcast_mul(gate),
            None => Ok(inner.clone()),
        }
    }

    /// `base` + bias + s u. `base` is changed in place where that is possible: nobody else may hold
    /// it.
    pub(super) fn add_to(&self, base: Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
        let gated = (self.gated(&self.inner)? * self.adapter.scale)?;
        if host::is_host(&base) {
            return add_product_in_place(base, &gated, &self.weighted, bias);
        }
        add_bias((base + gated.matmul(&self.weighted)?)?, bias)
    }

    /// Gradients of the branch's parameters from dY; adds the branch's share to `dx`.
    pub(super) fn backward(
        &self,
        dy: &Tensor,
        dx: Option<Tensor>,
        gradients: &mut Gradients,
    ) -> Result<Option<Tensor>> {
        let adapter = &self.adapter;
        let gated = self.gated(&self.inner)?;
        let gate_of = |value: &Option<Value>| {
            let id = value.as_ref().and_then(Value::parameter);
            id.filter(|_| adapter.gate_moves)
        };
        // The scale goes into the thin sides.
        let scaled = (&gated * adapter.scale)?;
        if let Some(id) = gate_of(&adapter.output_gate) {
            // Σ over tokens of dY ⊙ u, as a sum over directions.
            let thin = scaled.t()?.matmul(dy)?;
            gradients.add_parameter(id, column_sums(&(thin * &self.b)?)?)?;
        }
        let dgated = (dy.matmul(&self.weighted.t()?)? * adapter.scale)?;
        if let (Some(id), Some(gate)) = (gate_of(&adapter.gate), &self.gate) {
            let dgate = column_sums(&(&dgated * &self.inner)?)?;
            let dgate = adapter.squash.backward(gate, &dgate)?;
            gradients.add_parameter(id, self.padded(dgate)?)?;
        }
        let dinner = self.gated(&dgated)?;
        let factor = |value: &Value| value.parameter().filter(|_| adapter.factors_move);
        if let Some(id) = factor(&adapter.b) {
            let db = self.chosen(&scaled)?.t()?.matmul(dy)?;
            let db = match &self.output_gate {
                Some(output) => db.broadcast_mul(output)?,
                None => db,
            };
            gradients.add_parameter(id, self.whole(db)?)?;
        }
        if let Some(id) = factor(&adapter.a) {
            let left = self.chosen(&dinner)?;
            let da = match &self.source {
                Source::Dense(dropped, _) => left.t()?.matmul(dropped)?,
                Source::OneHot(indices, entries) => {
                    let zeros =
                        Tensor::zeros((*entries, left.dim(1)?), left.dtype(), left.device())?;
                    let columns = zeros.index_add(indices, &left.contiguous()?, 0)?;
                    columns.t()?.contiguous()?
                }
            };
            gradients.add_parameter(id, self.whole(da)?)?;
        }
        let Some(dx) = dx else {
            return Ok(None);
        };
        match &self.source {
            Source::Dense(_, Some(drop)) => Ok(Some((dx + drop.apply(&dinner.matmul(&self.a)?)?)?)),
            _ if host::is_host(&dx) => add_product_in_place(dx, &dinner, &self.a, None).map(Some),
            _ => Ok(Some((dx + dinner.matmul(&self.a)?)?)),
        }
    }

    /// The columns of the moving directions.
    fn chosen(&self, columns: &Tensor) -> Result<Tensor> {
        match &self.adapter.moving {
            Some(moving) => {
                let moving = Tensor::new(moving.as_slice(), columns.device())?;
                columns.contiguous()?.index_select(&moving, 1)
            }
            None => Ok(columns.clone()),
        }
    }

    /// Rows of moving directions among all R, the others zero.
    fn whole(&self, rows: Tensor) -> Result<Tensor> {
        match &self.adapter.moving {
            Some(moving) => {
                let shape = (self.rank, rows.dim(1)?);
                let moving = Tensor::new(moving.as_slice(), rows.device())?;
                Tensor::zeros(shape, rows.dtype(), rows.device())?.index_add(&moving, &rows, 0)
            }
            None => self.padded(rows),
        }
    }

    /// Zeros for the directions beyond those in use.
    fn padded(&self, rows: Tensor) -> Result<Tensor> {
        match self.rank - rows.dim(0)? {
            0 => Ok(rows),
            missing => rows.pad_with_zeros(0, 0, missing),
        }
    }
}
