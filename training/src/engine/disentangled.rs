//! Disentangled attention (He et al. 2021, section 3.1) over packed sequences: scores of contents
//! with contents, of contents with relative positions, and of relative positions with contents.
//!
//! With r(δ) the row of the relative embeddings for a distance δ = i − j, Kr and Qr their projections
//! to keys and queries, P = softmax S and D = drop:
//!
//! ```text
//! S_ij = s (q_i·k_j + q_i·Kr_r(i−j) + k_j·Qr_r(i−j))
//! dS   = s P ⊙ (D(dO Vᵀ) − Σ P ⊙ D(dO Vᵀ))      C_ir = Σ_{j: r(i−j) = r} dS_ij
//! dQ   = dS K + C Kr                             G_jr = Σ_{i: r(i−j) = r} dS_ij
//! dK   = dSᵀ Q + G Qr     dKr = Cᵀ Q     dQr = Gᵀ K     dV = D(P)ᵀ dO
//! ```
//!
//! The paper looks the second relative term up at r(j − i) with −δ and the reference transposes it;
//! both come to r(i − j), since r is odd about its middle. r depends on i − j only, so the products
//! with relative positions are made for the distances that a sequence has, 2·length − 1 at most, and
//! read from there.

use candle_core::{Result, Tensor, WithDType};

use super::attention::{Attention, dropped, heads, merged, softmax, softmax_gradient};
use super::dropout::Drop;
use super::host::{self, by_real};
use super::rows::Lengths;
use super::tape::{Tape, Var};

/// r: which row of the relative embeddings a distance has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Distances {
    /// r(δ) less `first`, for δ from −(longest − 1) to longest − 1.
    rows: Vec<u32>,
    first: u32,
    count: usize,
}

impl Distances {
    /// For sequences of `longest` tokens at most. There are 2·`span` rows; `buckets` (how many on a
    /// side, and the largest position) says which distances share one.
    pub fn new(longest: usize, span: usize, buckets: Option<(usize, usize)>) -> Self {
        let last = longest.max(1) as i64 - 1;
        let rows: Vec<u32> = (-last..=last)
            .map(|distance| {
                let place = match buckets {
                    Some((count, positions)) => bucket(distance, count, positions),
                    None => distance,
                };
                place
                    .saturating_add(span as i64)
                    .clamp(0, 2 * span as i64 - 1) as u32
            })
            .collect();
        let (first, count) = extent(&rows);
        Self {
            rows: rows.into_iter().map(|row| row - first).collect(),
            first,
            count,
        }
    }

    /// The rows of the relative embeddings that are needed, ascending.
    pub fn entries(&self) -> Vec<u32> {
        (self.first..self.first + self.count as u32).collect()
    }

    /// For a sequence of `length` tokens: the first of the needed rows, how many, and r less that
    /// first, for δ from −(length − 1) to length − 1.
    fn part(&self, length: usize) -> (usize, usize, Vec<u32>) {
        let (middle, length) = (self.rows.len() / 2, length.max(1));
        let rows = &self.rows[middle + 1 - length..middle + length];
        let (first, count) = extent(rows);
        let rows = rows.iter().map(|row| row - first).collect();
        (first as usize, count, rows)
    }
}

/// The smallest of `rows` and how far they reach.
fn extent(rows: &[u32]) -> (u32, usize) {
    let first = rows.iter().copied().min().unwrap_or(0);
    let last = rows.iter().copied().max().unwrap_or(0);
    (first, (last - first) as usize + 1)
}

/// The bucket of a distance: itself up to half of the buckets, then by logarithm up to `positions`.
/// In float32, as the reference computes it: the ceiling would show the difference.
fn bucket(distance: i64, buckets: usize, positions: usize) -> i64 {
    let middle = buckets as i64 / 2;
    if distance.abs() <= middle {
        return distance;
    }
    let middle = middle as f32;
    let furthest = ((positions as f64 - 1.0) / f64::from(middle)) as f32;
    let share = (distance.abs() as f32 / middle).ln() / furthest.ln();
    let bucket = (share * (middle - 1.0)).ceil() + middle;
    distance.signum() * bucket as i64
}

/// Projections of the relative embeddings' needed rows ([`Distances::entries`]), rows × hidden.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Relative<'a> {
    /// Kr: keys that contents ask for (`c2p`).
    pub key: Option<&'a Var>,
    /// Qr: queries that contents are asked by (`p2c`).
    pub query: Option<&'a Var>,
    pub distances: &'a Distances,
}

/// What one sequence's way back needs.
struct Kept {
    q: Tensor,
    k: Tensor,
    v: Tensor,
    weights: Tensor,
    drop: Option<Drop>,
    /// First needed row, and r.
    first: usize,
    rows: Vec<u32>,
    /// Kr and Qr, heads × rows × width.
    relative: [Option<Tensor>; 2],
}

impl Tape<'_> {
    /// Attention of every sequence to itself; `query`, `key`, `value` are tokens × hidden.
    pub fn disentangled_attention(
        &self,
        [query, key, value]: [&Var; 3],
        relative: Relative<'_>,
        lengths: &Lengths,
        how: Attention,
    ) -> Result<Var> {
        let positions = [relative.key, relative.query];
        let wants = self.wants([query, key, value], false)
            || (positions.into_iter().flatten()).any(|position| self.wants([position], false));
        let mut outputs = Vec::with_capacity(lengths.count());
        let mut kept = Vec::with_capacity(lengths.count());
        for (number, (start, length)) in lengths.iter().enumerate() {
            let part = |x: &Var| heads(&x.value.narrow(0, start, length)?, how.heads);
            let (q, k, v) = (part(query)?, part(key)?, part(value)?);
            let (first, count, rows) = relative.distances.part(length);
            let near = |x: Option<&Var>| {
                x.map(|x| heads(&x.value.narrow(0, first, count)?, how.heads))
                    .transpose()
            };
            let relative = [near(relative.key)?, near(relative.query)?];
            let mut scores = q.matmul(&k.transpose(1, 2)?)?;
            for (by, (content, position)) in
                By::BOTH.into_iter().zip([&q, &k].iter().zip(&relative))
            {
                if let Some(position) = position {
                    let terms = content.matmul(&position.transpose(1, 2)?)?;
                    scores = add_terms(scores, &terms, &rows, by, host::is_host(&terms))?;
                }
            }
            let weights = softmax(scores, how.scale, how.is_causal)?;
            let drop = self.weight_drop(number, how);
            let dropped = dropped(&weights, drop)?;
            outputs.push(merged(&dropped.matmul(&v)?)?);
            if wants {
                kept.push(Kept {
                    q,
                    k,
                    v,
                    weights,
                    drop,
                    first,
                    rows,
                    relative,
                });
            }
        }
        let output = Tensor::cat(&outputs, 0)?;
        if !wants {
            return Ok(Var::constant(output));
        }
        let inputs = [query.clone(), key.clone(), value.clone()];
        let positions = positions.map(|position| position.cloned());
        let lengths = lengths.clone();
        Ok(self.record(output, move |dy, gradients| {
            let mut parts: [Vec<Tensor>; 3] = Default::default();
            let mut sums: [Option<Tensor>; 2] = [None, None];
            for ((start, length), kept) in lengths.iter().zip(kept) {
                let dy = heads(&dy.narrow(0, start, length)?, how.heads)?;
                let (dsequence, dpositions) = kept.backward(&dy, how.scale)?;
                for (parts, part) in parts.iter_mut().zip(dsequence) {
                    parts.push(part);
                }
                for ((sum, part), whole) in sums.iter_mut().zip(dpositions).zip(&positions) {
                    let (Some(part), Some(whole)) = (part, whole) else {
                        continue;
                    };
                    let below = whole.value.dim(0)? - kept.first - part.dim(0)?;
                    let part = part.pad_with_zeros(0, kept.first, below)?;
                    *sum = Some(match sum.take() {
                        Some(sum) => (sum + part)?,
                        None => part,
                    });
                }
            }
            for (input, parts) in inputs.iter().zip(parts) {
                if input.is_recorded() {
                    gradients.add(input, Tensor::cat(&parts, 0)?)?;
                }
            }
            for (position, sum) in positions.iter().zip(sums) {
                if let (Some(position), Some(sum)) = (position, sum) {
                    gradients.add(position, sum)?;
                }
            }
            Ok(())
        }))
    }
}

impl Kept {
    /// dQ, dK, dV (length × hidden), and dKr, dQr (rows × hidden), from dO (heads × length × width).
    fn backward(&self, dy: &Tensor, scale: f64) -> Result<([Tensor; 3], [Option<Tensor>; 2])> {
        let dv = dropped(&self.weights, self.drop)?
            .transpose(1, 2)?
            .matmul(dy)?;
        let dweights = dropped(&dy.matmul(&self.v.transpose(1, 2)?)?, self.drop)?;
        let dscores = softmax_gradient(&self.weights, dweights, scale)?;
        let mut dcontents = [
            dscores.matmul(&self.k)?,
            dscores.transpose(1, 2)?.matmul(&self.q)?,
        ];
        let mut dpositions = [None, None];
        let contents = [&self.q, &self.k];
        for (index, by) in By::BOTH.into_iter().enumerate() {
            let Some(position) = &self.relative[index] else {
                continue;
            };
            let count = position.dim(1)?;
            let on_host = host::is_host(&dscores);
            let dterms = collect_terms(&dscores, &self.rows, count, by, on_host)?;
            dcontents[index] = (&dcontents[index] + dterms.matmul(position)?)?;
            let dposition = dterms.transpose(1, 2)?.matmul(contents[index])?;
            dpositions[index] = Some(merged(&dposition)?);
        }
        let [dq, dk] = dcontents;
        Ok(([merged(&dq)?, merged(&dk)?, merged(&dv)?], dpositions))
    }
}

/// Whose row of products with relative positions a score reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    /// The query's: q_i·Kr.
    Query,
    /// The key's: k_j·Qr.
    Key,
}

impl By {
    const BOTH: [Self; 2] = [Self::Query, Self::Key];

    /// Calls `body` with the place of (i, j) among length × length scores, the row whose products it
    /// reads, its column there, and r(i − j), for all i and j.
    #[inline(always)]
    fn each(self, rows: &[u32], mut body: impl FnMut(usize, usize, usize, u32)) {
        let length = rows.len() / 2 + 1;
        for outer in 0..length {
            for inner in 0..length {
                let (i, j) = match self {
                    Self::Query => (outer, inner),
                    Self::Key => (inner, outer),
                };
                body(i * length + j, outer, inner, rows[i + length - 1 - j]);
            }
        }
    }
}

/// S_ij + `terms`[i or j, r(i − j)], for scores heads × length × length and terms heads × length ×
/// rows. On the CPU `scores` are changed in place: nobody else may hold them.
fn add_terms(
    scores: Tensor,
    terms: &Tensor,
    rows: &[u32],
    by: By,
    on_host: bool,
) -> Result<Tensor> {
    let (_, length, count) = terms.dims3()?;
    if !on_host {
        let index = index(terms, rows, by)?;
        let terms = terms.contiguous()?.gather(&index, 2)?;
        return match by {
            By::Query => scores + terms,
            By::Key => scores + terms.transpose(1, 2)?,
        };
    }
    let terms = terms.contiguous()?;
    by_real!(scores, |T| {
        host::read::<T, _>(&terms, |terms| {
            host::modify::<T>(&scores, |scores| {
                let terms = terms.chunks_exact(length * count);
                for (scores, terms) in scores.chunks_exact_mut(length * length).zip(terms) {
                    by.each(rows, |score, own, _, row| {
                        scores[score] += terms[own * count + row as usize];
                    });
                }
            })
        })??;
    });
    Ok(scores)
}

/// The way back of [`add_terms`]: heads × length × `count`, where every entry sums the dS_ij that
/// read it.
fn collect_terms(
    dscores: &Tensor,
    rows: &[u32],
    count: usize,
    by: By,
    on_host: bool,
) -> Result<Tensor> {
    let (heads, length, _) = dscores.dims3()?;
    let shape = [heads, length, count];
    let dscores = dscores.contiguous()?;
    if !on_host {
        let zeros = Tensor::zeros(&shape, dscores.dtype(), dscores.device())?;
        let index = index(&dscores, rows, by)?;
        let dscores = match by {
            By::Query => dscores,
            By::Key => dscores.transpose(1, 2)?.contiguous()?,
        };
        return zeros.scatter_add(&index, &dscores, 2);
    }
    by_real!(dscores, |T| {
        let values = host::read::<T, _>(&dscores, |dscores| {
            let mut dterms = vec![<T as WithDType>::from_f64(0.0); heads * length * count];
            let parts = dterms.chunks_exact_mut(length * count);
            for (dterms, dscores) in parts.zip(dscores.chunks_exact(length * length)) {
                by.each(rows, |score, own, _, row| {
                    dterms[own * count + row as usize] += dscores[score];
                });
            }
            dterms
        })?;
        host::tensor(values, &shape)
    })
}

/// r(i − j) at every (i, j), or (j, i), of every head of `like`.
fn index(like: &Tensor, rows: &[u32], by: By) -> Result<Tensor> {
    let (heads, length, _) = like.dims3()?;
    let mut index = vec![0; length * length];
    by.each(rows, |_, own, other, row| index[own * length + other] = row);
    Tensor::from_vec(index, (1, length, length), like.device())?
        .broadcast_as((heads, length, length))?
        .contiguous()
}

#[cfg(test)]
mod tests {
    use candle_core::Device;
    use safetensors::SafeTensors;

    use super::*;
    use crate::draw::normal;

    #[test]
    fn buckets_are_those_of_the_reference() {
        let path = "tests/fixtures/models/deberta-buckets.safetensors";
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
        let bytes = std::fs::read(path).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        for (buckets, positions) in [(256, 512), (8, 40), (32, 128)] {
            let name = format!("buckets.{buckets}.{positions}");
            let data = tensors.tensor(&name).unwrap();
            let (known, _) = data.data().as_chunks::<8>();
            let last = positions as i64 - 1;
            assert_eq!(known.len(), 2 * positions - 1);
            for (distance, known) in (-last..=last).zip(known) {
                let known = i64::from_le_bytes(*known);
                assert_eq!(
                    bucket(distance, buckets, positions),
                    known,
                    "{name}: {distance}"
                );
            }
        }
    }

    #[test]
    fn a_short_sequence_needs_the_rows_about_the_middle() {
        // Four rows on a side, no buckets: distances −2 to 2 are rows 2 to 6, clamped beyond.
        let distances = Distances::new(3, 4, None);
        assert_eq!(distances.entries(), [2, 3, 4, 5, 6]);
        assert_eq!(distances.part(3), (0, 5, vec![0, 1, 2, 3, 4]));
        assert_eq!(distances.part(2), (1, 3, vec![0, 1, 2]));
        let clamped = Distances::new(4, 2, None);
        assert_eq!(clamped.part(4), (0, 4, vec![0, 0, 1, 2, 3, 3, 3]));
    }

    /// The loops of the CPU against the tensor operations of other devices.
    #[test]
    fn both_ways_to_read_and_collect_terms_agree() {
        let (heads, length) = (2, 5);
        let (_, count, rows) = Distances::new(7, 4, Some((4, 8))).part(length);
        let draw = |name: &str, width: usize| {
            let values = normal(1, name, heads * length * width, 1.0);
            Tensor::from_vec(values, (heads, length, width), &Device::Cpu).unwrap()
        };
        let (scores, terms) = (draw("scores", length), draw("terms", count));
        let flat = |x: Tensor| x.flatten_all().unwrap().to_vec1::<f64>().unwrap();
        for by in By::BOTH {
            let added = |on_host: bool| {
                let scores = scores.copy().unwrap();
                flat(add_terms(scores, &terms, &rows, by, on_host).unwrap())
            };
            assert_eq!(added(true), added(false));
            let collected =
                |on_host| flat(collect_terms(&scores, &rows, count, by, on_host).unwrap());
            for (ours, theirs) in collected(true).into_iter().zip(collected(false)) {
                // Sums of at most five numbers of size 1, in another order.
                assert!((ours - theirs).abs() < 1e-14);
            }
        }
    }
}
