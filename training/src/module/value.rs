use candle_core::Tensor;

use crate::engine::{ParameterId, Parameters};

/// A tensor of a module: frozen, or a parameter.
#[derive(Debug, Clone)]
pub(crate) enum Value {
    Frozen(Tensor),
    Trained(ParameterId),
}

impl Value {
    /// Its numbers now.
    pub fn tensor<'a>(&'a self, parameters: &'a Parameters) -> &'a Tensor {
        match self {
            Self::Frozen(tensor) => tensor,
            Self::Trained(id) => parameters.view(*id),
        }
    }

    /// The parameter that it is, if it trains.
    pub fn parameter(&self) -> Option<ParameterId> {
        match self {
            Self::Frozen(_) => None,
            Self::Trained(id) => Some(*id),
        }
    }
}
