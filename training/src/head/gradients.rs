//! The hand-written gradients against central differences, and what a mask leaves alone.

use candle_core::{Device, Tensor};
use rand::Rng;
use rankwise_data::stream;

use super::model::{Head, Rows};
use crate::{MethodConfig, MethodName, Precision, RunConfig};

const INPUTS: usize = 7;
const OUTPUTS: usize = 5;
const ROWS: usize = 11;
const RANK: usize = 3;
const LAMBDA: f64 = 0.3;

/// Step of the central differences: its square and ε/step are both about 1e-11.
const STEP: f64 = 3e-6;

/// Relative to the largest gradient; errors of the differences stay ten times below.
const TOLERANCE: f64 = 1e-8;

fn config(name: MethodName) -> RunConfig {
    let method = MethodConfig {
        name,
        rank: name.is_low_rank().then_some(RANK),
        // A scale that is not 1.
        alpha: name.is_low_rank().then_some(5.0),
        lambda: name.is_regularised().then_some(LAMBDA),
        ..MethodConfig::default()
    };
    let mut config = RunConfig {
        precision: Precision::F64,
        method,
        ..RunConfig::default()
    };
    config.optimizer.weight_decay = 0.1;
    config.resolved("test", INPUTS, OUTPUTS).unwrap()
}

fn numbers(name: &str, count: usize) -> Vec<f64> {
    let mut rng = stream(5, name, 0);
    (0..count).map(|_| rng.random_range(-1.0..1.0)).collect()
}

/// A head at a random point, with random rows. At the start B would be zero, and with it half of
/// the gradients.
fn problem(name: MethodName) -> (Head, Rows) {
    let device = Device::Cpu;
    let mut head = Head::new(&config(name), INPUTS, OUTPUTS, &device).unwrap();
    let count = head.state().0.elem_count() / 3;
    let mut state = numbers("state", count);
    state.resize(3 * count, 0.0);
    let updates = head.state().1.to_vec();
    head.restore(Tensor::new(state, &device).unwrap(), updates)
        .unwrap();
    let features = Tensor::from_vec(numbers("features", ROWS * INPUTS), (ROWS, INPUTS), &device);
    let labels = (0..ROWS as u32).map(|row| row % OUTPUTS as u32).collect();
    let rows = head.prepare(features.unwrap(), labels).unwrap();
    (head, rows)
}

fn loss(head: &Head, rows: &Rows, lambda: f64) -> f64 {
    let regulariser = head.regulariser().unwrap().unwrap_or(0.0);
    head.score(rows).unwrap().0 / ROWS as f64 + lambda * regulariser
}

fn flat(head: &Head) -> Vec<f64> {
    head.state().0.to_vec1().unwrap()
}

#[test]
fn gradients_agree_with_central_differences() {
    for name in MethodName::ALL {
        let (mut head, rows) = problem(name);
        let lambda = if name.is_regularised() { LAMBDA } else { 0.0 };
        let ours = head.gradients(&rows, None).unwrap().flat();
        let state = flat(&head);
        assert_eq!(ours.len(), state.len() / 3);
        let updates = head.state().1.to_vec();
        let mut at = |index: usize, shift: f64| {
            let mut moved = state.clone();
            moved[index] += shift;
            head.restore(Tensor::new(moved, &Device::Cpu).unwrap(), updates.clone())
                .unwrap();
            loss(&head, &rows, lambda)
        };
        let largest = ours
            .iter()
            .fold(0.0_f64, |largest, value| largest.max(value.abs()));
        for (index, ours) in ours.iter().enumerate() {
            let theirs = (at(index, STEP) - at(index, -STEP)) / (2.0 * STEP);
            let error = (ours - theirs).abs() / largest;
            assert!(
                error < TOLERANCE,
                "{name}, entry {index}: {ours} and {theirs}"
            );
        }
    }
}

#[test]
fn directions_that_are_not_selected_do_not_move() {
    for name in [MethodName::GmLora, MethodName::RmLora] {
        let (mut head, rows) = problem(name);
        let update = config(name).update();
        // Moments first, so that there is something to be moved by.
        let all = head.gradients(&rows, None).unwrap();
        head.apply(&all, None, update).unwrap();
        let before = flat(&head);
        for _ in 0..3 {
            let gradients = head.gradients(&rows, Some(&[0, 2])).unwrap();
            head.apply(&gradients, Some(&[0, 2]), update).unwrap();
        }
        let after = flat(&head);
        let third = before.len() / 3;
        for index in 0..third {
            // A, then Bᵀ, then the bias; direction 1 is the middle row of both.
            let direction = match index {
                i if i < RANK * INPUTS => Some(i / INPUTS),
                i if i < RANK * (INPUTS + OUTPUTS) => Some((i - RANK * INPUTS) / OUTPUTS),
                _ => None,
            };
            for block in 0..3 {
                let at = block * third + index;
                let moved = before[at].to_bits() != after[at].to_bits();
                assert_eq!(
                    moved,
                    direction != Some(1),
                    "{name}, block {block}, entry {index}"
                );
            }
        }
        assert_eq!(head.state().1, [4, 1, 4, 4]);
    }
}

#[test]
fn a_mask_of_every_direction_is_no_mask() {
    let (mut masked, rows) = problem(MethodName::RmLora);
    let (mut plain, _) = problem(MethodName::RmLora);
    let update = config(MethodName::RmLora).update();
    let every = [0, 1, 2];
    for _ in 0..3 {
        let gradients = masked.gradients(&rows, Some(&every)).unwrap();
        masked.apply(&gradients, Some(&every), update).unwrap();
        let gradients = plain.gradients(&rows, None).unwrap();
        plain.apply(&gradients, None, update).unwrap();
    }
    assert_eq!(flat(&masked), flat(&plain));
}

#[test]
fn before_the_first_step_the_head_is_the_frozen_one() {
    let device = Device::Cpu;
    let score = |name: MethodName| {
        let head = Head::new(&config(name), INPUTS, OUTPUTS, &device).unwrap();
        let features = numbers("features", ROWS * INPUTS);
        let features = Tensor::from_vec(features, (ROWS, INPUTS), &device).unwrap();
        head.score(&head.prepare(features, vec![0; ROWS]).unwrap())
            .unwrap()
            .0
    };
    let full = score(MethodName::Full);
    for name in &MethodName::ALL[1..] {
        assert!((score(*name) / full - 1.0).abs() < 1e-14);
    }
}
