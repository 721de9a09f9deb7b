//! The orthogonality regulariser of the paper's Eq. 10: λ Σ (‖A Aᵀ − I‖²_F + ‖Bᵀ B − I‖²_F).
//!
//! The gradient with respect to A is 4λ(A Aᵀ − I)A, to B 4λ B(Bᵀ B − I): two R × R products, never
//! one of the layer's size. The paper gives no λ; ours is the last-layer protocol's, and a setting.
//!
//! On ΔW's directions instead (a setting of ours): the same for the factors with unit columns,
//! whose distance from orthogonality is that of ΔW's own directions and not of their lengths:
//! Â has the rows aᵢ/‖aᵢ‖, and the gradient is projected onto what changes a direction,
//! (I − âᵢâᵢᵀ)·4λ((ÂÂᵀ − I)Â)ᵢ/‖aᵢ‖. A zero row has no direction and no gradient.

use candle_core::{D, DType, Tensor};
use serde::{Deserialize, Serialize};

use super::{Step, within};
use crate::Error;
use crate::engine::{Gradients, ParameterId, Parameters};
use crate::module::Modules;

/// λ of the last-layer protocol's recorded search (`paper/search/`).
pub(crate) const DEFAULT_LAMBDA: f64 = 1e-4;

/// How λ goes through a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LambdaSchedule {
    /// The same in every step.
    #[default]
    Constant,
    /// From 0 up to λ in proportion to the steps made.
    Rising,
    /// From λ down to 0 in proportion to the steps made.
    Falling,
}

/// What is to be orthogonal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Regularised {
    /// A and B themselves, as the paper writes.
    #[default]
    Factors,
    /// The directions of ΔW: the factors' rows and columns at unit length.
    Directions,
}

rankwise_data::documented! {
/// The regulariser's settings.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Regulariser {
    /// λ: the weight of the orthogonality regulariser (Eq. 10).
    pub lambda: f64,
    /// How λ goes through a run.
    pub lambda_schedule: LambdaSchedule,
    /// What is to be orthogonal.
    pub regularised: Regularised,
}
}

impl Default for Regulariser {
    fn default() -> Self {
        Self {
            lambda: DEFAULT_LAMBDA,
            lambda_schedule: LambdaSchedule::default(),
            regularised: Regularised::default(),
        }
    }
}

impl Regulariser {
    pub(super) fn check(&self) -> Result<(), Error> {
        within("lambda", self.lambda, 0.0, f64::MAX)
    }

    /// λ at a step.
    fn lambda_at(&self, step: Step) -> f64 {
        match self.lambda_schedule {
            LambdaSchedule::Constant => self.lambda,
            LambdaSchedule::Rising => self.lambda * step.share(),
            LambdaSchedule::Falling => self.lambda * (1.0 - step.share()),
        }
    }

    /// Adds the term's gradient for the directions that move; returns its value.
    pub(super) fn add(
        &self,
        step: Step,
        modules: &Modules,
        parameters: &Parameters,
        gradients: &mut Gradients,
    ) -> Result<f64, Error> {
        let lambda = self.lambda_at(step);
        if lambda == 0.0 {
            return Ok(0.0);
        }
        let mut total = 0.0;
        for adapter in modules.adapters() {
            for id in [adapter.a.parameter(), adapter.b.parameter()]
                .into_iter()
                .flatten()
            {
                let moving = adapter.moving.as_deref();
                total += self.add_one(lambda, id, moving, parameters, gradients)?;
            }
        }
        Ok(total)
    }

    /// For one factor, whose rows are the directions.
    fn add_one(
        &self,
        lambda: f64,
        id: ParameterId,
        moving: Option<&[u32]>,
        parameters: &Parameters,
        gradients: &mut Gradients,
    ) -> Result<f64, Error> {
        let factor = parameters.view(id);
        let lengths = match self.regularised {
            Regularised::Factors => None,
            Regularised::Directions => {
                let lengths = factor.sqr()?.sum_keepdim(D::Minus1)?.sqrt()?;
                // A zero row stays zero.
                let empty = lengths.eq(0.0)?.to_dtype(lengths.dtype())?;
                Some((lengths + empty)?)
            }
        };
        let unit = match &lengths {
            None => factor.clone(),
            Some(lengths) => factor.broadcast_div(lengths)?,
        };
        let rank = unit.dim(0)?;
        let identity = Tensor::eye(rank, unit.dtype(), unit.device())?;
        let excess = (unit.matmul(&unit.t()?)? - identity)?;
        let value = excess
            .sqr()?
            .sum_all()?
            .to_dtype(DType::F64)?
            .to_scalar::<f64>()?;
        // Of the directions that a mask holds back nothing is computed.
        let chosen = moving
            .map(|moving| Tensor::new(moving, unit.device()))
            .transpose()?;
        let rows = |tensor: &Tensor| match &chosen {
            Some(chosen) => tensor.index_select(chosen, 0),
            None => Ok(tensor.clone()),
        };
        let gradient = (rows(&excess)?.matmul(&unit)? * (4.0 * lambda))?;
        let gradient = match &lengths {
            None => gradient,
            Some(lengths) => {
                let (unit, lengths) = (rows(&unit)?, rows(lengths)?);
                let along = (&gradient * &unit)?.sum_keepdim(D::Minus1)?;
                let across = (gradient - unit.broadcast_mul(&along)?)?;
                // Of a zero row both are zero already: its own unit row is.
                across.broadcast_div(&lengths)?
            }
        };
        let gradient = match &chosen {
            Some(chosen) => factor.zeros_like()?.index_add(chosen, &gradient, 0)?,
            None => gradient,
        };
        gradients.add_parameter(id, gradient)?;
        Ok(lambda * value)
    }
}
