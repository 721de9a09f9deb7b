//! Spectra against closed forms, nalgebra, and NumPy.

use ndarray::{Array2, ArrayView2, array};
use ndarray_rand::RandomExt;
use ndarray_rand::rand::SeedableRng;
use ndarray_rand::rand_distr::StandardNormal;
use proptest::prelude::*;
use rand_chacha::ChaCha8Rng;
use rankwise_analysis::linalg::{qr, singular_values, solve, svd};
use rankwise_analysis::{
    Epsilon, Error, Side, TauRule, measures, orthogonality, product_singular_values,
};
use serde::Deserialize;

/// Backward stable algorithms err by a small multiple of dimension · ε · σ₁; dimensions here are
/// below 500.
const TOLERANCE: f64 = 1e-12;

fn normal(rows: usize, columns: usize, seed: u64) -> Array2<f64> {
    Array2::random_using(
        (rows, columns),
        StandardNormal,
        &mut ChaCha8Rng::seed_from_u64(seed),
    )
}

fn oracle(a: ArrayView2<'_, f64>) -> Vec<f64> {
    let matrix = nalgebra::DMatrix::from_fn(a.nrows(), a.ncols(), |i, j| a[(i, j)]);
    let mut values: Vec<f64> = matrix.singular_values().iter().copied().collect();
    values.sort_by(|x, y| y.total_cmp(x));
    values
}

fn assert_close(found: &[f64], expected: &[f64]) {
    assert_eq!(found.len(), expected.len());
    let first = expected.first().copied().unwrap_or(0.0);
    for (found, expected) in found.iter().zip(expected) {
        assert!(
            (found - expected).abs() <= TOLERANCE * first,
            "{found}, expected {expected}"
        );
    }
}

fn largest(a: &Array2<f64>) -> f64 {
    a.iter().fold(0.0, |largest, x| largest.max(x.abs()))
}

#[test]
fn matrices_with_known_singular_values() {
    assert_eq!(
        singular_values(Array2::zeros((3, 5)).view()).unwrap(),
        [0.0; 3]
    );
    assert!(
        singular_values(Array2::zeros((0, 5)).view())
            .unwrap()
            .is_empty()
    );
    assert_eq!(singular_values(array![[-7.0]].view()).unwrap(), [7.0]);
    // A path graph's incidence-like bidiagonal: σ_k = 2 cos(kπ/(2n+1)).
    let n = 60;
    let a = Array2::from_shape_fn((n, n), |(i, j)| f64::from(i == j || i + 1 == j));
    let known: Vec<f64> = (1..=n)
        .map(|k| 2.0 * (k as f64 * std::f64::consts::PI / (2 * n + 1) as f64).cos())
        .collect();
    assert_close(&singular_values(a.view()).unwrap(), &known);
}

#[test]
fn a_rank_one_matrix_has_one_singular_value_at_any_size() {
    for (m, n) in [(77, 384), (300, 10), (200, 200), (2, 300)] {
        let s = singular_values(Array2::ones((m, n)).view()).unwrap();
        assert!((s[0] / ((m * n) as f64).sqrt() - 1.0).abs() < TOLERANCE);
        assert!(s[1..].iter().all(|&x| x < TOLERANCE * s[0]), "{m} x {n}");
    }
}

#[test]
fn entries_near_the_ends_of_the_range_do_no_harm() {
    let a = normal(20, 8, 1);
    let usual = singular_values(a.view()).unwrap();
    for exponent in [-1000, -600, 600, 1000] {
        let power = 2_f64.powi(exponent);
        let s = singular_values(a.mapv(|x| x * power).view()).unwrap();
        let back: Vec<f64> = s.iter().map(|x| x / power).collect();
        assert_close(&back, &usual);
    }
    let tiny = singular_values(array![[5e-324, 0.0], [0.0, 0.0]].view()).unwrap();
    assert_eq!(tiny, [5e-324, 0.0]);
    let huge = singular_values(array![[f64::MAX, 0.0], [0.0, 1.0]].view()).unwrap();
    assert_eq!(huge[0], f64::MAX);
}

#[test]
fn singular_values_are_nalgebras() {
    for (seed, (m, n)) in [
        (77, 384),
        (384, 77),
        (128, 128),
        (130, 3),
        (1, 9),
        (200, 150),
    ]
    .into_iter()
    .enumerate()
    {
        let a = normal(m, n, seed as u64);
        assert_close(&singular_values(a.view()).unwrap(), &oracle(a.view()));
        assert_close(&svd(a.view()).unwrap().s, &oracle(a.view()));
        // Neither the memory order nor the orientation matters.
        assert_close(&singular_values(a.t()).unwrap(), &oracle(a.view()));
    }
}

#[test]
fn what_is_not_finite_is_named() {
    let mut a = normal(4, 3, 1);
    a[(2, 1)] = f64::NEG_INFINITY;
    for error in [
        singular_values(a.view()).unwrap_err(),
        svd(a.view()).unwrap_err(),
    ] {
        assert!(
            matches!(
                error,
                Error::NonFinite {
                    row: 2,
                    column: 1,
                    ..
                }
            ),
            "{error}"
        );
    }
    let error = product_singular_values(a.view(), normal(3, 5, 2).view(), 1.0).unwrap_err();
    let text = "factor B: expected finite numbers, found -inf at row 2, column 1";
    assert_eq!(error.to_string(), text);
    let error = product_singular_values(normal(4, 3, 1).view(), normal(2, 5, 2).view(), 1.0);
    assert!(matches!(error, Err(Error::Mismatch { .. })));
}

#[test]
fn singular_systems_are_refused_with_their_condition_number() {
    let ones = Array2::<f64>::ones((3, 3));
    let error = solve(ones.view(), ones.view()).unwrap_err();
    assert!(matches!(error, Error::Singular { size: 3, .. }), "{error}");
    // The Hilbert matrix: κ₁ is 1.6e13 at n = 10 (solved), beyond 1/ε at n = 14 (refused).
    let hilbert = |n| Array2::from_shape_fn((n, n), |(i, j)| 1.0 / (i + j + 1) as f64);
    assert!(solve(hilbert(10).view(), Array2::eye(10).view()).is_ok());
    let error = solve(hilbert(14).view(), Array2::eye(14).view()).unwrap_err();
    assert!(
        matches!(error, Error::Singular { condition, .. } if condition > 1e16),
        "{error}"
    );
    assert!(matches!(
        solve(normal(3, 4, 1).view(), ones.view()),
        Err(Error::Mismatch { .. })
    ));
}

#[derive(Deserialize)]
struct Fixture {
    products: Vec<Product>,
}

#[derive(Deserialize)]
struct Product {
    b: Vec<Vec<f64>>,
    a: Vec<Vec<f64>>,
    scale: f64,
    singular_values: Vec<f64>,
    orthogonality_rows: f64,
    orthogonality_columns: f64,
    measures: std::collections::BTreeMap<String, f64>,
}

/// NumPy's dense products and SciPy's entropies; see `fixtures/make_fixtures.py`.
#[test]
fn products_and_their_measures_are_numpys() {
    let fixture: Fixture = serde_json::from_str(include_str!("fixtures/numpy_scipy.json")).unwrap();
    let matrix = |rows: &[Vec<f64>]| {
        Array2::from_shape_vec((rows.len(), rows[0].len()), rows.concat()).unwrap()
    };
    for case in fixture.products {
        let (b, a) = (matrix(&case.b), matrix(&case.a));
        let sigma = product_singular_values(b.view(), a.view(), case.scale).unwrap();
        assert_close(&sigma, &case.singular_values);
        let shape = (b.nrows(), a.ncols());
        for (side, known) in [
            (Side::Rows, case.orthogonality_rows),
            (Side::Columns, case.orthogonality_columns),
        ] {
            let found = orthogonality(&sigma, shape, b.ncols(), side).loss;
            assert!(
                (found - known).abs() < TOLERANCE * known,
                "{found}, expected {known}"
            );
        }
        let m = measures(&sigma, shape, TauRule::Precision(Epsilon::F32));
        let m = serde_json::to_value(m).unwrap();
        assert_eq!(case.measures.len(), 10);
        for (name, known) in case.measures {
            let found = m[&name].as_f64().unwrap();
            assert!(
                (found - known).abs() < TOLERANCE * known,
                "{name}: {found}, not {known}"
            );
        }
    }
}

#[derive(Deserialize)]
struct Graded {
    products: Vec<GradedProduct>,
}

#[derive(Deserialize)]
struct GradedProduct {
    name: String,
    b: Vec<Vec<f64>>,
    a: Vec<Vec<f64>>,
    singular_values: Vec<f64>,
}

/// Far below what is lost when the product is formed, 1e-16 σ₁. See
/// `fixtures/make_linalg_fixtures.py`.
#[test]
fn small_values_of_graded_products_have_their_digits() {
    const RELATIVE: f64 = 1e-13;
    let fixture: Graded = serde_json::from_str(include_str!("fixtures/linalg.json")).unwrap();
    let matrix = |rows: &[Vec<f64>]| {
        Array2::from_shape_vec((rows.len(), rows[0].len()), rows.concat()).unwrap()
    };
    assert_eq!(fixture.products.len(), 5);
    for case in fixture.products {
        let (b, a) = (matrix(&case.b), matrix(&case.a));
        let transposed = product_singular_values(a.t(), b.t(), 1.0).unwrap();
        let sigma = product_singular_values(b.view(), a.view(), 1.0).unwrap();
        for found in [sigma, transposed] {
            assert_eq!(found.len(), case.singular_values.len());
            for (x, y) in found.iter().zip(&case.singular_values) {
                assert!(
                    (x - y).abs() <= RELATIVE * y,
                    "{}: {x:e}, not {y:e}",
                    case.name
                );
            }
        }
    }
}

/// Through many tiles: 3,000 rows, and counts of columns on both sides of the limits.
#[test]
fn tall_factors_have_the_spectrum_of_their_product() {
    for (rank, seed) in [(1, 1), (3, 2), (16, 3), (31, 4), (33, 5), (70, 6)] {
        let (u, v) = (
            qr(normal(3000, rank, seed).view()).q,
            qr(normal(2111, rank, seed ^ 9).view()).q,
        );
        let known: Vec<f64> = (0..rank).map(|i| 0.8_f64.powi(i as i32)).collect();
        // An ill-conditioned factor beside its inverse: the product is as well conditioned as before.
        let b = u * &ndarray::Array1::from(known.clone());
        assert_close(
            &product_singular_values(b.view(), v.t(), 1.0).unwrap(),
            &known,
        );
        // Column-major B, row-major A, and neither.
        let columns = b.t().as_standard_layout().into_owned();
        let found = product_singular_values(columns.t(), v.t().as_standard_layout().view(), -2.0);
        assert_close(
            &found.unwrap(),
            &known.iter().map(|x| 2.0 * x).collect::<Vec<_>>(),
        );
        let reversed = b.slice_axis(ndarray::Axis(0), ndarray::Slice::new(0, None, -1));
        assert_close(
            &product_singular_values(reversed, v.t(), 1.0).unwrap(),
            &known,
        );
    }
}

#[test]
fn factors_near_the_ends_of_the_range_are_scaled() {
    let (b, a) = (normal(700, 4, 1), normal(4, 600, 2));
    let usual = product_singular_values(b.view(), a.view(), 1.0).unwrap();
    for exponent in [-900, -400, 400, 900] {
        let b = b.mapv(|x| x * 2_f64.powi(exponent));
        let a = a.mapv(|x| x * 2_f64.powi(-exponent));
        assert_close(
            &product_singular_values(b.view(), a.view(), 1.0).unwrap(),
            &usual,
        );
    }
}

#[test]
fn entries_that_are_not_finite_are_found_wherever_they_are() {
    for (row, column) in [(0, 0), (255, 15), (256, 3), (2999, 15), (1700, 7)] {
        for value in [f32::NAN, f32::INFINITY] {
            let mut b = normal(3000, 16, 1).mapv(|x| x as f32);
            b[(row, column)] = value;
            let a = normal(16, 40, 2).mapv(|x| x as f32);
            let error = product_singular_values(b.view(), a.view(), 1.0).unwrap_err();
            assert!(
                matches!(error, Error::NonFinite { what: "factor B", row: r, column: c, .. }
                    if (r, c) == (row, column)),
                "{error}"
            );
            let error = product_singular_values(a.t(), b.t(), 1.0).unwrap_err();
            assert!(
                matches!(error, Error::NonFinite { what: "factor A", row: r, column: c, .. }
                    if (r, c) == (column, row)),
                "{error}"
            );
        }
    }
}

fn size() -> impl Strategy<Value = usize> {
    prop_oneof![1..12_usize, 12..80_usize]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_factors_multiply_to_the_matrix(m in size(), n in size(), seed: u64) {
        let a = normal(m, n, seed);
        let d = svd(a.view()).unwrap();
        let product = (&d.u * &ndarray::Array1::from(d.s.clone())).dot(&d.vt);
        prop_assert!(largest(&(product - &a)) < TOLERANCE * d.s[0]);
        let gram = d.u.t().dot(&d.u) - Array2::<f64>::eye(m.min(n));
        prop_assert!(largest(&gram) < TOLERANCE);

        let f = qr(a.view());
        prop_assert!(largest(&(f.q.dot(&f.r) - &a)) < TOLERANCE * d.s[0]);
        let gram = f.q.t().dot(&f.q) - Array2::<f64>::eye(m.min(n));
        prop_assert!(largest(&gram) < TOLERANCE);
        prop_assert!(f.r.indexed_iter().all(|((i, j), &x)| i <= j || x == 0.0));
    }

    #[test]
    fn factored_and_dense_spectra_agree(m in size(), n in size(), rank in size(), seed: u64) {
        let (b, a) = (normal(m, rank, seed), normal(rank, n, seed ^ 1));
        let sigma = product_singular_values(b.view(), a.view(), -0.25).unwrap();
        prop_assert_eq!(sigma.len(), rank.min(m).min(n));
        let dense = oracle((b.dot(&a) * 0.25).view());
        assert_close(&sigma, &dense[..sigma.len()]);
    }

    #[test]
    fn linear_systems_are_solved(n in size(), columns in 1..4_usize, seed: u64) {
        let (a, x) = (normal(n, n, seed), normal(n, columns, seed ^ 1));
        let s = singular_values(a.view()).unwrap();
        let condition = s[0] / s[n - 1];
        prop_assume!(condition < 1e6);
        let found = solve(a.view(), a.dot(&x).view()).unwrap();
        prop_assert!(largest(&(&found - &x)) < 1e-14 * n as f64 * condition * largest(&x));
        let found = solve(a.t(), a.t().dot(&x).view()).unwrap();
        prop_assert!(largest(&(&found - &x)) < 1e-14 * n as f64 * condition * largest(&x));
    }
}
