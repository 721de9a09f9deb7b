//! A JPEG decoder whose pixels are those of libjpeg-turbo, which the reference decodes with.
//!
//! Other decoders differ from it by up to five units a channel, which is more than resizing may. Done
//! here: Huffman-coded images of 8 bits, sequential or progressive, grey, in luma and chroma or in RGB.
//! For anything else (four colours, arithmetic codes, 12 bits) [`decode`] says so, and the caller asks
//! another decoder.
//!
//! Source: ITU-T T.81, annex B; JFIF 1.02; Adobe's technical note 5116.

mod entropy;
mod samples;

use entropy::{Band, Bits, Fault, Huffman, State, ZIGZAG};
use samples::Plane;

/// More scans are no progressive image but an attack on the decoder's time.
const MOST_SCANS: usize = 200;

/// Width, height and pixels.
pub(super) type Rgb = (usize, usize, Vec<u8>);

/// Decodes an image of at most `most_pixels`, or says `None` if it is of a kind that is not done here.
pub(super) fn decode(data: &[u8], most_pixels: usize) -> Result<Option<Rgb>, Fault> {
    Decoder::default().run(data, most_pixels)
}

#[derive(Default)]
struct Decoder {
    /// Row after row.
    quants: [Option<[u16; 64]>; 4],
    first_tables: [Option<Huffman>; 4],
    other_tables: [Option<Huffman>; 4],
    restart_interval: usize,
    is_jfif: bool,
    /// The transform that Adobe's marker names.
    adobe: Option<u8>,
    frame: Option<Frame>,
}

struct Frame {
    width: usize,
    height: usize,
    is_progressive: bool,
    /// Units of blocks that scans of several components go by.
    units: (usize, usize),
    components: Vec<Component>,
}

struct Component {
    id: u8,
    across: usize,
    down: usize,
    quant: usize,
    /// Taken when its first scan begins.
    quants: Option<[u16; 64]>,
    /// Samples of the image.
    size: (usize, usize),
    /// Blocks in a row, filled up to whole units.
    stride: usize,
    blocks: Vec<[i16; 64]>,
}

impl Decoder {
    fn run(mut self, data: &[u8], most_pixels: usize) -> Result<Option<Rgb>, Fault> {
        let mut at = 2;
        let mut scans = 0;
        if !data.starts_with(&[0xFF, 0xD8]) {
            return Err("no start of an image");
        }
        loop {
            // Between segments there may be anything up to a marker.
            let skipped = data.get(at..).unwrap_or_default();
            let is_marker = |two: &[u8]| two[0] == 0xFF && !matches!(two[1], 0 | 0xFF);
            let Some(place) = skipped.windows(2).position(is_marker) else {
                return Err("no end of the image");
            };
            at += place + 2;
            let marker = data[at - 1];
            match marker {
                0xD9 => break,
                0x01 | 0xD0..=0xD8 => continue,
                _ => {}
            }
            let length = match data.get(at..at + 2) {
                Some(length) => usize::from(u16::from_be_bytes([length[0], length[1]])),
                None => return Err("a marker without its segment"),
            };
            let segment = data.get(at + 2..at + length.max(2));
            let segment = segment.ok_or("a segment that is cut")?;
            at += length.max(2);
            match marker {
                0xC4 => self.huffman_tables(segment)?,
                0xDB => self.quant_tables(segment)?,
                0xDD => match segment {
                    [high, low, ..] => {
                        self.restart_interval = usize::from(u16::from_be_bytes([*high, *low]));
                    }
                    _ => return Err("a restart interval of less than two bytes"),
                },
                0xE0 => self.is_jfif |= segment.starts_with(b"JFIF\0"),
                0xEE if segment.starts_with(b"Adobe") => self.adobe = segment.get(11).copied(),
                0xC0..=0xC2 if self.frame.is_none() => {
                    match Frame::new(segment, marker == 0xC2, most_pixels)? {
                        Some(frame) => self.frame = Some(frame),
                        None => return Ok(None),
                    }
                }
                0xC0..=0xC2 => return Err("a second frame"),
                // Lossless, hierarchical or arithmetic.
                0xC3 | 0xC5..=0xC7 | 0xC9..=0xCF => return Ok(None),
                0xDA => {
                    scans += 1;
                    if scans > MOST_SCANS {
                        return Err("more than 200 scans");
                    }
                    at = self.scan(segment, data, at)?;
                }
                _ => {}
            }
        }
        self.finish()
    }

    fn huffman_tables(&mut self, mut segment: &[u8]) -> Result<(), Fault> {
        while let Some((&kind, rest)) = segment.split_first() {
            let cut = "a Huffman table that is cut";
            let (counts, rest) = rest.split_at_checked(16).ok_or(cut)?;
            let total = counts.iter().map(|&count| usize::from(count)).sum();
            let (symbols, rest) = rest.split_at_checked(total).ok_or(cut)?;
            let tables = match kind >> 4 {
                0 => &mut self.first_tables,
                1 => &mut self.other_tables,
                _ => return Err("a Huffman table of a class that there is not"),
            };
            let place = tables.get_mut(usize::from(kind & 15));
            *place.ok_or("a Huffman table above the fourth")? =
                Some(Huffman::new(counts, symbols)?);
            segment = rest;
        }
        Ok(())
    }

    fn quant_tables(&mut self, mut segment: &[u8]) -> Result<(), Fault> {
        while let Some((&kind, rest)) = segment.split_first() {
            let bytes = if kind >> 4 == 0 { 1 } else { 2 };
            let values = rest.split_at_checked(64 * bytes);
            let (values, rest) = values.ok_or("a quantisation table that is cut")?;
            let mut table = [0; 64];
            for (&place, value) in ZIGZAG.iter().zip(values.chunks_exact(bytes)) {
                let value = value
                    .iter()
                    .fold(0, |sum, &byte| sum << 8 | u16::from(byte));
                table[usize::from(place)] = value;
            }
            let place = self.quants.get_mut(usize::from(kind & 15));
            *place.ok_or("a quantisation table above the fourth")? = Some(table);
            segment = rest;
        }
        Ok(())
    }

    /// Reads a scan, which begins `at` this byte; where it ends.
    fn scan(&mut self, header: &[u8], data: &[u8], at: usize) -> Result<usize, Fault> {
        let frame = self.frame.as_mut().ok_or("a scan before its frame")?;
        let cut = "a scan whose header is cut";
        let (&count, rest) = header.split_first().ok_or(cut)?;
        let count = usize::from(count);
        let (chosen, rest) = rest.split_at_checked(2 * count).ok_or(cut)?;
        let [first, last, bits] = *rest.first_chunk::<3>().ok_or(cut)?;
        let band = Band {
            is_progressive: frame.is_progressive,
            first: usize::from(first),
            last: usize::from(last),
            is_refinement: frame.is_progressive && bits >> 4 != 0,
            low_bit: if frame.is_progressive {
                u32::from(bits & 15)
            } else {
                0
            },
        };
        let band = match frame.is_progressive {
            true => band,
            false => Band {
                first: 0,
                last: 63,
                ..band
            },
        };
        let is_possible = match (band.is_progressive, band.first) {
            (false, _) => true,
            (true, 0) => band.last == 0,
            (true, first) => first <= band.last && band.last < 64 && count == 1,
        };
        if !is_possible || band.low_bit > 13 {
            return Err("a scan of coefficients that there are not");
        }
        let mut members: Vec<(usize, Option<&Huffman>, Option<&Huffman>)> = Vec::new();
        for pair in chosen.chunks_exact(2) {
            let index = frame
                .components
                .iter()
                .position(|component| component.id == pair[0]);
            let index = index.ok_or("a scan of a component that there is not")?;
            if members.iter().any(|&(member, ..)| member == index) {
                return Err("a scan with a component twice");
            }
            let component = &mut frame.components[index];
            if component.quants.is_none() {
                let table = self.quants[component.quant];
                component.quants = Some(table.ok_or("a component without its quantisation table")?);
            }
            let [first, other] = [pair[1] >> 4, pair[1] & 15].map(usize::from);
            let first = self.first_tables.get(first).and_then(Option::as_ref);
            let other = self.other_tables.get(other).and_then(Option::as_ref);
            members.push((index, first, other));
        }
        if members.is_empty() || members.len() > 4 {
            return Err("a scan of one to four components");
        }
        let mut bits = Bits::new(data, at);
        let mut state = State::default();
        let (wide, high) = match members[..] {
            [(index, ..)] => {
                let (width, height) = frame.components[index].size;
                (width.div_ceil(8), height.div_ceil(8))
            }
            _ => frame.units,
        };
        for unit in 0..wide * high {
            if self.restart_interval > 0 && unit > 0 && unit % self.restart_interval == 0 {
                bits.restart()?;
                state = State::default();
            }
            let (column, row) = (unit % wide, unit / wide);
            for (of, &(index, first, other)) in members.iter().enumerate() {
                let component = &mut frame.components[index];
                let (across, down) = match members.len() {
                    1 => (1, 1),
                    _ => (component.across, component.down),
                };
                for block in 0..across * down {
                    let x = column * across + block % across;
                    let y = row * down + block / across;
                    let block = &mut component.blocks[y * component.stride + x];
                    band.block(&mut bits, (first, other), &mut state, of, block)?;
                }
            }
        }
        Ok(bits.at())
    }

    fn finish(self) -> Result<Option<Rgb>, Fault> {
        let frame = self.frame.ok_or("no frame")?;
        let ids: Vec<u8> = frame
            .components
            .iter()
            .map(|component| component.id)
            .collect();
        let is_rgb = match (self.is_jfif, self.adobe) {
            (true, _) => false,
            (false, Some(transform)) => transform == 0,
            (false, None) => ids == *b"RGB",
        };
        let most = |side: fn(&Component) -> usize| frame.components.iter().map(side).max();
        let most = most(|one| one.across).zip(most(|one| one.down));
        let (most_across, most_down) = most.ok_or("no components")?;
        let planes: Option<Vec<Plane>> = frame
            .components
            .iter()
            .map(|component| {
                let quants = component.quants.as_ref()?;
                Some(component.plane(
                    quants,
                    (most_across / component.across, most_down / component.down),
                ))
            })
            .collect();
        let planes = planes.ok_or("a component without a scan")?;
        let mut pixels = Vec::with_capacity(3 * frame.width * frame.height);
        let mut rows: Vec<Vec<u8>> = vec![Vec::new(); planes.len()];
        for row in 0..frame.height {
            for (plane, out) in planes.iter().zip(&mut rows) {
                plane.upsampled(row, out);
            }
            match &rows[..] {
                [grey] => pixels.extend(grey[..frame.width].iter().flat_map(|&one| [one; 3])),
                [one, two, three] => {
                    for ((&one, &two), &three) in one.iter().zip(two).zip(three).take(frame.width) {
                        pixels.extend(match is_rgb {
                            true => [one, two, three],
                            false => samples::colour(one, two, three),
                        });
                    }
                }
                _ => return Ok(None),
            }
        }
        Ok(Some((frame.width, frame.height, pixels)))
    }
}

impl Frame {
    /// `None` for kinds that are not done here.
    fn new(
        segment: &[u8],
        is_progressive: bool,
        most_pixels: usize,
    ) -> Result<Option<Self>, Fault> {
        let cut = "a frame whose header is cut";
        let (header, rest) = segment.split_first_chunk::<6>().ok_or(cut)?;
        let [precision, sizes @ .., count] = *header;
        let [height, width] = [[sizes[0], sizes[1]], [sizes[2], sizes[3]]]
            .map(|side| usize::from(u16::from_be_bytes(side)));
        if precision != 8 || height == 0 || !matches!(count, 1 | 3) {
            return Ok(None);
        }
        if width == 0 || width * height > most_pixels {
            return Err("a frame of no pixels, or too many");
        }
        let described = rest.get(..3 * usize::from(count)).ok_or(cut)?;
        let factors = described
            .chunks_exact(3)
            .map(|one| (one[1] >> 4, one[1] & 15));
        if factors
            .clone()
            .any(|(across, down)| !(1..=4).contains(&across) || !(1..=4).contains(&down))
        {
            return Err("sampling factors of 1 to 4");
        }
        let most_across = factors.clone().map(|(across, _)| usize::from(across)).max();
        let most_down = factors.map(|(_, down)| usize::from(down)).max();
        let (most_across, most_down) = most_across.zip(most_down).ok_or(cut)?;
        let units = (
            width.div_ceil(8 * most_across),
            height.div_ceil(8 * most_down),
        );
        let mut components = Vec::new();
        for one in described.chunks_exact(3) {
            let [across, down] = [one[1] >> 4, one[1] & 15].map(usize::from);
            if most_across % across != 0 || most_down % down != 0 {
                return Ok(None);
            }
            if one[2] > 3 {
                return Err("a quantisation table above the fourth");
            }
            let stride = units.0 * across;
            components.push(Component {
                id: one[0],
                across,
                down,
                quant: usize::from(one[2]),
                quants: None,
                size: (
                    (width * across).div_ceil(most_across),
                    (height * down).div_ceil(most_down),
                ),
                stride,
                blocks: vec![[0; 64]; stride * units.1 * down],
            });
        }
        Ok(Some(Self {
            width,
            height,
            is_progressive,
            units,
            components,
        }))
    }
}

impl Component {
    fn plane(&self, quants: &[u16; 64], scale: (usize, usize)) -> Plane {
        let stride = 8 * self.stride;
        let mut samples = vec![0; 64 * self.blocks.len()];
        let rows = samples.chunks_exact_mut(8 * stride);
        for (row, blocks) in rows.zip(self.blocks.chunks_exact(self.stride)) {
            for (column, block) in blocks.iter().enumerate() {
                samples::inverse(block, quants, &mut row[8 * column..], stride);
            }
        }
        Plane {
            samples,
            stride,
            width: self.size.0,
            height: self.size.1,
            scale,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SEQUENTIAL: &[u8] = include_bytes!("../../../tests/fixtures/images/restart.jpg");
    const PROGRESSIVE: &[u8] =
        include_bytes!("../../../tests/fixtures/images/noise-progressive.jpg");

    #[test]
    fn what_is_not_done_here_is_left_to_others() {
        let cmyk = include_bytes!("../../../tests/fixtures/images/cmyk.jpg");
        assert!(decode(cmyk, 1 << 20).unwrap().is_none());
        assert_eq!(
            decode(SEQUENTIAL, 2744),
            Err("a frame of no pixels, or too many")
        );
        assert!(decode(SEQUENTIAL, 2745).unwrap().is_some());
    }

    #[test]
    fn a_cut_image_is_refused() {
        for file in [SEQUENTIAL, PROGRESSIVE] {
            for end in 0..file.len() - 1 {
                assert!(decode(&file[..end], 1 << 20).is_err(), "cut at {end}");
            }
        }
    }

    proptest! {
        /// Called without the net that catches panics.
        #[test]
        fn a_damaged_image_is_decoded_or_refused(
            progressive: bool, changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)
        ) {
            let mut file = if progressive { PROGRESSIVE } else { SEQUENTIAL }.to_vec();
            for (at, to) in changes {
                let at = at.index(file.len());
                file[at] = to;
            }
            let _ = decode(&file, 1 << 16);
        }
    }
}
