//! Element-wise non-linearities.
//!
//! | name in checkpoints | function |
//! |---|---|
//! | `gelu` | x Φ(x), Φ the normal distribution function (Hendrycks & Gimpel 2016) |
//! | `gelu_new`, `gelu_pytorch_tanh`, `gelu_fast` | its approximation by tanh √(2/π)(x + 0.044715 x³) |
//! | `relu` | max(x, 0) |
//! | `tanh` | tanh x |
//! | `silu`, `swish` | x/(1 + e⁻ˣ) |

use std::f64::consts::{FRAC_1_SQRT_2, PI};

use candle_core::{Result, Tensor};

use super::host::{self, Real, by_real};
use super::tape::{Tape, Var};

/// A non-linearity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Activation {
    Gelu,
    GeluTanh,
    Relu,
    Tanh,
    Silu,
}

impl Activation {
    /// Names in checkpoints' configurations.
    pub const NAMES: [(&'static str, Self); 8] = [
        ("gelu", Self::Gelu),
        ("gelu_new", Self::GeluTanh),
        ("gelu_pytorch_tanh", Self::GeluTanh),
        ("gelu_fast", Self::GeluTanh),
        ("relu", Self::Relu),
        ("tanh", Self::Tanh),
        ("silu", Self::Silu),
        ("swish", Self::Silu),
    ];

    /// f(x) and f′(x).
    #[inline(always)]
    fn both<T: Real>(self, x: T) -> (T, T) {
        let number = T::from_f64;
        let one = T::one();
        match self {
            Self::Gelu => {
                let half = number(0.5);
                let phi = half * (one + (x * number(FRAC_1_SQRT_2)).erf());
                let density = (-(half * x * x)).exp_nonpositive() * number(1.0 / (2.0 * PI).sqrt());
                (x * phi, phi + x * density)
            }
            Self::GeluTanh => {
                let half = number(0.5);
                let slope = number((2.0 / PI).sqrt());
                let cubic = number(0.044_715);
                let t = (slope * (x + cubic * x * x * x)).hyperbolic_tangent();
                let inner = slope * (one + number(3.0) * cubic * x * x);
                let value = half * x * (one + t);
                (value, half * (one + t) + half * x * (one - t * t) * inner)
            }
            Self::Relu => {
                if x > T::zero() {
                    (x, one)
                } else {
                    (T::zero(), T::zero())
                }
            }
            Self::Tanh => {
                let t = x.hyperbolic_tangent();
                (t, one - t * t)
            }
            Self::Silu => {
                let e = (-x.abs()).exp_nonpositive();
                let share = if x < T::zero() { e } else { one } / (one + e);
                (x * share, share * (one + x * (one - share)))
            }
        }
    }

    fn values<T: Real>(self, x: &[T]) -> Vec<T> {
        let mut result = vec![T::zero(); x.len()];
        pulp::Arch::new().dispatch(
            #[inline(always)]
            || {
                self.each(|this| {
                    for (result, x) in result.iter_mut().zip(x) {
                        *result = this.both(*x).0;
                    }
                })
            },
        );
        result
    }

    fn gradients<T: Real>(self, x: &[T], dy: &[T]) -> Vec<T> {
        let mut result = vec![T::zero(); x.len()];
        pulp::Arch::new().dispatch(
            #[inline(always)]
            || {
                self.each(|this| {
                    for ((result, x), dy) in result.iter_mut().zip(x).zip(dy) {
                        *result = this.both(*x).1 * *dy;
                    }
                })
            },
        );
        result
    }

    /// Calls `body` with a constant, so that the choice is made once and not in the loop.
    #[inline(always)]
    fn each(self, mut body: impl FnMut(Self)) {
        match self {
            Self::Gelu => body(Self::Gelu),
            Self::GeluTanh => body(Self::GeluTanh),
            Self::Relu => body(Self::Relu),
            Self::Tanh => body(Self::Tanh),
            Self::Silu => body(Self::Silu),
        }
    }

    /// The same through tensor operations: f(x).
    fn value_of(self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Gelu => x.gelu_erf(),
            Self::GeluTanh => x.gelu(),
            Self::Relu => x.relu(),
            Self::Tanh => x.tanh(),
            Self::Silu => x.silu(),
        }
    }

    /// The same through tensor operations: f′(x).
    fn slope_of(self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Gelu => {
                let phi = (((x * FRAC_1_SQRT_2)?.erf()? + 1.0)? * 0.5)?;
                let density = ((x.sqr()? * -0.5)?.exp()? * (1.0 / (2.0 * PI).sqrt()))?;
                phi + (x * density)?
            }
            Self::GeluTanh => {
                let slope = (2.0 / PI).sqrt();
                let square = x.sqr()?;
                let t = ((x + ((x * &square)? * 0.044_715)?)? * slope)?.tanh()?;
                let inner = ((square * (3.0 * 0.044_715 * slope))? + slope)?;
                let bump = ((x * (1.0 - t.sqr()?)?)? * inner)?;
                ((t + 1.0)? + bump)? * 0.5
            }
            Self::Relu => x.gt(0.0)?.to_dtype(x.dtype()),
            Self::Tanh => 1.0 - x.tanh()?.sqr()?,
            Self::Silu => {
                let share = ((x.neg()?.exp()? + 1.0)?).recip()?;
                &share * ((x * (1.0 - &share)?)? + 1.0)?
            }
        }
    }
}

impl Tape<'_> {
    /// f(x), element by element.
    pub fn activation(&self, x: &Var, function: Activation) -> Result<Var> {
        let input = x.value.contiguous()?;
        let on_host = host::is_host(&input);
        let value = if on_host {
            by_real!(input, |T| {
                let values = host::read::<T, _>(&input, |x| function.values(x))?;
                host::tensor(values, input.dims())?
            })
        } else {
            function.value_of(&input)?
        };
        if !self.wants([x], false) {
            return Ok(Var::constant(value));
        }
        let x = x.clone();
        Ok(self.record(value, move |gradient, gradients| {
            let gradient = if on_host {
                let gradient = gradient.contiguous()?;
                by_real!(input, |T| {
                    let values =
                        host::read2::<T, _>(&input, &gradient, |x, dy| function.gradients(x, dy))?;
                    host::tensor(values, input.dims())?
                })
            } else {
                (gradient * function.slope_of(&input)?)?
            };
            gradients.add(&x, gradient)
        }))
    }
}
