//! Packed rows: where sequences begin, and values gathered from rows of others.

use candle_core::{Result, Tensor};

use super::tape::{Tape, Var};

/// Where the sequences of a packed batch begin and end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Lengths {
    /// Row of every sequence's first token, and the number of rows.
    starts: Vec<usize>,
}

impl Lengths {
    /// Of sequences of these lengths, one below the other.
    pub fn new(lengths: impl IntoIterator<Item = usize>) -> Self {
        let mut starts = vec![0];
        let mut end = 0;
        for length in lengths {
            end += length;
            starts.push(end);
        }
        Self { starts }
    }

    /// Number of sequences.
    pub fn count(&self) -> usize {
        self.starts.len() - 1
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.starts[self.count()]
    }

    /// First row and length of every sequence.
    pub fn iter(&self) -> impl Iterator<Item = (usize, usize)> + '_ {
        self.starts
            .windows(2)
            .map(|pair| (pair[0], pair[1] - pair[0]))
    }

    /// Every token's place in its sequence, from 0.
    pub fn places(&self) -> Vec<u32> {
        self.iter()
            .flat_map(|(_, length)| 0..length as u32)
            .collect()
    }

    /// The rows of the sequences' first tokens.
    pub fn firsts(&self) -> Vec<u32> {
        self.iter().map(|(start, _)| start as u32).collect()
    }

    /// The rows of the sequences' last tokens.
    pub fn lasts(&self) -> Vec<u32> {
        self.iter()
            .map(|(start, length)| (start + length - 1) as u32)
            .collect()
    }
}

impl Tape<'_> {
    /// The rows `indices` of `x`.
    pub fn gather(&self, x: &Var, indices: &[u32]) -> Result<Var> {
        let input = x.value.contiguous()?;
        let indices = Tensor::new(indices, input.device())?;
        let value = input.index_select(&indices, 0)?;
        if !self.wants([x], false) {
            return Ok(Var::constant(value));
        }
        let (shape, x) = (input.dims().to_vec(), x.clone());
        Ok(self.record(value, move |dy, gradients| {
            let zeros = Tensor::zeros(shape, dy.dtype(), dy.device())?;
            gradients.add(&x, zeros.index_add(&indices, &dy.contiguous()?, 0)?)
        }))
    }

    /// x + y.
    pub fn add(&self, x: &Var, y: &Var) -> Result<Var> {
        let value = (&x.value + &y.value)?;
        if !self.wants([x, y], false) {
            return Ok(Var::constant(value));
        }
        let (x, y) = (x.clone(), y.clone());
        Ok(self.record(value, move |dy, gradients| {
            gradients.add(&x, dy.clone())?;
            gradients.add(&y, dy)
        }))
    }

    /// Puts one row (a class token) before every sequence's rows of `x`.
    pub fn prepend(&self, row: &Var, x: &Var, lengths: &Lengths) -> Result<Var> {
        let both = self.stack(row, x)?;
        let order: Vec<u32> = lengths
            .iter()
            .flat_map(|(start, length)| {
                std::iter::once(0).chain((start + 1..=start + length).map(|row| row as u32))
            })
            .collect();
        self.gather(&both, &order)
    }

    /// The rows of `x`, then those of `y`.
    fn stack(&self, x: &Var, y: &Var) -> Result<Var> {
        let value = Tensor::cat(&[&x.value, &y.value], 0)?;
        if !self.wants([x, y], false) {
            return Ok(Var::constant(value));
        }
        let (x, y) = (x.clone(), y.clone());
        let (first, second) = (x.value.dim(0)?, y.value.dim(0)?);
        Ok(self.record(value, move |dy, gradients| {
            gradients.add(&x, dy.narrow(0, 0, first)?)?;
            gradients.add(&y, dy.narrow(0, first, second)?)
        }))
    }

    /// The columns `start..start + width` of `x`: what tests take packed projections apart with.
    #[cfg(test)]
    pub fn columns(&self, x: &Var, start: usize, width: usize) -> Result<Var> {
        let value = x.value.narrow(1, start, width)?;
        if !self.wants([x], false) {
            return Ok(Var::constant(value));
        }
        let x = x.clone();
        let all = x.value.dim(1)?;
        Ok(self.record(value, move |dy, gradients| {
            gradients.add(&x, dy.pad_with_zeros(1, start, all - start - width)?)
        }))
    }

    /// Every row of `x` (tokens × width) with its neighbours in the same sequence, zero where there
    /// is none: tokens × width·`count`, column c·`count` + t from column c of the row t − ⌊count/2⌋
    /// further down, the order of a convolution's weight.
    pub fn neighbours(&self, x: &Var, lengths: &Lengths, count: usize) -> Result<Var> {
        let (rows, width) = x.value.dims2()?;
        let before = count / 2;
        let indices: Vec<u32> = lengths
            .iter()
            .flat_map(|(start, length)| {
                (0..length).flat_map(move |token| {
                    (token..token + count).map(move |at| match at.checked_sub(before) {
                        Some(at) if at < length => (start + at) as u32,
                        // The row of zeros below all others.
                        _ => rows as u32,
                    })
                })
            })
            .collect();
        let zeros = Var::constant(Tensor::zeros(
            (1, width),
            x.value.dtype(),
            x.value.device(),
        )?);
        let near = self.gather(&self.stack(x, &zeros)?, &indices)?;
        let value = near.value.reshape((rows, count, width))?.transpose(1, 2)?;
        let value = value.reshape((rows, width * count))?;
        if !self.wants([&near], false) {
            return Ok(Var::constant(value));
        }
        Ok(self.record(value, move |dy, gradients| {
            let dy = dy.reshape((rows, width, count))?.transpose(1, 2)?;
            gradients.add(&near, dy.reshape((rows * count, width))?)
        }))
    }
}
