//! From coefficients to pixels, as libjpeg computes them.
//!
//! The inverse transform is the one of Loeffler, Ligtenberg and Moschytz with 11 multiplications, in
//! whole numbers: constants of 13 bits, two bits kept between columns and rows. Chroma at half the size
//! is interpolated with weights ¾ and ¼ in each direction, where ties are rounded up and down in turn.
//! Colours come from constants of 16 bits.
//!
//! Source: `jidctint.c`, `jdsample.c` and `jdcolor.c` of libjpeg-turbo (their behaviour, which Pillow
//! shows; the code is ours); C. Loeffler, A. Ligtenberg and G. S. Moschytz, “Practical fast 1-D DCT
//! algorithms with 11 multiplications”, 1989.

/// 2¹³ times the constants of the transform.
const C_0_298: i32 = 2446;
const C_0_390: i32 = 3196;
const C_0_541: i32 = 4433;
const C_0_765: i32 = 6270;
const C_0_899: i32 = 7373;
const C_1_175: i32 = 9633;
const C_1_501: i32 = 12_299;
const C_1_847: i32 = 15_137;
const C_1_961: i32 = 16_069;
const C_2_053: i32 = 16_819;
const C_2_562: i32 = 20_995;
const C_3_072: i32 = 25_172;
/// Bits of the constants, and bits kept between the passes.
const CONSTANT_BITS: u32 = 13;
const KEPT_BITS: u32 = 2;

/// One pass over eight numbers, whose results are divided by 2^`shift` and rounded.
fn pass(x: [i32; 8], shift: u32) -> [i32; 8] {
    // Damaged files may hold any coefficients: sums wrap instead of overflowing.
    let mul = i32::wrapping_mul;
    let add = i32::wrapping_add;
    let sub = i32::wrapping_sub;
    let z1 = mul(add(x[2], x[6]), C_0_541);
    let even_2 = sub(z1, mul(x[6], C_1_847));
    let even_3 = add(z1, mul(x[2], C_0_765));
    let even_0 = add(x[0], x[4]).wrapping_shl(CONSTANT_BITS);
    let even_1 = sub(x[0], x[4]).wrapping_shl(CONSTANT_BITS);
    let even = [
        add(even_0, even_3),
        add(even_1, even_2),
        sub(even_1, even_2),
        sub(even_0, even_3),
    ];
    let (z3, z4) = (add(x[7], x[3]), add(x[5], x[1]));
    let z5 = mul(add(z3, z4), C_1_175);
    let z1 = mul(add(x[7], x[1]), -C_0_899);
    let z2 = mul(add(x[5], x[3]), -C_2_562);
    let z3 = add(mul(z3, -C_1_961), z5);
    let z4 = add(mul(z4, -C_0_390), z5);
    let odd = [
        add(mul(x[1], C_1_501), add(z1, z4)),
        add(mul(x[3], C_3_072), add(z2, z3)),
        add(mul(x[5], C_2_053), add(z2, z4)),
        add(mul(x[7], C_0_298), add(z1, z3)),
    ];
    let round = |value: i32| add(value, 1 << (shift - 1)) >> shift;
    let mut out = [0; 8];
    for at in 0..4 {
        out[at] = round(add(even[at], odd[at]));
        out[7 - at] = round(sub(even[at], odd[at]));
    }
    out
}

/// The samples of a block, row after row, into rows of a plane `stride` apart.
pub(super) fn inverse(block: &[i16; 64], quants: &[u16; 64], plane: &mut [u8], stride: usize) {
    // Most blocks are mostly zero, where the passes have short ways to the same numbers.
    if block[1..].iter().all(|&value| value == 0) {
        let value = i32::from(block[0]).wrapping_mul(i32::from(quants[0]));
        let level = (value.wrapping_add(4) >> 3).wrapping_add(128);
        for row in 0..8 {
            plane[stride * row..stride * row + 8].fill(level.clamp(0, 255) as u8);
        }
        return;
    }
    let mut between = [0_i32; 64];
    for column in 0..8 {
        if (1..8).all(|row| block[8 * row + column] == 0) {
            let value = i32::from(block[column]).wrapping_mul(i32::from(quants[column]));
            for row in 0..8 {
                between[8 * row + column] = value.wrapping_shl(KEPT_BITS);
            }
            continue;
        }
        let value = |row: usize| {
            let at = 8 * row + column;
            i32::from(block[at]).wrapping_mul(i32::from(quants[at]))
        };
        let values = pass(std::array::from_fn(value), CONSTANT_BITS - KEPT_BITS);
        for (row, value) in values.into_iter().enumerate() {
            between[8 * row + column] = value;
        }
    }
    for (row, values) in between.chunks_exact(8).enumerate() {
        let values = pass(
            std::array::from_fn(|at| values[at]),
            CONSTANT_BITS + KEPT_BITS + 3,
        );
        let samples = &mut plane[stride * row..stride * row + 8];
        for (sample, value) in samples.iter_mut().zip(values) {
            *sample = value.wrapping_add(128).clamp(0, 255) as u8;
        }
    }
}

/// The samples of one component.
pub(super) struct Plane {
    pub samples: Vec<u8>,
    /// From row to row, at least `width`.
    pub stride: usize,
    /// Those that are of the image: what is beyond only fills up blocks.
    pub width: usize,
    pub height: usize,
    /// How many columns and rows of pixels there are for each.
    pub scale: (usize, usize),
}

impl Plane {
    fn row(&self, row: usize) -> &[u8] {
        &self.samples[self.stride * row..][..self.width]
    }

    /// A row of pixels; it may be longer than the image is wide.
    pub(super) fn upsampled(&self, row: usize, out: &mut Vec<u8>) {
        out.clear();
        let is_wide = self.width > 2;
        match self.scale {
            (1, 1) => out.extend_from_slice(self.row(row)),
            (2, 1) if is_wide => {
                let sums: Vec<u32> = self.row(row).iter().map(|&one| u32::from(one)).collect();
                between_columns(&sums, 2, out);
            }
            (1, 2) => {
                let (sums, bias) = self.between_rows(row);
                out.extend(sums.into_iter().map(|sum| ((sum + bias) >> 2) as u8));
            }
            (2, 2) if is_wide => {
                let (sums, _) = self.between_rows(row);
                between_columns(&sums, 4, out);
            }
            (across, down) => {
                let samples = self.row(row / down).iter();
                out.extend(samples.flat_map(|&one| std::iter::repeat_n(one, across)));
            }
        }
    }

    /// Three times the nearest row and once the next nearest; and what to add before a division by 4.
    fn between_rows(&self, row: usize) -> (Vec<u32>, u32) {
        let near = row / 2;
        let (far, bias) = match row % 2 {
            0 => (near.saturating_sub(1), 1),
            _ => ((near + 1).min(self.height - 1), 2),
        };
        let both = self.row(near).iter().zip(self.row(far));
        let sums = both.map(|(&near, &far)| 3 * u32::from(near) + u32::from(far));
        (sums.collect(), bias)
    }
}

/// Two columns for each: three times it and once its neighbour, at the border the border itself.
/// `bits` is by how much four times a sum is divided: 2, or 4 for sums that are four times a sample.
fn between_columns(sums: &[u32], bits: u32, out: &mut Vec<u8>) {
    // Half a unit, and one less on the right hand for sums over rows, on the left hand for others.
    let (left, right) = match bits {
        2 => (1, 2),
        _ => (8, 7),
    };
    let last = sums.len() - 1;
    for (at, &sum) in sums.iter().enumerate() {
        let before = sums[at.saturating_sub(1)];
        let after = sums[(at + 1).min(last)];
        out.push(((3 * sum + before + left) >> bits) as u8);
        out.push(((3 * sum + after + right) >> bits) as u8);
    }
}

/// Red, green and blue of luma and chroma.
pub(super) fn colour(luma: u8, blue: u8, red: u8) -> [u8; 3] {
    const HALF: i32 = 1 << 15;
    let (y, cb, cr) = (i32::from(luma), i32::from(blue) - 128, i32::from(red) - 128);
    // 2¹⁶ times 1.402, 0.71414, 0.34414 and 1.772.
    let r = y + ((91_881 * cr + HALF) >> 16);
    let g = y + ((-22_554 * cb - 46_802 * cr + HALF) >> 16);
    let b = y + ((116_130 * cb + HALF) >> 16);
    [r, g, b].map(|channel| channel.clamp(0, 255) as u8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn chroma_between_by_hand() {
        let plane = Plane {
            samples: vec![0, 100, 200, 9, 40, 80, 120, 9],
            stride: 4,
            width: 3,
            height: 2,
            scale: (2, 1),
        };
        let mut row = Vec::new();
        plane.upsampled(0, &mut row);
        // 0; (3·0 + 100 + 2)/4; (300 + 0 + 1)/4; (300 + 200 + 2)/4; (600 + 100 + 1)/4; 200.
        assert_eq!(row, [0, 25, 75, 125, 175, 200]);
        let plane = Plane {
            scale: (2, 2),
            ..plane
        };
        plane.upsampled(1, &mut row);
        // Sums of rows 3·near + far: 40, 380, 720.
        assert_eq!(row, [10, 31, 74, 116, 159, 180]);
        plane.upsampled(3, &mut row);
        // The last row is its own neighbour: 160, 320, 480.
        assert_eq!(row, [40, 50, 70, 90, 110, 120]);
        let plane = Plane {
            scale: (1, 2),
            ..plane
        };
        plane.upsampled(2, &mut row);
        assert_eq!(row, [30, 85, 140]);
    }

    #[test]
    fn grey_has_no_colour() {
        for luma in 0..=255 {
            assert_eq!(colour(luma, 128, 128), [luma; 3]);
        }
        assert_eq!(colour(76, 85, 255), [254, 0, 0]);
    }

    proptest! {
        /// The transform in float64, by its definition: never more than one unit away.
        #[test]
        fn against_the_definition(coefficients in prop::collection::vec(-60_i16..60, 64)) {
            let mut block = [0_i16; 64];
            block.copy_from_slice(&coefficients);
            block[0] *= 8;
            let mut plane = [0_u8; 64];
            inverse(&block, &[1; 64], &mut plane, 8);
            let basis = |frequency: usize, at: usize| {
                let scale = if frequency == 0 { 0.5_f64.sqrt() } else { 1.0 };
                let angle = (2 * at + 1) as f64 * frequency as f64 * std::f64::consts::PI / 16.0;
                scale * angle.cos() / 2.0
            };
            for (at, &sample) in plane.iter().enumerate() {
                let mut sum = 128.0;
                for (index, &value) in block.iter().enumerate() {
                    let vertical = basis(index / 8, at / 8);
                    sum += f64::from(value) * vertical * basis(index % 8, at % 8);
                }
                prop_assert!((f64::from(sample) - sum.clamp(0.0, 255.0)).abs() <= 1.0);
            }
        }
    }
}
