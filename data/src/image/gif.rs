//! The first frame of a GIF, as Pillow converts it to RGB.
//!
//! A frame that does not cover the screen lies on the colour that the file calls transparent, else on
//! the first of the palette; transparent pixels keep their colour. A frame that reaches beyond the
//! screen enlarges it. An index beyond the palette is black; without a palette it is a grey of that
//! value.

use std::num::NonZeroU64;

use ::gif::{ColorOutput, DecodeOptions, MemoryLimit};

/// Width, height and bytes, three a pixel.
pub(super) type Decoded = (u32, u32, Vec<u8>);

/// Decodes the first frame, of at most `most` pixels with sides of at most `longest`; else says what
/// was found.
pub(super) fn decode(bytes: &[u8], most: u64, longest: u32) -> Result<Decoded, String> {
    let mut options = DecodeOptions::new();
    options.set_color_output(ColorOutput::Indexed);
    options
        .set_memory_limit(NonZeroU64::new(most).map_or(MemoryLimit::Unlimited, MemoryLimit::Bytes));
    let said = |error: ::gif::DecodingError| error.to_string();
    let mut decoder = options.read_info(bytes).map_err(said)?;
    let screen = [decoder.width(), decoder.height()].map(u32::from);
    let global = decoder.global_palette().map(<[u8]>::to_vec);
    let Some(frame) = decoder.read_next_frame().map_err(said)? else {
        return Err("no frame".to_owned());
    };
    let (left, top) = (u32::from(frame.left), u32::from(frame.top));
    let (columns, rows) = (u32::from(frame.width), u32::from(frame.height));
    let (width, height) = (screen[0].max(left + columns), screen[1].max(top + rows));
    if width == 0 || height == 0 || width.max(height) > longest {
        return Err(format!("{width} × {height} pixels"));
    }
    if u64::from(width) * u64::from(height) > most {
        return Err(format!(
            "{width} × {height} pixels, above the limit of {most}"
        ));
    }
    let palette = frame
        .palette
        .as_deref()
        .or(global.as_deref())
        .unwrap_or_default();
    let colour = |index: u8| {
        let at = 3 * usize::from(index);
        let known = palette.get(at..at + 3);
        match known {
            Some(known) => [known[0], known[1], known[2]],
            None if palette.is_empty() => [index; 3],
            None => [0; 3],
        }
    };
    let ground = colour(frame.transparent.unwrap_or(0));
    let mut pixels = ground.repeat(width as usize * height as usize);
    let places = pixels
        .chunks_exact_mut(3 * width as usize)
        .skip(top as usize);
    for (place, indices) in places.zip(frame.buffer.chunks_exact(columns.max(1) as usize)) {
        let place = place[3 * left as usize..].chunks_exact_mut(3);
        for (pixel, index) in place.zip(indices) {
            pixel.copy_from_slice(&colour(*index));
        }
    }
    Ok((width, height, pixels))
}
