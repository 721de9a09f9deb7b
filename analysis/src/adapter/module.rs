//! From the parts of one module to its recipe, or to the reason why it cannot be audited.

use std::borrow::Cow;
use std::collections::BTreeMap;

use safetensors::Dtype;

use super::base::{Base, BaseWeight, flat};
use super::bounds;
use super::config::AdapterConfig;
use super::factors::{check_ranks, hadamard, kernel_kind, kronecker, product};
use super::key::{Format, Part};
use super::of_weight::{dora, of_base, vera};
use super::recipe::{Factor, Recipe, Stored};
use super::scale::scale;
use super::settings::Settings;
use crate::Epsilon;
use crate::audit::{Kind, Method};
use crate::container::TensorInfo;

/// One module's update: how it is made and what is known of it.
#[derive(Debug, Clone)]
pub(crate) struct Module {
    /// As the base model names it.
    pub name: String,
    /// As the configuration's patterns of ranks and α name it.
    pub configured: String,
    pub kind: Kind,
    pub method: Method,
    /// R, or what takes its place: the most directions that the form allows.
    pub rank: usize,
    /// What the product is multiplied with; `None` if it is not known.
    pub scale: Option<f64>,
    /// Of the coarsest of the tensors' types.
    pub epsilon: Epsilon,
    /// Rows and columns of ΔW as the base model keeps that weight.
    pub shape: (usize, usize),
    /// Whether the base model keeps the transpose of what the update is computed as: outputs × inputs.
    pub is_transposed: bool,
    /// The numbers that were trained for it.
    pub parameters: usize,
    /// What deserves a word although it does not stand in the way.
    pub remark: Option<Remark>,
    pub(super) recipe: Recipe,
    /// As the file names it, without what its layout puts around all names.
    pub raw: String,
    /// The tensors under that name.
    pub(super) parts: Vec<(Part, String)>,
}

/// What an audit of a module could not take into account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Remark {
    /// DoRA without the base weight: the spectrum is that of s B A.
    Directional,
    /// VeRA without the base weight: all columns of the shared A were taken.
    InputsAssumed,
}

/// The names of a module's tensors.
pub(super) type Parts<'a> = BTreeMap<Part, &'a str>;

/// What all modules of a file share.
pub(super) struct Context<'a> {
    pub tensors: &'a BTreeMap<String, TensorInfo>,
    pub config: Option<&'a AdapterConfig>,
    pub base: Option<&'a Base>,
    pub format: Format,
    /// The numbers in `.alpha` and `.ranknum` tensors, by tensor.
    pub numbers: &'a BTreeMap<&'a str, f64>,
    /// The settings that diffusers keeps inside the file.
    pub settings: &'a Settings,
    /// VeRA's shared matrices: R, the columns of A, the rows of B; or why there are none.
    pub projections: Result<(usize, usize, usize), String>,
}

impl Context<'_> {
    pub fn shape(&self, tensor: &str) -> &[usize] {
        self.tensors.get(tensor).map_or(&[], |info| &info.shape)
    }

    /// A tensor as a matrix: the first dimension by the product of the others.
    pub fn matrix(&self, tensor: &str) -> Stored {
        let (rows, columns) = flat(self.shape(tensor));
        Stored::rows_first(tensor, rows, columns)
    }

    pub fn weight(&self, module: &str) -> Option<BaseWeight> {
        self.base?.weight(&self.of_base(module).ok()?)
    }

    /// The module of the base model that a module stands on.
    fn of_base<'b>(&self, module: &'b str) -> Result<Cow<'b, str>, String> {
        match self.config {
            Some(config) => config.of_base(module),
            None => Ok(Cow::Borrowed(module)),
        }
    }

    pub fn needed_weight(&self, module: &str, what: &str) -> Result<BaseWeight, String> {
        let Some(base) = self.base else {
            return Err(format!("{what}: the update needs the base weight (--base)"));
        };
        let module = self.of_base(module)?;
        match (base.weight(&module), base.unread(&module)) {
            (_, Some(how)) => Err(format!(
                "{what}: the update needs the base weight, which is {how}"
            )),
            (Some(weight), None) => Ok(weight),
            (None, None) => Err(format!(
                "{what}: the update needs the base weight; expected {module}.weight in the base \
                 model, found none"
            )),
        }
    }
}

/// Everything about a module but its scale and type.
pub(super) struct Draft {
    pub kind: Kind,
    pub method: Method,
    pub rank: usize,
    pub recipe: Recipe,
    pub is_transposed: bool,
    pub remark: Option<Remark>,
}

impl Module {
    /// The modules that the parts under one name make: several for the experts of one parameter.
    pub(super) fn all(
        name: &str,
        parts: &Parts<'_>,
        context: &Context<'_>,
    ) -> Result<Vec<Self>, String> {
        for (part, tensor) in parts {
            if let Part::Variant(what) = part {
                return Err(format!("{what}; it has {tensor}"));
            }
        }
        if let Some(variant) = context.config.and_then(AdapterConfig::variant) {
            return Err(format!(
                "{variant}: its update is not s B A and is not read yet"
            ));
        }
        for tensor in parts.values() {
            bounds::check_sides(tensor, context)?;
        }
        // AdaLoRA may prune all directions of a module.
        let is_pruned = parts
            .get(&Part::E)
            .is_some_and(|tensor| matches!(context.shape(tensor), [0, _]));
        if !is_pruned {
            for tensor in parts.values() {
                check_numbers(tensor, context)?;
            }
        }
        if let Some(experts) = super::experts::experts(name, parts, context)? {
            let configured = &experts.configured;
            let drafts = experts.drafts.into_iter();
            return drafts
                .map(|(name, draft)| Self::finished(&name, configured, draft, parts, context))
                .collect();
        }
        let draft = draft(name, parts, context)?;
        // PEFT wraps the layers within a layer, such as an attention's output, with its settings.
        let configured = name.split(".base_layer.").next().unwrap_or(name);
        let module = Self::finished(name, configured, draft, parts, context)?;
        Ok(vec![module])
    }

    /// R of the factors, where they have one that a configuration states.
    pub(super) fn factor_rank(&self) -> Option<usize> {
        let inner = match &self.recipe {
            Recipe::Directions { inside, .. } => inside,
            other => other,
        };
        match inner {
            Recipe::Product { b, .. } => Some(b.shape().1),
            Recipe::Groups { a, .. } => Some(a.rows),
            Recipe::Hadamard { first, .. } => Some(first.0.shape().1),
            _ => None,
        }
    }

    pub(super) fn finished(
        name: &str,
        configured: &str,
        draft: Draft,
        parts: &Parts<'_>,
        context: &Context<'_>,
    ) -> Result<Self, String> {
        let Draft {
            kind,
            method,
            rank,
            recipe,
            is_transposed,
            remark,
        } = draft;
        let (mut epsilon, mut parameters) = (None, 0_usize);
        let own = match &recipe {
            // Perhaps one of several matrices in one tensor.
            Recipe::Product {
                b: Factor::Stored(b),
                a: Factor::Stored(a),
            } => Some(b.rows * b.columns + a.rows * a.columns),
            _ => None,
        };
        for tensor in recipe.tensors() {
            let Some(info) = context.tensors.get(tensor) else {
                continue;
            };
            parameters = parameters.saturating_add(info.shape.iter().product());
            let own = Epsilon::of(info.dtype)
                .ok_or_else(|| format!("{tensor}: expected {READABLE}, found {:?}", info.dtype))?;
            epsilon = match epsilon {
                Some(coarser) if own.value() <= Epsilon::value(coarser) => Some(coarser),
                _ => Some(own),
            };
        }
        let (rows, columns) = match &recipe {
            Recipe::Tokens { weight, .. } => flat(&weight.shape),
            other => other.shape(),
        };
        if rows == 0 || columns == 0 {
            return Err(format!(
                "expected a matrix, found {rows} rows and {columns} columns"
            ));
        }
        Ok(Self {
            name: name.to_owned(),
            configured: configured.to_owned(),
            kind,
            method,
            rank,
            parameters: own.unwrap_or(parameters),
            scale: scale(configured, rank, method, &recipe, parts, context)?,
            epsilon: epsilon.unwrap_or(Epsilon::F32),
            shape: if is_transposed {
                (columns, rows)
            } else {
                (rows, columns)
            },
            is_transposed,
            remark,
            recipe,
            raw: name.to_owned(),
            parts: parts
                .iter()
                .map(|(&part, &tensor)| (part, tensor.to_owned()))
                .collect(),
        })
    }
}

const READABLE: &str = "F64, F32, F16, BF16, F8_E4M3, F8_E5M2 or I8";

fn draft(name: &str, parts: &Parts<'_>, context: &Context<'_>) -> Result<Draft, String> {
    let mut draft = if let Some(draft) = product(name, parts, context)? {
        draft
    } else if let Some(draft) = hadamard(parts, context)? {
        draft
    } else if let Some(draft) = kronecker(name, parts, context)? {
        draft
    } else if let Some(draft) = vera(name, parts, context)? {
        draft
    } else if let Some(draft) = of_base(name, parts, context)? {
        draft
    } else if let Some(&tensor) = parts.get(&Part::Difference) {
        let shape = context.shape(tensor);
        if shape.len() < 2 {
            return Err(no_matrix(shape));
        }
        let recipe = Recipe::Difference(context.matrix(tensor));
        Draft {
            kind: kernel_kind(shape),
            method: Method::Full,
            rank: recipe.shape().0.min(recipe.shape().1),
            recipe,
            is_transposed: false,
            remark: None,
        }
    } else {
        return Err(incomplete(parts));
    };
    check_ranks(&draft.recipe)?;
    bounds::check(&draft.recipe, context)?;
    let is_dora = context.config.and_then(|c| c.use_dora) == Some(true)
        || context.config.and_then(|c| c.fine_tune_type.as_deref()) == Some("dora");
    match parts.get(&Part::Magnitude) {
        Some(&magnitude) => draft = dora(name, draft, magnitude, context)?,
        None if is_dora => {
            return Err("DoRA: expected a vector of magnitudes, found none".to_owned());
        }
        None => {}
    }
    Ok(draft)
}

/// Why the parts under a name make no update.
fn incomplete(parts: &Parts<'_>) -> String {
    let has = |part| parts.contains_key(&part);
    if has(Part::A) || has(Part::BareA) || has(Part::EmbeddingA) || has(Part::Down) {
        return "factor A without factor B".to_owned();
    }
    if has(Part::B) || has(Part::BareB) || has(Part::EmbeddingB) || has(Part::Up) {
        return "factor B without factor A".to_owned();
    }
    for (part, what) in [
        (Part::NormWeight, "a normalisation's weight"),
        (Part::NormBias, "a normalisation's bias"),
        (Part::BiasDifference, "a bias"),
    ] {
        if has(part) {
            return format!("the difference of {what}: a vector, which has no rank");
        }
    }
    let names: Vec<&str> = parts.values().copied().collect();
    format!(
        "expected the parts of an update, found only {}",
        names.join(", ")
    )
}

/// Checks that a tensor is there, and not only its name.
pub(super) fn check_numbers(tensor: &str, context: &Context<'_>) -> Result<(), String> {
    let shape = context.shape(tensor);
    if !shape.contains(&0) {
        return Ok(());
    }
    Err(format!(
        "{tensor} holds no numbers ({shape:?}): so do the files of DeepSpeed ZeRO-3 and FSDP whose \
         shards were not gathered before saving"
    ))
}

fn no_matrix(shape: &[usize]) -> String {
    format!(
        "a difference with {} dimension{}: a vector, which has no rank",
        shape.len(),
        if shape.len() == 1 { "" } else { "s" }
    )
}

impl Epsilon {
    /// Of a tensor's type, if such tensors can be read as numbers.
    pub(crate) fn of(dtype: Dtype) -> Option<Self> {
        match dtype {
            Dtype::F64 => Some(Self::F64),
            Dtype::F32 => Some(Self::F32),
            Dtype::F16 => Some(Self::F16),
            Dtype::BF16 => Some(Self::Bf16),
            Dtype::F8_E4M3 => Some(Self::F8E4m3),
            Dtype::F8_E5M2 => Some(Self::F8E5m2),
            // Whole numbers are exact; what is computed from them is judged as float32.
            Dtype::I8 => Some(Self::F32),
            _ => None,
        }
    }
}
