//! AdaLoRA (Zhang et al. 2023): an update in the form of a singular value decomposition, whose
//! directions compete for a budget that shrinks during training.
//!
//! ```text
//! ΔW = s B diag(E) A,   s = α/(R₀ + 10⁻⁵),   A, B ~ N(0, 0.02²),  E = 0 at the beginning
//! L += γ Σ (‖A Aᵀ − I‖²_F + ‖Bᵀ B − I‖²_F)
//! ```
//!
//! After the optimiser's step t of T, with the new p and the gradient that made it (clipped), for
//! every number of A, B and E while t < T − t_f:
//!
//! ```text
//! I = |p ∂L/∂p|,   Ī ← β₁ Ī + (1 − β₁) I,   U ← β₂ U + (1 − β₂) |I − Ī|      (both from 0)
//! score of direction i = ĪU(E_i) + mean_j ĪU(A_ij) + mean_j ĪU(B_ji)
//! ```
//!
//! Up to t_i the budget is all directions; then it falls to the target with the cube of what is left
//! until T − t_f, and every ΔT steps E is set to 0 where the score is at most the k-th smallest of
//! all, k being the number of directions beyond the budget (ties go too). Masked E keep their
//! gradients and moments and can grow again, until at T − t_f the pattern is drawn for good and
//! applied after every further step. R₀ stays in the scale when directions are gone.
//! E gets no weight decay, like all gates here (the authors' AdamW decays it).
//!
//! `rank` is the target's mean; a module begins with `first_rank`/`rank` times its own. The paper's
//! regulariser is the sum of squares above; the authors' code and PEFT have γ/n Σ ‖·‖_F over the n factors
//! instead, not squared: `regulariser` has both. The default is the code's, to which the γ of 0.1 of its
//! scripts belongs: the gradient of the sum of squares is 2n‖·‖_F times as large. The mask at T − t_f is PEFT's; the authors' code draws it only
//! if ΔT divides T − t_f, and then again from the same scores after every step.
//!
//! In PEFT: `peft_type` ADALORA with `lora_A`, `lora_B`, `lora_E` (R × 1), without `.weight`, and the
//! pattern as `rank_pattern` if pruned directions are dropped; R₀ is not saved there but is `init_r`.
//! Source: AdaLoRA's authors (d10f5eb); huggingface/peft.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};
use serde::{Deserialize, Serialize};

use super::allocation::{Importance, Triplets, budget, staying};
use super::product;
use super::{Common, Made, Peft, Planned, Rule, Site, Step, setting, unknown_state, within};
use crate::Error;
use crate::draw::normal;
use crate::engine::parameters::Treatment;
use crate::engine::{Gradients, Parameters};
use crate::module::{Modules, Value};

/// Which regulariser keeps the factors orthogonal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Orthogonal {
    /// Σ ‖·‖²_F, the paper's formula.
    SquaredSum,
    /// The mean of ‖·‖_F over all factors, the authors' code's and PEFT's.
    #[default]
    MeanNorm,
}

rankwise_data::documented! {
/// AdaLoRA's own settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// R₀ of a module of rank `rank`: PEFT's `init_r`; by default one and a half of `rank`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_rank: Option<usize>,
    /// t_i: steps before the first direction is taken away; by default a tenth of the run's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub initial_steps: Option<u64>,
    /// t_f: steps after the last direction is taken away; by default half of the run's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub final_steps: Option<u64>,
    /// ΔT: steps from one choice of directions to the next.
    pub period: u64,
    /// β₁ of the running mean of sensitivities.
    pub beta1: f64,
    /// β₂ of the running mean of their uncertainty.
    pub beta2: f64,
    /// γ: the weight of the regulariser.
    pub regularisation: f64,
    /// Which regulariser γ multiplies.
    pub regulariser: Orthogonal,
}
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            first_rank: None,
            initial_steps: None,
            final_steps: None,
            period: 1,
            beta1: 0.85,
            beta2: 0.85,
            regularisation: 0.1,
            regulariser: Orthogonal::default(),
        }
    }
}

impl Settings {
    pub(super) fn rule(&self, common: &Common) -> Result<Box<dyn Rule>, Error> {
        within("beta1", self.beta1, 0.0, 1.0)?;
        within("beta2", self.beta2, 0.0, 1.0)?;
        within("regularisation", self.regularisation, 0.0, f64::MAX)?;
        if self.period == 0 {
            return Err(setting("period", "at least 1", self.period));
        }
        let rank = common.rank.max(1);
        let first = self.first_rank.unwrap_or((3 * rank).div_ceil(2));
        if first < rank {
            let expected = format!("at least the rank {rank}");
            return Err(setting("first_rank", expected, first));
        }
        Ok(Box::new(AdaLora {
            settings: self.clone(),
            growth: first as f64 / rank as f64,
            ranks: (first, rank),
            targets: BTreeMap::new(),
            sites: Vec::new(),
            total: 0,
        }))
    }

    /// R₀ of a module of rank `rank`, if it is not cut to the module's size.
    pub(crate) fn first_of(&self, rank: usize) -> usize {
        let first = self.first_rank.unwrap_or((3 * rank).div_ceil(2));
        (rank as f64 * (first as f64 / rank.max(1) as f64)).ceil() as usize
    }

    /// T − t_f and t_i of a run of `of` steps.
    fn ends(&self, of: u64) -> Result<(u64, u64), Error> {
        let initial = self.initial_steps.unwrap_or(of / 10);
        let last = self.final_steps.unwrap_or(of / 2);
        if initial.saturating_add(last) >= of {
            let expected = format!("fewer than the run's {of} steps with final_steps");
            let found = format!("{initial} + {last}");
            return Err(setting("initial_steps", expected, found));
        }
        Ok((of - last, initial))
    }
}

#[derive(Debug)]
struct AdaLora {
    settings: Settings,
    /// R₀ over R.
    growth: f64,
    /// PEFT's `init_r` and `target_r`.
    ranks: (usize, usize),
    /// R of every module.
    targets: BTreeMap<String, usize>,
    sites: Vec<Triplets>,
    /// T, once known.
    total: u64,
}

impl AdaLora {
    fn budget(&self, step: Step) -> Result<usize, Error> {
        let (end, initial) = self.settings.ends(step.of)?;
        let first = self.sites.iter().map(|site| site.rank).sum();
        let target = self.targets.values().sum();
        Ok(budget(step.number, initial, end, first, target))
    }

    fn patterns(&self, budget: usize) -> Vec<Vec<bool>> {
        let scores: Vec<_> = self.sites.iter().map(Triplets::scores).collect();
        staying(&scores, budget)
    }
}

impl Rule for AdaLora {
    fn prepare(&mut self, plan: &mut [Planned<'_>]) -> Result<(), Error> {
        for planned in plan {
            let declared = &planned.module.declared;
            self.targets.insert(declared.name.clone(), planned.rank);
            let largest = self.largest_rank(declared);
            // A target that is too large is reported as it is.
            if planned.rank <= largest {
                let first = (planned.rank as f64 * self.growth).ceil() as usize;
                planned.rank = first.min(largest);
            }
        }
        Ok(())
    }

    fn scale(&self, alpha: f64, rank: usize) -> f64 {
        // PEFT's guard against a rank of zero; part of the method's scale everywhere.
        const GUARD: f64 = 1e-5;
        alpha / (rank as f64 + GUARD)
    }

    fn attach(&mut self, mut site: Site<'_>) -> Result<(), Error> {
        const DEVIATION: f64 = 0.02;
        let declared = site.module.declared.clone();
        let (rank, seed, name) = (site.rank, site.seed, &declared.name);
        let factor = |part: &str, width: usize| -> Result<Tensor, Error> {
            let values = normal(seed, &format!("{part} {name}"), rank * width, DEVIATION);
            Ok(Tensor::from_vec(values, (rank, width), &Device::Cpu)?)
        };
        let a = factor("lora A", declared.inputs())?;
        let b = factor("lora B", declared.outputs())?;
        let scale = self.scale(site.alpha, rank);
        let (a, b) = product::attach_factors(&mut site, a, b, scale);
        let gate = Tensor::zeros(rank, DType::F64, &Device::Cpu)?;
        let treatment = Treatment::WITHOUT_DECAY;
        let e = site
            .gathering
            .add(format!("{name}.lora_E"), gate, treatment);
        if let Some(adapter) = &mut site.module.adapter {
            adapter.gate = Some(Value::Trained(e));
        }
        self.sites.push(Triplets {
            a: Importance::new(a, rank * declared.inputs()),
            b: Importance::new(b, rank * declared.outputs()),
            e: Importance::new(e, rank),
            name: declared.name,
            rank,
            pattern: None,
        });
        Ok(())
    }

    fn begin(&mut self, step: Step, _: &mut Modules, _: &Parameters) -> Result<(), Error> {
        self.total = step.of;
        self.settings.ends(step.of).map(|_| ())
    }

    fn regularise(
        &self,
        _: Step,
        _: &Modules,
        parameters: &Parameters,
        gradients: &mut Gradients,
    ) -> Result<f64, Error> {
        let gamma = self.settings.regularisation;
        if gamma == 0.0 {
            return Ok(0.0);
        }
        let mut total = 0.0;
        for id in self.sites.iter().flat_map(|site| [site.a.id, site.b.id]) {
            let factor = parameters.view(id);
            let identity = Tensor::eye(factor.dim(0)?, factor.dtype(), factor.device())?;
            let excess = (factor.matmul(&factor.t()?)? - identity)?;
            let square = excess.sqr()?.sum_all()?.to_dtype(DType::F64)?;
            let square = square.to_scalar::<f64>()?;
            let (value, slope) = match self.settings.regulariser {
                Orthogonal::SquaredSum => (gamma * square, 4.0 * gamma),
                Orthogonal::MeanNorm => {
                    let weight = gamma / (2 * self.sites.len()) as f64;
                    let norm = square.sqrt();
                    // An orthogonal factor is the minimum, where the norm has a corner.
                    let slope = if norm > 0.0 { 2.0 * weight / norm } else { 0.0 };
                    (weight * norm, slope)
                }
            };
            total += value;
            gradients.add_parameter(id, (excess.matmul(factor)? * slope)?)?;
        }
        Ok(total)
    }

    fn settle(
        &mut self,
        made: Made<'_>,
        _: &mut Modules,
        parameters: &Parameters,
    ) -> Result<(), Error> {
        let step = made.step.number;
        let (end, initial) = self.settings.ends(made.step.of)?;
        if step < end {
            let (beta1, beta2) = (self.settings.beta1, self.settings.beta2);
            for site in &mut self.sites {
                for part in site.parts() {
                    part.update(made, parameters, beta1, beta2)?;
                }
            }
            if step > initial && step.is_multiple_of(self.settings.period) {
                let patterns = self.patterns(self.budget(made.step)?);
                for (site, pattern) in self.sites.iter().zip(patterns) {
                    site.mask(&pattern, parameters)?;
                }
            }
            return Ok(());
        }
        if step == end {
            let patterns = self.patterns(self.budget(made.step)?);
            for (site, pattern) in self.sites.iter_mut().zip(patterns) {
                site.pattern = Some(pattern);
                for part in site.parts() {
                    part.forget();
                }
            }
        }
        for site in &self.sites {
            if let Some(pattern) = &site.pattern {
                site.mask(pattern, parameters)?;
            }
        }
        Ok(())
    }

    fn state(&self) -> Vec<(String, Tensor)> {
        self.sites.iter().flat_map(Triplets::state).collect()
    }

    fn restore(
        &mut self,
        state: &BTreeMap<String, Tensor>,
        _: &mut Modules,
        _: &Parameters,
    ) -> Result<(), Error> {
        let mut known = 0;
        for site in &mut self.sites {
            known += site.restore(state)?;
        }
        if known != state.len() {
            return Err(unknown_state("tensors of other modules"));
        }
        Ok(())
    }

    fn peft(&self) -> Peft {
        let ends = self.settings.ends(self.total).ok();
        let (last, initial) = match ends {
            Some((end, initial)) => (self.total - end, initial),
            None => (0, 0),
        };
        let regularisation = match self.settings.regulariser {
            Orthogonal::MeanNorm => self.settings.regularisation,
            // PEFT's acts differently; what was trained needs none.
            Orthogonal::SquaredSum => 0.0,
        };
        Peft {
            kind: Some("ADALORA"),
            ..Peft::default()
        }
        .with("init_r", self.ranks.0)
        .with("target_r", self.ranks.1)
        .with("tinit", initial)
        .with("tfinal", last)
        .with("deltaT", self.settings.period)
        .with("beta1", self.settings.beta1)
        .with("beta2", self.settings.beta2)
        .with("orth_reg_weight", regularisation)
        .with("total_step", self.total)
    }
}
