//! Losses, each with its gradient, in one pass.
//!
//! A loss is a sum over the items of a part of a batch, divided by the number of items of the whole
//! batch (`items`), so that parts can be added up.

use candle_core::{DType, Result, Tensor};

use super::host::{self, Real, by_real};
use super::rows::Lengths;

/// What the outputs should have been.
#[derive(Debug, Clone)]
pub(crate) enum Targets {
    /// One class a row.
    Classes(Vec<u32>),
    /// One number a row (regression by squared error).
    Values(Vec<f32>),
    /// First and last token of an answer, as positions in the row's own sequence; logits are
    /// tokens × 2 and every sequence is an item.
    Spans(Vec<(u32, u32)>),
    /// The class of every row, where there is one (next tokens).
    Tokens(Vec<Option<u32>>),
}

impl Targets {
    /// Items that a loss averages over.
    pub fn count(&self) -> usize {
        match self {
            Self::Classes(classes) => classes.len(),
            Self::Values(values) => values.len(),
            Self::Spans(spans) => spans.len(),
            Self::Tokens(tokens) => tokens.iter().flatten().count(),
        }
    }
}

/// A loss over a part of a batch, and ∂(loss)/∂(outputs).
pub(crate) struct Loss {
    /// Σ over the part's items, divided by `items`.
    pub value: f64,
    pub gradient: Tensor,
}

/// The loss of `outputs` (rows × width) over a part of a batch of `items` items.
///
/// # Errors
/// If the numbers of rows and targets differ, or a class or place is none of the outputs'.
pub(crate) fn loss(
    outputs: &Tensor,
    targets: &Targets,
    lengths: &Lengths,
    items: usize,
) -> Result<Loss> {
    let (rows, _) = outputs.dims2()?;
    let given = match targets {
        Targets::Classes(classes) => classes.len(),
        Targets::Values(values) => values.len(),
        Targets::Tokens(tokens) => tokens.len(),
        Targets::Spans(spans) => {
            if spans.len() == lengths.count() {
                lengths.rows()
            } else {
                spans.len()
            }
        }
    };
    if given != rows {
        candle_core::bail!("loss: {rows} rows of outputs, {given} targets");
    }
    let share = 1.0 / items.max(1) as f64;
    match targets {
        Targets::Classes(classes) => {
            let classes: Vec<_> = classes.iter().copied().map(Some).collect();
            cross_entropy(outputs, &classes, share)
        }
        Targets::Tokens(tokens) => cross_entropy(outputs, tokens, share),
        Targets::Values(values) => {
            let (value, gradient) = squared_error(&numbers(outputs)?, values, share);
            finish(value, gradient, outputs)
        }
        Targets::Spans(spans) => {
            let (value, gradient) = span_entropy(&numbers(outputs)?, spans, lengths, share / 2.0)?;
            finish(value, gradient, outputs)
        }
    }
}

fn numbers(outputs: &Tensor) -> Result<Vec<f64>> {
    outputs.flatten_all()?.to_dtype(DType::F64)?.to_vec1()
}

fn finish(value: f64, gradient: Vec<f64>, outputs: &Tensor) -> Result<Loss> {
    let gradient = Tensor::from_vec(gradient, outputs.dims(), outputs.device())?;
    Ok(Loss {
        value,
        gradient: gradient.to_dtype(outputs.dtype())?,
    })
}

/// −Σ share·log softmax(row)\[class\] over the rows that have a class. Logits of a language model
/// are the largest numbers of a step, so no wider copy of them is made.
fn cross_entropy(outputs: &Tensor, classes: &[Option<u32>], share: f64) -> Result<Loss> {
    let width = outputs.dim(1)?;
    if let Some(class) = classes
        .iter()
        .flatten()
        .find(|class| **class as usize >= width)
    {
        candle_core::bail!("loss: expected classes below {width}, found {class}");
    }
    if !host::is_host(outputs) {
        return cross_entropy_elsewhere(outputs, classes, share);
    }
    let outputs = outputs.contiguous()?;
    by_real!(outputs, |T| {
        let (value, gradient) =
            host::read::<T, _>(&outputs, |logits| entropies(logits, width, classes, share))?;
        let gradient = host::tensor(gradient, outputs.dims())?;
        Ok(Loss { value, gradient })
    })
}

fn cross_entropy_elsewhere(outputs: &Tensor, classes: &[Option<u32>], share: f64) -> Result<Loss> {
    let dtype = host::wide(outputs.dtype());
    let wide = outputs.to_dtype(dtype)?;
    let shifted = wide.broadcast_sub(&wide.max_keepdim(1)?)?;
    let exponentials = shifted.exp()?;
    let sums = exponentials.sum_keepdim(1)?;
    let rows = classes.len();
    let (mut places, mut shares) = (Vec::with_capacity(rows), Vec::with_capacity(rows));
    for class in classes {
        places.push(class.unwrap_or(0));
        shares.push(if class.is_some() { share } else { 0.0 });
    }
    let places = Tensor::from_vec(places, (rows, 1), outputs.device())?;
    let shares = Tensor::from_vec(shares, (rows, 1), outputs.device())?.to_dtype(dtype)?;
    let entropies = (sums.log()? - shifted.gather(&places, 1)?)?;
    let value = (entropies * &shares)?.to_dtype(DType::F64)?.sum_all()?;
    let gradient = exponentials.broadcast_mul(&(&shares / sums)?)?;
    let gradient = gradient.scatter_add(&places, &shares.neg()?, 1)?;
    Ok(Loss {
        value: value.to_scalar()?,
        gradient: gradient.to_dtype(outputs.dtype())?,
    })
}

/// [`cross_entropy`] of rows of `width` numbers.
fn entropies<T: Real>(
    logits: &[T],
    width: usize,
    classes: &[Option<u32>],
    share: f64,
) -> (f64, Vec<T>) {
    let mut value = 0.0;
    let mut gradient = vec![T::zero(); logits.len()];
    pulp::Arch::new().dispatch(
        #[inline(always)]
        || {
            let rows = logits.chunks_exact(width);
            let rows = rows.zip(gradient.chunks_exact_mut(width));
            for ((row, gradient), class) in rows.zip(classes) {
                let Some(class) = class.map(|class| class as usize) else {
                    continue;
                };
                gradient.copy_from_slice(row);
                let (maximum, sum) = host::exponentials(gradient);
                let log = sum.to_f64().ln() + maximum.to_f64();
                value += share * (log - row[class].to_f64());
                let factor = T::from_f64(share) / sum;
                for gradient in gradient.iter_mut() {
                    *gradient *= factor;
                }
                gradient[class] -= T::from_f64(share);
            }
        },
    );
    (value, gradient)
}

/// The cross-entropies of an answer's first and last token over the tokens of its sequence: the two
/// columns of `logits`.
fn span_entropy(
    logits: &[f64],
    spans: &[(u32, u32)],
    lengths: &Lengths,
    share: f64,
) -> Result<(f64, Vec<f64>)> {
    let mut value = 0.0;
    let mut gradient = vec![0.0; logits.len()];
    for ((start, length), (first, last)) in lengths.iter().zip(spans) {
        for (column, place) in [*first, *last].into_iter().enumerate() {
            if place as usize >= length {
                candle_core::bail!("loss: expected places below {length}, found {place}");
            }
            let at = |token: usize| 2 * (start + token) + column;
            let row: Vec<_> = (0..length).map(|token| logits[at(token)]).collect();
            let (loss, parts) = entropies(&row, length, &[Some(place)], share);
            value += loss;
            for (token, part) in parts.into_iter().enumerate() {
                gradient[at(token)] = part;
            }
        }
    }
    Ok((value, gradient))
}

/// Σ share·(output − target)².
fn squared_error(outputs: &[f64], targets: &[f32], share: f64) -> (f64, Vec<f64>) {
    let differences = outputs
        .iter()
        .zip(targets)
        .map(|(output, target)| output - f64::from(*target));
    let gradient: Vec<_> = differences
        .map(|difference| 2.0 * share * difference)
        .collect();
    let value = gradient
        .iter()
        .map(|half| half * half / (4.0 * share))
        .sum();
    (value, gradient)
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::draw::normal;

    /// The loops of the CPU against the tensor operations of other devices, and both against
    /// −ln softmax by hand.
    #[test]
    fn cross_entropies_agree_with_each_other_and_the_definition() {
        let (rows, width) = (3, 37);
        let values = normal(5, "logits", rows * width, 3.0);
        let outputs = Tensor::from_slice(&values, (rows, width), &Device::Cpu).unwrap();
        let outputs = outputs.to_dtype(DType::F32).unwrap();
        let classes = [Some(36), None, Some(0)];
        let here = cross_entropy(&outputs, &classes, 0.5).unwrap();
        let elsewhere = cross_entropy_elsewhere(&outputs, &classes, 0.5).unwrap();
        let by_hand: f64 = [(0, 36), (2, 0)]
            .into_iter()
            .map(|(row, class)| {
                let row = &values[row * width..(row + 1) * width];
                let sum: f64 = row.iter().map(|value| value.exp()).sum();
                0.5 * (sum.ln() - row[class])
            })
            .sum();
        // Float32 sums of some tens of numbers.
        assert!((here.value - by_hand).abs() < 1e-5);
        assert!((elsewhere.value - by_hand).abs() < 1e-5);
        let flat = |x: Tensor| x.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let (here, elsewhere) = (flat(here.gradient), flat(elsewhere.gradient));
        for (here, elsewhere) in here.iter().zip(&elsewhere) {
            assert!((here - elsewhere).abs() < 1e-6);
        }
        assert!(here[width..2 * width].iter().all(|value| *value == 0.0));
        for row in [0, 2] {
            let sum: f32 = here[row * width..(row + 1) * width].iter().sum();
            assert!(sum.abs() < 1e-6);
        }
    }

    #[test]
    fn targets_that_the_outputs_do_not_have_are_refused() {
        let outputs = Tensor::zeros((2, 3), DType::F32, &Device::Cpu).unwrap();
        let lengths = Lengths::new([2]);
        for targets in [
            Targets::Classes(vec![0, 3]),
            Targets::Tokens(vec![None, Some(7)]),
            Targets::Classes(vec![0]),
        ] {
            assert!(loss(&outputs, &targets, &lengths, 2).is_err());
        }
        let outputs = Tensor::zeros((2, 2), DType::F32, &Device::Cpu).unwrap();
        assert!(loss(&outputs, &Targets::Spans(vec![(0, 2)]), &lengths, 1).is_err());
    }
}
