//! A linear layer with its low-rank update, as one operation.
//!
//! With x (tokens × in), h = drop(x) Aᵀ and u = (h ⊙ g) Bᵀ:
//!
//! ```text
//! y  = x Wᵀ + b + s u ⊙ o
//! dx = dY W + drop′((dh) A)      dh = (s dY ⊙ o) B ⊙ g
//! dA = dhᵀ drop(x)               dB = (s dY ⊙ o)ᵀ (h ⊙ g)
//! dg = Σ ((s dY ⊙ o) B) ⊙ h      do = Σ s dY ⊙ u = Σ_R B ⊙ (s dYᵀ (h ⊙ g))
//! ```
//!
//! A frozen W gets no gradient. For a mask S of moving directions only the rows S of dA and dB are
//! computed, while dx uses all directions. GPT-2's Conv1D differs in how W is stored. The branch of
//! the update is `low_rank`'s.

use candle_core::{Result, Tensor, WithDType};

use super::host::{self, Real, by_real};
use super::tape::{Tape, Var};
use crate::module::{Kind, Module, Value};

impl Tape<'_> {
    /// `x` (tokens × inputs) through `module`, a linear layer, a Conv1D or a convolution over
    /// patches.
    pub fn linear(&self, x: &Var, module: &Module) -> Result<Var> {
        self.linear_again(x, module, 0)
    }

    /// [`linear`](Self::linear) for a module that is used several times in one pass: every `turn`
    /// has chance of its own.
    pub fn linear_again(&self, x: &Var, module: &Module, turn: usize) -> Result<Var> {
        let site = (turn << 32) | module.adapter_site();
        if let Some(adapter) = &module.adapter
            && adapter.magnitude.is_some()
        {
            return self.decomposed_linear(x, module, adapter, site);
        }
        let input = x.value.clone();
        let weight = self.in_out_weight(module, &input)?;
        let branch = module
            .adapter
            .as_ref()
            .map(|adapter| self.dense_branch(adapter, &input, site))
            .transpose()?;
        let value = input.matmul(&weight)?;
        let bias = self.bias(module, &input)?;
        let value = match &branch {
            None => add_bias(value, bias.as_ref())?,
            Some(branch) => branch.add_to(value, bias.as_ref())?,
        };
        let (own, own_bias) = (
            module.weight.parameter(),
            module.bias.as_ref().and_then(Value::parameter),
        );
        if !self.wants([x], own.is_some() || own_bias.is_some() || branch.is_some()) {
            return Ok(Var::constant(value));
        }
        let observer = module.observer();
        let kind = module.declared.kind;
        let shape = module.declared.shape.clone();
        let x = x.clone();
        Ok(self.record(value, move |dy, gradients| {
            if let Some(module) = observer {
                gradients.observe(module, column_sums(&input.sqr()?)?)?;
            }
            if let Some(id) = own_bias {
                gradients.add_parameter(id, column_sums(&dy)?)?;
            }
            if let Some(id) = own {
                let dweight = match kind {
                    Kind::Conv1d => input.t()?.matmul(&dy)?,
                    _ => dy.t()?.matmul(&input)?,
                };
                gradients.add_parameter(id, dweight.reshape(shape.as_slice())?)?;
            }
            let dx = x
                .is_recorded()
                .then(|| dy.matmul(&weight.t()?))
                .transpose()?;
            let dx = match &branch {
                None => dx,
                Some(branch) => branch.backward(&dy, dx, gradients)?,
            };
            match dx {
                Some(dx) => gradients.add(&x, dx),
                None => Ok(()),
            }
        }))
    }

    /// A module's weight as in × out, in the type of `like`.
    pub(super) fn in_out_weight(&self, module: &Module, like: &Tensor) -> Result<Tensor> {
        let weight = module.weight.tensor(self.parameters);
        let weight = weight.to_dtype(like.dtype())?;
        match module.declared.kind {
            Kind::Conv1d => Ok(weight),
            _ => weight.flatten_from(1)?.t(),
        }
    }

    /// A module's bias in the type of `like`.
    pub(super) fn bias(&self, module: &Module, like: &Tensor) -> Result<Option<Tensor>> {
        module
            .bias
            .as_ref()
            .map(|bias| bias.tensor(self.parameters).to_dtype(like.dtype()))
            .transpose()
    }
}

/// `y + bias`; `y` is changed in place where that is possible: nobody else may hold it.
pub(super) fn add_bias(y: Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let Some(bias) = bias else {
        return Ok(y);
    };
    if !host::is_host(&y) {
        return y.broadcast_add(bias);
    }
    by_real!(y, |T| {
        host::read::<T, _>(bias, |bias| {
            host::modify::<T>(&y, |y| {
                for row in y.chunks_exact_mut(bias.len()) {
                    for (y, bias) in row.iter_mut().zip(bias) {
                        *y += *bias;
                    }
                }
            })
        })??;
    });
    Ok(y)
}

/// `y + left·right + bias` for a thin product (rows × R and R × width), in one pass over `y`, which
/// is changed: nobody else may hold it.
pub(super) fn add_product_in_place(
    y: Tensor,
    left: &Tensor,
    right: &Tensor,
    bias: Option<&Tensor>,
) -> Result<Tensor> {
    let (left, right) = (left.contiguous()?, right.contiguous()?);
    let width = right.dim(1)?;
    by_real!(y, |T| {
        let add = |bias: &[T]| {
            host::read2::<T, _>(&left, &right, |left, right| {
                host::modify::<T>(&y, |y| add_product(y, left, right, width, bias))
            })?
        };
        match bias {
            Some(bias) => host::read::<T, _>(bias, add)??,
            None => add(&[])?,
        }
    });
    Ok(y)
}

/// Numbers of `right` that are worked on at a time, so that they stay in the first-level cache.
const BLOCK: usize = 4096;

fn add_product<T: Real>(y: &mut [T], left: &[T], right: &[T], width: usize, bias: &[T]) {
    let rank = right.len() / width.max(1);
    let columns = (BLOCK / rank.max(1)).clamp(64, 1024).next_multiple_of(16);
    pulp::Arch::new().dispatch(
        #[inline(always)]
        || {
            for start in (0..width).step_by(columns) {
                let end = width.min(start + columns);
                for (y, left) in y
                    .chunks_exact_mut(width)
                    .zip(left.chunks_exact(rank.max(1)))
                {
                    let y = &mut y[start..end];
                    if !bias.is_empty() {
                        for (y, bias) in y.iter_mut().zip(&bias[start..end]) {
                            *y += *bias;
                        }
                    }
                    let rows = |index: usize| &right[index * width + start..index * width + end];
                    let (fours, rest) = left.as_chunks::<4>();
                    for (index, [a, b, c, d]) in fours.iter().enumerate() {
                        let first = 4 * index;
                        let pairs = rows(first).iter().zip(rows(first + 1));
                        let others = rows(first + 2).iter().zip(rows(first + 3));
                        for ((y, (p, q)), (r, s)) in y.iter_mut().zip(pairs).zip(others) {
                            *y += (*a * *p + *b * *q) + (*c * *r + *d * *s);
                        }
                    }
                    for (index, a) in rest.iter().enumerate() {
                        for (y, p) in y.iter_mut().zip(rows(4 * fours.len() + index)) {
                            *y += *a * *p;
                        }
                    }
                }
            }
        },
    );
}

/// Σ over rows.
pub(super) fn column_sums(x: &Tensor) -> Result<Tensor> {
    let x = x.contiguous()?;
    if !host::is_host(&x) {
        return x.sum(0);
    }
    let width = x.dim(1)?;
    by_real!(x, |T| {
        let sums = host::read::<T, _>(&x, |x| {
            let mut sums = vec![T::from_f64(0.0); width];
            for row in x.chunks_exact(width.max(1)) {
                for (sum, value) in sums.iter_mut().zip(row) {
                    *sum += *value;
                }
            }
            sums
        })?;
        host::tensor(sums, &[width])
    })
}
