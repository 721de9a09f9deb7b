use std::collections::BTreeMap;

use safetensors::Dtype;

use super::config::AdapterConfig;
use super::key::Layout;
use crate::Epsilon;
use crate::audit::Kind;
use crate::container::TensorInfo;

/// The factors of one module's update, and what the configuration says of them.
#[derive(Debug)]
pub(crate) struct Module {
    pub name: String,
    pub kind: Kind,
    /// R.
    pub rank: usize,
    /// α/R or α/√R; `None` if α is not known.
    pub scale: Option<f64>,
    /// Of the coarser of the two factors' types.
    pub epsilon: Epsilon,
    /// The names of the factors' tensors.
    pub(super) a: String,
    pub(super) b: String,
    /// Rows of B, and the product of A's dimensions after the first.
    pub(super) outer: (usize, usize),
}

/// The names of a module's factors, as far as the file has them.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Pair<'a> {
    pub a: Option<&'a str>,
    pub b: Option<&'a str>,
}

impl Module {
    /// Puts a module together; the error is the reason why it cannot be audited.
    pub(super) fn new(
        name: &str,
        layout: Layout,
        pair: Pair<'_>,
        tensors: &BTreeMap<String, TensorInfo>,
        config: Option<&AdapterConfig>,
    ) -> Result<Self, String> {
        let (a, b) = match (pair.a, pair.b) {
            (Some(a), Some(b)) => (a, b),
            (Some(_), None) => return Err("factor A without factor B".to_owned()),
            _ => return Err("factor B without factor A".to_owned()),
        };
        let (first, second) = (&tensors[a], &tensors[b]);
        let is_transposed = config.and_then(|c| c.fan_in_fan_out) == Some(true);
        let (kind, rank, outer) = match (layout, &first.shape[..], &second.shape[..]) {
            (Layout::Embedding, &[rank, n], &[m, r]) if r == rank => {
                (Kind::Embedding, rank, (m, n))
            }
            (Layout::Layer, &[rank, n], &[m, r]) if r == rank => {
                let kind = if is_transposed {
                    Kind::Conv1d
                } else {
                    Kind::Linear
                };
                (kind, rank, (m, n))
            }
            // Reading the header has checked that this product does not overflow.
            (Layout::Layer, &[rank, n, height, width], &[m, r, 1, 1]) if r == rank => {
                (Kind::Conv2d, rank, (m, n * height * width))
            }
            (_, a, b) => {
                return Err(format!(
                    "expected factors R x in and out x R, or R x in x h x w and out x R x 1 x 1, \
                     found {a:?} and {b:?}"
                ));
            }
        };
        let epsilon = match (epsilon(first.dtype), epsilon(second.dtype)) {
            (Some(a), Some(b)) if a.value() > b.value() => a,
            (Some(_), Some(b)) => b,
            _ => {
                let (a, b) = (first.dtype, second.dtype);
                let expected = "factors in F64, F32, F16, BF16, F8_E4M3 or F8_E5M2";
                return Err(format!("expected {expected}, found {a:?} and {b:?}"));
            }
        };
        let scale = match config {
            Some(config) => scale(name, rank, config)?,
            None => None,
        };
        let (name, a, b) = (name.to_owned(), a.to_owned(), b.to_owned());
        Ok(Self {
            name,
            kind,
            rank,
            scale,
            epsilon,
            a,
            b,
            outer,
        })
    }

    /// Rows and columns of ΔW as the base model keeps that weight.
    pub fn shape(&self) -> (usize, usize) {
        match self.kind {
            Kind::Linear | Kind::Conv2d => self.outer,
            Kind::Conv1d | Kind::Embedding => (self.outer.1, self.outer.0),
        }
    }
}

/// What B A is multiplied with, if α is known.
fn scale(name: &str, rank: usize, config: &AdapterConfig) -> Result<Option<f64>, String> {
    if let Some(variant) = config.variant() {
        return Err(variant_reason(variant));
    }
    if config.targets_parameter_of(name) {
        return Err("factors of several experts in one (target_parameters)".to_owned());
    }
    let divisor = match config.use_rslora {
        Some(true) => (rank as f64).sqrt(),
        _ => rank as f64,
    };
    let alpha = config.alpha(name)?.filter(|_| rank > 0);
    Ok(alpha.map(|alpha| alpha / divisor))
}

pub(super) fn variant_reason(what: &str) -> String {
    match what {
        "DoRA" => "DoRA: the update needs the base weight".to_owned(),
        other => format!("{other}: a LoRA variant that is not audited"),
    }
}

fn epsilon(dtype: Dtype) -> Option<Epsilon> {
    match dtype {
        Dtype::F64 => Some(Epsilon::F64),
        Dtype::F32 => Some(Epsilon::F32),
        Dtype::F16 => Some(Epsilon::F16),
        Dtype::BF16 => Some(Epsilon::Bf16),
        Dtype::F8_E4M3 => Some(Epsilon::F8E4m3),
        Dtype::F8_E5M2 => Some(Epsilon::F8E5m2),
        _ => None,
    }
}
