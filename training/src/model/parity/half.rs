//! Half precision, which no loop of the CPU is written for: the tensor operations that other devices
//! compute with, against the loops.

use candle_core::{DType, Device, Tensor};

use super::case::{Case, flat, gradients};
use crate::draw::normal;
use crate::engine::Parameters;
use crate::engine::parameters::{Gathering, Treatment};
use crate::model::Loaded;
use crate::module::Adapter;

/// Of a gradient, the length of the difference relative to its own: numbers keep 11 bits, and errors
/// add up over two blocks and back.
const RELATIVE: f64 = 3e-2;

/// Puts a drawn update of rank 2 beside every matrix; the numbers are float32.
fn adapted(model: &mut Loaded) -> Parameters {
    let mut gathering = Gathering::default();
    for module in &mut model.modules.0 {
        let declared = &module.declared;
        if !declared.kind.takes_adapter() || declared.is_head {
            continue;
        }
        let mut draw = |part: &str, width: usize| {
            let name = format!("{}.{part}", declared.name);
            let values = normal(0, &name, 2 * width, 0.3);
            let values = Tensor::from_vec(values, (2, width), &Device::Cpu).unwrap();
            gathering.add(name, values, Treatment::PLAIN)
        };
        let (a, b) = (draw("a", declared.inputs()), draw("b", declared.outputs()));
        module.adapter = Some(Adapter::product(a, b, 0.5, 0.0));
    }
    gathering.finish(DType::F32, &Device::Cpu).unwrap()
}

#[test]
fn half_precision_follows_float32() {
    for name in [
        "bert-cls",
        "roberta-cls",
        "gpt2-cls",
        "gpt2-lm",
        "gpt2-qa",
        "vit-cls",
        "deberta-v3-cls",
        "deberta-own-keys",
        "deberta-conv",
    ] {
        let case = Case::read(name);
        let of = |dtype: DType| {
            let mut model = case.load(dtype);
            let parameters = adapted(&mut model);
            let inputs = case.inputs(dtype);
            let (_, gradients) = gradients(&model, &parameters, &inputs, &case.targets());
            let parts: Vec<_> = parameters
                .parts()
                .map(|(id, part)| (part.name.clone(), gradients.parameter(id).map(flat)))
                .collect();
            parts
        };
        let exact = of(DType::F32);
        let length = |x: &[f64]| x.iter().map(|value| value * value).sum::<f64>().sqrt();
        let whole: Vec<f64> = exact.iter().flat_map(|(_, x)| x.clone().unwrap()).collect();
        for ((name, exact), (_, half)) in exact.into_iter().zip(of(DType::F16)) {
            let (exact, half) = (exact.unwrap(), half.unwrap());
            let difference: Vec<f64> = exact.iter().zip(&half).map(|(a, b)| a - b).collect();
            let allowed = RELATIVE * (length(&exact) + 0.01 * length(&whole));
            let error = length(&difference);
            assert!(error < allowed, "{name}: {error} of {}", length(&exact));
        }
    }
}
