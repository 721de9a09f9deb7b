//! A run that begins with the numbers of a trained adapter instead of the method's own first values.
//!
//! The adapter says which modules are adapted, with which R and s; the method says how they train
//! on. Any method will do whose parameters are the adapter's: factors for all; g for AdaLoRA and
//! SoRA, whose gates AdaLoRA's E are; d and b for VeRA; m for DoRA. Tensors that were trained as a
//! whole begin where they ended, and modules that had some train again.
//!
//! An adapter of PiSSA's kind is none to begin with as it is: its product is not the update.
//! `rankwise train` writes the update itself, and PEFT does when it saves with the initial adapter
//! (`path_initial_model_for_weight_conversion`).

use std::path::Path;

use candle_core::{Device, Tensor};
use ndarray::{ArrayView2, Axis, Slice};
use rankwise_analysis::{Outputs, TrainedAdapter, TrainedModule, TrainedTensor};

use super::Prepared;
use crate::Error;
use crate::engine::parameters::Gathering;
use crate::method::{Method, MethodTable, Targets, adapted};
use crate::module::{Declared, Module, Modules, Part, Squash, Value};

/// An adapter to begin with.
#[derive(Debug)]
pub(crate) struct Beginning {
    adapter: TrainedAdapter,
}

impl Beginning {
    /// Reads the adapter at `path`, in any layout whose updates are products of two factors.
    ///
    /// # Errors
    /// [`Error::Analysis`] if there is none, or something in it could not train on.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let adapter = TrainedAdapter::read(path)?;
        Ok(Self { adapter })
    }

    /// The adapter's file.
    pub fn file(&self) -> &Path {
        &self.adapter.path
    }

    /// The largest R of a module.
    pub fn rank(&self) -> usize {
        let ranks = self.adapter.modules.iter().map(|module| module.a.nrows());
        ranks.max().unwrap_or(0)
    }

    /// What the outputs of the adapter's head are, if that is said beside it.
    ///
    /// # Errors
    /// [`Error::Analysis`] if it is said in another form.
    pub fn outputs(&self) -> Result<Option<Outputs>, Error> {
        Ok(Outputs::beside(&self.adapter.path)?)
    }

    /// Whether the adapter has the weight of the model's module `at`.
    pub fn has_weight_of(&self, at: usize, modules: &[Declared]) -> bool {
        let mut whole = self.adapter.whole.iter();
        whole.any(|tensor| {
            let owner = self.owner(tensor, modules);
            matches!(owner, Ok((owner, Part::Weight)) if owner == at)
                && tensor.shape == modules[at].shape
        })
    }

    /// Leaves the adapter's tensors of the model's module `at` aside.
    pub fn leave_out(&mut self, at: usize, modules: &[Declared]) {
        let mut whole = std::mem::take(&mut self.adapter.whole);
        whole
            .retain(|tensor| !matches!(self.owner(tensor, modules), Ok((owner, _)) if owner == at));
        self.adapter.whole = whole;
    }

    /// The method on the adapter's modules, with its ranks and scales.
    ///
    /// # Errors
    /// [`Error::Setting`] if the settings say otherwise; [`Error::Model`] naming what of the adapter
    /// the model has no place for.
    pub fn fitted(&self, table: &MethodTable, modules: &Modules) -> Result<MethodTable, Error> {
        let modules = &modules.declared()[..];
        let mut table = table.clone();
        let common = &mut table.common;
        let said = [
            ("targets", common.targets.first()),
            ("rank_pattern", common.rank_pattern.keys().next()),
            ("alpha_pattern", common.alpha_pattern.keys().next()),
        ];
        let nothing = "nothing beside model.adapter, which says it";
        for (key, said) in said {
            if let Some(said) = said {
                return Err(self.setting(&format!("method.{key}"), nothing, said));
            }
        }
        if let Some(alpha) = common.alpha {
            return Err(self.setting("method.alpha", nothing, &alpha.to_string()));
        }
        let largest = self.rank();
        if let Method::AdaLora(settings) = &mut table.method {
            // The adapter's is R₀; `rank` stays the budget's.
            settings.first_rank = Some(largest);
            common.rank = common.rank.min(largest);
            let mut modules = self.adapter.modules.iter();
            if let Some(other) = modules.find(|module| module.a.nrows() != largest) {
                let expected =
                    format!("R = {largest} as of other modules (AdaLoRA begins with one)");
                let found = format!("R = {}", other.a.nrows());
                return Err(self.wrong(&other.names[0], &expected, &found));
            }
        } else {
            common.rank = largest;
        }
        let rule = table.method.rule(common)?;
        let mut targets = Vec::new();
        for trained in &self.adapter.modules {
            let declared = &modules[self.place(trained, modules)?];
            let rank = trained.a.nrows();
            if rank != largest {
                common.rank_pattern.insert(declared.name.clone(), rank);
            }
            let scale = self.scale(trained)?;
            let alpha = scale / rule.scale(1.0, rank);
            if !matches!(table.method, Method::Vera(_)) {
                match common.alpha {
                    None => common.alpha = Some(alpha),
                    Some(general) if general == alpha => (),
                    Some(_) => {
                        common.alpha_pattern.insert(declared.name.clone(), alpha);
                    }
                }
            }
            targets.push(declared.name.clone());
        }
        let ordinary = adapted(modules, &[])?;
        let is_ordinary = ordinary.len() == targets.len()
            && (ordinary.iter()).all(|at| targets.contains(&modules[*at].name));
        let also = Targets::new("train_also", common.train_also.iter().map(String::as_str))?;
        for tensor in &self.adapter.whole {
            let owner = &modules[self.owner(tensor, modules)?.0];
            if targets.contains(&owner.name) {
                let expected = "an adapter that trained no bias of its modules";
                return Err(self.wrong(&tensor.names[0], expected, "one"));
            }
            let trains = owner.is_head || also.fits(&owner.name);
            if !trains && !common.train_also.contains(&owner.name) {
                common.train_also.push(owner.name.clone());
            }
        }
        if !is_ordinary {
            common.targets = targets;
        }
        Ok(table)
    }

    /// Puts the adapter's numbers in the place of the first values, of `drawn` tensors too, which are
    /// then taken off that list; returns what there is to say.
    ///
    /// # Errors
    /// [`Error::Model`] naming a number that the method trains and the adapter lacks, or the other
    /// way round, or that has another shape.
    pub fn fill(
        &self,
        prepared: &mut Prepared,
        drawn: &mut Vec<String>,
    ) -> Result<Vec<String>, Error> {
        let declared = prepared.modules.declared();
        for trained in &self.adapter.modules {
            let module = &mut prepared.modules.0[self.place(trained, &declared)?];
            if prepared.rule.taken_off(module.id).is_some() {
                let expected = "a method that begins beside the weight";
                let name = &module.declared.name;
                return Err(self.wrong(name, expected, "one that takes a part off it"));
            }
            self.fill_module(trained, module, &mut prepared.gathering)?;
        }
        let mut notes = vec![format!(
            "begun with {}: {} modules, R = {}",
            self.adapter.path.display(),
            self.adapter.modules.len(),
            self.rank()
        )];
        for tensor in &self.adapter.whole {
            let name = &tensor.names[0];
            let (at, part) = self.owner(tensor, &declared)?;
            let module = &prepared.modules.0[at];
            let value = match part {
                Part::Weight => Some(&module.weight),
                Part::Bias => module.bias.as_ref(),
            };
            let Some(id) = value.and_then(Value::parameter) else {
                return Err(self.wrong(name, "a tensor that trains", "one that does not"));
            };
            let shape = prepared.gathering.parts()[id.index()].shape.clone();
            if shape != tensor.shape {
                notes.push(format!(
                    "not begun with the adapter's {name}, of {:?} there and {shape:?} here",
                    tensor.shape
                ));
                continue;
            }
            let values = Tensor::from_slice(&tensor.values, shape, &Device::Cpu)?;
            let own = &prepared.gathering.parts()[id.index()].name;
            drawn.retain(|name| name != own);
            prepared.gathering.set(id, values)?;
        }
        Ok(notes)
    }

    fn fill_module(
        &self,
        trained: &TrainedModule,
        module: &mut Module,
        gathering: &mut Gathering,
    ) -> Result<(), Error> {
        let declared = &module.declared;
        let name = &declared.name;
        let Some(adapter) = &mut module.adapter else {
            return Err(self.wrong(name, "a module with an update", "none"));
        };
        if adapter.squash != Squash::None {
            let expected = "a method whose gates are the numbers themselves";
            return Err(self.wrong(name, expected, "one that maps them"));
        }
        // VeRA's projections are as wide as the widest module.
        let is_shared = trained.output_gate.is_some();
        let rank = trained.a.nrows();
        let side = |matrix: ArrayView2<'_, f64>, width: usize, what: &str| {
            let (rows, columns) = matrix.dim();
            let fits = columns == width || (is_shared && columns > width);
            if rows != rank || !fits {
                let expected = format!("{what} of {rank} x {width}");
                return Err(self.wrong(name, &expected, &format!("{rows} x {columns}")));
            }
            let part = matrix.slice_axis(Axis(1), Slice::from(..width));
            let values = part.iter().copied().collect();
            Ok(Tensor::from_vec(values, (rank, width), &Device::Cpu)?)
        };
        let a = side(trained.a.view(), declared.inputs(), "A")?;
        let b = side(trained.b.t(), declared.outputs(), "the transpose of B")?;
        let mut put = |place: &mut Value, numbers: Tensor| -> Result<(), Error> {
            match place {
                Value::Trained(id) => gathering.set(*id, numbers)?,
                Value::Frozen(kept) => {
                    let numbers = numbers.to_dtype(kept.dtype())?;
                    *kept = numbers.to_device(kept.device())?;
                }
            }
            Ok(())
        };
        put(&mut adapter.a, a)?;
        put(&mut adapter.b, b)?;
        let mut magnitude = adapter.magnitude.map(Value::Trained);
        let outputs = declared.outputs();
        let (gate, output_gate) = (&mut adapter.gate, &mut adapter.output_gate);
        for (what, place, given, count) in [
            ("direction gates", gate, &trained.gate, rank),
            ("output gates", output_gate, &trained.output_gate, outputs),
            ("magnitudes", &mut magnitude, &trained.magnitude, outputs),
        ] {
            match (place, given) {
                (Some(place), Some(given)) if given.len() == count => {
                    put(
                        place,
                        Tensor::from_slice(&given.to_vec(), count, &Device::Cpu)?,
                    )?;
                }
                (None, None) => (),
                (place, given) => {
                    let numbers = |count: Option<usize>| match count {
                        Some(count) => format!("{count} {what}"),
                        None => format!("no {what}"),
                    };
                    let expected = numbers(place.is_some().then_some(count));
                    let found = numbers(given.as_ref().map(|given| given.len()));
                    return Err(self.wrong(name, &format!("{expected} for the method"), &found));
                }
            }
        }
        Ok(())
    }

    /// The number of the model's module of that name.
    fn place(&self, trained: &TrainedModule, modules: &[Declared]) -> Result<usize, Error> {
        let at = named(&trained.names, modules, |module| module.name.clone());
        let at = at.ok_or_else(|| self.no_place(&trained.names[0]))?;
        let found = &modules[at];
        match found.kind.takes_adapter() && !found.is_head {
            true => Ok(at),
            false => Err(self.wrong(&found.name, "a module that can have an update", "another")),
        }
    }

    /// The number of the module that owns a tensor, and which of its own it is.
    fn owner(&self, tensor: &TrainedTensor, modules: &[Declared]) -> Result<(usize, Part), Error> {
        let weight = named(&tensor.names, modules, Declared::weight_name);
        let bias = || {
            named(&tensor.names, modules, |m| {
                m.bias_name().unwrap_or_default()
            })
        };
        match weight {
            Some(at) => Ok((at, Part::Weight)),
            None => bias()
                .map(|at| (at, Part::Bias))
                .ok_or_else(|| self.no_place(&tensor.names[0])),
        }
    }

    fn scale(&self, trained: &TrainedModule) -> Result<f64, Error> {
        let found = match trained.scale {
            Some(scale) if scale.is_finite() && scale > 0.0 => return Ok(scale),
            Some(scale) => format!("a scale of {scale}"),
            None => "none (is adapter_config.json beside it?)".to_owned(),
        };
        Err(self.wrong(&trained.names[0], "an α above 0", &found))
    }

    fn setting(&self, key: &str, expected: &str, found: &str) -> Error {
        Error::Setting {
            origin: "configuration".to_owned(),
            key: key.to_owned(),
            expected: expected.to_owned(),
            found: found.to_owned(),
        }
    }

    fn wrong(&self, what: &str, expected: &str, found: &str) -> Error {
        Error::Model {
            path: self.adapter.path.clone(),
            what: what.to_owned(),
            expected: expected.to_owned(),
            found: found.to_owned(),
        }
    }

    fn no_place(&self, name: &str) -> Error {
        self.wrong(name, "a module of the model", "none of that name")
    }
}

/// The number of the module whose `name` is one of the names, or ends in one after a dot where only one does:
/// adapters of a model without a head lack its prefix.
fn named(
    names: &[String],
    modules: &[Declared],
    name: impl Fn(&Declared) -> String,
) -> Option<usize> {
    let own: Vec<String> = modules.iter().map(name).collect();
    let exact = own.iter().position(|own| names.contains(own));
    exact.or_else(|| {
        let ends = |at: &usize| {
            let own = &own[*at];
            let before = names
                .iter()
                .filter_map(|name| own.strip_suffix(name.as_str()));
            before.into_iter().any(|before| before.ends_with('.'))
        };
        let mut found = (0..own.len()).filter(ends);
        let first = found.next()?;
        found.next().is_none().then_some(first)
    })
}
