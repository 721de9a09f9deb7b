//! What an adapter changes beside the matrices of its updates: biases that were trained with them, and
//! tensors that were trained as a whole.

use std::collections::BTreeSet;

use super::key::{Key, Part};
use super::recipe::{Of, Recipe};
use super::{Adapter, Module};

/// What becomes of a tensor of the base model.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Effect {
    /// The adapter's takes its place.
    Replaces,
    /// The adapter's is added, times this.
    Adds(f64),
    /// It is multiplied by the adapter's, number by number.
    Multiplies,
}

/// A tensor of an adapter that is no factor of an update.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Other {
    /// Its name in the adapter.
    pub tensor: String,
    /// The tensor of the model that it changes, as the adapter names it.
    pub path: String,
    pub effect: Effect,
}

impl Module {
    /// The rows of the base weight that the rows of the update belong to, if they are only some.
    pub fn rows(&self) -> Option<&[usize]> {
        match &self.recipe {
            Recipe::Tokens { rows, .. } => Some(rows),
            _ => None,
        }
    }

    /// Rows and columns of the base weight that the update belongs to: the groups of a convolution lie
    /// one below the other there.
    pub fn merged_shape(&self) -> (usize, usize) {
        match &self.recipe {
            Recipe::Groups { b, a, .. } => (b.rows, a.columns),
            _ => self.shape,
        }
    }

    /// Whether it is a tensor in place of the base's.
    pub fn is_whole(&self) -> bool {
        matches!(self.recipe, Recipe::Whole { .. })
    }

    /// The vector that (IA)³ multiplies the outputs with, and so the bias.
    fn outputs_multiplier(&self) -> Option<&str> {
        match &self.recipe {
            Recipe::Rescaled {
                vector,
                is_increase: false,
                of: Of::Rows,
                ..
            } => Some(vector),
            _ => None,
        }
    }
}

impl Adapter {
    /// The tensors that are no factors, and those that nothing is known about.
    pub fn remainder(&self) -> (Vec<Other>, Vec<String>) {
        let mut used: BTreeSet<String> = self.shared_tensors().into_iter().collect();
        let mut others = Vec::new();
        for module in self.contents.modules.iter().filter(|m| !m.is_whole()) {
            for (part, tensor) in &module.parts {
                used.insert(tensor.clone());
                let effect = match part {
                    Part::Bias if tensor.ends_with(".base_layer.bias") => Effect::Replaces,
                    Part::Bias => Effect::Adds(module.scale.unwrap_or(1.0)),
                    Part::BiasDifference => Effect::Adds(1.0),
                    _ => continue,
                };
                others.push(other(tensor, &module.raw, "bias", effect));
            }
            if let Some(vector) = module.outputs_multiplier() {
                others.push(other(vector, &module.raw, "bias", Effect::Multiplies));
            }
        }
        let mut unknown = Vec::new();
        for (name, info) in self.weights.tensors() {
            if used.contains(name) || self.contents.copies.contains(name) {
                continue;
            }
            let is_vector = info.shape.len() == 1;
            match Key::parse(name) {
                Key::Full => others.push(Other {
                    tensor: name.clone(),
                    path: self.contents.copies.path(name),
                    effect: Effect::Replaces,
                }),
                Key::Part { module, part, .. } => match part {
                    Part::Bias if name.ends_with(".base_layer.bias") => {
                        others.push(other(name, &module, "bias", Effect::Replaces));
                    }
                    Part::BiasDifference | Part::NormBias => {
                        others.push(other(name, &module, "bias", Effect::Adds(1.0)));
                    }
                    Part::NormWeight => {
                        others.push(other(name, &module, "weight", Effect::Adds(1.0)));
                    }
                    Part::Difference if is_vector => {
                        others.push(other(name, &module, "weight", Effect::Adds(1.0)));
                    }
                    Part::Harmless => {}
                    _ => unknown.push(name.clone()),
                },
                Key::Foreign(_) => unknown.push(name.clone()),
            }
        }
        (others, unknown)
    }
}

fn other(tensor: &str, module: &str, part: &str, effect: Effect) -> Other {
    let module = module
        .trim_end_matches(".base_layer")
        .replace(".base_layer.", ".");
    let module = super::without_prefix(&module).1;
    Other {
        tensor: tensor.to_owned(),
        path: format!("{module}.{part}"),
        effect,
    }
}
