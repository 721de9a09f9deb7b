//! Whether a sample is large enough to say anything.

use std::sync::LazyLock;

use serde::{Deserialize, Serialize};

use super::permutation::for_each_order;

/// Fewer say too little for an interval to be relied on: of n clusters a bootstrap underestimates the
/// variance by (n − 1)/n, a quarter at 4.
pub(super) const FEWEST_CONFIGURATIONS: usize = 4;
/// Below 8 pairs, even ρ = 0.7 has p > 0.05.
pub(super) const FEWEST_OBSERVATIONS: usize = 8;

/// The level of significance, two-sided.
const LEVEL: f64 = 0.05;
/// The normal distribution's quantile of 1 − `LEVEL`/2.
const NORMAL: f64 = 1.959_963_984_540_054;
/// Variance of Fisher's transform of ρ times (n − 3): E. C. Fieller, H. O. Hartley and E. S. Pearson,
/// Biometrika 44 (1957), who advise it from n = 10 on.
const FIELLER: f64 = 1.06;
/// Up to so many pairs all orders are counted: 9! = 362,880.
const MOST_COUNTED: usize = 9;

/// How much a sample can say.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// Pairs of values.
    pub observations: usize,
    /// What is independent among them: the configurations.
    pub independent: usize,
    /// The smallest |ρ| that could be told from chance at 5 %; `None` if none could.
    pub smallest_significant: Option<f64>,
    /// Whether the sample is too small for its intervals to be relied on.
    pub is_too_small: bool,
}

impl Sample {
    /// Of so many observations in so many configurations.
    pub fn new(observations: usize, configurations: usize) -> Self {
        Self {
            observations,
            independent: configurations,
            smallest_significant: smallest_significant(configurations),
            is_too_small: observations < FEWEST_OBSERVATIONS
                || configurations < FEWEST_CONFIGURATIONS
                || smallest_significant(configurations).is_none(),
        }
    }

    /// The verdict in words; `things` are what was observed, such as `adapters`.
    pub fn verdict(&self, things: &str) -> String {
        let Self {
            observations: n,
            independent,
            ..
        } = *self;
        let count = if n == independent {
            format!("n = {n} {things}")
        } else {
            format!("n = {n} {things} of {independent} configurations")
        };
        match self.smallest_significant {
            None => {
                format!("{count} are too few: no correlation can be told from chance")
            }
            Some(rho) if self.is_too_small => format!(
                "{count} are too few for the intervals to be relied on (expected at least \
                 {FEWEST_OBSERVATIONS} of {FEWEST_CONFIGURATIONS} configurations), and only \
                 |ρ| ≥ {rho:.2} could be told from chance at 5 %"
            ),
            Some(rho) => {
                format!("{count}: only |ρ| ≥ {rho:.2} could be told from chance at 5 %")
            }
        }
    }
}

/// The smallest |ρ| of n independent pairs without ties whose two-sided p is at most 5 %; `None`
/// below 5 pairs, of which even the strictest order comes up too often by chance.
///
/// Counted for n ≤ 9, from Fisher's transform with standard deviation √(1.06/(n − 3)) above.
///
/// ```
/// use rankwise_analysis::smallest_significant;
/// assert_eq!(smallest_significant(4), None);
/// assert_eq!(smallest_significant(5), Some(1.0));
/// // The table of J. H. Zar (1972) has 0.886 for n = 6.
/// assert!((smallest_significant(6).unwrap() - 0.886).abs() < 5e-4);
/// ```
pub fn smallest_significant(n: usize) -> Option<f64> {
    if n > MOST_COUNTED {
        return Some((NORMAL * (FIELLER / (n as f64 - 3.0)).sqrt()).tanh());
    }
    static COUNTED: LazyLock<[Option<f64>; MOST_COUNTED + 1]> =
        LazyLock::new(|| std::array::from_fn(counted));
    COUNTED[n]
}

/// [`smallest_significant`] from all n! orders.
fn counted(n: usize) -> Option<f64> {
    // |Σ xy| of the doubled centered ranks, of all orders: |ρ| in units of its greatest value.
    let center = n as i64 + 1;
    let rank = |index: usize| 2 * (index as i64 + 1) - center;
    let greatest: i64 = (0..n).map(|index| rank(index) * rank(index)).sum();
    if greatest == 0 {
        return None;
    }
    let mut counts = vec![0_usize; greatest as usize + 1];
    for_each_order(n, |order| {
        let places = order.iter().enumerate();
        let sum: i64 = places
            .map(|(place, &other)| rank(place) * rank(other))
            .sum();
        counts[sum.unsigned_abs() as usize] += 1;
    });
    let orders: usize = counts.iter().sum();
    let mut reached = 0;
    let mut smallest = None;
    for (sum, &count) in counts
        .iter()
        .enumerate()
        .rev()
        .filter(|(_, count)| **count > 0)
    {
        reached += count;
        if reached as f64 > LEVEL * orders as f64 {
            break;
        }
        smallest = Some(sum as f64 / greatest as f64);
    }
    smallest
}
