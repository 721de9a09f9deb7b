//! Methods whose ranks move: scores, shrinkage, cuts and pruning in closed form.

use candle_core::Tensor;

use super::*;
use crate::method::allocation::{budget, staying};
use crate::method::prilora::{Rounding, prune, rank_of};
use crate::method::sora::{Shrinkage, shrunk};
use crate::method::{Method, numbers};
use crate::module::{Adapter, Value};

#[test]
fn adalora_allocates_by_score() {
    let budgets: Vec<_> = (0..8).map(|step| budget(step, 1, 6, 72, 36)).collect();
    assert_eq!(budgets, [72, 72, 54, 43, 38, 36, 36, 36]);
    let scores = [vec![1.0, 5.0], vec![3.0, 2.0]];
    assert_eq!(staying(&scores, 2), [[false, true], [true, false]]);
    assert_eq!(staying(&scores, 4), [[true; 2]; 2]);
    // Ties at the threshold go too.
    let scores = [vec![1.0, 1.0], vec![1.0, 4.0]];
    assert_eq!(staying(&scores, 3), [[false, false], [false, true]]);

    let mut run = Run::new(&table(
        "name = \"adalora\"\ninitial_steps = 1\nfinal_steps = 2",
    ));
    // E begins at zero: scores of equals would be ties.
    for (module, adapter) in adapted(&run) {
        let gate = adapter.gate.as_ref().unwrap().parameter().unwrap();
        let values = crate::draw::normal(2, &module.declared.name, 6, 0.1);
        let values = Tensor::new(values.as_slice(), &Device::Cpu).unwrap();
        run.tuned.parameters.set(gate, &values).unwrap();
    }
    let pattern = |run: &Run| -> Vec<bool> {
        let gates = adapted(run).map(|(_, adapter)| adapter.gate.as_ref().unwrap());
        let values = gates.flat_map(|gate| flat(gate.tensor(&run.tuned.parameters)));
        values.map(|value| value != 0.0).collect()
    };
    let count = |run: &Run| pattern(run).into_iter().filter(|stays| *stays).count();
    let (first, target) = (12 * 6, 12 * 4);
    let mut last = Vec::new();
    for step in 0..STEPS {
        run.step();
        let expected = budget(step, 1, STEPS - 2, first, target);
        assert_eq!(count(&run), expected, "step {step}");
        if step > STEPS - 2 {
            assert_eq!(pattern(&run), last, "the pattern is for good");
        }
        last = pattern(&run);
    }
    assert_eq!(count(&run), target);
}

#[test]
fn adalora_scores_are_running_means() {
    let mut run = Run::new(&table(
        "name = \"adalora\"\ninitial_steps = 4\nfinal_steps = 1",
    ));
    let name = format!("{QUERY}.lora_A");
    let mut expected: Option<(Vec<f64>, Vec<f64>)> = None;
    for number in 0..3 {
        run.begin();
        let (_, gradients) = run.pull(None);
        let gradient = flat(gradients.parameter(run.find(&name)).unwrap());
        let values = run.values(&name);
        let made = Made {
            step: at(number),
            rate: 0.0,
            peak: 0.0,
            factor: 0.5,
            gradients: &gradients,
        };
        let Tuned {
            rule,
            modules,
            parameters,
            ..
        } = &mut run.tuned;
        rule.settle(made, modules, parameters).unwrap();
        let zeros = vec![0.0; values.len()];
        let (mut mean, mut spread) = expected.unwrap_or((zeros.clone(), zeros));
        for at in 0..values.len() {
            let now = (0.5 * values[at] * gradient[at]).abs();
            mean[at] = 0.85 * mean[at] + 0.15 * now;
            spread[at] = 0.85 * spread[at] + 0.15 * (now - mean[at]).abs();
        }
        expected = Some((mean, spread));
    }
    let state: BTreeMap<_, _> = run.tuned.rule.state().into_iter().collect();
    let (mean, spread) = expected.unwrap();
    assert!(relative(&flat(&state[&format!("{QUERY}.sensitivity_A")]), &mean) < 1e-9);
    assert!(relative(&flat(&state[&format!("{QUERY}.uncertainty_A")]), &spread) < 1e-9);
}

#[test]
fn sora_shrinks_in_two_ways() {
    let t = 0.25;
    for (gate, proximal, code) in [
        (0.5, 0.0, 0.0),
        (1.0, 0.0, 1.0),
        (1.5, 0.5, 0.0),
        (2.0, 1.0, 1.0),
        (3.0, 2.0, 2.0),
    ] {
        for sign in [1.0, -1.0] {
            let of = |shrinkage| shrunk(sign * gate * t, t, shrinkage);
            assert_eq!(of(Shrinkage::Proximal), sign * proximal * t, "{gate}");
            assert_eq!(of(Shrinkage::Code), sign * code * t, "{gate}");
        }
    }
}

#[test]
fn sora_thresholds_grow_by_rounds() {
    let thresholds = |spacing: &str| -> Vec<f64> {
        let text = format!(
            "name = \"sora\"\nthreshold = 1.0\nlast_threshold = 4.0\nrounds = 3\nspacing = \"{spacing}\""
        );
        let Method::Sora(settings) = table(&text).method else {
            panic!("{spacing}")
        };
        (0..STEPS)
            .map(|number| settings.threshold_at(at(number)))
            .collect()
    };
    for (spacing, middle) in [
        ("linear", 2.5),
        ("log-linear", ((1_f64.exp() + 4_f64.exp()) / 2.0).ln()),
        ("exp-linear", 2.0),
    ] {
        let expected = [1.0, 1.0, middle, middle, 4.0, 4.0];
        assert!(
            relative(&thresholds(spacing), &expected) < 1e-15,
            "{spacing}"
        );
    }
}

#[test]
fn sora_without_its_zero_directions_is_the_same() {
    let mut run = Run::new(&table(
        "name = \"sora\"\nshrinkage = \"code\"\nthreshold = 0.1",
    ));
    run.steps(4);
    let outputs = run.outputs();
    let parameters = &run.tuned.parameters;
    let mut removed = 0;
    for module in &mut run.tuned.modules.0 {
        let Some(adapter) = module.adapter.take() else {
            continue;
        };
        let of = |value: &Value| value.tensor(parameters).clone();
        let gate = of(adapter.gate.as_ref().unwrap());
        let kept: Vec<u32> = (0..4)
            .zip(flat(&gate))
            .filter_map(|(at, gate)| (gate != 0.0).then_some(at))
            .collect();
        removed += 4 - kept.len();
        if kept.is_empty() {
            continue;
        }
        let kept = Tensor::new(kept, &Device::Cpu).unwrap();
        let rows = |tensor: Tensor| tensor.index_select(&kept, 0).unwrap();
        let gate = rows(gate).reshape(((), 1)).unwrap();
        let b = rows(of(&adapter.b)).broadcast_mul(&gate).unwrap();
        let a = Value::Frozen(rows(of(&adapter.a)));
        module.adapter = Some(Adapter::of(a, Value::Frozen(b), adapter.scale, 0.0));
    }
    assert!(removed > 0);
    assert!(relative(&run.outputs(), &outputs) < ROUNDING);
}

#[test]
fn dylora_at_its_largest_rank_is_lora() {
    let mut plain = Run::new(&table("name = \"lora\"\nalpha = 8"));
    let mut cut = Run::new(&table("name = \"dylora\"\nalpha = 8\nsmallest = 4"));
    plain.steps(3);
    cut.steps(3);
    assert_eq!(plain.outputs(), cut.outputs());
}

#[test]
fn dylora_leaves_the_other_directions_alone() {
    for frozen in [true, false] {
        let mut run = Run::new(&table(&format!("name = \"dylora\"\nfrozen = {frozen}")));
        let mut seen = Vec::new();
        for _ in 0..STEPS {
            run.begin();
            let adapter = adapted(&run).next().unwrap().1;
            let used = adapter.used.unwrap_or(4);
            assert_eq!(adapter.scale, 4.0 / used as f64);
            seen.push(used);
            let moving = if frozen { used - 1..used } else { 0..used };
            let of = |run: &Run, moments: &Tensor| {
                let b = run
                    .tuned
                    .parameters
                    .part(run.find(&format!("{QUERY}.lora_B")));
                let moments = flat(moments)[b.start..b.start + b.count()].to_vec();
                let values = run.values(&b.name);
                let rows = values.chunks(32).zip(moments.chunks(32));
                rows.map(|(values, moments)| [values, moments].concat())
                    .collect::<Vec<_>>()
            };
            let before = of(&run, &run.optimizer.moments().first.copy().unwrap());
            run.step();
            let after = of(&run, &run.optimizer.moments().first);
            for at in 0..4 {
                assert_eq!(
                    before[at] != after[at],
                    moving.contains(&at),
                    "direction {at}"
                );
            }
        }
        seen.sort_unstable();
        seen.dedup();
        assert!(seen.len() > 1, "{seen:?}");
    }
}

#[test]
fn prilora_ranks_grow_with_depth() {
    let ranks: Vec<_> = (0..12)
        .map(|l| rank_of((4, 12), l, 12, Rounding::Nearest))
        .collect();
    assert_eq!(ranks, [4, 5, 5, 6, 7, 8, 8, 9, 10, 11, 11, 12]);
    assert_eq!(ranks.iter().sum::<usize>(), 12 * 8);
    let run = Run::new(&table(
        "name = \"prilora\"\nrank = 4\nrank_pattern = { key = 1 }",
    ));
    for (module, adapter) in adapted(&run) {
        let name = &module.declared.name;
        let expected = match name {
            name if name.ends_with("key") => 1,
            name if name.contains("layer.0") => 2,
            name if name.contains("layer.1") => 6,
            _ => 4,
        };
        assert_eq!(
            adapter.a.tensor(&run.tuned.parameters).dims()[0],
            expected,
            "{name}"
        );
        assert_eq!(adapter.scale, 1.0);
    }
}

#[test]
fn prilora_prunes_what_matters_least() {
    // |A|·n: 3, 4, 0.5, 8.
    let mut a = [3.0, -1.0, 0.5, 2.0];
    prune(&mut a, &[1.0, 4.0], 0.5);
    assert_eq!(a, [0.0, -1.0, 0.0, 2.0]);
    // Of equals the first go.
    let mut a = [1.0; 5];
    prune(&mut a, &[1.0; 5], 0.5);
    assert_eq!(a, [0.0, 0.0, 1.0, 1.0, 1.0]);

    let mut run = Run::new(&table("name = \"prilora\"\nperiod = 2"));
    let zeros = |run: &Run| -> Vec<(usize, usize)> {
        let factors =
            adapted(run).map(|(_, adapter)| flat(adapter.a.tensor(&run.tuned.parameters)));
        factors
            .map(|a| (a.iter().filter(|a| **a == 0.0).count(), a.len() / 2))
            .collect()
    };
    run.step();
    assert!(zeros(&run).iter().all(|(zeros, _)| *zeros == 0));
    let norms = |run: &Run| flat(&run.tuned.rule.state()[0].1);
    let first = norms(&run);
    run.begin();
    let (_, gradients) = run.pull(Some((7, 1)));
    let id = adapted(&run).next().unwrap().0.id;
    let squares = numbers(gradients.observed(id).unwrap()).unwrap();
    run.step();
    let expected: Vec<_> = first
        .iter()
        .zip(squares)
        .map(|(norm, square)| 0.9 * norm + 0.1 * square.sqrt())
        .collect();
    assert!(relative(&norms(&run), &expected) < ROUNDING);
    assert!(zeros(&run).iter().all(|(zeros, half)| zeros == half));
    // There is no lasting mask.
    run.step();
    assert!(zeros(&run).iter().any(|(zeros, half)| zeros < half));
}
