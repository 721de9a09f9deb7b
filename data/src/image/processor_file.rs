//! What a model's `preprocessor_config.json` asks for.

use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use super::processor::{Fit, ImageProcessor, ResizedTo};
use super::{Filter, MOST_PIXELS};
use crate::Error;

/// Longest side that an image is resized to.
const LONGEST: usize = 4096;
const _: () = assert!((LONGEST * LONGEST) as u64 <= MOST_PIXELS);

/// The keys that matter here.
#[derive(Deserialize)]
struct File {
    image_processor_type: Option<String>,
    feature_extractor_type: Option<String>,
    do_resize: Option<bool>,
    size: Option<Value>,
    crop_pct: Option<Value>,
    resample: Option<u8>,
    do_center_crop: Option<bool>,
    crop_size: Option<Value>,
    do_pad: Option<bool>,
    do_rescale: Option<bool>,
    rescale_factor: Option<f64>,
    do_normalize: Option<bool>,
    image_mean: Option<[f64; 3]>,
    image_std: Option<[f64; 3]>,
}

/// What a processor does where its file is silent.
struct Usual {
    filter: Filter,
    /// Before the middle is taken, where it is.
    size: ResizedTo,
    /// Whether a size of one number is both sides, or the shorter one.
    is_square: bool,
    /// The sides of the middle, if it is taken.
    crop: Option<usize>,
    /// Whether it is that of the name that was asked for.
    is_known: bool,
    mean: [f64; 3],
    deviation: [f64; 3],
}

impl Usual {
    /// Of the processor of that name, with or without its version's ending; of `ViTImageProcessor` if
    /// the name says nothing here.
    fn of(name: &str) -> Self {
        let vit = Self {
            filter: Filter::Bilinear,
            size: square(224),
            is_square: true,
            crop: None,
            is_known: named(name, "ViT"),
            mean: [0.5; 3],
            deviation: [0.5; 3],
        };
        if named(name, "DeiT") {
            Self {
                filter: Filter::Bicubic,
                size: square(256),
                crop: Some(224),
                is_known: true,
                ..vit
            }
        } else if named(name, "CLIP") || named(name, "Bit") {
            Self {
                filter: Filter::Bicubic,
                size: ResizedTo::ShorterSide(224),
                is_square: false,
                crop: Some(224),
                is_known: true,
                mean: [0.481_454_66, 0.457_827_5, 0.408_210_73],
                deviation: [0.268_629_54, 0.261_302_58, 0.275_777_11],
            }
        } else {
            vit
        }
    }
}

/// Whether a processor's name is that of `model`, of any version.
fn named(name: &str, model: &str) -> bool {
    name.strip_prefix(model).is_some_and(|rest| {
        rest.starts_with("ImageProcessor") || rest.starts_with("FeatureExtractor")
    })
}

fn square(side: usize) -> ResizedTo {
    ResizedTo::Sides {
        width: side,
        height: side,
    }
}

/// The size that a value stands for: a number, a height and a width, or a shortest edge.
fn target(value: &Value, is_square: bool) -> Option<ResizedTo> {
    let side = |value: &Value| {
        let side = usize::try_from(value.as_u64()?).ok()?;
        (1..=LONGEST).contains(&side).then_some(side)
    };
    let sides = |height: &Value, width: &Value| {
        Some(ResizedTo::Sides {
            width: side(width)?,
            height: side(height)?,
        })
    };
    match value {
        Value::Number(_) if is_square => side(value).map(square),
        Value::Number(_) => side(value).map(ResizedTo::ShorterSide),
        Value::Array(pair) => match pair.as_slice() {
            [height, width] => sides(height, width),
            _ => None,
        },
        Value::Object(keys) => {
            let mut said: Vec<_> = keys.iter().filter(|(_, value)| !value.is_null()).collect();
            said.sort_by_key(|(key, _)| key.as_str());
            let names: Vec<&str> = said.iter().map(|(key, _)| key.as_str()).collect();
            match names.as_slice() {
                ["height", "width"] => sides(said[0].1, said[1].1),
                ["shortest_edge"] => side(said[0].1).map(ResizedTo::ShorterSide),
                _ => None,
            }
        }
        _ => None,
    }
}

impl ImageProcessor {
    /// Reads `preprocessor_config.json` of a model's folder; what it leaves out is as the processor
    /// that it names has it (ViT, DeiT, CLIP and Bit), else as [`default`](Self::default). `None` if
    /// there is none.
    ///
    /// # Errors
    /// [`Error::Io`] if the file is there and cannot be read; [`Error::Format`] naming the key that
    /// is not understood: a longest edge, `crop_pct`, padding and a shortest edge without a crop are
    /// not.
    pub fn load(folder: &Path) -> Result<Option<Self>, Error> {
        let path = folder.join("preprocessor_config.json");
        match std::fs::read(&path) {
            Ok(bytes) => Self::parse(&path, &bytes).map(Some),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::io(&path, "read")(error)),
        }
    }

    fn parse(path: &Path, bytes: &[u8]) -> Result<Self, Error> {
        let file: File = serde_json::from_slice(bytes).map_err(|error| {
            Error::format(
                path,
                "file",
                "settings of an image processor",
                error.to_string(),
            )
        })?;
        let wrong = |key: &str, expected: &str, found: String| {
            Error::format(path, format!("key {key}"), expected, found)
        };
        let name = file.image_processor_type.or(file.feature_extractor_type);
        let name = name.unwrap_or_default();
        let usual = Usual::of(&name);
        let says_all = file.resample.is_some()
            && file.image_mean.is_some()
            && file.image_std.is_some()
            && file.size.as_ref().is_some_and(Value::is_object);
        if !(name.is_empty() || usual.is_known || says_all) {
            let expected = "a processor of ViT, DeiT, CLIP or Bit, or a file that says size \
                            (height and width), resample, image_mean and image_std itself";
            return Err(wrong("image_processor_type", expected, format!("{name:?}")));
        }
        if let Some(share) = file.crop_pct.filter(|share| !share.is_null()) {
            return Err(wrong("crop_pct", "no such key", share.to_string()));
        }
        if file.do_pad == Some(true) {
            return Err(wrong("do_pad", "false", "true".to_owned()));
        }
        let size = match file.size.filter(|size| !size.is_null()) {
            None => usual.size,
            Some(value) => target(&value, usual.is_square).ok_or_else(|| {
                let expected =
                    "a number, a height and a width, or a shortest_edge, with sides of 1 to 4096";
                wrong("size", expected, value.to_string())
            })?,
        };
        let filter = match file.resample {
            None => usual.filter,
            Some(number) => Filter::numbered(number).ok_or_else(|| {
                let expected = "Pillow's number of a filter, 0 to 5";
                wrong("resample", expected, number.to_string())
            })?,
        };
        let resized = (file.do_resize != Some(false)).then_some((filter, size));
        let said = file.crop_size.filter(|size| !size.is_null());
        let (key, sides, fit) = if file.do_center_crop.unwrap_or(usual.crop.is_some()) {
            let crop = match &said {
                Some(value) => target(value, true),
                None => usual.crop.map(square),
            };
            let crop = crop.ok_or_else(|| {
                let expected = "a number, or a height and a width, of 1 to 4096";
                let found = said.map_or("nothing".to_owned(), |value| value.to_string());
                wrong("crop_size", expected, found)
            })?;
            ("crop_size", crop, Fit::Middle(resized))
        } else {
            let fit = resized.map_or(Fit::Given, |(filter, _)| Fit::Resized(filter));
            ("size", size, fit)
        };
        let ResizedTo::Sides { width, height } = sides else {
            let found = "a shortest_edge alone, with which images keep their shapes";
            return Err(wrong(key, "a height and a width", found.to_owned()));
        };
        let scale = match file.do_rescale {
            Some(false) => 1.0,
            _ => file.rescale_factor.unwrap_or(1.0 / 255.0),
        };
        let (mean, deviation) = match file.do_normalize {
            Some(false) => ([0.0; 3], [1.0; 3]),
            _ => (
                file.image_mean.unwrap_or(usual.mean),
                file.image_std.unwrap_or(usual.deviation),
            ),
        };
        if !deviation.iter().all(|&one| one > 0.0) {
            let found = format!("{deviation:?}");
            return Err(wrong("image_std", "three positive numbers", found));
        }
        Ok(Self {
            width,
            height,
            fit,
            scale,
            mean,
            deviation,
        })
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
        assert_eq!(large.fit, Fit::Resized(Filter::Bicubic));
        assert_eq!(large.scale, 1.0 / 255.0);
        assert_eq!(large.mean[1], 0.456);
        let deit = r#"{"feature_extractor_type": "DeiTFeatureExtractor", "size": 256,
            "crop_size": 224, "do_center_crop": true, "resample": 3}"#;
        let deit = parse(deit).unwrap();
        assert_eq!((deit.height, deit.width), (224, 224));
        let before = (Filter::Bicubic, square(256));
        assert_eq!(deit.fit, Fit::Middle(Some(before)));
        // The same without its settings, under the name of a later version.
        let bare = r#"{"image_processor_type": "DeiTImageProcessorFast", "size": null}"#;
        assert_eq!(parse(bare).unwrap(), deit);
    }

    #[test]
    fn what_is_not_understood_is_said() {
        let fault = |text: &str| parse(text).unwrap_err().to_string();
        assert!(
            fault(r#"{"resample": 6}"#)
                .contains("key resample: expected Pillow's number of a filter, 0 to 5, found 6")
        );
        for size in [
            "1000000",
            "0",
            "-3",
            "2.5",
            "[1, 2, 3]",
            "[224, 5000]",
            r#"{"height": 4}"#,
            r#"{"shortest_edge": 256, "longest_edge": 300}"#,
            r#""large""#,
        ] {
            let fault = fault(&format!(r#"{{"size": {size}}}"#));
            assert!(fault.contains("key size: expected a number, "), "{fault}");
            assert!(fault.contains("sides of 1 to 4096"), "{fault}");
        }
        let free = fault(r#"{"size": {"shortest_edge": 256}}"#);
        assert!(
            free.contains("key size: expected a height and a width"),
            "{free}"
        );
        let crop = fault(r#"{"do_center_crop": true}"#);
        assert!(
            crop.contains("key crop_size") && crop.ends_with("found nothing"),
            "{crop}"
        );
        let edge = fault(r#"{"do_center_crop": true, "crop_size": {"shortest_edge": 8}}"#);
        assert!(
            edge.contains("key crop_size: expected a height and a width"),
            "{edge}"
        );
        let other = r#""image_processor_type": "BeitImageProcessor""#;
        assert!(fault(&format!("{{{other}}}")).contains("key image_processor_type"));
        let whole = r#""size": {"height": 8, "width": 8}, "resample": 2,
            "image_mean": [0, 0, 0], "image_std": [1, 1, 1]"#;
        assert!(parse(&format!("{{{other}, {whole}}}")).is_ok());
        assert!(fault(r#"{"crop_pct": 0.875}"#).contains("crop_pct"));
        assert!(fault(r#"{"do_pad": true}"#).contains("do_pad"));
        assert!(fault(r#"{"image_std": [0, 1, 1]}"#).contains("positive"));
        assert!(fault("[").contains("settings of an image processor"));
    }
}
