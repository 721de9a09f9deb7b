//! Adapters that reach the best product, in an order that keeps their digits.
//!
//! # Claim
//! In a block with frozen layers W_1 … W_n write P = W_n … W_1, S_l = W_n … W_{l+1} and
//! Q_l = Ŵ_l … Ŵ_1. Let N = Σ_l X_l Y_lᵀ be the best approximation of E = W̄ − P of rank
//! min(ΣR_l, rank E), with at most R_l columns in X_l and Y_l. Then
//!
//! ```text
//! ΔW_l = (S_l⁻¹ X_l)(Y_lᵀ Q_{l−1}⁻¹)      gives      S_l Q_l = P + Σ_{k≤l} X_k Y_kᵀ
//! ```
//!
//! by induction on l, hence ∏Ŵ = P + N: by Eckart–Young no adapters of these ranks come closer.
//!
//! | symbol | identifier |
//! |---|---|
//! | ΔW_l = B_l A_l | `Adapter` |
//! | S_l, Q_{l−1} | `after`, `before` |
//! | what is left of X, Y before layer l | `x`, `y` |
//! | ∏Ŵ | `Block::product` |
//!
//! # Small first
//! Which part of N goes to which layer is free. Taking the singular triplets of E one after another
//! (Zeng & Lee 2024, Lemma 1), with explicit inverses, loses every digit by six layers of width 64,
//! since S_l⁻¹ and Q_{l−1}⁻¹ blow up what they meet. Instead, at layer l form
//! C = S_l⁻¹ (X Yᵀ) Q_{l−1}⁻¹ of all that is left, in factored form, and let ΔW_l be the R_l
//! *smallest* triplets of C: the first adapters and the offsets of their biases stay small, and the
//! large directions wait for the last layer. On Gaussian networks of width 64 that keeps eleven
//! digits of ∏Ŵ at four layers, eight at six and five at eight. [`Order::LargeFirst`] keeps the
//! paper's order for comparison.
//!
//! # When it fails
//! A layer that gets a share needs S_l and Q_{l−1} invertible; a block of one layer needs nothing.
//! Where one order meets a singular product the other is tried, which [`Block::order`] tells. A
//! product that stays singular is [`Error::Singular`], never a silent wrong answer, and what rounding costs
//! otherwise is reported as [`Block::defect`].

use std::ops::Range;

use ndarray::{Array1, Array2, ArrayView2, Axis};
use rankwise_analysis::linalg::{qr, singular_values, solve, svd};
use serde::{Deserialize, Serialize};

use crate::aim::{Aim, Update};
use crate::lift::{Inputs, lifting_biases};
use crate::network::product;
use crate::sample::frobenius;
use crate::{Domain, Error, Fnn, Problem};

/// In which order the singular triplets of a block's update go to its layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Order {
    /// At every layer the smallest of what is left, as that layer sees it.
    #[default]
    SmallFirst,
    /// The paper's: the largest singular values of E to the first layer.
    LargeFirst,
}

impl Order {
    fn other(self) -> Self {
        match self {
            Self::SmallFirst => Self::LargeFirst,
            Self::LargeFirst => Self::SmallFirst,
        }
    }
}

/// The free choices of a construction; the default is the theorem's update, stably split.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Strategy {
    /// Which part of the update goes to which layer.
    pub order: Order,
    /// What the update is chosen for.
    pub aim: Aim,
}

/// ΔW = B A for one layer, in LoRA's names. `a` has as many rows as `b` has columns: at most the
/// layer's rank budget, fewer where the discrepancy is used up.
#[derive(Debug, Clone, PartialEq)]
pub struct Adapter {
    /// D × r.
    pub b: Array2<f64>,
    /// r × D.
    pub a: Array2<f64>,
}

impl Adapter {
    fn empty(width: usize) -> Self {
        Self {
            b: Array2::zeros((width, 0)),
            a: Array2::zeros((0, width)),
        }
    }

    /// ΔW, D × D.
    pub fn delta(&self) -> Array2<f64> {
        self.b.dot(&self.a)
    }
}

/// How one block came out.
#[derive(Debug, Clone, PartialEq)]
pub struct Block {
    /// Its layers, indices from 0.
    pub layers: Range<usize>,
    /// ∏Ŵ, D × D, multiplied out in double precision.
    pub product: Array2<f64>,
    /// P + N, what it would be in exact arithmetic.
    pub ideal: Array2<f64>,
    /// ‖∏Ŵ − (P + N)‖_F / ‖P + N‖_F; the numerator alone if P + N is zero.
    pub defect: f64,
    /// In which order N was split, which may be the other one than asked for.
    pub order: Order,
    /// D: what the block adds before its last ReLU; b̄_i unless the aim was regression.
    pub bias: Array1<f64>,
}

/// The constructed adapters and the network that they make of the frozen one.
#[derive(Debug, Clone, PartialEq)]
pub struct Construction {
    adapters: Vec<Adapter>,
    adapted: Fnn,
    collapsed: Fnn,
    blocks: Vec<Block>,
}

impl Construction {
    /// An adapter for every frozen layer.
    pub fn adapters(&self) -> &[Adapter] {
        &self.adapters
    }

    /// The frozen network with adapters and new biases: f.
    pub fn adapted(&self) -> &Fnn {
        &self.adapted
    }

    /// What f is in exact arithmetic on its domain: a layer ReLU((P + N) z + b̄) for every block.
    pub fn collapsed(&self) -> &Fnn {
        &self.collapsed
    }

    /// The blocks, one for each target layer.
    pub fn blocks(&self) -> &[Block] {
        &self.blocks
    }

    /// The largest relative defect of a block.
    pub fn defect(&self) -> f64 {
        self.blocks
            .iter()
            .map(|block| block.defect)
            .fold(0.0, f64::max)
    }

    pub(crate) fn new(
        problem: &Problem,
        ranks: &[usize],
        domain: Domain<'_>,
        strategy: Strategy,
    ) -> Result<Self, Error> {
        let (target, frozen) = (problem.target(), problem.frozen());
        let width = target.width();
        domain.check(width)?;
        let mut inputs = Inputs::of(domain);
        // What the target's layers are fed; only regression asks.
        let mut target_inputs = match domain {
            Domain::Sample(sample) if strategy.aim == Aim::Regression => {
                Some(sample.points().to_owned())
            }
            _ => None,
        };
        let (mut adapters, mut blocks) = (Vec::new(), Vec::new());
        let (mut weights, mut biases) = (Vec::new(), Vec::new());
        for (i, layers) in problem.partition().blocks().iter().enumerate() {
            let gap = &problem.discrepancies()[i];
            let own_ranks = &ranks[layers.clone()];
            let budget = own_ranks.iter().sum();
            let target_bias = &target.biases()[i];
            let update = match (strategy.aim, domain, &inputs) {
                (Aim::Plain, _, _) => Update::plain(gap, budget, target_bias),
                (Aim::SecondMoment, Domain::Sample(sample), Inputs::Points(z)) => {
                    let p = sample.probabilities();
                    Update::for_second_moment(gap, budget, target_bias, z.view(), p)?
                }
                (Aim::Regression, Domain::Sample(sample), Inputs::Points(z)) => {
                    let fed = target_inputs.take().unwrap_or_else(|| z.clone());
                    let wanted = fed.dot(&target.weights()[i].t()) + target_bias;
                    target_inputs =
                        Some(wanted.mapv(|value| if value < 0.0 { 0.0 } else { value }));
                    let p = sample.probabilities();
                    Update::by_regression(gap, budget, wanted.view(), z.view(), p)?
                }
                (Aim::SecondMoment | Aim::Regression, _, _) => {
                    let expected = "a sample, as the adapters are to be fitted to it";
                    return Err(Error::invalid("domain", expected, "a ball"));
                }
            };
            let ideal = &gap.frozen_product() + &update.x.dot(&update.y.t());
            let split = Split {
                frozen: &frozen.weights()[layers.clone()],
                first: layers.start,
            };
            let (order, own_adapters, own_weights) =
                split.in_order(strategy.order, own_ranks, &update.x, &update.y)?;
            let own_biases = lifting_biases(&own_weights, &update.bias, &inputs);
            let product = product(&own_weights, width);
            inputs = match inputs {
                Inputs::Points(z) => {
                    let block = Fnn::new(own_weights.clone(), own_biases.clone())?;
                    Inputs::Points(block.forward(z.view())?)
                }
                Inputs::Ball(radius) => {
                    let norm = singular_values(ideal.view())?[0];
                    Inputs::Ball(norm * radius + update.bias.dot(&update.bias).sqrt())
                }
            };
            adapters.extend(own_adapters);
            weights.extend(own_weights);
            biases.extend(own_biases);
            blocks.push(Block {
                layers: layers.clone(),
                order,
                defect: relative(&product - &ideal, &ideal),
                product,
                ideal,
                bias: update.bias,
            });
        }
        let ideals = blocks.iter().map(|block| block.ideal.clone()).collect();
        let block_biases = blocks.iter().map(|block| block.bias.clone()).collect();
        Ok(Self {
            adapters,
            adapted: Fnn::new(weights, biases)?,
            collapsed: Fnn::new(ideals, block_biases)?,
            blocks,
        })
    }
}

/// One block whose discrepancy is to be split over its layers.
pub(crate) struct Split<'a> {
    pub frozen: &'a [Array2<f64>],
    /// The index of its first layer in the whole network, from 0.
    pub first: usize,
}

impl Split<'_> {
    /// Splits in this order or, where that meets a singular product, in the other; the error is
    /// that of the order asked for.
    #[expect(clippy::type_complexity, reason = "read once, a few lines above")]
    pub(crate) fn in_order(
        &self,
        order: Order,
        ranks: &[usize],
        x: &Array2<f64>,
        y: &Array2<f64>,
    ) -> Result<(Order, Vec<Adapter>, Vec<Array2<f64>>), Error> {
        let split = |order: Order| {
            let (adapters, adapted) = match order {
                Order::SmallFirst => self.small_first(ranks, x.clone(), y.clone()),
                Order::LargeFirst => self.large_first(ranks, x.view(), y.view()),
            }?;
            Ok((order, adapters, adapted))
        };
        split(order).or_else(|error| match error {
            Error::Singular { .. } => split(order.other()).map_err(|_| error),
            error => Err(error),
        })
    }

    /// The paper's order: each layer takes the next columns of X and Y.
    fn large_first(
        &self,
        ranks: &[usize],
        mut x: ArrayView2<'_, f64>,
        mut y: ArrayView2<'_, f64>,
    ) -> Result<(Vec<Adapter>, Vec<Array2<f64>>), Error> {
        let width = x.nrows();
        let mut adapters = Vec::with_capacity(ranks.len());
        let mut adapted: Vec<Array2<f64>> = Vec::with_capacity(ranks.len());
        for (l, (w, &rank)) in self.frozen.iter().zip(ranks).enumerate() {
            let share = rank.min(x.ncols());
            if share == 0 {
                adapters.push(Adapter::empty(width));
                adapted.push(w.clone());
                continue;
            }
            let (own_x, later_x) = x.split_at(Axis(1), share);
            let (own_y, later_y) = y.split_at(Axis(1), share);
            (x, y) = (later_x, later_y);
            let (later, earlier) = (&self.frozen[l + 1..], &adapted[..]);
            let (after, before) = (product(later, width), product(earlier, width));
            let right = self.solve(before.t(), own_y, earlier, 0)?;
            let adapter = Adapter {
                b: self.solve(after.view(), own_x, later, l + 1)?,
                a: right.reversed_axes(),
            };
            adapted.push(w + &adapter.delta());
            adapters.push(adapter);
        }
        Ok((adapters, adapted))
    }

    /// Adapters and adapted weights such that ∏Ŵ = P + X Yᵀ.
    fn small_first(
        &self,
        ranks: &[usize],
        mut x: Array2<f64>,
        mut y: Array2<f64>,
    ) -> Result<(Vec<Adapter>, Vec<Array2<f64>>), Error> {
        let width = x.nrows();
        let mut adapters = Vec::with_capacity(ranks.len());
        let mut adapted: Vec<Array2<f64>> = Vec::with_capacity(ranks.len());
        for (l, (w, &rank)) in self.frozen.iter().zip(ranks).enumerate() {
            let share = rank.min(x.ncols());
            if share == 0 {
                adapters.push(Adapter::empty(width));
                adapted.push(w.clone());
                continue;
            }
            let (later, earlier) = (&self.frozen[l + 1..], &adapted[..]);
            let after = product(later, width);
            let before = product(earlier, width);
            // C = left · rightᵀ
            let left = self.solve(after.view(), x.view(), later, l + 1)?;
            let right = self.solve(before.t(), y.view(), earlier, 0)?;
            let (left, right) = (qr(left.view()), qr(right.view()));
            let core = svd(left.r.dot(&right.r.t()).view())?;
            let roots: Array1<f64> = core.s.iter().map(|sigma| sigma.sqrt()).collect();
            let u = left.q.dot(&core.u) * &roots;
            let v = right.q.dot(&core.vt.t()) * &roots;
            let kept = x.ncols() - share;
            let (u_large, u_small) = u.view().split_at(Axis(1), kept);
            let (v_large, v_small) = v.view().split_at(Axis(1), kept);
            let adapter = Adapter {
                b: u_small.to_owned(),
                a: v_small.t().to_owned(),
            };
            x = after.dot(&u_large);
            y = before.t().dot(&v_large);
            adapted.push(w + &adapter.delta());
            adapters.push(adapter);
        }
        Ok((adapters, adapted))
    }

    /// Solves M X = RHS for the product M of `factors`, of which the first is layer `offset` of the
    /// block; no factors are the identity.
    fn solve(
        &self,
        matrix: ArrayView2<'_, f64>,
        rhs: ArrayView2<'_, f64>,
        factors: &[Array2<f64>],
        offset: usize,
    ) -> Result<Array2<f64>, Error> {
        if factors.is_empty() {
            return Ok(rhs.to_owned());
        }
        // Past this, σ_D is within the rounding of the entries.
        let limit = 1.0 / (matrix.nrows() as f64 * f64::EPSILON);
        let condition = condition(matrix)?;
        if condition < limit {
            return Ok(solve(matrix, rhs)?);
        }
        let mut worst = (0, 0.0);
        for (l, factor) in factors.iter().enumerate() {
            let own = self::condition(factor.view())?;
            if own > worst.1 {
                worst = (l, own);
            }
        }
        Err(Error::Singular {
            layer: self.first + offset + worst.0 + 1,
            condition,
            limit,
        })
    }
}

/// σ₁/σ_D.
pub(crate) fn condition(matrix: ArrayView2<'_, f64>) -> Result<f64, Error> {
    let sigma = singular_values(matrix)?;
    let smallest = sigma[sigma.len() - 1];
    Ok(if smallest > 0.0 {
        sigma[0] / smallest
    } else {
        f64::INFINITY
    })
}

fn relative(difference: Array2<f64>, reference: &Array2<f64>) -> f64 {
    let (gap, scale) = (frobenius(difference.view()), frobenius(reference.view()));
    if scale > 0.0 { gap / scale } else { gap }
}
