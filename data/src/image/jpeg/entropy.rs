//! Huffman-coded data of JPEG: bits, codes and blocks of 64 coefficients.
//!
//! Source: ITU-T T.81, annexes C, F.2 and G.2.

/// Where the k-th coefficient of a block in zigzag order belongs, row after row.
#[rustfmt::skip]
pub(super) const ZIGZAG: [u8; 64] = [
     0,  1,  8, 16,  9,  2,  3, 10,
    17, 24, 32, 25, 18, 11,  4,  5,
    12, 19, 26, 33, 40, 48, 41, 34,
    27, 20, 13,  6,  7, 14, 21, 28,
    35, 42, 49, 56, 57, 50, 43, 36,
    29, 22, 15, 23, 30, 37, 44, 51,
    58, 59, 52, 45, 38, 31, 39, 46,
    53, 60, 61, 54, 47, 55, 62, 63,
];

/// What is wrong with the data.
pub(super) type Fault = &'static str;

const CUT: Fault = "a scan that ends before its last block";
const NO_CODE: Fault = "bits that are no Huffman code";
const TOO_FAR: Fault = "a coefficient after the 64th";

/// Codes up to this length are found at once.
const SHORT: u32 = 9;

/// The codes of one table.
#[derive(Clone)]
pub(super) struct Huffman {
    /// By the next bits: the length of the code and its symbol, or length 0.
    short: Vec<(u8, u8)>,
    /// By length: one more than the last code, left-aligned to 16 bits, and what to add to a code to
    /// find its symbol.
    ends: [u32; 17],
    shifts: [i32; 17],
    symbols: Vec<u8>,
}

impl Huffman {
    /// A table of `counts[n]` codes of length n + 1, whose symbols follow.
    pub(super) fn new(counts: &[u8], symbols: &[u8]) -> Result<Self, Fault> {
        let mut table = Self {
            short: vec![(0, 0); 1 << SHORT],
            ends: [0; 17],
            shifts: [0; 17],
            symbols: symbols.to_vec(),
        };
        let (mut code, mut first) = (0_u32, 0_usize);
        for (length, &count) in (1_u32..).zip(counts) {
            let count = usize::from(count);
            table.shifts[length as usize] = first as i32 - code as i32;
            for symbol in &symbols[first..first + count] {
                if code >> length != 0 {
                    return Err("a Huffman table with more codes than there are");
                }
                if length <= SHORT {
                    let spread = SHORT - length;
                    let start = (code << spread) as usize;
                    table.short[start..start + (1 << spread)].fill((length as u8, *symbol));
                }
                code += 1;
            }
            first += count;
            table.ends[length as usize] = code << (16 - length);
            code <<= 1;
        }
        Ok(table)
    }
}

/// The bits of one scan, up to a marker.
pub(super) struct Bits<'a> {
    data: &'a [u8],
    at: usize,
    /// The next bits, from the highest down.
    buffer: u64,
    count: u32,
}

impl<'a> Bits<'a> {
    pub(super) fn new(data: &'a [u8], at: usize) -> Self {
        Self {
            data,
            at,
            buffer: 0,
            count: 0,
        }
    }

    /// Where the data end: at a marker, unless they were not read to their end.
    pub(super) fn at(&self) -> usize {
        self.at
    }

    fn fill(&mut self) {
        while self.count <= 56 {
            let byte = match self.data.get(self.at..) {
                // A zero is put after this byte, so that it is no marker.
                Some([0xFF, 0, ..]) => {
                    self.at += 2;
                    0xFF
                }
                Some([0xFF, ..] | []) | None => return,
                Some([byte, ..]) => {
                    self.at += 1;
                    *byte
                }
            };
            self.buffer |= u64::from(byte) << (56 - self.count);
            self.count += 8;
        }
    }

    fn drop(&mut self, count: u32) -> Result<(), Fault> {
        if count > self.count {
            return Err(CUT);
        }
        self.buffer <<= count;
        self.count -= count;
        Ok(())
    }

    /// The next bits as a number.
    fn take(&mut self, count: u32) -> Result<i32, Fault> {
        if count == 0 {
            return Ok(0);
        }
        if self.count < count {
            self.fill();
        }
        let value = (self.buffer >> (64 - count)) as i32;
        self.drop(count)?;
        Ok(value)
    }

    /// A number of so many bits, of which the lower half stands for negative ones.
    fn signed(&mut self, count: u32) -> Result<i32, Fault> {
        let value = self.take(count)?;
        Ok(match count {
            0 => 0,
            _ if value < 1 << (count - 1) => value - (1 << count) + 1,
            _ => value,
        })
    }

    fn symbol(&mut self, table: &Huffman) -> Result<u8, Fault> {
        if self.count < 16 {
            self.fill();
        }
        let (length, symbol) = table.short[(self.buffer >> (64 - SHORT)) as usize];
        if length > 0 {
            self.drop(u32::from(length))?;
            return Ok(symbol);
        }
        let next = (self.buffer >> 48) as u32;
        for length in SHORT + 1..=16 {
            if next < table.ends[length as usize] {
                self.drop(length)?;
                let code = (next >> (16 - length)) as i32;
                let place = code + table.shifts[length as usize];
                let symbol = usize::try_from(place)
                    .ok()
                    .and_then(|place| table.symbols.get(place));
                return symbol.copied().ok_or(NO_CODE);
            }
        }
        Err(if self.count < 16 { CUT } else { NO_CODE })
    }

    /// Goes past a restart marker.
    pub(super) fn restart(&mut self) -> Result<(), Fault> {
        (self.buffer, self.count) = (0, 0);
        while let Some([0xFF, 0xFF]) = self.data.get(self.at..self.at + 2) {
            self.at += 1;
        }
        match self.data.get(self.at..self.at + 2) {
            Some([0xFF, 0xD0..=0xD7]) => {
                self.at += 2;
                Ok(())
            }
            _ => Err("no restart marker where one is due"),
        }
    }
}

/// What a scan codes: which coefficients, and which of their bits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Band {
    pub is_progressive: bool,
    pub first: usize,
    pub last: usize,
    /// Whether earlier scans gave the higher bits.
    pub is_refinement: bool,
    pub low_bit: u32,
}

/// What is carried from block to block until the next restart.
#[derive(Clone, Copy, Default)]
pub(super) struct State {
    /// The last first coefficient of each component of the scan.
    pub before: [i32; 4],
    /// Blocks still without further coefficients in this band.
    pub empty: u32,
}

impl Band {
    /// Reads a block of the component `of` of the scan.
    pub(super) fn block(
        self,
        bits: &mut Bits<'_>,
        tables: (Option<&Huffman>, Option<&Huffman>),
        state: &mut State,
        of: usize,
        block: &mut [i16; 64],
    ) -> Result<(), Fault> {
        let table = |table: Option<_>| table.ok_or("a scan without its Huffman table");
        if self.first == 0 {
            if self.is_refinement {
                block[0] |= (bits.take(1)? << self.low_bit) as i16;
            } else {
                let length = bits.symbol(table(tables.0)?)?;
                if length > 15 {
                    return Err("a difference of more than 15 bits");
                }
                let difference = bits.signed(u32::from(length))?;
                state.before[of] = state.before[of].wrapping_add(difference);
                block[0] = (state.before[of] << self.low_bit) as i16;
            }
        }
        if self.last == 0 {
            return Ok(());
        }
        let table = table(tables.1)?;
        match (self.is_progressive, self.is_refinement) {
            (false, _) => sequential(bits, table, block),
            (true, false) => self.first_bits(bits, table, &mut state.empty, block),
            (true, true) => self.next_bit(bits, table, &mut state.empty, block),
        }
    }

    fn first_bits(
        self,
        bits: &mut Bits<'_>,
        table: &Huffman,
        empty: &mut u32,
        block: &mut [i16; 64],
    ) -> Result<(), Fault> {
        if *empty > 0 {
            *empty -= 1;
            return Ok(());
        }
        let mut place = self.first;
        while place <= self.last {
            let symbol = bits.symbol(table)?;
            let (run, length) = (usize::from(symbol >> 4), u32::from(symbol & 15));
            match (run, length) {
                (15, 0) => place += 16,
                (_, 0) => {
                    *empty = (1 << run) - 1 + bits.take(run as u32)? as u32;
                    break;
                }
                _ => {
                    place += run;
                    if place > self.last {
                        return Err(TOO_FAR);
                    }
                    let value = bits.signed(length)? << self.low_bit;
                    block[usize::from(ZIGZAG[place])] = value as i16;
                    place += 1;
                }
            }
        }
        Ok(())
    }

    fn next_bit(
        self,
        bits: &mut Bits<'_>,
        table: &Huffman,
        empty: &mut u32,
        block: &mut [i16; 64],
    ) -> Result<(), Fault> {
        let one = 1_i16 << self.low_bit;
        // One more bit of a coefficient that is not zero.
        let refine = |bits: &mut Bits<'_>, value: &mut i16| -> Result<(), Fault> {
            if bits.take(1)? == 1 && *value & one == 0 {
                *value = value.wrapping_add(if *value >= 0 { one } else { -one });
            }
            Ok(())
        };
        let mut place = self.first;
        while *empty == 0 && place <= self.last {
            let symbol = bits.symbol(table)?;
            let (mut run, length) = (symbol >> 4, symbol & 15);
            let new = match (run, length) {
                (15, 0) => 0,
                (_, 0) => {
                    *empty = (1 << run) + bits.take(u32::from(run))? as u32;
                    break;
                }
                (_, 1) => match bits.take(1)? {
                    1 => one,
                    _ => -one,
                },
                _ => return Err("a new coefficient of more than one bit in a refinement"),
            };
            while place <= self.last {
                let value = &mut block[usize::from(ZIGZAG[place])];
                if *value != 0 {
                    refine(bits, value)?;
                } else if run == 0 {
                    break;
                } else {
                    run -= 1;
                }
                place += 1;
            }
            if new != 0 {
                if place > self.last {
                    return Err(TOO_FAR);
                }
                block[usize::from(ZIGZAG[place])] = new;
            }
            place += 1;
        }
        if *empty > 0 {
            for &place in ZIGZAG.get(place..=self.last).unwrap_or_default() {
                let value = &mut block[usize::from(place)];
                if *value != 0 {
                    refine(bits, value)?;
                }
            }
            *empty -= 1;
        }
        Ok(())
    }
}

/// All coefficients but the first.
fn sequential(bits: &mut Bits<'_>, table: &Huffman, block: &mut [i16; 64]) -> Result<(), Fault> {
    let mut place = 1;
    while place < 64 {
        let symbol = bits.symbol(table)?;
        let (run, length) = (usize::from(symbol >> 4), u32::from(symbol & 15));
        match (run, length) {
            (15, 0) => place += 16,
            (_, 0) => break,
            _ => {
                place += run;
                if place > 63 {
                    return Err(TOO_FAR);
                }
                block[usize::from(ZIGZAG[place])] = bits.signed(length)? as i16;
                place += 1;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_in_order_of_length() {
        // Codes 0; 10; 110; and one of ten bits, 1110000000.
        let mut counts = [0; 16];
        (counts[0], counts[1], counts[2], counts[9]) = (1, 1, 1, 1);
        let table = Huffman::new(&counts, &[7, 8, 9, 5]).unwrap();
        let data = [0b0101_1011, 0b1000_0000, 0b1111_0000, 0xFF, 0, 0xFF, 0xD9];
        let mut bits = Bits::new(&data, 0);
        let found: Vec<u8> = (0..4).map(|_| bits.symbol(&table).unwrap()).collect();
        assert_eq!(found, [7, 8, 9, 5]);
        assert_eq!(bits.take(5), Ok(0b11110));
        assert_eq!(bits.signed(3), Ok(-7));
        assert_eq!(bits.take(8), Ok(0xFF));
        assert_eq!(bits.take(1), Err(CUT));
        counts[0] = 3;
        assert!(Huffman::new(&counts, &[0; 6]).is_err());
    }
}
