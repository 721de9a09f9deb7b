//! BiLoRA (Qiang, Zhang & Xie 2024): an update in the form of a singular value decomposition whose
//! directions learn from one part of the training data and whose singular values from another, so
//! that the values cannot overfit what the directions have seen.
//!
//! ```text
//! ΔW = s P diag(λ) Q
//! level 1 (`inner_steps` steps):  P, Q and the head on D₁, minimising
//!                                 task + γ Σ (‖PᵀP − I‖²_F + ‖Q Qᵀ − I‖²_F);   λ stands still
//! level 2 (one step):             λ on D₂;   everything else stands still
//! ```
//!
//! λ is a softmax (the paper's choice), free, or near-binary (a logistic function with an entropy
//! penalty). What stands still keeps its moments: each level has its own optimiser. An epoch goes once
//! through D₁; the second level's steps come on top. Q begins as LoRA's A, P at zero and λ at 1/R
//! (softmax), 1 (free) or 1/2 (binary): the first level then has a gradient at once, and the second
//! after it; with λ = 0 the first would have none.
//!
//! The problem is nested: V = (P, Q, head) of the second level is what the first reaches for this λ, so
//! that λ's gradient has a part through V (`response`):
//!
//! ```text
//! none:                ∂L₂/∂λ                                       (DARTS's first order)
//! finite-difference:   ∂L₂/∂λ − (∂L₁/∂λ at V + εv − ∂L₁/∂λ at V − εv)/(2ε),
//!                      v = ∂L₂/∂V,  ε = 0.01/‖v‖,  L₁ on the first level's last batch
//! ```
//!
//! The second is −(∂²L₁/∂λ∂V)·v, that of one unit step of V: what Betty, the library that the authors
//! name, does by default, and their later BiDoRA with it. It costs two more passes a step of level 2. R₁
//! does not hold λ and drops out.
//!
//! The share of 0.2 is the paper's (8 : 2). Neither its whole text nor its code could be read; the
//! numbers of steps, the weights and the first values are settings with our defaults. γ multiplies a sum
//! of squares; the same authors' later code has the mean of unsquared norms, to which a γ of 0.1 there
//! belongs.
//!
//! The rank is the number of λ away from zero (a softmax has none). In PEFT: a plain LoRA with λ
//! multiplied into B, or AdaLoRA's tensors with E = λ. Source: arXiv 2403.13037, sections 3.1 to 4.4 as
//! its reviews quote them; t2ance/BiDoRA (e7922af), the authors' next; leopard-ai/betty (cb6221f).

use candle_core::{DType, Device, Tensor};
use serde::{Deserialize, Serialize};

use super::orthogonality::{LambdaSchedule, Regularised, Regulariser};
use super::product::{self, FirstValues};
use super::{Common, Level, Rule, Site, Step, setting, within};
use crate::Error;
use crate::engine::parameters::Treatment;
use crate::engine::{Gradients, ParameterId, Parameters};
use crate::module::{Modules, Squash, Value};

/// What the singular values may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Values {
    /// Positive, with the sum 1 in every module.
    #[default]
    Softmax,
    /// Any numbers.
    Free,
    /// Between 0 and 1, drawn to both ends by the entropy penalty.
    Binary,
}

/// What λ's gradient knows of how the directions follow λ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Response {
    /// Their answer to it, by a central difference.
    #[default]
    FiniteDifference,
    /// Nothing: they are taken as they are.
    None,
}

rankwise_data::documented! {
/// BiLoRA's own settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// The share of the training examples that the singular values learn from.
    pub second_share: f64,
    /// Steps of the directions before each step of the values.
    pub inner_steps: u64,
    /// γ: the weight of the regulariser that keeps P and Q orthogonal.
    pub regularisation: f64,
    /// The part of λ's gradient through the directions.
    pub response: Response,
    /// What the singular values may be.
    pub values: Values,
    /// Weight of the entropy Σ −λ ln λ − (1 − λ) ln(1 − λ) of `binary` values.
    pub entropy: f64,
    /// Peak learning rate of the values; by default the run's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value_rate: Option<f64>,
    /// How Q begins.
    pub initialisation: FirstValues,
}
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            second_share: 0.2,
            inner_steps: 2,
            regularisation: 0.1,
            response: Response::default(),
            values: Values::default(),
            entropy: 0.01,
            value_rate: None,
            initialisation: FirstValues::default(),
        }
    }
}

impl Settings {
    pub(super) fn rule(&self, _common: &Common) -> Result<Box<dyn Rule>, Error> {
        within("regularisation", self.regularisation, 0.0, f64::MAX)?;
        within("entropy", self.entropy, 0.0, f64::MAX)?;
        if !(self.second_share > 0.0 && self.second_share < 1.0) {
            return Err(setting(
                "second_share",
                "above 0 and below 1",
                self.second_share,
            ));
        }
        if self.inner_steps == 0 {
            return Err(setting("inner_steps", "at least 1", self.inner_steps));
        }
        if let Some(rate) = self.value_rate {
            within("value_rate", rate, 0.0, f64::MAX)?;
        }
        Ok(Box::new(BiLora {
            settings: self.clone(),
            gates: Vec::new(),
        }))
    }
}

/// ‖εv‖ of the response's difference.
const RADIUS: f64 = 0.01;

#[derive(Debug)]
struct BiLora {
    settings: Settings,
    gates: Vec<ParameterId>,
}

impl BiLora {
    /// Adds the entropy's gradient; returns its value.
    fn add_entropy(
        &self,
        parameters: &Parameters,
        gradients: &mut Gradients,
    ) -> Result<f64, Error> {
        let weight = self.settings.entropy;
        let mut total = 0.0;
        for id in &self.gates {
            let kept = parameters.view(*id);
            let gate = Squash::Sigmoid.apply(kept)?;
            // ∂/∂λ of the entropy is ln((1 − λ)/λ) = −θ.
            let slope = Squash::Sigmoid.backward(&gate, &(kept * -weight)?)?;
            gradients.add_parameter(*id, slope)?;
            for value in super::numbers(kept)? {
                // −λ ln λ − (1 − λ) ln(1 − λ) = ln(1 + e^−|θ|) + |θ| (1 − λ of |θ|).
                let size = value.abs();
                let small = (-size).exp();
                total += weight * (small.ln_1p() + size * small / (1.0 + small));
            }
        }
        Ok(total)
    }
}

impl Rule for BiLora {
    fn split(&self) -> Option<f64> {
        Some(self.settings.second_share)
    }

    fn level(&self, step: Step) -> Level {
        let inner = self.settings.inner_steps;
        match step.number % (inner + 1) == inner {
            true => Level::Second,
            false => Level::First,
        }
    }

    fn with_second(&self, first: u64) -> u64 {
        first + first / self.settings.inner_steps
    }

    fn looks_back(&self, step: Step) -> Option<u64> {
        let responds = self.settings.response == Response::FiniteDifference
            && self.level(step) == Level::Second;
        // The step before is of the first level.
        responds.then(|| step.number - 1)
    }

    fn respond(
        &self,
        parameters: &Parameters,
        gradients: &mut Gradients,
        earlier: &dyn Fn() -> Result<Gradients, Error>,
    ) -> Result<(), Error> {
        let mut directions = Vec::new();
        let mut squares = 0.0;
        for (id, _) in parameters.parts() {
            if let Some(v) = gradients
                .parameter(id)
                .filter(|_| !self.gates.contains(&id))
            {
                let v = v.to_dtype(DType::F64)?;
                squares += v.sqr()?.sum_all()?.to_scalar::<f64>()?;
                directions.push((id, parameters.view(id).to_dtype(DType::F64)?.copy()?, v));
            }
        }
        if squares == 0.0 || !squares.is_finite() {
            return Ok(());
        }
        let epsilon = RADIUS / squares.sqrt();
        let at = |epsilon: f64| -> Result<Gradients, Error> {
            for (id, kept, v) in &directions {
                parameters.set(*id, &(kept + (v * epsilon)?)?)?;
            }
            earlier()
        };
        let both = at(epsilon).and_then(|plus| Ok([plus, at(-epsilon)?]));
        for (id, kept, _) in &directions {
            parameters.set(*id, kept)?;
        }
        let [plus, minus] = both?;
        for gate in &self.gates {
            if let (Some(plus), Some(minus)) = (plus.parameter(*gate), minus.parameter(*gate)) {
                let difference = (minus.to_dtype(DType::F64)? - plus.to_dtype(DType::F64)?)?;
                gradients.add_parameter(*gate, (difference / (2.0 * epsilon))?)?;
            }
        }
        Ok(())
    }

    fn attach(&mut self, mut site: Site<'_>) -> Result<(), Error> {
        let scale = self.scale(site.alpha, site.rank);
        product::attach(&mut site, self.settings.initialisation, scale)?;
        let (first, squash) = match self.settings.values {
            Values::Free => (1.0, Squash::None),
            Values::Softmax => (0.0, Squash::Softmax),
            Values::Binary => (0.0, Squash::Sigmoid),
        };
        let gate = Tensor::full(first, site.rank, &Device::Cpu)?.to_dtype(DType::F64)?;
        let treatment = Treatment {
            peak: self.settings.value_rate,
            ..Treatment::WITHOUT_DECAY
        };
        let name = format!("{}.lora_lambda", site.module.declared.name);
        let gate = site.gathering.add(name, gate, treatment);
        self.gates.push(gate);
        if let Some(adapter) = &mut site.module.adapter {
            adapter.gate = Some(Value::Trained(gate));
            adapter.squash = squash;
        }
        Ok(())
    }

    fn begin(&mut self, step: Step, modules: &mut Modules, _: &Parameters) -> Result<(), Error> {
        let is_first = self.level(step) == Level::First;
        // The response asks for the directions' gradient too.
        let pulls = is_first || self.looks_back(step).is_some();
        for adapter in modules
            .0
            .iter_mut()
            .filter_map(|module| module.adapter.as_mut())
        {
            adapter.factors_move = pulls;
            adapter.gate_moves = !is_first;
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
        if self.level(step) == Level::First {
            let regulariser = Regulariser {
                lambda: self.settings.regularisation,
                lambda_schedule: LambdaSchedule::Constant,
                regularised: Regularised::Factors,
            };
            return regulariser.add(step, modules, parameters, gradients);
        }
        // The head and whatever else trains.
        for (id, _) in parameters
            .parts()
            .filter(|(id, _)| !self.gates.contains(id))
        {
            gradients.forget(id);
        }
        match self.settings.values {
            Values::Binary => self.add_entropy(parameters, gradients),
            Values::Free | Values::Softmax => Ok(0.0),
        }
    }
}
