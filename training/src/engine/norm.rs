//! Layer normalisation (Ba, Kiros & Hinton 2016): y = γ (x − μ)/√(σ² + ε) + β by rows.
//!
//! With x̂ the normalised row and g = γ·dy: dx = (g − mean(g) − x̂ mean(g x̂))/√(σ² + ε), dγ = Σ dy x̂,
//! dβ = Σ dy. Two numbers a row are kept; x̂ is made again.

use candle_core::{D, Result, Tensor, WithDType};

use super::host::{self, Real, by_real};
use super::parameters::ParameterId;
use super::tape::{Tape, Var};
use crate::module::Value;

/// γ and β of a normalisation, and ε.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Norm<'a> {
    pub weight: &'a Value,
    pub bias: &'a Value,
    pub epsilon: f64,
}

impl Tape<'_> {
    /// Normalises the rows of `x` (rows × width).
    pub fn layer_norm(&self, x: &Var, norm: Norm<'_>) -> Result<Var> {
        let input = x.value.contiguous()?;
        let weight = norm.weight.tensor(self.parameters).clone();
        let bias = norm.bias.tensor(self.parameters);
        let trained = (norm.weight.parameter(), norm.bias.parameter());
        let wants = self.wants([x], trained.0.is_some() || trained.1.is_some());
        if !host::is_host(&input) {
            return self.layer_norm_elsewhere(x, &weight, bias, norm.epsilon, trained, wants);
        }
        let width = input.dim(D::Minus1)?;
        let (value, rows) = by_real!(input, |T| {
            let (values, rows) = host::read3::<T, _>(&input, &weight, bias, |x, weight, bias| {
                forward(x, weight, bias, norm.epsilon)
            })?;
            (
                host::tensor(values, input.dims())?,
                rows.into_iter()
                    .map(|(mean, inverse)| (mean.to_f64(), inverse.to_f64()))
                    .collect::<Vec<_>>(),
            )
        });
        if !wants {
            return Ok(Var::constant(value));
        }
        let x = x.clone();
        Ok(self.record(value, move |gradient, gradients| {
            let gradient = gradient.contiguous()?;
            by_real!(input, |T| {
                let (dx, dweight, dbias) =
                    host::read3::<T, _>(&input, &weight, &gradient, |x, weight, dy| {
                        backward(
                            x,
                            weight,
                            dy,
                            &rows,
                            trained.0.is_some() || trained.1.is_some(),
                        )
                    })?;
                gradients.add(&x, host::tensor(dx, input.dims())?)?;
                for (id, values) in [(trained.0, dweight), (trained.1, dbias)] {
                    if let Some(id) = id {
                        gradients.add_parameter(id, host::tensor(values, &[width])?)?;
                    }
                }
            });
            Ok(())
        }))
    }

    fn layer_norm_elsewhere(
        &self,
        x: &Var,
        weight: &Tensor,
        bias: &Tensor,
        epsilon: f64,
        trained: (Option<ParameterId>, Option<ParameterId>),
        wants: bool,
    ) -> Result<Var> {
        // The statistics of half-precision rows are taken in float32.
        let dtype = x.value.dtype();
        let inner = host::wide(dtype);
        let wide = x.value.to_dtype(inner)?;
        let weight = weight.to_dtype(inner)?;
        let centred = wide.broadcast_sub(&wide.mean_keepdim(D::Minus1)?)?;
        let variance = centred.sqr()?.mean_keepdim(D::Minus1)?;
        let inverse = (variance + epsilon)?.sqrt()?.recip()?;
        let unit = centred.broadcast_mul(&inverse)?;
        let value = unit
            .broadcast_mul(&weight)?
            .broadcast_add(&bias.to_dtype(inner)?)?
            .to_dtype(dtype)?;
        if !wants {
            return Ok(Var::constant(value));
        }
        let x = x.clone();
        Ok(self.record(value, move |gradient, gradients| {
            let dy = gradient.to_dtype(inner)?;
            if let Some(id) = trained.0 {
                gradients.add_parameter(id, (&dy * &unit)?.sum(0)?)?;
            }
            if let Some(id) = trained.1 {
                gradients.add_parameter(id, dy.sum(0)?)?;
            }
            let g = dy.broadcast_mul(&weight)?;
            let mean = g.mean_keepdim(D::Minus1)?;
            let along = (&g * &unit)?.mean_keepdim(D::Minus1)?;
            let dx = g.broadcast_sub(&mean)?.sub(&unit.broadcast_mul(&along)?)?;
            gradients.add(&x, dx.broadcast_mul(&inverse)?.to_dtype(dtype)?)
        }))
    }
}

/// The normalised rows, and every row's mean and 1/√(σ² + ε).
fn forward<T: Real>(x: &[T], weight: &[T], bias: &[T], epsilon: f64) -> (Vec<T>, Vec<(T, T)>) {
    let width = weight.len();
    let count = T::from_f64(width as f64);
    let epsilon = T::from_f64(epsilon);
    let mut result = vec![T::zero(); x.len()];
    let mut rows = Vec::with_capacity(x.len() / width.max(1));
    pulp::Arch::new().dispatch(
        #[inline(always)]
        || {
            for (x, y) in x.chunks_exact(width).zip(result.chunks_exact_mut(width)) {
                let mean = host::in_lanes(x, T::zero(), |a, b| a + b) / count;
                for (y, x) in y.iter_mut().zip(x) {
                    *y = *x - mean;
                }
                let inverse = T::one() / (host::dot(y, y) / count + epsilon).sqrt();
                for ((y, weight), bias) in y.iter_mut().zip(weight).zip(bias) {
                    *y = *y * inverse * *weight + *bias;
                }
                rows.push((mean, inverse));
            }
        },
    );
    (result, rows)
}

/// dx, and dγ and dβ if `trains`.
fn backward<T: Real>(
    x: &[T],
    weight: &[T],
    dy: &[T],
    rows: &[(f64, f64)],
    trains: bool,
) -> (Vec<T>, Vec<T>, Vec<T>) {
    let width = weight.len();
    let count = T::from_f64(width as f64);
    let mut dx = vec![T::zero(); x.len()];
    let mut dweight = vec![T::zero(); width];
    let mut dbias = vec![T::zero(); width];
    let mut unit = vec![T::zero(); width];
    pulp::Arch::new().dispatch(
        #[inline(always)]
        || {
            let parts = x.chunks_exact(width).zip(dy.chunks_exact(width)).zip(rows);
            for (((x, dy), (mean, inverse)), dx) in parts.zip(dx.chunks_exact_mut(width)) {
                let (mean, inverse) = (T::from_f64(*mean), T::from_f64(*inverse));
                for (unit, x) in unit.iter_mut().zip(x) {
                    *unit = (*x - mean) * inverse;
                }
                for ((g, dy), weight) in dx.iter_mut().zip(dy).zip(weight) {
                    *g = *dy * *weight;
                }
                let average = host::in_lanes(dx, T::zero(), |a, b| a + b) / count;
                let along = host::dot(dx, &unit) / count;
                for (g, unit) in dx.iter_mut().zip(&unit) {
                    *g = (*g - average - *unit * along) * inverse;
                }
                if trains {
                    for ((dweight, unit), dy) in dweight.iter_mut().zip(&unit).zip(dy) {
                        *dweight += *unit * *dy;
                    }
                    for (dbias, dy) in dbias.iter_mut().zip(dy) {
                        *dbias += *dy;
                    }
                }
            }
        },
    );
    (dx, dweight, dbias)
}
