//! Full fine-tuning: every tensor of the model trains. No adapter comes of it: the tensors are saved
//! as they are called in the checkpoint.

use serde::{Deserialize, Serialize};

use super::{Common, Rule};
use crate::Error;
use crate::engine::parameters::Gathering;
use crate::module::Modules;

rankwise_data::documented! {
/// Full fine-tuning has no settings.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {}
}

impl Settings {
    pub(super) fn rule(&self, _common: &Common) -> Result<Box<dyn Rule>, Error> {
        Ok(Box::new(Full))
    }
}

#[derive(Debug)]
struct Full;

impl Rule for Full {
    fn adapts(&self) -> bool {
        false
    }

    fn choose(&self, modules: &mut Modules, gathering: &mut Gathering) -> Result<(), Error> {
        modules.train(gathering, |_, _| true);
        Ok(())
    }
}
