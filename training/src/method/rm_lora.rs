//! RM-LoRA (the paper's section 4): LoRA that is to use all of its R directions, by a regulariser
//! that keeps them apart (Eq. 10, see `orthogonality`) and a mask that moves r̂ of them a step
//! (Algorithm 1, see `mask`).
//!
//! ```text
//! minimise  task + λ Σ (‖A Aᵀ − I‖²_F + ‖Bᵀ B − I‖²_F),  moving rows S of A and columns S of B
//! ```
//!
//! R-LoRA is the case r̂ = R, GM-LoRA λ = 0. The trained adapter is a plain LoRA: PEFT's A and B.
//! Algorithm 1's printed index ranges are misprints (see `mask`): S runs over the R directions.

use serde::{Deserialize, Serialize};

use super::mask::{Mask, Period, Unselected};
use super::orthogonality::{LambdaSchedule, Regularised, Regulariser};
use super::product::{self, FirstValues};
use super::{Common, Rule, Site, Step};
use crate::Error;
use crate::engine::{Gradients, Parameters};
use crate::module::Modules;

rankwise_data::documented! {
/// RM-LoRA's settings: the regulariser's and the mask's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// λ: the weight of the orthogonality regulariser (Eq. 10).
    pub lambda: f64,
    /// How λ goes through a run.
    pub lambda_schedule: LambdaSchedule,
    /// What is to be orthogonal.
    pub regularised: Regularised,
    /// r̂: directions that a step moves; by default three quarters of every module's R, rounded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub directions: Option<usize>,
    /// How often a mask is drawn.
    pub mask: Period,
    /// What becomes of the directions that it leaves out.
    pub unselected: Unselected,
}
}

impl Default for Settings {
    fn default() -> Self {
        let (regulariser, mask) = (Regulariser::default(), Mask::default());
        Self {
            lambda: regulariser.lambda,
            lambda_schedule: regulariser.lambda_schedule,
            regularised: regulariser.regularised,
            directions: mask.directions,
            mask: mask.mask,
            unselected: mask.unselected,
        }
    }
}

impl Settings {
    pub(super) fn rule(&self, common: &Common) -> Result<Box<dyn Rule>, Error> {
        let regulariser = Regulariser {
            lambda: self.lambda,
            lambda_schedule: self.lambda_schedule,
            regularised: self.regularised,
        };
        let mask = Mask {
            directions: self.directions,
            mask: self.mask,
            unselected: self.unselected,
        };
        regulariser.check()?;
        mask.check(common)?;
        Ok(Box::new(Masked::new(Some(regulariser), Some(mask))))
    }
}

/// LoRA with a regulariser, a mask, or both.
#[derive(Debug)]
pub(super) struct Masked {
    regulariser: Option<Regulariser>,
    mask: Option<Mask>,
    /// Number and rank of every adapted module.
    ranks: Vec<(usize, usize)>,
}

impl Masked {
    pub fn new(regulariser: Option<Regulariser>, mask: Option<Mask>) -> Self {
        Self {
            regulariser,
            mask,
            ranks: Vec::new(),
        }
    }
}

impl Rule for Masked {
    fn attach(&mut self, mut site: Site<'_>) -> Result<(), Error> {
        self.ranks.push((site.module.id.0, site.rank));
        let scale = self.scale(site.alpha, site.rank);
        product::attach(&mut site, FirstValues::default(), scale)
    }

    fn by_rows(&self) -> bool {
        self.mask.is_some()
    }

    fn begin(&mut self, step: Step, modules: &mut Modules, _: &Parameters) -> Result<(), Error> {
        if let Some(mask) = &self.mask {
            mask.draw(step, &self.ranks, modules);
        }
        Ok(())
    }

    fn regularise(
        &self,
        step: Step,
        modules: &Modules,
        parameters: &Parameters,
        gradients: &mut Gradients,
    ) -> Result<f64, Error> {
        match &self.regulariser {
            Some(regulariser) => regulariser.add(step, modules, parameters, gradients),
            None => Ok(0.0),
        }
    }
}
