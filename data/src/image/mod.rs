//! Images: red, green and blue in bytes.
//!
//! What the reference pipeline does with a file before it resizes: decode (JPEG by a decoder of our own
//! that agrees with libjpeg to the byte, a GIF's first frame as Pillow lays it out, other formats by the
//! `image` crate), turn as the EXIF tag says, convert to RGB (a grey value thrice, an alpha channel
//! dropped). Of TIFF and PNM only 8 bits a channel are read, as Pillow's conversions of others differ.

mod augment;
mod cifar;
mod files;
mod gif;
mod jpeg;
mod parquet;
mod processor;
mod processor_file;
mod resize;
mod set;

use std::fmt;
use std::io::Cursor;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use ::image::{
    DynamicImage, ExtendedColorType, ImageDecoder, ImageFormat, ImageReader, Limits, RgbImage,
};

use crate::Error;

pub use augment::{Augment, RandomCrop};
pub use processor::{Fit, ImageProcessor, ResizedTo};
pub use resize::Filter;
pub use set::{Cifar, ImageColumns, ImageSet};

/// More pixels are no training image: bounds the memory that a small file can ask for.
const MOST_PIXELS: u64 = 1 << 26;
/// Of one side, for the same reason.
const LONGEST_SIDE: u32 = 1 << 15;
/// Bytes that a decoder may take beside the pixels.
const MOST_DECODER: u64 = 1 << 29;

/// An RGB image, 8 bits a channel.
#[derive(Clone, PartialEq, Eq)]
pub struct Image {
    width: usize,
    height: usize,
    /// Row after row, the three channels of a pixel together.
    pixels: Vec<u8>,
}

impl Image {
    /// An image of `pixels`, row after row, the three channels of a pixel together.
    ///
    /// # Panics
    /// If there are not `3 · width · height` of them, or none.
    pub fn new(width: usize, height: usize, pixels: Vec<u8>) -> Self {
        assert!(width > 0 && height > 0, "an image has pixels");
        let expected = width.checked_mul(height).and_then(|n| n.checked_mul(3));
        assert_eq!(Some(pixels.len()), expected, "three bytes a pixel");
        Self {
            width,
            height,
            pixels,
        }
    }

    /// The columns.
    pub fn width(&self) -> usize {
        self.width
    }

    /// The rows.
    pub fn height(&self) -> usize {
        self.height
    }

    /// `3 · width · height` bytes, row after row, the three channels of a pixel together.
    pub fn pixels(&self) -> &[u8] {
        &self.pixels
    }

    /// Decodes JPEG, PNG, WebP, BMP, GIF (the first frame), TIFF (the first page) or PNM, whichever the
    /// first bytes say.
    ///
    /// # Errors
    /// [`Error::Format`] naming `origin` and `what` (a row, or `image`) if the bytes are no such
    /// image, damaged or cut, or if it has more than 2²⁶ pixels.
    pub fn decode(origin: &Path, what: &str, bytes: &[u8]) -> Result<Self, Error> {
        let wrong = |found: String| {
            let expected = "a whole JPEG, PNG, WebP, BMP, GIF, TIFF or PNM image";
            Error::format(origin, what, expected, found)
        };
        // Decoders of others are not relied upon to never panic.
        let decoded = catch_unwind(AssertUnwindSafe(|| -> Result<_, Error> {
            let mut reader = ImageReader::new(Cursor::new(bytes))
                .with_guessed_format()
                .map_err(|error| wrong(error.to_string()))?;
            if reader.format().is_none() {
                return Err(wrong(beginning(bytes)));
            }
            let format = reader.format();
            if format == Some(ImageFormat::Gif) {
                let (width, height, pixels) =
                    gif::decode(bytes, MOST_PIXELS, LONGEST_SIDE).map_err(&wrong)?;
                let image = RgbImage::from_raw(width, height, pixels);
                return image.ok_or_else(|| wrong("a damaged one".to_owned()));
            }
            let is_jpeg = format == Some(ImageFormat::Jpeg);
            let mut limits = Limits::default();
            limits.max_image_width = Some(LONGEST_SIDE);
            limits.max_image_height = Some(LONGEST_SIDE);
            limits.max_alloc = Some(MOST_DECODER);
            reader.limits(limits);
            let failed = |error: ::image::ImageError| wrong(error.to_string());
            let mut decoder = reader.into_decoder().map_err(failed)?;
            let (width, height) = decoder.dimensions();
            if width == 0 || height == 0 || u64::from(width) * u64::from(height) > MOST_PIXELS {
                let expected = format!("1 to {MOST_PIXELS} pixels");
                let found = format!("{width} × {height}");
                return Err(Error::format(origin, what, expected, found));
            }
            let given = decoder.original_color_type();
            let is_plain = matches!(
                given,
                ExtendedColorType::L1
                    | ExtendedColorType::L8
                    | ExtendedColorType::La8
                    | ExtendedColorType::Rgb8
                    | ExtendedColorType::Rgba8
            );
            if matches!(format, Some(ImageFormat::Tiff | ImageFormat::Pnm)) && !is_plain {
                let expected = "grey, RGB or RGBA values of 8 bits";
                return Err(Error::format(origin, what, expected, format!("{given:?}")));
            }
            let orientation = decoder.orientation().map_err(failed)?;
            let own = match is_jpeg {
                true => jpeg::decode(bytes, MOST_PIXELS as usize)
                    .map_err(|fault| wrong(fault.to_owned()))?,
                false => None,
            };
            let own = own.and_then(|(_, _, pixels)| RgbImage::from_raw(width, height, pixels));
            let mut image = match own {
                Some(image) => DynamicImage::from(image),
                None => DynamicImage::from_decoder(decoder).map_err(failed)?,
            };
            image.apply_orientation(orientation);
            Ok(image.into_rgb8())
        }));
        let image = decoded.unwrap_or_else(|_| Err(wrong("a damaged one".to_owned())))?;
        let (width, height) = (image.width() as usize, image.height() as usize);
        Ok(Self::new(width, height, image.into_raw()))
    }

    /// Decodes an image file.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be read; [`Error::Format`] as [`decode`](Self::decode), also where
    /// there is no such file.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let bytes = std::fs::read(path).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => Error::format(path, "image", "a file", "none"),
            _ => Error::io(path, "read")(error),
        })?;
        Self::decode(path, "image", &bytes)
    }

    /// The part `width` × `height` whose left upper corner is at (`left`, `top`).
    ///
    /// # Panics
    /// If it is empty or reaches beyond the image.
    #[must_use]
    pub fn crop(&self, left: usize, top: usize, width: usize, height: usize) -> Self {
        assert!(left + width <= self.width && top + height <= self.height);
        let rows = self.pixels.chunks_exact(3 * self.width).skip(top);
        let rows = rows.take(height);
        let pixels = rows.flat_map(|row| &row[3 * left..3 * (left + width)]);
        Self::new(width, height, pixels.copied().collect())
    }

    /// The middle `width` × `height` of the image, black where it is smaller. What is left over by an
    /// odd number is one more on the right and below; what is lacking, on the left and above.
    ///
    /// # Panics
    /// If `width` or `height` is 0.
    #[must_use]
    pub fn middle(&self, width: usize, height: usize) -> Self {
        // Where the middle begins in the image, and the image in the middle.
        let begins = |has: usize, asked: usize| {
            (
                has.saturating_sub(asked) / 2,
                asked.saturating_sub(has).div_ceil(2),
            )
        };
        let ((left, from), (top, above)) = (begins(self.width, width), begins(self.height, height));
        let mut pixels = vec![0; 3 * width * height];
        let rows = pixels.chunks_exact_mut(3 * width).skip(above);
        let known = self.pixels.chunks_exact(3 * self.width).skip(top);
        let bytes = 3 * width.min(self.width);
        for (row, known) in rows.zip(known) {
            row[3 * from..][..bytes].copy_from_slice(&known[3 * left..][..bytes]);
        }
        Self::new(width, height, pixels)
    }

    /// Left and right exchanged.
    #[must_use]
    pub fn flip(&self) -> Self {
        let mut pixels = Vec::with_capacity(self.pixels.len());
        for row in self.pixels.chunks_exact(3 * self.width) {
            row.rchunks_exact(3)
                .for_each(|pixel| pixels.extend_from_slice(pixel));
        }
        Self::new(self.width, self.height, pixels)
    }

    /// Resizes as Pillow does, to the byte: see [`Filter`].
    ///
    /// # Panics
    /// If `width` or `height` is 0.
    #[must_use]
    pub fn resize(&self, width: usize, height: usize, filter: Filter) -> Self {
        resize::resize(self, width, height, filter)
    }
}

/// Says the size, not every pixel.
impl fmt::Debug for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Image({} × {})", self.width, self.height)
    }
}

/// The first bytes of what is no image, readable.
fn beginning(bytes: &[u8]) -> String {
    match bytes {
        [] => "nothing".to_owned(),
        _ => format!(
            "{:?}…",
            bytes[..bytes.len().min(16)].escape_ascii().to_string()
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn decode(bytes: &[u8]) -> Result<Image, Error> {
        Image::decode(Path::new("i.png"), "image", bytes)
    }

    fn png(image: &Image) -> Vec<u8> {
        let mut bytes = Vec::new();
        let (width, height) = (image.width as u32, image.height as u32);
        let buffer = ::image::RgbImage::from_raw(width, height, image.pixels.clone()).unwrap();
        buffer
            .write_to(&mut Cursor::new(&mut bytes), ::image::ImageFormat::Png)
            .unwrap();
        bytes
    }

    #[test]
    fn flip_and_crop_move_whole_pixels() {
        let image = Image::new(3, 2, (0..18).collect());
        let flipped = image.flip();
        assert_eq!(flipped.pixels[..9], [6, 7, 8, 3, 4, 5, 0, 1, 2]);
        assert_eq!(flipped.flip(), image);
        let part = image.crop(1, 1, 2, 1);
        assert_eq!(part.pixels, [12, 13, 14, 15, 16, 17]);
    }

    #[test]
    fn what_is_no_image_is_said() {
        let fault = |bytes: &[u8]| decode(bytes).unwrap_err().to_string();
        assert!(fault(b"").contains("image: expected a whole JPEG"));
        assert!(fault(b"").ends_with("found nothing"));
        assert!(fault(b"<html>").contains("<html>"));
        let whole = png(&Image::new(5, 4, (0..60).collect()));
        assert_eq!(decode(&whole).unwrap().pixels.len(), 60);
        for end in 0..whole.len() - 12 {
            assert!(decode(&whole[..end]).is_err(), "cut at {end}");
        }
    }

    #[test]
    fn a_forged_size_is_refused_before_it_is_allocated() {
        // A PNG header that claims 2³¹ − 1 pixels a side, its check sum made right.
        let mut bytes = png(&Image::new(1, 1, vec![1, 2, 3]));
        bytes[16..24].copy_from_slice(&[0x7F, 0xFF, 0xFF, 0xFF, 0x7F, 0xFF, 0xFF, 0xFF]);
        let mut check = !0_u32;
        for byte in &bytes[12..29] {
            check ^= u32::from(*byte);
            for _ in 0..8 {
                check = (check >> 1) ^ (0xEDB8_8320 & (check & 1).wrapping_neg());
            }
        }
        bytes[29..33].copy_from_slice(&(!check).to_be_bytes());
        let fault = decode(&bytes).unwrap_err().to_string();
        assert!(
            fault.contains("limit") || fault.contains("pixels"),
            "{fault}"
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_decoded_or_refused(
            kind in 0_usize..7, bytes in prop::collection::vec(any::<u8>(), 0..300)
        ) {
            let magic: [&[u8]; 7] = [
                b"\xFF\xD8\xFF",
                b"\x89PNG\r\n\x1a\n",
                b"RIFF\0\0\0\x08WEBPVP8 ",
                b"BM",
                b"GIF89a\x05\0\x04\0\x80\0\0",
                b"II*\0\x08\0\0\0",
                b"P6 5 4 255\n",
            ];
            let _ = decode(&[magic[kind], &bytes].concat());
        }

        #[test]
        fn a_damaged_image_is_decoded_or_refused(at in 0_usize..200, to in any::<u8>()) {
            let mut bytes = png(&Image::new(7, 5, (0..105).collect()));
            let at = at % bytes.len();
            bytes[at] = to;
            let _ = decode(&bytes);
        }
    }
}
