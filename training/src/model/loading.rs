//! A checkpoint's tensors into an architecture's modules.
//!
//! Names are looked for as the task's checkpoint has them, then without the prefix of the pretrained
//! part, then with the first checkpoints' names of norms (`gamma`, `beta`), then with the names that
//! newer programs have for the same tensors. Tensors that are missing
//! or have another shape are all named in one error; a head that is missing is drawn from the seed;
//! what nothing asked for is listed.

use std::collections::BTreeSet;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use rankwise_analysis::Checkpoint;

use super::{Architecture, Head, ModelConfig};
use crate::Error;
use crate::draw::normal;
use crate::module::{Declared, Kind, Module, ModuleId, Modules, Value};

/// A model with its numbers, and what there was to say about its files.
#[derive(Debug, Clone)]
pub(crate) struct Loaded {
    pub architecture: Architecture,
    pub modules: Modules,
    /// Names of the tensors that were drawn from the seed because the checkpoint lacks them.
    pub drawn: Vec<String>,
    /// Names of the checkpoint's tensors that the model has no place for.
    pub unused: Vec<String>,
}

/// Names in a message before it says how many more there are.
const NAMED: usize = 8;

impl Loaded {
    /// Reads a checkpoint folder (`config.json` and weights in any of the usual containers).
    ///
    /// # Errors
    /// [`Error::Model`] naming what is missing, misshapen or not supported; [`Error::Analysis`] if
    /// a file of weights is damaged.
    pub fn read(
        folder: &Path,
        head: Head,
        seed: u64,
        dtype: DType,
        device: &Device,
    ) -> Result<Self, Error> {
        let config = ModelConfig::read(folder)?;
        let (architecture, declaration) = Architecture::declare(&config, head)?;
        let checkpoint = Checkpoint::open(folder)?;
        let mut reading = Reading {
            folder,
            checkpoint: &checkpoint,
            architecture: &architecture,
            seed,
            spread: config.spread()?,
            used: BTreeSet::new(),
            drawn: Vec::new(),
            faults: Vec::new(),
        };
        let mut modules = Vec::new();
        for (index, declared) in declaration.into_modules().into_iter().enumerate() {
            let weight = reading.tensor(&declared, &declared.weight_name(), &declared.shape)?;
            let bias = match declared.bias_name() {
                Some(name) => Some(reading.tensor(&declared, &name, &[declared.bias_count()])?),
                None => None,
            };
            let value = |tensor: Tensor| -> Result<Value, Error> {
                Ok(Value::Frozen(tensor.to_dtype(dtype)?.to_device(device)?))
            };
            modules.push(Module {
                weight: value(weight)?,
                bias: bias.map(value).transpose()?,
                declared,
                adapter: None,
                id: ModuleId(index),
            });
        }
        let (drawn, unused) = reading.finish()?;
        Ok(Self {
            architecture,
            modules: Modules(modules),
            drawn,
            unused,
        })
    }

    /// Where the layer of the task's outputs is.
    pub fn output_layer(&self) -> Option<usize> {
        let mut modules = self.modules.0.iter();
        modules.rposition(|module| module.declared.is_head)
    }

    /// Whether the checkpoint has a module's weight.
    pub fn has_weight_of(&self, at: usize) -> bool {
        let name = self.modules.0[at].declared.weight_name();
        !self.drawn.contains(&name)
    }

    /// Draws a module's numbers from the seed, as if the checkpoint did not have them.
    ///
    /// # Errors
    /// [`Error::Tensor`].
    pub fn redraw(&mut self, at: usize, seed: u64, spread: f64) -> Result<(), Error> {
        let Module {
            declared,
            weight,
            bias,
            ..
        } = &mut self.modules.0[at];
        let own = [
            (Some(declared.weight_name()), Some(weight)),
            (declared.bias_name(), bias.as_mut()),
        ];
        for (name, value) in own {
            if let (Some(name), Some(Value::Frozen(value))) = (name, value) {
                let drawn = draw(declared, &name, value.dims(), seed, spread)?;
                *value = drawn.to_dtype(value.dtype())?.to_device(value.device())?;
                if !self.drawn.contains(&name) {
                    self.drawn.push(name);
                }
            }
        }
        Ok(())
    }

    /// A model of that configuration with random weights, for measuring and for tests.
    ///
    /// # Errors
    /// [`Error::Model`] for a value that is not supported.
    pub fn random(
        config: &ModelConfig,
        head: Head,
        seed: u64,
        dtype: DType,
        device: &Device,
    ) -> Result<Self, Error> {
        let (architecture, declaration) = Architecture::declare(config, head)?;
        let mut drawn = Vec::new();
        let mut modules = Vec::new();
        for (index, declared) in declaration.into_modules().into_iter().enumerate() {
            let mut value = |name: String, shape: &[usize], one: f64| -> Result<Value, Error> {
                let count = shape.iter().product();
                let values = normal(seed, &format!("random {name}"), count, 0.02);
                let values = values
                    .into_iter()
                    .map(|value| (one + value) as f32)
                    .collect();
                drawn.push(name);
                let tensor = Tensor::from_vec::<_, f32>(values, shape, &Device::Cpu)?;
                Ok(Value::Frozen(tensor.to_dtype(dtype)?.to_device(device)?))
            };
            let one = if declared.kind == Kind::Norm {
                1.0
            } else {
                0.0
            };
            let weight = value(declared.weight_name(), &declared.shape, one)?;
            let bias = declared
                .bias_name()
                .map(|name| value(name, &[declared.bias_count()], 0.0))
                .transpose()?;
            modules.push(Module {
                weight,
                bias,
                declared,
                adapter: None,
                id: ModuleId(index),
            });
        }
        Ok(Self {
            architecture,
            modules: Modules(modules),
            drawn,
            unused: Vec::new(),
        })
    }
}

struct Reading<'a> {
    folder: &'a Path,
    checkpoint: &'a Checkpoint,
    architecture: &'a Architecture,
    seed: u64,
    spread: f64,
    used: BTreeSet<String>,
    drawn: Vec<String>,
    faults: Vec<String>,
}

impl Reading<'_> {
    /// The tensor `name` in `shape`; a placeholder where it is at fault, which `finish` reports.
    fn tensor(&mut self, module: &Declared, name: &str, shape: &[usize]) -> Result<Tensor, Error> {
        let nothing = || Ok(Tensor::zeros((), DType::F32, &Device::Cpu)?);
        let Some(key) = self.key(name) else {
            if module.is_head {
                return self.head(module, name, shape);
            }
            self.faults.push(format!("no {name}"));
            return nothing();
        };
        let found = self.checkpoint.shape(&key).unwrap_or_default();
        if found != shape {
            // A head for other classes is drawn anew.
            if module.is_head {
                return self.head(module, name, shape);
            }
            self.faults
                .push(format!("{key} of {found:?} instead of {shape:?}"));
            return nothing();
        }
        let values = self.checkpoint.read(&key)?;
        self.used.insert(key);
        Ok(Tensor::from_vec(values, shape, &Device::Cpu)?)
    }

    /// A head's tensor that the checkpoint does not have. Its width is the model's, which tensors of
    /// the checkpoint bear out unless there are faults: then nothing of that size is made.
    fn head(&mut self, module: &Declared, name: &str, shape: &[usize]) -> Result<Tensor, Error> {
        if !self.faults.is_empty() {
            return Ok(Tensor::zeros((), DType::F32, &Device::Cpu)?);
        }
        self.drawn.push(name.to_owned());
        draw(module, name, shape, self.seed, self.spread)
    }

    /// The name that the checkpoint has for `name`.
    fn key(&self, name: &str) -> Option<String> {
        let alias = self.architecture.alias(name);
        let bare = |name: &str| {
            let bare = name.strip_prefix(self.architecture.prefix());
            bare.map(str::to_owned)
        };
        let old = |name: &str| {
            let (module, part) = name.rsplit_once('.')?;
            let part = match part {
                "weight" => "gamma",
                "bias" => "beta",
                _ => return None,
            };
            module
                .contains("LayerNorm")
                .then(|| format!("{module}.{part}"))
        };
        let names = [Some(name.to_owned()), alias].into_iter().flatten();
        names
            .flat_map(|name| [Some(name.clone()), bare(&name)])
            .flatten()
            .flat_map(|name| [Some(name.clone()), old(&name)])
            .flatten()
            .find(|name| self.checkpoint.shape(name).is_some())
    }

    fn finish(self) -> Result<(Vec<String>, Vec<String>), Error> {
        if !self.faults.is_empty() {
            let more = self.faults.len().saturating_sub(NAMED);
            let mut found = self.faults;
            found.truncate(NAMED);
            let mut found = found.join(", ");
            if more > 0 {
                found += &format!(" and {more} more");
            }
            return Err(Error::Model {
                path: self.folder.to_path_buf(),
                what: "weights".to_owned(),
                expected: "every tensor of the architecture".to_owned(),
                found,
            });
        }
        let unused = self.checkpoint.names().filter(|name| {
            let shape = self.checkpoint.shape(name).unwrap_or_default();
            !self.used.contains(*name) && !is_constant(name, shape)
        });
        Ok((self.drawn, unused.map(str::to_owned).collect()))
    }
}

/// N(0, spread²) for weights, zero for biases, each from its own stream.
fn draw(
    module: &Declared,
    name: &str,
    shape: &[usize],
    seed: u64,
    spread: f64,
) -> Result<Tensor, Error> {
    let count = shape.iter().product();
    let values = if module.bias_name().as_deref() == Some(name) {
        vec![0.0; count]
    } else {
        normal(seed, &format!("head {name}"), count, spread)
    };
    Ok(Tensor::from_vec(values, shape, &Device::Cpu)?.to_dtype(DType::F32)?)
}

/// Whether a tensor is one that old checkpoints saved although nothing learned it: numbers of
/// positions, and the masks of causal attention (a square for every length, and a number).
fn is_constant(name: &str, shape: &[usize]) -> bool {
    match name.rsplit_once("attn.") {
        Some((_, "bias")) => matches!(shape, [1, 1, rows, columns] if rows == columns),
        Some((_, "masked_bias")) => shape.is_empty(),
        _ => name == "position_ids" || name.ends_with(".position_ids"),
    }
}
