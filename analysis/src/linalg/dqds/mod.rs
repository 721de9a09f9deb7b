//! Singular values of an upper bidiagonal matrix by the differential quotient difference algorithm
//! with shifts, dqds: neither rotations nor square roots in the loop, and every singular value to
//! high relative accuracy.
//!
//! For B with diagonal a and superdiagonal b, q_i = a_i² and e_i = b_i². One transform with shift τ
//! takes BᵀB − τI = B̂B̂ᵀ: from d = q_1 − τ,
//!
//! q̂_i = d + e_i,  ê_i = e_i q_{i+1} / q̂_i,  d ← d q_{i+1} / q̂_i − τ,  q̂_n = d.
//!
//! As long as no d is negative τ is below every eigenvalue, nothing but the subtraction of τ
//! cancels, and the last e goes to zero; the accumulated shift σ plus the last q is then an
//! eigenvalue of BᵀB. The transforms with τ = 0 lose no relative accuracy at all.
//!
//! | symbol | identifier |
//! |---|---|
//! | (q_i, e_i) | `z[i]` |
//! | τ, σ | `tau`, `sigma` and `carry`, which holds σ's rounding |
//! | the least d, without the last one, without the last two | `Minima::least`, `least1`, `least2` |
//! | the last three d | `Minima::last`, `last1`, `last2` |
//!
//! Sources: K. V. Fernando and B. N. Parlett, “Accurate singular values and differential qd
//! algorithms”, Numer. Math. 67 (1994); B. N. Parlett and O. A. Marques, “An implementation of the
//! dqds algorithm (positive case)”, Linear Algebra Appl. 309 (2000), from which come the choice of
//! shifts (its cases are numbered below), the tests for deflation and the treatment of failed shifts.
//! The model for the shifts' constants is their implementation in LAPACK, dlasq2 to dlasq6. Unlike
//! there, blocks that split off wait on a stack, and the number of transforms is limited in total.

mod shift;
#[cfg(test)]
mod tests;
mod transform;

use shift::{Guess, next_shift};
use transform::{Minima, transform, transform_safely, two_by_two};

/// A q and the e to its right.
type Pair = [f64; 2];

/// Hundred spacings: e below its square times σ cannot change a digit.
const TOLERANCE: f64 = 100.0 * f64::EPSILON;
const TOLERANCE_SQUARED: f64 = TOLERANCE * TOLERANCE;

/// Turns a block over if its first q is so many times smaller than its last.
const FLIP: f64 = 1.5;

/// Transforms that are allowed per row; two or three are usual.
const TRANSFORMS_PER_ROW: usize = 100;

/// The singular values of the upper bidiagonal matrix with this diagonal and superdiagonal,
/// descending; `None` if an entry is not finite or the iteration does not end.
///
/// The square of (largest / smallest) may exceed the range of floating point; what is below
/// 1e-300 times the largest comes out as zero or with few digits.
pub(super) fn bidiagonal_singular_values(diagonal: &[f64], above: &[f64]) -> Option<Vec<f64>> {
    let n = diagonal.len();
    debug_assert!(above.len() + 1 >= n);
    if n == 0 {
        return Some(Vec::new());
    }
    let mut largest = 0.0_f64;
    for x in diagonal.iter().chain(&above[..n - 1]) {
        if !x.is_finite() {
            return None;
        }
        largest = largest.max(x.abs());
    }
    if largest == 0.0 {
        return Some(vec![0.0; n]);
    }
    // A power of two, so that nothing is rounded: the largest square is about 2^970, and as much of
    // the range as possible is left for small ones. In two steps, since 2^exponent can overflow.
    let exponent = 484 - (largest.log2().floor() as i32 + 1);
    let halves = (exponent / 2, exponent - exponent / 2);
    let up = (2_f64.powi(halves.0), 2_f64.powi(halves.1));
    let down = (2_f64.powi(-halves.0), 2_f64.powi(-halves.1));
    let square = |x: f64| {
        let scaled = x * up.0 * up.1;
        scaled * scaled
    };
    let squares = (0..n)
        .map(|i| {
            let e = if i + 1 < n { square(above[i]) } else { 0.0 };
            [square(diagonal[i]), e]
        })
        .collect();
    let mut values = Iteration::new(squares).run()?;
    for value in &mut values {
        *value = value.sqrt() * down.0 * down.1;
    }
    values.sort_by(|x, y| y.total_cmp(x));
    Some(values)
}

/// Rows `low..=high` with the shift that has been taken from them.
#[derive(Debug, Clone, Copy)]
struct Block {
    low: usize,
    high: usize,
    sigma: f64,
    carry: f64,
}

struct Iteration {
    /// The squares, and those before the last transform.
    z: Vec<Pair>,
    old: Vec<Pair>,
    found: Vec<f64>,
    left: usize,
}

impl Iteration {
    fn new(squares: Vec<Pair>) -> Self {
        let n = squares.len();
        Self {
            old: squares.clone(),
            z: squares,
            found: Vec::with_capacity(n),
            left: TRANSFORMS_PER_ROW * (n + 1),
        }
    }

    fn run(mut self) -> Option<Vec<f64>> {
        let high = self.z.len() - 1;
        if FLIP * self.z[0][0] < self.z[high][0] {
            self.flip(0, high);
        }
        // Two transforms without a shift make e small against its neighbours where it can be, and
        // say which e can be neglected from either end.
        for _ in 0..2 {
            neglect_from_the_end(&mut self.z);
            for range in unreduced(&self.z) {
                transform_safely(&self.z[range.clone()], &mut self.old[range]);
            }
            std::mem::swap(&mut self.z, &mut self.old);
        }
        neglect_from_the_end(&mut self.z);
        let mut waiting: Vec<Block> = unreduced(&self.z)
            .into_iter()
            .map(|range| Block {
                low: range.start,
                high: range.end - 1,
                sigma: 0.0,
                carry: 0.0,
            })
            .collect();
        while let Some(block) = waiting.pop() {
            self.reduce(block, &mut waiting)?;
        }
        Some(self.found)
    }

    /// Finds all eigenvalues of a block but those of the parts that split off, which it leaves in
    /// `waiting`.
    fn reduce(&mut self, mut block: Block, waiting: &mut Vec<Block>) -> Option<()> {
        let mut minima = self.gershgorin(block);
        let mut guess = Guess::Informed;
        let mut before = block.high;
        while self.deflate(&mut block) {
            let Block { low, high, .. } = block;
            if (minima.least <= 0.0 || high < before) && FLIP * self.z[low][0] < self.z[high][0] {
                self.flip(low, high);
                // Nothing is known of the block from its other end: the next shift is zero.
                minima.least = 0.0;
            }
            let rows = (&self.z[low..=high], &self.old[low..=high]);
            let (mut tau, cause) = next_shift(rows, before - high, &minima, guess);
            guess = cause;
            before = high;
            minima = self.shifted(&block, &mut tau, &mut guess)?;
            // Only the block's rows: those of the waiting blocks stay where they are.
            self.z[low..=high].swap_with_slice(&mut self.old[low..=high]);
            if tau < block.sigma {
                block.carry += tau;
                let sum = block.sigma + block.carry;
                block.carry -= sum - block.sigma;
                block.sigma = sum;
            } else {
                let sum = block.sigma + tau;
                block.carry += block.sigma - (sum - tau);
                block.sigma = sum;
            }
            self.split(&mut block, minima.e, waiting);
        }
        Some(())
    }

    /// Takes eigenvalues off the end of the block; `true` if at least three rows are left.
    fn deflate(&mut self, block: &mut Block) -> bool {
        let sigma = block.sigma;
        loop {
            let Block { low, high, .. } = *block;
            let (z, old) = (&self.z, &self.old);
            if low == high {
                self.found.push(z[high][0] + sigma);
                return false;
            }
            let e = z[high - 1][1];
            if e <= TOLERANCE_SQUARED * (sigma + z[high][0])
                || old[high - 1][1] <= TOLERANCE_SQUARED * z[high - 1][0]
            {
                self.found.push(z[high][0] + sigma);
                block.high -= 1;
                continue;
            }
            if high - low >= 2
                && z[high - 2][1] > TOLERANCE_SQUARED * sigma
                && old[high - 2][1] > TOLERANCE_SQUARED * z[high - 2][0]
            {
                return true;
            }
            let (large, small) = two_by_two(z[high - 1][0], z[high][0], e);
            self.found.extend([large + sigma, small + sigma]);
            if high - low < 2 {
                return false;
            }
            block.high -= 2;
        }
    }

    /// Splits the block where an e is negligible, and goes on with its last part, of at least three
    /// rows.
    fn split(&self, block: &mut Block, least_e: f64, waiting: &mut Vec<Block>) {
        let Block { low, high, .. } = *block;
        let rows = &self.z[low..=high];
        let largest = rows.iter().fold(0.0_f64, |largest, z| largest.max(z[0]));
        if least_e > TOLERANCE_SQUARED * largest.max(block.sigma) {
            return;
        }
        for i in low..high.saturating_sub(2) {
            if self.old[i][1] <= TOLERANCE_SQUARED * self.z[i][0]
                || self.z[i][1] <= TOLERANCE_SQUARED * block.sigma
            {
                waiting.push(Block { high: i, ..*block });
                block.low = i + 1;
            }
        }
    }

    fn flip(&mut self, low: usize, high: usize) {
        for z in [&mut self.z, &mut self.old] {
            let rows = &mut z[low..=high];
            rows.reverse();
            // The e between two rows belongs to the upper one.
            for i in 0..rows.len() - 1 {
                rows[i][1] = rows[i + 1][1];
            }
        }
    }

    /// Before anything is known of a block: minus a lower bound of its smallest eigenvalue.
    fn gershgorin(&self, block: Block) -> Minima {
        let rows = &self.z[block.low..=block.high];
        let q = rows.iter().fold(f64::INFINITY, |least, z| least.min(z[0]));
        let between = &rows[..rows.len() - 1];
        let e = between.iter().fold(0.0_f64, |largest, z| largest.max(z[1]));
        Minima {
            least: -(q - 2.0 * q.sqrt() * e.sqrt()).max(0.0),
            ..Minima::default()
        }
    }

    /// One transform from `z` into `old`, with smaller shifts if `tau` turns out to be too large.
    fn shifted(&mut self, block: &Block, tau: &mut f64, guess: &mut Guess) -> Option<Minima> {
        let &Block {
            low, high, sigma, ..
        } = block;
        let mut failures = 0;
        loop {
            self.left = self.left.checked_sub(1)?;
            // A shift below the rounding of what has been shifted away moves nothing.
            if *tau < f64::EPSILON * (sigma + *tau) / 2.0 {
                *tau = 0.0;
            }
            let (from, to) = (&self.z[low..=high], &mut self.old[low..=high]);
            let mut minima = transform(from, to, *tau);
            if minima.least >= 0.0 && minima.least1 >= 0.0 {
                return Some(minima);
            }
            let count = to.len();
            if minima.least < 0.0
                && minima.least1 > 0.0
                && to[count - 2][1] < TOLERANCE * (sigma + minima.last1)
                && minima.last.abs() < TOLERANCE * sigma
            {
                // The last row has converged; only its rounding is negative.
                to[count - 1][0] = 0.0;
                minima.least = 0.0;
                minima.last = 0.0;
                return Some(minima);
            }
            if *tau == 0.0 {
                let minima = transform_safely(from, to);
                return (minima.least >= 0.0).then_some(minima);
            }
            failures += 1;
            if matches!(guess, Guess::Blind(_)) {
                *guess = Guess::BlindFailed;
            }
            *tau = if failures > 2 || minima.least.is_nan() {
                0.0
            } else if minima.least1 > 0.0 {
                // Only the last d is negative: it is by how much the shift was too large.
                (*tau + minima.least) * (1.0 - 2.0 * f64::EPSILON)
            } else {
                *tau / 4.0
            };
            *tau = tau.max(0.0);
        }
    }
}

/// Sets every e to zero that changes no digit of any eigenvalue, seen from the last row upwards.
fn neglect_from_the_end(z: &mut [Pair]) {
    let mut d = z[z.len() - 1][0];
    for i in (0..z.len() - 1).rev() {
        let [q, e] = z[i];
        if e <= TOLERANCE_SQUARED * d {
            z[i][1] = 0.0;
            d = q;
        } else {
            d = q * (d / (d + e));
        }
    }
}

/// The ranges of rows between which e is zero.
fn unreduced(z: &[Pair]) -> Vec<std::ops::Range<usize>> {
    let mut ranges = Vec::new();
    let mut start = 0;
    for (i, &[_, e]) in z.iter().enumerate() {
        if e == 0.0 || i + 1 == z.len() {
            ranges.push(start..i + 1);
            start = i + 1;
        }
    }
    ranges
}
