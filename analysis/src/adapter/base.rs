//! The base model's weights, for formats whose update cannot be known without them.

use std::cmp::Ordering;
use std::path::Path;
use std::sync::OnceLock;

use ndarray::Array2;

use super::tie::{self, Tie};
use super::{alias, bounds};
use crate::Error;
use crate::container::Container;

/// A base model's checkpoint.
#[derive(Debug)]
pub(crate) struct Base {
    weights: Container,
    /// Made when a name is first looked for that is not there as it is.
    names: OnceLock<Names>,
    tie: Option<Tie>,
}

/// A weight of the base model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BaseWeight {
    pub name: String,
    /// What it was looked for as: of another framing than `name`, or the same.
    pub asked: String,
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
        let weights = Container::open_model(path)?;
        Ok(Self {
            tie: Tie::of(&weights),
            weights,
            names: OnceLock::new(),
        })
    }

    /// The weight of `module`: the tensor of that name, or of the name in another framing: with or
    /// without the outer model's prefix (`bert.`, `model.`), or, for kohya's names, with underscores
    /// for dots; or of another name of the same layer. An ambiguous name finds nothing.
    pub fn weight(&self, module: &str) -> Option<BaseWeight> {
        let (name, asked) = self.place(module)?;
        let tensor = self.weights.tensors().get(&name)?;
        if !bounds::are_sides(&tensor.shape) || self.weights.unread(&name).is_some() {
            return None;
        }
        Some(BaseWeight {
            shape: tensor.shape.clone(),
            name,
            asked,
            is_transposed: false,
        })
    }

    /// How the weight of `module` is quantised, if it is in a way that is not read.
    pub fn unread(&self, module: &str) -> Option<String> {
        let (name, _) = self.place(module)?;
        self.weights.unread(&name).map(str::to_owned)
    }

    /// The name of a module's weight, and the name that led to it.
    fn place(&self, module: &str) -> Option<(String, String)> {
        let module = module
            .trim_end_matches(".base_layer")
            .replace(".base_layer.", ".");
        // GPT-2's names begin like those of a pipeline's part.
        let whole = format!("{module}.weight");
        if self.has(&whole) {
            return Some((whole.clone(), whole));
        }
        let module = super::without_prefix(&module).1;
        let exact = format!("{module}.weight");
        let found = match self.has(module) {
            true if !self.has(&exact) => Some((module.to_owned(), module.to_owned())),
            _ => self.tensor(&exact),
        };
        // A head that is tied has no tensor of its own.
        let of_table = || {
            let (tie, asked) = (self.tie.as_ref()?, exact.clone());
            tie::is_output_layer(module).then(|| (tie.table.clone(), asked))
        };
        found.or_else(of_table)
    }

    /// The table that the model's head is tied to.
    pub fn tie(&self) -> Option<&Tie> {
        self.tie.as_ref()
    }

    fn has(&self, name: &str) -> bool {
        self.weights.tensors().contains_key(name) || self.weights.quantised(name).is_some()
    }

    /// The name of the tensor that is asked for, found as [`weight`](Self::weight) finds a module's,
    /// and the name that led to it.
    pub fn tensor(&self, name: &str) -> Option<(String, String)> {
        let names: Vec<String> = std::iter::once(name.to_owned())
            .chain(alias::others(name))
            .collect();
        let exact = |name: &&String| self.has(name);
        if let Some(name) = names.iter().find(exact) {
            return Some((name.clone(), name.clone()));
        }
        let mut alike = names
            .into_iter()
            .map(|name| Some((self.alike(&name)?, name)));
        alike.find_map(|found| found)
    }

    /// The checkpoint's tensors.
    pub fn weights(&self) -> &Container {
        &self.weights
    }

    fn alike(&self, wanted: &str) -> Option<String> {
        let names = self.names.get_or_init(|| {
            let stored = self.weights.tensors().keys().map(String::as_str);
            Names::new(stored.chain(self.weights.packed()))
        });
        // What `wanted` ends in, after each of its dots.
        let shorter = wanted.match_indices('.').map(|(dot, _)| &wanted[dot + 1..]);
        let shorter = shorter.filter(|name| self.has(name));
        only(shorter.chain(names.longer(wanted)))
            .or_else(|| only(names.flattened(wanted)))
            .map(str::to_owned)
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

/// Tensors' names in the orders in which framed and flattened ones are found: a large model has tens of
/// thousands, and so has an adapter.
#[derive(Debug)]
struct Names {
    /// By their characters from the last to the first.
    from_end: Vec<Box<str>>,
    /// Places in `from_end`, by the names with underscores for dots.
    flattened: Vec<u32>,
}

impl Names {
    fn new<'a>(names: impl Iterator<Item = &'a str>) -> Self {
        let mut from_end: Vec<Box<str>> = names.map(Box::from).collect();
        from_end.sort_unstable_by(|x, y| x.bytes().rev().cmp(y.bytes().rev()));
        let mut flattened: Vec<u32> = (0..).take(from_end.len()).collect();
        flattened.sort_by(|&x, &y| flat_order(&from_end[x as usize], &from_end[y as usize]));
        Self {
            from_end,
            flattened,
        }
    }

    /// The names that end in a dot and this one.
    fn longer<'a>(&'a self, end: &'a str) -> impl Iterator<Item = &'a str> {
        let dotted = || end.bytes().rev().chain([b'.']);
        let from = self
            .from_end
            .partition_point(|name| name.bytes().rev().lt(dotted()));
        let names = self.from_end[from..].iter().map(|name| &**name);
        names.take_while(move |name| {
            name.strip_suffix(end)
                .is_some_and(|rest| rest.ends_with('.'))
        })
    }

    /// The names that differ from this one only in dots and underscores.
    fn flattened<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        let of = |&place: &u32| &*self.from_end[place as usize];
        let from = self
            .flattened
            .partition_point(|place| flat_order(of(place), name) == Ordering::Less);
        let names = self.flattened[from..].iter().map(of);
        names.take_while(move |own| flat_order(own, name) == Ordering::Equal)
    }
}

/// The order of two names with underscores for dots.
fn flat_order(x: &str, y: &str) -> Ordering {
    let flat = |byte| if byte == b'.' { b'_' } else { byte };
    x.bytes().map(flat).cmp(y.bytes().map(flat))
}

/// The one item, if there is one and no other.
fn only<T>(mut items: impl Iterator<Item = T>) -> Option<T> {
    match (items.next(), items.next()) {
        (Some(one), None) => Some(one),
        _ => None,
    }
}

/// Rows and the product of the other dimensions.
pub(crate) fn flat(shape: &[usize]) -> (usize, usize) {
    match shape {
        [] => (1, 1),
        [rows, rest @ ..] => (*rows, rest.iter().product()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Against one look at every name.
        #[test]
        fn names_are_found_by_their_ends_and_flattened(
            mut names in proptest::collection::vec("[ab._]{0,6}", 0..40),
            wanted in "[ab._]{0,4}",
        ) {
            names.sort();
            names.dedup();
            let index = Names::new(names.iter().map(String::as_str));
            let sorted = |found: Vec<&str>| {
                let mut found: Vec<_> = found.into_iter().map(str::to_owned).collect();
                found.sort();
                found
            };
            let by = |fits: &dyn Fn(&str) -> bool| {
                sorted(names.iter().map(String::as_str).filter(|name| fits(name)).collect())
            };
            let longer = by(&|name| name.ends_with(&format!(".{wanted}")));
            prop_assert_eq!(sorted(index.longer(&wanted).collect()), longer);
            let flat = |name: &str| name.replace('.', "_");
            let alike = by(&|name| flat(name) == flat(&wanted));
            prop_assert_eq!(sorted(index.flattened(&wanted).collect()), alike);
        }
    }
}
