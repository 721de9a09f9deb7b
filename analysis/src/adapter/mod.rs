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

mod alias;
mod base;
mod bounds;
mod config;
mod copies;
mod experts;
mod factors;
mod findings;
mod key;
mod method;
mod module;
mod names;
mod of_weight;
mod pattern;
mod place;
mod projection;
mod recipe;
mod remainder;
mod scale;
mod settings;
mod sorted;
mod tie;
mod trained;
mod wrappers;

use std::borrow::Cow;
use std::cell::RefCell;
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use ndarray::Array2;
use safetensors::Dtype;

use crate::audit::{Finding, FindingKind, RefusalClass, adapter_file, natural_order};
use crate::container::{Container, TensorInfo};
use crate::product::{Directions, directions, stored_directions};
use crate::update::Update;
use crate::{Error, Storage, StoredMatrix};
pub(crate) use alias::twin;
use base::BaseWeight;
pub(crate) use base::{Base, flat};
pub(crate) use config::AdapterConfig;
pub(crate) use copies::Copies;
pub(crate) use key::Format;
use key::{Key, Part};
use module::{Context, Parts};
pub(crate) use module::{Module, Remark};
use names::{Names, without_prefix};
pub(crate) use pattern::{Match, Pattern};
pub(crate) use place::{Number, Place, Slot};
pub use projection::vera_projections;
use recipe::{Factor, Recipe, Stored};
pub(crate) use remainder::{Effect, Other};
use settings::Settings;
use sorted::Sorted;
pub(crate) use tie::{Tie, ends_in, is_output_layer, tied_configurations};
pub use trained::{TrainedAdapter, TrainedModule, TrainedTensor};

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

/// An adapter file, opened: tensors are read when they are asked for.
#[derive(Debug)]
pub(crate) struct Adapter {
    weights: Container,
    /// Whether the file has its tensors a second time, under the names that a program has in memory.
    pub has_twins: bool,
    beside: Beside,
    /// VeRA's A and B for all modules.
    projections: Option<Projections>,
    pub config: Option<AdapterConfig>,
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
    /// Tensors that are the base model's own.
    pub copies: Copies,
    /// Those among them that are no part of an update, but tensors that were trained as a whole.
    whole: BTreeSet<String>,
}

impl Contents {
    /// Whether what is refused under this name is a part of an update.
    pub fn class_of(&self, refused: &str) -> RefusalClass {
        match self.whole.contains(refused) {
            true => RefusalClass::NoAdapter,
            false => RefusalClass::NotAudited,
        }
    }

    /// The module of that name, by the order of the names.
    fn module(&self, name: &str) -> Option<&Module> {
        let is_before = |module: &Module| natural_order(&module.name, name) == Ordering::Less;
        let place = self.modules.partition_point(is_before);
        self.modules.get(place).filter(|found| found.name == name)
    }
}

#[derive(Debug)]
enum Projections {
    /// In the file, under these names.
    Kept(String, String),
    /// Drawn anew, as PEFT does where they were not saved.
    Drawn(Array2<f64>, Array2<f64>),
}

/// What belongs to an adapter but is not in its file: opened once for all adapters of a command.
#[derive(Debug, Clone, Default)]
pub(crate) struct Beside {
    /// The base model's checkpoint.
    base: Option<Arc<Base>>,
    /// The adapter as it was before training.
    initial: Option<Arc<Adapter>>,
}

impl Beside {
    /// Opens the base model's checkpoint and the adapter as it was before training, as far as they
    /// are given.
    ///
    /// # Errors
    /// [`Error::File`] if one cannot be read or is malformed, or there is not exactly one adapter at
    /// `initial`.
    pub fn open(base: Option<&Path>, initial: Option<&Path>) -> Result<Self, Error> {
        let base = base.map(Base::open).transpose()?.map(Arc::new);
        let initial = match initial {
            None => None,
            Some(path) => {
                let adapter = Adapter::open(&adapter_file(path)?, &Self::default())?;
                let missing = || Error::format(path, "initial adapter", "an adapter", "none");
                Some(Arc::new(adapter.ok_or_else(missing)?))
            }
        };
        Ok(Self { base, initial })
    }
}

impl Adapter {
    /// Opens an adapter file and reads the `adapter_config.json` beside it. `None` if no tensor in
    /// it is part of an adapter: such a file holds a model's weights.
    ///
    /// # Errors
    /// [`Error::File`] if a file cannot be read or is malformed.
    pub fn open(path: &Path, beside: &Beside) -> Result<Option<Self>, Error> {
        let mut weights = Container::open(path)?;
        weights.rename(wrappers::without);
        let config = AdapterConfig::read(&path.with_file_name("adapter_config.json"))?;
        let is_part = |name: &String| Key::parse(name) != Key::Full || name == sorted::CONTROL_LORA;
        if config.is_none() && !weights.tensors().keys().any(is_part) {
            return Ok(None);
        }
        let has_twins = alias::leave_twins_out(&mut weights)?;
        let mut adapter = Self {
            weights,
            has_twins,
            beside: beside.clone(),
            projections: None,
            base_model: config
                .as_ref()
                .and_then(|c| c.base_model_name_or_path.clone()),
            format: Format::Peft,
            contents: Contents::default(),
            config: None,
        };
        adapter.read_contents(config.as_ref())?;
        adapter.config = config;
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
        let initial = self
            .beside
            .initial
            .as_ref()
            .expect("a module was found in it");
        update.minus(initial.made(&before.recipe, scale)?)
    }

    /// The singular values of a module's update, and the lengths of its directions where it is a
    /// plain product of factors.
    ///
    /// # Errors
    /// [`Error::NonFinite`] naming the factor; as [`update`](Self::update) otherwise.
    pub fn directions(&self, module: &Module) -> Result<Directions, Error> {
        if let Some(scale) = module.scale.filter(|scale| !scale.is_finite()) {
            return Err(Error::Mismatch {
                what: "scale",
                expected: "a finite number".to_owned(),
                found: scale.to_string(),
            });
        }
        let directions = match self.stored_directions(module)? {
            Some(directions) => directions,
            None => match self.update(module)? {
                Update::Product { b, a, scale } => directions(b.view(), a.view(), scale)?,
                other => Directions {
                    singular_values: other.singular_values()?,
                    norms: Vec::new(),
                },
            },
        };
        // Of finite factors too, where a product overflows.
        let mut values = directions.singular_values.iter().enumerate();
        match values.find(|(_, value)| !value.is_finite()) {
            None => Ok(directions),
            Some((row, &value)) => Err(Error::NonFinite {
                what: "singular values",
                row,
                column: 0,
                value,
            }),
        }
    }

    /// Of two factors as the file keeps them, straight from its bytes.
    fn stored_directions(&self, module: &Module) -> Result<Option<Directions>, Error> {
        let Recipe::Product {
            b: Factor::Stored(b),
            a: Factor::Stored(a),
        } = &module.recipe
        else {
            return Ok(None);
        };
        let form = |factor: &Stored| {
            let info = self.weights.tensors().get(&factor.tensor)?;
            let is_transposed = factor.is_whole(&info.shape)?;
            Some((Storage::of(info.dtype)?, flat(&info.shape), is_transposed))
        };
        let (Some(b_form), Some(a_form), None) = (form(b), form(a), self.before(module)) else {
            return Ok(None);
        };
        thread_local! {
            // Of every thread's own: a buffer that is used again costs no new pages.
            static BYTES: RefCell<[Vec<u8>; 2]> = const { RefCell::new([Vec::new(), Vec::new()]) };
        }
        BYTES.with_borrow_mut(|[b_bytes, a_bytes]| {
            self.weights.read_raw(&b.tensor, b_bytes)?;
            self.weights.read_raw(&a.tensor, a_bytes)?;
            let matrix = |bytes, (storage, shape, is_transposed)| {
                Ok::<_, Error>((StoredMatrix::new(bytes, storage, shape)?, is_transposed))
            };
            let (b, a) = (matrix(&b_bytes[..], b_form)?, matrix(&a_bytes[..], a_form)?);
            stored_directions(b, a, module.scale.unwrap_or(1.0)).map(Some)
        })
    }

    /// The weight that a module changes, as its update is computed: outputs × inputs.
    ///
    /// # Errors
    /// [`Error::File`] if there is no base model, or no weight of that name in it, or it cannot be
    /// read; [`Error::Mismatch`] if it has another shape.
    pub fn base_weight(&self, module: &Module) -> Result<Array2<f64>, Error> {
        let missing =
            |expected: String| Error::format(self.weights.path(), "base model", expected, "none");
        let Some(base) = &self.beside.base else {
            return Err(missing("a checkpoint".to_owned()));
        };
        let name = self.of_base(&module.name)?;
        if let Some(how) = base.unread(&name) {
            return Err(Error::format(
                base.weights().path(),
                &*name,
                "a weight as it is",
                how,
            ));
        }
        let Some(mut weight) = base.weight(&name) else {
            return Err(missing(format!("a weight {name}")));
        };
        weight.is_transposed = module.is_transposed;
        let (rows, columns) = module.shape;
        let expected = if module.is_transposed {
            (columns, rows)
        } else {
            (rows, columns)
        };
        if weight.matrix() != expected {
            return Err(Error::Mismatch {
                what: "base weight",
                expected: format!("the update's shape {expected:?}"),
                found: format!("{:?}", weight.matrix()),
            });
        }
        base.read(&weight)
    }

    /// The module of the base model that a module stands on.
    fn of_base<'a>(&self, module: &'a str) -> Result<Cow<'a, str>, Error> {
        match &self.config {
            None => Ok(Cow::Borrowed(module)),
            Some(config) => config.of_base(module).map_err(|reason| {
                Error::format(self.weights.path(), "adapter_config.json", "layers", reason)
            }),
        }
    }

    /// The same module before training.
    fn before(&self, module: &Module) -> Option<&Module> {
        self.beside.initial.as_ref()?.contents.module(&module.name)
    }

    fn base_matrix(&self, weight: &BaseWeight) -> Result<Array2<f64>, Error> {
        match &self.beside.base {
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

    /// The adapter's own tensors.
    pub fn weights(&self) -> &Container {
        &self.weights
    }

    /// The base model's checkpoint, if it was given.
    pub fn base(&self) -> Option<&Base> {
        self.beside.base.as_deref()
    }

    /// Whether the adapter as it was before training is taken away from the updates.
    pub fn has_initial(&self) -> bool {
        self.beside.initial.is_some()
    }

    /// Whether what is made for a module is its update, not only what the update is made of: DoRA's
    /// direction, or factors whose beginning was taken out of the base.
    pub fn is_update(&self, module: &Module) -> bool {
        let changed = self.config.as_ref().and_then(AdapterConfig::changed_base);
        let is_changed = changed.is_some() && !module.is_whole() && self.before(module).is_none();
        module.remark != Some(Remark::Directional) && !is_changed
    }

    /// R as it was chosen for a module: without the initial adapter's.
    pub fn chosen_rank(&self, module: &Module) -> usize {
        let before = self.before(module).map_or(0, |before| before.rank);
        module.rank.saturating_sub(before)
    }

    /// Whether a tensor of this name is a part of an update, not a bias or a weight of the model.
    pub fn is_factor(name: &str) -> bool {
        match Key::parse(name) {
            Key::Part { part, .. } => !matches!(part, Part::Bias | Part::BiasDifference),
            Key::Foreign(_) => true,
            Key::Full => false,
        }
    }

    /// The tensors that belong to all modules together.
    pub fn shared_tensors(&self) -> Vec<String> {
        match &self.projections {
            Some(Projections::Kept(a, b)) => vec![a.clone(), b.clone()],
            _ => Vec::new(),
        }
    }

    pub fn file_name(&self) -> String {
        let name = self.weights.path().file_name().unwrap_or_default();
        name.to_string_lossy().into_owned()
    }

    /// Sorts the tensors of the file out.
    fn read_contents(&mut self, config: Option<&AdapterConfig>) -> Result<(), Error> {
        let file = self.file_name();
        let count = self.weights.tensors().len();
        let refused = match config.and_then(|c| c.peft_type.as_deref()) {
            Some(kind) if !READ_METHODS.contains(&kind) => {
                Some(format!("{}; {count} tensors", method::of_type(kind)))
            }
            _ if count == 0 => Some("the file has no tensors".to_owned()),
            _ => None,
        };
        if let Some(reason) = refused {
            self.contents.refused.push((file, reason));
            return Ok(());
        }
        let copies = Copies::new(self.weights.tensors(), config);
        let names = self.weights.tensors().keys();
        let names: Vec<String> = names
            .filter(|name| !copies.contains(name))
            .cloned()
            .collect();
        let sorted = Sorted::new(&names, config);
        self.format = sorted.format;
        let numbers = self.numbers(&sorted)?;
        let settings = Settings::read(self.weights.metadata());
        let projections = self.found_projections(&sorted, config);
        let sizes = match &projections {
            Ok(projections) => Ok(projections.sizes(self.weights.tensors())),
            Err(reason) => Err(reason.clone()),
        };
        self.projections = projections.ok();
        let context = Context {
            tensors: self.weights.tensors(),
            config,
            base: self.beside.base.as_deref(),
            format: self.format,
            numbers: &numbers,
            settings: &settings,
            projections: sizes,
        };
        let mut contents = assembled(&sorted, &context, &copies, &file);
        contents.findings = findings::findings(config, &contents.modules, &sorted);
        contents.findings.extend(findings::of_file(config, &copies));
        contents.copies = copies;
        self.contents = contents;
        self.take_initial_away();
        Ok(())
    }

    /// The single numbers of the file: `.alpha`, `.ranknum` and `.on_input`.
    fn numbers<'a>(&self, sorted: &Sorted<'a>) -> Result<BTreeMap<&'a str, f64>, Error> {
        let (mut numbers, mut bytes) = (BTreeMap::new(), Vec::new());
        for parts in sorted.groups.values() {
            for part in [Part::Alpha, Part::RankNumber, Part::OnInput] {
                let Some(&name) = parts.get(&part) else {
                    continue;
                };
                let info = &self.weights.tensors()[name];
                if info.shape.iter().product::<usize>() != 1 {
                    continue;
                }
                let number = match info.dtype {
                    // Some trainers keep a whole number here.
                    Dtype::I64 => {
                        self.weights.read_raw(name, &mut bytes)?;
                        bytes.first_chunk().map(|&b| i64::from_le_bytes(b) as f64)
                    }
                    Dtype::I32 => {
                        self.weights.read_raw(name, &mut bytes)?;
                        bytes
                            .first_chunk()
                            .map(|&b| f64::from(i32::from_le_bytes(b)))
                    }
                    Dtype::BOOL => {
                        self.weights.read_raw(name, &mut bytes)?;
                        bytes.first().map(|&b| f64::from(b))
                    }
                    _ => self.weights.read(name)?.first().copied(),
                };
                if let Some(number) = number {
                    numbers.insert(name, number);
                }
            }
        }
        Ok(numbers)
    }

    /// VeRA's projections: those of the file, or drawn again where the base tells their sizes; or
    /// why there are none.
    fn found_projections(
        &self,
        sorted: &Sorted<'_>,
        config: Option<&AdapterConfig>,
    ) -> Result<Projections, String> {
        let missing = || {
            "VeRA: its projections are not in the file; they follow from the base model's shapes \
             (--base) and projection_prng_key"
                .to_owned()
        };
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
            let are_sides = |name: &str| bounds::are_sides(&self.weights.tensors()[name].shape);
            return if rank == columns && are_sides(a) && are_sides(b) {
                Ok(kept)
            } else {
                Err(format!(
                    "VeRA: expected vera_A R x inputs and vera_B outputs x R, found {:?} and {:?}",
                    self.weights.tensors()[a].shape,
                    self.weights.tensors()[b].shape
                ))
            };
        }
        let (Some(base), Some(config)) = (&self.beside.base, config) else {
            return Err(missing());
        };
        let targets = sorted
            .groups
            .iter()
            .filter(|(_, parts)| parts.contains_key(&Part::VeraB));
        let (mut inputs, mut outputs, mut rank, mut kept) = (0, 0, 0, 0_usize);
        for ((module, _), parts) in targets {
            let Some(weight) = base.weight(&config.of_base(module)?) else {
                return Err(missing());
            };
            kept = kept.saturating_add(weight.shape.iter().product());
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
        if rank == 0 {
            return Err(missing());
        }
        bounds::check_projections(rank, (inputs, outputs), kept)?;
        let (a, b) = vera_projections(key, rank, inputs, outputs);
        Ok(Projections::Drawn(a, b))
    }

    /// With the adapter as it was before training, an update has both ranks and is no longer in
    /// doubt; a module that the initial adapter lacks is refused.
    fn take_initial_away(&mut self) {
        let Some(initial) = &self.beside.initial else {
            return;
        };
        let mut kept = Vec::new();
        for mut module in std::mem::take(&mut self.contents.modules) {
            match initial.contents.module(&module.name) {
                Some(before) if before.recipe.shape() == module.recipe.shape() => {
                    let weight = self
                        .beside
                        .base
                        .as_ref()
                        .and_then(|base| base.weight(&module.name));
                    let weight: usize = weight.map_or(0, |weight| weight.shape.iter().product());
                    let factors = module.parameters.saturating_add(before.parameters);
                    let shape = module.recipe.shape();
                    let is_formed = !module.recipe.is_product() || !before.recipe.is_product();
                    match bounds::check_difference(shape, factors.max(weight)) {
                        Err(reason) if is_formed => {
                            self.contents.refused.push((module.name, reason));
                        }
                        _ => {
                            module.rank = module.rank.saturating_add(before.rank);
                            kept.push(module);
                        }
                    }
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

/// The modules, and what is not one.
fn assembled(sorted: &Sorted<'_>, context: &Context<'_>, copies: &Copies, file: &str) -> Contents {
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
            let reason = match context.config {
                Some(config) if config.has_no_bias() => {
                    "a bias, which was not trained (bias: none)"
                }
                _ => "a bias: a vector, which has no rank",
            };
            contents.whole.insert(names.shown(&format!("{raw}.bias")));
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
        match Module::all(raw, parts, context) {
            Ok(modules) => contents.modules.extend(modules),
            Err(reason) => contents.refused.push((described(), reason)),
        }
    }
    let mut whole = BTreeSet::new();
    for &name in &sorted.full {
        let path = copies.path(name);
        let path = path.strip_suffix(".weight").unwrap_or(&path);
        if !whole.insert(path.to_owned()) {
            let reason = "a second tensor for one of the model";
            contents.refused.push((name.to_owned(), reason.to_owned()));
            continue;
        }
        match of_weight::whole(path, name, context) {
            Ok(module) => contents.modules.push(module),
            Err(reason) => {
                contents.whole.insert(names.shown(name));
                contents.refused.push((name.to_owned(), reason));
            }
        }
    }
    contents
        .refused
        .extend(sorted.doubles.iter().map(|&(name, first)| {
            (
                name.to_owned(),
                format!("a second tensor for the part of {first}"),
            )
        }));
    contents
        .refused
        .extend(sorted.foreign.iter().map(|(family, (count, example))| {
            let why = method::reason(family);
            let reason = format!("{family}: {why}; {count} tensors, such as {example}");
            (file.to_owned(), reason)
        }));
    for module in &mut contents.modules {
        module.name = names.shown(&module.name);
    }
    for (name, _) in &mut contents.refused {
        *name = names.shown(name);
    }
    contents
        .modules
        .sort_by(|x, y| natural_order(&x.name, &y.name));
    contents.refused.sort_by(|x, y| natural_order(&x.0, &y.0));
    contents
}
