//! First values of parameters, each from a named stream of the run's seed.

use rand::Rng;
use rankwise_data::stream;

/// `count` numbers from U(−bound, bound).
pub(crate) fn uniform(seed: u64, name: &str, count: usize, bound: f64) -> Vec<f64> {
    let mut rng = stream(seed, name, 0);
    (0..count)
        .map(|_| rng.random_range(-bound..bound))
        .collect()
}

/// `count` numbers from N(0, deviation²) by Box & Muller (1958): one pair of uniforms a value, so
/// that a value depends on its number alone.
pub(crate) fn normal(seed: u64, name: &str, count: usize, deviation: f64) -> Vec<f64> {
    let mut rng = stream(seed, name, 0);
    (0..count)
        .map(|_| {
            // 1 − U lies in (0, 1], so that the logarithm is finite.
            let radius = (-2.0 * (1.0 - rng.random::<f64>()).ln()).sqrt();
            deviation * radius * (std::f64::consts::TAU * rng.random::<f64>()).cos()
        })
        .collect()
}
