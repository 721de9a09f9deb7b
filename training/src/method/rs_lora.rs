//! rsLoRA (Kalajdzievski 2023): LoRA with s = α/√R, so that the size of an update's gradient does not
//! fall with R; nothing else changes.
//!
//! ```text
//! y += (α/√R) B A drop(x)
//! ```
//!
//! In PEFT: LoRA's A and B with `use_rslora`. Source: the paper's theorem 3.2; huggingface/peft.

use serde::{Deserialize, Serialize};

use super::product::{self, FirstValues};
use super::{Common, Peft, Rule, Site};
use crate::Error;

rankwise_data::documented! {
/// rsLoRA's own settings.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// How A begins.
    pub initialisation: FirstValues,
}
}

impl Settings {
    pub(super) fn rule(&self, _common: &Common) -> Result<Box<dyn Rule>, Error> {
        Ok(Box::new(RsLora {
            initialisation: self.initialisation,
        }))
    }
}

#[derive(Debug)]
struct RsLora {
    initialisation: FirstValues,
}

impl Rule for RsLora {
    fn scale(&self, alpha: f64, rank: usize) -> f64 {
        alpha / (rank as f64).sqrt()
    }

    fn attach(&mut self, mut site: Site<'_>) -> Result<(), Error> {
        let scale = self.scale(site.alpha, site.rank);
        product::attach(&mut site, self.initialisation, scale)
    }

    fn peft(&self) -> Peft {
        self.initialisation.peft().with("use_rslora", true)
    }
}
