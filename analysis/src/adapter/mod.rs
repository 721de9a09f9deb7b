//! A trained adapter on disk: which modules it changes, and by which factors.
//!
//! Read is PEFT's layout of LoRA (`adapter_model.safetensors` beside `adapter_config.json`) for
//! linear, Conv1D (`fan_in_fan_out`), embedding and convolution layers. Everything else in the file
//! is listed with the reason why it is not an update that can be audited.
//!
//! | symbol | where it comes from |
//! |---|---|
//! | R | the rows of A; a configuration that says otherwise is reported |
//! | α | `alpha_pattern`, else `lora_alpha` |
//! | s | α/R, or α/√R with `use_rslora` |

mod config;
mod key;
mod module;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::path::Path;

use ndarray::Array2;

use crate::Error;
use crate::audit::{Finding, FindingKind, natural_order};
use crate::container::{Container, TensorInfo};
pub(crate) use config::AdapterConfig;
use key::{Key, Layout, Part};
pub(crate) use module::Module;
use module::{Pair, variant_reason};

const TRAINED_WHOLE: &str =
    "trained as a whole (modules_to_save): the update needs the base weight";

/// An adapter file, opened: factors are read when they are asked for.
#[derive(Debug)]
pub(crate) struct Adapter {
    container: Container,
    pub base_model: Option<String>,
    pub contents: Contents,
}

/// Every tensor of an adapter file, either as part of a module or among the refused.
#[derive(Debug, Default)]
pub(crate) struct Contents {
    /// In the natural order of their names.
    pub modules: Vec<Module>,
    pub findings: Vec<Finding>,
    /// Names of what cannot be audited, and why.
    pub refused: Vec<(String, String)>,
}

impl Adapter {
    /// Opens an adapter file and reads the `adapter_config.json` beside it. `None` if no tensor in
    /// it is part of an adapter: such a file holds a model's weights.
    ///
    /// # Errors
    /// [`Error::File`] if a file cannot be read or is malformed.
    pub fn open(path: &Path) -> Result<Option<Self>, Error> {
        let container = Container::open(path)?;
        let config = AdapterConfig::read(&path.with_file_name("adapter_config.json"))?;
        let is_adapter = |name: &String| Key::parse(name) != Key::Full;
        if config.is_none() && !container.tensors().keys().any(is_adapter) {
            return Ok(None);
        }
        let contents = contents(&container, config.as_ref());
        let base_model = config.and_then(|c| c.base_model_name_or_path);
        Ok(Some(Self {
            container,
            base_model,
            contents,
        }))
    }

    /// B (m × R) and A (R × n) of a module, so that ΔW or its transpose is s·B·A.
    ///
    /// # Errors
    /// [`Error::File`] if the file cannot be read.
    pub fn factors(&self, module: &Module) -> Result<(Array2<f64>, Array2<f64>), Error> {
        let matrix = |name: &str, shape| -> Result<Array2<f64>, Error> {
            let values = self.container.read(name)?;
            Ok(Array2::from_shape_vec(shape, values).expect("the shape was checked on opening"))
        };
        let (m, n) = module.outer;
        Ok((
            matrix(&module.b, (m, module.rank))?,
            matrix(&module.a, (module.rank, n))?,
        ))
    }
}

/// Sorts the tensors of a file out.
fn contents(container: &Container, config: Option<&AdapterConfig>) -> Contents {
    let tensors = container.tensors();
    let file = container
        .path()
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let refuse_all = |reason| Contents {
        refused: vec![(file.clone(), reason)],
        ..Contents::default()
    };
    if tensors.is_empty() {
        return refuse_all("the file has no tensors".to_owned());
    }
    if let Some(kind) = config
        .and_then(|c| c.peft_type.as_deref())
        .filter(|&t| t != "LORA")
    {
        return refuse_all(format!(
            "peft_type {kind}: not audited; {} tensors",
            tensors.len()
        ));
    }
    let mut pairs: BTreeMap<(&str, Option<&str>, Layout), Pair> = BTreeMap::new();
    let mut variants: BTreeMap<&str, &str> = BTreeMap::new();
    let mut biases = BTreeSet::new();
    let mut foreign: BTreeMap<&str, (usize, &str)> = BTreeMap::new();
    let mut refused = Vec::new();
    for name in tensors.keys() {
        match Key::parse(name) {
            Key::Part {
                module,
                adapter,
                part,
            } => match part {
                Part::A(layout) => {
                    pairs.entry((module, adapter, layout)).or_default().a = Some(name);
                }
                Part::B(layout) => {
                    pairs.entry((module, adapter, layout)).or_default().b = Some(name);
                }
                Part::Bias => {
                    biases.insert(module);
                }
                Part::Variant(what) => {
                    variants.entry(module).or_insert(what);
                }
            },
            Key::Foreign(family) => {
                let family = family_beside(name, tensors).unwrap_or(family);
                foreign.entry(family).or_insert((0, name)).0 += 1;
            }
            Key::Full => refused.push((name.clone(), TRAINED_WHOLE.to_owned())),
        }
    }
    let mut modules: Vec<Module> = Vec::new();
    let mut names = BTreeSet::new();
    for (&(name, adapter, layout), &pair) in &pairs {
        let module = if !names.insert(name) {
            Err("a second pair of factors for one module".to_owned())
        } else if let Some(what) = variants.get(name) {
            Err(variant_reason(what))
        } else {
            Module::new(name, layout, pair, tensors, config)
        };
        let described = || adapter.map_or(name.to_owned(), |adapter| format!("{name} ({adapter})"));
        match module {
            Ok(module) => modules.push(module),
            Err(reason) => refused.push((described(), reason)),
        }
    }
    let alone = variants.iter().filter(|(name, _)| !names.contains(*name));
    refused.extend(alone.map(|(name, what)| ((*name).to_owned(), variant_reason(what))));
    let loose = biases.difference(&names);
    refused.extend(loose.map(|name| (format!("{name}.bias"), TRAINED_WHOLE.to_owned())));
    refused.extend(foreign.into_iter().map(|(family, (count, example))| {
        (
            file.clone(),
            format!("{family}: not audited; {count} tensors, such as {example}"),
        )
    }));

    modules.sort_by(|x, y| natural_order(&x.name, &y.name));
    refused.sort_by(|x, y| natural_order(&x.0, &y.0));
    let mut findings = findings(config, &modules);
    let biased = modules
        .iter()
        .filter(|module| biases.contains(module.name.as_str()));
    findings.extend(biased.map(|module| {
        let message = "a bias was trained too; it is a vector and has no rank";
        Finding::of_module(FindingKind::TrainedBias, &module.name, message)
    }));
    Contents {
        modules,
        findings,
        refused,
    }
}

/// Of an α that belongs to another family's factors: that family. `alpha` is before all their names.
fn family_beside(name: &str, tensors: &BTreeMap<String, TensorInfo>) -> Option<&'static str> {
    let module = name.strip_suffix("alpha")?;
    let (next, _) = tensors
        .range::<str, _>((Bound::Excluded(name), Bound::Unbounded))
        .next()?;
    match Key::parse(next) {
        Key::Foreign(family) if next.starts_with(module) => Some(family),
        _ => None,
    }
}

/// What the configuration gives rise to.
fn findings(config: Option<&AdapterConfig>, modules: &[Module]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let whole = |kind, message: String| Finding {
        kind,
        module: None,
        message,
        values: Vec::new(),
    };
    let Some(config) = config else {
        let message = "no adapter_config.json beside the file: the scale is unknown, singular values \
                       are of B A";
        return vec![whole(FindingKind::AlphaMissing, message.to_owned())];
    };
    if let Some(name) = config.changed_base() {
        let message = format!(
            "init_lora_weights {name}: the base was changed; singular values are of s B A, not of \
             the true update"
        );
        findings.push(whole(FindingKind::ChangedBase, message));
    }
    if let Some(key) = config.unread_rank_pattern() {
        let message = format!("rank_pattern {key:?} is a regular expression and was not compared");
        findings.push(whole(FindingKind::RankPatternMismatch, message));
    }
    for module in modules {
        if module.scale.is_none() && module.rank > 0 {
            let message = "adapter_config.json gives no lora_alpha: singular values are of B A";
            findings.push(Finding::of_module(
                FindingKind::AlphaMissing,
                &module.name,
                message,
            ));
        }
        if let Some(rank) = config
            .rank(&module.name)
            .filter(|&rank| rank != module.rank)
        {
            let message = format!(
                "expected rank {rank}, found factors of rank {}",
                module.rank
            );
            let values = vec![("expected", rank as f64), ("found", module.rank as f64)];
            findings.push(Finding {
                values,
                ..Finding::of_module(FindingKind::RankPatternMismatch, &module.name, message)
            });
        }
    }
    findings
}
