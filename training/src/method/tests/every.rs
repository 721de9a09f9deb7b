//! What holds for all methods.

use candle_core::Tensor;

use super::*;
use crate::engine::host::elsewhere;
use crate::method::{Method, numbers};
use crate::module::{Module, Modules, Squash, Value};

/// Of a forward pass in float64 against the same in another order.
const ROUNDING: f64 = 1e-10;

/// Of a central difference: h² times the third derivative.
const DIFFERENCE: f64 = 2e-6;

/// Units in the last place of the objective that a difference may be off by.
const LAST_PLACES: f64 = 8.0;

/// The map of a module with its update as one matrix, by the definition.
pub(super) fn merged(module: &Module, parameters: &Parameters) -> Option<Tensor> {
    let adapter = module.adapter.as_ref()?;
    let of = |value: &Value| flat(value.tensor(parameters));
    let weight = module
        .declared
        .matrix(module.weight.tensor(parameters))
        .unwrap();
    let (outputs, inputs) = weight.dims2().unwrap();
    let mut whole = flat(&weight.contiguous().unwrap());
    let (a, b) = (of(&adapter.a), of(&adapter.b));
    let rank = a.len() / inputs;
    let mut gate = adapter.gate.as_ref().map_or(vec![1.0; rank], of);
    match adapter.squash {
        Squash::None => {}
        Squash::Sigmoid => gate.iter_mut().for_each(|g| *g = 1.0 / (1.0 + (-*g).exp())),
        Squash::Softmax => {
            let sum: f64 = gate.iter().map(|g| g.exp()).sum();
            gate.iter_mut().for_each(|g| *g = g.exp() / sum);
        }
    }
    let output_gate = adapter.output_gate.as_ref().map_or(vec![1.0; outputs], of);
    for i in 0..outputs {
        for k in 0..adapter.used.unwrap_or(rank) {
            let factor = adapter.scale * output_gate[i] * b[k * outputs + i] * gate[k];
            for j in 0..inputs {
                whole[i * inputs + j] += factor * a[k * inputs + j];
            }
        }
    }
    if let Some(magnitude) = adapter.magnitude {
        let magnitude = flat(parameters.view(magnitude));
        for (row, magnitude) in whole.chunks_mut(inputs).zip(magnitude) {
            let length = row.iter().map(|x| x * x).sum::<f64>().sqrt();
            row.iter_mut().for_each(|x| *x *= magnitude / length);
        }
    }
    let whole = Tensor::from_vec(whole, (outputs, inputs), &Device::Cpu).unwrap();
    Some(module.declared.stored(&whole).unwrap())
}

/// The same model without updates.
fn merge(modules: &mut Modules, parameters: &Parameters) {
    for module in &mut modules.0 {
        if let Some(weight) = merged(module, parameters) {
            module.weight = Value::Frozen(weight);
            module.adapter = None;
        }
    }
}

#[test]
fn all_are_covered() {
    let covered: Vec<_> = TABLES.map(|text| table(text).method.key()).to_vec();
    for key in Method::KEYS {
        assert!(covered.contains(&key), "{key}");
    }
}

#[test]
fn settings_go_through_toml() {
    for text in TABLES {
        let table = table(text);
        let text = toml::to_string(&table).unwrap();
        assert_eq!(
            toml::from_str::<MethodTable>(&text).unwrap(),
            table,
            "{text}"
        );
    }
}

#[test]
fn nothing_changes_at_the_beginning() {
    let base = Run::new(&table(r#"name = "full""#)).outputs();
    for text in TABLES {
        let error = relative(&Run::new(&table(text)).outputs(), &base);
        assert!(error < ROUNDING, "{text}: {error}");
    }
}

#[test]
fn steps_change_the_output_and_merged_weights_give_the_same() {
    let base = Run::new(&table(r#"name = "full""#)).outputs();
    for text in TABLES {
        let mut run = Run::new(&table(text));
        run.steps(4);
        let outputs = run.outputs();
        assert!(relative(&outputs, &base) > 1e-3, "{text}");
        merge(&mut run.tuned.modules, &run.tuned.parameters);
        let error = relative(&run.outputs(), &outputs);
        assert!(error < ROUNDING, "{text}: {error}");
    }
}

/// Of runs on other devices: there 1/(1 − p) of dropout is a number of float32.
const ELSEWHERE: f64 = 1e-6;

#[test]
fn operations_of_other_devices_make_the_same_steps() {
    for text in TABLES {
        let after = || {
            let mut run = Run::new(&table(text));
            run.steps(4);
            run.outputs()
        };
        let error = relative(&elsewhere::compute(after), &after());
        assert!(error < ELSEWHERE, "{text}: {error}");
    }
}

/// Of runs in float32 against float64: Adam's first steps have the size of the rate however small a
/// gradient is.
const SINGLE: f64 = 2e-3;

#[test]
fn runs_in_single_precision_follow() {
    for text in TABLES {
        let after = |dtype| {
            let mut run = Run::of(&table(text), dtype);
            run.steps(3);
            run.outputs()
        };
        let error = relative(&after(DType::F32), &after(DType::F64));
        assert!(error < SINGLE, "{text}: {error}");
    }
}

#[test]
fn frozen_tensors_keep_their_bits() {
    let frozen = |run: &Run, moves: bool| {
        let modules = run.tuned.modules.0.iter();
        let tensors = modules.flat_map(move |module| {
            let weight = Some(&module.weight).filter(|_| !moves || module.adapter.is_none());
            let bias = module.bias.as_ref();
            let adapter = module.adapter.as_ref();
            let factors = adapter.map(|adapter| [&adapter.a, &adapter.b]);
            [weight, bias]
                .into_iter()
                .flatten()
                .chain(factors.into_iter().flatten())
        });
        tensors
            .filter_map(|value| match value {
                Value::Frozen(tensor) => Some(flat(tensor)),
                Value::Trained(_) => None,
            })
            .collect::<Vec<_>>()
    };
    for text in TABLES {
        let moves = text.contains("delta");
        let mut run = Run::new(&table(text));
        let before = frozen(&run, moves);
        run.steps(4);
        assert_eq!(before, frozen(&run, moves), "{text}");
        assert_eq!(before.is_empty(), text.contains("full"), "{text}");
    }
}

#[test]
fn a_resumed_run_has_the_same_bits() {
    for text in TABLES {
        let dropout = if text.contains("delta") || text.contains("full") || text.contains("bitfit")
        {
            ""
        } else {
            "dropout = 0.1\n"
        };
        let table = table(&format!("{dropout}{text}"));
        let mut through = Run::new(&table);
        through.steps(STEPS);
        for pause in [1, 4] {
            let mut first = Run::new(&table);
            first.steps(pause);
            let (kept, before) = (first.keep(), first.outputs());
            let mut second = Run::new(&table);
            second.resume(kept);
            assert_eq!(second.outputs(), before, "{text}");
            second.steps(STEPS - pause);
            let bits = |run: &Run| numbers(run.tuned.parameters.values()).unwrap();
            assert_eq!(bits(&second), bits(&through), "{text}");
            assert_eq!(second.outputs(), through.outputs(), "{text}");
        }
    }
}

/// Signs of a direction in parameter space.
pub(super) fn direction(count: usize, rows: Option<&[u32]>, width: usize) -> Vec<f64> {
    let mut signs = crate::draw::uniform(1, "direction", count, 1.0);
    for (at, sign) in signs.iter_mut().enumerate() {
        let moves = rows.is_none_or(|rows| rows.contains(&((at / width) as u32)));
        *sign = if moves { sign.signum() } else { 0.0 };
    }
    signs
}

/// Compares every gradient with a central difference along one direction of the rows that move.
fn check_gradients(run: &Run, text: &str, skip: impl Fn(&str) -> bool) {
    const H: f64 = 2e-6;
    let (value, gradients) = run.pull(None);
    let parameters = &run.tuned.parameters;
    let adapters = run
        .tuned
        .modules
        .0
        .iter()
        .filter_map(|module| module.adapter.as_ref());
    let mut rows = moving(&run.tuned.modules);
    for adapter in adapters.filter(|adapter| adapter.drifts) {
        for id in [&adapter.a, &adapter.b]
            .into_iter()
            .filter_map(|value| value.parameter())
        {
            rows.extend(adapter.moving.clone().map(|moving| (id, moving)));
        }
    }
    let mut checked = 0;
    let mut scale = 0.0_f64;
    let mut errors = Vec::new();
    for (id, part) in parameters.parts().filter(|(_, part)| !skip(&part.name)) {
        let Some(gradient) = gradients.parameter(id) else {
            continue;
        };
        let (gradient, values) = (flat(gradient), flat(parameters.view(id)));
        let width = part.count() / part.rows();
        let own = rows.get(&id).map(Vec::as_slice);
        if let Some(own) = own {
            for (at, gradient) in gradient.iter().enumerate() {
                let moves = own.contains(&((at / width) as u32));
                assert!(moves || *gradient == 0.0, "{text}: {} moves", part.name);
            }
        }
        let mut signs = direction(part.count(), own, width);
        if text.contains("\"directions\"") {
            // A row of zeros has no direction, and the term jumps there.
            let rows = signs.chunks_mut(width).zip(values.chunks(width));
            for (signs, _) in rows.filter(|(_, row)| row.iter().all(|value| *value == 0.0)) {
                signs.fill(0.0);
            }
        }
        let at = |h: f64| {
            let moved: Vec<_> = values.iter().zip(&signs).map(|(x, d)| x + h * d).collect();
            let moved = Tensor::from_vec(moved, part.shape.as_slice(), &Device::Cpu).unwrap();
            parameters.set(id, &moved).unwrap();
            run.pull(None).0
        };
        let difference = (at(H) - at(-H)) / (2.0 * H);
        at(0.0);
        let slope: f64 = gradient.iter().zip(&signs).map(|(g, d)| g * d).sum();
        scale = scale.max(slope.abs());
        errors.push((part.name.clone(), slope, difference));
        checked += 1;
    }
    for (name, slope, difference) in errors {
        let rounding = LAST_PLACES * f64::EPSILON * value.abs() / (2.0 * H);
        let allowed = DIFFERENCE * (slope.abs() + 0.01 * scale) + rounding;
        assert!(
            (slope - difference).abs() <= allowed,
            "{text}: {name} has slope {difference}, gradient {slope}"
        );
    }
    assert!(checked > 10, "{text}: {checked}");
}

#[test]
fn gradients_are_slopes() {
    for text in TABLES {
        let mut run = Run::new(&table(text));
        run.batch.parts.truncate(1);
        // B has moved, and both of BiLoRA's levels come.
        run.steps(2);
        for _ in 0..2 {
            run.begin();
            // DoRA's norm is a constant on the way back: see the next test.
            let is_decomposed = text.contains("dora") && !text.contains("norm");
            check_gradients(&run, text, |name| {
                is_decomposed && (name.ends_with("lora_A") || name.ends_with("lora_B"))
            });
            run.step();
        }
    }
}

#[test]
fn decomposed_gradients_are_slopes_with_the_norm_held() {
    let mut run = Run::new(&table("name = \"dora\"\nalpha = 8"));
    run.steps(2);
    let (_, decomposed) = run.pull(None);
    for module in &mut run.tuned.modules.0 {
        let parameters = &run.tuned.parameters;
        let Some(whole) = merged(module, parameters) else {
            continue;
        };
        let inputs = module.declared.inputs();
        let whole = flat(&whole);
        let adapter = module.adapter.as_mut().unwrap();
        adapter.magnitude = None;
        let bare = merged(module, parameters).unwrap();
        let without = flat(&bare);
        let rows = whole.chunks(inputs).zip(without.chunks(inputs));
        let factors: Vec<f64> = rows
            .map(|(scaled, bare)| {
                let at = (0..inputs).max_by(|a, b| bare[*a].abs().total_cmp(&bare[*b].abs()));
                scaled[at.unwrap()] / bare[at.unwrap()]
            })
            .collect();
        let factors = Tensor::from_vec(factors, bare.dim(0).unwrap(), &Device::Cpu).unwrap();
        let weight = module.weight.tensor(parameters);
        let column = factors.reshape(((), 1)).unwrap();
        module.weight = Value::Frozen(weight.broadcast_mul(&column).unwrap());
        module.adapter.as_mut().unwrap().output_gate = Some(Value::Frozen(factors));
    }
    // The linear model with k held: its own gradients are checked by differences, and DoRA's are the same.
    check_gradients(&run, "dora held", |_| false);
    let (_, held) = run.pull(None);
    let mut compared = 0;
    for (id, part) in run.tuned.parameters.parts() {
        if part.name.ends_with("lora_A") || part.name.ends_with("lora_B") {
            let of = |gradients: &Gradients| flat(gradients.parameter(id).unwrap());
            let error = relative(&of(&decomposed), &of(&held));
            assert!(error < 1e-9, "{}: {error}", part.name);
            compared += 1;
        }
    }
    assert_eq!(compared, 24);
}
