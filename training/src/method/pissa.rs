//! PiSSA (Meng, Wang & Zhang 2024): LoRA that begins at the R largest singular directions of the
//! weight, of which what is left stays frozen.
//!
//! ```text
//! W = U Σ Vᵀ,   B₀ = U_R √(Σ_R/s),   A₀ = √(Σ_R/s) V_Rᵀ,   frozen: W − s B₀ A₀
//! ```
//!
//! The decomposition is exact and in float64; the randomised one of PEFT's `pissa_niter_k` is not
//! offered. PEFT decomposes in float32: products agree, signs of pairs of directions need not.
//! In PEFT: A and B with `init_lora_weights` = "pissa", which works only beside the same weight
//! decomposed again; for the plain LoRA of twice the rank see `residual`. Source: the paper's
//! section 3; `pissa_init` of huggingface/peft.

use ndarray::{Axis, Slice};
use rankwise_analysis::linalg;
use serde::{Deserialize, Serialize};

use super::residual::{self, Residual};
use super::{Common, Peft, Planned, Rule, Site};
use crate::Error;
use crate::module::{Declared, ModuleId};

rankwise_data::documented! {
/// PiSSA has no settings of its own.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {}
}

impl Settings {
    pub(super) fn rule(&self, _common: &Common) -> Result<Box<dyn Rule>, Error> {
        Ok(Box::new(Pissa::default()))
    }
}

#[derive(Debug, Default)]
struct Pissa {
    residual: Residual,
}

impl Rule for Pissa {
    fn largest_rank(&self, declared: &Declared) -> usize {
        residual::largest_rank(declared)
    }

    fn prepare(&mut self, plan: &mut [Planned<'_>]) -> Result<(), Error> {
        self.residual.prepare(plan, |weight, rank| {
            let linalg::Svd { u, s: sigma, vt } = linalg::svd(weight)?;
            let first = Slice::from(..rank);
            let mut a = vt.slice_axis(Axis(0), first).to_owned();
            let mut b = u.slice_axis(Axis(1), first).to_owned();
            for (index, sigma) in sigma.iter().take(rank).enumerate() {
                a.index_axis_mut(Axis(0), index)
                    .mapv_inplace(|x| x * sigma.sqrt());
                b.index_axis_mut(Axis(1), index)
                    .mapv_inplace(|x| x * sigma.sqrt());
            }
            Ok((a, b))
        })
    }

    fn attach(&mut self, site: Site<'_>) -> Result<(), Error> {
        let scale = self.scale(site.alpha, site.rank);
        self.residual.attach(site, scale, scale.sqrt())
    }

    fn taken_off(&self, module: ModuleId) -> Option<&(candle_core::Tensor, candle_core::Tensor)> {
        self.residual.taken_off(module)
    }

    fn peft(&self) -> Peft {
        Peft::default().with("init_lora_weights", "pissa")
    }
}
