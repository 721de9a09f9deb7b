//! Training curves against PyTorch on the same features (`training/reference/head_reference.py`,
//! condensed by `curves.py`): means over seeds within standard errors.

use std::collections::BTreeMap;
use std::path::Path;

use rankwise_training::{EpochRecord, MethodConfig, MethodName, Progress, RunConfig, Task, train};

/// method → epoch → quantity → one value a seed.
type Curves = BTreeMap<MethodName, BTreeMap<String, BTreeMap<String, Vec<f64>>>>;

const SEEDS: u64 = 5;

fn records(name: MethodName, seed: u64, task: &Task) -> Vec<EpochRecord> {
    let method = MethodConfig {
        name,
        rank: name.is_low_rank().then_some(32),
        lambda: name.is_regularised().then_some(1e-3),
        directions: name.is_masked().then_some(16),
        ..MethodConfig::default()
    };
    let config = RunConfig {
        seed,
        method,
        ..RunConfig::default()
    };
    let mut records = Vec::new();
    let observe = |progress: Progress<'_>| {
        if let Progress::Epoch(record) = progress {
            records.push(record.clone());
        }
    };
    train(&config, "test", task, None, observe).unwrap();
    records
}

fn quantity(record: &EpochRecord, name: &str) -> f64 {
    match name {
        "train_loss" => record.train_loss,
        "test_loss" => record.test_loss,
        "train_accuracy" => record.train_accuracy,
        "test_accuracy" => record.test_accuracy,
        "effective_rank" => record.measures.effective_rank.unwrap(),
        "frobenius_norm" => record.measures.frobenius_norm,
        other => panic!("curves.json has an unknown quantity {other}"),
    }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

fn squares(values: &[f64]) -> f64 {
    let mean = mean(values);
    values.iter().map(|value| (value - mean).powi(2)).sum()
}

/// Both programs draw their own numbers, so equal means are expected only within the standard error
/// of their difference, from the pooled deviation of three and five seeds. Of Student's t with 6
/// degrees of freedom a tenth lies beyond 2 and a thousandth beyond 6; the 120 comparisons hang
/// together within a run, so four in five are asked for within 2, and all within 6.
#[test]
fn curves_agree_with_pytorch_within_standard_errors() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("reference/curves.json");
    let curves: Curves = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    assert_eq!(curves.keys().copied().collect::<Vec<_>>(), MethodName::ALL);
    let task = Task::load(&RunConfig::default().task).unwrap();
    let (mut within, mut all) = (0, 0);
    for (method, epochs) in &curves {
        let runs: Vec<_> = (0..SEEDS)
            .map(|seed| records(*method, seed, &task))
            .collect();
        for (epoch, quantities) in epochs {
            let index = epoch.parse::<usize>().unwrap() - 1;
            for (name, theirs) in quantities {
                let ours: Vec<f64> = runs.iter().map(|run| quantity(&run[index], name)).collect();
                let (n, m) = (ours.len() as f64, theirs.len() as f64);
                let pooled = (squares(&ours) + squares(theirs)) / (n + m - 2.0);
                let error = (pooled * (1.0 / n + 1.0 / m)).sqrt();
                let t = (mean(&ours) - mean(theirs)).abs() / error;
                let (ours, theirs) = (mean(&ours), mean(theirs));
                println!("{method} epoch {epoch} {name}: {ours:.4} and {theirs:.4}, t = {t:.2}");
                assert!(
                    t < 6.0,
                    "{method}, epoch {epoch}, {name}: {ours} and {theirs}, t = {t}"
                );
                within += usize::from(t <= 2.0);
                all += 1;
            }
        }
    }
    assert!(
        within * 5 >= all * 4,
        "{within} of {all} within two standard errors"
    );
}
