//! Functions of drawn parameters, and their derivatives in two ways.

use candle_core::{DType, Device, Tensor};

use crate::draw::normal;
use crate::engine::dropout::Noise;
use crate::engine::parameters::{Gathering, Treatment};
use crate::engine::{ParameterId, Parameters, Tape, Var};
use crate::module::{Declaration, Module, ModuleId, Value};

/// Half the distance between the two points of a difference.
const STEP: f64 = 1e-5;

/// Of a gradient, relative to its tensor's largest entry, and absolute: differences are off by
/// STEP²·f‴ and by rounding over STEP, both about 1e-10 for numbers of size 1 and sums of some
/// hundred of them.
const ALLOWED: f64 = 1e-7;

/// Parameters of N(0, 1) by name and shape, and a function of them.
pub(super) struct Bench {
    pub parameters: Parameters,
    pub ids: Vec<ParameterId>,
    noise: Option<Noise>,
}

/// Parameters as recorded values.
pub(super) type Leaves = Vec<Var>;

impl Bench {
    pub fn new(shapes: &[&[usize]]) -> Self {
        let mut gathering = Gathering::default();
        let ids = shapes
            .iter()
            .enumerate()
            .map(|(index, shape)| {
                let name = format!("p{index}");
                let values = normal(7, &name, shape.iter().product(), 1.0);
                let values = Tensor::from_vec(values, *shape, &Device::Cpu).unwrap();
                gathering.add(name, values, Treatment::PLAIN)
            })
            .collect();
        Self {
            parameters: gathering.finish(DType::F64, &Device::Cpu).unwrap(),
            ids,
            noise: None,
        }
    }

    pub fn with_noise(self) -> Self {
        Self {
            noise: Some(Noise::new(3, 1, 0)),
            ..self
        }
    }

    pub fn value(&self, index: usize) -> Value {
        Value::Trained(self.ids[index])
    }

    /// Σ w ⊙ f and, if asked for, its gradients, by f's way back.
    pub fn evaluate(
        &self,
        function: &impl Fn(&Tape<'_>, &Leaves) -> Var,
        wants_gradients: bool,
    ) -> (f64, Vec<Vec<f64>>) {
        let tape = Tape::new(&self.parameters, self.noise);
        let leaves = self
            .ids
            .iter()
            .map(|id| {
                let id = *id;
                let value = self.parameters.view(id).copy().unwrap();
                tape.record(value, move |dy, gradients| gradients.add_parameter(id, dy))
            })
            .collect();
        let output = function(&tape, &leaves);
        let weights = normal(11, "weights", output.value.elem_count(), 1.0);
        let weights = Tensor::from_vec(weights, output.value.dims(), &Device::Cpu).unwrap();
        let loss = (&output.value * &weights).unwrap().sum_all().unwrap();
        let loss = loss.to_scalar::<f64>().unwrap();
        if !wants_gradients {
            return (loss, Vec::new());
        }
        let gradients = tape.backward(&output, weights).unwrap();
        let of = |id: &ParameterId| match gradients.parameter(*id) {
            Some(gradient) => flat(gradient),
            None => vec![0.0; self.parameters.part(*id).count()],
        };
        (loss, self.ids.iter().map(of).collect())
    }

    /// Derivatives by central differences; `adjust` is called after each change of a parameter.
    pub fn differences(
        &self,
        function: &impl Fn(&Tape<'_>, &Leaves) -> Var,
        adjust: impl Fn(usize),
    ) -> Vec<Vec<f64>> {
        let set = |index: usize, values: &[f64]| {
            let id = self.ids[index];
            let tensor = Tensor::from_slice(values, values.len(), &Device::Cpu).unwrap();
            self.parameters.set(id, &tensor).unwrap();
        };
        let starts: Vec<_> = self
            .ids
            .iter()
            .map(|id| flat(self.parameters.view(*id)))
            .collect();
        let mut result = Vec::new();
        for (index, start) in starts.iter().enumerate() {
            let slopes = (0..start.len()).map(|entry| {
                let at = |step: f64| {
                    let mut values = start.clone();
                    values[entry] += step;
                    set(index, &values);
                    adjust(index);
                    self.evaluate(function, false).0
                };
                let slope = (at(STEP) - at(-STEP)) / (2.0 * STEP);
                for (index, start) in starts.iter().enumerate() {
                    set(index, start);
                }
                slope
            });
            result.push(slopes.collect());
        }
        result
    }

    pub fn check(&self, what: &str, function: impl Fn(&Tape<'_>, &Leaves) -> Var) {
        let (_, ours) = self.evaluate(&function, true);
        compare(what, &ours, &self.differences(&function, |_| ()));
    }
}

pub(super) fn compare(what: &str, ours: &[Vec<f64>], differences: &[Vec<f64>]) {
    for (index, (ours, slopes)) in ours.iter().zip(differences).enumerate() {
        let largest = slopes
            .iter()
            .fold(0.0_f64, |largest, slope| largest.max(slope.abs()));
        for (ours, slope) in ours.iter().zip(slopes) {
            assert!(
                (ours - slope).abs() <= ALLOWED * (1.0 + largest),
                "{what}: parameter {index}: {ours} against {slope}"
            );
        }
    }
    let largest = differences
        .iter()
        .flatten()
        .fold(0.0_f64, |a, b| a.max(b.abs()));
    assert!(largest > 1e-2, "{what}: nothing depends on anything");
}

pub(super) fn flat(tensor: &Tensor) -> Vec<f64> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

pub(super) fn declared(declare: impl Fn(&mut Declaration) -> ModuleId) -> Module {
    let mut declaration = Declaration::default();
    let id = declare(&mut declaration);
    Module {
        declared: declaration.into_modules().remove(0),
        weight: Value::Frozen(Tensor::zeros((), DType::F64, &Device::Cpu).unwrap()),
        bias: None,
        adapter: None,
        id,
    }
}

pub(super) fn frozen(name: &str, shape: &[usize]) -> Value {
    let values = normal(13, name, shape.iter().product(), 1.0);
    Value::Frozen(Tensor::from_vec(values, shape, &Device::Cpu).unwrap())
}
