//! Every method on a small BERT (and single modules of every kind), in float64.

mod adapters;
mod beginnings;
mod every;
mod kinds;
mod peft;
mod ranks;
mod rm_lora;
mod settings;
mod steps;

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};
use ndarray::Array2;
use rankwise_analysis::linalg::singular_values;

use super::{Made, MethodTable, Step, directional, moving};
use crate::engine::optimizer::{Moments, Optimizer, Rule, gradient_norm};
use crate::engine::{Gradients, ParameterId, Parameters};
use crate::model::parity::case::{Case, flat};
use crate::module::{Adapter, Module};
use crate::tuning::{Batch, Part, Pull, Tuned};

/// Every method, with settings that show all its parts within a few steps.
const TABLES: [&str; 27] = [
    r#"name = "full""#,
    r#"name = "bitfit""#,
    "name = \"bitfit\"\ncomponents = [\"query\", \"output\"]",
    "name = \"lora\"\nalpha = 8",
    "name = \"lora\"\nalpha = 8\ninitialisation = \"gaussian\"",
    "name = \"rs-lora\"\nalpha = 8",
    "name = \"lora-plus\"\nratio = 4.0",
    "name = \"dora\"\nalpha = 8",
    "name = \"dora\"\nalpha = 8\nnorm = \"differentiated\"",
    "name = \"pissa\"\nalpha = 8",
    "name = \"olora\"\nalpha = 8",
    r#"name = "vera""#,
    "name = \"adalora\"\ninitial_steps = 1\nfinal_steps = 2\nregulariser = \"squared-sum\"",
    "name = \"adalora\"\nregulariser = \"mean-norm\"\nregularisation = 0.5",
    "name = \"sora\"\npenalty = 0.5\nthreshold = 20.0\nlast_threshold = 80.0\nrounds = 3",
    "name = \"sora\"\nshrinkage = \"code\"\nthreshold = 0.1",
    "name = \"dylora\"\nalpha = 8",
    "name = \"dylora\"\nfrozen = true\nevaluated = 2",
    "name = \"prilora\"\nperiod = 2",
    "name = \"delta-lora\"\nstart = 1",
    "name = \"bilora\"\ninner_steps = 1\nregularisation = 0.01\nvalues = \"free\"",
    "name = \"bilora\"\ninner_steps = 1\nvalues = \"binary\"\nentropy = 0.5",
    "name = \"r-lora\"\nlambda = 0.01\nlambda_schedule = \"falling\"",
    "name = \"gm-lora\"\ndirections = 2\nunselected = \"moments\"",
    "name = \"r-lora\"\nlambda = 0.01\nregularised = \"directions\"",
    "name = \"rm-lora\"\nlambda = 0.01\ndirections = 2\nlambda_schedule = \"rising\"",
    "name = \"rm-lora\"\nlambda = 0.01\ndirections = 2\nregularised = \"directions\"",
];

/// Steps of the runs in these tests.
const STEPS: u64 = 6;

fn table(text: &str) -> MethodTable {
    let text = match text.contains("rank") || text.contains("full") || text.contains("bitfit") {
        true => text.to_owned(),
        false => format!("rank = 4\n{text}"),
    };
    toml::from_str(&text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// The small BERT's batch, in two parts.
fn batch(dtype: DType) -> Batch {
    let case = Case::read("bert-cls");
    let part = Part {
        inputs: case.inputs(dtype),
        targets: case.targets(),
    };
    Batch {
        items: 2 * part.targets.count(),
        parts: vec![part.clone(), part],
    }
}

fn tuned(table: &MethodTable, dtype: DType) -> Tuned {
    let loaded = Case::read("bert-cls").load(dtype);
    let table = table.clone();
    Tuned::new(loaded, &table, 7, dtype, &Device::Cpu).unwrap()
}

/// A run as the trainer makes it.
struct Run {
    tuned: Tuned,
    optimizer: Optimizer,
    batch: Batch,
    next: u64,
}

/// What a checkpoint keeps.
struct Kept {
    values: Tensor,
    moments: Moments,
    state: BTreeMap<String, Tensor>,
    next: u64,
}

fn at(number: u64) -> Step {
    Step {
        number,
        of: STEPS,
        epoch: number / 2,
        seed: 7,
    }
}

impl Run {
    const RATE: f64 = 1e-2;

    fn new(table: &MethodTable) -> Self {
        Self::of(table, DType::F64)
    }

    fn of(table: &MethodTable, dtype: DType) -> Self {
        let tuned = tuned(table, dtype);
        let rows = directional(&tuned.modules);
        let by_rows = |id| tuned.rule.by_rows() && rows.contains(&id);
        let rule = Rule::AdamW {
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            decay: 0.01,
        };
        let optimizer = Optimizer::new(rule, &tuned.parameters, by_rows).unwrap();
        Self {
            optimizer: optimizer.with_peak(Self::RATE),
            tuned,
            batch: batch(dtype),
            next: 0,
        }
    }

    fn begin(&mut self) {
        let Tuned {
            rule,
            modules,
            parameters,
            ..
        } = &mut self.tuned;
        rule.begin(at(self.next), modules, parameters).unwrap();
    }

    /// The objective with the method's own term, and its gradients.
    fn pull(&self, noise: Option<(u64, u64)>) -> (f64, Gradients) {
        let pull = self.task(noise);
        let mut gradients = pull.gradients;
        let term = self.regularise(&mut gradients);
        (pull.loss + term, gradients)
    }

    /// The task's part of it.
    fn task(&self, noise: Option<(u64, u64)>) -> Pull {
        self.tuned.pull(&self.batch, noise).unwrap()
    }

    fn regularise(&self, gradients: &mut Gradients) -> f64 {
        let (tuned, step) = (&self.tuned, at(self.next));
        tuned
            .rule
            .regularise(step, &tuned.modules, &tuned.parameters, gradients)
            .unwrap()
    }

    fn step(&mut self) {
        self.begin();
        let tuned = &self.tuned;
        let mut gradients = self.task(Some((7, self.next))).gradients;
        if let Some(number) = tuned.rule.looks_back(at(self.next)) {
            let earlier = || Ok(self.task(Some((7, number))).gradients);
            tuned
                .rule
                .respond(&tuned.parameters, &mut gradients, &earlier)
                .unwrap();
        }
        self.regularise(&mut gradients);
        let norm = gradient_norm(&self.tuned.parameters, &gradients).unwrap();
        let factor = (1.0 / norm).min(1.0);
        let moving = moving(&self.tuned.modules);
        self.optimizer
            .step(
                &self.tuned.parameters,
                &gradients,
                |id| moving.get(&id).map(Vec::as_slice),
                Self::RATE,
                factor,
            )
            .unwrap();
        let made = Made {
            step: at(self.next),
            rate: Self::RATE,
            peak: Self::RATE,
            factor,
            gradients: &gradients,
        };
        let Tuned {
            rule,
            modules,
            parameters,
            ..
        } = &mut self.tuned;
        rule.settle(made, modules, parameters).unwrap();
        self.next += 1;
    }

    fn steps(&mut self, count: u64) {
        for _ in 0..count {
            self.step();
        }
    }

    fn keep(&self) -> Kept {
        let moments = self.optimizer.moments();
        Kept {
            values: self.tuned.parameters.values().copy().unwrap(),
            moments: Moments {
                first: moments.first.copy().unwrap(),
                second: moments.second.copy().unwrap(),
                updates: moments.updates,
            },
            state: self.tuned.rule.state().into_iter().collect(),
            next: self.next,
        }
    }

    fn resume(&mut self, kept: Kept) {
        self.tuned.parameters.restore(kept.values).unwrap();
        self.optimizer.restore(kept.moments).unwrap();
        let Tuned {
            rule,
            modules,
            parameters,
            ..
        } = &mut self.tuned;
        rule.restore(&kept.state, modules, parameters).unwrap();
        self.next = kept.next;
    }

    fn outputs(&self) -> Vec<f64> {
        let outputs = self.tuned.outputs(&self.batch).unwrap();
        outputs.iter().flat_map(flat).collect()
    }

    /// A parameter's number by its name.
    fn find(&self, name: &str) -> ParameterId {
        find(&self.tuned.parameters, name)
    }

    fn values(&self, name: &str) -> Vec<f64> {
        flat(self.tuned.parameters.view(self.find(name)))
    }
}

fn find(parameters: &Parameters, name: &str) -> ParameterId {
    let mut parts = parameters.parts();
    let found = parts.find(|(_, part)| part.name == name);
    found.unwrap_or_else(|| panic!("no {name}")).0
}

/// The largest distance relative to the largest of `theirs`.
fn relative(ours: &[f64], theirs: &[f64]) -> f64 {
    use crate::model::parity::case::{distance, largest};
    distance(ours, theirs) / largest(theirs.to_vec()).max(f64::MIN_POSITIVE)
}

const QUERY: &str = "bert.encoder.layer.0.attention.self.query";

/// Of a product in float64 against another order of summation.
const ROUNDING: f64 = 1e-12;

fn adapted(run: &Run) -> impl Iterator<Item = (&Module, &Adapter)> {
    let modules = run.tuned.modules.0.iter();
    modules.filter_map(|module| Some((module, module.adapter.as_ref()?)))
}

fn matrix(tensor: &Tensor) -> Array2<f64> {
    let shape = tensor.dims2().unwrap();
    Array2::from_shape_vec(shape, flat(&tensor.contiguous().unwrap())).unwrap()
}

fn spectrum(tensor: &Tensor) -> Vec<f64> {
    singular_values(matrix(tensor).view()).unwrap()
}
