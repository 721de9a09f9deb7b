//! Where the factors of a module are kept, so that factors of another rank can take their place.
//!
//! | layout | A | B | α |
//! |---|---|---|---|
//! | PEFT, loralib, diffusers, kohya | R × inputs [× window] | outputs × R [× 1 × 1] | a tensor, or the configuration's |
//! | mlx-lm | inputs × R | R × outputs | none: one scale for all |
//!
//! An update of another form (LoHa, LoKr, VeRA, AdaLoRA, a Tucker core) is a plain product of factors
//! once it is truncated, and gets the names of such factors.

use safetensors::Dtype;

use super::key::Part;
use super::recipe::{Factor, Recipe, Side, Stored};
use super::{Adapter, Format, Module, Remark};
use crate::audit::Method;

/// A tensor for one factor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Slot {
    pub name: String,
    pub dtype: Dtype,
    /// Whether the layout keeps the factor transposed.
    pub is_transposed: bool,
    /// The dimensions but R's.
    around: Vec<usize>,
    /// Where R is among them.
    place: usize,
}

impl Slot {
    /// A tensor for the factor A of a layer whose weight has these dimensions after the outputs.
    pub fn of_a(name: String, dtype: Dtype, inputs: &[usize]) -> Self {
        Self {
            name,
            dtype,
            is_transposed: false,
            around: inputs.to_vec(),
            place: 0,
        }
    }

    /// A tensor for the factor B of a layer with so many outputs and dimensions of a window.
    pub fn of_b(name: String, dtype: Dtype, outputs: usize, window: usize) -> Self {
        let mut around = vec![1; window + 1];
        around[0] = outputs;
        Self {
            name,
            dtype,
            is_transposed: false,
            around,
            place: 1,
        }
    }

    /// Whether the factor is B, whose columns are the directions.
    pub fn is_b(&self) -> bool {
        (self.place == 1) != self.is_transposed
    }

    /// The tensor's dimensions at a rank.
    pub fn shape(&self, rank: usize) -> Vec<usize> {
        let mut shape = self.around.clone();
        shape.insert(self.place, rank);
        shape
    }
}

/// A tensor of one number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Number {
    pub name: String,
    pub dtype: Dtype,
    pub shape: Vec<usize>,
}

/// Where a module's update can be written as a product.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    /// R × inputs.
    pub a: Slot,
    /// Outputs × R.
    pub b: Slot,
    /// The tensor that holds α.
    pub alpha: Option<Number>,
    /// The tensors that are no longer needed, those of the slots among them.
    pub replaced: Vec<String>,
    /// Whether the update had another form.
    pub is_converted: bool,
    /// Whether nothing tells a convolution's window, so that its kernel is written as a matrix.
    pub is_window_unknown: bool,
}

impl Adapter {
    /// The place of a module, or the reason why its update cannot be written at another rank.
    pub fn place(&self, module: &Module) -> Result<Place, String> {
        match module.method {
            Method::Dora => {
                return Err("DoRA: its magnitudes belong to the whole of s B A".to_owned());
            }
            Method::Full | Method::Ia3 | Method::Glora | Method::Tokens => {
                return Err("no product of factors".to_owned());
            }
            Method::Lora | Method::Adalora | Method::Loha | Method::Lokr | Method::Vera => {}
        }
        if module.remark == Some(Remark::InputsAssumed) {
            return Err("VeRA: the module's inputs are known by the base only (--base)".to_owned());
        }
        match &module.recipe {
            Recipe::Product {
                b: Factor::Stored(b),
                a: Factor::Stored(a),
            } => self.own_place(module, b, a),
            Recipe::Groups { .. } => {
                Err("a convolution in groups: every group has factors of its own".to_owned())
            }
            Recipe::Stacked { .. } => {
                Err("several outputs in one layer, each with factors of its own".to_owned())
            }
            _ => Ok(self.new_place(module)),
        }
    }

    fn own_place(&self, module: &Module, b: &Stored, a: &Stored) -> Result<Place, String> {
        let tensors = self.weights.tensors();
        let is_whole = |matrix: &Stored| {
            let shape = &tensors[&matrix.tensor].shape;
            shape.len() >= 2 && shape.iter().product::<usize>() == matrix.rows * matrix.columns
        };
        if !is_whole(a) || !is_whole(b) {
            return Err("one of several matrices in one tensor (experts)".to_owned());
        }
        let is_transposed = module
            .parts
            .iter()
            .any(|(part, _)| matches!(part, Part::MlxA | Part::MlxB));
        let slot = |tensor: &str, rank_first: bool| {
            let info = &tensors[tensor];
            let mut around = info.shape.clone();
            let place = usize::from(rank_first == is_transposed);
            around.remove(place);
            Slot {
                name: tensor.to_owned(),
                dtype: writable(info.dtype),
                is_transposed,
                around,
                place,
            }
        };
        Ok(Place {
            a: slot(&a.tensor, true),
            b: slot(&b.tensor, false),
            alpha: self.alpha_of(module),
            replaced: vec![a.tensor.clone(), b.tensor.clone()],
            is_converted: false,
            is_window_unknown: false,
        })
    }

    /// The names that the factors would have had if the module had been plain LoRA.
    fn new_place(&self, module: &Module) -> Place {
        let tensors = self.weights.tensors();
        let raw = &module.raw;
        let first = module.parts.first().map_or("", |(_, tensor)| tensor);
        let (a, b, alpha) = match self.format {
            Format::Kohya | Format::Lycoris | Format::Diffusers | Format::Cloneofsimo => (
                format!("{raw}.lora_down.weight"),
                format!("{raw}.lora_up.weight"),
                Some(format!("{raw}.alpha")),
            ),
            Format::Peft | Format::Loralib | Format::Mlx | Format::Torchtune => {
                let prefix = if first.starts_with("base_model.model.") {
                    "base_model.model."
                } else {
                    ""
                };
                (
                    format!("{prefix}{raw}.lora_A.weight"),
                    format!("{prefix}{raw}.lora_B.weight"),
                    None,
                )
            }
        };
        let dtype = module
            .recipe
            .tensors()
            .into_iter()
            .find_map(|tensor| tensors.get(tensor))
            .map_or(Dtype::F32, |info| writable(info.dtype));
        let window = self.window(module);
        let size: usize = window.as_deref().unwrap_or_default().iter().product();
        let (outputs, columns) = module.recipe.shape();
        let window = window
            .filter(|_| size > 0 && columns.is_multiple_of(size))
            .unwrap_or_default();
        let inputs = if window.is_empty() {
            vec![columns]
        } else {
            [&[columns / size], &window[..]].concat()
        };
        let replaced = module
            .parts
            .iter()
            .filter(|(part, _)| !matches!(part, Part::Bias | Part::BiasDifference))
            .map(|(_, tensor)| tensor.clone())
            .collect();
        let is_pipeline = matches!(self.format, Format::Lycoris | Format::Kohya);
        // Their factors of a convolution may be matrices, in PEFT's layout too.
        let is_flat = matches!(module.method, Method::Loha | Method::Lokr);
        Place {
            a: Slot::of_a(a, dtype, &inputs),
            b: Slot::of_b(b, dtype, outputs, window.len()),
            alpha: self.alpha_of(module).or(alpha.map(|name| Number {
                name,
                dtype,
                shape: Vec::new(),
            })),
            replaced,
            is_converted: true,
            is_window_unknown: (is_pipeline || is_flat)
                && window.is_empty()
                && self.beside.base.is_none(),
        }
    }

    /// The dimensions of a kernel after outputs and inputs, where the base or a tensor tells them.
    fn window(&self, module: &Module) -> Option<Vec<usize>> {
        let after = |shape: &[usize]| shape.get(2..).map(<[usize]>::to_vec);
        let base = self.beside.base.as_ref();
        if let Some(weight) = base.and_then(|base| base.weight(&self.of_base(&module.raw).ok()?)) {
            return after(&weight.shape);
        }
        let of = |tensor: &str| after(&self.weights.tensors().get(tensor)?.shape);
        let factor = |factor: &Factor| match factor {
            Factor::Stored(matrix) | Factor::ScaledRows { matrix, .. } => of(&matrix.tensor),
            Factor::Tucker { core, .. } => of(&core.tensor),
        };
        match &module.recipe {
            Recipe::Product { a, .. } => factor(a),
            Recipe::Hadamard { first, .. } => factor(&first.1),
            Recipe::Kronecker { right, .. } => match right {
                Side::Whole(matrix) => of(&matrix.tensor),
                Side::Product(_, a) => factor(a),
            },
            _ => None,
        }
    }

    fn alpha_of(&self, module: &Module) -> Option<Number> {
        let (_, tensor) = module.parts.iter().find(|(part, _)| *part == Part::Alpha)?;
        let info = self.weights.tensors().get(tensor)?;
        Some(Number {
            name: tensor.clone(),
            dtype: writable(info.dtype),
            shape: info.shape.clone(),
        })
    }
}

/// The type in which new factors are written: eight bits and whole numbers need scales of their own.
fn writable(dtype: Dtype) -> Dtype {
    match dtype {
        Dtype::F64 | Dtype::F32 | Dtype::F16 | Dtype::BF16 => dtype,
        _ => Dtype::F32,
    }
}
