//! GM-LoRA (the paper's ablation): LoRA with the gradient mask of Algorithm 1 alone. In
//! PEFT: plain LoRA.

use rankwise_data::Documented;
use serde::{Deserialize, Serialize};

use super::mask::Mask;
use super::rm_lora::Masked;
use super::{Common, Rule};
use crate::Error;

/// GM-LoRA's settings: the mask's.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Settings {
    /// r̂ and when it is drawn.
    pub mask: Mask,
}

impl Documented for Settings {
    const FIELDS: &'static [(&'static str, &'static str)] = Mask::FIELDS;
}

impl Settings {
    pub(super) fn rule(&self, common: &Common) -> Result<Box<dyn Rule>, Error> {
        self.mask.check(common)?;
        Ok(Box::new(Masked::new(None, Some(self.mask))))
    }
}
