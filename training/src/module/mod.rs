//! The parts of a model that own numbers, by the names that they have in its checkpoint.
//!
//! A model's file says which modules there are and how values go through them; what trains is a
//! property of the modules, so that methods know no model and models no method.

mod adapter;
mod value;

use candle_core::{Result, Tensor};

use crate::engine::parameters::{Gathering, Treatment};

pub(crate) use adapter::{Adapter, Squash};
pub(crate) use value::Value;

/// What a module does with its weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    /// y = x Wᵀ + b, W (out × in).
    Linear,
    /// GPT-2's: y = x W + b, W (in × out).
    Conv1d,
    /// Rows of W (entries × width) by number.
    Embedding,
    /// A convolution whose inputs were laid out as rows: over patches that do not overlap, W (out ×
    /// channels × height × width), or over neighbouring tokens, W (out × in × neighbours).
    Patches,
    /// A layer normalisation's γ and β.
    Norm,
    /// A bare tensor.
    Table,
}

impl Kind {
    /// Whether a low-rank update can stand beside the weight.
    pub fn takes_adapter(self) -> bool {
        matches!(
            self,
            Self::Linear | Self::Conv1d | Self::Embedding | Self::Patches
        )
    }
}

/// A module as an architecture declares it: names and shapes, no numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Declared {
    /// As in the checkpoint, without `.weight`; for a [`Kind::Table`] the tensor's whole name.
    pub name: String,
    pub kind: Kind,
    /// Of the weight as the checkpoint stores it.
    pub shape: Vec<usize>,
    /// Whether it has a bias (a norm's β among them).
    pub has_bias: bool,
    /// Whether it belongs to the task rather than to the pretrained model: it is drawn from the
    /// seed where the checkpoint lacks it, and trains under every method.
    pub is_head: bool,
}

impl Declared {
    /// Whether the parameter `name` is the module's: its own, or of its update.
    pub fn owns(&self, name: &str) -> bool {
        match name.strip_prefix(&self.name) {
            Some(rest) => rest.is_empty() || rest.starts_with('.'),
            None => false,
        }
    }

    /// Inputs of the map that the weight stands for; entries of an embedding.
    pub fn inputs(&self) -> usize {
        match self.kind {
            Kind::Linear => self.shape[1],
            Kind::Conv1d | Kind::Embedding => self.shape[0],
            Kind::Patches => product(&self.shape[1..]),
            Kind::Norm | Kind::Table => 0,
        }
    }

    /// Outputs of the map that the weight stands for; the width of an embedding.
    pub fn outputs(&self) -> usize {
        match self.kind {
            Kind::Linear | Kind::Patches | Kind::Norm => self.shape[0],
            Kind::Conv1d | Kind::Embedding => self.shape[1],
            Kind::Table => 0,
        }
    }

    /// Name of the weight's tensor.
    pub fn weight_name(&self) -> String {
        match self.kind {
            Kind::Table => self.name.clone(),
            _ => format!("{}{}weight", self.name, self.separator()),
        }
    }

    /// Name of the bias' tensor.
    pub fn bias_name(&self) -> Option<String> {
        self.has_bias
            .then(|| format!("{}{}bias", self.name, self.separator()))
    }

    /// PyTorch's attention holds its packed projection as bare tensors, `in_proj_weight` and
    /// `in_proj_bias`.
    fn separator(&self) -> char {
        if self.name.ends_with(".in_proj") {
            '_'
        } else {
            '.'
        }
    }

    /// Length of the bias.
    pub fn bias_count(&self) -> usize {
        if self.has_bias { self.outputs() } else { 0 }
    }

    /// A weight as it is stored, as the matrix outputs × inputs of its map.
    pub fn matrix(&self, weight: &Tensor) -> Result<Tensor> {
        match self.kind {
            Kind::Conv1d | Kind::Embedding => weight.t(),
            _ => weight.flatten_from(1),
        }
    }

    /// The matrix of a map (outputs × inputs) as the weight is stored.
    pub fn stored(&self, matrix: &Tensor) -> Result<Tensor> {
        match self.kind {
            Kind::Conv1d | Kind::Embedding => matrix.t()?.contiguous(),
            _ => matrix.reshape(self.shape.as_slice()),
        }
    }

    /// Numbers in the weight and the bias.
    pub fn count(&self) -> usize {
        product(&self.shape).saturating_add(self.bias_count())
    }
}

/// Sizes come from configurations, and four of the largest overflow.
fn product(shape: &[usize]) -> usize {
    shape
        .iter()
        .fold(1, |product: usize, size| product.saturating_mul(*size))
}

/// A module's place in its [`Modules`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct ModuleId(pub usize);

/// A module with its numbers.
#[derive(Debug, Clone)]
pub(crate) struct Module {
    pub declared: Declared,
    pub weight: Value,
    pub bias: Option<Value>,
    pub adapter: Option<Adapter>,
    /// Its number: what its chance is addressed by.
    pub id: ModuleId,
}

impl Module {
    /// The number of the dropout on the adapter's input.
    pub fn adapter_site(&self) -> usize {
        2 * self.id.0 + 1
    }

    /// Its number, if its adapter observes the inputs.
    pub fn observer(&self) -> Option<ModuleId> {
        let adapter = self.adapter.as_ref()?;
        adapter.observes.then_some(self.id)
    }

    /// The number of the dropout on the module's output.
    pub fn output_site(&self) -> usize {
        2 * self.id.0
    }
}

/// What an architecture is made of, in the order of its checkpoint.
#[derive(Debug, Clone, Default)]
pub(crate) struct Declaration {
    modules: Vec<Declared>,
}

impl Declaration {
    fn add(&mut self, name: &str, kind: Kind, shape: &[usize], has_bias: bool) -> ModuleId {
        self.modules.push(Declared {
            name: name.to_owned(),
            kind,
            shape: shape.to_vec(),
            has_bias,
            is_head: false,
        });
        ModuleId(self.modules.len() - 1)
    }

    /// W (outputs × inputs) and a bias.
    pub fn linear(&mut self, name: &str, inputs: usize, outputs: usize) -> ModuleId {
        self.add(name, Kind::Linear, &[outputs, inputs], true)
    }

    /// W (outputs × inputs) and a bias if `has_bias`.
    pub fn linear_with(
        &mut self,
        name: &str,
        inputs: usize,
        outputs: usize,
        has_bias: bool,
    ) -> ModuleId {
        self.add(name, Kind::Linear, &[outputs, inputs], has_bias)
    }

    /// W (inputs × outputs) and a bias.
    pub fn conv1d(&mut self, name: &str, inputs: usize, outputs: usize) -> ModuleId {
        self.add(name, Kind::Conv1d, &[inputs, outputs], true)
    }

    /// `entries` rows of `width` numbers.
    pub fn embedding(&mut self, name: &str, entries: usize, width: usize) -> ModuleId {
        self.add(name, Kind::Embedding, &[entries, width], false)
    }

    /// A convolution over patches.
    pub fn patches(&mut self, name: &str, shape: [usize; 4]) -> ModuleId {
        self.add(name, Kind::Patches, &shape, true)
    }

    /// A convolution over neighbouring tokens: W (outputs × inputs × neighbours) and a bias.
    pub fn convolution(&mut self, name: &str, shape: [usize; 3]) -> ModuleId {
        self.add(name, Kind::Patches, &shape, true)
    }

    /// A layer normalisation of rows of `width` numbers.
    pub fn norm(&mut self, name: &str, width: usize) -> ModuleId {
        self.add(name, Kind::Norm, &[width], true)
    }

    /// A bare tensor.
    pub fn table(&mut self, name: &str, shape: &[usize]) -> ModuleId {
        self.add(name, Kind::Table, shape, false)
    }

    /// Marks the modules from `first` on as the task's head.
    pub fn head_from(&mut self, first: ModuleId) {
        for module in &mut self.modules[first.0..] {
            module.is_head = true;
        }
    }

    /// The modules so far.
    #[cfg(test)]
    pub fn modules(&self) -> &[Declared] {
        &self.modules
    }

    pub fn into_modules(self) -> Vec<Declared> {
        self.modules
    }
}

/// Which of a module's tensors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    Weight,
    Bias,
}

/// All modules of a model.
#[derive(Debug, Clone)]
pub(crate) struct Modules(pub Vec<Module>);

impl Modules {
    /// What every module is declared as, in order.
    pub fn declared(&self) -> Vec<Declared> {
        let modules = self.0.iter();
        modules.map(|module| module.declared.clone()).collect()
    }

    /// The updates, of the modules that have one.
    pub fn adapters(&self) -> impl Iterator<Item = &Adapter> {
        self.0.iter().filter_map(|module| module.adapter.as_ref())
    }

    /// Turns every frozen tensor of the modules that `chosen` names (weight, bias) into a parameter.
    /// Biases, norms and bare vectors get no weight decay.
    pub fn train(&mut self, gathering: &mut Gathering, chosen: impl Fn(&Declared, Part) -> bool) {
        for module in &mut self.0 {
            let Module {
                declared,
                weight,
                bias,
                ..
            } = module;
            if let Value::Frozen(values) = weight
                && chosen(declared, Part::Weight)
            {
                let treatment = match declared.kind {
                    Kind::Norm => Treatment::WITHOUT_DECAY,
                    _ => Treatment::PLAIN,
                };
                let id = gathering.add(declared.weight_name(), values.clone(), treatment);
                *weight = Value::Trained(id);
            }
            if let (Some(name), Some(Value::Frozen(values))) = (declared.bias_name(), &bias)
                && chosen(declared, Part::Bias)
            {
                let id = gathering.add(name, values.clone(), Treatment::WITHOUT_DECAY);
                *bias = Some(Value::Trained(id));
            }
        }
    }
}

impl std::ops::Index<ModuleId> for Modules {
    type Output = Module;

    fn index(&self, id: ModuleId) -> &Module {
        &self.0[id.0]
    }
}

impl std::ops::IndexMut<ModuleId> for Modules {
    fn index_mut(&mut self, id: ModuleId) -> &mut Module {
        &mut self.0[id.0]
    }
}
