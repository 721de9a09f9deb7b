//! The base model's weights, for formats whose update cannot be known without them.

use std::path::Path;

use ndarray::Array2;

use super::bounds;
use crate::Error;
use crate::container::Container;

/// A base model's checkpoint.
#[derive(Debug)]
pub(crate) struct Base {
    weights: Container,
}

/// A weight of the base model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BaseWeight {
    pub name: String,
    pub shape: Vec<usize>,
    /// Whether the layer's formulas see the stored weight transposed (GPT-2's Conv1D).
    pub is_transposed: bool,
}

impl BaseWeight {
    /// Rows and columns as the layer's formulas see them; a kernel flattened to outputs × the rest.
    pub fn matrix(&self) -> (usize, usize) {
        let (rows, columns) = flat(&self.shape);
        if self.is_transposed {
            (columns, rows)
        } else {
            (rows, columns)
        }
    }
}

impl Base {
    /// Opens a checkpoint: a folder or a file.
    ///
    /// # Errors
    /// As the checkpoint's reader.
    pub fn open(path: &Path) -> Result<Self, Error> {
        Ok(Self {
            weights: Container::open_model(path)?,
        })
    }

    /// The weight of `module`: the tensor of that name, or of the name in another framing: with or
    /// without the outer model's prefix (`bert.`, `model.`), or, for kohya's names, with underscores
    /// for dots. An ambiguous name finds nothing.
    pub fn weight(&self, module: &str) -> Option<BaseWeight> {
        let module = &module
            .trim_end_matches(".base_layer")
            .replace(".base_layer.", ".");
        let module = &*super::without_prefix(module).1.to_owned();
        let exact = format!("{module}.weight");
        let found = [exact.as_str(), module]
            .into_iter()
            .find(|&name| self.weights.tensors().contains_key(name))
            .map(str::to_owned)
            .or_else(|| self.alike(&exact))?;
        let tensor = self.weights.tensors().get(&found)?;
        if !bounds::are_sides(&tensor.shape) {
            return None;
        }
        Some(BaseWeight {
            shape: tensor.shape.clone(),
            name: found,
            is_transposed: false,
        })
    }

    fn alike(&self, wanted: &str) -> Option<String> {
        let ends = |long: &str, short: &str| {
            long.strip_suffix(short)
                .is_some_and(|rest| rest.ends_with('.'))
        };
        let flat_wanted = wanted.replace('.', "_");
        let fits: [&dyn Fn(&str) -> bool; 2] =
            [&|name| ends(name, wanted) || ends(wanted, name), &|name| {
                name.replace('.', "_") == flat_wanted
            }];
        for fit in fits {
            let mut names = self.weights.tensors().keys().filter(|name| fit(name));
            if let (Some(name), None) = (names.next(), names.next()) {
                return Some(name.clone());
            }
        }
        None
    }

    /// The weight as the layer's formulas see it.
    ///
    /// # Errors
    /// As the checkpoint's reader.
    pub fn read(&self, weight: &BaseWeight) -> Result<Array2<f64>, Error> {
        let values = self.weights.read(&weight.name)?;
        let matrix = Array2::from_shape_vec(flat(&weight.shape), values)
            .expect("the shape was checked on opening");
        Ok(if weight.is_transposed {
            matrix.reversed_axes()
        } else {
            matrix
        })
    }
}

/// Rows and the product of the other dimensions.
pub(crate) fn flat(shape: &[usize]) -> (usize, usize) {
    match shape {
        [] => (1, 1),
        [rows, rest @ ..] => (*rows, rest.iter().product()),
    }
}
