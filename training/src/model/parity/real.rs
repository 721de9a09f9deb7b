//! Real checkpoints. They are not part of the repository: tests look for them and skip, with the
//! reason printed, where they are not.

use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};

use super::case::{Case, LOGITS, distance, everything, flat, gradients, tensors};
use crate::engine::parameters::Gathering;
use crate::engine::{Lengths, Tape};
use crate::model::{Head, Inputs, Loaded, Pass};

/// `path`, or `None` with the reason printed.
fn present(path: PathBuf) -> Option<PathBuf> {
    if path.exists() {
        return Some(path);
    }
    eprintln!("skipped: no {}", path.display());
    None
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// A file or folder of the folder that `RANKWISE_SHARED` names, or of `shared` beside the
/// repository.
fn shared(path: &str) -> Option<PathBuf> {
    let beside = || repository().join("../shared");
    let shared = std::env::var_os("RANKWISE_SHARED").map_or_else(beside, PathBuf::from);
    present(shared.join(path))
}

/// MiniLM at full size: logits, loss and the length of every gradient. The folder is named by
/// `RANKWISE_MINILM`, or is `target/minilm`.
#[test]
fn minilm() {
    /// Of a gradient's length, relative: sums over many more numbers than in the small cases.
    const LENGTH: f64 = 1e-4;

    let target = || repository().join("target/minilm");
    let folder = std::env::var_os("RANKWISE_MINILM").map_or_else(target, PathBuf::from);
    let Some(folder) = present(folder) else {
        return;
    };
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models");
    let case = Case::classifying(folder, tensors(&fixtures.join("minilm.safetensors")));
    let dtype = DType::F32;
    let mut model = case.load(dtype);
    assert_eq!(model.drawn, ["classifier.weight", "classifier.bias"]);
    assert!(model.unused.is_empty(), "{:?}", model.unused);
    case.put_head(&mut model, dtype);
    let inputs = case.inputs(dtype);
    let error = distance(&flat(&case.outputs(&model, dtype)), &case.logits(""));
    assert!(error < LOGITS, "logits differ by {error}");

    let parameters = everything(&mut model, dtype);
    let (loss, gradients) = gradients(&model, &parameters, &inputs, &case.targets());
    assert!((loss - case.values("loss")[0]).abs() < 1e-5, "loss {loss}");
    let mut compared = 0;
    for (id, part) in parameters.parts() {
        let theirs = case.values(&format!("norm64.{}", part.name))[0];
        let ours = gradients.parameter(id).map(flat).unwrap_or_default();
        let ours = ours.iter().map(|value| value * value).sum::<f64>().sqrt();
        // A key's bias has no gradient but rounding.
        let allowed = LENGTH * theirs + 1e-6;
        assert!(
            (ours - theirs).abs() < allowed,
            "{}: {ours} against {theirs}",
            part.name
        );
        compared += 1;
    }
    assert_eq!(compared, case.with_prefix("norm64.").count());
}

/// Two small vision transformers without a configuration, on 500 images of CIFAR-10's test set: the
/// images that an independent PyTorch pass (`tests/fixtures/models/small_vit.py`) gets right, and
/// the logits that it has for the first. With other numbers of heads it gets at most 310 and 219
/// right.
#[test]
fn small_vision_transformers() {
    /// Images whose two largest logits may change places in another order of summation.
    const TIES: i64 = 2;
    /// Of a logit, absolute: they are given to four decimals.
    const PRINTED: f64 = 2e-4;

    let Some(sample) = shared("data/cifar10_sample/test_50_per_class_from_jpeg.bin") else {
        return;
    };
    let records = std::fs::read(sample).unwrap();
    let (labels, pixels): (Vec<_>, Vec<_>) = records
        .chunks_exact(3073)
        .map(|record| (usize::from(record[0]), &record[1..]))
        .unzip();
    let models = [
        (
            "vit-cifar10-d128-l6",
            [0.4914, 0.4822, 0.4465],
            [0.2023, 0.1994, 0.2010],
            335,
            [4.8609, 1.2514, -0.4918],
        ),
        (
            "vit-cifar10-d64-l4",
            [0.0; 3],
            [1.0; 3],
            253,
            [7.1608, -6.2569, 2.8998],
        ),
    ];
    for (name, mean, deviation, known, first) in models {
        let Some(folder) = shared(&format!("data/models/{name}")) else {
            return;
        };
        let model = Loaded::read(&folder, Head::Classes(10), 0, DType::F32, &Device::Cpu).unwrap();
        assert!(model.drawn.is_empty(), "{:?}", model.drawn);
        assert!(model.unused.is_empty(), "{:?}", model.unused);
        let values: Vec<f32> = pixels
            .iter()
            .flat_map(|image| image.iter().enumerate())
            .map(|(at, value)| {
                let channel = at / 1024;
                ((f64::from(*value) / 255.0 - mean[channel]) / deviation[channel]) as f32
            })
            .collect();
        let shape = (labels.len(), 3, 32, 32);
        let inputs = Inputs {
            ids: Vec::new(),
            types: Vec::new(),
            lengths: Lengths::new(vec![1; labels.len()]),
            pixels: Some(Tensor::from_vec(values, shape, &Device::Cpu).unwrap()),
        };
        let parameters = Gathering::default()
            .finish(DType::F32, &Device::Cpu)
            .unwrap();
        let tape = Tape::inference(&parameters);
        let pass = Pass {
            tape: &tape,
            modules: &model.modules,
        };
        let logits = flat(&model.architecture.forward(pass, &inputs).unwrap().value);
        let error = distance(&logits[..3], &first);
        assert!(error < PRINTED, "{name}: logits differ by {error}");
        let right = logits.chunks_exact(10).zip(&labels).filter(|(row, label)| {
            let largest = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            row[**label] == largest
        });
        let right = right.count() as i64;
        assert!((right - known).abs() <= TIES, "{name}: {right} right");
    }
}
