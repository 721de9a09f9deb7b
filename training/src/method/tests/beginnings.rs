//! What methods begin as, and what the first step does.

use candle_core::Tensor;

use super::*;
use crate::Error;
use crate::engine::parameters::Gathering;

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
        assert!(relative(plus, &expected) < allowed, "{ratio}");
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
