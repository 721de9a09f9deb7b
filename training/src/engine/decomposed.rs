//! DoRA's linear layer (Liu et al. 2024): the rows of V = W + s·BA scaled to trained lengths m.
//!
//! With k = m/‖V‖ (by rows, the norm taken as a constant on the way back, as in its section 4.3) and
//! u = W drop(x) + s B A drop(x):
//!
//! ```text
//! y  = W x + b − W drop(x) + k ⊙ u
//! dm = Σ dY ⊙ u / ‖V‖          du = k ⊙ dY
//! ```
//!
//! The first two terms with W cancel where nothing is dropped.

use candle_core::{D, Result, Tensor};

use super::host;
use super::linear::{add_bias, add_product_in_place, column_sums};
use super::tape::{Tape, Var};
use crate::module::{Adapter, Module, Value};

impl Tape<'_> {
    pub(super) fn decomposed_linear(
        &self,
        x: &Var,
        module: &Module,
        adapter: &Adapter,
        site: usize,
    ) -> Result<Var> {
        let input = x.value.clone();
        let weight = self.in_out_weight(module, &input)?;
        let of = |value: &Value| value.tensor(self.parameters).to_dtype(input.dtype());
        let (a, b) = (of(&adapter.a)?, of(&adapter.b)?);
        let scale = adapter.scale;
        let Some(magnitude) = adapter.magnitude else {
            candle_core::bail!("a decomposed layer without magnitudes");
        };
        let lengths = row_lengths(&weight, &a, &b, scale)?;
        let factor = (self.parameters.view(magnitude).to_dtype(input.dtype())? / &lengths)?;
        let drop = self
            .noise
            .filter(|_| adapter.dropout > 0.0)
            .map(|noise| noise.site(site, adapter.dropout));
        let dropped = match drop {
            Some(drop) => drop.apply(&input)?,
            None => input.clone(),
        };
        let inner = dropped.matmul(&a.t()?)?;
        let frozen = dropped.matmul(&weight)?;
        let update = (inner.matmul(&b)? * scale)?;
        let whole = (&frozen + update)?;
        let value = whole.broadcast_mul(&factor)?;
        let value = match drop {
            Some(_) => ((value + input.matmul(&weight)?)? - frozen)?,
            None => value,
        };
        let value = add_bias(value, self.bias(module, &input)?.as_ref())?;
        let own_bias = module.bias.as_ref().and_then(Value::parameter);
        if !self.wants([x], true) {
            return Ok(Var::constant(value));
        }
        let parameters = (adapter.a.parameter(), adapter.b.parameter());
        let x = x.clone();
        Ok(self.record(value, move |dy, gradients| {
            if let Some(id) = own_bias {
                gradients.add_parameter(id, column_sums(&dy)?)?;
            }
            let along = column_sums(&(&dy * &whole)?)?;
            gradients.add_parameter(magnitude, (along / &lengths)?)?;
            let du = dy.broadcast_mul(&factor)?;
            let dinner = (du.matmul(&b.t()?)? * scale)?;
            if let Some(id) = parameters.1 {
                gradients.add_parameter(id, ((&inner * scale)?.t()?.matmul(&du))?)?;
            }
            if let Some(id) = parameters.0 {
                gradients.add_parameter(id, dinner.t()?.matmul(&dropped)?)?;
            }
            if !x.is_recorded() {
                return Ok(());
            }
            let back = weight.t()?;
            let dx = match drop {
                None => {
                    let dx = du.matmul(&back)?;
                    if host::is_host(&dx) {
                        add_product_in_place(dx, &dinner, &a, None)?
                    } else {
                        (dx + dinner.matmul(&a)?)?
                    }
                }
                Some(drop) => {
                    let inside = ((du - &dy)?.matmul(&back)? + dinner.matmul(&a)?)?;
                    (dy.matmul(&back)? + drop.apply(&inside)?)?
                }
            };
            gradients.add(&x, dx)
        }))
    }
}

/// ‖W + s·BA‖ of every output's weights: W is given as inputs × outputs, Bᵀ as R × outputs.
pub(crate) fn row_lengths(weight: &Tensor, a: &Tensor, b: &Tensor, scale: f64) -> Result<Tensor> {
    let update = (a.t()?.matmul(b)? * scale)?;
    (weight + update)?.sqr()?.sum(D::Minus2)?.sqrt()
}
