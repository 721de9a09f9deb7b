//! A trained adapter at another rank: every update cut down to its best approximation, in the same
//! layout, with the error that this makes.
//!
//! The approximation is optimal (see [`truncation`]): nothing of that rank is nearer to the update. The
//! factors are written under their old names in their old types; everything else in the file is copied
//! byte for byte. A rank is never raised: a module that has less than what is asked for stays as it is.
//!
//! | what | what becomes of it |
//! |---|---|
//! | LoRA of linear layers, Conv1D, embeddings, convolutions; kohya, diffusers, mlx-lm, loralib | new factors in the old places |
//! | LoHa, LoKr, VeRA, AdaLoRA, Tucker cores; PiSSA and its kin with the initial adapter | plain LoRA |
//! | a zero update | rank 1 of zeros, which PEFT loads |
//! | DoRA: its magnitudes belong to the whole of s B A | copied as it is |
//! | convolutions in groups, experts, loralib's merged layers | copied as they are |
//! | NaN or Inf in a factor | an error that names the module; nothing is written |
//! | PiSSA and its kin without the initial adapter | an error: s B A is not the update |

mod configuration;
mod record;
mod rule;
mod scale;
mod truncation;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use rankwise_data::{check_free, read_text, write_atomic, write_folder};
use rayon::prelude::*;
use safetensors::Dtype;
use serde_json::{Map, Value};

use crate::Error;
use crate::adapter::{Adapter, Beside, Format, Module, Pattern, twin};
use crate::audit::{FindingKind, RefusalClass, one_adapter};
use crate::writer::{NewTensor, write_tensors};
use configuration::Configuration;
pub(crate) use configuration::{Setting, name_twins, set_ranks, write_json};
pub(crate) use record::root_sum;
pub use record::{Change, Loss, ModuleResize, ResizeTotals, Resized, Untouched};
pub use rule::RankRule;
use scale::{Holder, Scales};
pub(crate) use truncation::{balanced, decomposed, energy_kept, expected, measured, norm, stored};

/// The type of new factors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NewType {
    /// Float32.
    F32,
    /// Float16.
    F16,
    /// Bfloat16.
    Bf16,
}

impl NewType {
    pub(crate) fn dtype(self) -> Dtype {
        match self {
            Self::F32 => Dtype::F32,
            Self::F16 => Dtype::F16,
            Self::Bf16 => Dtype::BF16,
        }
    }
}

/// What the new product is multiplied with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum NewScale {
    /// The scale of the old one: α changes with R.
    #[default]
    Keep,
    /// 1: the scale goes into the factors, α = R (√R with `use_rslora`).
    Fold,
}

/// Choices of a resizing.
#[derive(Debug, Clone, PartialEq)]
pub struct ResizeOptions {
    /// How many directions are kept.
    pub rule: RankRule,
    /// What they are multiplied with.
    pub scale: NewScale,
    /// The type of the new factors; `None`: that of the old ones, float32 for types of eight bits.
    pub dtype: Option<NewType>,
    /// The base model's checkpoint, where the update or a kernel's window cannot be known without.
    pub base: Option<PathBuf>,
    /// The adapter as it was before training, where its initialisation changed the base.
    pub initial: Option<PathBuf>,
}

impl ResizeOptions {
    /// By this rule, everything else as it was.
    pub fn new(rule: RankRule) -> Self {
        Self {
            rule,
            scale: NewScale::Keep,
            dtype: None,
            base: None,
            initial: None,
        }
    }
}

/// Resizes the adapter at `path`, a file or a folder of one, into the new folder `out`: the weights as
/// safetensors under their old file name, `adapter_config.json` if there was one, and the record as
/// `resize.json`. The folder is there whole or not at all.
///
/// ```
/// use rankwise_analysis::{RankRule, ResizeOptions, resize};
/// # use rankwise_analysis::PeftAdapter;
/// # let folder = tempfile::tempdir()?;
/// # let (path, out) = (&folder.path().join("adapter"), &folder.path().join("small"));
/// # // B A = diag(4, 3), scale 2.
/// # PeftAdapter {
/// #     module: "classifier".to_owned(), rank: 2, inputs: 2, outputs: 2, alpha: 4.0,
/// #     a: vec![1.0, 0.0, 0.0, 1.0], b: vec![4.0, 0.0, 0.0, 3.0], bias: None,
/// # }.write(path)?;
/// // σ = 8, 6: one direction holds 64 % of the energy.
/// let resized = resize(path, out, &ResizeOptions::new(RankRule::Energy(0.6)))?;
/// let module = &resized.modules[0];
/// assert_eq!((module.old_rank, module.new_rank), (2, 1));
/// assert!((module.error.frobenius - 6.0).abs() < 1e-12);
/// assert!((module.error.relative.unwrap() - 0.6).abs() < 1e-12);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// [`Error::Mismatch`] if a number of the options is out of range, a pattern fits no module or a factor
/// is beyond its type's range; [`Error::Module`] with [`Error::NonFinite`] if an update is not finite;
/// [`Error::File`] if there is not exactly one adapter at `path`, nothing of it can be resized, or
/// there is something at `out`.
pub fn resize(path: &Path, out: &Path, options: &ResizeOptions) -> Result<Resized, Error> {
    options.rule.check()?;
    check_free(out)?;
    let candidate = one_adapter(path)?;
    let file = candidate.file.clone();
    let beside = Beside::open(options.base.as_deref(), options.initial.as_deref())?;
    let adapter = Adapter::open(&file, &beside)?
        .ok_or_else(|| Error::format(&file, "file", "an adapter", "no tensor of one"))?;
    let mut configuration = Configuration::beside(&file)?;
    let modules = &adapter.contents.modules;
    let findings = &adapter.contents.findings;
    if findings.iter().any(|f| f.kind == FindingKind::ChangedBase) {
        return Err(Error::format(
            &file,
            "an initialisation that changed the base (init_lora_weights), so that s B A is not the update",
            "the adapter as it was before training (--initial)",
            "none",
        ));
    }
    let names = modules.iter().flat_map(|m| [m.raw.as_str(), &m.name]);
    options.rule.check_names(names)?;
    let mut texts = adapter.weights().texts()?;
    let scales = Scales::new(&adapter, configuration.as_ref(), &texts);
    let patterns = options.rule.patterns();
    // Collected before the first error is looked for: which one it is does not depend on timing.
    let plans: Vec<_> = modules
        .par_iter()
        .map(|module| plan(module, &adapter, &scales, &patterns, options))
        .collect();
    let (mut made, mut untouched) = (Vec::new(), Vec::new());
    for (module, plan) in modules.iter().zip(plans) {
        match plan.map_err(|error| error.of_module(&module.name))? {
            Plan::Made(one) => made.push(*one),
            Plan::Untouched(reason) => untouched.push(Untouched {
                name: module.name.clone(),
                reason,
            }),
        }
    }
    if made.is_empty() {
        let refused = adapter.contents.refused.iter().map(|(_, reason)| reason);
        let mut reasons = untouched.iter().map(|u| &u.reason).chain(refused);
        let found = reasons.next().map_or("none", String::as_str);
        return Err(Error::format(
            &file,
            "modules",
            "one that can be resized",
            found,
        ));
    }
    // Factors that are copied have the rank that the configuration says today: half a pair, too.
    let is_factor = |name: &str| adapter.contents.class_of(name) == RefusalClass::NotAudited;
    let others =
        !untouched.is_empty() || adapter.contents.refused.iter().any(|(n, _)| is_factor(n));
    untouched.extend(
        adapter
            .contents
            .refused
            .iter()
            .map(|(name, reason)| Untouched {
                name: name.clone(),
                reason: reason.clone(),
            }),
    );

    let mut replaced: BTreeSet<String> = made.iter().flat_map(|m| m.replaced.clone()).collect();
    let mut notes = Vec::from_iter(candidate.remark());
    let copies = &adapter.contents.copies;
    let is_peft = adapter.format == Format::Peft && configuration.is_some();
    if is_peft && copies.is_whole {
        let names = adapter.weights().tensors().keys();
        replaced.extend(names.filter(|name| copies.contains(name)).cloned());
        notes.extend(copies.described());
    }
    if let Some(configuration) = &mut configuration {
        let method = configuration.method().map(str::to_owned);
        if let Some(method) = method.filter(|method| method != "LORA") {
            replaced.extend(adapter.shared_tensors());
            check_all_converted(&adapter, &replaced, &method, &untouched)?;
            configuration.become_lora();
            notes.push(format!("{method} was converted to plain LoRA"));
        }
        if adapter.has_initial() {
            configuration
                .fields
                .insert("init_lora_weights".to_owned(), Value::Bool(true));
            notes.push(
                "the adapter's beginning was taken away: it belongs to the original base".into(),
            );
        }
        if configuration
            .fields
            .get("init_lora_weights")
            .and_then(Value::as_str)
            == Some("orthogonal")
        {
            // It exists for even ranks only, and is looked at when the adapter is loaded.
            configuration
                .fields
                .insert("init_lora_weights".to_owned(), Value::Bool(true));
            notes.push("init_lora_weights: orthogonal was replaced by true".to_owned());
        }
    }
    notes.extend(scales.write(
        &made,
        others,
        options.scale,
        configuration.as_mut(),
        &mut texts,
    )?);
    let flattened = made.iter().filter(|m| m.is_window_unknown).count();
    if flattened > 0 {
        notes.push(format!(
            "{flattened} modules are written as matrices: if they are convolutions, only the base \
             (--base) tells their window"
        ));
    }

    let source = adapter.weights();
    let mut tensors = Vec::new();
    for name in source
        .tensors()
        .keys()
        .filter(|name| !replaced.contains(*name))
    {
        tensors.push(NewTensor::copy(source, name, name)?);
    }
    let records: Vec<ModuleResize> = made.iter().map(|m| m.record.clone()).collect();
    tensors.extend(made.into_iter().flat_map(|m| m.tensors));
    let is_renamed = is_peft && rename_as_loaded(&adapter, &mut tensors, &mut notes)?;
    if adapter.has_twins {
        let twins: Vec<_> = tensors
            .iter()
            .filter_map(|tensor| {
                let name = twin(&tensor.name)?;
                Some(NewTensor {
                    name,
                    ..tensor.clone()
                })
            })
            .collect();
        tensors.extend(twins);
        if let Some(configuration) = &mut configuration {
            name_twins(&mut configuration.fields);
        }
        notes.push(
            "each tensor of a block twice, as before: as transformers 4 and as transformers 5 calls \
             its module"
                .to_owned(),
        );
    }
    let old_bytes = source
        .tensors()
        .values()
        .map(|t| t.shape.iter().product::<usize>() * t.dtype.bitsize() / 8);
    let new_bytes = tensors.iter().map(NewTensor::size).sum();
    let file_name = new_name(&file, &adapter, configuration.is_some());
    if !source.is_safetensors() {
        let names = if is_renamed {
            ""
        } else {
            ", tensors by their old names"
        };
        notes.push(format!("written as safetensors: {file_name}{names}"));
        texts.entry("format").or_insert_with(|| "pt".into());
    }
    let resized = Resized {
        path: path.display().to_string(),
        format: adapter.format.name(),
        file: file_name,
        rule: options.rule.describe(),
        scale: match options.scale {
            NewScale::Keep => "keep",
            NewScale::Fold => "fold",
        },
        notes,
        totals: ResizeTotals::new(&records, old_bytes.sum(), new_bytes),
        modules: records,
        untouched,
    };
    write_folder(out, |folder| {
        write_tensors(&folder.join(&resized.file), tensors, &texts, source)?;
        if let Some(configuration) = &configuration {
            configuration.write(folder)?;
        }
        // What it says of the head's outputs, and of where the adapter came from, is still so.
        let origin = file.with_file_name("rankwise.json");
        if origin.is_file() {
            let text = read_text(&origin)?;
            write_atomic(&folder.join("rankwise.json"), |out| {
                out.write_all(text.as_bytes())
            })?;
        }
        write_json(&folder.join("resize.json"), &resized)
    })?;
    Ok(resized)
}

/// What is to be done with a module.
enum Plan {
    Made(Box<Made>),
    Untouched(String),
}

/// A module at its new rank.
struct Made {
    raw: String,
    /// As the configuration's patterns name it.
    configured: String,
    record: ModuleResize,
    holder: Holder,
    alpha: f64,
    tensors: Vec<NewTensor>,
    replaced: Vec<String>,
    is_window_unknown: bool,
}

fn plan(
    module: &Module,
    adapter: &Adapter,
    scales: &Scales,
    patterns: &Pattern,
    options: &ResizeOptions,
) -> Result<Plan, Error> {
    let place = match adapter.place(module) {
        Ok(place) => place,
        Err(reason) => return Ok(Plan::Untouched(reason)),
    };
    let holder = scales.holder(module, &place)?;
    let update = adapter.update(module)?.compact()?;
    let epsilon = module.epsilon.for_products();
    let names = [module.raw.as_str(), &module.name];
    let is_new = place.is_converted || adapter.has_initial();
    let types = [&place.a, &place.b].map(|slot| options.dtype.map_or(slot.dtype, NewType::dtype));
    let is_as_it_was =
        !is_new && options.scale == NewScale::Keep && types == [place.a.dtype, place.b.dtype];
    let (sigma, chosen) = decomposed(&update, |sigma| {
        let chosen = options
            .rule
            .rank(patterns, names, sigma, module.shape, epsilon);
        match chosen {
            Some(rank) if rank < module.rank => Some(rank),
            // Nothing is cut off, but the factors have to be written anew.
            _ if !is_as_it_was => Some(chosen.unwrap_or(sigma.len()).max(1)),
            _ => None,
        }
    })?;
    let old_scale = module.scale.unwrap_or(1.0);
    let whole = norm(&sigma);
    let record = ModuleResize {
        name: module.name.clone(),
        kind: module.kind,
        method: module.method,
        shape: module.shape,
        change: Change::Kept,
        old_rank: module.rank,
        new_rank: module.rank,
        old_scale,
        new_scale: old_scale,
        scaled: module.scale.is_some(),
        old_parameters: module.parameters,
        new_parameters: module.parameters,
        frobenius_norm: whole,
        energy_kept: (whole > 0.0).then_some(1.0),
        error: Loss::NONE,
        written: Loss::NONE,
    };
    let Some((rank, svd)) = chosen else {
        let alpha = scales.alpha(&holder, old_scale, module.rank, None)?.alpha;
        return Ok(Plan::Made(Box::new(Made {
            raw: module.raw.clone(),
            configured: module.configured.clone(),
            record,
            holder,
            alpha,
            tensors: Vec::new(),
            replaced: Vec::new(),
            is_window_unknown: false,
        })));
    };
    let wanted = match options.scale {
        NewScale::Fold => 1.0,
        NewScale::Keep => old_scale,
    };
    let new = scales.alpha(&holder, wanted, rank, place.alpha.as_ref())?;
    let (b, a) = balanced(&svd, rank, new.scale);
    let (a_tensor, a) = stored(&place.a, types[0], &a)?;
    let (b_tensor, b) = stored(&place.b, types[1], &b)?;
    let mut tensors = vec![a_tensor, b_tensor];
    let mut replaced = place.replaced;
    if let Some(tensor) = new.tensor {
        replaced.push(tensor.name.clone());
        tensors.push(tensor);
    }
    let record = ModuleResize {
        change: if is_new {
            Change::Converted
        } else {
            Change::Truncated
        },
        new_rank: rank,
        new_scale: new.scale,
        new_parameters: a.len() + b.len(),
        energy_kept: energy_kept(&sigma, rank),
        error: expected(&sigma, rank),
        written: measured(&update, &b, &a, new.scale, whole)?,
        ..record
    };
    Ok(Plan::Made(Box::new(Made {
        raw: module.raw.clone(),
        configured: module.configured.clone(),
        record,
        holder,
        alpha: new.alpha,
        tensors,
        replaced,
        is_window_unknown: place.is_window_unknown,
    })))
}

/// Gives the tensors of a whole state the names that PEFT loads; whether any has another now.
fn rename_as_loaded(
    adapter: &Adapter,
    tensors: &mut [NewTensor],
    notes: &mut Vec<String>,
) -> Result<bool, Error> {
    let (mut names, mut renamed) = (BTreeSet::new(), 0);
    for tensor in tensors {
        let own = adapter.contents.copies.loaded(&tensor.name);
        if !names.insert(own.clone()) {
            return Err(Error::format(
                adapter.weights().path(),
                own,
                "one tensor: PEFT loads one adapter from a file",
                format!("a second one, {}", tensor.name),
            ));
        }
        renamed += usize::from(own != tensor.name);
        tensor.name = own;
    }
    if renamed > 0 {
        notes.push(format!(
            "{renamed} tensors have the names that PEFT loads: without the adapter's name and wrappers"
        ));
    }
    Ok(renamed > 0)
}

/// A configuration of LoRA can state nothing about factors of another method.
fn check_all_converted(
    adapter: &Adapter,
    replaced: &BTreeSet<String>,
    method: &str,
    untouched: &[Untouched],
) -> Result<(), Error> {
    let weights = adapter.weights();
    let mut left = weights
        .tensors()
        .keys()
        .filter(|name| !replaced.contains(*name));
    let Some(name) = left.find(|name| Adapter::is_factor(name)) else {
        return Ok(());
    };
    let reason = untouched.first().map_or("", |u| &u.reason);
    let expected = format!("{method} that can be converted to plain LoRA as a whole");
    let found = format!("{name} ({reason})");
    Err(Error::format(weights.path(), "modules", expected, found))
}

/// The file's old name, if that can be a safetensors file's.
fn new_name(file: &Path, adapter: &Adapter, has_configuration: bool) -> String {
    let name = file
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    if adapter.weights().is_safetensors() {
        return name;
    }
    if has_configuration && adapter.format != Format::Mlx {
        return "adapter_model.safetensors".to_owned();
    }
    let stem = name.trim_end_matches(".index.json");
    let stem = stem.rsplit_once('.').map_or(stem, |(stem, _)| stem);
    format!("{stem}.safetensors")
}

/// A text map's own kind of JSON text.
fn parsed(texts: &Map<String, Value>, key: &str) -> Option<Map<String, Value>> {
    serde_json::from_str(texts.get(key)?.as_str()?).ok()
}
