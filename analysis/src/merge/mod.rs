//! An adapter merged into its base model: a checkpoint that gives the adapted model's outputs with the
//! base model's code alone.
//!
//! | what the adapter has | what becomes of the base's tensor W |
//! |---|---|
//! | an update of any format | W + ΔW in W's own orientation |
//! | new rows of an embedding | W + ΔW in those rows |
//! | a tensor trained as a whole (`modules_to_save`, biases) | the adapter's |
//! | one that the base lacks (the head of a task) | added, in the type that most of the base has |
//! | a vector beside an update (`lora_B.bias`, `diff_b`, norms) | W + s·vector |
//! | (IA)³ of outputs | the bias too is multiplied |
//! | frozen copies of the base's tensors (whole states, tables that PEFT keeps) | left out, and held against the base |
//! | PiSSA and its kin | W + s(BA − B₀A₀) with the initial adapter, else an error |
//! | one of a tied table and output layer, each in its own way | two tensors, and a configuration that says so |
//! | experts of one parameter, quantised weights, repeated layers, aLoRA | an error |
//!
//! All is float64 until it is rounded once. Everything else is copied byte for byte, and a part of the
//! adapter without a place in the base is an error: nothing is passed over.
//!
//! A base without the prefix of its part of a model (`encoder.…` for `bert.encoder.…`) gets it where a
//! head is added: libraries take a checkpoint with a head and without the prefix for damaged.
//!
//! Source: `merge` of the layers of huggingface/peft.

mod configuration;
mod copies;
mod effect;
mod files;
mod plan;
mod record;
mod shard;
mod tensor;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use rankwise_data::{check_free, write_atomic, write_folder};
use serde_json::{Map, json};

use crate::Error;
use crate::adapter::{Adapter, Beside, Other};
use crate::audit::{Kind, natural_order, one_adapter};
use crate::classes::Outputs;
use crate::resize::{NewType, write_json};
use crate::writer::{NewTensor, write_each};
use configuration::Configuration;
pub use files::copy_companions;
pub(crate) use plan::is_head;
use plan::{Change, Plan};
pub use record::{Merge, Merged, TensorMerge};
use shard::{Origin, shards};
use tensor::Maker;

/// Choices of a merge.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct MergeOptions {
    /// The type of the tensors that are not the base's; `None`: that of the base's, each its own.
    pub dtype: Option<NewType>,
    /// The adapter as it was before training, where its initialisation changed the base.
    pub initial: Option<PathBuf>,
}

/// Merges the adapter at `adapter`, a file or a folder of one, into the checkpoint `base`, a folder or
/// file, and writes the result into the new folder `out`: weights as safetensors in the base's shards,
/// `config.json` and tokenizer as they were (other labels where the adapter has another head), and the
/// record as `merge.json`. The folder is there whole or not at all. `progress` is called after each
/// tensor, with how many are done and how many there are.
///
/// ```
/// use rankwise_analysis::{Checkpoint, MergeOptions, merge};
/// # use rankwise_analysis::PeftAdapter;
/// # let folder = tempfile::tempdir()?;
/// # let (base, adapter) = (&folder.path().join("base"), &folder.path().join("adapter"));
/// # let out = &folder.path().join("merged");
/// # std::fs::create_dir(base)?;
/// # let bytes: Vec<u8> = [1.0_f32, 0.0, 0.0, 1.0].iter().flat_map(|x| x.to_le_bytes()).collect();
/// # let w = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, vec![2, 2], &bytes)?;
/// # safetensors::serialize_to_file([("q.weight", w)], None, &base.join("model.safetensors"))?;
/// # PeftAdapter {
/// #     module: "q".to_owned(), rank: 1, inputs: 2, outputs: 2, alpha: 2.0,
/// #     a: vec![3.0, 5.0], b: vec![1.0, 0.0], bias: None,
/// # }.write(adapter)?;
/// // W is the identity, B = (1, 0)ᵀ, A = (3, 5), s = 2.
/// let merged = merge(base, adapter, out, &MergeOptions::default(), |_, _| {})?;
/// assert_eq!(Checkpoint::open(out)?.read("q.weight")?, [7.0, 10.0, 0.0, 1.0]);
/// assert!((merged.tensors[0].relative.unwrap() - 68_f64.sqrt()).abs() < 1e-12);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// [`Error::File`] if there is not exactly one adapter at `adapter`, a part of it has no place in the
/// base, its beginning is needed and not given, or there is something at `out`; [`Error::Module`] with
/// the tensor's name if a merged number is not finite or beyond its type's range.
pub fn merge(
    base: &Path,
    adapter: &Path,
    out: &Path,
    options: &MergeOptions,
    progress: impl Fn(usize, usize) + Sync,
) -> Result<Merged, Error> {
    check_free(out)?;
    let candidate = one_adapter(adapter)?;
    let file = &candidate.file;
    let beside = Beside::open(Some(base), options.initial.as_deref())?;
    let opened = Adapter::open(file, &beside)?
        .ok_or_else(|| Error::format(file, "file", "an adapter", "no tensor of one"))?;
    let model = opened
        .base()
        .ok_or_else(|| Error::format(base, "base model", "a checkpoint", "none"))?;
    let (others, unknown) = opened.remainder();
    let mut plan = Plan::new(&opened, model, &others, &unknown)?;
    let (tables, checked) = copies::compared(&opened, model)?;
    plan.tables = tables;
    let plan = plan;
    let weights = model.weights();
    let maker = Maker {
        adapter: &opened,
        base: model,
        tables: &plan.tables,
    };
    let shards = shards(weights, &opened, &plan, options.dtype)?;
    let from = files::folder_of(base);
    let (configuration, mut notes) = configured(&from, file, &plan, options)?;
    notes.extend(absent(&opened, &others));
    notes.extend(checked);
    notes.extend(candidate.remark());
    notes.extend(weights.passed_over_in_words());
    if let Some(prefix) = plan.prefix() {
        notes.push(format!(
            "the base's names got {prefix} at their beginning, where the new tensors belong"
        ));
    }
    let mut merged = Merged {
        base: base.display().to_string(),
        adapter: adapter.display().to_string(),
        format: opened.format.name(),
        files: shards.iter().map(|shard| shard.name.clone()).collect(),
        companions: Vec::new(),
        notes,
        copied: weights.tensors().len() - plan.changes.len(),
        tensors: Vec::new(),
    };
    let writing = Writing {
        maker,
        records: Mutex::new(Vec::new()),
        done: AtomicUsize::new(0),
        of: shards.iter().map(|shard| shard.tensors.len()).sum(),
        progress: &progress,
    };
    let texts = Map::from_iter([("format".to_owned(), json!("pt"))]);
    write_folder(out, |folder| {
        let (mut places, mut parameters, mut size) = (BTreeMap::new(), 0, 0);
        for shard in shards {
            for tensor in &shard.tensors {
                places.insert(tensor.name.clone(), shard.name.clone());
                parameters += tensor.shape.iter().product::<usize>();
                size += tensor.size();
            }
            let path = folder.join(&shard.name);
            let together = rayon::current_num_threads();
            write_each(&path, shard.tensors, &texts, together, |tensor| {
                writing.bytes(tensor).map(Cow::Owned)
            })?;
        }
        if let Some(index) = files::index_name(weights) {
            files::write_index(&folder.join(index), &places, (parameters, size))?;
        }
        if let Some(configuration) = &configuration {
            let text = configuration.text();
            write_atomic(&folder.join("config.json"), |out| {
                out.write_all(text.as_bytes())
            })?;
            merged.companions.push("config.json".to_owned());
        }
        merged.companions.extend(copy_companions(&from, folder)?);
        merged.tensors = writing.taken();
        merged
            .tensors
            .sort_by(|x, y| natural_order(&x.name, &y.name));
        let effect = effect::described(&merged.tensors);
        merged.notes.extend(effect);
        write_json(&folder.join("merge.json"), &merged)
    })?;
    Ok(merged)
}

/// What the threads share that make the tensors.
struct Writing<'a, P> {
    maker: Maker<'a>,
    records: Mutex<Vec<TensorMerge>>,
    done: AtomicUsize,
    of: usize,
    progress: &'a P,
}

impl<P: Fn(usize, usize) + Sync> Writing<'_, P> {
    fn bytes(&self, tensor: &NewTensor<Origin<'_>>) -> Result<Vec<u8>, Error> {
        let made = match tensor.content {
            Origin::Copied(name) => {
                let mut bytes = Vec::new();
                self.maker.base.weights().read_raw(name, &mut bytes)?;
                (bytes, None)
            }
            Origin::Changed(name, change) => {
                let made = self
                    .maker
                    .changed(name, &tensor.name, change, tensor.dtype)
                    .map_err(|error| error.of_module(&tensor.name))?;
                (made.bytes, Some(made.record))
            }
            Origin::Head(head) => {
                let made = self
                    .maker
                    .head(&head.table, &tensor.name, head.update, tensor.dtype)
                    .map_err(|error| error.of_module(&tensor.name))?;
                (made.bytes, Some(made.record))
            }
            Origin::Added(other) => {
                let made = self
                    .maker
                    .added(&tensor.name, other, tensor.dtype)
                    .map_err(|error| error.of_module(&tensor.name))?;
                (made.bytes, Some(made.record))
            }
        };
        let (bytes, record) = made;
        self.records
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend(record);
        (self.progress)(self.done.fetch_add(1, Ordering::Relaxed) + 1, self.of);
        Ok(bytes)
    }

    /// The records of all tensors that were made.
    fn taken(&self) -> Vec<TensorMerge> {
        std::mem::take(&mut *self.records.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The base's configuration as the merged checkpoint needs it, and what there is to say.
fn configured(
    folder: &Path,
    adapter: &Path,
    plan: &Plan<'_>,
    options: &MergeOptions,
) -> Result<(Option<Configuration>, Vec<String>), Error> {
    let mut notes = Vec::new();
    let known = Outputs::beside(adapter)?;
    if let (Some(known), Some(outputs)) = (&known, plan.outputs)
        && known.count() != outputs
    {
        let expected = format!("what the {outputs} outputs of the adapter's head are");
        let found = format!("{} outputs", known.count());
        let path = adapter.with_file_name("rankwise.json");
        return Err(Error::format(&path, "predicts", expected, found));
    }
    let Some(mut configuration) = Configuration::read(folder)? else {
        return Ok((
            None,
            vec!["there is no config.json beside the base".to_owned()],
        ));
    };
    // Of a head that is changed and not replaced the adapter may say it too.
    if let Some(outputs) = plan.outputs.or(known.as_ref().map(Outputs::count)) {
        notes.extend(configuration.set_head(outputs, known.as_ref()));
    }
    if let Some(dtype) = options.dtype {
        configuration.set_type(dtype);
    }
    if plan.is_untied {
        let was_tied = configuration.untie();
        let own = plan.head.as_ref().map(|head| match head.update {
            Some(_) => format!("{} is {} with an update of its own", head.name, head.table),
            None => format!("{} is the base's {}", head.name, head.table),
        });
        let own = own.unwrap_or_else(|| "the output layer is a tensor of its own".to_owned());
        notes.push(match was_tied {
            true => format!("config.json: tie_word_embeddings is false now, since {own}"),
            false => own,
        });
        if let Some((name, from)) = &plan.bias {
            notes.push(format!("{name} is {from}, which it was tied to"));
        }
        return Ok((Some(configuration), notes));
    }
    let is_table = |change: &Change<'_>| matches!(change, Change::Update(module) if matches!(module.kind, Kind::Embedding | Kind::Token));
    let table = plan.changes.iter().find(|(_, change)| is_table(change));
    if let Some((name, _)) = table.filter(|_| configuration.is_tied()) {
        notes.push(format!(
            "if the model ties its output layer to {name}, that layer changes with it"
        ));
    }
    Ok((Some(configuration), notes))
}

/// A word on modules that the configuration calls trained and the file does not have.
fn absent(adapter: &Adapter, others: &[Other]) -> Option<String> {
    let config = adapter.config.as_ref()?;
    let saved = config.modules_to_save.as_ref().filter(|s| !s.is_empty())?;
    let is_there = others.iter().any(|other| config.is_saved(&other.path));
    (!is_there).then(|| {
        format!(
            "modules_to_save names {}, of which the adapter's file has no tensor: the base's stay",
            saved.join(", ")
        )
    })
}
