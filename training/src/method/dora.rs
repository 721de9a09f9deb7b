//! DoRA (Liu et al. 2024): a weight's rows as lengths times directions; the lengths m train as they
//! are, the directions through a low-rank update.
//!
//! ```text
//! W' = diag(m/‖V‖) V,   V = W + s B A,   ‖V‖ the lengths of V's rows, one an output
//! ```
//!
//! m begins at ‖V‖ of the first factors, so that W' = W. On the way back ‖V‖ is a constant (the
//! paper's section 4.3, PEFT, and the authors' `dora_simple`), or it goes along (the authors'
//! `dora_simple` = false): a setting; `decomposed` has the gradients. The paper says “column-wise”;
//! its weights stand the other way round, and code and paper mean one length an output. m gets no
//! weight decay. In PEFT: LoRA's A and B, `lora_magnitude_vector` = m, and `use_dora`. Source: NVlabs'
//! DoRA (7e2f10a); huggingface/peft.

use candle_core::DType;
use serde::{Deserialize, Serialize};

use super::product::{self, FirstValues};
use super::{Common, Peft, Rule, Site};
use crate::Error;
use crate::engine::parameters::Treatment;
use crate::engine::row_lengths;
use crate::module::Value;

/// What the lengths of V are on the way back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Norm {
    /// A constant.
    #[default]
    Constant,
    /// A function of A and B.
    Differentiated,
}

rankwise_data::documented! {
/// DoRA's own settings.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// What the lengths of V are on the way back.
    pub norm: Norm,
    /// How A begins.
    pub initialisation: FirstValues,
}
}

impl Settings {
    pub(super) fn rule(&self, _common: &Common) -> Result<Box<dyn Rule>, Error> {
        Ok(Box::new(Dora {
            settings: self.clone(),
        }))
    }
}

#[derive(Debug)]
struct Dora {
    settings: Settings,
}

impl Rule for Dora {
    fn attach(&mut self, mut site: Site<'_>) -> Result<(), Error> {
        let scale = self.scale(site.alpha, site.rank);
        let (a, b) = product::first_factors(&site, self.settings.initialisation)?;
        let declared = &site.module.declared;
        let Value::Frozen(weight) = &site.module.weight else {
            return Err(product::no_frozen_weight(declared));
        };
        let matrix = declared.matrix(weight)?.t()?.to_dtype(DType::F64)?;
        let (device, a64, b64) = (matrix.device(), &a, &b);
        let (a64, b64) = (a64.to_device(device)?, b64.to_device(device)?);
        let lengths = row_lengths(&matrix, &a64, &b64, scale)?;
        let dtype = match weight.dtype() {
            DType::F64 => DType::F64,
            _ => DType::F32,
        };
        let squares = matrix.sqr()?.sum(0)?.to_dtype(dtype)?;
        let name = format!("{}.lora_magnitude_vector", declared.name);
        product::attach_factors(&mut site, a, b, scale);
        let magnitude = site.gathering.add(name, lengths, Treatment::WITHOUT_DECAY);
        if let Some(adapter) = &mut site.module.adapter {
            adapter.magnitude = Some(magnitude);
            adapter.squares = Some(squares);
            adapter.norm_goes_along = self.settings.norm == Norm::Differentiated;
        }
        Ok(())
    }

    fn peft(&self) -> Peft {
        self.settings.initialisation.peft().with("use_dora", true)
    }
}
