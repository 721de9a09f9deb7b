//! The adapter in the difference of two checkpoints: the best approximation of W_tuned − W_base at a
//! rank, for every matrix that training changed, in PEFT's layout.
//!
//! | symbol | identifier |
//! |---|---|
//! | E = W_tuned − W_base | the matrix that is approximated, in float64 |
//! | E_R, the nearest matrix of rank R | s·B·A with s = α/R = 1 |
//! | ‖E − E_R‖ | [`MatrixExtract::error`] |
//!
//! Matrices are the `….weight` tensors of two dimensions and the kernels of convolutions. What is no
//! matrix (biases, normalisations) and what PEFT adapts in another way (embeddings) is listed, or
//! taken over as a whole.
//!
//! Source: `crate::resize` for the approximation, `crate::audit_pair` for the noise.

mod names;
mod record;

use std::collections::BTreeSet;
use std::path::Path;

use ndarray::Array2;
use rankwise_data::{check_free, read_text, write_folder};
use rayon::prelude::*;
use regex::Regex;
use safetensors::Dtype;
use serde_json::{Map, Value, json};

use crate::adapter::{Pattern, Slot, twin};
use crate::alignment::Alignment;
use crate::audit::{Kind, natural_order};
use crate::classes::Outputs;
use crate::container::Container;
use crate::merge::is_head;
use crate::pair::{Noise, comparable, notes};
use crate::resize::{
    Loss, NewType, RankRule, Setting, Untouched, balanced, decomposed, energy_kept, expected,
    measured, name_twins, norm, root_sum, set_ranks, stored, write_json,
};
use crate::update::Update;
use crate::writer::{NewTensor, write_tensors};
use crate::{Epsilon, Error};
use names::{has_frame, has_head, is_conv1d, is_embedding, is_frame, model_config, whole_name};
pub use record::{Extracted, MatrixExtract};

/// Choices of an extraction.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ExtractOptions {
    /// How many directions are kept; `None`: as many as are above the rounding of the tuned weights'
    /// type, so that a matrix that differs by rounding alone has none.
    pub rule: Option<RankRule>,
    /// Only modules whose whole name this regular expression matches, as PEFT's `target_modules`.
    pub target: Option<String>,
    /// The type of the factors; `None`: that of the tuned weights, float32 for types of eight bits.
    pub dtype: Option<NewType>,
    /// Whether what changed and is no such matrix is taken over as a whole, as far as PEFT loads it:
    /// embeddings and normalisations as `modules_to_save`, the biases of adapted layers.
    pub whole: bool,
}

/// Extracts the adapter that leads from `base` to `tuned`, each a folder or file of a model, into the
/// new folder `out`: `adapter_model.safetensors`, `adapter_config.json` and the record as
/// `extract.json`. The folder is there whole or not at all.
///
/// ```
/// use rankwise_analysis::{ExtractOptions, RankRule, extract};
/// # let folder = tempfile::tempdir()?;
/// # let tensors = |path: &std::path::Path, w: [f32; 4]| {
/// #     let bytes: Vec<u8> = w.iter().flat_map(|value| value.to_le_bytes()).collect();
/// #     let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, vec![2, 2], &bytes);
/// #     safetensors::serialize_to_file([("q.weight", view.unwrap())], None, path).unwrap();
/// # };
/// # let (base, tuned) = (&folder.path().join("a.safetensors"), &folder.path().join("b.safetensors"));
/// # let out = &folder.path().join("adapter");
/// # tensors(base, [1.0, 0.0, 0.0, 1.0]);
/// # tensors(tuned, [1.0, 4.0, 3.0, 1.0]);
/// // E has the singular values 4 and 3.
/// let rule = Some(RankRule::Rank(1));
/// let extracted = extract(base, tuned, out, &ExtractOptions { rule, ..Default::default() })?;
/// assert!((extracted.modules[0].error.frobenius - 3.0).abs() < 1e-12);
/// assert!((extracted.modules[0].error.relative.unwrap() - 0.6).abs() < 1e-12);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// [`Error::Mismatch`] if a number of the options is out of range or a pattern fits no module;
/// [`Error::Module`] with [`Error::NonFinite`] if a weight is not finite; [`Error::File`] if a
/// checkpoint cannot be read, no matrix differs, or there is something at `out`.
pub fn extract(
    base: &Path,
    tuned: &Path,
    out: &Path,
    options: &ExtractOptions,
) -> Result<Extracted, Error> {
    if let Some(rule) = &options.rule {
        rule.check()?;
    }
    check_free(out)?;
    let target = options.target.as_deref().map(whole_name).transpose()?;
    let names = (base, tuned);
    let (base, tuned) = (Container::open_model(base)?, Container::open_model(tuned)?);
    let model = model_config(names.0)?;
    let is_gpt2 = model.kind.as_deref() == Some("gpt2");
    let alignment = Alignment::new(&base, &tuned);
    let is_of_tuned = options.whole && has_new_modules(&alignment, &base, &tuned);
    let mut notes = notes(&alignment, [&base, &tuned]);
    let frame = frame(&alignment, &base, model.class.as_deref());
    if !is_of_tuned {
        notes.extend(named_for(&alignment, &frame, &base, model.class.as_deref()));
    }
    let pair = Pair {
        base,
        tuned,
        alignment,
        is_of_tuned,
        frame,
        is_gpt2,
        target,
        patterns: options
            .rule
            .as_ref()
            .map(RankRule::patterns)
            .unwrap_or_default(),
        options,
    };
    let mut tensors: Vec<&String> = pair.tuned.tensors().keys().collect();
    tensors.sort_by(|x, y| natural_order(x, y));
    if let Some(rule) = &options.rule {
        let names: Vec<String> = tensors.iter().map(|name| pair.written(name)).collect();
        let modules = names.iter().filter_map(|name| name.strip_suffix(".weight"));
        rule.check_names(modules)?;
    }
    // Collected before the first error is looked for: which one it is does not depend on timing.
    let results: Vec<_> = tensors.par_iter().map(|name| pair.examined(name)).collect();
    let (mut made, mut not_covered) = (Vec::new(), Vec::new());
    for (name, result) in tensors.iter().zip(results) {
        match result.map_err(|error| error.of_module(name))? {
            Found::Nothing => {}
            Found::Adapter(one) => made.push(*one),
            Found::Other(reason) => not_covered.push(Untouched {
                name: (*name).clone(),
                reason,
            }),
        }
    }
    let found: BTreeSet<String> = tensors.iter().map(|name| pair.of_base(name)).collect();
    let lost = pair.base.tensors().keys();
    not_covered.extend(
        lost.filter(|name| !found.contains(*name))
            .map(|name| Untouched {
                name: name.clone(),
                reason: format!("expected in {}, found none", pair.tuned.path().display()),
            }),
    );
    if made.is_empty() {
        let expected = format!("a matrix that differs from {}", pair.base.path().display());
        let found = match not_covered.first() {
            Some(other) => format!("none; {}: {}", other.name, other.reason),
            None => "none".to_owned(),
        };
        return Err(Error::format(pair.tuned.path(), "tensors", expected, found));
    }
    let tuned_model = configured(names.1)?;
    let mut config = configuration(names.0, &made, tuned_model.as_ref().and_then(task_type));
    let mut new = Vec::new();
    let mut whole = Vec::new();
    if options.whole {
        not_covered = pair.taken_whole(not_covered, &made, &mut config, &mut new, &mut whole)?;
    }
    let modules: Vec<MatrixExtract> = made.iter().map(|one| one.record.clone()).collect();
    let frobenius_norm = root_sum(modules.iter().map(|m| m.frobenius_norm));
    let mut extracted = Extracted {
        base: names.0.display().to_string(),
        tuned: names.1.display().to_string(),
        rule: match &options.rule {
            Some(rule) => rule.describe(),
            None => "rank above noise".to_owned(),
        },
        parameters: made
            .iter()
            .flat_map(|one| &one.tensors)
            .map(|tensor| tensor.shape.iter().product::<usize>())
            .sum(),
        frobenius_norm,
        error: Loss::together(modules.iter().map(|m| &m.error), frobenius_norm),
        written: Loss::together(modules.iter().map(|m| &m.written), frobenius_norm),
        modules,
        whole,
        not_covered,
        notes,
    };
    new.extend(made.into_iter().flat_map(|one| one.tensors));
    if model.kind.as_deref() == Some("vit") && add_twins(&mut new, &mut config) {
        extracted.notes.push(
            "each tensor of a block twice: as transformers 4 and as transformers 5 calls its module"
                .to_owned(),
        );
    }
    let texts = Map::from_iter([("format".to_owned(), json!("pt"))]);
    let outputs = pair.outputs(&extracted, tuned_model.as_ref());
    write_folder(out, |folder| {
        if let Some(outputs) = &outputs {
            write_json(&folder.join("rankwise.json"), outputs)?;
        }
        let file = folder.join("adapter_model.safetensors");
        write_tensors(&file, new, &texts, &pair.tuned)?;
        write_json(&folder.join("adapter_config.json"), &config)?;
        write_json(&folder.join("extract.json"), &extracted)
    })?;
    Ok(extracted)
}

/// The two checkpoints and what is wanted of them.
struct Pair<'a> {
    base: Container,
    tuned: Container,
    alignment: Alignment,
    /// Whether the adapter has the names of the tuned checkpoint, not those of the base.
    is_of_tuned: bool,
    /// What the base's class has in memory before the names of the base's file.
    frame: String,
    is_gpt2: bool,
    target: Option<Regex>,
    patterns: Pattern,
    options: &'a ExtractOptions,
}

/// Whether the tuned checkpoint has tensors that the base has not, nor a prefix for them: a model with a
/// head of its own calls the rest by longer names too.
fn has_new_modules(alignment: &Alignment, base: &Container, tuned: &Container) -> bool {
    let mut names = tuned.tensors().keys();
    names.any(|name| !base.tensors().contains_key(&alignment.of_base(name, base)))
}

/// What the base's class has in memory before the names of the base's file: the tuned checkpoint tells
/// it, where the class has a head and the base was saved without one.
fn frame(alignment: &Alignment, base: &Container, class: Option<&str>) -> String {
    let prefix = alignment.of_tuned();
    let is_inside = class.is_some_and(has_head)
        && is_frame(prefix)
        && !base.tensors().keys().any(|name| has_frame(name));
    if is_inside {
        prefix.to_owned()
    } else {
        String::new()
    }
}

/// For which class the adapter's names are, where there is more than one.
fn named_for(
    alignment: &Alignment,
    frame: &str,
    base: &Container,
    class: Option<&str>,
) -> Option<String> {
    let shown = class.unwrap_or("a class that its config.json does not name");
    if !frame.is_empty() {
        return Some(format!(
            "the adapter's names begin with {frame}, as in memory of {shown}, the base's class"
        ));
    }
    let is_bare = |name: &String| {
        let starts = ["h.", "layers.", "encoder.layer."];
        starts.iter().any(|start| name.starts_with(start))
    };
    let is_headed = class.is_some_and(has_head);
    let is_doubtful =
        is_frame(alignment.of_tuned()) || is_headed && base.tensors().keys().any(is_bare);
    is_doubtful.then(|| {
        format!(
            "the adapter's names are those of the base's file, for a class that has the same in memory, \
             a model without a head: a class with a head has a prefix before them, and PEFT would load \
             nothing (the base's class: {shown})"
        )
    })
}

/// What a tensor gives.
enum Found {
    /// It did not change, or nobody asked for it.
    Nothing,
    Adapter(Box<Made>),
    /// It changed, and this is why it has no adapter.
    Other(String),
}

struct Made {
    record: MatrixExtract,
    tensors: [NewTensor; 2],
}

impl Pair<'_> {
    fn of_base(&self, name: &str) -> String {
        self.alignment.of_base(name, &self.base)
    }

    /// What the adapter calls a tensor of the tuned checkpoint: as the model does that it is made for.
    fn written(&self, name: &str) -> String {
        let of_base = self.of_base(name);
        match self.is_of_tuned || !self.base.tensors().contains_key(&of_base) {
            true => name.to_owned(),
            false if of_base != name => format!("{}{of_base}", self.frame),
            false => of_base,
        }
    }

    fn examined(&self, name: &str) -> Result<Found, Error> {
        let written = self.written(name);
        let module = written.strip_suffix(".weight");
        let own = module.unwrap_or(&written);
        if self
            .target
            .as_ref()
            .is_some_and(|target| !target.is_match(own))
        {
            return Ok(Found::Nothing);
        }
        if self.is_same(name)? {
            return Ok(Found::Nothing);
        }
        let before = self.of_base(name);
        let shape = match comparable((&before, &self.base), (name, &self.tuned)) {
            Ok(shape) => shape,
            Err(reason) => return Ok(Found::Other(reason)),
        };
        let dimensions = &self.tuned.tensors()[name].shape;
        let Some(module) = module else {
            return Ok(Found::Other(
                "expected a layer's weight, found another name".to_owned(),
            ));
        };
        let kind = match dimensions.len() {
            2 if is_embedding(module) => {
                return Ok(Found::Other("a table of embeddings".to_owned()));
            }
            2 if self.is_gpt2 && is_conv1d(module) => Kind::Conv1d,
            2 => Kind::Linear,
            3 => Kind::Conv1,
            4 => Kind::Conv2d,
            5 => Kind::Conv3d,
            count => {
                let expected = "expected 2 to 5 dimensions";
                return Ok(Found::Other(format!("{expected}, found {count}")));
            }
        };
        self.adapter(name, module, kind, shape)
    }

    fn adapter(
        &self,
        name: &str,
        module: &str,
        kind: Kind,
        [m, n]: [usize; 2],
    ) -> Result<Found, Error> {
        let dtype = self.tuned.tensors()[name].dtype;
        let values = self.tuned.read(name)?;
        let before = self.base.read(&self.of_base(name))?;
        let matrix = Array2::from_shape_fn((m, n), |(i, j)| values[i * n + j] - before[i * n + j]);
        drop(before);
        let is_turned = kind == Kind::Conv1d;
        let update = Update::Dense(if is_turned {
            matrix.reversed_axes()
        } else {
            matrix
        });
        let mut above = 0;
        let mut floor = 0.0;
        let (sigma, chosen) = decomposed(&update, |sigma| {
            let first = sigma.first().copied().unwrap_or(0.0);
            floor = Noise::new(&values, dtype, (m, n), first).floor();
            above = sigma.iter().filter(|&&s| s > floor).count();
            let epsilon = Epsilon::of(dtype).unwrap_or(Epsilon::F32);
            match &self.options.rule {
                Some(rule) => rule.rank(&self.patterns, [module, module], sigma, (m, n), epsilon),
                None => (above > 0).then_some(above),
            }
        })?;
        let Some((rank, svd)) = chosen else {
            return Ok(match self.options.rule {
                // A pattern left it out.
                Some(_) => Found::Other("no pattern of a rank fits it".to_owned()),
                None => Found::Other(format!(
                    "differs by rounding alone: largest singular value {:.1e}, noise floor {floor:.1e}",
                    sigma.first().copied().unwrap_or(0.0)
                )),
            });
        };
        let whole = norm(&sigma);
        let (b, a) = balanced(&svd, rank, 1.0);
        let new = match (self.options.dtype, dtype) {
            (Some(new), _) => new.dtype(),
            (None, Dtype::F64 | Dtype::F32 | Dtype::F16 | Dtype::BF16) => dtype,
            (None, _) => Dtype::F32,
        };
        let (inputs, outputs, window) = match self.tuned.tensors()[name].shape[..] {
            [rows, columns] if is_turned => (vec![rows], columns, 0),
            [rows, ref rest @ ..] => (rest.to_vec(), rows, rest.len().saturating_sub(1)),
            [] => (Vec::new(), 1, 0),
        };
        let key = |factor: &str| format!("base_model.model.{module}.{factor}.weight");
        let (a_tensor, a) = stored(&Slot::of_a(key("lora_A"), new, &inputs), new, &a)?;
        let (b_tensor, b) = stored(&Slot::of_b(key("lora_B"), new, outputs, window), new, &b)?;
        let record = MatrixExtract {
            name: module.to_owned(),
            kind,
            shape: (m, n),
            dtype: format!("{dtype:?}"),
            rank,
            rank_above_noise: above,
            noise_floor: floor,
            frobenius_norm: whole,
            energy_kept: energy_kept(&sigma, rank),
            error: expected(&sigma, rank),
            written: measured(&update, &b, &a, 1.0, whole)?,
        };
        Ok(Found::Adapter(Box::new(Made {
            record,
            tensors: [a_tensor, b_tensor],
        })))
    }

    /// Whether a tensor has the same bytes in both checkpoints, or the same numbers in other types.
    fn is_same(&self, name: &str) -> Result<bool, Error> {
        let of_base = &*self.of_base(name);
        let (Some(after), Some(before)) = (
            self.tuned.tensors().get(name),
            self.base.tensors().get(of_base),
        ) else {
            return Ok(false);
        };
        if after.shape != before.shape {
            return Ok(false);
        }
        let is_scaled =
            self.tuned.quantised(name).is_some() || self.base.quantised(of_base).is_some();
        if after.dtype == before.dtype && !is_scaled {
            let (mut one, mut other) = (Vec::new(), Vec::new());
            self.tuned.read_raw(name, &mut one)?;
            self.base.read_raw(of_base, &mut other)?;
            if one == other {
                return Ok(true);
            }
        }
        let is_read = self.tuned.unread(name).is_none() && self.base.unread(of_base).is_none();
        // Zeros of two signs are the same number.
        Ok(is_read
            && Epsilon::of(after.dtype).is_some()
            && Epsilon::of(before.dtype).is_some()
            && self.tuned.read(name)? == self.base.read(of_base)?)
    }

    /// Whether a module of the tuned checkpoint has more in it than a weight and a bias.
    fn has_parts(&self, module: &str) -> bool {
        self.tuned.tensors().keys().any(|name| {
            let inner = name.strip_prefix(module).and_then(|n| n.strip_prefix('.'));
            inner.is_some_and(|inner| inner.contains('.'))
        })
    }

    /// Takes over what PEFT loads as a whole, and returns the rest.
    fn taken_whole(
        &self,
        others: Vec<Untouched>,
        made: &[Made],
        config: &mut Map<String, Value>,
        new: &mut Vec<NewTensor>,
        whole: &mut Vec<String>,
    ) -> Result<Vec<Untouched>, Error> {
        let (mut left, mut modules, mut has_bias) = (Vec::new(), Vec::new(), false);
        for other in others {
            let written = self.written(&other.name);
            let Some((module, part @ ("weight" | "bias"))) = written.rsplit_once('.') else {
                left.push(other);
                continue;
            };
            let is_quantised = self.tuned.quantised(&other.name).is_some()
                || self.base.quantised(&self.of_base(&other.name)).is_some();
            if !self.tuned.tensors().contains_key(&other.name) || is_quantised {
                left.push(other);
                continue;
            }
            let is_adapted = made.iter().any(|one| one.record.name == module);
            let key = match (is_adapted, part) {
                (true, "bias") => {
                    has_bias = true;
                    format!("base_model.model.{module}.base_layer.bias")
                }
                (true, _) => {
                    left.push(other);
                    continue;
                }
                (false, _) => {
                    let own = other.name.strip_suffix(part).unwrap_or_default();
                    let own = own.trim_end_matches('.');
                    if self.has_parts(own) {
                        left.push(Untouched {
                            reason:
                                "belongs to a module with modules in it, which PEFT takes as a \
                                     whole only"
                                    .to_owned(),
                            ..other
                        });
                        continue;
                    }
                    if modules.last().map(|(_, last)| last) != Some(&module.to_owned()) {
                        modules.push((own.to_owned(), module.to_owned()));
                    }
                    format!("base_model.model.{module}.{part}")
                }
            };
            new.push(NewTensor::copy(&self.tuned, &other.name, &key)?);
            // The module is replaced as a whole: what did not change belongs to it too.
            whole.push(other.name);
        }
        modules.dedup();
        for (own, module) in &modules {
            for part in ["weight", "bias"] {
                let name = format!("{own}.{part}");
                if self.tuned.tensors().contains_key(&name) && !whole.contains(&name) {
                    let key = format!("base_model.model.{module}.{part}");
                    new.push(NewTensor::copy(&self.tuned, &name, &key)?);
                    whole.push(name);
                }
            }
        }
        if has_bias {
            config.insert("bias".to_owned(), json!("lora_only"));
        }
        if !modules.is_empty() {
            let modules: Vec<&String> = modules.iter().map(|(_, module)| module).collect();
            config.insert("modules_to_save".to_owned(), json!(modules));
        }
        Ok(left)
    }
}

impl Pair<'_> {
    /// What the outputs of a head are that was taken, whole or in factors, if the tuned model says it.
    fn outputs(
        &self,
        extracted: &Extracted,
        model: Option<&Map<String, Value>>,
    ) -> Option<Outputs> {
        let modules = extracted.modules.iter();
        let factored = modules.map(|module| (module.name.as_str(), Some(module.shape.0)));
        let whole = extracted.whole.iter().filter_map(|name| {
            let tensor = self.tuned.tensors().get(name);
            let outputs = tensor.and_then(|tensor| tensor.shape.first().copied());
            Some((name.strip_suffix(".weight")?, outputs))
        });
        let head = whole.chain(factored).find(|(module, _)| is_head(module));
        Outputs::stated(model?, head?.1?)
    }
}

/// The model's `config.json`, if there is one.
fn configured(model: &Path) -> Result<Option<Map<String, Value>>, Error> {
    let path = model.join("config.json");
    if !path.is_file() {
        return Ok(None);
    }
    let config = serde_json::from_str(&read_text(&path)?).map_err(|error| {
        Error::format(&path, "file", "a model's configuration", error.to_string())
    })?;
    Ok(Some(config))
}

/// PEFT's name for what a model of this configuration is for, where it has one for its class.
fn task_type(config: &Map<String, Value>) -> Option<&'static str> {
    let class = config.get("architectures")?.get(0)?.as_str()?;
    [
        ("ForSequenceClassification", "SEQ_CLS"),
        ("ForTokenClassification", "TOKEN_CLS"),
        ("ForCausalLM", "CAUSAL_LM"),
        ("LMHeadModel", "CAUSAL_LM"),
    ]
    .into_iter()
    .find_map(|(end, task)| class.ends_with(end).then_some(task))
}

/// Gives what has another name in memory that name too; whether there is any.
fn add_twins(tensors: &mut Vec<NewTensor>, config: &mut Map<String, Value>) -> bool {
    let twins: Vec<NewTensor> = tensors
        .iter()
        .filter_map(|tensor| {
            let name = twin(&tensor.name)?;
            Some(NewTensor {
                name,
                ..tensor.clone()
            })
        })
        .collect();
    let has_twins = !twins.is_empty();
    tensors.extend(twins);
    for field in ["target_modules", "modules_to_save"] {
        if let Some(Value::Array(names)) = config.get_mut(field) {
            let twins: Vec<Value> = names
                .iter()
                .filter_map(|name| Some(json!(twin(name.as_str()?)?)))
                .collect();
            names.extend(twins);
        }
    }
    name_twins(config);
    has_twins
}

fn configuration(base: &Path, made: &[Made], task: Option<&str>) -> Map<String, Value> {
    let modules: Vec<&str> = made.iter().map(|one| one.record.name.as_str()).collect();
    let is_turned = made.iter().any(|one| one.record.kind == Kind::Conv1d);
    let mut fields = Map::new();
    for (name, value) in [
        ("peft_type", json!("LORA")),
        ("task_type", json!(task)),
        ("base_model_name_or_path", json!(base.display().to_string())),
        ("inference_mode", json!(true)),
        ("r", Value::Null),
        ("lora_alpha", Value::Null),
        ("lora_dropout", json!(0.0)),
        ("target_modules", json!(modules)),
        ("bias", json!("none")),
        ("fan_in_fan_out", json!(is_turned)),
        ("use_rslora", json!(false)),
        ("use_dora", json!(false)),
        ("init_lora_weights", json!(true)),
        ("rank_pattern", json!({})),
        ("alpha_pattern", json!({})),
        ("modules_to_save", Value::Null),
    ] {
        fields.insert(name.to_owned(), value);
    }
    let settings: Vec<Setting> = made
        .iter()
        .map(|one| Setting {
            name: one.record.name.clone(),
            rank: one.record.rank,
            alpha: one.record.rank as f64,
        })
        .collect();
    set_ranks(&mut fields, "", &settings, false);
    fields
}
