//! Comparing adapters: closed forms, invariances, NumPy and SciPy, nalgebra, simulation, bad input.

mod support;

use std::f64::consts::FRAC_PI_2;
use std::path::{Path, PathBuf};

use nalgebra::DMatrix;
use ndarray::{Array2, Axis, Slice, array};
use ndarray_rand::RandomExt;
use ndarray_rand::rand::SeedableRng;
use ndarray_rand::rand_distr::StandardNormal;
use proptest::prelude::*;
use rand_chacha::ChaCha8Rng;
use rankwise_analysis::linalg::{qr, svd};
use rankwise_analysis::{
    ChanceSimilarity, CompareOptions, Comparison, GridChoice, IntruderRule, Likeness, PairRecord,
    PeftAdapter, SideRecord, compare, principal_angles, subspace_similarity,
};
use serde_json::Value;
use tempfile::TempDir;

/// Some tens of units in the last place: sums over at most a few hundred terms of size one.
const ROUNDING: f64 = 1e-13;

/// Singular vectors of small random matrices: their error is the rounding over the relative gap
/// between neighbouring singular values, which exceeds 1e-3 in the fixtures.
const VECTORS: f64 = 1e-11;

/// Singular vectors of a drawn update whose singular values may lie close together.
const ANY_VECTORS: f64 = 1e-9;

fn normal((rows, columns): (usize, usize), seed: u64) -> Array2<f64> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    Array2::random_using((rows, columns), StandardNormal, &mut rng)
}

/// Uniformly random orthonormal columns, up to their signs.
fn orthonormal(shape: (usize, usize), seed: u64) -> Array2<f64> {
    qr(normal(shape, seed).view()).q
}

fn columns(matrix: &Array2<f64>, range: std::ops::Range<usize>) -> Array2<f64> {
    matrix.slice_axis(Axis(1), Slice::from(range)).to_owned()
}

fn write(folder: &Path, b: &Array2<f64>, a: &Array2<f64>, module: &str) {
    PeftAdapter {
        module: module.to_owned(),
        rank: b.ncols(),
        inputs: a.ncols(),
        outputs: b.nrows(),
        alpha: b.ncols() as f64,
        a: a.iter().map(|&x| x as f32).collect(),
        b: b.iter().map(|&x| x as f32).collect(),
        bias: None,
    }
    .write(folder)
    .unwrap();
}

fn two(one: (&Array2<f64>, &Array2<f64>), other: (&Array2<f64>, &Array2<f64>)) -> Comparison {
    let folder = tempfile::tempdir().unwrap();
    let (first, second) = (folder.path().join("one"), folder.path().join("other"));
    write(&first, one.0, one.1, "q");
    write(&second, other.0, other.1, "q");
    compare(&[first, second], &CompareOptions::default(), |_, _| {}).unwrap()
}

fn sides(pair: &PairRecord) -> [&SideRecord; 2] {
    [pair.left.as_ref().unwrap(), pair.right.as_ref().unwrap()]
}

#[test]
fn an_adapter_is_its_own_equal() {
    let (b, a) = (normal((20, 4), 1), normal((4, 15), 2));
    let found = two((&b, &a), (&b, &a));
    let pair = &found.pairs[0];
    assert!((pair.cosine.unwrap() - 1.0).abs() < ROUNDING);
    assert!(pair.distance.unwrap() < ROUNDING);
    for side in sides(pair) {
        for at in [side.top, side.half, side.all, side.energy_99] {
            assert!((at.phi - 1.0).abs() < ROUNDING, "{at:?}");
        }
        assert_eq!(side.angles.len(), 4);
        assert!(
            side.angles.iter().all(|&angle| angle < ROUNDING),
            "{side:?}"
        );
    }
}

#[test]
fn updates_in_different_coordinates_are_orthogonal() {
    let (b1, b2) = (array![[3.0], [0.0], [0.0]], array![[0.0], [5.0], [0.0]]);
    let (a1, a2) = (array![[0.0, 1.0]], array![[1.0, 0.0]]);
    let found = two((&b1, &a1), (&b2, &a2));
    let pair = &found.pairs[0];
    assert_eq!(pair.cosine, Some(0.0));
    assert!((pair.distance.unwrap() - 1.0).abs() < ROUNDING);
    for side in sides(pair) {
        assert_eq!((side.all.phi, &side.angles[..]), (0.0, &[FRAC_PI_2][..]));
    }
    // The same directions the other way round: opposite, and as far as it goes.
    let found = two((&b1, &a1), (&-&b1, &a1));
    let pair = &found.pairs[0];
    assert_eq!(pair.cosine, Some(-1.0));
    assert!((pair.distance.unwrap() - 2_f64.sqrt()).abs() < ROUNDING);
    assert_eq!(pair.left.as_ref().unwrap().top.phi, 1.0);
}

#[test]
fn a_known_rotation_is_found_however_small() {
    // Two planes of ℝ⁵ with the angles α and β in perpendicular coordinates.
    for (alpha, beta) in [(0.3, 1.2), (1e-9, 1.5), (3e-14, 1e-5), (0.0, FRAC_PI_2)] {
        let rotated = |angle: f64| (angle.cos(), angle.sin());
        let ((c, s), (d, t)) = (rotated(alpha), rotated(beta));
        let first = array![[1.0, 0.0], [0.0, 1.0], [0.0, 0.0], [0.0, 0.0], [0.0, 0.0]];
        let second = array![[c, 0.0], [0.0, d], [s, 0.0], [0.0, t], [0.0, 0.0]];
        // In other coordinates, so that nothing is exactly zero.
        let turn = orthonormal((5, 5), 3);
        let (first, second) = (turn.dot(&first), turn.dot(&second));
        let angles = principal_angles(first.view(), second.view()).unwrap();
        for (found, expected) in angles.iter().zip([alpha, beta]) {
            assert!((found - expected).abs() < 3e-15, "{found:e} {expected:e}");
        }
        let phi = subspace_similarity(first.view(), second.view()).unwrap();
        assert!((phi[(0, 0)] - c * c).abs() < ROUNDING);
        assert!((phi[(1, 1)] - (c * c + d * d) / 2.0).abs() < ROUNDING);
    }
}

#[test]
fn angles_agree_with_nalgebra() {
    for (seed, (r1, r2)) in [(5, (3, 3)), (6, (4, 2)), (7, (1, 5))] {
        let (first, second) = (
            orthonormal((11, r1), seed),
            orthonormal((11, r2), seed + 50),
        );
        let angles = principal_angles(first.view(), second.view()).unwrap();
        let overlap = first.t().dot(&second);
        let overlap = DMatrix::from_fn(r1, r2, |i, j| overlap[(i, j)]);
        let mut cosines: Vec<f64> = overlap
            .svd(false, false)
            .singular_values
            .iter()
            .copied()
            .collect();
        cosines.sort_by(|x, y| y.total_cmp(x));
        assert_eq!(angles.len(), cosines.len());
        for (angle, cosine) in angles.iter().zip(&cosines) {
            assert!((angle.cos() - cosine).abs() < ROUNDING, "{angle} {cosine}");
        }
        // Σcos² is both the numerator of φ and the overlap of the projections.
        let phi = subspace_similarity(first.view(), second.view()).unwrap();
        let whole = phi[(r1 - 1, r2 - 1)] * r1.min(r2) as f64;
        let sum: f64 = cosines.iter().map(|c| c * c).sum();
        assert!((whole - sum).abs() < ROUNDING);
    }
}

/// φ of uniformly random subspaces has the mean and the deviation that are claimed.
#[test]
fn chance_agrees_with_simulation() {
    const DRAWS: u64 = 4000;
    for (d, i, j) in [(12, 1, 1), (12, 3, 3), (20, 2, 7), (9, 5, 4), (6, 6, 2)] {
        let first = orthonormal((d, i), 1);
        let values: Vec<f64> = (0..DRAWS)
            .map(|draw| {
                let second = orthonormal((d, j), 1000 + draw);
                subspace_similarity(first.view(), second.view()).unwrap()[(i - 1, j - 1)]
            })
            .collect();
        let chance = ChanceSimilarity::new(d, i, j).unwrap();
        let mean = values.iter().sum::<f64>() / DRAWS as f64;
        let variance = values.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / DRAWS as f64;
        // Four standard errors of a mean; the deviation's own is known to 1/√(2·draws) where the
        // distribution is normal, and to about twice that for the skewed one of i = j = 1.
        let error = 4.0 * chance.deviation / (DRAWS as f64).sqrt() + ROUNDING;
        assert!(
            (mean - chance.mean).abs() < error,
            "{d} {i} {j}: {mean} {chance:?}"
        );
        let error = 8.0 * chance.deviation / (2.0 * DRAWS as f64).sqrt() + ROUNDING;
        let deviation = variance.sqrt();
        assert!(
            (deviation - chance.deviation).abs() < error,
            "{d} {i} {j}: {deviation} {chance:?}"
        );
    }
    for (i, j) in [(0, 1), (1, 0), (4, 1)] {
        let error = ChanceSimilarity::new(3, i, j).unwrap_err().to_string();
        assert!(error.contains("expected 1 to 3"), "{error}");
    }
}

/// The cosine of updates with random singular vectors has the deviation 1/√(mn), and the projection
/// of a weight on random directions the root mean square r‖W‖/√(mn).
#[test]
fn random_updates_agree_with_simulation() {
    const DRAWS: u64 = 2000;
    let (m, n, r) = (9, 7, 2);
    let sigma = [3.0, 1.0];
    let update = |seed: u64| {
        let (u, v) = (
            orthonormal((m, r), seed),
            orthonormal((n, r), seed + 1_000_000),
        );
        (u * &ndarray::Array1::from(sigma.to_vec())).dot(&v.t())
    };
    let (fixed, weight) = (update(1), normal((m, n), 4));
    let (mut cosines, mut projections) = (0.0, 0.0);
    for draw in 2..2 + DRAWS {
        cosines += ((&fixed * &update(draw)).sum() / 10.0).powi(2);
        let (u, v) = (
            orthonormal((m, r), 7000 + draw),
            orthonormal((n, r), 17_000 + draw),
        );
        projections += u.t().dot(&weight).dot(&v).mapv(|x| x * x).sum();
    }
    let mean = cosines / DRAWS as f64;
    let expected = 1.0 / (m * n) as f64;
    // The square of a nearly normal number deviates by √2 times its mean; four standard errors.
    let error = 4.0 * 2_f64.sqrt() / (DRAWS as f64).sqrt();
    assert!((mean / expected - 1.0).abs() < error, "{mean} {expected}");
    let mean = projections / DRAWS as f64;
    let expected = (r * r) as f64 * weight.mapv(|x| x * x).sum() / (m * n) as f64;
    assert!((mean / expected - 1.0).abs() < error, "{mean} {expected}");
}

#[test]
fn a_zero_update_has_no_directions() {
    let (b, a) = (normal((6, 2), 1), normal((2, 5), 2));
    let found = two((&b, &a), (&Array2::zeros((6, 2)), &a));
    let pair = &found.pairs[0];
    assert_eq!((pair.ranks, pair.cosine), ([2, 0], None));
    assert!(pair.left.is_none() && pair.right.is_none());
    assert!((pair.distance.unwrap() - 1.0).abs() < ROUNDING);
    assert_eq!(pair.norm_ratio, Some(0.0));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// ΔW = (BQ)(Q⁻¹A) is the same update: nothing may change but by the rounding of Q to float32.
    #[test]
    fn the_factors_do_not_matter(seed in 0_u64..1000, rank in 1_usize..4) {
        let (b, a) = (normal((10, rank), seed), normal((rank, 8), seed + 1));
        let (b2, a2) = (normal((10, 3), seed + 2), normal((3, 8), seed + 3));
        // Powers of two are exact in float32, and a triangle of them has an exact inverse.
        let mut q = Array2::<f64>::eye(rank) * 4.0;
        let mut inverse = Array2::<f64>::eye(rank) / 4.0;
        if rank > 1 {
            q[(0, 1)] = 2.0;
            inverse[(0, 1)] = -0.125;
        }
        let coarse = |x: Array2<f64>| x.mapv(|x| (x * 256.0).round() / 256.0);
        let (b, a) = (coarse(b), coarse(a));
        let plain = two((&b, &a), (&b2, &a2));
        let other = two((&b.dot(&q), &inverse.dot(&a)), (&b2, &a2));
        let (plain, other) = (&plain.pairs[0], &other.pairs[0]);
        prop_assert!((plain.cosine.unwrap() - other.cosine.unwrap()).abs() < ROUNDING);
        let tops = |pair: &PairRecord| sides(pair).map(|side| side.all.phi);
        for (x, y) in tops(plain).iter().zip(tops(other)) {
            prop_assert!((x - y).abs() < ANY_VECTORS, "{} {}", x, y);
        }
        for (x, y) in sides(plain).iter().zip(sides(other)) {
            for (x, y) in x.angles.iter().zip(&y.angles) {
                prop_assert!((x - y).abs() < ANY_VECTORS, "{} {}", x, y);
            }
        }
    }

    #[test]
    fn similarity_is_symmetric_bounded_and_nested(seed in 0_u64..1000, r1 in 1_usize..5, r2 in 1_usize..5) {
        let (first, second) = (orthonormal((9, r1), seed), orthonormal((9, r2), seed + 1));
        let phi = subspace_similarity(first.view(), second.view()).unwrap();
        let turned = subspace_similarity(second.view(), first.view()).unwrap();
        prop_assert!((&phi - &turned.t()).iter().all(|x| x.abs() < ROUNDING));
        prop_assert!(phi.iter().all(|x| (0.0..=1.0).contains(x)));
        // Rotating within a subspace changes nothing.
        let spin = orthonormal((r1, r1), seed + 2);
        let spun = subspace_similarity(first.dot(&spin).view(), second.view()).unwrap();
        prop_assert!((phi[(r1 - 1, r2 - 1)] - spun[(r1 - 1, r2 - 1)]).abs() < ROUNDING);
        // The sum of squares grows with either subspace.
        for ((i, j), value) in phi.indexed_iter() {
            let sum = |i: usize, j: usize| phi[(i, j)] * (i.min(j) + 1) as f64;
            if i > 0 {
                prop_assert!(sum(i - 1, j) <= value * (i.min(j) + 1) as f64 + ROUNDING);
            }
        }
    }
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures/compare")
        .join(name)
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap()
}

#[track_caller]
fn close(found: f64, expected: &Value, what: &str) {
    let expected = number(expected);
    let size = expected.abs().max(1.0);
    assert!(
        (found - expected).abs() <= VECTORS * size,
        "{what}: {found} {expected}"
    );
}

#[test]
fn everything_agrees_with_numpy_and_scipy() {
    for (name, count) in [("linear", 3), ("conv1d", 2)] {
        let folder = fixture(name);
        let text = std::fs::read_to_string(folder.join("expected.json")).unwrap();
        let expected: Value = serde_json::from_str(&text).unwrap();
        let options = CompareOptions {
            base: Some(folder.join("base")),
            intruders: IntruderRule {
                k: expected["k"].as_u64().unwrap() as usize,
                epsilon: number(&expected["epsilon"]),
            },
            ..CompareOptions::default()
        };
        let paths = [folder.join("one"), folder.join("other")];
        let found = compare(&paths, &options, |_, _| {}).unwrap();
        assert_eq!(
            (found.pairs.len(), &found.apart[..]),
            (count, &[][..]),
            "{name}"
        );
        for pair in &found.pairs {
            let expected = &expected["modules"][&pair.module];
            close(pair.cosine.unwrap(), &expected["cosine"], "cosine");
            close(pair.distance.unwrap(), &expected["distance"], "distance");
            close(
                pair.norm_ratio.unwrap(),
                &expected["norm_ratio"],
                "norm ratio",
            );
            for (side, name) in sides(pair).into_iter().zip(["left", "right"]) {
                let phi = &expected[format!("phi_{name}")];
                let grid = side.grid.as_ref().unwrap();
                assert_eq!(grid.phi.len(), phi.as_array().unwrap().len());
                for (i, row) in grid.phi.iter().enumerate() {
                    assert_eq!(row.len(), phi[i].as_array().unwrap().len());
                    for (j, &value) in row.iter().enumerate() {
                        close(value, &phi[i][j], &format!("{} {name} phi", pair.module));
                    }
                }
                let angles = expected[format!("angles_{name}")].as_array().unwrap();
                assert_eq!(side.angles.len(), angles.len());
                for (angle, expected) in side.angles.iter().zip(angles) {
                    close(*angle, expected, "angle");
                }
            }
        }
        for update in &found.updates {
            let expected = &expected["modules"][&update.module]["against"][update.adapter];
            let against = update.against_weight.as_ref().unwrap();
            let amplification = against.amplification.unwrap();
            close(amplification.projected, &expected["projected"], "projected");
            close(
                amplification.projected_weight,
                &expected["projected_weight"],
                "weight's own",
            );
            close(amplification.update_norm, &expected["update_norm"], "norm");
            let ratio = number(&expected["update_norm"]) / number(&expected["projected"]);
            assert!((amplification.factor.unwrap() / ratio - 1.0).abs() < VECTORS);
            assert_eq!(
                against.intruders,
                expected["intruders"].as_u64().unwrap() as usize
            );
            for (j, direction) in against.directions.iter().enumerate() {
                close(direction.cosine, &expected["nearest"][j], "nearest cosine");
                let sigma = &expected["tuned_singular_values"][j];
                close(direction.singular_value, sigma, "tuned singular value");
            }
        }
    }
}

/// W has orthogonal directions; an update in a new one, larger than all, is the one intruder.
#[test]
fn an_intruder_is_what_was_put_in() {
    let folder = tempfile::tempdir().unwrap();
    let u = orthonormal((16, 8), 1);
    let weight = {
        let v = orthonormal((6, 6), 2);
        let sigma = ndarray::Array1::from_iter((1..=6).rev().map(f64::from));
        (columns(&u, 0..6) * &sigma).dot(&v.t())
    };
    let bytes: Vec<u8> = weight
        .iter()
        .flat_map(|&x| (x as f32).to_le_bytes())
        .collect();
    let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, vec![16, 6], &bytes);
    let base = folder.path().join("model.safetensors");
    safetensors::serialize_to_file([("q.weight", view.unwrap())], None, &base).unwrap();
    // Along W's own first direction: nothing new. Along one that W does not have: an intruder.
    let inputs = columns(&svd(weight.view()).unwrap().vt.reversed_axes(), 0..1).reversed_axes();
    for (name, column) in [("old", 0), ("new", 7)] {
        let b = columns(&u, column..column + 1) * 100.0;
        write(&folder.path().join(name), &b, &inputs, "q");
    }
    let options = CompareOptions {
        base: Some(base),
        ..CompareOptions::default()
    };
    let paths = ["old", "new"].map(|name| folder.path().join(name));
    let found = compare(&paths, &options, |_, _| {}).unwrap();
    let of = |adapter: usize| found.updates[adapter].against_weight.as_ref().unwrap();
    assert_eq!((of(0).intruders, of(1).intruders), (0, 1));
    // The factors are rounded to float32, W's gap is 1: the cosine is that rounding's.
    let first = of(1).directions[0];
    assert!(
        first.place == 1 && (first.singular_value - 100.0).abs() < 0.5,
        "{first:?}"
    );
    // Its left vector is (100 u₈ + 6 u₁)/|…| to first order.
    assert!(
        (first.cosine - 6.0 / 100.0_f64.hypot(6.0)).abs() < 1e-3,
        "{first:?}"
    );
    // ‖ΔW‖ = 100 on W's own first direction, which has σ = 6; W has nothing along the new one.
    let old = of(0).amplification.unwrap();
    assert!((old.factor.unwrap() - 100.0 / 6.0).abs() < 1e-4, "{old:?}");
    assert!((old.weight.unwrap() - 100.0 / 6.0).abs() < 1e-4);
    assert!(of(1).amplification.unwrap().projected < 1e-5);
}

/// Both began from one product that is larger than what was learned. All factors are multiples of 1/2,
/// so the differences are exact.
#[test]
fn the_beginning_is_taken_away() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let b = Array2::from_shape_fn((4, 2), |(i, j)| 8.0 + (i * j) as f64 / 2.0);
    let a = ndarray::array![[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]];
    write(&at("initial"), &b, &a, "q");
    // What was learned: 2 e₁ and 3 e₁ + 4 e₂, from the same input.
    for (name, learned) in [("one", [2.0, 0.0]), ("other", [3.0, 4.0])] {
        let mut trained = b.clone();
        trained[(0, 0)] += learned[0];
        trained[(1, 0)] += learned[1];
        write(&at(name), &trained, &a, "q");
    }
    let paths = ["one", "other"].map(at);
    let whole = compare(&paths, &CompareOptions::default(), |_, _| {}).unwrap();
    assert!(whole.pairs[0].cosine.unwrap() > 0.95);
    let options = CompareOptions {
        initial: Some(at("initial")),
        ..CompareOptions::default()
    };
    let found = compare(&paths, &options, |_, _| {}).unwrap();
    let pair = &found.pairs[0];
    assert_eq!(pair.ranks, [1, 1]);
    let [left, right] = sides(pair);
    assert!((left.top.phi - 0.36).abs() < 1e-12, "{}", left.top.phi);
    assert!((right.top.phi - 1.0).abs() < 1e-12);
    assert!((pair.cosine.unwrap() - 0.6).abs() < 1e-12);
    let distance = (17.0_f64 / 29.0).sqrt();
    assert!((pair.distance.unwrap() - distance).abs() < 1e-12);
}

#[test]
fn only_the_asked_directions_are_kept() {
    let options = CompareOptions {
        grid: GridChoice::Listed(vec![1, 3, 9]),
        ..CompareOptions::default()
    };
    let paths = [fixture("linear/one"), fixture("linear/other")];
    let found = compare(&paths, &options, |_, _| {}).unwrap();
    let full = compare(&paths, &CompareOptions::default(), |_, _| {}).unwrap();
    for (some, all) in found.pairs.iter().zip(&full.pairs) {
        let of = |pair: &PairRecord| pair.left.as_ref().unwrap().grid.clone().unwrap();
        let (some, all) = (of(some), of(all));
        assert_eq!((some.first, some.second), (vec![1, 3], vec![1, 3]));
        assert_eq!(some.phi[1], [all.phi[2][0], all.phi[2][2]]);
    }
}

#[test]
fn many_adapters_make_a_symmetric_matrix() {
    let folder = tempfile::tempdir().unwrap();
    let (b, a) = (normal((12, 2), 1), normal((2, 10), 2));
    for (name, b, module) in [
        ("a", b.clone(), "q"),
        ("b", b.clone(), "q"),
        ("c", normal((12, 2), 3), "q"),
        ("d", b.clone(), "v"),
    ] {
        write(&folder.path().join(name), &b, &a, module);
    }
    let found = compare(&[folder.path()], &CompareOptions::default(), |_, _| {}).unwrap();
    assert_eq!(found.adapters.len(), 4);
    let phi = found.matrix(Likeness::PhiLeft);
    assert!((phi[0][1].unwrap() - 1.0).abs() < ROUNDING);
    assert_eq!(
        (phi[0][2], phi[0][3], phi[3][3]),
        (phi[2][0], None, Some(1.0))
    );
    assert!(phi[0][2].unwrap() < 0.9);
    // A is one and the same everywhere.
    let right = found.matrix(Likeness::PhiRight);
    assert!((right[0][2].unwrap() - 1.0).abs() < 1e-6);
    assert_eq!((found.shared(0, 1), found.shared(3, 0)), (1, 0));
    let apart: Vec<_> = found
        .apart
        .iter()
        .map(|apart| apart.module.as_str())
        .collect();
    assert_eq!(apart, ["q", "v"]);
    // Grids of all pairs would not be read by anyone.
    assert!(found.pairs[0].left.as_ref().unwrap().grid.is_none());
}

#[test]
fn checkpoints_come_in_the_order_of_their_steps() {
    let folder = tempfile::tempdir().unwrap();
    let a = normal((2, 10), 2);
    for step in [1000, 500, 20] {
        let b = normal((12, 2), 1) * f64::from(step);
        write(
            &folder.path().join(format!("checkpoint-{step}")),
            &b,
            &a,
            "q",
        );
    }
    let options = CompareOptions {
        over_time: true,
        ..CompareOptions::default()
    };
    let found = compare(&[folder.path()], &options, |_, _| {}).unwrap();
    let steps: Vec<_> = found.adapters.iter().map(|one| one.step.unwrap()).collect();
    assert_eq!(steps, [20, 500, 1000]);
    let pairs: Vec<_> = found
        .pairs
        .iter()
        .map(|pair| (pair.first, pair.second))
        .collect();
    assert_eq!(pairs, [(0, 1), (0, 2), (1, 2)]);
    for pair in &found.pairs {
        let ratio = steps[pair.second] as f64 / steps[pair.first] as f64;
        // B is rounded to float32.
        assert!(
            (pair.norm_ratio.unwrap() / ratio - 1.0).abs() < 1e-6,
            "{pair:?}"
        );
    }
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    let options = CompareOptions {
        base: Some(fixture("linear/base")),
        ..CompareOptions::default()
    };
    let paths = [fixture("linear/one"), fixture("linear/other")];
    let with = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        let found = pool.install(|| compare(&paths, &options, |_, _| {}).unwrap());
        serde_json::to_string(&found).unwrap()
    };
    assert_eq!(with(1), with(3));
}

fn refusal(paths: &[&Path], options: &CompareOptions) -> String {
    compare(paths, options, |_, _| {}).unwrap_err().to_string()
}

#[test]
fn what_cannot_be_compared_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    write(&at("q"), &normal((4, 2), 1), &normal((2, 3), 2), "q");
    write(&at("v"), &normal((4, 2), 1), &normal((2, 3), 2), "v");
    write(&at("wide"), &normal((4, 2), 1), &normal((2, 5), 2), "q");
    std::fs::create_dir(at("none")).unwrap();
    std::fs::write(at("none/adapter_model.safetensors"), b"no tensors").unwrap();
    let plain = CompareOptions::default();
    let error = refusal(&[&at("q")], &plain);
    assert!(
        error.contains("adapters: expected two or more, found 1"),
        "{error}"
    );
    let error = refusal(&[&at("q"), &at("none")], &plain);
    assert!(
        error.contains("found 1; adapter_model.safetensors in"),
        "{error}"
    );
    let error = refusal(&[&at("q"), &at("v")], &plain);
    assert!(
        error.contains("modules: expected one of the name and shape of one in"),
        "{error}"
    );
    let error = refusal(&[&at("q"), &at("wide")], &plain);
    assert!(
        error.contains("found none; q: expected one shape, found 4 x 3 here"),
        "{error}"
    );
    let error = refusal(&[&at("q"), &at("missing")], &plain);
    assert!(error.contains("missing"), "{error}");
    for (options, expected) in [
        (
            CompareOptions {
                rank: 0,
                ..plain.clone()
            },
            "rank of the comparison: expected 1",
        ),
        (
            CompareOptions {
                grid: GridChoice::Listed(vec![2, 1]),
                ..plain.clone()
            },
            "directions: expected numbers from 1 on, ascending, found [2, 1]",
        ),
        (
            CompareOptions {
                intruders: IntruderRule {
                    k: 10,
                    epsilon: 1.5,
                },
                ..plain.clone()
            },
            "cosine of an intruder: expected above 0 and at most 1, found 1.5",
        ),
        (
            CompareOptions {
                intruders: IntruderRule { k: 0, epsilon: 0.5 },
                ..plain.clone()
            },
            "directions searched for intruders: expected 1 or more, found 0",
        ),
    ] {
        let error = refusal(&[&at("q"), &at("q")], &options);
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn bases_that_are_none_are_refused() {
    let first = orthonormal((5, 2), 1);
    for (second, expected) in [
        (
            orthonormal((4, 2), 1),
            "rows of the second basis: expected 5",
        ),
        (&first * 2.0, "second basis: expected orthonormal columns"),
        (
            Array2::from_elem((5, 1), f64::NAN),
            "second basis: expected finite numbers",
        ),
        (
            Array2::zeros((5, 6)),
            "columns of a basis: expected at most 5",
        ),
    ] {
        let error = principal_angles(first.view(), second.view())
            .unwrap_err()
            .to_string();
        assert!(error.contains(expected), "{error}");
        let error = subspace_similarity(first.view(), second.view())
            .unwrap_err()
            .to_string();
        assert!(error.contains(expected), "{error}");
    }
}

/// A base model of other shapes leaves the comparison as it is and is named.
#[test]
fn a_base_of_another_model_is_named() {
    let folder: TempDir = support::folder(&support::pair(), None);
    let base = folder.path().join("base.safetensors");
    let tensors = support::tensor("q.weight", &[3, 3], &[0.5; 9]);
    std::fs::write(&base, support::bytes(&tensors)).unwrap();
    let copy = support::folder(&support::pair(), None);
    let file = |folder: &TempDir| folder.path().join("adapter_model.safetensors");
    let options = CompareOptions {
        base: Some(base),
        ..CompareOptions::default()
    };
    let found = compare(&[file(&folder), file(&copy)], &options, |_, _| {}).unwrap();
    assert_eq!(found.pairs.len(), 1);
    assert!(
        found
            .updates
            .iter()
            .all(|update| update.against_weight.is_none())
    );
    let reason = &found.apart[0].reason;
    assert!(
        reason.contains("base weight: expected the update's shape (2, 3), found (3, 3)"),
        "{reason}"
    );
}
