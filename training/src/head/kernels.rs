//! The element-wise work of a step, fused: on the CPU one pass over the data each, vectorised for
//! the processor at hand; elsewhere the same arithmetic through tensor operations.
//!
//! Sums run in [`LANES`] parallel lanes whatever the width of the vectors, and products are never
//! contracted into fused multiply-adds, so the bits do not depend on the instruction set.

use candle_core::{
    CpuStorage, CustomOp3, D, DType, InplaceOp2, InplaceOp3, Layout, Result, Shape, Tensor,
    WithDType, bail,
};
use num_traits::Float;

/// Independent accumulators in a sum or maximum over a row.
const LANES: usize = 16;

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
    let kernel = SoftmaxGradient { labels, scale };
    match base {
        Some(base) => products.inplace_op3(bias, base, &kernel)?,
        None => products.inplace_op2(bias, &kernel)?,
    }
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
    let both = if products.device().is_cpu() {
        let kernel = Score {
            labels,
            scale,
            has_base: base.is_some(),
        };
        // Without a base the products stand in its place, unread.
        products.apply_op3_no_bwd(bias, base.unwrap_or(products), &kernel)?
    } else {
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
        Tensor::stack(&[loss, right], 0)?
    };
    let both = both.to_vec1::<f64>()?;
    Ok((both[0], both[1] as usize))
}

fn logits(products: &Tensor, base: Option<&Tensor>, bias: &Tensor, scale: f64) -> Result<Tensor> {
    let scaled = (products * scale)?.broadcast_add(bias)?;
    match base {
        Some(base) => scaled + base,
        None => Ok(scaled),
    }
}

/// The constants of AdamW (Loshchilov & Hutter 2019, Algorithm 2).
#[derive(Debug, Clone, Copy)]
pub(super) struct AdamW {
    pub learning_rate: f64,
    pub beta1: f64,
    pub beta2: f64,
    pub epsilon: f64,
    pub weight_decay: f64,
}

/// One part of the parameters that moves: `width` numbers from `at`, updated `updates` times
/// including this one. Parts that are not listed keep value and moments.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moving {
    pub at: usize,
    pub updates: u64,
}

/// Applies AdamW in place to `state`, a flat buffer of parameters, first and second moments (three
/// equal thirds); row k of `gradient` (parts × width, contiguous) belongs to `parts[k]`.
pub(super) fn adamw(
    state: &Tensor,
    gradient: &Tensor,
    parts: &[Moving],
    settings: AdamW,
) -> Result<()> {
    if parts.is_empty() || !gradient.elem_count().is_multiple_of(parts.len()) {
        bail!(
            "adamw: {} gradients for {} parts",
            gradient.elem_count(),
            parts.len()
        );
    }
    let width = gradient.elem_count() / parts.len();
    if state.device().is_cpu() {
        let kernel = AdamWStep {
            parts,
            width,
            settings,
        };
        return state.inplace_op2(gradient, &kernel);
    }
    let gradient = gradient.flatten_all()?;
    let third = state.elem_count() / 3;
    for (row, part) in parts.iter().enumerate() {
        let AdamW {
            learning_rate,
            beta1,
            beta2,
            epsilon,
            weight_decay,
        } = settings;
        let (first, second) = part.corrections(settings);
        let read = |block: usize| state.narrow(0, block * third + part.at, width)?.copy();
        let g = gradient.narrow(0, row * width, width)?;
        let m = ((read(1)? * beta1)? + (&g * (1.0 - beta1))?)?;
        let v = ((read(2)? * beta2)? + (g.sqr()? * (1.0 - beta2))?)?;
        let denominator = ((v.sqrt()? / second.sqrt())? + epsilon)?;
        let decayed = (read(0)? * (1.0 - learning_rate * weight_decay))?;
        let p = (decayed - ((&m / denominator)? * (learning_rate / first))?)?;
        for (block, values) in [p, m, v].iter().enumerate() {
            state.slice_set(values, 0, block * third + part.at)?;
        }
    }
    Ok(())
}

impl Moving {
    /// `1 − β₁ᵏ` and `1 − β₂ᵏ` after k updates.
    fn corrections(&self, settings: AdamW) -> (f64, f64) {
        let after = |beta: f64| 1.0 - beta.powf(self.updates as f64);
        (after(settings.beta1), after(settings.beta2))
    }
}

/// A number type that the CPU kernels work in.
trait Real: WithDType + Float {
    /// eˣ for x ≤ 0.
    fn exp_nonpositive(self) -> Self;
}

impl Real for f32 {
    /// Cody–Waite reduction x = n·ln 2 + r and the degree-6 minimax polynomial of Cephes' `expf`;
    /// within 2 ulp, 0 below e⁻⁸⁷. Straight-line code, so that loops over it vectorise.
    #[inline(always)]
    fn exp_nonpositive(self) -> Self {
        // Adding 1.5·2²³ leaves the nearest integer in the low bits of the sum.
        const ROUNDER: f32 = 12_582_912.0;
        let x = if self > -87.0 { self } else { -87.0 };
        let shifted = x * std::f32::consts::LOG2_E + ROUNDER;
        let n = shifted - ROUNDER;
        let r = (x - n * 0.693_359_4) - n * -2.121_944_4e-4;
        let p = 1.987_569_2e-4_f32;
        let p = p * r + 1.398_199_9e-3;
        let p = p * r + 8.333_452e-3;
        let p = p * r + 4.166_579_6e-2;
        let p = p * r + 1.666_666_5e-1;
        let p = p * r + 0.5;
        let mantissa = p * r * r + r + 1.0;
        let power = f32::from_bits(shifted.to_bits().wrapping_add(127) << 23);
        if self > -87.0 { mantissa * power } else { 0.0 }
    }
}

impl Real for f64 {
    #[inline(always)]
    fn exp_nonpositive(self) -> Self {
        self.exp()
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
    let larger = |a: T, b: T| if a > b { a } else { b };
    let maximum = in_lanes(row, T::neg_infinity(), larger);
    for value in row.iter_mut() {
        *value = (*value - maximum).exp_nonpositive();
    }
    (maximum, in_lanes(row, T::zero(), |a, b| a + b))
}

#[inline(always)]
fn in_lanes<T: Real>(row: &[T], start: T, combine: impl Fn(T, T) -> T) -> T {
    let mut lanes = [start; LANES];
    let (chunks, rest) = row.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane = combine(*lane, *value);
        }
    }
    for (lane, value) in lanes.iter_mut().zip(rest) {
        *lane = combine(*lane, *value);
    }
    lanes.into_iter().fold(start, combine)
}

/// Hands the storages of one CPU kernel to its generic body as slices of the right type.
macro_rules! by_dtype {
    ($first:expr, $name:literal, |$values:ident, $number:ident| $body:expr) => {
        match $first {
            CpuStorage::F32($values) => {
                type $number = f32;
                $body
            }
            CpuStorage::F64($values) => {
                type $number = f64;
                $body
            }
            _ => bail!("{}: expected f32 or f64 numbers", $name),
        }
    };
}

fn part<'a, T: WithDType>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [T]> {
    let (start, end) = contiguous(layout)?;
    Ok(&T::cpu_storage_as_slice(storage)?[start..end])
}

fn contiguous(layout: &Layout) -> Result<(usize, usize)> {
    match layout.contiguous_offsets() {
        Some(range) => Ok(range),
        None => bail!("expected a contiguous tensor, found {layout:?}"),
    }
}

struct SoftmaxGradient<'a> {
    labels: &'a [u32],
    scale: f64,
}

impl SoftmaxGradient<'_> {
    fn apply<T: Real>(&self, logits: &mut [T], base: Option<&[T]>, bias: &[T]) {
        let classes = bias.len();
        let share = T::from_f64(1.0 / self.labels.len() as f64);
        let scale = T::from_f64(self.scale);
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
                    let own = self.labels[index] as usize;
                    row[own] -= share;
                }
            },
        );
    }
}

impl InplaceOp2 for SoftmaxGradient<'_> {
    fn name(&self) -> &'static str {
        "softmax-gradient"
    }

    fn cpu_fwd(
        &self,
        logits: &mut CpuStorage,
        layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> Result<()> {
        let (start, end) = contiguous(layout)?;
        by_dtype!(logits, "softmax-gradient", |values, T| {
            self.apply::<T>(&mut values[start..end], None, part(bias, bias_layout)?);
            Ok(())
        })
    }
}

impl InplaceOp3 for SoftmaxGradient<'_> {
    fn name(&self) -> &'static str {
        "softmax-gradient"
    }

    fn cpu_fwd(
        &self,
        logits: &mut CpuStorage,
        layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
        base: &CpuStorage,
        base_layout: &Layout,
    ) -> Result<()> {
        let (start, end) = contiguous(layout)?;
        by_dtype!(logits, "softmax-gradient", |values, T| {
            let base = Some(part(base, base_layout)?);
            self.apply::<T>(&mut values[start..end], base, part(bias, bias_layout)?);
            Ok(())
        })
    }
}

struct Score<'a> {
    labels: &'a [u32],
    scale: f64,
    has_base: bool,
}

impl Score<'_> {
    fn apply<T: Real>(&self, products: &[T], base: Option<&[T]>, bias: &[T]) -> [f64; 2] {
        let classes = bias.len();
        let scale = T::from_f64(self.scale);
        let mut row = vec![T::zero(); classes];
        let (mut loss, mut right) = (0.0, 0.0);
        pulp::Arch::new().dispatch(
            #[inline(always)]
            || {
                for (index, product) in products.chunks_exact(classes).enumerate() {
                    row.copy_from_slice(product);
                    let base = base.map(|base| &base[index * classes..][..classes]);
                    let own = self.labels[index] as usize;
                    let own_logit =
                        scale * product[own] + bias[own] + base.map_or(T::zero(), |base| base[own]);
                    let (maximum, sum) = exponentials(&mut row, base, bias, scale);
                    loss += (sum.ln() + (maximum - own_logit)).to_f64();
                    // The first of equal maxima counts as the prediction.
                    let predicted = row.iter().position(|&value| value == T::one());
                    right += f64::from(u8::from(predicted == Some(own)));
                }
            },
        );
        [loss, right]
    }
}

impl CustomOp3 for Score<'_> {
    fn name(&self) -> &'static str {
        "score"
    }

    fn cpu_fwd(
        &self,
        products: &CpuStorage,
        layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
        base: &CpuStorage,
        base_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (start, end) = contiguous(layout)?;
        let both = by_dtype!(products, "score", |values, T| {
            let base = if self.has_base {
                Some(part(base, base_layout)?)
            } else {
                None
            };
            self.apply::<T>(&values[start..end], base, part(bias, bias_layout)?)
        });
        Ok((CpuStorage::F64(both.to_vec()), Shape::from(2)))
    }
}

struct AdamWStep<'a> {
    parts: &'a [Moving],
    width: usize,
    settings: AdamW,
}

impl AdamWStep<'_> {
    fn apply<T: Real>(&self, state: &mut [T], gradient: &[T]) {
        let third = state.len() / 3;
        let (parameters, moments) = state.split_at_mut(third);
        let (first, second) = moments.split_at_mut(third);
        let number = T::from_f64;
        let settings = self.settings;
        let keep = number(1.0 - settings.learning_rate * settings.weight_decay);
        let (beta1, rest1) = (number(settings.beta1), number(1.0 - settings.beta1));
        let (beta2, rest2) = (number(settings.beta2), number(1.0 - settings.beta2));
        let epsilon = number(settings.epsilon);
        pulp::Arch::new().dispatch(
            #[inline(always)]
            || {
                for (part, gradient) in self.parts.iter().zip(gradient.chunks_exact(self.width)) {
                    let (correction1, correction2) = part.corrections(settings);
                    let step = number(settings.learning_rate / correction1);
                    let root = number(1.0 / correction2.sqrt());
                    let range = part.at..part.at + self.width;
                    let parameters = &mut parameters[range.clone()];
                    let first = &mut first[range.clone()];
                    let second = &mut second[range];
                    for (((p, m), v), &g) in
                        parameters.iter_mut().zip(first).zip(second).zip(gradient)
                    {
                        *m = beta1 * *m + rest1 * g;
                        *v = beta2 * *v + rest2 * g * g;
                        *p = keep * *p - step * *m / (v.sqrt() * root + epsilon);
                    }
                }
            },
        );
    }
}

impl InplaceOp2 for AdamWStep<'_> {
    fn name(&self) -> &'static str {
        "adamw"
    }

    fn cpu_fwd(
        &self,
        state: &mut CpuStorage,
        layout: &Layout,
        gradient: &CpuStorage,
        gradient_layout: &Layout,
    ) -> Result<()> {
        let (start, end) = contiguous(layout)?;
        by_dtype!(state, "adamw", |values, T| {
            self.apply::<T>(&mut values[start..end], part(gradient, gradient_layout)?);
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    const SETTINGS: AdamW = AdamW {
        learning_rate: 1e-2,
        beta1: 0.9,
        beta2: 0.999,
        epsilon: 1e-8,
        weight_decay: 0.1,
    };

    #[test]
    fn exp_is_within_two_ulp() {
        let worst = (0..2_000_000)
            .map(|index| -(index as f32) * (86.9 / 2_000_000.0))
            .map(|x| {
                let exact = f64::from(x).exp();
                let ulp = f64::from(exact as f32) * f64::from(f32::EPSILON);
                (f64::from(x.exp_nonpositive()) - exact).abs() / ulp
            })
            .fold(0.0, f64::max);
        assert!(worst <= 2.0, "{worst} ulp");
        assert_eq!(0.0_f32.exp_nonpositive(), 1.0);
        assert_eq!(f32::NEG_INFINITY.exp_nonpositive(), 0.0);
    }

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
        adamw(&state, &gradient, &parts, SETTINGS).unwrap();
        let state = state.to_vec1::<f64>().unwrap();
        assert!((state[0] - (0.999 - 1e-2)).abs() < 1e-9);
        assert_eq!(state[1], 2.0);
        assert!((state[2] - (3.0 * 0.999 + 1e-2)).abs() < 1e-9);
        assert!((state[3] - 0.05).abs() < 1e-15);
        assert!((state[8] - 0.016).abs() < 1e-15);
        assert_eq!((state[4], state[7]), (0.0, 0.0));
    }
}
