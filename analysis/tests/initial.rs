//! Less the adapter as it was before training.

mod support;

use rankwise_analysis::{Audit, AuditOptions, audit};
use serde_json::json;
use support::{Tensors, folder, tensor};

/// Dimensions times units in the last place of the largest value.
const ROUNDING: f64 = 1e-12;

/// A LoKr module `q` with these diagonals as its sides.
fn kronecker(left: &[f32], right: &[f32]) -> Tensors<'static> {
    let square = |name, diagonal: &[f32]| {
        let n = diagonal.len();
        let mut values = vec![0.0; n * n];
        for (i, &value) in diagonal.iter().enumerate() {
            values[i * n + i] = value;
        }
        tensor(name, &[n, n], &values)
    };
    let mut tensors = square("base_model.model.q.lokr_w1", left);
    tensors.extend(square("base_model.model.q.lokr_w2", right));
    tensors
}

fn less(trained: &Tensors, initial: &Tensors) -> Audit {
    let config = json!({ "peft_type": "LOKR", "r": 4, "alpha": 8 });
    let (trained, initial) = (
        folder(trained, Some(config.clone())),
        folder(initial, Some(config)),
    );
    let options = AuditOptions {
        initial: Some(initial.path().to_path_buf()),
        ..AuditOptions::default()
    };
    audit(trained.path(), &options).unwrap()
}

fn wave(n: usize, step: f32) -> Vec<f32> {
    (0..n).map(|i| (i as f32 * step).sin() + 1.5).collect()
}

/// 512 × 512 for 2,560 numbers: two Kronecker products that share nothing are of full rank together.
#[test]
fn kronecker_products_that_share_nothing_are_taken_apart() {
    let sides = [wave(16, 0.7), wave(32, 0.3), wave(16, 0.2), wave(32, 0.9)];
    let [left, right, left0, right0] = &sides;
    let found = less(&kronecker(left, right), &kronecker(left0, right0));
    let module = &found.adapters[0].modules[0];
    assert_eq!((module.shape, module.rank_budget), ((512, 512), 1024));
    let product =
        |x: &[f32], y: &[f32], at: (usize, usize)| f64::from(x[at.0]) * f64::from(y[at.1]);
    let places = (0..16).flat_map(|i| (0..32).map(move |j| (i, j)));
    let entry = |at| module.scale * (product(left, right, at) - product(left0, right0, at));
    let mut expected: Vec<f64> = places.map(|at| entry(at).abs()).collect();
    expected.sort_by(|x, y| y.total_cmp(x));
    let sigma = &module.spectrum.as_ref().unwrap().singular_values;
    assert_eq!(sigma.len(), 512);
    for (found, expected_one) in sigma.iter().zip(&expected) {
        let error = (found - expected_one).abs();
        assert!(error <= ROUNDING * expected[0], "{found} {expected_one}");
    }
}

/// A module that was not trained has a zero update, to the last bit.
#[test]
fn what_did_not_change_is_zero() {
    let (left, right) = (wave(16, 0.7), wave(32, 0.3));
    let same = less(&kronecker(&left, &right), &kronecker(&left, &right));
    let spectrum = same.adapters[0].modules[0].spectrum.as_ref().unwrap();
    assert!(spectrum.singular_values.iter().all(|&x| x == 0.0));
    assert_eq!(same.adapters[0].findings[0].kind.name(), "zero_update");
}

/// A small file may not ask for any matrix: 16384 × 16384 needs a base model of that size.
#[test]
fn a_difference_beyond_memory_is_refused() {
    let (one, other) = (wave(128, 0.7), wave(128, 0.3));
    let found = less(&kronecker(&one, &one), &kronecker(&other, &other));
    assert!(found.adapters.is_empty());
    let expected = "the difference from the initial adapter: expected at most 67108864 numbers or a \
                    base weight of its size (--base), found 16384 x 16384";
    assert_eq!(found.refused[0].reason, expected);
}
