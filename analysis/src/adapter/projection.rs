//! VeRA's random projections drawn anew, as PEFT does for adapters that were saved without them.
//!
//! PEFT draws vera_A (R × inputs), then vera_B (outputs × R), from one generator of PyTorch on the
//! CPU: MT19937 seeded with `projection_prng_key`, every number 24 bits of one output over 2²⁴,
//! stretched to ±√(6/fan_in) (Kaiming's uniform bound with gain √2): the bounds and their distance in
//! single precision, the stretching in double, its result rounded to single.
//!
//! Sources: M. Matsumoto and T. Nishimura, “Mersenne Twister”, 1998; PyTorch's `uniform_`;
//! `_kaiming_init` of huggingface/peft.

use ndarray::Array2;

/// VeRA's shared random projections vera_A (`rank` × `inputs`) and vera_B (`outputs` × `rank`), as
/// PEFT draws them from `projection_prng_key` = `key`: to the bit, so that an adapter need not keep
/// them.
///
/// `inputs` and `outputs` are the largest of all layers; a layer takes the first columns of A and the
/// first rows of B.
pub fn vera_projections(
    key: u64,
    rank: usize,
    inputs: usize,
    outputs: usize,
) -> (Array2<f64>, Array2<f64>) {
    let mut generator = MersenneTwister::new(key as u32);
    let mut uniform = |rows: usize, columns: usize| {
        // The fan of a weight is the length of its rows.
        let deviation = 2_f64.sqrt() / (columns as f64).sqrt();
        let bound = 3_f64.sqrt() * deviation;
        let (from, to) = (-bound as f32, bound as f32);
        Array2::from_shape_simple_fn((rows, columns), || {
            let bits = generator.next() & ((1 << 24) - 1);
            let share = f64::from(bits) / f64::from(1 << 24);
            f64::from((share * f64::from(to - from) + f64::from(from)) as f32)
        })
    };
    let a = uniform(rank, inputs);
    let b = uniform(outputs, rank);
    (a, b)
}

const SIZE: usize = 624;
const MIDDLE: usize = 397;

struct MersenneTwister {
    state: Vec<u32>,
    next: usize,
}

impl MersenneTwister {
    fn new(seed: u32) -> Self {
        let mut state = vec![seed; SIZE];
        for i in 1..SIZE {
            let before = state[i - 1];
            state[i] = 1_812_433_253_u32
                .wrapping_mul(before ^ (before >> 30))
                .wrapping_add(i as u32);
        }
        Self { state, next: SIZE }
    }

    fn next(&mut self) -> u32 {
        if self.next == SIZE {
            for i in 0..SIZE {
                let bits =
                    (self.state[i] & 0x8000_0000) | (self.state[(i + 1) % SIZE] & 0x7fff_ffff);
                let odd = if bits & 1 == 0 { 0 } else { 0x9908_b0df };
                self.state[i] = self.state[(i + MIDDLE) % SIZE] ^ (bits >> 1) ^ odd;
            }
            self.next = 0;
        }
        let mut bits = self.state[self.next];
        self.next += 1;
        bits ^= bits >> 11;
        bits ^= (bits << 7) & 0x9d2c_5680;
        bits ^= (bits << 15) & 0xefc6_0000;
        bits ^ (bits >> 18)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_generator_is_the_standard_one() {
        // The 10,000th output for the default seed: C++ standard, [rand.predef].
        let mut generator = MersenneTwister::new(5489);
        let last = (0..10_000).map(|_| generator.next()).last();
        assert_eq!(last, Some(4_123_659_995));
    }

    #[test]
    fn numbers_are_those_of_pytorch() {
        // PyTorch 2.15: uniform_(-b, b) of a 2 x 3 and then a 3 x 2 tensor from Generator seed 1234,
        // b = sqrt(3) sqrt(2)/sqrt(columns); the float32 values' bits.
        let expected: [u32; 12] = [
            0xbfaa_8719,
            0xbe8e_10e9,
            0xbf2d_e432,
            0xbec1_1fbc,
            0xbf9f_e987,
            0x3f11_4845,
            0xbfc6_bc3b,
            0xbde2_091c,
            0x3f1a_220d,
            0xbf15_7612,
            0x3f7b_985a,
            0x3e5f_b348,
        ];
        let (a, b) = vera_projections(1234, 2, 3, 3);
        let found: Vec<u32> = a.iter().chain(&b).map(|&x| (x as f32).to_bits()).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn numbers_are_within_the_bound() {
        let (a, b) = vera_projections(0, 4, 6, 3);
        // √(6/6) and √(6/4).
        assert!(a.iter().all(|x| x.abs() <= 1.0) && a.iter().any(|x| x.abs() > 0.8));
        assert!(b.iter().all(|x| x.abs() <= 1.5_f64.sqrt()));
    }
}
