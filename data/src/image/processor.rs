//! What a model's `preprocessor_config.json` asks for.
//!
//! The numbers are those of transformers' `ViTImageProcessorPil`, to the bit. Its default backend,
//! torchvision, differs from that one by a unit of 1/255 in 0.7 % of the channels of images made larger,
//! and rarely by two.

use std::path::Path;

use serde::Deserialize;

use super::{Filter, Image};
use crate::Error;

/// Longest side that an image is resized to.
const LONGEST: usize = 4096;

/// From an image to the numbers that a model reads: resize, divide by 255, normalise.
///
/// [`default`](Self::default) is the reference's `ViTImageProcessor` without a file: 224 × 224,
/// bilinear, mean and standard deviation ½.
#[derive(Debug, Clone, PartialEq)]
pub struct ImageProcessor {
    /// The columns of every image.
    pub width: usize,
    /// The rows of every image.
    pub height: usize,
    /// How images are resized, or `None` where they must have the size.
    pub filter: Option<Filter>,
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
            filter: Some(Filter::Bilinear),
            scale: 1.0 / 255.0,
            mean: [0.5; 3],
            deviation: [0.5; 3],
        }
    }
}

/// The keys that matter here. Others, such as the processor's name, do not.
#[derive(Deserialize)]
struct Config {
    do_resize: Option<bool>,
    size: Option<Size>,
    resample: Option<u8>,
    do_rescale: Option<bool>,
    rescale_factor: Option<f64>,
    do_normalize: Option<bool>,
    image_mean: Option<[f64; 3]>,
    image_std: Option<[f64; 3]>,
    do_center_crop: Option<bool>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Size {
    Square(usize),
    Sides { height: usize, width: usize },
    Other(serde_json::Value),
}

impl ImageProcessor {
    /// Reads `preprocessor_config.json` of a model's folder; what it leaves out is as
    /// [`default`](Self::default). `None` if there is none.
    ///
    /// # Errors
    /// [`Error::Io`] if the file is there and cannot be read; [`Error::Format`] naming the key that
    /// is not understood: filters other than bilinear (2) and bicubic (3), sizes other than a height
    /// and a width, and crops, are not.
    pub fn load(folder: &Path) -> Result<Option<Self>, Error> {
        let path = folder.join("preprocessor_config.json");
        match std::fs::read(&path) {
            Ok(bytes) => Self::parse(&path, &bytes).map(Some),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::io(&path, "read")(error)),
        }
    }

    fn parse(path: &Path, bytes: &[u8]) -> Result<Self, Error> {
        let config: Config = serde_json::from_slice(bytes).map_err(|error| {
            Error::format(
                path,
                "file",
                "settings of an image processor",
                error.to_string(),
            )
        })?;
        let wrong = |key: &str, expected: &str, found: String| {
            Err(Error::format(path, format!("key {key}"), expected, found))
        };
        let mut processor = Self::default();
        match config.size {
            None => {}
            Some(Size::Square(side)) => (processor.width, processor.height) = (side, side),
            Some(Size::Sides { height, width }) => {
                (processor.width, processor.height) = (width, height);
            }
            Some(Size::Other(value)) => {
                return wrong("size", "a height and a width", value.to_string());
            }
        }
        for side in [processor.width, processor.height] {
            if !(1..=LONGEST).contains(&side) {
                return wrong("size", "sides of 1 to 4096", side.to_string());
            }
        }
        processor.filter = match config.resample {
            _ if config.do_resize == Some(false) => None,
            None | Some(2) => Some(Filter::Bilinear),
            Some(3) => Some(Filter::Bicubic),
            Some(other) => {
                return wrong("resample", "2 (bilinear) or 3 (bicubic)", other.to_string());
            }
        };
        if config.do_center_crop == Some(true) {
            return wrong("do_center_crop", "false", "true".to_owned());
        }
        processor.scale = match config.do_rescale {
            Some(false) => 1.0,
            _ => config.rescale_factor.unwrap_or(processor.scale),
        };
        if config.do_normalize == Some(false) {
            (processor.mean, processor.deviation) = ([0.0; 3], [1.0; 3]);
        } else {
            processor.mean = config.image_mean.unwrap_or(processor.mean);
            processor.deviation = config.image_std.unwrap_or(processor.deviation);
        }
        if !processor.deviation.iter().all(|&one| one > 0.0) {
            let found = format!("{:?}", processor.deviation);
            return wrong("image_std", "three positive numbers", found);
        }
        Ok(processor)
    }

    /// The image at the model's size.
    ///
    /// # Errors
    /// [`Error::Format`] naming `origin` if it has another size and is not to be resized.
    pub fn resize(&self, origin: &Path, image: &Image) -> Result<Image, Error> {
        match self.filter {
            Some(filter) => Ok(image.resize(self.width, self.height, filter)),
            None if (image.width(), image.height()) == (self.width, self.height) => {
                Ok(image.clone())
            }
            None => Err(Error::format(
                origin,
                "image",
                format!(
                    "{} × {} pixels (do_resize is false)",
                    self.width, self.height
                ),
                format!("{} × {}", image.width(), image.height()),
            )),
        }
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

    fn parse(text: &str) -> Result<ImageProcessor, Error> {
        ImageProcessor::parse(Path::new("p.json"), text.as_bytes())
    }

    #[test]
    fn files_of_real_models() {
        let vit = r#"{"do_normalize": true, "do_resize": true, "feature_extractor_type":
            "ViTFeatureExtractor", "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5],
            "resample": 2, "size": 224}"#;
        assert_eq!(parse(vit).unwrap(), ImageProcessor::default());
        let large = r#"{"do_rescale": true, "rescale_factor": 0.00392156862745098, "resample": 3,
            "size": {"height": 384, "width": 256}, "image_mean": [0.485, 0.456, 0.406],
            "image_std": [0.229, 0.224, 0.225]}"#;
        let large = parse(large).unwrap();
        assert_eq!((large.height, large.width), (384, 256));
        assert_eq!(large.filter, Some(Filter::Bicubic));
        assert_eq!(large.scale, 1.0 / 255.0);
        assert_eq!(large.mean[1], 0.456);
    }

    #[test]
    fn what_is_not_understood_is_said() {
        let fault = |text: &str| parse(text).unwrap_err().to_string();
        assert!(
            fault(r#"{"resample": 1}"#)
                .contains("key resample: expected 2 (bilinear) or 3 (bicubic), found 1")
        );
        assert!(fault(r#"{"size": {"shortest_edge": 256}}"#).contains("shortest_edge"));
        assert!(fault(r#"{"size": 1000000}"#).contains("sides of 1 to 4096"));
        assert!(fault(r#"{"image_std": [0, 1, 1]}"#).contains("positive"));
        assert!(fault(r#"{"do_center_crop": true}"#).contains("do_center_crop"));
        assert!(fault("[").contains("settings of an image processor"));
    }

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
}
