//! LoRA (Hu et al. 2021): ΔW = s·B·A with s = α/R, A random and B zero at the beginning.
//!
//! ```text
//! y += s B A drop(x)
//! ```
//!
//! In PEFT: `lora_A.weight` = A and `lora_B.weight` = B. Source: the paper's section 4; first values
//! as in huggingface/peft.

use serde::{Deserialize, Serialize};

use super::product::{self, FirstValues};
use super::{Common, Peft, Rule, Site};
use crate::Error;

rankwise_data::documented! {
/// LoRA's own settings.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// How A begins.
    pub initialisation: FirstValues,
}
}

impl Settings {
    pub(super) fn rule(&self, _common: &Common) -> Result<Box<dyn Rule>, Error> {
        Ok(Box::new(Lora {
            initialisation: self.initialisation,
        }))
    }
}

#[derive(Debug)]
struct Lora {
    initialisation: FirstValues,
}

impl Rule for Lora {
    fn attach(&mut self, mut site: Site<'_>) -> Result<(), Error> {
        let scale = self.scale(site.alpha, site.rank);
        product::attach(&mut site, self.initialisation, scale)
    }

    fn peft(&self) -> Peft {
        self.initialisation.peft()
    }
}
