//! Every architecture against the reference implementation, on small random checkpoints: see
//! `tests/fixtures/models/NOTES.md`.

use std::fs;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use safetensors::SafeTensors;
use safetensors::tensor::Dtype;
use serde_json::Value as Json;

use super::{Head, Inputs, Loaded, Pass};
use crate::engine::loss::{Targets, loss};
use crate::engine::optimizer::{Optimizer, Rule};
use crate::engine::parameters::{Gathering, Parameters};
use crate::engine::{Gradients, Lengths, Tape};
use crate::module::Modules;

/// Of logits, absolute; the reference's own error is 3e-6 at most.
const LOGITS: f64 = 2e-5;

/// Of a gradient, relative to its largest entry (and 1e-6 of the largest gradient of all for tensors
/// that are nearly zero).
const GRADIENT: f64 = 1e-4;

/// Of parameters after five steps of Adam, where the first gradient is no rounding error.
const AFTER: f64 = 2e-5;

/// Where it is: Adam makes steps of the whole learning rate from it.
const UNSTEERED: f64 = 1e-2;

pub(crate) struct Case {
    folder: PathBuf,
    pub(crate) notes: Json,
    pub(crate) tensors: Vec<(String, Vec<usize>, Vec<f64>)>,
}

impl Case {
    pub(crate) fn read(name: &str) -> Self {
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models");
        let notes = fs::read_to_string(fixtures.join(name).join("case.json")).unwrap();
        let notes: Json = serde_json::from_str(&notes).unwrap();
        let bytes = fs::read(fixtures.join(name).join("case.safetensors")).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let tensors = tensors
            .iter()
            .map(|(name, view)| {
                let data = view.data();
                let values = match view.dtype() {
                    Dtype::F32 => numbers(data, |b| f32::from_le_bytes(b).into()),
                    Dtype::F64 => numbers(data, f64::from_le_bytes),
                    Dtype::I64 => numbers(data, |b| i64::from_le_bytes(b) as f64),
                    other => panic!("{name} of {other:?}"),
                };
                (name.to_owned(), view.shape().to_vec(), values)
            })
            .collect();
        Self {
            folder: fixtures.join(notes["checkpoint"].as_str().unwrap()),
            notes,
            tensors,
        }
    }

    pub(crate) fn find(&self, name: &str) -> Option<(&[usize], &[f64])> {
        let (_, shape, values) = self.tensors.iter().find(|(own, ..)| own == name)?;
        Some((shape, values))
    }

    pub(crate) fn values(&self, name: &str) -> &[f64] {
        self.find(name).unwrap_or_else(|| panic!("no {name}")).1
    }

    fn with_prefix<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a str, &'a [f64])> {
        self.tensors.iter().filter_map(move |(name, _, values)| {
            Some((name.strip_prefix(prefix)?, values.as_slice()))
        })
    }

    /// The real tokens of a padded matrix, one sequence below the other.
    fn packed<'a>(&'a self, name: &str) -> Option<Vec<f64>> {
        let mask = self.values("attention_mask");
        let values = self.find(name)?.1;
        let width = values.len() / mask.len();
        let rows = values.chunks_exact(width).zip(mask);
        Some(
            rows.filter(|(_, real)| **real > 0.0)
                .flat_map(|(row, _)| row.to_vec())
                .collect(),
        )
    }

    pub(crate) fn inputs(&self, dtype: DType) -> Inputs {
        let whole = |values: Vec<f64>| values.into_iter().map(|value| value as u32).collect();
        if let Some((shape, pixels)) = self.find("pixel_values") {
            let pixels = Tensor::from_slice(pixels, shape, &Device::Cpu).unwrap();
            return Inputs {
                ids: Vec::new(),
                types: Vec::new(),
                lengths: Lengths::new(vec![1; shape[0]]),
                pixels: Some(pixels.to_dtype(dtype).unwrap()),
            };
        }
        let (shape, mask) = self.find("attention_mask").unwrap();
        let lengths = mask
            .chunks_exact(shape[1])
            .map(|row| row.iter().sum::<f64>() as usize);
        Inputs {
            ids: whole(self.packed("input_ids").unwrap()),
            types: self.packed("token_type_ids").map(whole).unwrap_or_default(),
            lengths: Lengths::new(lengths),
            pixels: None,
        }
    }

    pub(crate) fn targets(&self) -> Targets {
        let whole = |name: &str| {
            self.values(name)
                .iter()
                .map(|value| *value as u32)
                .collect()
        };
        match self.notes["task"].as_str().unwrap() {
            "classification" => Targets::Classes(whole("labels")),
            "regression" => {
                Targets::Values(self.values("labels").iter().map(|v| *v as f32).collect())
            }
            "qa" => {
                let (first, last): (Vec<u32>, Vec<u32>) =
                    (whole("start_positions"), whole("end_positions"));
                Targets::Spans(first.into_iter().zip(last).collect())
            }
            "lm" => {
                // The model shifts: a token's target is the next one.
                let mask = self.values("attention_mask");
                let width = self.find("labels").unwrap().0[1];
                let labels = self.values("labels");
                let next = |at: usize| {
                    let label = if (at + 1) % width == 0 {
                        -100.0
                    } else {
                        labels[at + 1]
                    };
                    (label >= 0.0).then_some(label as u32)
                };
                let real = (0..labels.len()).filter(|at| mask[*at] > 0.0);
                Targets::Tokens(real.map(next).collect())
            }
            other => panic!("task {other}"),
        }
    }

    fn head(&self) -> Head {
        match self.notes["task"].as_str().unwrap() {
            "classification" => Head::Classes(self.find("logits").unwrap().0[1]),
            "regression" => Head::Classes(1),
            "qa" => Head::Span,
            _ => Head::NextToken,
        }
    }

    fn logits(&self) -> Vec<f64> {
        match self.head() {
            Head::Classes(_) => self.values("logits").to_vec(),
            Head::NextToken => self.packed("logits").unwrap(),
            Head::Span => {
                let both = self.packed("start_logits").unwrap().into_iter();
                let both = both.zip(self.packed("end_logits").unwrap());
                both.flat_map(|(first, last)| [first, last]).collect()
            }
        }
    }

    pub(crate) fn load(&self, dtype: DType) -> Loaded {
        Loaded::read(&self.folder, self.head(), 0, dtype, &Device::Cpu).unwrap()
    }
}

fn numbers<const N: usize>(bytes: &[u8], value: impl Fn([u8; N]) -> f64) -> Vec<f64> {
    bytes
        .as_chunks::<N>()
        .0
        .iter()
        .map(|chunk| value(*chunk))
        .collect()
}

pub(crate) fn flat(tensor: &Tensor) -> Vec<f64> {
    tensor
        .flatten_all()
        .unwrap()
        .to_dtype(DType::F64)
        .unwrap()
        .to_vec1()
        .unwrap()
}

pub(crate) fn largest(values: impl IntoIterator<Item = f64>) -> f64 {
    values
        .into_iter()
        .fold(0.0, |largest, value| value.abs().max(largest))
}

pub(crate) fn distance(ours: &[f64], theirs: &[f64]) -> f64 {
    assert_eq!(ours.len(), theirs.len());
    largest(ours.iter().zip(theirs).map(|(ours, theirs)| {
        let difference = ours - theirs;
        if difference.is_nan() {
            f64::INFINITY
        } else {
            difference
        }
    }))
}

fn outputs(model: &Loaded, modules: &Modules, parameters: &Parameters, inputs: &Inputs) -> Tensor {
    let tape = Tape::inference(parameters);
    let pass = Pass {
        tape: &tape,
        modules,
    };
    model.architecture.forward(pass, inputs).unwrap().value
}

fn gradients(
    model: &Loaded,
    parameters: &Parameters,
    inputs: &Inputs,
    targets: &Targets,
) -> (f64, Gradients) {
    let tape = Tape::new(parameters, None);
    let pass = Pass {
        tape: &tape,
        modules: &model.modules,
    };
    let output = model.architecture.forward(pass, inputs).unwrap();
    let loss = loss(&output.value, targets, &inputs.lengths, targets.count()).unwrap();
    (loss.value, tape.backward(&output, loss.gradient).unwrap())
}

fn everything(model: &mut Loaded, dtype: DType) -> Parameters {
    let mut gathering = Gathering::default();
    model.modules.train(&mut gathering, |_, _| true);
    gathering.finish(dtype, &Device::Cpu).unwrap()
}

fn none(dtype: DType) -> Parameters {
    Gathering::default().finish(dtype, &Device::Cpu).unwrap()
}

/// Logits, loss, every gradient, and every parameter after five steps.
fn check(name: &str) {
    let case = Case::read(name);
    let dtype = DType::F32;
    let inputs = case.inputs(dtype);
    let mut model = case.load(dtype);
    assert!(model.drawn.is_empty(), "{name}: {:?}", model.drawn);
    let frozen = outputs(&model, &model.modules, &none(dtype), &inputs);
    let error = distance(&flat(&frozen), &case.logits());
    assert!(error < LOGITS, "{name}: logits differ by {error}");

    // Losses of spans run over padding in the reference; without padding there is none.
    let real = if case.head() == Head::Span {
        "real."
    } else {
        ""
    };
    let targets = case.targets();
    let parameters = everything(&mut model, dtype);
    let (value, first) = gradients(&model, &parameters, &inputs, &targets);
    let error = (value - case.values(&format!("{real}loss"))[0]).abs();
    assert!(error < 1e-5, "{name}: loss {value} differs by {error}");
    let prefix = format!("{real}grad.");
    let overall = largest(
        case.with_prefix(&prefix)
            .map(|(_, values)| largest(values.to_vec())),
    );
    let mut compared = 0;
    for (id, part) in parameters.parts() {
        let theirs = case.values(&format!("{prefix}{}", part.name));
        let ours = match first.parameter(id) {
            Some(gradient) => flat(gradient),
            None => vec![0.0; theirs.len()],
        };
        let ours = without_padding(&case, &part.name, ours);
        let error = distance(&ours, theirs);
        let allowed = GRADIENT * largest(theirs.to_vec()) + 1e-6 * overall;
        assert!(
            error <= allowed,
            "{name}: gradient of {} differs by {error}",
            part.name
        );
        compared += 1;
    }
    let known = case.with_prefix(&prefix).count();
    assert_eq!(compared, known, "{name}: gradients");

    if real.is_empty() {
        let rule = Rule::AdamW {
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            decay: 0.01,
        };
        let mut optimizer = Optimizer::new(rule, &parameters, |_| false).unwrap();
        for _ in 0..5 {
            let (_, gradients) = gradients(&model, &parameters, &inputs, &targets);
            optimizer
                .step(&parameters, &gradients, |_| None, 1e-3, 1.0)
                .unwrap();
        }
        for (id, part) in parameters.parts() {
            let theirs = case.values(&format!("after.{}", part.name));
            let grads = case.values(&format!("grad.{}", part.name));
            for ((ours, theirs), gradient) in
                flat(parameters.view(id)).iter().zip(theirs).zip(grads)
            {
                let error = (ours - theirs).abs();
                let allowed = if gradient.abs() > 1e-5 {
                    AFTER
                } else {
                    UNSTEERED
                };
                assert!(
                    error <= allowed,
                    "{name}: {} after five steps differs by {error}",
                    part.name
                );
            }
        }
    }
}

/// The reference leaves the row of the padding id without a gradient.
fn without_padding(_case: &Case, _name: &str, ours: Vec<f64>) -> Vec<f64> {
    ours
}

/// Logits alone.
fn check_logits(name: &str) {
    let case = Case::read(name);
    let inputs = case.inputs(DType::F32);
    let model = case.load(DType::F32);
    let ours = outputs(&model, &model.modules, &none(DType::F32), &inputs);
    let error = distance(&flat(&ours), &case.logits());
    assert!(error < LOGITS, "{name}: logits differ by {error}");
}

#[test]
fn bert() {
    for name in ["bert-cls", "bert-regression", "bert-pair-types", "bert-qa"] {
        check(name);
    }
}

#[test]
fn roberta() {
    for name in ["roberta-cls", "roberta-regression", "roberta-qa"] {
        check(name);
    }
}
