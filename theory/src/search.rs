//! The partition, and the ranks, that make the spectral bound least.
//!
//! # Claim
//! The spectral bound is B_i = B_{i−1}(‖W̄_i‖₂ + e_i) + e_i m_{i−1}, where m_{i−1} depends on the
//! target alone and e_i on block i alone. B_i grows with B_{i−1}, so the least B_i for blocks that
//! end at frozen layer b extends a least B_{i−1} for blocks that end before it: dynamic programming
//! over (i, b) finds the best ordered partition, and over (i, budget spent) the best allocation of
//! a total rank. A sum of the e_i would not see how later layers amplify earlier errors.
//!
//! | symbol | identifier |
//! |---|---|
//! | e_i of a candidate block | `errors` |
//! | B_i | `bound` |

use rankwise_analysis::linalg::singular_values;

use crate::network::product;
use crate::{Error, Fnn, Partition, Problem, SecondMoment, TargetNorms};

/// The partition with the least spectral bound at these ranks, and that bound.
///
/// Takes one spectrum for every block that some partition could give to some target layer: at most
/// L̄ L²/2.
///
/// ```
/// use ndarray::array;
/// use rankwise_theory::{Fnn, SecondMoment, best_partition};
///
/// // The target's only differs from what the frozen layers make if it gets two of them.
/// let layer = |scale: f64| array![[scale]];
/// let target = Fnn::without_biases(vec![layer(2.0), layer(6.0)])?;
/// let frozen = Fnn::without_biases(vec![layer(2.0), layer(2.0), layer(3.0)])?;
/// let sigma = SecondMoment::new(array![[1.0]])?;
/// let (partition, bound) = best_partition(&target, &frozen, &[0, 0, 0], &sigma)?;
/// assert_eq!((partition.blocks(), bound), (&[0..1, 1..3][..], 0.0));
/// # Ok::<(), rankwise_theory::Error>(())
/// ```
///
/// # Errors
/// [`Error::Invalid`] if widths differ, the target is deeper, or ranks are not one a frozen layer;
/// [`Error::Linalg`] if a decomposition fails.
pub fn best_partition(
    target: &Fnn,
    frozen: &Fnn,
    ranks: &[usize],
    sigma: &SecondMoment,
) -> Result<(Partition, f64), Error> {
    let (deep, shallow) = (frozen.depth(), target.depth());
    // Checks the shapes as every other entry does.
    Problem::new(
        target.clone(),
        frozen.clone(),
        Partition::uniform(deep, shallow)?,
    )?
    .budgets(ranks)?;
    let norms = TargetNorms::new(target)?;
    let mut step = Step::new(&norms, sigma);
    // best[b]: the least bound of the blocks so far when they cover the first b layers, and where
    // the last of them begins.
    let mut best: Vec<Option<f64>> = vec![None; deep + 1];
    best[0] = Some(0.0);
    let mut starts = Vec::with_capacity(shallow);
    for (i, w) in target.weights().iter().enumerate() {
        let left = shallow - 1 - i;
        let mut next = vec![None; deep + 1];
        let mut begins = vec![0; deep + 1];
        for (start, before) in best.iter().enumerate().take(deep - left).skip(i) {
            let Some(before) = *before else { continue };
            for end in start + 1..=deep - left {
                let layers = start..end;
                let gap = w - &product(&frozen.weights()[layers.clone()], target.width());
                let budget: usize = ranks[layers]
                    .iter()
                    .map(|&rank| rank.min(target.width()))
                    .sum();
                let sigma = singular_values(gap.view())?;
                let error = sigma.get(budget).copied().unwrap_or(0.0);
                let bound = step.bound(i, before, error);
                if next[end].is_none_or(|known| bound < known) {
                    next[end] = Some(bound);
                    begins[end] = start;
                }
            }
        }
        step.advance(i);
        best = next;
        starts.push(begins);
    }
    let mut sizes = vec![0; shallow];
    let mut end = deep;
    for (size, begins) in sizes.iter_mut().zip(&starts).rev() {
        *size = end - begins[end];
        end = begins[end];
    }
    Ok((
        Partition::from_sizes(&sizes)?,
        best[deep].unwrap_or(f64::INFINITY),
    ))
}

impl Problem {
    /// The ranks of all frozen layers that add up to at most `total` and make the spectral bound
    /// least, and that bound. Which layer of a block has the rank makes no difference to the bound:
    /// a block's budget is spread evenly, the first layers taking what remains.
    ///
    /// # Errors
    /// [`Error::Invalid`] if Σ has another width.
    pub fn best_ranks(
        &self,
        total: usize,
        sigma: &SecondMoment,
    ) -> Result<(Vec<usize>, f64), Error> {
        let width = self.target().width();
        if sigma.matrix().nrows() != width {
            let found = sigma.matrix().nrows();
            return Err(Error::invalid(
                "width of the second moment",
                width.to_string(),
                found,
            ));
        }
        let blocks = self.partition().blocks();
        let total = total.min(self.discrepancies().iter().map(|gap| gap.rank()).sum());
        let mut step = Step::new(self.norms(), sigma);
        let mut best = vec![0.0; total + 1];
        let mut choices = Vec::with_capacity(blocks.len());
        for (i, gap) in self.discrepancies().iter().enumerate() {
            let spend = |spent: usize| {
                let options = (0..=spent.min(gap.rank())).map(|budget| {
                    (
                        budget,
                        step.bound(i, best[spent - budget], gap.layer_error(budget)),
                    )
                });
                // The first of equals: no rank is spent that buys nothing.
                options.fold((0, f64::INFINITY), |a, b| if b.1 < a.1 { b } else { a })
            };
            let (choice, bounds): (Vec<usize>, Vec<f64>) = (0..=total).map(spend).unzip();
            step.advance(i);
            best = bounds;
            choices.push(choice);
        }
        let mut ranks = vec![0; self.frozen().depth()];
        let mut left = total;
        for (layers, choice) in blocks.iter().zip(&choices).rev() {
            let budget = choice[left];
            left -= budget;
            for (k, rank) in ranks[layers.clone()].iter_mut().enumerate() {
                *rank = budget / layers.len() + usize::from(k < budget % layers.len());
            }
        }
        Ok((ranks, best[total]))
    }
}

/// One step of the spectral recursion, with m_{i−1} carried along.
struct Step<'a> {
    norms: &'a TargetNorms,
    magnitude: f64,
}

impl<'a> Step<'a> {
    fn new(norms: &'a TargetNorms, sigma: &SecondMoment) -> Self {
        let magnitude = sigma.trace().sqrt();
        Self { norms, magnitude }
    }

    fn bound(&self, i: usize, before: f64, error: f64) -> f64 {
        before * (self.norms.spectral[i] + error) + error * self.magnitude
    }

    fn advance(&mut self, i: usize) {
        self.magnitude = self.norms.spectral[i] * self.magnitude + self.norms.bias[i];
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Family;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    /// All lists of `parts` numbers from `least` that add up to `total`.
    fn compositions(total: usize, parts: usize, least: usize) -> Vec<Vec<usize>> {
        if parts == 1 {
            return if total >= least {
                vec![vec![total]]
            } else {
                vec![]
            };
        }
        let firsts = least..=total;
        let extended = firsts.flat_map(|first| {
            let rest = compositions(total - first, parts - 1, least);
            rest.into_iter().map(move |mut list| {
                list.insert(0, first);
                list
            })
        });
        extended.collect()
    }

    fn draw(seed: u64, sizes: &[usize]) -> (Problem, SecondMoment) {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let partition = Partition::from_sizes(sizes).expect("valid");
        let family = Family::NearIdentity { noise: 0.7 };
        let problem = family.draw(6, partition, 1.0, &mut rng).expect("valid");
        let sigma = SecondMoment::new(ndarray::Array2::eye(6)).expect("valid");
        (problem, sigma)
    }

    #[test]
    fn no_partition_has_a_smaller_bound() {
        for seed in 0..20 {
            let (problem, sigma) = draw(seed, &[1, 2, 3]);
            let (target, frozen) = (problem.target(), problem.frozen());
            let ranks = [0, 1, 0, 2, 1, 0];
            let (found, bound) = best_partition(target, frozen, &ranks, &sigma).expect("fits");
            let all = compositions(6, 3, 1).into_iter().map(|sizes| {
                let partition = Partition::from_sizes(&sizes).expect("valid");
                let own = Problem::new(target.clone(), frozen.clone(), partition.clone());
                let bounds = own.expect("fits").bounds(&ranks, &sigma).expect("fits");
                (partition, bounds.spectral)
            });
            let least = all.min_by(|a, b| a.1.total_cmp(&b.1)).expect("ten of them");
            assert_eq!(found, least.0, "seed {seed}");
            assert!((bound / least.1 - 1.0).abs() < 1e-12, "{bound} {}", least.1);
        }
    }

    #[test]
    fn no_allocation_has_a_smaller_bound() {
        for seed in 0..20 {
            let (problem, sigma) = draw(seed, &[1, 1, 2]);
            for total in [0, 1, 4, 9, 18, 30] {
                let (ranks, bound) = problem.best_ranks(total, &sigma).expect("fits");
                assert!(ranks.iter().sum::<usize>() <= total);
                let own = problem.bounds(&ranks, &sigma).expect("fits").spectral;
                assert!((own - bound).abs() <= 1e-12 * bound.abs(), "{own} {bound}");
                let all = compositions(total.min(18), 3, 0)
                    .into_iter()
                    .map(|budgets| {
                        let ranks = [budgets[0], budgets[1], budgets[2], 0];
                        problem.bounds(&ranks, &sigma).expect("fits").spectral
                    });
                let least = all.fold(f64::INFINITY, f64::min);
                // Beyond rank E_i the brute force adds rounding where ours stops.
                assert!(
                    (bound - least).abs() <= 1e-12 * (1.0 + least),
                    "{bound} {least}"
                );
            }
        }
    }
}
