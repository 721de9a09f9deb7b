//! Dropout (Srivastava et al. 2014): x ↦ x·keep/(1 − p), with our own chance.
//!
//! Whether an element is kept is a function of a key and the element's number, not of how often a
//! generator was called: the backward pass asks again instead of keeping a mask, parts of a batch
//! may be computed in any order, and a resumed run needs no generator state.

use candle_core::{Result, Tensor};
use rand::RngCore;
use rankwise_data::stream;

use super::host::{self, Real, by_real};
use super::tape::{Tape, Var};

/// The chance of one part of one step's batch.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Noise {
    key: u64,
}

/// The chance of one dropout in it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Drop {
    key: u64,
    probability: f64,
}

impl Noise {
    /// For the part `part` of step `step` of a run.
    pub fn new(seed: u64, step: u64, part: usize) -> Self {
        let key = stream(seed, "dropout", step).next_u64();
        Self {
            key: mix(key ^ mix(part as u64 + 1)),
        }
    }

    /// For the dropout that has the number `site` in the model.
    pub fn site(self, site: usize, probability: f64) -> Drop {
        Drop {
            key: mix(self.key ^ mix(!(site as u64))),
            probability,
        }
    }
}

/// The finaliser of SplitMix64 (Steele, Lea & Flood 2014): a bijection whose output bits look
/// independent of its input's.
#[inline(always)]
fn mix(value: u64) -> u64 {
    let z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl Drop {
    /// `x` with dropped elements, the others scaled up by 1/(1 − p).
    pub fn apply(self, x: &Tensor) -> Result<Tensor> {
        if self.probability == 0.0 {
            return Ok(x.clone());
        }
        let x = x.contiguous()?;
        if host::is_host(&x) {
            return by_real!(x, |T| {
                let values = host::read::<T, _>(&x, |x| self.apply_to(x))?;
                host::tensor(values, x.dims())
            });
        }
        let ones = vec![1.0_f32; x.elem_count()];
        let mask = Tensor::from_vec(self.apply_to(&ones), x.dims(), x.device())?;
        let mask = mask.to_dtype(x.dtype())?;
        x * mask
    }

    fn apply_to<T: Real>(self, x: &[T]) -> Vec<T> {
        // One 64-bit number decides about two elements.
        let threshold = (self.probability * 2.0_f64.powi(32)) as u64;
        let scale = T::from_f64(1.0 / (1.0 - self.probability));
        let mut result = Vec::with_capacity(x.len());
        pulp::Arch::new().dispatch(
            #[inline(always)]
            || {
                for (index, pair) in x.chunks(2).enumerate() {
                    let bits = mix(self.key.wrapping_add(index as u64));
                    for (part, value) in [bits & 0xffff_ffff, bits >> 32].into_iter().zip(pair) {
                        result.push(if part < threshold {
                            T::zero()
                        } else {
                            *value * scale
                        });
                    }
                }
            },
        );
        result
    }
}

impl Tape<'_> {
    /// Dropout number `site` of the model, with probability `probability`; the identity without
    /// noise.
    pub fn dropout(&self, x: &Var, site: usize, probability: f64) -> Result<Var> {
        let Some(noise) = self.noise.filter(|_| probability > 0.0) else {
            return Ok(x.clone());
        };
        let drop = noise.site(site, probability);
        let value = drop.apply(&x.value)?;
        if !self.wants([x], false) {
            return Ok(Var::constant(value));
        }
        let input = x.clone();
        Ok(self.record(value, move |gradient, gradients| {
            gradients.add(&input, drop.apply(&gradient)?)
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kept_share_and_its_spread_are_binomial() {
        let count = 1_000_000;
        for probability in [0.1, 0.5] {
            let drop = Noise::new(3, 5, 0).site(2, probability);
            let kept = drop.apply_to(&vec![1.0_f64; count]);
            let mean = kept.iter().sum::<f64>() / count as f64;
            // The mean of kept/(1 − p) has deviation √(p/(1 − p)/n).
            let deviation = (probability / (1.0 - probability) / count as f64).sqrt();
            assert!((mean - 1.0).abs() < 4.0 * deviation, "{mean}");
            // Neighbours are independent: their correlation has deviation 1/√n.
            let centred: Vec<_> = kept.iter().map(|value| value - mean).collect();
            let covariance: f64 = centred.windows(2).map(|pair| pair[0] * pair[1]).sum();
            let variance: f64 = centred.iter().map(|value| value * value).sum();
            assert!((covariance / variance).abs() < 4.0 / (count as f64).sqrt());
        }
    }

    #[test]
    fn parts_sites_and_steps_have_their_own_chance() {
        let x = vec![1.0_f32; 64];
        let of = |step, part, site| Noise::new(0, step, part).site(site, 0.5).apply_to(&x);
        assert_eq!(of(1, 2, 3), of(1, 2, 3));
        for other in [of(2, 2, 3), of(1, 3, 3), of(1, 2, 4)] {
            assert_ne!(of(1, 2, 3), other);
        }
    }
}
