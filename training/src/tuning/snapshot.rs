//! A tuned model whose trained numbers are on the host: what is measured and saved.
//!
//! A device gives back the whole of a buffer whichever part is asked for, so the one with all that
//! trains is read back once, and every parameter is a stretch of what was read.

use candle_core::Tensor;

use super::Tuned;
use crate::Error;
use crate::engine::Parameters;
use crate::method::Rule;
use crate::model::Architecture;
use crate::module::Modules;

/// A [`Tuned`] with its parameters on the host; what is frozen is where it was.
pub(crate) struct Snapshot<'a> {
    pub architecture: &'a Architecture,
    pub modules: &'a Modules,
    pub rule: &'a dyn Rule,
    pub initial: &'a [(usize, Tensor)],
    pub parameters: Parameters,
}

impl Tuned {
    /// Reads the trained numbers back.
    ///
    /// # Errors
    /// [`Error::Tensor`].
    pub fn on_host(&self) -> Result<Snapshot<'_>, Error> {
        Ok(Snapshot {
            architecture: &self.architecture,
            modules: &self.modules,
            rule: &*self.rule,
            initial: &self.initial,
            parameters: self.parameters.on_host()?,
        })
    }
}
