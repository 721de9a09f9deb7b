//! R-LoRA (the paper's ablation): LoRA with the orthogonality regulariser of Eq. 10 alone. In
//! PEFT: plain LoRA.

use rankwise_data::Documented;
use serde::{Deserialize, Serialize};

use super::orthogonality::Regulariser;
use super::rm_lora::Masked;
use super::{Common, Rule};
use crate::Error;

/// R-LoRA's settings: the regulariser's.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Settings {
    /// λ and how it acts.
    pub regulariser: Regulariser,
}

impl Documented for Settings {
    const FIELDS: &'static [(&'static str, &'static str)] = Regulariser::FIELDS;
}

impl Settings {
    pub(super) fn rule(&self, _common: &Common) -> Result<Box<dyn Rule>, Error> {
        self.regulariser.check()?;
        Ok(Box::new(Masked::new(Some(self.regulariser), None)))
    }
}
