//! A trained adapter on disk: which modules it changes, and how each update is made.
//!
//! A file is understood by its tensors' names and shapes, not by its own name:
//!
//! 1. [`key`] takes every name apart into module, part and layout;
//! 2. [`module`] puts the parts of a module together into a [`recipe`], or says why not;
//! 3. the recipe reads the tensors when the update is asked for.
//!
//! | symbol | where it comes from |
//! |---|---|
//! | R | the rows of A; a configuration that says otherwise is reported |
//! | α | an `.alpha` tensor, else `alpha_pattern`, else `lora_alpha` |
//! | s | α/R, or α/√R with `use_rslora`; mlx-lm's `scale`; AdaLoRA's α/R₀ with the R₀ before pruning |
//!
//! Everything in the file that is no update that can be audited is listed with the reason.

mod base;
mod config;
mod experts;
mod key;
mod module;
mod projection;
mod recipe;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use ndarray::Array2;

use crate::Error;
use crate::audit::{Finding, FindingKind, natural_order};
use crate::container::{Container, TensorInfo};
use crate::product::{Directions, directions};
use crate::update::{Update, difference_of_products};
use base::{Base, BaseWeight, flat};
use config::AdapterConfig;
use key::{Format, Key, Part};
use module::{Context, Parts};
pub(crate) use module::{Module, Remark};

/// Methods of PEFT whose updates are understood.
const READ_METHODS: [&str; 7] = [
    "LORA",
    "ADALORA",
    "LOHA",
    "LOKR",
    "VERA",
    "IA3",
    "TRAINABLE_TOKENS",
];

/// What kohya's names begin with: a part of the pipeline, then the module.
const KOHYA_PREFIXES: [(&str, &str); 8] = [
    ("lora_unet_", "unet"),
    ("lora_te1_", "te1"),
    ("lora_te2_", "te2"),
    ("lora_te3_", "te3"),
    ("lora_te_", "te"),
    ("lora_transformer_", "transformer"),
    ("lora_prior_unet_", "prior"),
    ("lycoris_", "lycoris"),
];

/// An adapter file, opened: tensors are read when they are asked for.
#[derive(Debug)]
pub(crate) struct Adapter {
    weights: Container,
    base: Option<Base>,
    initial: Option<Box<Adapter>>,
    /// VeRA's A and B for all modules.
    projections: Option<Projections>,
    pub base_model: Option<String>,
    pub format: Format,
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

#[derive(Debug)]
enum Projections {
    /// In the file, under these names.
    Kept(String, String),
    /// Drawn anew, as PEFT does where they were not saved.
    Drawn(Array2<f64>, Array2<f64>),
}

/// What belongs to an adapter but is not in its file.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Beside<'a> {
    /// The base model's checkpoint.
    pub base: Option<&'a Path>,
    /// The adapter as it was before training.
    pub initial: Option<&'a Path>,
}

impl Adapter {
    /// Opens an adapter file and reads the `adapter_config.json` beside it. `None` if no tensor in
    /// it is part of an adapter: such a file holds a model's weights.
    ///
    /// # Errors
    /// [`Error::File`] if a file cannot be read or is malformed.
    pub fn open(path: &Path, beside: Beside<'_>) -> Result<Option<Self>, Error> {
        let weights = Container::open(path)?;
        let config = AdapterConfig::read(&path.with_file_name("adapter_config.json"))?;
        let is_adapter = |name: &String| Key::parse(name) != Key::Full;
        if config.is_none() && !weights.tensors().keys().any(is_adapter) {
            return Ok(None);
        }
        let base = beside.base.map(Base::open).transpose()?;
        let initial = match beside.initial {
            None => None,
            Some(path) => {
                let adapter = Self::open(&initial_file(path), Beside::default())?;
                let missing = || Error::format(path, "initial adapter", "an adapter", "none");
                Some(Box::new(adapter.ok_or_else(missing)?))
            }
        };
        let mut adapter = Self {
            weights,
            base,
            initial,
            projections: None,
            base_model: config
                .as_ref()
                .and_then(|c| c.base_model_name_or_path.clone()),
            format: Format::Peft,
            contents: Contents::default(),
        };
        adapter.read_contents(config.as_ref())?;
        Ok(Some(adapter))
    }

    /// The update of a module, or its transpose.
    ///
    /// # Errors
    /// [`Error::File`] if a file cannot be read, [`Error::Mismatch`] if the initial adapter has other
    /// shapes.
    pub fn update(&self, module: &Module) -> Result<Update, Error> {
        let scale = module.scale.unwrap_or(1.0);
        let update = self.made(&module.recipe, scale)?;
        let Some(before) = self.before(module) else {
            return Ok(update);
        };
        let initial = self.initial.as_ref().expect("a module was found in it");
        match (update, initial.made(&before.recipe, scale)?) {
            (Update::Product { b, a, .. }, Update::Product { b: b0, a: a0, .. }) => {
                let (b, a) = difference_of_products((b, a), (b0, a0))?;
                Ok(Update::Product { b, a, scale })
            }
            (update, before) => Ok(Update::Dense(update.to_dense() - before.to_dense())),
        }
    }

    /// The singular values of a module's update, and the lengths of its directions where it is a
    /// plain product of factors.
    ///
    /// # Errors
    /// [`Error::NonFinite`] naming the factor; as [`update`](Self::update) otherwise.
    pub fn directions(&self, module: &Module) -> Result<Directions, Error> {
        match self.update(module)? {
            Update::Product { b, a, scale } => directions(b.view(), a.view(), scale),
            other => Ok(Directions {
                singular_values: other.singular_values()?,
                norms: Vec::new(),
            }),
        }
    }

    /// The same module before training.
    fn before(&self, module: &Module) -> Option<&Module> {
        let initial = self.initial.as_ref()?;
        initial
            .contents
            .modules
            .iter()
            .find(|other| other.name == module.name)
    }

    fn base_matrix(&self, weight: &BaseWeight) -> Result<Array2<f64>, Error> {
        match &self.base {
            Some(base) => base.read(weight),
            None => Err(Error::format(
                self.weights.path(),
                &weight.name,
                "a base model",
                "none",
            )),
        }
    }

    /// VeRA's shared A (R × inputs) and B (outputs × R).
    fn projections(&self) -> Result<(Array2<f64>, Array2<f64>), Error> {
        let read = |name: &str| -> Result<Array2<f64>, Error> {
            let shape = flat(&self.weights.tensors()[name].shape);
            let values = self.weights.read(name)?;
            Ok(Array2::from_shape_vec(shape, values).expect("the shape was checked on opening"))
        };
        match &self.projections {
            Some(Projections::Kept(a, b)) => Ok((read(a)?, read(b)?)),
            Some(Projections::Drawn(a, b)) => Ok((a.clone(), b.clone())),
            None => Err(Error::format(
                self.weights.path(),
                "vera_A and vera_B",
                "two tensors",
                "none",
            )),
        }
    }

    fn file_name(&self) -> String {
        let name = self.weights.path().file_name().unwrap_or_default();
        name.to_string_lossy().into_owned()
    }

    /// Sorts the tensors of the file out.
    fn read_contents(&mut self, config: Option<&AdapterConfig>) -> Result<(), Error> {
        let file = self.file_name();
        let count = self.weights.tensors().len();
        let refused = match config.and_then(|c| c.peft_type.as_deref()) {
            _ if count == 0 => Some("the file has no tensors".to_owned()),
            Some(kind) if !READ_METHODS.contains(&kind) => {
                Some(format!("peft_type {kind}: not audited; {count} tensors"))
            }
            _ => None,
        };
        if let Some(reason) = refused {
            self.contents.refused.push((file, reason));
            return Ok(());
        }
        let names: Vec<String> = self.weights.tensors().keys().cloned().collect();
        let sorted = Sorted::new(&names, config);
        self.format = sorted.format;
        let numbers = self.numbers(&sorted)?;
        self.projections = self.found_projections(&sorted, config)?;
        let context = Context {
            tensors: self.weights.tensors(),
            config,
            base: self.base.as_ref(),
            format: self.format,
            numbers: &numbers,
            projections: self
                .projections
                .as_ref()
                .map(|p| p.sizes(self.weights.tensors())),
        };
        let mut contents = assembled(&sorted, &context, &file);
        contents.findings = findings(config, &contents.modules, &sorted);
        self.contents = contents;
        self.take_initial_away();
        Ok(())
    }

    /// The single numbers of the file: `.alpha` and `.ranknum`.
    fn numbers<'a>(&self, sorted: &Sorted<'a>) -> Result<BTreeMap<&'a str, f64>, Error> {
        let mut numbers = BTreeMap::new();
        for parts in sorted.groups.values() {
            for part in [Part::Alpha, Part::RankNumber] {
                let Some(&name) = parts.get(&part) else {
                    continue;
                };
                let length: usize = self.weights.tensors()[name].shape.iter().product();
                if length == 1
                    && let Some(&number) = self.weights.read(name)?.first()
                {
                    numbers.insert(name, number);
                }
            }
        }
        Ok(numbers)
    }

    /// VeRA's projections: those of the file, or drawn again where the base tells their sizes.
    fn found_projections(
        &self,
        sorted: &Sorted<'_>,
        config: Option<&AdapterConfig>,
    ) -> Result<Option<Projections>, Error> {
        let shared: Parts<'_> = sorted
            .groups
            .iter()
            .filter(|((module, _), _)| module.is_empty())
            .flat_map(|(_, parts)| parts.iter().map(|(&part, &name)| (part, name)))
            .collect();
        let get = |part| shared.get(&part).copied();
        if let (Some(a), Some(b)) = (get(Part::VeraProjectionA), get(Part::VeraProjectionB)) {
            let kept = Projections::Kept(a.to_owned(), b.to_owned());
            let (rank, _, _) = kept.sizes(self.weights.tensors());
            let (_, columns) = flat(&self.weights.tensors()[b].shape);
            return Ok((rank == columns).then_some(kept));
        }
        let (Some(base), Some(config)) = (&self.base, config) else {
            return Ok(None);
        };
        let targets = sorted
            .groups
            .iter()
            .filter(|(_, parts)| parts.contains_key(&Part::VeraB));
        let (mut inputs, mut outputs, mut rank) = (0, 0, 0);
        for ((module, _), parts) in targets {
            let Some(weight) = base.weight(module) else {
                return Ok(None);
            };
            let (mut m, mut n) = flat(&weight.shape);
            if config.fan_in_fan_out == Some(true) {
                (m, n) = (n, m);
            }
            outputs = outputs.max(m);
            inputs = inputs.max(n);
            let vector = parts
                .get(&Part::VeraD)
                .and_then(|d| self.weights.tensors().get(*d));
            rank = rank.max(vector.map_or(0, |d| d.shape.iter().product()));
        }
        let key = config.projection_prng_key.unwrap_or(0);
        let drawn = |(a, b)| Projections::Drawn(a, b);
        Ok((rank > 0).then(|| drawn(projection::drawn(key, rank, inputs, outputs))))
    }

    /// With the adapter as it was before training, an update has both ranks and is no longer in
    /// doubt; a module that the initial adapter lacks is refused.
    fn take_initial_away(&mut self) {
        let Some(initial) = &self.initial else {
            return;
        };
        let mut kept = Vec::new();
        for mut module in std::mem::take(&mut self.contents.modules) {
            let before = initial
                .contents
                .modules
                .iter()
                .find(|m| m.name == module.name);
            match before {
                Some(before) if before.recipe.shape() == module.recipe.shape() => {
                    module.rank += before.rank;
                    kept.push(module);
                }
                Some(before) => self.contents.refused.push((
                    module.name,
                    format!(
                        "expected an initial adapter of shape {:?}, found {:?}",
                        module.shape, before.shape
                    ),
                )),
                None => self.contents.refused.push((
                    module.name,
                    "expected the module in the initial adapter, found none".to_owned(),
                )),
            }
        }
        self.contents.modules = kept;
        self.contents
            .findings
            .retain(|finding| finding.kind != FindingKind::ChangedBase);
    }
}

impl Projections {
    /// R, the columns of A, the rows of B.
    fn sizes(&self, tensors: &BTreeMap<String, TensorInfo>) -> (usize, usize, usize) {
        match self {
            Self::Kept(a, b) => {
                let ((rank, columns), (rows, _)) =
                    (flat(&tensors[a].shape), flat(&tensors[b].shape));
                (rank, columns, rows)
            }
            Self::Drawn(a, b) => (a.nrows(), a.ncols(), b.nrows()),
        }
    }
}

/// The file of an adapter that is given as a file or a folder.
fn initial_file(path: &Path) -> std::path::PathBuf {
    let names = ["adapter_model.safetensors", "adapter_model.bin"];
    let inside = names.iter().map(|name| path.join(name));
    match inside.into_iter().find(|file| file.is_file()) {
        Some(file) => file,
        None => path.to_path_buf(),
    }
}

/// The names of a file by what they mean.
struct Sorted<'a> {
    /// By module and adapter.
    groups: BTreeMap<(Cow<'a, str>, Option<&'a str>), Parts<'a>>,
    /// Tensors that two names claim for one part, all but the first.
    doubles: Vec<&'a str>,
    /// By family: how many, and one of them.
    foreign: BTreeMap<&'static str, (usize, &'a str)>,
    full: Vec<&'a str>,
    format: Format,
}

impl<'a> Sorted<'a> {
    fn new(names: &'a [String], config: Option<&AdapterConfig>) -> Self {
        let mut sorted = Self {
            groups: BTreeMap::new(),
            doubles: Vec::new(),
            foreign: BTreeMap::new(),
            full: Vec::new(),
            format: Format::Peft,
        };
        let mut formats = BTreeSet::new();
        for name in names {
            match Key::parse(name) {
                Key::Part {
                    module,
                    adapter,
                    part,
                    format,
                } => {
                    let is_pipeline = ["unet.", "transformer.", "text_encoder"]
                        .iter()
                        .any(|begin| name.starts_with(begin));
                    formats.insert(match format {
                        Format::Peft if is_pipeline && config.is_none() => Format::Diffusers,
                        format => format,
                    });
                    let parts = sorted.groups.entry((module, adapter)).or_default();
                    if parts.insert(part, name).is_some() {
                        sorted.doubles.push(name);
                    }
                }
                Key::Foreign(family) => {
                    sorted.foreign.entry(family).or_insert((0, name)).0 += 1;
                }
                Key::Full => sorted.full.push(name),
            }
        }
        sorted.format = format_of(&formats, config);
        sorted
    }
}

/// The layout of a file by those of its names: the most particular one.
fn format_of(formats: &BTreeSet<Format>, config: Option<&AdapterConfig>) -> Format {
    if config.is_some_and(|c| c.peft_type.is_some()) {
        return Format::Peft;
    }
    let order = [
        Format::Mlx,
        Format::Cloneofsimo,
        Format::Lycoris,
        Format::Diffusers,
        Format::Kohya,
        Format::Loralib,
    ];
    order
        .into_iter()
        .find(|format| formats.contains(format))
        .unwrap_or(Format::Peft)
}

/// The modules, and what is not one.
fn assembled(sorted: &Sorted<'_>, context: &Context<'_>, file: &str) -> Contents {
    let mut contents = Contents::default();
    let names = Names::new(sorted, context.format);
    let mut seen = BTreeSet::new();
    for ((raw, adapter), parts) in &sorted.groups {
        if raw.is_empty() {
            continue;
        }
        let raw: &str = raw;
        let described = || match adapter {
            Some(adapter) => format!("{raw} ({adapter})"),
            None => raw.to_owned(),
        };
        let only = |part| parts.len() == 1 && parts.contains_key(&part);
        if only(Part::Bias) {
            let reason = "trained as a whole (modules_to_save): a vector, which has no rank";
            contents
                .refused
                .push((format!("{raw}.bias"), reason.to_owned()));
            continue;
        }
        if only(Part::Alpha) {
            let family = sorted.foreign.keys().next().copied();
            let reason = match family {
                Some(family) => format!("the alpha of {family}"),
                None => "an alpha without factors".to_owned(),
            };
            contents.refused.push((described(), reason));
            continue;
        }
        if !seen.insert(raw) {
            let reason = "a second pair of factors for one module";
            contents.refused.push((described(), reason.to_owned()));
            continue;
        }
        match Module::all(&names.shown(raw), parts, context) {
            Ok(modules) => contents.modules.extend(modules),
            Err(reason) => contents.refused.push((names.shown(&described()), reason)),
        }
    }
    for &name in &sorted.full {
        let path = name.strip_prefix("base_model.model.").unwrap_or(name);
        let path = path.strip_suffix(".weight").unwrap_or(path);
        let path = path.strip_suffix(".modules_to_save").unwrap_or(path);
        match module::whole(path, name, context) {
            Ok(module) => contents.modules.push(module),
            Err(reason) => contents.refused.push((name.to_owned(), reason)),
        }
    }
    contents.refused.extend(sorted.doubles.iter().map(|&name| {
        let reason = "a second tensor for one part of a module";
        (name.to_owned(), reason.to_owned())
    }));
    contents
        .refused
        .extend(sorted.foreign.iter().map(|(family, (count, example))| {
            let reason = format!("{family}: not audited; {count} tensors, such as {example}");
            (file.to_owned(), reason)
        }));
    contents
        .modules
        .sort_by(|x, y| natural_order(&x.name, &y.name));
    contents.refused.sort_by(|x, y| natural_order(&x.0, &y.0));
    contents
}

/// How kohya's names are shown: without the prefix, unless two parts of the pipeline then share one.
struct Names {
    ambiguous: BTreeSet<String>,
    is_kohya: bool,
}

impl Names {
    fn new(sorted: &Sorted<'_>, format: Format) -> Self {
        let is_kohya = matches!(format, Format::Kohya | Format::Lycoris);
        let (mut seen, mut ambiguous) = (BTreeSet::new(), BTreeSet::new());
        let modules: BTreeSet<&str> = sorted.groups.keys().map(|(raw, _)| raw.as_ref()).collect();
        for raw in modules {
            let (_, name) = without_prefix(raw);
            if !seen.insert(name) {
                ambiguous.insert(name.to_owned());
            }
        }
        Self {
            ambiguous,
            is_kohya,
        }
    }

    fn shown(&self, raw: &str) -> String {
        if !self.is_kohya {
            return raw.to_owned();
        }
        match without_prefix(raw) {
            (Some(part), name) if self.ambiguous.contains(name) => format!("{part}.{name}"),
            (_, name) => name.to_owned(),
        }
    }
}

fn without_prefix(raw: &str) -> (Option<&'static str>, &str) {
    let stripped = KOHYA_PREFIXES
        .iter()
        .find_map(|(prefix, part)| Some((Some(*part), raw.strip_prefix(prefix)?)));
    stripped.unwrap_or((None, raw))
}

/// What the names and the configuration give rise to.
fn findings(
    config: Option<&AdapterConfig>,
    modules: &[Module],
    sorted: &Sorted<'_>,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    let whole = |kind, message: String| Finding {
        kind,
        module: None,
        message,
        values: Vec::new(),
    };
    let unscaled = modules.iter().filter(|m| m.scale.is_none() && m.rank > 0);
    if config.is_none() {
        if unscaled.clone().next().is_some() {
            let message = "no adapter_config.json beside the file and no alpha in it: the scale is \
                           unknown, singular values are of B A";
            findings.push(whole(FindingKind::AlphaMissing, message.to_owned()));
        }
    } else {
        findings.extend(unscaled.map(|module| {
            let message = "adapter_config.json gives no lora_alpha: singular values are of B A";
            Finding::of_module(FindingKind::AlphaMissing, &module.name, message)
        }));
    }
    findings.extend(modules.iter().filter_map(unusual_scale));
    findings.extend(modules.iter().filter_map(remark));
    let bias =
        |parts: &Parts<'_>| parts.contains_key(&Part::Bias) || parts.contains_key(&Part::Vector);
    let biased: BTreeSet<&str> = sorted
        .groups
        .iter()
        .filter(|(_, parts)| bias(parts))
        .map(|((module, _), _)| module.as_ref())
        .collect();
    findings.extend(
        modules
            .iter()
            .filter(|module| biased.contains(module.name.as_str()))
            .map(|module| {
                let message = "a bias was trained too; it is a vector and has no rank";
                Finding::of_module(FindingKind::TrainedBias, &module.name, message)
            }),
    );
    let Some(config) = config else {
        return findings;
    };
    if let Some(name) = config.changed_base() {
        let message = format!(
            "init_lora_weights {name}: the base was changed; singular values are of s B A, not of \
             the true update, which needs the adapter as it was before training (--initial)"
        );
        findings.push(whole(FindingKind::ChangedBase, message));
    }
    if let Some(key) = config.unread_rank_pattern() {
        let message = format!("rank_pattern {key:?} was not understood and was not compared");
        findings.push(whole(FindingKind::RankPatternMismatch, message));
    }
    findings.extend(modules.iter().filter_map(|module| {
        let expected = config.rank(&module.name)?;
        let found = module.factor_rank()?;
        if expected == found {
            return None;
        }
        let message = format!("expected rank {expected}, found factors of rank {found}");
        let values = vec![("expected", expected as f64), ("found", found as f64)];
        Some(Finding {
            values,
            ..Finding::of_module(FindingKind::RankPatternMismatch, &module.name, message)
        })
    }));
    findings
}

/// Scales that no training that went well is known to have used: not positive, or beyond α/R of
/// 1/128 (α = 1, R = 128) and 128.
fn unusual_scale(module: &Module) -> Option<Finding> {
    let scale = module.scale?;
    if (1.0 / 128.0..=128.0).contains(&scale) {
        return None;
    }
    let message = format!("the scale {scale:e} is unusual: is alpha right?");
    Some(Finding {
        values: vec![("scale", scale)],
        ..Finding::of_module(FindingKind::UnusualScale, &module.name, message)
    })
}

fn remark(module: &Module) -> Option<Finding> {
    let (kind, message) = match module.remark? {
        Remark::Directional => (
            FindingKind::Directional,
            "DoRA without the base weight (--base): singular values are of s B A, from which the \
             direction is made, not of the whole update",
        ),
        Remark::InputsAssumed => (
            FindingKind::InputsAssumed,
            "VeRA without the base weight (--base): the module is taken to have all the inputs of \
             the shared A",
        ),
    };
    Some(Finding::of_module(kind, &module.name, message))
}
