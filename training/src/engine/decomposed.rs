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
//! The first two terms with W cancel where nothing is dropped. If the norm is not a constant but goes
//! along (a setting), V has a further gradient V diag(e), e = −k ⊙ Σ dY ⊙ u / ‖V‖².

use candle_core::{D, Result, Tensor};

use super::host;
use super::linear::{add_bias, add_product_in_place, column_sums};
use super::parameters::ParameterId;
use super::tape::{Gradients, Tape, Var};
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
        let scaling = self.scaling(adapter, &weight)?;
        let factor = scaling.factor.clone();
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
        // Without dropout the product is only needed with its update.
        let kept = drop.is_some().then(|| frozen.copy()).transpose()?;
        let whole = if host::is_host(&frozen) {
            add_product_in_place(frozen, &(&inner * scale)?, &b, None)?
        } else {
            (frozen + (inner.matmul(&b)? * scale)?)?
        };
        let value = whole.broadcast_mul(&factor)?;
        let value = match kept {
            Some(frozen) => ((value + input.matmul(&weight)?)? - frozen)?,
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
            scaling.backward(&dy, &whole, &weight, gradients)?;
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

/// What a decomposed layer multiplies its outputs with.
pub(super) struct Scaling {
    /// k = m/‖V‖, one number an output.
    pub factor: Tensor,
    lengths: Tensor,
    magnitude: ParameterId,
    a: Tensor,
    b: Tensor,
    adapter: Adapter,
}

impl Tape<'_> {
    /// Of a layer with magnitudes and this weight (inputs × outputs).
    pub(super) fn scaling(&self, adapter: &Adapter, weight: &Tensor) -> Result<Scaling> {
        let of = |value: &Value| value.tensor(self.parameters).to_dtype(weight.dtype());
        let (a, b) = (of(&adapter.a)?, of(&adapter.b)?);
        let Some(magnitude) = adapter.magnitude else {
            candle_core::bail!("a decomposed layer without magnitudes");
        };
        let lengths = match &adapter.squares {
            Some(squares) => lengths_from(squares, weight, &a, &b, adapter.scale)?,
            None => row_lengths(weight, &a, &b, adapter.scale)?,
        };
        let magnitudes = self.parameters.view(magnitude).to_dtype(lengths.dtype())?;
        Ok(Scaling {
            factor: (magnitudes / &lengths)?.to_dtype(weight.dtype())?,
            lengths: lengths.to_dtype(weight.dtype())?,
            magnitude,
            a,
            b,
            adapter: adapter.clone(),
        })
    }
}

impl Scaling {
    /// Gradients from dY and what k multiplied, those of the factors only if the norm goes along.
    pub fn backward(
        &self,
        dy: &Tensor,
        whole: &Tensor,
        weight: &Tensor,
        gradients: &mut Gradients,
    ) -> Result<()> {
        let along = column_sums(&(dy * whole)?)?;
        gradients.add_parameter(self.magnitude, (&along / &self.lengths)?)?;
        if !self.adapter.norm_goes_along {
            return Ok(());
        }
        let scale = self.adapter.scale;
        let e = ((along * &self.factor)? / self.lengths.sqr()?)?;
        let e = (e * -scale)?;
        let v = (weight + (self.a.t()?.matmul(&self.b)? * scale)?)?;
        if let Some(id) = self.adapter.b.parameter() {
            gradients.add_parameter(id, self.a.matmul(&v)?.broadcast_mul(&e)?)?;
        }
        if let Some(id) = self.adapter.a.parameter() {
            gradients.add_parameter(id, self.b.broadcast_mul(&e)?.matmul(&v.t()?)?)?;
        }
        Ok(())
    }
}

/// ‖W + s·BA‖ of every output's weights: W is given as inputs × outputs, Bᵀ as R × outputs.
pub(crate) fn row_lengths(weight: &Tensor, a: &Tensor, b: &Tensor, scale: f64) -> Result<Tensor> {
    let squares = weight.sqr()?.sum(D::Minus2)?;
    lengths_from(&squares, weight, a, b, scale)
}

/// The same from the squares of W's own lengths, w: ‖w + s Ab‖² = ‖w‖² + s b·(2 Aw + s AAᵀb), two
/// thin products and nothing of the weight's size.
fn lengths_from(
    squares: &Tensor,
    weight: &Tensor,
    a: &Tensor,
    b: &Tensor,
    scale: f64,
) -> Result<Tensor> {
    // Half precision is not enough to add squares in.
    let wide = |tensor: Tensor| tensor.to_dtype(squares.dtype());
    let b = &wide(b.clone())?;
    let along = (wide(a.matmul(weight)?)? * 2.0)?;
    let across = (wide(a.matmul(&a.t()?)?)?.matmul(b)? * scale)?;
    let change = ((b * (along + across)?)?.sum(0)? * scale)?;
    // Rounding must not make a square negative where an update takes a row away.
    (squares + change)?.maximum(0.0)?.sqrt()
}
