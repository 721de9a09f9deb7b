//! Updates of every kind of module: linear, Conv1D, convolution over patches, embedding.

use candle_core::Tensor;

use super::every::{direction, merged};
use super::*;
use crate::draw::normal;
use crate::engine::parameters::{Gathering, Treatment};
use crate::engine::{Tape, Var};
use crate::method::{Planned, Site};
use crate::module::{Declared, Kind, Module, ModuleId, Value};

const IDS: [u32; 5] = [3, 0, 3, 6, 1];

fn random(name: &str, shape: &[usize]) -> Tensor {
    let values = normal(5, name, shape.iter().product(), 1.0);
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

/// 12 inputs and 10 outputs; an embedding has 7 entries of width 10.
fn module(kind: Kind) -> Module {
    let shape = match kind {
        Kind::Conv1d => vec![12, 10],
        Kind::Patches => vec![10, 3, 2, 2],
        Kind::Embedding => vec![7, 10],
        _ => vec![10, 12],
    };
    let has_bias = kind != Kind::Embedding;
    Module {
        weight: Value::Frozen(random("weight", &shape)),
        bias: has_bias.then(|| Value::Frozen(random("bias", &[10]))),
        declared: Declared {
            name: "layer.0.part".to_owned(),
            kind,
            shape,
            has_bias,
            is_head: false,
        },
        adapter: None,
        id: ModuleId(0),
    }
}

/// What stands before a layer, so that the gradient of its input is seen: a table that trains.
fn table_before(gathering: &mut Gathering) -> Module {
    let values = random("table", &[7, 12]);
    let id = gathering.add("table".to_owned(), values, Treatment::PLAIN);
    Module {
        weight: Value::Trained(id),
        bias: None,
        declared: Declared {
            name: "table".to_owned(),
            kind: Kind::Embedding,
            shape: vec![7, 12],
            has_bias: false,
            is_head: false,
        },
        adapter: None,
        id: ModuleId(1),
    }
}

struct Layer {
    module: Module,
    table: Module,
    parameters: Parameters,
}

impl Layer {
    fn new(text: &str, kind: Kind) -> Self {
        let table = table(text);
        let mut rule = table.method.rule(&table.common).unwrap();
        let mut module = module(kind);
        let mut gathering = Gathering::default();
        let before = table_before(&mut gathering);
        let mut plan = [Planned {
            module: &module,
            rank: 4,
            is_set: false,
        }];
        rule.prepare(&mut plan).unwrap();
        let rank = plan[0].rank;
        rule.attach(Site {
            module: &mut module,
            gathering: &mut gathering,
            rank,
            alpha: 8.0,
            dropout: 0.0,
            seed: 3,
        })
        .unwrap();
        Self {
            module,
            table: before,
            parameters: gathering.finish(DType::F64, &Device::Cpu).unwrap(),
        }
    }

    /// Lets every parameter of the update be something else than at the beginning.
    fn stir(&self) {
        for (id, part) in self.parameters.parts() {
            let noise = random(&part.name, &part.shape);
            let moved = (self.parameters.view(id) + (noise * 0.3).unwrap()).unwrap();
            self.parameters.set(id, &moved).unwrap();
        }
    }

    fn forward(&self, tape: &Tape<'_>, module: &Module) -> Var {
        match module.declared.kind {
            Kind::Embedding => tape.embedding(module, &IDS).unwrap(),
            _ => {
                let x = tape.embedding(&self.table, &IDS).unwrap();
                tape.linear(&x, module).unwrap()
            }
        }
    }

    fn outputs(&self, module: &Module) -> Vec<f64> {
        flat(
            &self
                .forward(&Tape::inference(&self.parameters), module)
                .value,
        )
    }

    /// Σ c ⊙ y of fixed c, and its gradients.
    fn pull(&self) -> (f64, Gradients) {
        let tape = Tape::new(&self.parameters, None);
        let output = self.forward(&tape, &self.module);
        let c = random("c", output.value.dims());
        let value = flat(&(&output.value * &c).unwrap()).iter().sum();
        (value, tape.backward(&output, c).unwrap())
    }
}

const METHODS: [&str; 13] = [
    "name = \"lora\"",
    "name = \"rs-lora\"",
    "name = \"dora\"",
    "name = \"dora\"\nnorm = \"differentiated\"",
    "name = \"pissa\"",
    "name = \"olora\"",
    "name = \"vera\"",
    "name = \"adalora\"",
    "name = \"sora\"",
    "name = \"prilora\"",
    "name = \"bilora\"",
    "name = \"bilora\"\nvalues = \"free\"",
    "name = \"bilora\"\nvalues = \"binary\"",
];

const KINDS: [Kind; 4] = [Kind::Linear, Kind::Conv1d, Kind::Patches, Kind::Embedding];

#[test]
fn updates_begin_at_the_base_and_are_what_they_are_defined_as() {
    for kind in KINDS {
        for text in METHODS {
            let layer = Layer::new(text, kind);
            let base = layer.outputs(&module(kind));
            let error = relative(&layer.outputs(&layer.module), &base);
            assert!(error < 1e-12, "{kind:?}, {text}: {error}");
            layer.stir();
            let stirred = layer.outputs(&layer.module);
            let merged = Module {
                weight: Value::Frozen(merged(&layer.module, &layer.parameters).unwrap()),
                adapter: None,
                ..layer.module.clone()
            };
            let error = relative(&stirred, &layer.outputs(&merged));
            assert!(error < 1e-12, "{kind:?}, {text}: {error}");
            assert!(relative(&stirred, &base) > 1e-3, "{kind:?}, {text}");
        }
    }
}

#[test]
fn gradients_are_slopes() {
    const H: f64 = 1e-5;
    for kind in KINDS {
        for text in METHODS {
            for mask in [None, Some(vec![1, 3])] {
                let mut layer = Layer::new(text, kind);
                layer.stir();
                let adapter = layer.module.adapter.as_mut().unwrap();
                adapter.moving = mask.clone();
                let factors = [adapter.a.parameter(), adapter.b.parameter()];
                let is_decomposed = adapter.magnitude.is_some();
                let is_held = is_decomposed && (!adapter.norm_goes_along || mask.is_some());
                let (_, gradients) = layer.pull();
                let mut checked = 0;
                for (id, part) in layer.parameters.parts() {
                    let is_factor = factors.contains(&Some(id));
                    // DoRA's norm is a constant on the way back and knows no mask.
                    let Some(gradient) =
                        gradients.parameter(id).filter(|_| !(is_factor && is_held))
                    else {
                        continue;
                    };
                    let rows = mask.as_deref().filter(|_| is_factor);
                    let width = part.count() / part.rows();
                    let signs = direction(part.count(), rows, width);
                    let values = flat(layer.parameters.view(id));
                    let at = |h: f64| {
                        let moved = values.iter().zip(&signs).map(|(x, d)| x + h * d);
                        let shape = part.shape.as_slice();
                        let moved = Tensor::from_iter(moved, &Device::Cpu).unwrap();
                        let moved = moved.reshape(shape).unwrap();
                        layer.parameters.set(id, &moved).unwrap();
                        layer.pull().0
                    };
                    let slope = (at(H) - at(-H)) / (2.0 * H);
                    at(0.0);
                    let gradient = flat(gradient);
                    let along: f64 = gradient.iter().zip(&signs).map(|(g, d)| g * d).sum();
                    // Of random numbers near one: second differences are of the order H².
                    let error = (slope - along).abs() / slope.abs().max(1.0);
                    assert!(error < 1e-6, "{kind:?}, {text}: {}: {error}", part.name);
                    let still = (0..gradient.len()).filter(|at| {
                        rows.is_some_and(|rows| !rows.contains(&((at / width) as u32)))
                    });
                    assert!(
                        still.map(|at| gradient[at]).all(|g| g == 0.0),
                        "{}",
                        part.name
                    );
                    checked += 1;
                }
                let expected = if kind == Kind::Embedding { 1 } else { 2 };
                assert!(checked >= expected, "{kind:?}, {text}");
            }
        }
    }
}

#[test]
fn observed_inputs_are_sums_of_squares() {
    for kind in KINDS {
        let layer = Layer::new("name = \"prilora\"", kind);
        let (_, mut gradients) = layer.pull();
        gradients.merge(layer.pull().1).unwrap();
        let observed = flat(gradients.observed(ModuleId(0)).unwrap());
        let table = flat(layer.parameters.view(find(&layer.parameters, "table")));
        let expected: Vec<f64> = match kind {
            // Twice each: entry 3 was asked for two times.
            Kind::Embedding => vec![2.0, 2.0, 0.0, 4.0, 0.0, 0.0, 2.0],
            _ => (0..12)
                .map(|at| {
                    let squares = IDS.map(|id| table[id as usize * 12 + at].powi(2));
                    2.0 * squares.iter().sum::<f64>()
                })
                .collect(),
        };
        assert!(relative(&observed, &expected) < 1e-14, "{kind:?}");
    }
}

#[test]
fn magnitudes_are_lengths_of_what_reaches_one_output() {
    for kind in KINDS {
        let layer = Layer::new("name = \"dora\"", kind);
        let id = layer.module.adapter.as_ref().unwrap().magnitude.unwrap();
        let weight = random("weight", &layer.module.declared.shape);
        let (outputs, values) = (10, flat(&weight));
        let inputs = values.len() / outputs;
        let at = |output: usize, input: usize| match kind {
            Kind::Conv1d | Kind::Embedding => values[input * outputs + output],
            _ => values[output * inputs + input],
        };
        let expected: Vec<f64> = (0..outputs)
            .map(|o| (0..inputs).map(|i| at(o, i).powi(2)).sum::<f64>().sqrt())
            .collect();
        assert!(relative(&flat(layer.parameters.view(id)), &expected) < 1e-14);
    }
}

#[test]
fn a_bias_gets_the_sum_of_what_comes_back() {
    let mut module = module(Kind::Linear);
    let mut gathering = Gathering::default();
    let id = gathering.add("bias".to_owned(), random("bias", &[10]), Treatment::PLAIN);
    module.bias = Some(Value::Trained(id));
    let parameters = gathering.finish(DType::F64, &Device::Cpu).unwrap();
    let tape = Tape::new(&parameters, None);
    let x = Var::constant(random("x", &[5, 12]));
    let y = tape.linear(&x, &module).unwrap();
    let c = random("c", &[5, 10]);
    let gradients = tape.backward(&y, c.clone()).unwrap();
    let expected = flat(&c.sum(0).unwrap());
    assert!(relative(&flat(gradients.parameter(id).unwrap()), &expected) < 1e-14);
}
