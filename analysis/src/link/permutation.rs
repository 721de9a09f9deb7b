//! How often chance alone gives a correlation as strong.

use rand::Rng;
use serde::{Deserialize, Serialize};

use super::bootstrap::{Clusters, Observation};
use super::mean_ranks;

/// Up to so many units every order is tried: 8! = 40,320.
const MOST_EXACT: usize = 8;

/// What is put into another order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// Every observation by itself: each is a configuration of its own.
    Observation,
    /// A configuration's x as a block, since its runs lie together; all have equally many runs.
    Configuration,
    /// Mean x and mean y of a configuration, since they have unequally many runs.
    ConfigurationMean,
}

/// A two-sided permutation test of ρ = 0.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Permutation {
    /// The share of the orders whose |ρ| is at least the one found; of random orders
    /// (hits + 1)/(orders + 1), so that the level holds.
    pub p: f64,
    /// The orders that were tried.
    pub orders: usize,
    /// Whether those are all.
    pub exact: bool,
    /// What was reordered.
    pub unit: Unit,
    /// How many of those there are.
    pub units: usize,
}

/// Tests by permutation whether Spearman's ρ differs from zero.
///
/// Under the hypothesis that x says nothing about y, the units' x may be exchanged. Runs of one
/// configuration are not exchanged one by one: they lie together, and would count as more evidence
/// than they are. All orders are tried for up to 8 units, otherwise `orders` random ones (B. Phipson
/// and G. K. Smyth, Stat. Appl. Genet. Mol. Biol. 9 (2010): p is never zero).
///
/// `None` where ρ is not defined.
///
/// ```
/// use rand::SeedableRng;
/// use rankwise_analysis::{Observation, permutation_p};
/// let runs: Vec<_> = (0..5)
///     .map(|i| Observation { x: i as f64, y: i as f64, configuration: i, seed: 0 })
///     .collect();
/// let test = permutation_p(&runs, 1000, &mut rand_chacha::ChaCha8Rng::seed_from_u64(1)).unwrap();
/// // Of 5! orders the rising and the falling one.
/// assert_eq!((test.p, test.exact), (2.0 / 120.0, true));
/// ```
pub fn permutation_p(
    observations: &[Observation],
    orders: usize,
    rng: &mut impl Rng,
) -> Option<Permutation> {
    let blocks = Clusters::of(observations).configurations();
    let size = blocks.first()?.len();
    let is_even = blocks.iter().all(|block| block.len() == size);
    let unit = match (is_even, size) {
        (true, 1) => Unit::Observation,
        (true, _) => Unit::Configuration,
        (false, _) => Unit::ConfigurationMean,
    };
    let (x, y): (Vec<f64>, Vec<f64>) = if is_even {
        blocks
            .iter()
            .flatten()
            .map(|&index| (observations[index].x, observations[index].y))
            .unzip()
    } else {
        let mean = |block: &[usize], value: fn(&Observation) -> f64| {
            let sum: f64 = block.iter().map(|&index| value(&observations[index])).sum();
            sum / block.len() as f64
        };
        blocks
            .iter()
            .map(|block| (mean(block, |o| o.x), mean(block, |o| o.y)))
            .unzip()
    };
    let size = if is_even { size } else { 1 };
    let (x, y) = (mean_ranks(&x)?, mean_ranks(&y)?);
    let scores = Scores::new(&x, &y, size)?;
    let units = blocks.len();
    let found = scores.of(&(0..units).collect::<Vec<_>>());
    let (mut hits, mut tried) = (0_usize, 0_usize);
    let exact = units <= MOST_EXACT;
    if exact {
        for_each_order(units, |order| {
            tried += 1;
            hits += usize::from(scores.of(order) >= found);
        });
    } else {
        let mut order: Vec<usize> = (0..units).collect();
        for _ in 0..orders {
            for last in (1..units).rev() {
                order.swap(last, rng.random_range(0..=last));
            }
            hits += usize::from(scores.of(&order) >= found);
        }
        tried = orders;
    }
    let added = usize::from(!exact);
    Some(Permutation {
        p: (hits + added) as f64 / (tried + added) as f64,
        orders: tried,
        exact,
        unit,
        units,
    })
}

/// What every pair of an x block and a y block adds to Σ xy of the centered ranks.
///
/// Ranks are multiples of ½, so four times every sum is whole, and equal correlations compare equal.
struct Scores {
    units: usize,
    pairs: Vec<i64>,
}

impl Scores {
    /// `None` if a side is constant.
    fn new(x: &[f64], y: &[f64], size: usize) -> Option<Self> {
        let doubled = |ranks: &[f64]| -> Vec<i64> {
            let center = ranks.len() as i64 + 1;
            ranks
                .iter()
                .map(|rank| (2.0 * rank) as i64 - center)
                .collect()
        };
        let (x, y) = (doubled(x), doubled(y));
        let is_constant = |values: &[i64]| values.iter().all(|&value| value == 0);
        if is_constant(&x) || is_constant(&y) {
            return None;
        }
        let units = x.len() / size;
        let mut pairs = Vec::with_capacity(units * units);
        for x in x.chunks(size) {
            for y in y.chunks(size) {
                pairs.push(x.iter().zip(y).map(|(x, y)| x * y).sum());
            }
        }
        Some(Self { units, pairs })
    }

    /// |4 Σ xy| with the x of unit `order[i]` at the place of unit i.
    fn of(&self, order: &[usize]) -> u64 {
        let sum: i64 = order
            .iter()
            .enumerate()
            .map(|(place, &unit)| self.pairs[unit * self.units + place])
            .sum();
        sum.unsigned_abs()
    }
}

/// Calls `visit` with every order of 0..n (B. R. Heap, Comput. J. 6 (1963)).
pub(super) fn for_each_order(n: usize, mut visit: impl FnMut(&[usize])) {
    let mut order: Vec<usize> = (0..n).collect();
    let mut counters = vec![0; n];
    visit(&order);
    let mut level = 1;
    while level < n {
        if counters[level] < level {
            let other = if level % 2 == 0 { 0 } else { counters[level] };
            order.swap(other, level);
            visit(&order);
            counters[level] += 1;
            level = 1;
        } else {
            counters[level] = 0;
            level += 1;
        }
    }
}

/// p-values of several tests made at once, so that the chance of a single false alarm among them
/// stays below the level (S. Holm, Scand. J. Statist. 6 (1979)); in the order given.
///
/// ```
/// use rankwise_analysis::holm;
/// assert_eq!(holm(&[0.01, 0.04, 0.03]), [0.03, 0.06, 0.06]);
/// ```
pub fn holm(p: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p.len()).collect();
    order.sort_by(|&i, &j| p[i].total_cmp(&p[j]));
    let mut adjusted = vec![0.0; p.len()];
    let mut largest = 0.0_f64;
    for (place, &index) in order.iter().enumerate() {
        largest = largest.max(((p.len() - place) as f64 * p[index]).min(1.0));
        adjusted[index] = largest;
    }
    adjusted
}
