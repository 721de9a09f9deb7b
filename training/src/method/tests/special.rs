//! Each method's own rule in closed form.

use candle_core::Tensor;
use ndarray::Array2;
use rankwise_analysis::linalg::singular_values;

use super::*;
use crate::Error;
use crate::engine::parameters::Gathering;
use crate::method::allocation::{budget, staying};
use crate::method::prilora::{Rounding, prune, rank_of};
use crate::method::sora::{Shrinkage, shrunk};
use crate::method::{Level, Method, numbers};
use crate::module::{Adapter, Module, Value};

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

fn message(text: &str) -> String {
    let case = Case::read("bert-cls");
    let outcome = toml::from_str::<MethodTable>(text).map_err(|error| error.to_string());
    let table = match outcome {
        Ok(table) => table,
        Err(message) => return message,
    };
    let loaded = case.load(DType::F64);
    match Tuned::new(loaded, &table, 7, DType::F64, &Device::Cpu) {
        Ok(_) => panic!("{text} was taken"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn settings_out_of_range_are_named() {
    for (text, part) in [
        ("name = \"loraa\"", "\"lora\""),
        ("name = \"lora\"\nratio = 2.0", "ratio"),
        (
            "name = \"lora\"\nrank = 40",
            "method.rank: expected between 1 and 32",
        ),
        ("name = \"lora\"\nrank = 0", "found 0"),
        (
            "name = \"lora\"\nalpha = -1.0",
            "method.alpha: expected above 0",
        ),
        (
            "name = \"lora\"\ntargets = [\"classifier\"]",
            "the head trains as it is",
        ),
        ("name = \"lora\"\ntargets = [\"querry\"]", "query"),
        (
            "name = \"lora\"\ntrain_also = [\"query\"]",
            "method.train_also",
        ),
        ("name = \"lora-plus\"\nratio = 0.0", "method.ratio"),
        (
            "name = \"vera\"\nalpha = 2.0",
            "method.alpha: expected nothing",
        ),
        (
            "name = \"vera\"\nrank_pattern = { query = 2 }",
            "method.rank_pattern",
        ),
        ("name = \"adalora\"\nbeta1 = 1.0", "method.beta1"),
        (
            "name = \"adalora\"\nfirst_rank = 4",
            "method.first_rank: expected at least the rank 8",
        ),
        ("name = \"adalora\"\nperiod = 0", "method.period"),
        ("name = \"sora\"\nrounds = 0", "method.rounds"),
        ("name = \"sora\"\nthreshold = -1.0", "method.threshold"),
        (
            "name = \"dylora\"\nsmallest = 9",
            "method.smallest: expected between 1 and the largest rank 8",
        ),
        ("name = \"prilora\"\npruned = 1.0", "method.pruned"),
        (
            "name = \"delta-lora\"\ndropout = 0.1",
            "method.dropout: expected 0",
        ),
        (
            "name = \"bilora\"\nsecond_share = 1.0",
            "method.second_share",
        ),
        (
            "name = \"bitfit\"\ncomponents = [\"nothing\"]",
            "method.components",
        ),
        ("name = \"rm-lora\"\ndirections = 9", "method.directions"),
        ("name = \"rm-lora\"\nlambda = -1.0", "method.lambda"),
    ] {
        let message = message(text);
        assert!(message.contains(part), "{text}: {message}");
    }
}

#[test]
fn ranks_and_scales_follow_patterns() {
    let text = "name = \"rs-lora\"\nrank = 4\nalpha = 8\nrank_pattern = { query = 2, '.*layer\\.1\\..*' = 3 }\n\
                alpha_pattern = { key = 5.0 }\ntargets = ['.*attention\\.self\\..*', \"word_embeddings\"]";
    let run = Run::new(&table(text));
    let found: Vec<_> = adapted(&run)
        .map(|(module, adapter)| {
            let rank = adapter.a.tensor(&run.tuned.parameters).dims()[0];
            let short = module.declared.name.rsplit('.').next().unwrap();
            (short, rank, adapter.scale)
        })
        .collect();
    let root = |rank: f64| rank.sqrt();
    // Patterns are tried in the order of their text: the expression comes before the name.
    let expected = [
        ("word_embeddings", 4, 8.0 / root(4.0)),
        ("query", 2, 8.0 / root(2.0)),
        ("key", 4, 5.0 / root(4.0)),
        ("value", 4, 8.0 / root(4.0)),
        ("query", 3, 8.0 / root(3.0)),
        ("key", 3, 5.0 / root(3.0)),
        ("value", 3, 8.0 / root(3.0)),
    ];
    assert_eq!(found, expected);
}

#[test]
fn lora_begins_with_a_gradient_of_b_alone() {
    let run = Run::new(&table("name = \"lora\""));
    let (_, gradients) = run.pull(None);
    for (id, part) in run.tuned.parameters.parts() {
        let gradient = flat(gradients.parameter(id).unwrap());
        let is_zero = gradient.iter().all(|g| *g == 0.0);
        assert_eq!(is_zero, part.name.ends_with("lora_A"), "{}", part.name);
    }
}

#[test]
fn vera_begins_with_a_gradient_of_b_alone() {
    let run = Run::new(&table("name = \"vera\""));
    let (_, gradients) = run.pull(None);
    for (id, part) in run.tuned.parameters.parts() {
        let gradient = flat(gradients.parameter(id).unwrap());
        let is_zero = gradient.iter().all(|g| *g == 0.0);
        assert_eq!(
            is_zero,
            part.name.ends_with("vera_lambda_d"),
            "{}",
            part.name
        );
    }
}

#[test]
fn bitfit_trains_biases() {
    let names = |text: &str| {
        let run = Run::new(&table(text));
        let parts = run.tuned.parameters.parts();
        parts.map(|(_, part)| part.name.clone()).collect::<Vec<_>>()
    };
    let all = names("name = \"bitfit\"");
    let head = ["classifier.weight", "classifier.bias"];
    let (own, rest): (Vec<_>, Vec<_>) = all
        .into_iter()
        .partition(|name| !head.contains(&name.as_str()));
    assert!(own.iter().all(|name| name.ends_with(".bias")));
    // Two layers of six linear layers and two norms, one norm before them, and the pooler.
    assert_eq!((own.len(), rest.len()), (18, 2));
    let queries = names("name = \"bitfit\"\ncomponents = [\"query\"]");
    let expected = [
        "bert.encoder.layer.0.attention.self.query.bias",
        "bert.encoder.layer.1.attention.self.query.bias",
        "bert.pooler.dense.bias",
        "classifier.weight",
        "classifier.bias",
    ];
    assert_eq!(queries, expected);
    // A part of the name: the attention's output too, and both norms after an output.
    let outputs = names("name = \"bitfit\"\ncomponents = [\"output\"]");
    assert_eq!(outputs.len(), 2 * 4 + 3);

    let mut modules = Case::read("bert-cls").load(DType::F64).modules;
    for module in &mut modules.0 {
        module.declared.has_bias = false;
        module.bias = None;
    }
    let table = table("name = \"bitfit\"");
    let rule = table.method.rule(&table.common).unwrap();
    let outcome = rule.choose(&mut modules, &mut Gathering::default());
    assert!(matches!(outcome, Err(Error::Setting { .. })), "{outcome:?}");
}

#[test]
fn lora_plus_multiplies_the_step_of_b() {
    let targets = "targets = [\"query\", \"word_embeddings\"]\n";
    let changes = |text: &str| {
        let run = Run::new(&table(&format!("{text}\n{targets}")));
        let parameters = &run.tuned.parameters;
        for (id, part) in parameters.parts() {
            let values = crate::draw::normal(1, &part.name, part.count(), 0.1);
            let values = Tensor::from_vec(values, part.shape.as_slice(), &Device::Cpu).unwrap();
            parameters.set(id, &values).unwrap();
        }
        let (_, gradients) = run.pull(None);
        let before = parameters.values().copy().unwrap();
        let rule = Rule::Sgd {
            momentum: 0.0,
            decay: 0.0,
        };
        let optimizer = Optimizer::new(rule, parameters, |_| false).unwrap();
        let mut optimizer = optimizer.with_peak(0.5);
        // Half of the peak: rates of their own follow the schedule.
        optimizer
            .step(parameters, &gradients, |_| None, 0.25, 1.0)
            .unwrap();
        let change = flat(&(parameters.values() - before).unwrap());
        let of = |name: &str| {
            let part = parameters.part(run.find(name));
            change[part.start..part.start + part.count()].to_vec()
        };
        let words = "bert.embeddings.word_embeddings";
        [
            of(&format!("{QUERY}.lora_A")),
            of(&format!("{QUERY}.lora_B")),
            of("classifier.bias"),
            of("classifier.weight"),
            of(&format!("{words}.lora_A")),
            of(&format!("{words}.lora_B")),
        ]
    };
    let plain = changes("name = \"lora\"");
    let plus = changes("name = \"lora-plus\"\nratio = 4.0");
    let ratios = [1.0, 4.0, 4.0, 1.0, 1e-6 / 0.5, 1e-6 / 0.5];
    for ((plain, plus), ratio) in plain.iter().zip(&plus).zip(ratios) {
        let expected: Vec<_> = plain.iter().map(|change| change * ratio).collect();
        // A change of 10⁻⁸ is a difference of numbers near 0.1.
        let allowed = if ratio < 1e-3 { 1e-6 } else { 1e-11 };
        assert!(relative(&plus, &expected) < allowed, "{ratio}");
    }
}

#[test]
fn a_rate_of_its_own_needs_the_peak() {
    let run = Run::new(&table("name = \"sora\"\ngate_rate = 0.1"));
    let (_, gradients) = run.pull(None);
    let mut optimizer = Optimizer::new(
        Rule::Sgd {
            momentum: 0.0,
            decay: 0.0,
        },
        &run.tuned.parameters,
        |_| false,
    )
    .unwrap();
    let outcome = optimizer.step(&run.tuned.parameters, &gradients, |_| None, 0.1, 1.0);
    assert!(outcome.unwrap_err().to_string().contains("peak"));
}

#[test]
fn pissa_takes_the_largest_directions() {
    let base = Case::read("bert-cls").load(DType::F64).modules;
    let run = Run::new(&table("name = \"pissa\"\nalpha = 8"));
    let parameters = &run.tuned.parameters;
    for (module, adapter) in adapted(&run) {
        let (a, b) = (adapter.a.tensor(parameters), adapter.b.tensor(parameters));
        let s = adapter.scale;
        let original = base[module.id].weight.tensor(parameters);
        let rest = module.weight.tensor(parameters);
        let whole = (rest + (b.t().unwrap().matmul(a).unwrap() * s).unwrap()).unwrap();
        assert!(relative(&flat(&whole), &flat(original)) < ROUNDING);
        let sigma = spectrum(original);
        assert!((spectrum(rest)[0] / sigma[4] - 1.0).abs() < ROUNDING * 100.0);
        for factor in [a, b] {
            let gram = flat(&factor.matmul(&factor.t().unwrap()).unwrap());
            let expected: Vec<f64> = (0..16)
                .map(|at| if at % 5 == 0 { sigma[at / 5] / s } else { 0.0 })
                .collect();
            assert!(relative(&gram, &expected) < ROUNDING * 100.0);
        }
    }
}

#[test]
fn olora_takes_the_first_columns() {
    let base = Case::read("bert-cls").load(DType::F64).modules;
    let run = Run::new(&table("name = \"olora\"\nalpha = 8"));
    let parameters = &run.tuned.parameters;
    for (module, adapter) in adapted(&run) {
        let (a, b) = (adapter.a.tensor(parameters), adapter.b.tensor(parameters));
        let original = base[module.id].weight.tensor(parameters);
        let rest = module.weight.tensor(parameters);
        let product = b.t().unwrap().matmul(a).unwrap();
        let whole = (rest + (&product * adapter.scale).unwrap()).unwrap();
        assert!(relative(&flat(&whole), &flat(original)) < ROUNDING);
        // The first four columns of W are in B's span: Q R of them is all there is.
        let columns =
            |tensor: &Tensor| flat(&tensor.narrow(1, 0, 4).unwrap().contiguous().unwrap());
        assert!(relative(&columns(&product), &columns(original)) < ROUNDING);
        let gram = flat(&b.matmul(&b.t().unwrap()).unwrap());
        let identity: Vec<f64> = (0..16).map(|at| f64::from(u8::from(at % 5 == 0))).collect();
        assert!(relative(&gram, &identity) < ROUNDING);
        let a = matrix(a);
        assert!((0..4).all(|row| (0..row).all(|column| a[(row, column)] == 0.0)));
    }
}

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
    let (first, target) = (13 * 6, 13 * 4);
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
    let run = Run::new(&table("name = \"prilora\"\nrank_pattern = { key = 1 }"));
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

#[test]
fn delta_lora_telescopes() {
    let mut run = Run::new(&table(
        "name = \"delta-lora\"\nstart = 1\nlambda = 3.0\nalpha = 8",
    ));
    let product = |run: &Run| {
        let of = |part: &str| {
            run.tuned
                .parameters
                .view(run.find(&format!("{QUERY}.{part}")))
        };
        of("lora_B").t().unwrap().matmul(of("lora_A")).unwrap()
    };
    let weight = |run: &Run| {
        let (module, _) = adapted(run).next().unwrap();
        assert_eq!(module.declared.name, QUERY);
        module.weight.tensor(&run.tuned.parameters).clone()
    };
    let base = weight(&run);
    let mut expected = base.clone();
    for number in 0..STEPS {
        let before = product(&run);
        run.step();
        if number > 1 {
            let change = (product(&run) - before).unwrap();
            expected = (expected + (change * (3.0 * 2.0)).unwrap()).unwrap();
        }
        assert!(relative(&flat(&weight(&run)), &flat(&expected)) < ROUNDING);
        let is_same = flat(&weight(&run)) == flat(&base);
        assert_eq!(is_same, number <= 1);
    }
    // The weight's change and the branch together: rank 2R at most, here 8 of 32, and more than R.
    let branch = (product(&run) * 2.0).unwrap();
    let whole = ((weight(&run) - base).unwrap() + branch).unwrap();
    let sigma = spectrum(&whole);
    assert!(
        sigma[8] < 1e-12 * sigma[0] && sigma[4] > 1e-6 * sigma[0],
        "{sigma:?}"
    );
}

#[test]
fn bilora_moves_one_level_at_a_time() {
    let mut run = Run::new(&table(
        "name = \"bilora\"\ninner_steps = 2\nsecond_share = 0.3",
    ));
    assert_eq!(run.tuned.rule.split(), Some(0.3));
    for number in 0..STEPS {
        let level = run.tuned.rule.level(at(number));
        assert_eq!(level == Level::Second, number % 3 == 2);
        let values = |run: &Run| {
            let parts = run.tuned.parameters.parts();
            let moments = run.optimizer.moments();
            parts
                .map(|(id, part)| {
                    let first = moments.first.narrow(0, part.start, part.count()).unwrap();
                    let both = [flat(run.tuned.parameters.view(id)), flat(&first)];
                    (
                        part.name.clone(),
                        both.concat(),
                        moments.updates[id.index()].clone(),
                    )
                })
                .collect::<Vec<_>>()
        };
        let before = values(&run);
        run.step();
        for ((name, before, updates), (_, after, updates_after)) in
            before.into_iter().zip(values(&run))
        {
            let moves = name.ends_with("lora_lambda") == (level == Level::Second);
            assert_eq!(before != after, moves, "step {number}: {name}");
            assert_eq!(updates != updates_after, moves, "step {number}: {name}");
        }
    }
}

#[test]
fn unselected_directions_stay_or_drift() {
    for (unselected, drifts) in [("still", false), ("moments", true)] {
        let text = format!("name = \"rm-lora\"\ndirections = 2\nunselected = \"{unselected}\"");
        let mut run = Run::new(&table(&text));
        let name = format!("{QUERY}.lora_B");
        let part = run.tuned.parameters.part(run.find(&name)).clone();
        let rows = |run: &Run| {
            let first = run.optimizer.moments().first;
            let first = flat(&first)[part.start..part.start + part.count()].to_vec();
            let values = run.values(&name);
            let rows = values.chunks(32).zip(first.chunks(32));
            rows.map(|(v, m)| (v.to_vec(), m.to_vec()))
                .collect::<Vec<_>>()
        };
        let mut met = 0;
        let mut moved = [false; 4];
        for _ in 0..STEPS {
            let before = rows(&run);
            run.begin();
            let moving = adapted(&run).next().unwrap().1.moving.clone().unwrap();
            assert_eq!(moving.len(), 2);
            run.step();
            let after = rows(&run);
            for at in 0..4 {
                if moving.contains(&(at as u32)) {
                    moved[at] = true;
                    assert_ne!(before[at].0, after[at].0);
                } else if moved[at] {
                    met += 1;
                    assert_eq!(before[at].0 != after[at].0, drifts, "{unselected}");
                    let kept = if drifts { 0.9 } else { 1.0 };
                    let expected: Vec<_> = before[at].1.iter().map(|m| kept * m).collect();
                    assert_eq!(after[at].1, expected, "{unselected}");
                } else {
                    assert_eq!(before[at], after[at]);
                }
            }
        }
        assert!(met > 0);
    }
}

#[test]
fn masks_are_drawn_once_an_epoch_if_asked() {
    let masks = |period: &str| -> Vec<Vec<Vec<u32>>> {
        let text = format!("name = \"gm-lora\"\ndirections = 2\nmask = \"{period}\"");
        let mut run = Run::new(&table(&text));
        (0..STEPS)
            .map(|number| {
                run.next = number;
                run.begin();
                adapted(&run)
                    .map(|(_, adapter)| adapter.moving.clone().unwrap())
                    .collect()
            })
            .collect()
    };
    let by_step = masks("step");
    assert!(by_step.windows(2).all(|pair| pair[0] != pair[1]));
    let by_epoch = masks("epoch");
    for (number, pair) in by_epoch.windows(2).enumerate() {
        assert_eq!(pair[0] == pair[1], number % 2 == 0);
    }
}

#[test]
fn methods_have_words_of_peft() {
    let keys = |text: &str| {
        let mut run = Run::new(&table(text));
        run.begin();
        let peft = run.tuned.rule.peft();
        let keys: BTreeMap<_, _> = peft.keys.into_iter().collect();
        (peft.kind, keys)
    };
    let (kind, own) = keys("name = \"rs-lora\"");
    assert!(kind.is_none() && own["use_rslora"] == true);
    let (_, own) = keys("name = \"dora\"");
    assert!(own["use_dora"] == true);
    let (_, own) = keys("name = \"olora\"");
    assert_eq!(own["init_lora_weights"], "olora");
    let (kind, own) = keys("name = \"adalora\"\ninitial_steps = 1\nfinal_steps = 2");
    assert_eq!(kind, Some("ADALORA"));
    let of = |key: &str| own[key].as_u64();
    let found = [
        "init_r",
        "target_r",
        "tinit",
        "tfinal",
        "deltaT",
        "total_step",
    ]
    .map(of);
    assert_eq!(found, [6, 4, 1, 2, 1, STEPS].map(Some));
    let (kind, own) = keys("name = \"vera\"\nprojection_key = 5");
    assert_eq!(kind, Some("VERA"));
    assert_eq!(own["projection_prng_key"], 5);
}
