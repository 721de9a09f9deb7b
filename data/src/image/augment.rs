//! Chance in training images: a crop of random size and shape, a flip.

use std::path::Path;

use rand::Rng;
use serde::de::{Deserializer, Error as _};
use serde::{Deserialize, Serialize};

use super::{Image, ImageProcessor};
use crate::Error;

/// How often a crop is drawn before the largest one in the middle is taken.
const TRIES: usize = 10;

/// Changes of a training image. The default changes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Augment {
    /// Whether left and right are exchanged in every second image.
    pub flip: bool,
    /// A random part instead of the whole.
    pub crop: Option<RandomCrop>,
}

crate::documented! {
/// A random part of an image: torchvision's `RandomResizedCrop`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RandomCrop {
    /// Least and largest part of the area, drawn uniformly.
    #[serde(deserialize_with = "pair")]
    pub scale: [f64; 2],
    /// Least and largest width over height, drawn uniformly on a logarithmic scale.
    #[serde(deserialize_with = "pair")]
    pub ratio: [f64; 2],
}
}

/// Two numbers and no third, which an array's own reader passes over.
fn pair<'de, D: Deserializer<'de>>(numbers: D) -> Result<[f64; 2], D::Error> {
    let numbers = Vec::<f64>::deserialize(numbers)?;
    let count = numbers.len();
    let pair = numbers.try_into();
    pair.map_err(|_| D::Error::invalid_length(count, &"two numbers, the least and the largest"))
}

impl Default for RandomCrop {
    fn default() -> Self {
        Self {
            scale: [0.08, 1.0],
            ratio: [3.0 / 4.0, 4.0 / 3.0],
        }
    }
}

impl Augment {
    /// Changes the image and brings it to the model's size.
    ///
    /// # Errors
    /// As [`ImageProcessor::resize`].
    pub fn apply(
        &self,
        origin: &Path,
        image: &Image,
        processor: &ImageProcessor,
        rng: &mut impl Rng,
    ) -> Result<Image, Error> {
        let resized = match self.crop {
            None => processor.resize(origin, image)?,
            Some(crop) => {
                let [left, top, width, height] = crop.draw(image.width(), image.height(), rng);
                processor.stretch(&image.crop(left, top, width, height))
            }
        };
        Ok(match self.flip && rng.random_bool(0.5) {
            true => resized.flip(),
            false => resized,
        })
    }
}

impl RandomCrop {
    /// Left, top, width and height of a part of a `width` × `height` image.
    fn draw(&self, width: usize, height: usize, rng: &mut impl Rng) -> [usize; 4] {
        let between = |[low, high]: [f64; 2], rng: &mut _| {
            let share: f64 = Rng::random(rng);
            low + (high - low) * share
        };
        let area = (width * height) as f64;
        for _ in 0..TRIES {
            let target = area * between(self.scale, rng);
            let ratio = between(self.ratio.map(f64::ln), rng).exp();
            let wide = (target * ratio).sqrt().round() as usize;
            let high = (target / ratio).sqrt().round() as usize;
            if (1..=width).contains(&wide) && (1..=height).contains(&high) {
                let left = rng.random_range(0..=width - wide);
                let top = rng.random_range(0..=height - high);
                return [left, top, wide, high];
            }
        }
        let shape = width as f64 / height as f64;
        let [low, high] = self.ratio;
        let (mut wide, mut tall) = (width, height);
        if shape < low {
            tall = (width as f64 / low).round() as usize;
        } else if shape > high {
            wide = (height as f64 * high).round() as usize;
        }
        let (wide, tall) = (wide.clamp(1, width), tall.clamp(1, height));
        [(width - wide) / 2, (height - tall) / 2, wide, tall]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream;

    #[test]
    fn crops_have_the_area_and_shape_asked_for() {
        let crop = RandomCrop::default();
        let mut rng = stream(1, "crop", 0);
        let mut areas = Vec::new();
        for _ in 0..2000 {
            let [left, top, width, height] = crop.draw(400, 300, &mut rng);
            assert!(left + width <= 400 && top + height <= 300);
            // Sides are rounded to whole pixels, so the shape is off by less than one in the smaller.
            let ratio = width as f64 / height as f64;
            let slack = 1.0 + 1.0 / width.min(height) as f64;
            assert!(
                ratio * slack >= 0.75 && ratio / slack <= 4.0 / 3.0,
                "{ratio}"
            );
            areas.push((width * height) as f64 / 120_000.0);
        }
        let least = areas.iter().copied().fold(1.0, f64::min);
        let most = areas.iter().copied().fold(0.0, f64::max);
        assert!(
            (0.07..0.1).contains(&least) && most > 0.95,
            "{least} {most}"
        );
    }

    #[test]
    fn a_shape_that_never_fits_is_cut_in_the_middle() {
        let crop = RandomCrop::default();
        let [left, top, width, height] = crop.draw(1000, 30, &mut stream(1, "crop", 0));
        assert_eq!([left, top, width, height], [480, 0, 40, 30]);
    }

    #[test]
    fn half_of_the_images_are_flipped_and_the_same_ones_again() {
        let processor = ImageProcessor {
            width: 2,
            height: 1,
            ..ImageProcessor::default()
        };
        let image = Image::new(2, 1, vec![0, 0, 0, 9, 9, 9]);
        let augment = Augment {
            flip: true,
            crop: None,
        };
        let flips = |seed| {
            let draw = |item| {
                let mut rng = stream(seed, "augment", item);
                let found = augment.apply(Path::new("i"), &image, &processor, &mut rng);
                found.unwrap() != image
            };
            (0..400).map(draw).collect::<Vec<_>>()
        };
        let first = flips(3);
        assert_eq!(first, flips(3));
        assert_ne!(first, flips(4));
        // Four standard deviations of 400 fair draws are 40.
        let count = first.iter().filter(|&&flipped| flipped).count();
        assert!(count.abs_diff(200) <= 40, "{count}");
    }
}
