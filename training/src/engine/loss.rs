//! Losses, each with its gradient, in one pass.
//!
//! A loss is a sum over the items of a part of a batch, divided by the number of items of the whole
//! batch (`items`), so that parts can be added up.

use candle_core::{DType, Result, Tensor};

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
/// If the numbers of rows and targets differ.
pub(crate) fn loss(
    outputs: &Tensor,
    targets: &Targets,
    lengths: &Lengths,
    items: usize,
) -> Result<Loss> {
    let (rows, width) = outputs.dims2()?;
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
    let numbers = outputs
        .flatten_all()?
        .to_dtype(DType::F64)?
        .to_vec1::<f64>()?;
    let share = 1.0 / items.max(1) as f64;
    let (value, gradient) = match targets {
        Targets::Classes(classes) => {
            let classes = classes.iter().copied().map(Some);
            cross_entropy(&numbers, width, classes, share)
        }
        Targets::Tokens(tokens) => cross_entropy(&numbers, width, tokens.iter().copied(), share),
        Targets::Values(values) => squared_error(&numbers, values, share),
        Targets::Spans(spans) => span_entropy(&numbers, spans, lengths, share / 2.0),
    };
    let gradient = Tensor::from_vec(gradient, (rows, width), outputs.device())?;
    Ok(Loss {
        value,
        gradient: gradient.to_dtype(outputs.dtype())?,
    })
}

/// −Σ share·log softmax(row)[class] over the rows that have a class.
fn cross_entropy(
    logits: &[f64],
    width: usize,
    classes: impl Iterator<Item = Option<u32>>,
    share: f64,
) -> (f64, Vec<f64>) {
    let mut value = 0.0;
    let mut gradient = vec![0.0; logits.len()];
    let rows = logits
        .chunks_exact(width)
        .zip(gradient.chunks_exact_mut(width));
    for ((row, gradient), class) in rows.zip(classes) {
        let Some(class) = class else { continue };
        let maximum = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = row.iter().map(|value| (value - maximum).exp()).sum();
        value += share * (sum.ln() + maximum - row[class as usize]);
        for (gradient, value) in gradient.iter_mut().zip(row) {
            *gradient = share * (value - maximum).exp() / sum;
        }
        gradient[class as usize] -= share;
    }
    (value, gradient)
}

/// The cross-entropies of an answer's first and last token over the tokens of its sequence: the two
/// columns of `logits`.
fn span_entropy(
    logits: &[f64],
    spans: &[(u32, u32)],
    lengths: &Lengths,
    share: f64,
) -> (f64, Vec<f64>) {
    let mut value = 0.0;
    let mut gradient = vec![0.0; logits.len()];
    for ((start, length), (first, last)) in lengths.iter().zip(spans) {
        for (column, class) in [first, last].into_iter().enumerate() {
            let at = |token: usize| 2 * (start + token) + column;
            let row: Vec<_> = (0..length).map(|token| logits[at(token)]).collect();
            let class = std::iter::once(Some(*class));
            let (loss, parts) = cross_entropy(&row, length, class, share);
            value += loss;
            for (token, part) in parts.into_iter().enumerate() {
                gradient[at(token)] = part;
            }
        }
    }
    (value, gradient)
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
