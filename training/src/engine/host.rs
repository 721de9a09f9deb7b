//! Numbers and loops of the CPU.
//!
//! Sums run in [`LANES`] parallel lanes whatever the width of the vectors, and products are never
//! contracted into fused multiply-adds, so the bits do not depend on the instruction set. Loops run
//! on the thread that asks: work is shared out by parts of a batch.

use std::cell::Cell;
use std::marker::PhantomData;
use std::ops::Range;

use candle_core::{
    CpuStorage, DType, Device, InplaceOp1, Layout, Result, Storage, Tensor, WithDType, bail,
};
use num_traits::Float;

/// Reads a tensor back to the host. A device gives back a whole buffer, so of a part of one a copy is
/// made there first.
pub(crate) fn fetch(tensor: &Tensor) -> Result<Tensor> {
    match tensor.device().is_cpu() {
        true => Ok(tensor.clone()),
        false => tensor.force_contiguous()?.to_device(&Device::Cpu),
    }
}

/// Independent accumulators in a sum or maximum over a row.
pub(crate) const LANES: usize = 16;

/// A number type that the CPU's loops work in.
pub(crate) trait Real: WithDType + Float {
    /// eˣ for x ≤ 0.
    fn exp_nonpositive(self) -> Self;

    /// The error function.
    fn erf(self) -> Self;

    /// The numbers of a CPU tensor of this type.
    fn slice_mut(storage: &mut CpuStorage) -> Result<&mut [Self]>;

    /// tanh x.
    #[inline(always)]
    fn hyperbolic_tangent(self) -> Self {
        let two = Self::one() + Self::one();
        let e = (-(two * self.abs())).exp_nonpositive();
        let t = (Self::one() - e) / (Self::one() + e);
        if self < Self::zero() { -t } else { t }
    }
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

    /// Odd polynomial of degree 11 below 15/16; above, 1 − e^q with a polynomial q of degree 7: fits
    /// in the largest error, within 1.4·10⁻⁷. Straight-line code.
    #[expect(
        clippy::approx_constant,
        reason = "a coefficient of the fit, which is not 2/√π to the last bit"
    )]
    #[inline(always)]
    fn erf(self) -> Self {
        let t = self.abs();
        let s = t * t;
        let p = -5.943_143e-4_f32;
        let p = p * s + 4.984_379e-3;
        let p = p * s - 2.676_110_7e-2;
        let p = p * s + 1.128_168_2e-1;
        let p = p * s - 3.761_248_3e-1;
        let p = p * s + 1.128_379_1;
        let t4 = if t < 4.0 { t } else { 4.0 };
        let q = -2.130_600_3e-5_f32;
        let q = q * t4 + 4.369_066_4e-4;
        let q = q * t4 - 4.182_934e-3;
        let q = q * t4 + 2.515_077_6e-2;
        let q = q * t4 - 1.083_287_2e-1;
        let q = q * t4 - 6.333_025_7e-1;
        let q = q * t4 - 1.129_537;
        let q = q * t4 + 1.792_841_6e-4;
        let large = 1.0 - q.exp_nonpositive();
        let large = if self < 0.0 { -large } else { large };
        if t < 0.9375 { p * self } else { large }
    }

    fn slice_mut(storage: &mut CpuStorage) -> Result<&mut [Self]> {
        match storage {
            CpuStorage::F32(values) => Ok(values),
            _ => bail!("expected numbers of float32"),
        }
    }
}

impl Real for f64 {
    #[inline(always)]
    fn exp_nonpositive(self) -> Self {
        self.exp()
    }

    #[inline(always)]
    fn erf(self) -> Self {
        candle_core::cpu::erf::erf_f64(self)
    }

    fn slice_mut(storage: &mut CpuStorage) -> Result<&mut [Self]> {
        match storage {
            CpuStorage::F64(values) => Ok(values),
            _ => bail!("expected numbers of float64"),
        }
    }
}

/// Combines a row in [`LANES`] lanes, then the lanes in order.
#[inline(always)]
pub(crate) fn in_lanes<T: Real>(row: &[T], start: T, combine: impl Fn(T, T) -> T) -> T {
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

/// Σ aᵢbᵢ, in lanes.
#[inline(always)]
pub(crate) fn dot<T: Real>(a: &[T], b: &[T]) -> T {
    let mut lanes = [T::zero(); LANES];
    let (a_chunks, a_rest) = a.as_chunks::<LANES>();
    let (b_chunks, b_rest) = b.as_chunks::<LANES>();
    for (a, b) in a_chunks.iter().zip(b_chunks) {
        for ((lane, a), b) in lanes.iter_mut().zip(a).zip(b) {
            *lane += *a * *b;
        }
    }
    for ((lane, a), b) in lanes.iter_mut().zip(a_rest).zip(b_rest) {
        *lane += *a * *b;
    }
    lanes.into_iter().fold(T::zero(), |sum, lane| sum + lane)
}

/// Exponentiates a row less its maximum; returns the maximum and the sum of the exponentials.
#[inline(always)]
pub(crate) fn exponentials<T: Real>(row: &mut [T]) -> (T, T) {
    let larger = |a: T, b: T| if a > b { a } else { b };
    let maximum = in_lanes(row, T::neg_infinity(), larger);
    for value in row.iter_mut() {
        *value = (*value - maximum).exp_nonpositive();
    }
    (maximum, in_lanes(row, T::zero(), |a, b| a + b))
}

/// Whether `tensor` is for the loops of the CPU: the others are computed by tensor operations.
pub(crate) fn is_host(tensor: &Tensor) -> bool {
    #[cfg(test)]
    if elsewhere::is_meant() {
        return false;
    }
    tensor.device().is_cpu() && matches!(tensor.dtype(), DType::F32 | DType::F64)
}

/// The type that sums of numbers of a type are made in elsewhere.
pub(crate) fn wide(dtype: DType) -> DType {
    match dtype {
        DType::F16 | DType::BF16 => DType::F32,
        other => other,
    }
}

/// Runs a generic body with `T` = f32 or f64 after a tensor's type, which [`is_host`] has checked.
macro_rules! by_real {
    ($tensor:expr, |$number:ident| $body:expr) => {
        match $tensor.dtype() {
            candle_core::DType::F32 => {
                type $number = f32;
                $body
            }
            candle_core::DType::F64 => {
                type $number = f64;
                $body
            }
            other => candle_core::bail!("expected f32 or f64 numbers, found {other:?}"),
        }
    };
}
pub(crate) use by_real;

/// Runs `body` over the numbers of a contiguous CPU tensor.
pub(crate) fn read<T: WithDType, R>(tensor: &Tensor, body: impl FnOnce(&[T]) -> R) -> Result<R> {
    let (storage, layout) = tensor.storage_and_layout();
    match &*storage {
        Storage::Cpu(storage) => Ok(body(
            &T::cpu_storage_as_slice(storage)?[contiguous(layout)?],
        )),
        _ => bail!("expected a tensor of the CPU"),
    }
}

/// [`read`] for two tensors at once.
pub(crate) fn read2<T: WithDType, R>(
    first: &Tensor,
    second: &Tensor,
    body: impl FnOnce(&[T], &[T]) -> R,
) -> Result<R> {
    read(first, |first| read(second, |second| body(first, second)))?
}

/// [`read`] for three tensors at once.
pub(crate) fn read3<T: WithDType, R>(
    first: &Tensor,
    second: &Tensor,
    third: &Tensor,
    body: impl FnOnce(&[T], &[T], &[T]) -> R,
) -> Result<R> {
    read2(first, second, |first, second| {
        read(third, |third| body(first, second, third))
    })?
}

/// Changes a contiguous CPU tensor in place; nobody else may hold it.
pub(crate) fn modify<T: Real>(tensor: &Tensor, body: impl FnOnce(&mut [T])) -> Result<()> {
    tensor.inplace_op1(&InPlace(Cell::new(Some(body)), PhantomData))
}

/// A CPU tensor of computed numbers.
pub(crate) fn tensor<T: WithDType>(values: Vec<T>, shape: &[usize]) -> Result<Tensor> {
    Tensor::from_vec(values, shape, &Device::Cpu)
}

fn contiguous(layout: &Layout) -> Result<Range<usize>> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(start..end),
        None => bail!("expected a contiguous tensor, found {layout:?}"),
    }
}

/// A change that is made once.
struct InPlace<T, F>(Cell<Option<F>>, PhantomData<T>);

impl<T: Real, F: FnOnce(&mut [T])> InplaceOp1 for InPlace<T, F> {
    fn name(&self) -> &'static str {
        "in-place"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let range = contiguous(layout)?;
        if let Some(body) = self.0.take() {
            body(&mut T::slice_mut(storage)?[range]);
        }
        Ok(())
    }
}

/// For tests: what other devices compute with, in the precision of the CPU.
#[cfg(test)]
pub(crate) mod elsewhere {
    use std::cell::Cell;

    thread_local! {
        static MEANT: Cell<bool> = const { Cell::new(false) };
    }

    pub(super) fn is_meant() -> bool {
        MEANT.get()
    }

    /// Runs `body`, and the parts of batches in it, as if no tensor were the CPU's own.
    pub(crate) fn compute<R: Send>(body: impl FnOnce() -> R + Send) -> R {
        // One thread, which is the one that is marked.
        let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build();
        pool.unwrap().install(|| {
            MEANT.set(true);
            body()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
