//! Multi-head attention over packed sequences: softmax(Q Kᵀ/√d) V, sequence by sequence (Vaswani et
//! al. 2017, Eq. 1), so that no padding is computed.
//!
//! With P the weights, D = drop, S = s Q Kᵀ and rows of P summing to 1:
//!
//! ```text
//! dV = D(P)ᵀ dO        dP = D(dO Vᵀ)        dS = P ⊙ (dP − Σ P ⊙ dP)
//! dQ = s dS K          dK = s dSᵀ Q
//! ```
//!
//! P is kept, Q, K and V are views of what their projections made.

use candle_core::{D, Result, Tensor, WithDType};

use super::dropout::Drop;
use super::host::{self, by_real};
use super::rows::Lengths;
use super::tape::{Gradients, Tape, Var};

/// How queries meet keys.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Attention {
    pub heads: usize,
    /// s, by default 1/√(width of a head).
    pub scale: f64,
    /// Whether a token sees only itself and what stands before it.
    pub is_causal: bool,
    /// Dropout on the weights.
    pub dropout: f64,
    /// The number of that dropout.
    pub site: usize,
}

/// Where queries, keys and values come from.
enum Sources {
    Apart([Var; 3]),
    /// Beside each other in the columns of one.
    Packed(Var),
}

impl Tape<'_> {
    /// Attention of every sequence to itself; `query`, `key`, `value` are tokens × hidden.
    pub fn attention(
        &self,
        query: &Var,
        key: &Var,
        value: &Var,
        lengths: &Lengths,
        how: Attention,
    ) -> Result<Var> {
        let sources = Sources::Apart([query.clone(), key.clone(), value.clone()]);
        self.attend(sources, lengths, how)
    }

    /// [`attention`](Self::attention) of `packed`, tokens × 3·hidden: queries, keys and values beside
    /// each other, as one projection makes them.
    pub fn packed_attention(&self, packed: &Var, lengths: &Lengths, how: Attention) -> Result<Var> {
        self.attend(Sources::Packed(packed.clone()), lengths, how)
    }

    fn attend(&self, sources: Sources, lengths: &Lengths, how: Attention) -> Result<Var> {
        let wants = match &sources {
            Sources::Apart([query, key, value]) => self.wants([query, key, value], false),
            Sources::Packed(packed) => self.wants([packed], false),
        };
        let mut outputs = Vec::with_capacity(lengths.count());
        let mut kept = Vec::with_capacity(lengths.count());
        for (number, (start, length)) in lengths.iter().enumerate() {
            let [q, k, v] = sources.heads(start, length, how.heads)?;
            let scores = q.matmul(&k.transpose(1, 2)?)?;
            let weights = softmax(scores, how.scale, how.is_causal)?;
            let drop = self.weight_drop(number, how);
            let dropped = dropped(&weights, drop)?;
            outputs.push(merged(&dropped.matmul(&v)?)?);
            if wants {
                kept.push((q, k, v, weights, drop));
            }
        }
        let output = Tensor::cat(&outputs, 0)?;
        if !wants {
            return Ok(Var::constant(output));
        }
        let lengths = lengths.clone();
        Ok(self.record(output, move |dy, gradients| {
            let mut parts: [Vec<Tensor>; 3] = Default::default();
            for ((start, length), (q, k, v, weights, drop)) in lengths.iter().zip(kept) {
                let dy = heads(&dy.narrow(0, start, length)?, how.heads)?;
                let dv = dropped(&weights, drop)?.transpose(1, 2)?.matmul(&dy)?;
                let dweights = dropped(&dy.matmul(&v.transpose(1, 2)?)?, drop)?;
                let dscores = softmax_gradient(&weights, dweights, how.scale)?;
                parts[0].push(merged(&dscores.matmul(&k)?)?);
                parts[1].push(merged(&dscores.transpose(1, 2)?.matmul(&q)?)?);
                parts[2].push(merged(&dv)?);
            }
            sources.add_gradients(parts, gradients)
        }))
    }

    /// Dropout on the weights of sequence `number`: sequences have chance of their own.
    pub(super) fn weight_drop(&self, number: usize, how: Attention) -> Option<Drop> {
        self.noise
            .filter(|_| how.dropout > 0.0)
            .map(|noise| noise.site((number << 32) | how.site, how.dropout))
    }
}

impl Sources {
    /// Queries, keys and values of one sequence, each heads × length × width.
    fn heads(&self, start: usize, length: usize, count: usize) -> Result<[Tensor; 3]> {
        match self {
            Self::Apart([query, key, value]) => {
                let part = |x: &Var| heads(&x.value.narrow(0, start, length)?, count);
                Ok([part(query)?, part(key)?, part(value)?])
            }
            Self::Packed(packed) => {
                let rows = packed.value.narrow(0, start, length)?;
                let width = rows.dim(1)? / 3 / count;
                let rows = rows.reshape((length, 3, count, width))?;
                let part = |which| by_head(&rows.narrow(1, which, 1)?.squeeze(1)?);
                Ok([part(0)?, part(1)?, part(2)?])
            }
        }
    }

    /// Adds the sequences' gradients of queries, keys and values, each length × hidden.
    fn add_gradients(&self, parts: [Vec<Tensor>; 3], gradients: &mut Gradients) -> Result<()> {
        match self {
            Self::Apart(inputs) => {
                for (input, parts) in inputs.iter().zip(parts) {
                    if input.is_recorded() {
                        gradients.add(input, Tensor::cat(&parts, 0)?)?;
                    }
                }
                Ok(())
            }
            Self::Packed(packed) => {
                let [queries, keys, values] = parts;
                let rows = queries
                    .iter()
                    .zip(&keys)
                    .zip(&values)
                    .map(|((query, key), value)| Tensor::cat(&[query, key, value], 1))
                    .collect::<Result<Vec<_>>>()?;
                gradients.add(packed, Tensor::cat(&rows, 0)?)
            }
        }
    }
}

pub(super) fn dropped(weights: &Tensor, drop: Option<Drop>) -> Result<Tensor> {
    match drop {
        Some(drop) => drop.apply(weights),
        None => Ok(weights.clone()),
    }
}

/// length × hidden as heads × length × width, a view where the product can take one.
pub(super) fn heads(x: &Tensor, heads: usize) -> Result<Tensor> {
    let (length, hidden) = x.dims2()?;
    // A narrowed part of wider rows cannot be reshaped, only copied.
    let x = if x.stride() == [hidden, 1] {
        x.clone()
    } else {
        x.contiguous()?
    };
    by_head(&x.reshape((length, heads, hidden / heads))?)
}

/// length × heads × width as heads × length × width.
fn by_head(x: &Tensor) -> Result<Tensor> {
    let split = x.transpose(0, 1)?;
    if split.device().is_cpu() {
        Ok(split)
    } else {
        split.contiguous()
    }
}

/// heads × length × width as length × hidden.
pub(super) fn merged(x: &Tensor) -> Result<Tensor> {
    let (heads, length, width) = x.dims3()?;
    x.transpose(0, 1)?.reshape((length, heads * width))
}

/// Softmax over the last dimension of `scale`·`scores` (heads × queries × keys). `scores` are
/// changed in place where that is possible: nobody else may hold them.
pub(super) fn softmax(scores: Tensor, scale: f64, is_causal: bool) -> Result<Tensor> {
    let (_, queries, keys) = scores.dims3()?;
    if host::is_host(&scores) {
        by_real!(scores, |T| {
            let scale = T::from_f64(scale);
            host::modify::<T>(&scores, |scores| {
                pulp::Arch::new().dispatch(
                    #[inline(always)]
                    || {
                        for (index, row) in scores.chunks_exact_mut(keys).enumerate() {
                            let seen = if is_causal { index % queries + 1 } else { keys };
                            let (row, unseen) = row.split_at_mut(seen);
                            for value in row.iter_mut() {
                                *value *= scale;
                            }
                            let (_, sum) = host::exponentials(row);
                            let factor = T::from_f64(1.0) / sum;
                            for value in row.iter_mut() {
                                *value *= factor;
                            }
                            unseen.fill(T::from_f64(0.0));
                        }
                    },
                );
            })?;
        });
        return Ok(scores);
    }
    let dtype = scores.dtype();
    let mut scores = (scores.to_dtype(host::wide(dtype))? * scale)?;
    if is_causal {
        let above: Vec<f32> = (0..queries * keys)
            .map(|at| {
                if at % keys > at / keys {
                    f32::NEG_INFINITY
                } else {
                    0.0
                }
            })
            .collect();
        let above = Tensor::from_vec(above, (1, queries, keys), scores.device())?;
        scores = scores.broadcast_add(&above.to_dtype(scores.dtype())?)?;
    }
    let shifted = scores
        .broadcast_sub(&scores.max_keepdim(D::Minus1)?)?
        .exp()?;
    shifted
        .broadcast_div(&shifted.sum_keepdim(D::Minus1)?)?
        .to_dtype(dtype)
}

/// `scale`·P ⊙ (dP − Σ P ⊙ dP) by rows. `dweights` are changed in place where that is possible:
/// nobody else may hold them.
pub(super) fn softmax_gradient(weights: &Tensor, dweights: Tensor, scale: f64) -> Result<Tensor> {
    if host::is_host(weights) {
        let keys = weights.dim(D::Minus1)?;
        let dweights = dweights.contiguous()?;
        by_real!(weights, |T| {
            let scale = T::from_f64(scale);
            host::read::<T, _>(weights, |weights| {
                host::modify::<T>(&dweights, |dweights| {
                    pulp::Arch::new().dispatch(
                        #[inline(always)]
                        || {
                            let rows = weights.chunks_exact(keys);
                            for (p, dp) in rows.zip(dweights.chunks_exact_mut(keys)) {
                                let along = host::dot(p, dp);
                                for (dp, p) in dp.iter_mut().zip(p) {
                                    *dp = scale * *p * (*dp - along);
                                }
                            }
                        },
                    );
                })
            })??;
        });
        return Ok(dweights);
    }
    let dtype = weights.dtype();
    let weights = weights.to_dtype(host::wide(dtype))?;
    let dweights = dweights.to_dtype(host::wide(dtype))?;
    let along = (&weights * &dweights)?.sum_keepdim(D::Minus1)?;
    ((weights * dweights.broadcast_sub(&along)?)? * scale)?.to_dtype(dtype)
}
