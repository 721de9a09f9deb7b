//! From an image to the numbers that a model reads.
//!
//! The numbers are those of transformers' image processors on their Pillow backend, to the bit. Their
//! other backend, torchvision, differs from that one by a unit of 1/255 in 0.7 % of the channels of
//! images made larger, and rarely by two.

use std::path::Path;

use super::{Filter, Image, MOST_PIXELS};
use crate::Error;

/// What an image is resized to before its middle is cut out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResizedTo {
    /// To these sides, whatever its shape was.
    Sides {
        /// The columns.
        width: usize,
        /// The rows.
        height: usize,
    },
    /// The shorter side to this length, its shape kept; the longer one is rounded down.
    ShorterSide(usize),
}

impl ResizedTo {
    fn of(self, image: &Image) -> (usize, usize) {
        let longer = |short: usize, side: usize, long: usize| {
            // One rounding of the quotient, as the reference's.
            ((side * long) as f64 / short as f64) as usize
        };
        let (width, height) = (image.width(), image.height());
        match self {
            Self::Sides { width, height } => (width, height),
            Self::ShorterSide(side) if width <= height => (side, longer(width, side, height)),
            Self::ShorterSide(side) => (longer(height, side, width), side),
        }
    }
}

/// How an image gets the model's size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fit {
    /// It has it, or is refused.
    Given,
    /// It is resized, whatever its shape was.
    Resized(Filter),
    /// It is resized where that is said, and the middle of it is taken; what it lacks there is black.
    Middle(Option<(Filter, ResizedTo)>),
}

/// From an image to the numbers that a model reads: the model's size, divide by 255, normalise.
///
/// [`default`](Self::default) is the reference's `ViTImageProcessor` without a file: 224 × 224,
/// bilinear, mean and standard deviation ½.
#[derive(Debug, Clone, PartialEq)]
pub struct ImageProcessor {
    /// The columns that the model reads.
    pub width: usize,
    /// The rows that the model reads.
    pub height: usize,
    /// How images get that size.
    pub fit: Fit,
    /// What a byte is multiplied with: 1/255.
    pub scale: f64,
    /// Subtracted from red, green and blue.
    pub mean: [f64; 3],
    /// What red, green and blue are divided by then.
    pub deviation: [f64; 3],
}

impl Default for ImageProcessor {
    fn default() -> Self {
        Self {
            width: 224,
            height: 224,
            fit: Fit::Resized(Filter::Bilinear),
            scale: 1.0 / 255.0,
            mean: [0.5; 3],
            deviation: [0.5; 3],
        }
    }
}

impl ImageProcessor {
    /// The image at the model's size.
    ///
    /// # Errors
    /// [`Error::Format`] naming `origin` if it has another size and is not to be resized, or is so
    /// narrow that it would have more than 2²⁶ pixels before its middle is taken.
    pub fn resize(&self, origin: &Path, image: &Image) -> Result<Image, Error> {
        let (width, height) = (self.width, self.height);
        match self.fit {
            Fit::Given if (image.width(), image.height()) == (width, height) => Ok(image.clone()),
            Fit::Given => Err(Error::format(
                origin,
                "image",
                format!("{width} × {height} pixels (do_resize is false)"),
                format!("{} × {}", image.width(), image.height()),
            )),
            Fit::Resized(filter) => Ok(image.resize(width, height, filter)),
            Fit::Middle(None) => Ok(image.middle(width, height)),
            Fit::Middle(Some((filter, target))) => {
                let (wide, high) = target.of(image);
                if (wide as u64).saturating_mul(high as u64) > MOST_PIXELS {
                    return Err(Error::format(
                        origin,
                        "image",
                        format!("at most {MOST_PIXELS} pixels when resized"),
                        format!("{wide} × {high}"),
                    ));
                }
                Ok(image.resize(wide, high, filter).middle(width, height))
            }
        }
    }

    /// A part of an image, resized to the model's size whatever its shape is: bilinearly where the
    /// processor names no filter.
    pub(super) fn stretch(&self, part: &Image) -> Image {
        let filter = match self.fit {
            Fit::Resized(filter) | Fit::Middle(Some((filter, _))) => filter,
            Fit::Given | Fit::Middle(None) => Filter::Bilinear,
        };
        part.resize(self.width, self.height, filter)
    }

    /// The numbers of an image: a plane of red, then green, then blue, each row after row.
    pub fn numbers(&self, image: &Image) -> Vec<f32> {
        let mut numbers = Vec::with_capacity(image.pixels().len());
        for channel in 0..3 {
            // As the reference rounds: the scaled byte to float32, then in float32.
            let mean = self.mean[channel] as f32;
            let deviation = self.deviation[channel] as f32;
            let values: [f32; 256] =
                std::array::from_fn(|byte| ((byte as f64 * self.scale) as f32 - mean) / deviation);
            let pixels = image.pixels().chunks_exact(3);
            numbers.extend(pixels.map(|pixel| values[usize::from(pixel[channel])]));
        }
        numbers
    }

    /// The two together: `3 · height · width` numbers.
    ///
    /// # Errors
    /// As [`resize`](Self::resize).
    pub fn process(&self, origin: &Path, image: &Image) -> Result<Vec<f32>, Error> {
        Ok(self.numbers(&self.resize(origin, image)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_by_hand() {
        let image = Image::new(2, 1, vec![0, 51, 255, 255, 102, 0]);
        let processor = ImageProcessor {
            width: 2,
            height: 1,
            ..ImageProcessor::default()
        };
        let numbers = processor.process(Path::new("i"), &image).unwrap();
        // 2 x/255 − 1 in float32: one rounding of x/255 and one of the difference.
        let expected = [-1.0, 1.0, -0.6, -0.2, 1.0, -1.0];
        for (number, expected) in numbers.iter().zip(expected) {
            assert!(
                (number - expected).abs() <= 2.0 * f32::EPSILON,
                "{numbers:?}"
            );
        }
    }

    #[test]
    fn the_middle_by_hand() {
        // Pixels numbered from 1 in three rows of two.
        let image = Image::new(2, 3, (1..=6).flat_map(|number| [number; 3]).collect());
        let processor = |width, height, before| ImageProcessor {
            width,
            height,
            fit: Fit::Middle(before),
            ..ImageProcessor::default()
        };
        let fitted = |processor: &ImageProcessor| {
            let middle = processor.resize(Path::new("i"), &image).unwrap();
            let pixels = middle.pixels().iter().step_by(3);
            pixels.copied().collect::<Vec<_>>()
        };
        // One column of two is left over on the right, one row of three above and below.
        assert_eq!(fitted(&processor(1, 1, None)), [3]);
        // One column too few goes to the left, one row too few above.
        assert_eq!(
            fitted(&processor(3, 4, None)),
            [0, 0, 0, 0, 1, 2, 0, 3, 4, 0, 5, 6]
        );
        let sides = ResizedTo::ShorterSide(3);
        assert_eq!(sides.of(&image), (3, 4));
        let before = Some((Filter::Bilinear, sides));
        assert_eq!(fitted(&processor(3, 4, before)).len(), 12);
        let wide = Image::new(1 << 15, 1, vec![7; 3 << 15]);
        let before = Some((Filter::Bilinear, ResizedTo::ShorterSide(224)));
        let fault = processor(224, 224, before).resize(Path::new("thin.png"), &wide);
        let fault = fault.unwrap_err().to_string();
        assert!(
            fault.contains("thin.png") && fault.contains("7340032 × 224"),
            "{fault}"
        );
    }
}
