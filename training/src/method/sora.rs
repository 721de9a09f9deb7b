//! SoRA (Ding et al. 2023): LoRA with a gate between its factors that a proximal step makes sparse.
//!
//! ```text
//! y += s B (g ⊙ A drop(x)),   L += λ₁ mean |g|,
//! after the optimiser's step:  g ← sign(g) max(|g| − t, 0)
//! ```
//!
//! Two penalties act: λ₁ as a term of the loss (the mean over all gates of the model), t as the
//! shrinkage. In the paper t = ηλ with the learning rate η; the authors' code differs twice, and both
//! are offered:
//!
//! | `shrinkage` | what happens to a gate |
//! |---|---|
//! | `proximal` (default) | the formula above with t = ηλ, λ = `threshold` |
//! | `code` | t = `threshold` whatever η is; and zeroing comes after shrinking: \|g\| < 2t goes to 0 (but \|g\| = t stays), \|g\| ≥ 2t to \|g\| − t |
//!
//! The default threshold 0.5 lies between what the authors' scripts come to, t/η = 3·10⁻⁴/8·10⁻⁴ and
//! 7·10⁻⁴/1.2·10⁻³. Beside Adam, whose steps are about η at most, a threshold well above 1 zeroes every
//! gate in the order of its first size, whatever the task's gradient. Gates have AdamW with ε = 10⁻⁶, no
//! decay, and a learning rate of their own if `gate_rate` says so; its moments see nothing of the
//! shrinkage. With `rounds` > 1 the threshold grows from round to round (the code trains the same
//! model once a round; its learning rate schedule has ended after the first, which is not followed
//! here: the rounds share out the run).
//!
//! A gate of zero has a gradient, so directions can come back until training ends. The rank is the
//! number of gates that are not zero. In PEFT: a plain LoRA of the remaining directions with g
//! multiplied into B, whose scale is still α/R: its α has to be α·rank/R. Source: the authors' SoRA
//! repository (c275ac2); the paper's equations 7 to 9 from memory.

use candle_core::{DType, Device, Tensor};
use serde::{Deserialize, Serialize};

use super::product::{self, FirstValues};
use super::{Common, Made, Peft, Rule, Site, Step, numbers, setting, within};
use crate::Error;
use crate::draw::normal;
use crate::engine::parameters::Treatment;
use crate::engine::{Gradients, ParameterId, Parameters};
use crate::module::{Modules, Value};

/// Which shrinkage acts on the gates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Shrinkage {
    /// The proximal step of η·`threshold`·|g|, as in the paper.
    #[default]
    Proximal,
    /// What the authors' code does.
    Code,
}

/// How the threshold goes from `threshold` to `last_threshold` over the rounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Spacing {
    /// Equal steps.
    #[default]
    Linear,
    /// Equal steps of eᵗ.
    LogLinear,
    /// Equal ratios.
    ExpLinear,
}

rankwise_data::documented! {
/// SoRA's own settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// λ₁: the weight of the gates' ℓ₁ norm.
    pub penalty: f64,
    /// Which shrinkage acts.
    pub shrinkage: Shrinkage,
    /// The shrinkage's size; by default 0.5 for `proximal`, 0.001 for `code`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threshold: Option<f64>,
    /// The shrinkage's size in the last round; by default the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_threshold: Option<f64>,
    /// Rounds, each with its own threshold.
    pub rounds: usize,
    /// How the threshold goes over the rounds.
    pub spacing: Spacing,
    /// Peak learning rate of the gates; by default the run's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gate_rate: Option<f64>,
    /// How A begins.
    pub initialisation: FirstValues,
}
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            penalty: 1e-3,
            shrinkage: Shrinkage::default(),
            threshold: None,
            last_threshold: None,
            rounds: 1,
            spacing: Spacing::default(),
            gate_rate: None,
            initialisation: FirstValues::default(),
        }
    }
}

impl Settings {
    pub(super) fn rule(&self, _common: &Common) -> Result<Box<dyn Rule>, Error> {
        within("penalty", self.penalty, 0.0, f64::MAX)?;
        let threshold = self.first_threshold();
        within("threshold", threshold, 0.0, f64::MAX)?;
        let last = self.last_threshold.unwrap_or(threshold);
        within("last_threshold", last, 0.0, f64::MAX)?;
        if self.rounds == 0 {
            return Err(setting("rounds", "at least 1", self.rounds));
        }
        if self.spacing == Spacing::ExpLinear && (threshold == 0.0 || last == 0.0) {
            return Err(setting("threshold", "above 0 for equal ratios", 0));
        }
        if let Some(rate) = self.gate_rate {
            within("gate_rate", rate, 0.0, f64::MAX)?;
        }
        Ok(Box::new(Sora {
            settings: self.clone(),
            gates: Vec::new(),
            count: 0,
        }))
    }

    /// Writes out the thresholds that follow from others.
    pub(super) fn write_thresholds(&mut self) {
        let first = self.first_threshold();
        self.threshold = Some(first);
        self.last_threshold.get_or_insert(first);
    }

    fn first_threshold(&self) -> f64 {
        self.threshold.unwrap_or(match self.shrinkage {
            Shrinkage::Proximal => 0.5,
            Shrinkage::Code => 1e-3,
        })
    }

    /// The threshold at a step.
    pub(super) fn threshold_at(&self, step: Step) -> f64 {
        let first = self.first_threshold();
        let last = self.last_threshold.unwrap_or(first);
        let round = ((step.share() * self.rounds as f64) as usize).min(self.rounds - 1);
        if round == 0 || first == last {
            return first;
        }
        let share = round as f64 / (self.rounds - 1) as f64;
        let between = |first: f64, last: f64| first + (last - first) * share;
        match self.spacing {
            Spacing::Linear => between(first, last),
            // ln(e^first + …) without raising e to large powers.
            Spacing::LogLinear => {
                let largest = first.max(last);
                largest + between((first - largest).exp(), (last - largest).exp()).ln()
            }
            Spacing::ExpLinear => between(first.ln(), last.ln()).exp(),
        }
    }
}

/// A gate after the shrinkage by `t`.
pub(super) fn shrunk(gate: f64, t: f64, shrinkage: Shrinkage) -> f64 {
    let size = gate.abs();
    match shrinkage {
        Shrinkage::Proximal => (size - t).max(0.0).copysign(gate),
        Shrinkage::Code => {
            let less = if size > t { size - t } else { size };
            let less = if less < t { 0.0 } else { less };
            less.copysign(gate)
        }
    }
}

#[derive(Debug)]
struct Sora {
    settings: Settings,
    gates: Vec<ParameterId>,
    /// Numbers in all gates.
    count: usize,
}

impl Rule for Sora {
    fn attach(&mut self, mut site: Site<'_>) -> Result<(), Error> {
        let scale = self.scale(site.alpha, site.rank);
        product::attach(&mut site, self.settings.initialisation, scale)?;
        let name = &site.module.declared.name;
        let gate = normal(site.seed, &format!("sora gate {name}"), site.rank, 1.0);
        let gate = Tensor::from_vec(gate, site.rank, &Device::Cpu)?;
        let treatment = Treatment {
            peak: self.settings.gate_rate,
            epsilon: Some(1e-6),
            ..Treatment::WITHOUT_DECAY
        };
        let gate = site
            .gathering
            .add(format!("{name}.lora_gate"), gate, treatment);
        self.gates.push(gate);
        self.count += site.rank;
        if let Some(adapter) = &mut site.module.adapter {
            adapter.gate = Some(Value::Trained(gate));
        }
        Ok(())
    }

    fn regularise(
        &self,
        _: Step,
        _: &Modules,
        parameters: &Parameters,
        gradients: &mut Gradients,
    ) -> Result<f64, Error> {
        let weight = self.settings.penalty / self.count.max(1) as f64;
        let mut sum = 0.0;
        for id in self.gates.iter().filter(|_| weight > 0.0) {
            let gate = parameters.view(*id);
            let total = gate.abs()?.sum_all()?.to_dtype(DType::F64)?;
            sum += total.to_scalar::<f64>()?;
            gradients.add_parameter(*id, (gate.sign()? * weight)?)?;
        }
        Ok(weight * sum)
    }

    fn settle(
        &mut self,
        made: Made<'_>,
        _: &mut Modules,
        parameters: &Parameters,
    ) -> Result<(), Error> {
        for id in &self.gates {
            let gate = parameters.view(*id);
            let treatment = &parameters.part(*id).treatment;
            let threshold = self.settings.threshold_at(made.step);
            let t = match self.settings.shrinkage {
                Shrinkage::Proximal => threshold * made.rate_of(treatment),
                Shrinkage::Code => threshold,
            };
            let values: Vec<_> = numbers(gate)?
                .into_iter()
                .map(|value| shrunk(value, t, self.settings.shrinkage))
                .collect();
            let values = Tensor::from_vec(values, gate.dims(), &Device::Cpu)?;
            parameters.set(*id, &values.to_device(gate.device())?)?;
        }
        Ok(())
    }

    fn peft(&self) -> Peft {
        self.settings.initialisation.peft()
    }
}
