//! Which tensor of the base model every part of an adapter changes. Nothing is passed over: a part that
//! has no place in the base, or that two parts claim, is refused by name.

use std::collections::{BTreeMap, BTreeSet};

use crate::Error;
use crate::adapter::{Adapter, Base, Effect, Module, Other, Tie, ends_in, flat, is_output_layer};
use crate::audit::{FindingKind, Kind};

/// Names in a message before it says how many more there are.
const NAMED: usize = 4;

/// The modules whose number of outputs is the task's, by the ends of their names.
const HEADS: [&str; 4] = ["classifier", "classifier.out_proj", "score", "qa_outputs"];

/// What is done to one tensor.
#[derive(Debug, Clone, Copy)]
pub(super) enum Change<'a> {
    /// W + ΔW.
    Update(&'a Module),
    /// The adapter's tensor takes part.
    Other(&'a Other),
}

/// An output layer that is made of the table that it was tied to.
#[derive(Debug, Clone)]
pub(super) struct Head<'a> {
    pub name: String,
    pub table: String,
    pub update: Option<&'a Module>,
}

/// Every change, by the tensor of the base or, for what the base lacks, by its new name.
#[derive(Debug, Default)]
pub(super) struct Plan<'a> {
    pub changes: BTreeMap<String, Change<'a>>,
    pub added: BTreeMap<String, &'a Other>,
    /// An output layer that gets a tensor of its own: the table that it was tied to, and its update.
    pub head: Option<Head<'a>>,
    /// Whether the output layer is no longer the table.
    pub is_untied: bool,
    /// A bias that the output layer has of its own from now on, and the base's tensor that it is.
    pub bias: Option<(String, String)>,
    /// Tables of the base that the adapter's file brings along, by the base's names.
    pub tables: BTreeMap<String, String>,
    /// Outputs of the head that the adapter brings along.
    pub outputs: Option<usize>,
    /// What all names of the base get at their beginning, but for `exact`.
    prefix: String,
    exact: BTreeSet<String>,
}

impl<'a> Plan<'a> {
    /// Finds a place for everything.
    ///
    /// # Errors
    /// [`Error::File`] naming what has none, and why.
    pub fn new(
        adapter: &'a Adapter,
        base: &Base,
        others: &'a [Other],
        unknown: &[String],
    ) -> Result<Self, Error> {
        let (contents, path) = (&adapter.contents, adapter.weights().path());
        if contents
            .findings
            .iter()
            .any(|f| f.kind == FindingKind::ChangedBase)
        {
            return Err(Error::format(
                path,
                "an initialisation that changed the base (init_lora_weights), so that s B A is not the update",
                "the adapter as it was before training (--initial)",
                "none",
            ));
        }
        let mut plan = Self::default();
        let mut places = Places::default();
        let mut refused: Vec<String> = Vec::new();
        if let Some(config) = &adapter.config {
            refused.extend(config.acts_on_some_tokens().map(str::to_owned));
            if config.layer_replication.is_some() {
                refused.push(
                    "layer_replication: its layers share weights of the base that a merge would tell apart"
                        .to_owned(),
                );
            }
        }
        let file = adapter.file_name();
        let whole = contents.refused.iter().find(|(name, _)| *name == file);
        refused.extend(whole.map(|(name, reason)| format!("{name}: {reason}")));
        for name in unknown {
            let own = contents
                .refused
                .iter()
                .find(|(refused, _)| name.contains(refused.split(" (").next().unwrap_or(refused)));
            let reason = own.map_or("a part of no update", |(_, reason)| reason);
            refused.push(format!("{name}: {reason}"));
        }
        for module in contents.modules.iter().filter(|m| !m.is_whole()) {
            let placed = placed(module, base).and_then(|(name, asked)| {
                if base.tie().is_some_and(|tie| tie.table == name) && is_output_layer(&module.raw) {
                    return plan.put_head(asked, &name, module);
                }
                places.see(&name, &asked);
                plan.put(name, Change::Update(module))
            });
            refused.extend(placed.err().map(|why| format!("{}: {why}", module.name)));
        }
        for other in others {
            if let Err(why) = plan.put_other(other, adapter, base, &mut places) {
                refused.push(format!("{}: {why}", other.tensor));
            }
        }
        if let Err(why) = plan.untie(adapter, base) {
            refused.push(why);
        }
        if (!plan.added.is_empty() || plan.head.is_some())
            && let Err(why) = plan.framed(places)
        {
            refused.push(why);
        }
        let is_empty = plan.changes.is_empty() && plan.added.is_empty() && plan.head.is_none();
        if refused.is_empty() && is_empty {
            refused.push("nothing that changes a model".to_owned());
        }
        if refused.is_empty() {
            return Ok(plan);
        }
        let more = refused.len().saturating_sub(NAMED);
        refused.truncate(NAMED);
        let mut found = refused.join("; ");
        if more > 0 {
            found += &format!("; and {more} more");
        }
        let expected = format!(
            "parts that can all be merged into {}",
            base.weights().path().display()
        );
        Err(Error::format(path, "adapter", expected, found))
    }

    /// What a tensor of the base is called in the merged checkpoint.
    pub fn renamed(&self, name: &str) -> String {
        if self.exact.contains(name) {
            return name.to_owned();
        }
        format!("{}{name}", self.prefix)
    }

    /// The beginning that the base's names got.
    pub fn prefix(&self) -> Option<&str> {
        (!self.prefix.is_empty()).then_some(&self.prefix)
    }

    /// The dimensions of a tensor that takes the place of the base's.
    pub fn shape<'b>(&self, other: &Other, adapter: &'b Adapter) -> Option<&'b Vec<usize>> {
        let is_new = other.effect == Effect::Replaces;
        is_new.then(|| &adapter.weights().tensors()[&other.tensor].shape)
    }

    fn put(&mut self, name: String, change: Change<'a>) -> Result<(), String> {
        match self.changes.insert(name.clone(), change) {
            None => Ok(()),
            Some(_) => Err(format!("expected one change of {name}, found a second")),
        }
    }

    fn put_head(&mut self, name: String, table: &str, update: &'a Module) -> Result<(), String> {
        let head = Head {
            name,
            table: table.to_owned(),
            update: Some(update),
        };
        match self.head.replace(head) {
            None => Ok(()),
            Some(first) => Err(format!(
                "expected one change of {}, found a second",
                first.name
            )),
        }
    }

    /// Where an output layer is tied to a table and only one of the two changes, or each in its own
    /// way, there are two tensors from now on. New tokens change both as one.
    fn untie(&mut self, adapter: &Adapter, base: &Base) -> Result<(), String> {
        let Some(tie) = base.tie() else {
            return Ok(());
        };
        let of_head = |name: &str| name.strip_suffix(".weight").is_some_and(is_output_layer);
        if self.leave_tied(adapter, tie, of_head)? {
            return Ok(());
        }
        let mut changed = self.changes.keys().chain(self.added.keys());
        let has_head = self.head.is_some() || changed.any(|name| of_head(name));
        let has_table = match self.changes.get(&tie.table) {
            None => false,
            Some(Change::Update(module)) => module.kind != Kind::Token,
            Some(Change::Other(_)) => true,
        };
        // A task's head stands in place of the tied one.
        let is_other_task = adapter.config.as_ref().is_some_and(|config| {
            let task = config.task_type.as_ref().and_then(|task| task.as_str());
            task.is_some_and(|task| !matches!(task, "CAUSAL_LM" | "SEQ_2_SEQ_LM"))
        });
        if !has_head && (!has_table || is_other_task || self.outputs.is_some()) {
            return Ok(());
        }
        if tie.is_shared && tie.scales.is_none() {
            return Err(format!(
                "expected an output layer of its own, found one that is tied to {}: without the tie the \
                 encoder's and the decoder's tables, which the base keeps as that one, are lost too",
                tie.table
            ));
        }
        if !has_head {
            let Some(name) = &tie.head else {
                return match tie.is_unnamed {
                    true => Err(unnamed(&tie.table)),
                    false => Ok(()),
                };
            };
            let mut own = base.weights().tensors().keys();
            if !own.any(|name| of_head(name)) {
                self.head = Some(Head {
                    name: name.clone(),
                    table: tie.table.clone(),
                    update: None,
                });
            }
        }
        self.is_untied = true;
        self.bias = self.bias_of_head(base);
        if let Some(kind) = &tie.scales {
            return Err(format!(
                "expected an output layer of its own, found one that is tied to {}: a {kind} computes \
                 something else without the tie",
                tie.table
            ));
        }
        Ok(())
    }

    /// Leaves out an output layer that PEFT kept tied to a table that was trained as a whole; whether
    /// there was one.
    fn leave_tied(
        &mut self,
        adapter: &Adapter,
        tie: &Tie,
        of_head: impl Fn(&str) -> bool,
    ) -> Result<bool, String> {
        let config = adapter.config.as_ref();
        let is_kept = config.and_then(|config| config.ensure_weight_tying) == Some(true);
        let head = self.added.iter().find(|(name, _)| of_head(name));
        let (Some((name, head)), Some(Change::Other(table)), true) =
            (head, self.changes.get(&tie.table), is_kept)
        else {
            return Ok(false);
        };
        let read = |other: &Other| adapter.weights().read(&other.tensor);
        let (head, table) = (read(head), read(table));
        if head.map_err(|error| error.to_string())? == table.map_err(|error| error.to_string())? {
            let name = name.clone();
            self.added.remove(&name);
            return Ok(true);
        }
        Ok(false)
    }

    /// A masked language model's head keeps its bias beside `decoder`, whose own bias is tied to it as
    /// long as the weights are.
    fn bias_of_head(&self, base: &Base) -> Option<(String, String)> {
        let names = || self.changes.keys().chain(self.added.keys());
        let heads = names().chain(self.head.iter().map(|head| &head.name));
        let mut outer = heads.filter_map(|name| name.strip_suffix(".decoder.weight"));
        outer.find_map(|outer| {
            let (own, beside) = (format!("{outer}.decoder.bias"), format!("{outer}.bias"));
            let tensors = base.weights().tensors();
            let is_there = tensors.contains_key(&own) || names().any(|name| *name == own);
            (!is_there && tensors.contains_key(&beside)).then_some((own, beside))
        })
    }

    fn put_other(
        &mut self,
        other: &'a Other,
        adapter: &Adapter,
        base: &Base,
        places: &mut Places,
    ) -> Result<(), String> {
        let shape = &adapter.weights().tensors()[&other.tensor].shape;
        let path = &other.path;
        let owner = path
            .rsplit_once('.')
            .map_or(path.as_str(), |(owner, _)| owner);
        let is_head = is_head(owner);
        if is_head && path.ends_with(".weight") && other.effect == Effect::Replaces {
            self.outputs = shape.first().copied();
        }
        // The bias of a layer lies beside its weight, whatever the layer is called.
        let beside = || {
            let weight = base.weight(owner)?;
            let (found, asked) = (&weight.name, &weight.asked);
            let of = |name: &str| Some(format!("{}.bias", name.strip_suffix(".weight")?));
            let bias = of(found)?;
            let is_there = base.weights().tensors().contains_key(&bias);
            is_there.then_some((bias, of(asked)?))
        };
        let found = base.tensor(path).or_else(|| match path.ends_with(".bias") {
            true => beside(),
            false => None,
        });
        let Some((name, asked)) = found else {
            let is_saved = adapter.config.as_ref().is_some_and(|c| c.is_saved(path));
            // PEFT keeps a tied output layer with its table (`ensure_weight_tying`).
            let is_untied = base.tie().is_some() && is_output_layer(owner);
            let shape_of = |name: &String| &base.weights().tensors()[name].shape;
            if let Some(tie) = base.tie()
                && path.ends_with(".weight")
                && !is_untied
                && !is_head
                && other.effect == Effect::Replaces
                && shape == shape_of(&tie.table)
            {
                return Err(unnamed(&tie.table));
            }
            let mut stored = base.weights().tensors().keys();
            if owner.ends_with("experts") && stored.any(|name| name.contains("experts.0.")) {
                return Err(
                    "the base keeps experts one by one, the adapter as one stack".to_owned(),
                );
            }
            return match other.effect {
                // (IA)³ has outputs without a bias.
                Effect::Multiplies => Ok(()),
                Effect::Replaces if is_saved || is_head || is_untied => {
                    match self.added.insert(path.clone(), other) {
                        None => Ok(()),
                        Some(_) => Err(format!("expected one tensor {path}, found a second")),
                    }
                }
                _ => Err(format!("expected {path} in the base model, found none")),
            };
        };
        if let Some(how) = base.weights().quantised(&name) {
            return Err(unmerged(&name, &how));
        }
        let before = &base.weights().tensors()[&name].shape;
        let is_new_head =
            is_head && other.effect == Effect::Replaces && shape.get(1..) == before.get(1..);
        let count = |shape: &[usize]| shape.iter().product::<usize>();
        let fits = match other.effect {
            Effect::Replaces => shape == before,
            Effect::Adds(_) | Effect::Multiplies => count(shape) == count(before),
        };
        if !fits && !is_new_head {
            return Err(format!(
                "expected the shape {before:?} of the base model's {name}, found {shape:?}"
            ));
        }
        places.see(&name, &asked);
        self.put(name, Change::Other(other))
    }

    /// Where tensors are added beside those of a bare model, which has no prefix: a model with them
    /// has one, and what loads it looks for it.
    fn framed(&mut self, places: Places) -> Result<(), String> {
        let mut prefixes = places.lacking.into_iter();
        let (first, second) = (prefixes.next(), prefixes.next());
        if let (Some(first), Some(second)) = (&first, &second) {
            return Err(format!(
                "expected one prefix that the base model's names lack, found {first} and {second}"
            ));
        }
        if let Some(extra) = places.has_more {
            return Err(format!(
                "expected the adapter's names in the base model, found {extra}: where its own \
                 tensors belong is not clear"
            ));
        }
        if let Some(prefix) = first {
            self.prefix = prefix;
            self.exact = places.exact;
        }
        Ok(())
    }
}

/// Whether the module's number of outputs is the task's.
pub(crate) fn is_head(module: &str) -> bool {
    ends_in(module, &HEADS)
}

/// How the names of the base differ from the adapter's.
#[derive(Debug, Default)]
struct Places {
    /// Prefixes that the adapter's names have and the base's do not.
    lacking: BTreeSet<String>,
    /// A name of the base that begins with more than the adapter's.
    has_more: Option<String>,
    exact: BTreeSet<String>,
}

impl Places {
    fn see(&mut self, name: &str, asked: &str) {
        if name == asked {
            self.exact.insert(name.to_owned());
        } else if let Some(prefix) = asked.strip_suffix(name) {
            self.lacking.insert(prefix.to_owned());
        } else if name.ends_with(asked) {
            self.has_more = Some(name.to_owned());
        }
    }
}

/// The tensor of the base that an update changes, and the name that led to it.
fn placed(module: &Module, base: &Base) -> Result<(String, String), String> {
    if module.kind == Kind::Expert {
        return Err("the update of one expert of many: not merged".to_owned());
    }
    if let Some(how) = base.unread(&module.raw) {
        return Err(unmerged(&module.raw, &how));
    }
    let Some(weight) = base.weight(&module.raw) else {
        return Err(format!(
            "expected a weight of {} in the base model, found none",
            module.raw
        ));
    };
    if let Some(how) = base.weights().quantised(&weight.name) {
        return Err(unmerged(&weight.name, &how));
    }
    if module.scale.is_none() {
        return Err("expected a scale (lora_alpha), found none".to_owned());
    }
    let found = flat(&weight.shape);
    if found != module.merged_shape() {
        return Err(format!(
            "expected the base model's {} of shape {:?}, found {:?}",
            weight.name,
            module.merged_shape(),
            weight.shape
        ));
    }
    Ok((weight.name, weight.asked))
}

fn unnamed(table: &str) -> String {
    format!("the output layer is tied to {table} under a name that is not known")
}

fn unmerged(name: &str, how: &str) -> String {
    format!("expected a base model that is not quantised, found {name} {how}")
}
