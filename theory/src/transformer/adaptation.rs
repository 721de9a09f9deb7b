use ndarray::{Array1, Array2, ArrayView2, Axis};
use rankwise_analysis::linalg::solve;

use super::{Head, Transformer, TransformerBlock};
use crate::construction::{Order, Split, condition};
use crate::network::product;
use crate::sample::frobenius;
use crate::{Discrepancy, Error};

/// A frozen transformer and a target of the same size, with every gap's spectrum.
#[derive(Debug, Clone, PartialEq)]
pub struct TransformerPair {
    target: Transformer,
    frozen: Transformer,
    /// T⁻¹ = W̄_2 W_2⁻¹ of the block before, an identity first.
    inverses: Vec<Array2<f64>>,
    /// For every block and head the gap of W_Kᵀ W_Q and of W_O W_V.
    gaps: Vec<Vec<[Discrepancy; 2]>>,
    output_gap: Discrepancy,
}

/// The frozen transformer with adapters on it.
#[derive(Debug, Clone, PartialEq)]
pub struct TransformerAdaptation {
    /// Equal to the target if the rank reaches the threshold.
    pub adapted: Transformer,
    /// The largest relative defect of a product: what rounding cost.
    pub defect: f64,
}

impl TransformerPair {
    /// Sets the pair up: a decomposition for every gap.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the sizes differ, [`Error::Singular`] if a W_1 or W_2 of the frozen
    /// network has no inverse (`layer` counts the blocks), [`Error::Linalg`] if a decomposition
    /// fails.
    pub fn new(target: Transformer, frozen: Transformer) -> Result<Self, Error> {
        let size = |net: &Transformer| {
            let heads = net.blocks.first().map_or(0, |block| block.heads.len());
            (net.width(), net.blocks.len(), heads)
        };
        if size(&target) != size(&frozen) {
            let expected = format!("width, blocks and heads {:?}", size(&target));
            let found = format!("{:?}", size(&frozen));
            return Err(Error::invalid("frozen transformer", expected, found));
        }
        let mut inverses = vec![Array2::eye(target.width())];
        let mut gaps = Vec::with_capacity(target.blocks.len());
        for (i, (goal, own)) in (1..).zip(target.blocks.iter().zip(&frozen.blocks)) {
            let inverse = &inverses[i - 1];
            let mut heads = Vec::with_capacity(goal.heads.len());
            for (wanted, head) in goal.heads.iter().zip(&own.heads) {
                let scores = wanted.key.dot(inverse).reversed_axes();
                let scores = scores.dot(&wanted.query.dot(inverse));
                let values = goal
                    .first
                    .dot(&wanted.output)
                    .dot(&wanted.value.dot(inverse));
                let values = solve_with(i, own.first.view(), values.view())?;
                heads.push([
                    Discrepancy::new(scores.view(), product(&query_key(head), target.width()), 2)?,
                    Discrepancy::new(values.view(), head.output.dot(&head.value), 2)?,
                ]);
            }
            gaps.push(heads);
            // (W̄_2 W_2⁻¹)ᵀ = W_2⁻ᵀ W̄_2ᵀ
            let transposed = solve_with(i, own.second.t(), goal.second.t())?;
            inverses.push(transposed.reversed_axes());
        }
        let last = target.blocks.len() - 1;
        let wanted = target.output.dot(&target.blocks[last].second);
        let own = frozen.output.dot(&frozen.blocks[last].second);
        let output_gap = Discrepancy::new(wanted.view(), own, 2)?;
        Ok(Self {
            target,
            frozen,
            inverses,
            gaps,
            output_gap,
        })
    }

    /// f̄.
    pub fn target(&self) -> &Transformer {
        &self.target
    }

    /// The ranks of all gaps: W_Kᵀ W_Q and W_O W_V of every head and block, then W_o W_2.
    pub fn gap_ranks(&self) -> Vec<usize> {
        let heads = self.gaps.iter().flatten().flatten();
        heads
            .chain([&self.output_gap])
            .map(Discrepancy::rank)
            .collect()
    }

    /// ⌈G/2⌉: adapters of this rank are exact.
    pub fn threshold(&self) -> usize {
        self.gap_ranks().into_iter().max().unwrap_or(0).div_ceil(2)
    }

    /// Adapters of rank at most `rank`: exact from the threshold on, every gap's best approximation
    /// of rank 2R below.
    ///
    /// # Errors
    /// [`Error::Singular`] if a factor that has to be inverted has no inverse, where `layer` counts
    /// the factors of its product; [`Error::Linalg`] if a decomposition fails.
    pub fn adapt(&self, rank: usize) -> Result<TransformerAdaptation, Error> {
        let mut adapted = self.frozen.clone();
        let mut defect: f64 = 0.0;
        let last = adapted.blocks.len() - 1;
        let mut fit = |gap: &Discrepancy, factors: &[Array2<f64>; 2]| {
            let fitted = close(gap, factors, rank)?;
            defect = defect.max(fitted.1);
            Ok::<_, Error>(fitted.0)
        };
        for (i, (block, gaps)) in adapted.blocks.iter_mut().zip(&self.gaps).enumerate() {
            for (head, [scores, values]) in block.heads.iter_mut().zip(gaps) {
                let [query, key] = fit(scores, &query_key(head))?;
                (head.query, head.key) = (query, key.reversed_axes());
                let [value, output] = fit(values, &[head.value.clone(), head.output.clone()])?;
                (head.value, head.output) = (value, output);
            }
            let goal = &self.target.blocks[i];
            block.first_bias = goal.first_bias.clone();
            if i < last {
                // T b̄_2 with T = (W̄_2 W_2⁻¹)⁻¹.
                block.second_bias = solve_vector(self.inverses[i + 1].view(), &goal.second_bias)?;
            }
        }
        let factors = [adapted.blocks[last].second.clone(), adapted.output.clone()];
        let [second, output] = fit(&self.output_gap, &factors)?;
        let bias = self
            .target
            .output
            .dot(&self.target.blocks[last].second_bias);
        let end: &mut TransformerBlock = &mut adapted.blocks[last];
        end.second = second;
        end.second_bias = solve_vector(output.view(), &bias)?;
        adapted.output = output;
        Ok(TransformerAdaptation { adapted, defect })
    }
}

/// The linear layers whose product is W_Kᵀ W_Q, the first first.
fn query_key(head: &Head) -> [Array2<f64>; 2] {
    [head.query.clone(), head.key.t().to_owned()]
}

/// Two factors, the first first, moved by rank `rank` each so that their product closes `gap`; and
/// the relative defect of that product.
fn close(
    gap: &Discrepancy,
    factors: &[Array2<f64>; 2],
    rank: usize,
) -> Result<([Array2<f64>; 2], f64), Error> {
    let rank = rank.min(factors[0].nrows());
    let (x, y) = gap.best_factors(2 * rank);
    let split = Split {
        frozen: factors,
        first: 0,
    };
    let (_, _, adapted) = split.in_order(Order::SmallFirst, &[rank, rank], &x, &y)?;
    let ideal = &gap.frozen_product() + &x.dot(&y.t());
    let reached = product(&adapted, ideal.nrows());
    let scale = frobenius(ideal.view()).max(f64::MIN_POSITIVE);
    let defect = frobenius((&reached - &ideal).view()) / scale;
    match <[Array2<f64>; 2]>::try_from(adapted) {
        Ok(adapted) => Ok((adapted, defect)),
        Err(other) => Err(Error::invalid("adapted factors", "two", other.len())),
    }
}

fn solve_vector(matrix: ArrayView2<'_, f64>, rhs: &Array1<f64>) -> Result<Array1<f64>, Error> {
    let column = rhs.view().insert_axis(Axis(1));
    Ok(solve(matrix, column)?.remove_axis(Axis(1)))
}

fn solve_with(
    block: usize,
    matrix: ArrayView2<'_, f64>,
    rhs: ArrayView2<'_, f64>,
) -> Result<Array2<f64>, Error> {
    // Past this, σ_D is within the rounding of the entries.
    let limit = 1.0 / (matrix.nrows() as f64 * f64::EPSILON);
    let condition = condition(matrix)?;
    match condition < limit {
        true => Ok(solve(matrix, rhs)?),
        false => Err(Error::Singular {
            layer: block,
            condition,
            limit,
        }),
    }
}
