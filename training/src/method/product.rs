//! The plain product ΔW = s·B·A and its first values: what most low-rank methods attach.

use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};

use super::{Peft, Site, setting};
use crate::Error;
use crate::draw::{normal, uniform};
use crate::engine::ParameterId;
use crate::engine::parameters::Treatment;
use crate::module::{Adapter, Declared, Kind};

/// How A begins; B begins at zero. (Of embeddings, A begins at zero and B is N(0, 1), as in PEFT.)
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FirstValues {
    /// U(−1/√in, 1/√in): Kaiming's with a = √5, PEFT's default.
    #[default]
    KaimingUniform,
    /// N(0, 1/R²): PEFT's reading of LoRA's “random Gaussian”.
    Gaussian,
}

impl FirstValues {
    /// Plain LoRA with these first values, in PEFT's words.
    pub(super) fn peft(self) -> Peft {
        match self {
            Self::KaimingUniform => Peft::default(),
            Self::Gaussian => Peft::default().with("init_lora_weights", "gaussian"),
        }
    }
}

/// A (R × in) and Bᵀ (R × out) at the beginning.
pub(super) fn first_factors(
    site: &Site<'_>,
    first: FirstValues,
) -> Result<(Tensor, Tensor), Error> {
    let declared = &site.module.declared;
    let (inputs, outputs) = (declared.inputs(), declared.outputs());
    let (rank, seed, name) = (site.rank, site.seed, &declared.name);
    let stream = |part: &str| format!("{part} {name}");
    let (a, b) = if declared.kind == Kind::Embedding {
        let b = normal(seed, &stream("lora B"), rank * outputs, 1.0);
        (vec![0.0; rank * inputs], b)
    } else {
        let a = match first {
            FirstValues::KaimingUniform => {
                let bound = 1.0 / (inputs as f64).sqrt();
                uniform(seed, &stream("lora A"), rank * inputs, bound)
            }
            FirstValues::Gaussian => {
                normal(seed, &stream("lora A"), rank * inputs, 1.0 / rank as f64)
            }
        };
        (a, vec![0.0; rank * outputs])
    };
    let a = Tensor::from_vec(a, (rank, inputs), &Device::Cpu)?;
    let b = Tensor::from_vec(b, (rank, outputs), &Device::Cpu)?;
    Ok((a, b))
}

/// Adds A and Bᵀ to the parameters and the adapter to the module.
pub(crate) fn attach(site: &mut Site<'_>, first: FirstValues, scale: f64) -> Result<(), Error> {
    let (a, b) = first_factors(site, first)?;
    attach_factors(site, a, b, scale);
    Ok(())
}

/// An error for methods that take a weight apart.
pub(super) fn no_frozen_weight(declared: &Declared) -> Error {
    setting("targets", "modules whose weight is frozen", &declared.name)
}

/// The same with given factors (A: R × in, Bᵀ: R × out).
pub(crate) fn attach_factors(
    site: &mut Site<'_>,
    a: Tensor,
    b: Tensor,
    scale: f64,
) -> (ParameterId, ParameterId) {
    let name = &site.module.declared.name;
    let a = site
        .gathering
        .add(format!("{name}.lora_A"), a, Treatment::PLAIN);
    let b = site
        .gathering
        .add(format!("{name}.lora_B"), b, Treatment::PLAIN);
    site.module.adapter = Some(Adapter::product(a, b, scale, site.dropout));
    (a, b)
}
