//! BitFit (Ben Zaken, Goldberg & Ravfogel 2022): the biases train, those of norms among them, and the
//! task's head; nothing has a rank, and no bias decays.
//!
//! A choice of components (query, key, value, intermediate, output, LayerNorm) matches by a part of
//! the name, so `output` takes the attention output's bias too, and the pooler's bias is always among
//! them, as in the authors' code. PEFT has no such adapter: the trained tensors are saved as they are
//! called in the checkpoint. Source: the authors' BitFit repository (7ead19a).

use serde::{Deserialize, Serialize};

use super::{Common, Rule, setting};
use crate::Error;
use crate::engine::parameters::Gathering;
use crate::module::{Modules, Part};

rankwise_data::documented! {
/// BitFit's settings.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Parts of the names of modules whose biases train, beside the pooler's; empty: all biases.
    pub components: Vec<String>,
}
}

impl Settings {
    pub(super) fn rule(&self, _common: &Common) -> Result<Box<dyn Rule>, Error> {
        Ok(Box::new(BitFit {
            components: self.components.clone(),
        }))
    }
}

#[derive(Debug)]
struct BitFit {
    components: Vec<String>,
}

impl Rule for BitFit {
    fn adapts(&self) -> bool {
        false
    }

    fn choose(&self, modules: &mut Modules, gathering: &mut Gathering) -> Result<(), Error> {
        let chosen = |name: &str| {
            self.components.is_empty()
                || name.contains("pooler")
                || self
                    .components
                    .iter()
                    .any(|part| name.contains(part.as_str()))
        };
        let pretrained: Vec<_> = modules
            .0
            .iter()
            .map(|module| &module.declared)
            .filter(|declared| declared.has_bias && !declared.is_head)
            .collect();
        if pretrained.is_empty() {
            let expected = "a model with biases: of this one only the head would train";
            return Err(setting("name", expected, "bitfit"));
        }
        for part in &self.components {
            if !pretrained
                .iter()
                .any(|module| module.name.contains(part.as_str()))
            {
                let expected = "parts of the names of modules with a bias";
                return Err(setting("components", expected, format!("{part:?}")));
            }
        }
        modules.train(gathering, |module, part| {
            part == Part::Bias && chosen(&module.name)
        });
        Ok(())
    }
}
