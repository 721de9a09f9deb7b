//! VeRA (Kopiczko, Blankevoort & Asano 2024): all layers share one frozen random pair of factors; a
//! layer trains one number a direction and one an output.
//!
//! ```text
//! y += b ⊙ B (d ⊙ A drop(x)),   b = 0,   d = 0.1 at the beginning
//! ```
//!
//! A (R × the widest input) and B (the widest output × R) are drawn once; a layer takes the first
//! columns of A and the first rows of B, so another widest target changes every layer. They are
//! drawn as PEFT draws them, to the bit ([`rankwise_analysis::vera_projections`]): PEFT loads our
//! adapter with or without the saved projections. There is no α, and one R for all layers (PEFT's
//! default is 256), which may be larger than a layer is wide. b and d get no weight decay. In PEFT:
//! `vera_lambda_b`, `vera_lambda_d`, and `vera_A`, `vera_B` once. Source: the paper's section 3;
//! huggingface/peft.

use candle_core::{Device, Tensor};
use rankwise_analysis::vera_projections;
use serde::{Deserialize, Serialize};

use super::{Common, Peft, Planned, Rule, Site, setting, within};
use crate::Error;
use crate::engine::parameters::Treatment;
use crate::module::{Adapter, Declared, Squash, Value};

rankwise_data::documented! {
/// VeRA's own settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// What the projections are drawn from: PEFT's `projection_prng_key`.
    pub projection_key: u32,
    /// d at the beginning: PEFT's `d_initial`.
    pub first_gate: f64,
}
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            projection_key: 0,
            first_gate: 0.1,
        }
    }
}

impl Settings {
    pub(super) fn rule(&self, common: &Common) -> Result<Box<dyn Rule>, Error> {
        within("first_gate", self.first_gate, f64::MIN, f64::MAX)?;
        if let Some(alpha) = common.alpha {
            return Err(setting("alpha", "nothing: VeRA has no scale", alpha));
        }
        if let Some(pattern) = common.alpha_pattern.keys().next() {
            let expected = "nothing: VeRA has no scale";
            return Err(setting("alpha_pattern", expected, pattern));
        }
        if let Some(pattern) = common.rank_pattern.keys().next() {
            let expected = "nothing: VeRA's layers share their factors";
            return Err(setting("rank_pattern", expected, pattern));
        }
        Ok(Box::new(Vera {
            settings: self.clone(),
            projections: None,
        }))
    }
}

#[derive(Debug)]
struct Vera {
    settings: Settings,
    /// A (R × widest input) and Bᵀ (R × widest output).
    projections: Option<(Tensor, Tensor)>,
}

/// Numbers in the projections that are taken for meant: those of R = 4096 and sides of 65,536.
const MOST: usize = 1 << 29;

impl Rule for Vera {
    fn largest_rank(&self, _declared: &Declared) -> usize {
        usize::MAX
    }

    fn prepare(&mut self, plan: &mut [Planned<'_>]) -> Result<(), Error> {
        let Some(rank) = plan.first().map(|planned| planned.rank) else {
            return Ok(());
        };
        let widest = |side: fn(&Declared) -> usize| {
            let sides = plan.iter().map(|planned| side(&planned.module.declared));
            sides.max().unwrap_or(0)
        };
        let (inputs, outputs) = (widest(Declared::inputs), widest(Declared::outputs));
        if rank.saturating_mul(inputs + outputs) > MOST {
            let expected = format!("projections of at most {MOST} numbers");
            return Err(setting("rank", expected, rank));
        }
        let key = u64::from(self.settings.projection_key);
        let (a, b) = vera_projections(key, rank, inputs, outputs);
        let a = Tensor::from_vec(a.into_iter().collect(), (rank, inputs), &Device::Cpu)?;
        let b = Tensor::from_vec(b.into_iter().collect(), (outputs, rank), &Device::Cpu)?;
        self.projections = Some((a, b.t()?.contiguous()?));
        Ok(())
    }

    fn scale(&self, _alpha: f64, _rank: usize) -> f64 {
        1.0
    }

    fn attach(&mut self, site: Site<'_>) -> Result<(), Error> {
        let Some((a, b)) = &self.projections else {
            return Err(setting("targets", "modules that were planned", "others"));
        };
        let declared = &site.module.declared;
        let like = match &site.module.weight {
            Value::Frozen(weight) => weight,
            Value::Trained(_) => return Err(super::product::no_frozen_weight(declared)),
        };
        // Drawn in float32, so nothing is lost.
        let part = |factor: &Tensor, width: usize| {
            let part = factor.narrow(1, 0, width)?.contiguous()?;
            part.to_dtype(like.dtype())?.to_device(like.device())
        };
        let a = part(a, declared.inputs())?;
        let b = part(b, declared.outputs())?;
        let name = &declared.name;
        let gate = Tensor::full(self.settings.first_gate, site.rank, &Device::Cpu)?;
        let output_gate = Tensor::zeros(declared.outputs(), gate.dtype(), &Device::Cpu)?;
        let treatment = Treatment::WITHOUT_DECAY;
        let gathering = site.gathering;
        let output_gate = gathering.add(format!("{name}.vera_lambda_b"), output_gate, treatment);
        let gate = gathering.add(format!("{name}.vera_lambda_d"), gate, treatment);
        site.module.adapter = Some(Adapter {
            gate: Some(Value::Trained(gate)),
            squash: Squash::None,
            output_gate: Some(Value::Trained(output_gate)),
            ..Adapter::of(Value::Frozen(a), Value::Frozen(b), 1.0, site.dropout)
        });
        Ok(())
    }

    fn peft(&self) -> Peft {
        Peft {
            kind: Some("VERA"),
            ..Peft::default()
        }
        .with("projection_prng_key", self.settings.projection_key)
        .with("d_initial", self.settings.first_gate)
        .with("save_projection", true)
    }
}
