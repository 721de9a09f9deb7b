//! The element-wise work of a step, fused: on the CPU one pass over the data each, vectorised for
//! the processor at hand; elsewhere the same arithmetic through tensor operations.

use candle_core::{D, DType, Result, Tensor, bail};

use crate::engine::host::{self, Real, by_real};
use crate::engine::update::Update;

/// Turns `products` (rows × classes) into the gradient of the mean cross-entropy with respect to
/// the logits `scale·products + base + bias`: `(softmax − one-hot)/rows`.
pub(super) fn softmax_gradient(
    products: Tensor,
    base: Option<&Tensor>,
    bias: &Tensor,
    labels: &[u32],
    scale: f64,
) -> Result<Tensor> {
    if !products.device().is_cpu() {
        let logits = logits(&products, base, bias, scale)?;
        let (rows, classes) = logits.dims2()?;
        let shifted = logits
            .broadcast_sub(&logits.max_keepdim(D::Minus1)?)?
            .exp()?;
        let softmax = shifted.broadcast_div(&shifted.sum_keepdim(D::Minus1)?)?;
        let columns = Tensor::arange(0, classes as u32, logits.device())?.reshape((1, classes))?;
        let labels = Tensor::new(labels, logits.device())?.reshape((rows, 1))?;
        let one_hot = columns.broadcast_eq(&labels)?.to_dtype(logits.dtype())?;
        return (softmax - one_hot)? / rows as f64;
    }
    by_real!(products, |T| reading::<T, _>(bias, base, |bias, base| {
        host::modify::<T>(&products, |logits| {
            softmax_gradients(logits, base, bias, labels, scale)
        })
    })??);
    Ok(products)
}

/// Sum of the cross-entropies and number of right predictions over the rows of
/// `scale·products + base + bias`.
pub(super) fn score(
    products: &Tensor,
    base: Option<&Tensor>,
    bias: &Tensor,
    labels: &[u32],
    scale: f64,
) -> Result<(f64, usize)> {
    if products.device().is_cpu() {
        return by_real!(products, |T| reading::<T, _>(bias, base, |bias, base| {
            host::read::<T, _>(products, |products| {
                scores(products, base, bias, labels, scale)
            })
        })?);
    }
    let logits = logits(products, base, bias, scale)?;
    let labels = Tensor::new(labels, logits.device())?;
    let right = logits
        .argmax(D::Minus1)?
        .eq(&labels)?
        .to_dtype(DType::F64)?
        .sum_all()?;
    let shifted = logits.broadcast_sub(&logits.max_keepdim(D::Minus1)?)?;
    let total = shifted.exp()?.sum(D::Minus1)?.log()?;
    let own = shifted.gather(&labels.unsqueeze(1)?, 1)?.squeeze(1)?;
    let loss = (total - own)?.to_dtype(DType::F64)?.sum_all()?;
    let both = Tensor::stack(&[loss, right], 0)?.to_vec1::<f64>()?;
    Ok((both[0], both[1] as usize))
}

fn logits(products: &Tensor, base: Option<&Tensor>, bias: &Tensor, scale: f64) -> Result<Tensor> {
    let scaled = (products * scale)?.broadcast_add(bias)?;
    match base {
        Some(base) => scaled + base,
        None => Ok(scaled),
    }
}

/// One part of the parameters that moves: `width` numbers from `at`, updated `updates` times
/// including this one. Parts that are not listed keep value and moments.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moving {
    pub at: usize,
    pub updates: u64,
}

/// Updates in place `state`, a flat buffer of parameters, first and second moments (three equal
/// thirds); row k of `gradient` (parts × width, contiguous) belongs to `parts[k]`.
pub(super) fn step(
    state: &Tensor,
    gradient: &Tensor,
    parts: &[Moving],
    update: Update,
) -> Result<()> {
    if parts.is_empty() || !gradient.elem_count().is_multiple_of(parts.len()) {
        bail!(
            "step: {} gradients for {} parts",
            gradient.elem_count(),
            parts.len()
        );
    }
    let width = gradient.elem_count() / parts.len();
    let third = state.elem_count() / 3;
    if state.device().is_cpu() {
        return by_real!(state, |T| host::read::<T, _>(gradient, |gradient| {
            host::modify::<T>(state, |state| {
                let (values, moments) = state.split_at_mut(third);
                let (first, second) = moments.split_at_mut(third);
                for (part, gradient) in parts.iter().zip(gradient.chunks_exact(width)) {
                    let own = part.at..part.at + width;
                    update.run(
                        part.updates,
                        &mut values[own.clone()],
                        &mut first[own.clone()],
                        &mut second[own],
                        gradient,
                    );
                }
            })
        })?);
    }
    let gradient = gradient.flatten_all()?;
    for (row, part) in parts.iter().enumerate() {
        let own = |block: usize| state.narrow(0, block * third + part.at, width);
        let gradient = gradient.narrow(0, row * width, width)?;
        update.run_elsewhere(part.updates, &own(0)?, &own(1)?, &own(2)?, &gradient)?;
    }
    Ok(())
}

/// Hands over the numbers of the bias and of the base, if there is one.
fn reading<T: Real, R>(
    bias: &Tensor,
    base: Option<&Tensor>,
    body: impl FnOnce(&[T], Option<&[T]>) -> R,
) -> Result<R> {
    match base {
        Some(base) => host::read2(bias, base, |bias, base| body(bias, Some(base))),
        None => host::read(bias, |bias| body(bias, None)),
    }
}

/// `row ← scale·row + base + bias`, its maximum subtracted, exponentiated; returns the maximum and
/// the sum of the exponentials.
#[inline(always)]
fn exponentials<T: Real>(row: &mut [T], base: Option<&[T]>, bias: &[T], scale: T) -> (T, T) {
    for (value, bias) in row.iter_mut().zip(bias) {
        *value = scale * *value + *bias;
    }
    if let Some(base) = base {
        for (value, base) in row.iter_mut().zip(base) {
            *value += *base;
        }
    }
    host::exponentials(row)
}

/// [`softmax_gradient`] of rows of numbers.
fn softmax_gradients<T: Real>(
    logits: &mut [T],
    base: Option<&[T]>,
    bias: &[T],
    labels: &[u32],
    scale: f64,
) {
    let classes = bias.len();
    let share = T::from_f64(1.0 / labels.len() as f64);
    let scale = T::from_f64(scale);
    pulp::Arch::new().dispatch(
        #[inline(always)]
        || {
            for (index, row) in logits.chunks_exact_mut(classes).enumerate() {
                let base = base.map(|base| &base[index * classes..][..classes]);
                let (_, sum) = exponentials(row, base, bias, scale);
                let factor = share / sum;
                for value in row.iter_mut() {
                    *value *= factor;
                }
                let own = labels[index] as usize;
                row[own] -= share;
            }
        },
    );
}

/// [`score`] of rows of numbers.
fn scores<T: Real>(
    products: &[T],
    base: Option<&[T]>,
    bias: &[T],
    labels: &[u32],
    scale: f64,
) -> (f64, usize) {
    let classes = bias.len();
    let scale = T::from_f64(scale);
    let mut row = vec![T::zero(); classes];
    let (mut loss, mut right) = (0.0, 0);
    pulp::Arch::new().dispatch(
        #[inline(always)]
        || {
            for (index, product) in products.chunks_exact(classes).enumerate() {
                row.copy_from_slice(product);
                let base = base.map(|base| &base[index * classes..][..classes]);
                let own = labels[index] as usize;
                let own_logit =
                    scale * product[own] + bias[own] + base.map_or(T::zero(), |base| base[own]);
                let (maximum, sum) = exponentials(&mut row, base, bias, scale);
                loss += (sum.ln() + (maximum - own_logit)).to_f64();
                // The first of equal maxima counts as the prediction.
                let predicted = row.iter().position(|&value| value == T::one());
                right += usize::from(predicted == Some(own));
            }
        },
    );
    (loss, right)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::update::Rule;
    use candle_core::Device;

    const UPDATE: Update = Update {
        rule: Rule::AdamW {
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            decay: 0.1,
        },
        rate: 1e-2,
        factor: 1.0,
    };

    #[test]
    fn two_classes_in_closed_form() {
        // Logits (ln 3, 0): softmax (3/4, 1/4).
        let device = Device::Cpu;
        let products = Tensor::new(&[[3_f64.ln() / 2.0, 0.0]], &device).unwrap();
        let base = Tensor::new(&[[0.0, 1.0]], &device).unwrap();
        let bias = Tensor::new(&[0.0, -1.0], &device).unwrap();
        let (loss, right) = score(&products, Some(&base), &bias, &[1], 2.0).unwrap();
        assert!((loss - 4_f64.ln()).abs() < 1e-15, "{loss}");
        assert_eq!(right, 0);
        let gradient = softmax_gradient(products, Some(&base), &bias, &[1], 2.0).unwrap();
        let gradient = gradient.to_vec2::<f64>().unwrap();
        assert!((gradient[0][0] - 0.75).abs() < 1e-15);
        assert!((gradient[0][1] + 0.75).abs() < 1e-15);
    }

    #[test]
    fn the_first_adamw_step_in_closed_form() {
        // From zero moments the step is η·sign(g) up to ε, after decay by 1 − ηw.
        let state = [1.0, 2.0, 3.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0];
        let state = Tensor::new(&state, &Device::Cpu).unwrap();
        let gradient = Tensor::new(&[[0.5], [-4.0]], &Device::Cpu).unwrap();
        let parts = [Moving { at: 0, updates: 1 }, Moving { at: 2, updates: 1 }];
        step(&state, &gradient, &parts, UPDATE).unwrap();
        let state = state.to_vec1::<f64>().unwrap();
        assert!((state[0] - (0.999 - 1e-2)).abs() < 1e-9);
        assert_eq!(state[1], 2.0);
        assert!((state[2] - (3.0 * 0.999 + 1e-2)).abs() < 1e-9);
        assert!((state[3] - 0.05).abs() < 1e-15);
        assert!((state[8] - 0.016).abs() < 1e-15);
        assert_eq!((state[4], state[7]), (0.0, 0.0));
    }
}
