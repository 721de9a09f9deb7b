//! LoRA+ (Hayou, Ghosh & Yu 2024): LoRA whose B learns faster than its A.
//!
//! | tensors | learning rate |
//! |---|---|
//! | both factors of an embedding | a fixed one |
//! | B, and every other trained vector (biases, norms) | η·ratio |
//! | A, and the rest | η |
//!
//! The first line that fits counts. Every rate follows the run's schedule. The paper argues for a
//! ratio far above 1 and uses about 16; the authors' code has no default, ours is 16. In PEFT: plain
//! LoRA, the rates being no part of an adapter. Source: the authors' loraplus repository (a0c44bf);
//! `create_loraplus_optimizer` of huggingface/peft.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::product::{self, FirstValues};
use super::{Common, Peft, Rule, Site, setting, within};
use crate::Error;
use crate::engine::parameters::{Parameter, Treatment};
use crate::module::Kind;

rankwise_data::documented! {
/// LoRA+'s own settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// B's learning rate as a multiple of A's.
    pub ratio: f64,
    /// Peak learning rate of both factors of an embedding.
    pub embedding_rate: f64,
    /// How A begins.
    pub initialisation: FirstValues,
}
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            ratio: 16.0,
            embedding_rate: 1e-6,
            initialisation: FirstValues::default(),
        }
    }
}

impl Settings {
    pub(super) fn rule(&self, _common: &Common) -> Result<Box<dyn Rule>, Error> {
        if !(self.ratio.is_finite() && self.ratio > 0.0) {
            return Err(setting("ratio", "above 0", self.ratio));
        }
        within("embedding_rate", self.embedding_rate, 0.0, f64::MAX)?;
        Ok(Box::new(LoraPlus {
            settings: self.clone(),
            of_embeddings: BTreeSet::new(),
        }))
    }
}

#[derive(Debug)]
struct LoraPlus {
    settings: Settings,
    /// Names of embeddings' factors.
    of_embeddings: BTreeSet<String>,
}

impl Rule for LoraPlus {
    fn attach(&mut self, mut site: Site<'_>) -> Result<(), Error> {
        let declared = &site.module.declared;
        if declared.kind == Kind::Embedding {
            let factors = ["lora_A", "lora_B"].map(|part| format!("{}.{part}", declared.name));
            self.of_embeddings.extend(factors);
        }
        let scale = self.scale(site.alpha, site.rank);
        product::attach(&mut site, self.settings.initialisation, scale)
    }

    fn treatment(&self, parameter: &Parameter) -> Treatment {
        let own = parameter.treatment;
        if self.of_embeddings.contains(&parameter.name) {
            return Treatment {
                peak: Some(self.settings.embedding_rate),
                ..own
            };
        }
        if parameter.name.ends_with(".lora_B") || parameter.shape.len() == 1 {
            return Treatment {
                rate: own.rate * self.settings.ratio,
                ..own
            };
        }
        own
    }

    fn peft(&self) -> Peft {
        self.settings.initialisation.peft()
    }
}
