//! Images as sequences of patches, and positions for images of another size.

use candle_core::{Result, Tensor};

use super::Pass;
use crate::engine::{Lengths, Var};
use crate::module::{Declaration, ModuleId};

/// What makes a sequence of an image: a projection of its patches, a class token before them, and
/// learned positions.
#[derive(Debug, Clone)]
pub(crate) struct PatchEmbedding {
    /// Height and width of a patch.
    pub patch: usize,
    /// Patches along a side of the images that the positions were learned for.
    pub side: usize,
    pub project: ModuleId,
    class_token: ModuleId,
    positions: ModuleId,
}

impl PatchEmbedding {
    /// Declares the class token, the positions and the projection under these names.
    pub fn declare(
        modules: &mut Declaration,
        [class_token, positions, project]: [&str; 3],
        width: usize,
        channels: usize,
        patch: usize,
        side: usize,
    ) -> Self {
        Self {
            patch,
            side,
            class_token: modules.table(class_token, &[1, 1, width]),
            positions: modules.table(positions, &[1, 1 + side * side, width]),
            project: modules.patches(project, [width, channels, patch, patch]),
        }
    }

    /// Images (images × channels × height × width) as packed sequences: class token, then patches
    /// from left to right and from top to bottom.
    ///
    /// # Errors
    /// If a side of the images is no multiple of the patch's.
    pub fn forward(&self, pass: Pass<'_>, pixels: &Tensor) -> Result<(Var, Lengths)> {
        let tape = pass.tape;
        let (images, _, height, width) = pixels.dims4()?;
        let (rows, columns) = (height / self.patch, width / self.patch);
        if !height.is_multiple_of(self.patch) || !width.is_multiple_of(self.patch) {
            candle_core::bail!(
                "images: expected sides that are multiples of {}, found {height} × {width}",
                self.patch
            );
        }
        let count = rows * columns;
        let class_token = pass.embedding(self.class_token, &[0])?;
        let pixels = pixels.to_dtype(class_token.value.dtype())?;
        let patches = Var::constant(unfolded(&pixels, self.patch)?);
        let projected = pass.linear(self.project, &patches)?;
        let patches = Lengths::new(vec![count; images]);
        let hidden = tape.prepend(&class_token, &projected, &patches)?;
        let lengths = Lengths::new(vec![count + 1; images]);
        let places: Vec<u32> = (0..images).flat_map(|_| 0..=count as u32).collect();
        // As the reference: as many patches in another shape are resized too.
        let positions = if (rows, columns) == (self.side, self.side) {
            pass.embedding(self.positions, &places)?
        } else {
            let map = resizing(self.side, rows, columns)?;
            let resized = tape.mapped(&map, &pass.modules[self.positions])?;
            tape.gather(&resized, &places)?
        };
        Ok((tape.add(&hidden, &positions)?, lengths))
    }
}

/// Patches as rows, each in the order of a convolution's weight: channel, row, column.
fn unfolded(pixels: &Tensor, patch: usize) -> Result<Tensor> {
    let (images, channels, height, width) = pixels.dims4()?;
    let (rows, columns) = (height / patch, width / patch);
    pixels
        .reshape(vec![images, channels, rows, patch, columns, patch])?
        .permute(vec![0, 2, 4, 1, 3, 5])?
        .reshape((images * rows * columns, channels * patch * patch))
}

/// The map from positions of a class token and `side` × `side` patches to those of a class token and
/// `rows` × `columns` patches: bicubic, a = −0.75, corners not aligned, no smoothing.
fn resizing(side: usize, rows: usize, columns: usize) -> Result<Tensor> {
    let entries = 1 + side * side;
    let mut map = vec![0.0_f64; (1 + rows * columns) * entries];
    map[0] = 1.0;
    let (down, across) = (taps(side, rows), taps(side, columns));
    for (row, down) in down.iter().enumerate() {
        for (column, across) in across.iter().enumerate() {
            let place = 1 + row * columns + column;
            for (y, first) in down {
                for (x, second) in across {
                    // Taps beyond the border read it again, so that weights add up.
                    map[place * entries + 1 + y * side + x] += first * second;
                }
            }
        }
    }
    Tensor::from_vec(
        map,
        (1 + rows * columns, entries),
        &candle_core::Device::Cpu,
    )
}

/// For every place of `count`, the four of `side` that it is made from, with their weights (Keys
/// 1981, Eq. 4, with a = −0.75).
fn taps(side: usize, count: usize) -> Vec<[(usize, f64); 4]> {
    const A: f64 = -0.75;
    let near = |x: f64| ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0;
    let far = |x: f64| ((A * x - 5.0 * A) * x + 8.0 * A) * x - 4.0 * A;
    let step = side as f64 / count as f64;
    (0..count)
        .map(|place| {
            let middle = step * (place as f64 + 0.5) - 0.5;
            let t = middle - middle.floor();
            let weights = [far(t + 1.0), near(t), near(1.0 - t), far(2.0 - t)];
            let mut tap = middle.floor() as i64 - 1;
            weights.map(|weight| {
                let at = tap.clamp(0, side as i64 - 1) as usize;
                tap += 1;
                (at, weight)
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resizing_is_the_identity_at_the_same_size_and_known_at_half() {
        let same = resizing(3, 3, 3).unwrap().to_vec2::<f64>().unwrap();
        for (row, values) in same.iter().enumerate() {
            for (column, value) in values.iter().enumerate() {
                assert_eq!(*value, f64::from(u8::from(row == column)));
            }
        }
        // Midway between two places: k(½) = 19/32 and k(3⁄2) = −3/32 for a = −¾;
        // a tap beyond the border reads the border's place.
        let half = taps(4, 2);
        let weights = [-3.0 / 32.0, 19.0 / 32.0, 19.0 / 32.0, -3.0 / 32.0];
        for (place, expected) in [(0, [0, 0, 1, 2]), (1, [1, 2, 3, 3])] {
            for (((at, weight), expected), own) in half[place].iter().zip(expected).zip(weights) {
                assert_eq!(*at, expected);
                assert!((weight - own).abs() < 1e-15);
            }
        }
    }

    #[test]
    fn patches_stand_in_the_order_of_the_weight() {
        // 1 image, 2 channels, 2 × 4 pixels, patches of 2.
        let pixels = Tensor::arange(0.0_f64, 16.0, &candle_core::Device::Cpu).unwrap();
        let pixels = pixels.reshape((1, 2, 2, 4)).unwrap();
        let rows = unfolded(&pixels, 2).unwrap().to_vec2::<f64>().unwrap();
        assert_eq!(rows[0], [0.0, 1.0, 4.0, 5.0, 8.0, 9.0, 12.0, 13.0]);
        assert_eq!(rows[1], [2.0, 3.0, 6.0, 7.0, 10.0, 11.0, 14.0, 15.0]);
    }
}
