//! A configuration with the defaults that follow from other settings or from the model written out.

use std::path::Path;

use super::config::TuneConfig;
use crate::Error;
use crate::method::{Method, Targets, adapted};
use crate::model::{Architecture, Head, ModelConfig};
use crate::module::{Declared, Kind};

impl TuneConfig {
    /// The same run with α, what else follows from R, and the modules that get an update written out;
    /// `model` is the folder of the model, of which no weights are read. Without one the modules stay
    /// unset.
    ///
    /// A run that begins with an adapter has them from there, and keeps them unset.
    ///
    /// # Errors
    /// [`Error::Model`] if the model is none that is known, [`Error::Setting`] if a target fits
    /// nothing in it.
    pub fn resolved(&self, model: Option<&Path>) -> Result<Self, Error> {
        let mut resolved = self.clone();
        if self.model.adapter.is_some() || !self.method.method.has_rank() {
            return Ok(resolved);
        }
        resolved.method = self.method.resolved();
        let Some(model) = model else {
            return Ok(resolved);
        };
        let head = match self.task.name.as_str() {
            "squad" => Head::Span,
            "lm" => Head::NextToken,
            _ => Head::Classes(2),
        };
        let (_, declaration) = Architecture::declare(&ModelConfig::read(model)?, head)?;
        let modules = declaration.into_modules();
        let chosen = adapted(&modules, &self.method.common.targets)?;
        resolved.method.common.targets = shortest(&modules, &chosen)?;
        // R₀ is cut to a module's size, and α is by default what R₀ then is.
        if let Method::AdaLora(own) = &resolved.method.method
            && let common = &self.method.common
            && let first = own.first_of(common.rank)
            && common.alpha.is_none()
            && common.rank_pattern.is_empty()
        {
            let size = |at: &usize| match modules[*at].kind {
                Kind::Embedding => usize::MAX,
                _ => modules[*at].inputs().min(modules[*at].outputs()),
            };
            if chosen.iter().map(size).min() >= Some(first) {
                resolved.method.common.alpha = Some(first as f64);
            }
        }
        Ok(resolved)
    }
}

/// Names that choose just these modules: what follows the layer's number where that is enough, whole
/// names otherwise.
fn shortest(modules: &[Declared], chosen: &[usize]) -> Result<Vec<String>, Error> {
    let mut ends: Vec<String> = Vec::new();
    for at in chosen {
        let parts: Vec<&str> = modules[*at].name.split('.').collect();
        let layer = parts.iter().rposition(|part| part.parse::<usize>().is_ok());
        let end = parts[layer.map_or(0, |layer| layer + 1)..].join(".");
        if !ends.contains(&end) {
            ends.push(end);
        }
    }
    let targets = Targets::new("targets", ends.iter().map(String::as_str))?;
    let all = (0..modules.len()).filter(|at| targets.fits(&modules[*at].name));
    if !ends.iter().any(String::is_empty) && all.eq(chosen.iter().copied()) {
        return Ok(ends);
    }
    Ok(chosen.iter().map(|at| modules[*at].name.clone()).collect())
}
