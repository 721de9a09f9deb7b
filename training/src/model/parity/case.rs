//! A case's inputs, targets and outputs, and our own for it.

use std::fs;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use safetensors::SafeTensors;
use safetensors::tensor::Dtype;
use serde_json::Value as Json;

use crate::engine::loss::{Targets, loss};
use crate::engine::parameters::{Gathering, Parameters};
use crate::engine::{Gradients, Lengths, Tape};
use crate::model::{Head, Inputs, Loaded, Pass};
use crate::module::Value;

/// Of logits, absolute; the reference's own error is 3e-6 at most.
pub(super) const LOGITS: f64 = 2e-5;

/// Of logits computed in float64, absolute: parameters are float32 in the file, and the reference
/// rounds nothing else (`make_models.py`).
const LOGITS64: f64 = 1e-9;

pub(crate) struct Case {
    pub folder: PathBuf,
    pub notes: Json,
    pub tensors: Vec<(String, Vec<usize>, Vec<f64>)>,
}

impl Case {
    pub fn read(name: &str) -> Self {
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models");
        let notes = fs::read_to_string(fixtures.join(name).join("case.json")).unwrap();
        let notes: Json = serde_json::from_str(&notes).unwrap();
        Self {
            folder: fixtures.join(notes["checkpoint"].as_str().unwrap()),
            notes,
            tensors: tensors(&fixtures.join(name).join("case.safetensors")),
        }
    }

    /// A classification with the tensors of a file.
    pub fn classifying(folder: PathBuf, tensors: Vec<(String, Vec<usize>, Vec<f64>)>) -> Self {
        Self {
            folder,
            notes: serde_json::json!({"task": "classification"}),
            tensors,
        }
    }

    /// Puts the case's own head where one was drawn.
    pub fn put_head(&self, model: &mut Loaded, dtype: DType) {
        let put = |part: &str| {
            let (shape, values) = self.find(&format!("head.classifier.{part}")).unwrap();
            let tensor = Tensor::from_slice(values, shape, &Device::Cpu).unwrap();
            Value::Frozen(tensor.to_dtype(dtype).unwrap())
        };
        let classifier = model.modules.0.last_mut().unwrap();
        assert_eq!(classifier.declared.name, "classifier");
        (classifier.weight, classifier.bias) = (put("weight"), Some(put("bias")));
    }

    /// The same inputs and outputs for the checkpoint of another folder.
    pub fn of(mut self, folder: &str) -> Self {
        self.folder.set_file_name(folder);
        self
    }

    pub fn find(&self, name: &str) -> Option<(&[usize], &[f64])> {
        let (_, shape, values) = self.tensors.iter().find(|(own, ..)| own == name)?;
        Some((shape, values))
    }

    pub fn values(&self, name: &str) -> &[f64] {
        self.find(name).unwrap_or_else(|| panic!("no {name}")).1
    }

    pub fn with_prefix<'a>(
        &'a self,
        prefix: &'a str,
    ) -> impl Iterator<Item = (&'a str, &'a [f64])> {
        self.tensors.iter().filter_map(move |(name, _, values)| {
            Some((name.strip_prefix(prefix)?, values.as_slice()))
        })
    }

    /// The real tokens of a padded matrix, one sequence below the other.
    fn packed(&self, name: &str) -> Option<Vec<f64>> {
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

    pub fn inputs(&self, dtype: DType) -> Inputs {
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

    pub fn targets(&self) -> Targets {
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
                    let label = if (at + 1).is_multiple_of(width) {
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

    pub fn head(&self) -> Head {
        match self.notes["task"].as_str().unwrap() {
            "classification" => Head::Classes(self.find("logits").unwrap().0[1]),
            "regression" => Head::Classes(1),
            "qa" => Head::Span,
            _ => Head::NextToken,
        }
    }

    /// Of the reference in float32, or in float64 for the suffix `64`.
    pub fn logits(&self, suffix: &str) -> Vec<f64> {
        let name = |part: &str| format!("{part}{suffix}");
        match self.head() {
            Head::Classes(_) => self.values(&name("logits")).to_vec(),
            Head::NextToken => self.packed(&name("logits")).unwrap(),
            Head::Span => {
                let both = self.packed(&name("start_logits")).unwrap().into_iter();
                let both = both.zip(self.packed(&name("end_logits")).unwrap());
                both.flat_map(|(first, last)| [first, last]).collect()
            }
        }
    }

    /// The model, nothing drawn and nothing left over; its logits in both types against the
    /// reference's.
    pub fn loaded(&self) -> Loaded {
        let name = self.folder.display();
        let double = self.load(DType::F64);
        let ours = self.outputs(&double, DType::F64);
        let error = distance(&flat(&ours), &self.logits("64"));
        assert!(error < LOGITS64, "{name}: float64 logits differ by {error}");
        let model = self.load(DType::F32);
        assert!(model.drawn.is_empty(), "{name}: {:?}", model.drawn);
        assert!(model.unused.is_empty(), "{name}: {:?}", model.unused);
        let ours = self.outputs(&model, DType::F32);
        let error = distance(&flat(&ours), &self.logits(""));
        assert!(error < LOGITS, "{name}: logits differ by {error}");
        model
    }

    pub fn outputs(&self, model: &Loaded, dtype: DType) -> Tensor {
        let parameters = Gathering::default().finish(dtype, &Device::Cpu).unwrap();
        let tape = Tape::inference(&parameters);
        let pass = Pass {
            tape: &tape,
            modules: &model.modules,
        };
        let inputs = self.inputs(dtype);
        model.architecture.forward(pass, &inputs).unwrap().value
    }

    pub fn load(&self, dtype: DType) -> Loaded {
        Loaded::read(&self.folder, self.head(), 0, dtype, &Device::Cpu).unwrap()
    }
}

pub(crate) fn tensors(path: &Path) -> Vec<(String, Vec<usize>, Vec<f64>)> {
    let bytes = fs::read(path).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    tensors
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
        .collect()
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

pub(super) fn gradients(
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

pub(super) fn everything(model: &mut Loaded, dtype: DType) -> Parameters {
    let mut gathering = Gathering::default();
    model.modules.train(&mut gathering, |_, _| true);
    gathering.finish(dtype, &Device::Cpu).unwrap()
}
