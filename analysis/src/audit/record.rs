//! What an audit says, and its machine-readable form: the names and the order here are the format's.

use std::collections::BTreeMap;

use serde::ser::{SerializeMap, SerializeStruct};
use serde::{Deserialize, Serialize, Serializer};

use super::finding::{Finding, Severity};
use crate::{Measures, Orthogonality, Side, orthogonality};

/// The audit of a file or folder. Serialised, it is `{"adapters": […], "refused": […],
/// "passed_over": […]}`.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Audit {
    /// The adapters, in the natural order of their paths.
    pub adapters: Vec<AdapterAudit>,
    /// What cannot be audited.
    pub refused: Vec<Refused>,
    /// What runs of `rankwise train` keep beside their adapters.
    pub passed_over: Vec<PassedOver>,
}

impl Audit {
    /// How many refusals are of this class.
    pub fn refusals(&self, class: RefusalClass) -> usize {
        let of_class = self.refused.iter().filter(|refused| refused.class == class);
        of_class.count()
    }
}

/// Something that cannot be audited, by name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Refused {
    /// The file.
    pub path: String,
    /// The module or tensor, or the file's name if all of it is meant.
    pub name: String,
    /// Why.
    pub reason: String,
    /// Whether it is an adapter at all.
    pub class: RefusalClass,
}

/// Whether what was refused is an adapter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusalClass {
    /// An adapter or an update that could not be read or measured.
    NotAudited,
    /// A model's weights, a head or another tensor trained as a whole, a trainer's state, a folder
    /// without weights.
    NoAdapter,
}

/// A part of a run's folder that is not looked into.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PassedOver {
    /// The file or folder.
    pub path: String,
    /// What it is.
    pub what: RunPart,
}

/// What a run of `rankwise train` keeps beside its adapter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunPart {
    /// `adapter/` or `best/`, where the other one was taken: the same run after another epoch.
    OtherEpoch,
    /// `base/`, `tuned/` or `best/tuned`: a model's weights.
    Weights,
    /// `checkpoint.safetensors`: the state of a run that is not finished.
    State,
}

/// One adapter. Serialised, its summary has the [groups](AdapterAudit::by_layer) and the worst
/// finding's [severity](AdapterAudit::severity) too.
#[derive(Debug, Clone, PartialEq)]
pub struct AdapterAudit {
    /// The adapter's folder, or its file if that was asked for.
    pub path: String,
    /// The layout of the file: `peft`, `kohya`, `lycoris`, `diffusers`, `mlx-lm`, `loralib` or
    /// `cloneofsimo`.
    pub format: &'static str,
    /// The model that the adapter was trained on, as its configuration names it.
    pub base_model: Option<String>,
    /// The modules, in the natural order of their names.
    pub modules: Vec<ModuleAudit>,
    /// The measures over the modules.
    pub summary: Summary,
    /// What deserves attention.
    pub findings: Vec<Finding>,
}

impl AdapterAudit {
    /// The modules of every kind taken together. Groups are several times as large as the modules that
    /// they sum up, so that they are made where they are asked for and not kept.
    pub fn by_kind(&self) -> BTreeMap<&'static str, Group> {
        Group::by(&self.modules, |module| Some(module.kind.name()))
    }

    /// By layer; modules outside the numbered ones are left out.
    pub fn by_layer(&self) -> BTreeMap<usize, Group> {
        Group::by(&self.modules, |module| module.layer)
    }

    /// The severity of the worst finding.
    pub fn severity(&self) -> Option<Severity> {
        let severities = self.findings.iter().map(|finding| finding.kind.severity());
        severities.min()
    }

    /// By [role](ModuleAudit::role).
    pub fn by_role(&self) -> BTreeMap<String, Group> {
        Group::by(&self.modules, |module| Some(module.role()))
    }
}

impl Serialize for AdapterAudit {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Whole<'a> {
            #[serde(flatten)]
            summary: &'a Summary,
            by_kind: BTreeMap<&'static str, Group>,
            by_layer: BTreeMap<usize, Group>,
            by_role: BTreeMap<String, Group>,
            severity: Option<Severity>,
        }
        let mut record = serializer.serialize_struct("AdapterAudit", 6)?;
        record.serialize_field("path", &self.path)?;
        record.serialize_field("format", &self.format)?;
        record.serialize_field("base_model", &self.base_model)?;
        record.serialize_field("modules", &self.modules)?;
        let summary = Whole {
            summary: &self.summary,
            by_kind: self.by_kind(),
            by_layer: self.by_layer(),
            by_role: self.by_role(),
            severity: self.severity(),
        };
        record.serialize_field("summary", &summary)?;
        record.serialize_field("findings", &self.findings)?;
        record.end()
    }
}

/// The kind of layer that an update belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Weight outputs × inputs.
    Linear,
    /// GPT-2's linear layer, weight inputs × outputs.
    Conv1d,
    /// Weight entries × dimension.
    Embedding,
    /// A convolution over one dimension: outputs × (inputs · length).
    #[serde(rename = "conv_1d")]
    Conv1,
    /// Weight outputs × (inputs · height · width).
    Conv2d,
    /// Weight outputs × (inputs · depth · height · width).
    Conv3d,
    /// One matrix of a parameter that holds one for every expert.
    Expert,
    /// Rows of an embedding.
    Token,
}

/// How an update is parametrised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// s·B·A.
    Lora,
    /// s·B·diag(E)·A.
    Adalora,
    /// A change of direction by s·B·A and a magnitude of every row.
    Dora,
    /// The element-wise product of two products.
    Loha,
    /// A Kronecker product.
    Lokr,
    /// A product that is multiplied to the weight and one that is added.
    Glora,
    /// Trained vectors between random matrices.
    Vera,
    /// The rows or columns multiplied by a vector.
    Ia3,
    /// Every entry trained.
    Full,
    /// Some rows of an embedding trained.
    Tokens,
}

/// The update ΔW of one module.
#[derive(Debug, Clone, PartialEq)]
pub struct ModuleAudit {
    /// As the base model names it.
    pub name: String,
    /// Its kind.
    pub kind: Kind,
    /// How its update is parametrised.
    pub method: Method,
    /// The first number in the name: the block that the module is in.
    pub layer: Option<usize>,
    /// Rows and columns of ΔW in the base weight's own orientation.
    pub shape: (usize, usize),
    /// R, the rank that the factors allow (of LoHa R², of an update without factors its smaller side).
    pub rank_budget: usize,
    /// The numbers that were trained for it.
    pub parameters: usize,
    /// What B A is multiplied with.
    pub scale: f64,
    /// Whether the scale is known; if not, singular values are of B A.
    pub scaled: bool,
    /// `None` if a factor holds NaN or Inf.
    pub spectrum: Option<Spectrum>,
}

/// The singular values of an update and everything that follows from them.
#[derive(Debug, Clone, PartialEq)]
pub struct Spectrum {
    /// min(R, rows, columns) values, descending.
    pub singular_values: Vec<f64>,
    /// The rank measures.
    pub measures: Measures,
    /// Distance from an isometry, on the side that was asked for.
    pub orthogonality: Orthogonality,
}

impl ModuleAudit {
    /// The distance from an isometry on either side.
    pub fn orthogonality(&self, side: Side) -> Option<Orthogonality> {
        let spectrum = self.spectrum.as_ref()?;
        Some(orthogonality(
            &spectrum.singular_values,
            self.shape,
            self.rank_budget.max(spectrum.singular_values.len()),
            side,
        ))
    }
}

impl Serialize for ModuleAudit {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let spectrum = self.spectrum.as_ref();
        let m = spectrum.map(|s| &s.measures);
        let o = spectrum.map(|s| &s.orthogonality);
        let mut row = serializer.serialize_struct("ModuleAudit", 28)?;
        row.serialize_field("name", &self.name)?;
        row.serialize_field("kind", &self.kind)?;
        row.serialize_field("layer", &self.layer)?;
        row.serialize_field("shape", &self.shape)?;
        row.serialize_field("rank_budget", &self.rank_budget)?;
        row.serialize_field("scale", &self.scale)?;
        row.serialize_field("scaled", &self.scaled)?;
        row.serialize_field("singular_values", &spectrum.map(|s| &s.singular_values))?;
        row.serialize_field("tau", &m.map(|m| m.tau))?;
        row.serialize_field("tau_rule", &m.map(|m| &m.tau_rule))?;
        row.serialize_field("numerical_rank", &m.map(|m| m.numerical_rank))?;
        row.serialize_field("energy_rank_90", &m.map(|m| m.energy_rank_90))?;
        row.serialize_field("energy_rank_95", &m.map(|m| m.energy_rank_95))?;
        row.serialize_field("energy_rank_99", &m.map(|m| m.energy_rank_99))?;
        row.serialize_field("stable_rank", &m.and_then(|m| m.stable_rank))?;
        row.serialize_field("effective_rank", &m.and_then(|m| m.effective_rank))?;
        row.serialize_field(
            "effective_rank_energy",
            &m.and_then(|m| m.effective_rank_energy),
        )?;
        row.serialize_field(
            "participation_ratio",
            &m.and_then(|m| m.participation_ratio),
        )?;
        row.serialize_field("nuclear_ratio", &m.and_then(|m| m.nuclear_ratio))?;
        row.serialize_field("frobenius_norm", &m.map(|m| m.frobenius_norm))?;
        row.serialize_field("spectral_norm", &m.map(|m| m.spectral_norm))?;
        row.serialize_field("orthogonality_loss", &o.map(|o| o.loss))?;
        row.serialize_field("orthogonality_floor", &o.map(|o| o.floor))?;
        row.serialize_field("orthogonality_excess", &o.map(|o| o.excess))?;
        row.serialize_field("orthogonality_side", &o.map(|o| o.side))?;
        row.serialize_field("method", &self.method)?;
        row.serialize_field("role", &self.role())?;
        row.serialize_field("parameters", &self.parameters)?;
        row.end()
    }
}

/// Some modules of an adapter taken together.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Group {
    /// Number of modules.
    pub modules: usize,
    /// Modules with ΔW = 0.
    pub zero_updates: usize,
    /// Modules with NaN or Inf in a factor.
    pub non_finite: usize,
    /// Σ R.
    pub rank_budget: usize,
    /// Every measure by name, over the modules that have it.
    #[serde(serialize_with = "as_map")]
    pub measures: Vec<(&'static str, Distribution)>,
}

/// All modules of an adapter taken together.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    /// Number of modules.
    pub modules: usize,
    /// Modules with ΔW = 0.
    pub zero_updates: usize,
    /// Modules with NaN or Inf in a factor.
    pub non_finite: usize,
    /// Σ R.
    pub rank_budget: usize,
    /// The numbers that were trained.
    pub parameters: usize,
    /// Every measure by name, over the modules that have it.
    #[serde(serialize_with = "as_map")]
    pub measures: Vec<(&'static str, Distribution)>,
}

/// Some numbers by their mean and percentiles (linear interpolation between order statistics).
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Distribution {
    pub count: usize,
    pub mean: f64,
    pub min: f64,
    pub p05: f64,
    pub p25: f64,
    pub median: f64,
    pub p75: f64,
    pub p95: f64,
    pub max: f64,
}

pub(super) fn as_map<S: Serializer, T: Serialize>(
    entries: &[(&'static str, T)],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let mut map = serializer.serialize_map(Some(entries.len()))?;
    for (name, value) in entries {
        map.serialize_entry(name, value)?;
    }
    map.end()
}
