//! Values, the record of how they came about, and the way back through it.
//!
//! | symbol | identifier |
//! |---|---|
//! | a value | [`Var`] |
//! | ∂L/∂(parameter) | [`Gradients`] |
//! | the backward pass of one operation | a closure from ∂L/∂(its output) |

use std::cell::RefCell;
use std::collections::BTreeMap;

use candle_core::{DType, Result, Tensor};

use super::dropout::Noise;
use super::parameters::{ParameterId, Parameters};
use crate::module::ModuleId;

/// A value on a tape. Without a node nothing that trains lies before it.
#[derive(Debug, Clone)]
pub(crate) struct Var {
    pub value: Tensor,
    node: Option<usize>,
}

impl Var {
    /// A value that no gradient flows into.
    pub fn constant(value: Tensor) -> Self {
        Self { value, node: None }
    }

    /// Whether a gradient is wanted.
    pub fn is_recorded(&self) -> bool {
        self.node.is_some()
    }
}

/// What an operation does with the gradient of its output.
type Backward = Box<dyn FnOnce(Tensor, &mut Gradients) -> Result<()>>;

/// Gradients on the way back: of values until they are used, of parameters to the end.
#[derive(Debug)]
pub(crate) struct Gradients {
    nodes: Vec<Option<Tensor>>,
    parameters: Vec<Option<Tensor>>,
    /// Of the parameters, and so of their gradients.
    dtype: DType,
    /// Σ x² over the rows of every input of the modules that observe theirs.
    observed: BTreeMap<ModuleId, Tensor>,
}

impl Gradients {
    /// No gradient yet for any of `parameters`.
    pub fn none(parameters: &Parameters) -> Self {
        Self {
            nodes: Vec::new(),
            parameters: vec![None; parameters.len()],
            dtype: parameters.values().dtype(),
            observed: BTreeMap::new(),
        }
    }

    /// Adds to the gradient of `var`, if one is wanted.
    pub fn add(&mut self, var: &Var, gradient: Tensor) -> Result<()> {
        match var.node {
            Some(node) => accumulate(&mut self.nodes[node], gradient),
            None => Ok(()),
        }
    }

    /// Adds to the gradient of a parameter.
    pub fn add_parameter(&mut self, id: ParameterId, gradient: Tensor) -> Result<()> {
        accumulate(
            &mut self.parameters[id.index()],
            gradient.to_dtype(self.dtype)?,
        )
    }

    /// The gradient of a parameter; `None` where none was computed.
    pub fn parameter(&self, id: ParameterId) -> Option<&Tensor> {
        self.parameters[id.index()].as_ref()
    }

    /// Takes a parameter's gradient away: it stands still in this step, moments and all.
    pub fn forget(&mut self, id: ParameterId) {
        self.parameters[id.index()] = None;
    }

    /// Adds to the sums of squares of a module's inputs.
    pub fn observe(&mut self, id: ModuleId, squares: Tensor) -> Result<()> {
        let mut sum = self.observed.remove(&id);
        accumulate(&mut sum, squares)?;
        self.observed.extend(sum.map(|sum| (id, sum)));
        Ok(())
    }

    /// Sums of squares of a module's inputs; `None` where it observed none.
    pub fn observed(&self, id: ModuleId) -> Option<&Tensor> {
        self.observed.get(&id)
    }

    /// Adds the parameters' gradients, and what was observed, of another part of the batch.
    pub fn merge(&mut self, other: Self) -> Result<()> {
        for (id, squares) in other.observed {
            self.observe(id, squares)?;
        }
        for (own, other) in self.parameters.iter_mut().zip(other.parameters) {
            if let Some(other) = other {
                accumulate(own, other)?;
            }
        }
        Ok(())
    }
}

fn accumulate(slot: &mut Option<Tensor>, gradient: Tensor) -> Result<()> {
    *slot = Some(match slot.take() {
        Some(sum) => (sum + gradient)?,
        None => gradient,
    });
    Ok(())
}

/// Records operations for one part of a batch.
pub(crate) struct Tape<'a> {
    /// What trains; its values are read by the operations.
    pub parameters: &'a Parameters,
    /// Where dropout's chance comes from; `None` drops nothing.
    pub noise: Option<Noise>,
    records: bool,
    nodes: RefCell<Vec<Backward>>,
    /// The first module whose output was not finite, if that is looked for.
    watch: Option<RefCell<Option<String>>>,
}

impl<'a> Tape<'a> {
    /// Records, for a backward pass.
    pub fn new(parameters: &'a Parameters, noise: Option<Noise>) -> Self {
        Self {
            parameters,
            noise,
            records: true,
            nodes: RefCell::default(),
            watch: None,
        }
    }

    /// Computes values only, without dropout.
    pub fn inference(parameters: &'a Parameters) -> Self {
        Self {
            records: false,
            ..Self::new(parameters, None)
        }
    }

    /// Computes values only, and looks for the first that is not finite.
    pub fn watching(parameters: &'a Parameters) -> Self {
        Self {
            watch: Some(RefCell::default()),
            ..Self::inference(parameters)
        }
    }

    /// Tells the tape what the module `name` put out.
    pub fn watch(&self, name: &str, output: &Var) -> Result<()> {
        if let Some(watch) = &self.watch
            && watch.borrow().is_none()
            && !is_finite(&output.value)?
        {
            *watch.borrow_mut() = Some(name.to_owned());
        }
        Ok(())
    }

    /// The first module whose output was not finite.
    pub fn first_not_finite(&self) -> Option<String> {
        self.watch.as_ref()?.borrow().clone()
    }

    /// Whether an operation on `inputs` has to be recorded; `trains` says that it has parameters of
    /// its own.
    pub fn wants<const N: usize>(&self, inputs: [&Var; N], trains: bool) -> bool {
        self.records && (trains || inputs.iter().any(|input| input.is_recorded()))
    }

    /// A value with its way back.
    pub fn record(
        &self,
        value: Tensor,
        backward: impl FnOnce(Tensor, &mut Gradients) -> Result<()> + 'static,
    ) -> Var {
        let mut nodes = self.nodes.borrow_mut();
        nodes.push(Box::new(backward));
        let node = Some(nodes.len() - 1);
        Var { value, node }
    }

    /// Gradients of the parameters, from `gradient` = ∂L/∂`output`.
    ///
    /// What an operation kept is given back as soon as it has been gone through.
    pub fn backward(self, output: &Var, gradient: Tensor) -> Result<Gradients> {
        let nodes = self.nodes.into_inner();
        let mut gradients = Gradients::none(self.parameters);
        gradients.nodes = vec![None; nodes.len()];
        gradients.add(output, gradient)?;
        for (index, backward) in nodes.into_iter().enumerate().rev() {
            if let Some(gradient) = gradients.nodes[index].take() {
                backward(gradient, &mut gradients)?;
            }
        }
        gradients.nodes.clear();
        Ok(gradients)
    }
}

/// Whether every number is finite.
pub(crate) fn is_finite(tensor: &Tensor) -> Result<bool> {
    // NaN and infinities survive the absolute value's sum.
    let sum = tensor.to_dtype(DType::F64)?.abs()?.sum_all()?;
    Ok(sum.to_scalar::<f64>()?.is_finite())
}
