//! What one observation, or one configuration, does to a correlation.

use serde::{Deserialize, Serialize};

use super::bootstrap::{Clusters, Observation};
use super::spearman;

/// The range of ρ when each part of a sample in turn is left out.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Influence {
    /// The least ρ without one part.
    pub low: f64,
    /// The greatest.
    pub high: f64,
    /// Index of the first observation of the part whose absence changes ρ most.
    pub most: usize,
    /// ρ without that part.
    pub without_most: f64,
    /// Parts without which ρ is not defined.
    pub undefined: usize,
}

impl Influence {
    /// Whether ρ has one sign, whichever part is left out.
    pub fn keeps_sign(&self) -> bool {
        self.undefined == 0 && (self.low > 0.0 || self.high < 0.0)
    }
}

/// Spearman's ρ without each observation in turn, and without each configuration in turn.
///
/// `None` where ρ of all is not defined, or never is without a part.
///
/// ```
/// use rankwise_analysis::{Observation, leave_one_out};
/// // Without order but for one far point.
/// let pairs = [(1.0, 2.0), (2.0, 1.0), (1.0, 1.0), (2.0, 2.0), (9.0, 9.0)];
/// let runs: Vec<_> = pairs
///     .iter()
///     .enumerate()
///     .map(|(i, &(x, y))| Observation { x, y, configuration: i, seed: 0 })
///     .collect();
/// let (each, _) = leave_one_out(&runs);
/// let each = each.unwrap();
/// assert_eq!((each.most, each.without_most, each.keeps_sign()), (4, 0.0, false));
/// ```
pub fn leave_one_out(observations: &[Observation]) -> (Option<Influence>, Option<Influence>) {
    let single: Vec<Vec<usize>> = (0..observations.len()).map(|index| vec![index]).collect();
    let together = Clusters::of(observations).configurations();
    (
        without_each(observations, &single),
        without_each(observations, &together),
    )
}

fn without_each(observations: &[Observation], parts: &[Vec<usize>]) -> Option<Influence> {
    let of = |left_out: &[usize]| {
        let mut is_in = vec![true; observations.len()];
        left_out.iter().for_each(|&index| is_in[index] = false);
        let kept = observations.iter().zip(is_in).filter(|(_, is_in)| *is_in);
        let (x, y): (Vec<f64>, Vec<f64>) = kept.map(|(o, _)| (o.x, o.y)).unzip();
        spearman(&x, &y)
    };
    let all = of(&[])?;
    let mut influence: Option<Influence> = None;
    let mut undefined = 0;
    for part in parts {
        let Some(rho) = of(part) else {
            undefined += 1;
            continue;
        };
        let most = part.first().copied().unwrap_or_default();
        let found = influence.get_or_insert(Influence {
            low: rho,
            high: rho,
            most,
            without_most: rho,
            undefined: 0,
        });
        found.low = found.low.min(rho);
        found.high = found.high.max(rho);
        if (rho - all).abs() > (found.without_most - all).abs() {
            (found.most, found.without_most) = (most, rho);
        }
    }
    influence.map(|found| Influence { undefined, ..found })
}
