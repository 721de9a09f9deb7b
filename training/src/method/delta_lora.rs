//! Delta-LoRA (Zi et al. 2023): LoRA on a weight that moves along with the product of the factors.
//!
//! ```text
//! after the optimiser's step t, if t > K:   W += λ s (B₁A₁ − B₀A₀)     (after minus before the step)
//! ```
//!
//! W has no gradient and no moments. With a constant λ the changes telescope to
//!
//! ```text
//! W = W₀ + λ s (B A − B* A*),     B*, A*: the factors before step K + 1
//! ```
//!
//! and that is how W is computed here: nothing is lost to rounding however small a step's change is,
//! and a checkpoint keeps B* and A* instead of W (W₀ stays in memory beside W). The whole update, W's change and the branch
//! together, is s((1 + λ) B A − λ B* A*): of rank 2R at most, against what the title says. In PEFT a
//! plain LoRA of rank 2R and α doubled: [(1 + λ)B, −λB*] and [A; A*]. Dropout has to be 0, since W's
//! change sees none. Source: the paper's algorithm 1, through a third-party copy; λ = 2, K = 500 there.

use std::collections::BTreeMap;

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use super::product::{self, FirstValues};
use super::{Common, Made, Peft, Rule, Site, Step, kept, setting, unknown_state, within};
use crate::Error;
use crate::engine::{ParameterId, Parameters};
use crate::module::{ModuleId, Modules, Value};

/// K of the paper's runs.
const USUAL_START: u64 = 500;

rankwise_data::documented! {
/// Delta-LoRA's own settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// λ: how much of the product's change goes into the weight.
    pub lambda: f64,
    /// K: the last step (from 0) after which W stands still; by default 500, but at most a tenth of the
    /// run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start: Option<u64>,
    /// How A begins.
    pub initialisation: FirstValues,
}
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            lambda: 2.0,
            start: None,
            initialisation: FirstValues::default(),
        }
    }
}

impl Settings {
    pub(super) fn rule(&self, common: &Common) -> Result<Box<dyn Rule>, Error> {
        within("lambda", self.lambda, 0.0, f64::MAX)?;
        if common.dropout > 0.0 {
            let expected = "0: the weight's change sees no dropout";
            return Err(setting("dropout", expected, common.dropout));
        }
        Ok(Box::new(DeltaLora {
            settings: self.clone(),
            sites: BTreeMap::new(),
        }))
    }
}

impl Settings {
    /// K in a run of `of` steps.
    fn start(&self, of: u64) -> Result<u64, Error> {
        let start = self.start.unwrap_or(USUAL_START.min(of / 10));
        // Otherwise the run would be plain LoRA under another name.
        if start.saturating_add(1) >= of && of > 1 {
            let expected = format!("fewer than the run's {of} steps, so that the weight moves");
            return Err(setting("start", expected, start));
        }
        Ok(start)
    }
}

#[derive(Debug)]
struct DeltaLora {
    settings: Settings,
    sites: BTreeMap<ModuleId, Moving>,
}

/// A weight that moves.
#[derive(Debug)]
struct Moving {
    name: String,
    first: Tensor,
    a: ParameterId,
    b: ParameterId,
    scale: f64,
    /// A* and B*ᵀ, from step K + 1 on.
    start: Option<(Tensor, Tensor)>,
}

impl Moving {
    /// W now.
    fn weight(
        &self,
        lambda: f64,
        modules: &Modules,
        module: ModuleId,
        parameters: &Parameters,
    ) -> Result<Option<Tensor>, Error> {
        let Some((a, b)) = &self.start else {
            return Ok(None);
        };
        let product = |a: &Tensor, b: &Tensor| b.t()?.matmul(a);
        let now = product(parameters.view(self.a), parameters.view(self.b))?;
        let change = ((now - product(a, b)?)? * (lambda * self.scale))?;
        let change = modules[module].declared.stored(&change)?;
        let first = self.first.to_dtype(change.dtype())?;
        Ok(Some((first + change)?.to_dtype(self.first.dtype())?))
    }
}

impl DeltaLora {
    fn move_weights(&self, modules: &mut Modules, parameters: &Parameters) -> Result<(), Error> {
        for (module, moving) in &self.sites {
            let weight = moving.weight(self.settings.lambda, modules, *module, parameters)?;
            if let Some(weight) = weight {
                modules[*module].weight = Value::Frozen(weight);
            }
        }
        Ok(())
    }
}

impl Rule for DeltaLora {
    fn attach(&mut self, mut site: Site<'_>) -> Result<(), Error> {
        let scale = self.scale(site.alpha, site.rank);
        let declared = site.module.declared.clone();
        let Value::Frozen(first) = site.module.weight.clone() else {
            return Err(product::no_frozen_weight(&declared));
        };
        let (a, b) = product::first_factors(&site, self.settings.initialisation)?;
        let (a, b) = product::attach_factors(&mut site, a, b, scale);
        let moving = Moving {
            name: declared.name,
            first,
            a,
            b,
            scale,
            start: None,
        };
        self.sites.insert(site.module.id, moving);
        Ok(())
    }

    fn begin(&mut self, step: Step, _: &mut Modules, parameters: &Parameters) -> Result<(), Error> {
        if step.number <= self.settings.start(step.of)? {
            return Ok(());
        }
        for moving in self
            .sites
            .values_mut()
            .filter(|moving| moving.start.is_none())
        {
            // Views of the buffer change with it.
            let (a, b) = (parameters.view(moving.a), parameters.view(moving.b));
            moving.start = Some((a.copy()?, b.copy()?));
        }
        Ok(())
    }

    fn settle(
        &mut self,
        _: Made<'_>,
        modules: &mut Modules,
        parameters: &Parameters,
    ) -> Result<(), Error> {
        self.move_weights(modules, parameters)
    }

    fn state(&self) -> Vec<(String, Tensor)> {
        let mut state = Vec::new();
        for moving in self.sites.values() {
            if let Some((a, b)) = &moving.start {
                state.push((format!("{}.start_A", moving.name), a.clone()));
                state.push((format!("{}.start_B", moving.name), b.clone()));
            }
        }
        state
    }

    fn restore(
        &mut self,
        state: &BTreeMap<String, Tensor>,
        modules: &mut Modules,
        parameters: &Parameters,
    ) -> Result<(), Error> {
        let mut known = 0;
        for moving in self.sites.values_mut() {
            moving.start = None;
            if state.is_empty() {
                continue;
            }
            let part = |part: &str, like: ParameterId| -> Result<Tensor, Error> {
                let name = format!("{}.start_{part}", moving.name);
                let (own, kept) = (parameters.view(like), kept(state, &name)?);
                if own.dims() != kept.dims() {
                    return Err(unknown_state(&format!("{name} of {:?}", kept.dims())));
                }
                Ok(kept.to_dtype(own.dtype())?.to_device(own.device())?)
            };
            let start = (part("A", moving.a)?, part("B", moving.b)?);
            moving.start = Some(start);
            known += 2;
        }
        if known != state.len() {
            return Err(unknown_state("tensors of other modules"));
        }
        // Before the first moved weight is asked for.
        for (module, moving) in &self.sites {
            modules[*module].weight = Value::Frozen(moving.first.clone());
        }
        self.move_weights(modules, parameters)
    }

    fn peft(&self) -> Peft {
        self.settings.initialisation.peft()
    }
}
