//! OLoRA (Büyükakyüz 2024): LoRA that begins at the first R columns of the weight's QR
//! decomposition, of which what is left stays frozen.
//!
//! ```text
//! W = Q R,   B₀ = Q[:, :R],   A₀ = R[:R, :],   frozen: W − s B₀ A₀
//! ```
//!
//! No pivoting, no division by s, and R's diagonal may be negative, as in PEFT; signs of pairs of
//! directions need not agree with PEFT's, products do. Conv1D is decomposed as outputs × inputs like
//! any other layer (PEFT takes its stored orientation and fails). In PEFT: A and B with
//! `init_lora_weights` = "olora", beside the same weight decomposed again; for the plain LoRA of
//! twice the rank see `residual`. Source: the paper's algorithm 1; `olora_init` of huggingface/peft.

use ndarray::{Axis, Slice};
use rankwise_analysis::linalg;
use serde::{Deserialize, Serialize};

use super::residual::{self, Residual};
use super::{Common, Peft, Planned, Rule, Site};
use crate::Error;
use crate::module::{Declared, ModuleId};

rankwise_data::documented! {
/// OLoRA has no settings of its own.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {}
}

impl Settings {
    pub(super) fn rule(&self, _common: &Common) -> Result<Box<dyn Rule>, Error> {
        Ok(Box::new(Olora::default()))
    }
}

#[derive(Debug, Default)]
struct Olora {
    residual: Residual,
}

impl Rule for Olora {
    fn largest_rank(&self, declared: &Declared) -> usize {
        residual::largest_rank(declared)
    }

    fn prepare(&mut self, plan: &mut [Planned<'_>]) -> Result<(), Error> {
        self.residual.prepare(plan, |weight, rank| {
            let linalg::Qr { q, r } = linalg::qr(weight);
            let first = Slice::from(..rank);
            let a = r.slice_axis(Axis(0), first).to_owned();
            Ok((a, q.slice_axis(Axis(1), first).to_owned()))
        })
    }

    fn attach(&mut self, site: Site<'_>) -> Result<(), Error> {
        let scale = self.scale(site.alpha, site.rank);
        self.residual.attach(site, scale, 1.0)
    }

    fn taken_off(&self, module: ModuleId) -> Option<&(candle_core::Tensor, candle_core::Tensor)> {
        self.residual.taken_off(module)
    }

    fn peft(&self) -> Peft {
        Peft::default().with("init_lora_weights", "olora")
    }
}
