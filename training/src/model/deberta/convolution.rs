//! The convolution over neighbouring tokens beside the first block (He et al. 2021's v2, large).

use candle_core::Result as TensorResult;

use crate::Error;
use crate::engine::{Activation, Var};
use crate::model::block::Design;
use crate::model::config::ModelConfig;
use crate::model::{Inputs, Pass};
use crate::module::{Declaration, ModuleId};

/// A convolution beside the first block.
#[derive(Debug, Clone)]
pub(super) struct Convolution {
    kernel: usize,
    dropout: f64,
    epsilon: f64,
    convolve: ModuleId,
    norm: ModuleId,
    activation: Activation,
}

impl Convolution {
    pub fn declare(
        config: &ModelConfig,
        width: usize,
        design: Design,
        modules: &mut Declaration,
    ) -> Result<Option<Self>, Error> {
        if config.integer_or("conv_kernel_size", 0)? <= 0 {
            return Ok(None);
        }
        let kernel = config.size("conv_kernel_size")?;
        if kernel % 2 == 0 {
            return Err(config.wrong("conv_kernel_size", "an odd number", kernel.to_string()));
        }
        config.only("conv_groups", "1")?;
        Ok(Some(Self {
            kernel,
            dropout: design.dropout,
            epsilon: design.epsilon,
            convolve: modules.convolution("deberta.encoder.conv.conv", [width, width, kernel]),
            norm: modules.norm("deberta.encoder.conv.LayerNorm", width),
            activation: config.activation_or("conv_act", "tanh")?,
        }))
    }

    /// LN(`hidden` + f(drop(convolution of the embedded tokens))).
    pub fn forward(
        &self,
        pass: Pass<'_>,
        embedded: &Var,
        hidden: &Var,
        inputs: &Inputs,
    ) -> TensorResult<Var> {
        let tape = pass.tape;
        let near = tape.neighbours(embedded, &inputs.lengths, self.kernel)?;
        let output = pass.linear(self.convolve, &near)?;
        let output = pass.dropout(self.convolve, self.dropout, &output)?;
        let output = tape.activation(&output, self.activation)?;
        pass.norm(self.norm, self.epsilon, &tape.add(&output, hidden)?)
    }
}
