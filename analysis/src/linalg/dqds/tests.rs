use proptest::prelude::*;
use serde::Deserialize;

use super::bidiagonal_singular_values as values;

/// Every singular value, however small, to this relative error. Each transform adds a few ε, but
/// they hardly accumulate; Fernando & Parlett bound them by 4nε, n below 200 here.
const RELATIVE: f64 = 4.0 * 200.0 * f64::EPSILON;

fn assert_relative(name: &str, found: &[f64], expected: &[f64]) {
    assert_eq!(found.len(), expected.len(), "{name}");
    for (i, (x, y)) in found.iter().zip(expected).enumerate() {
        assert!(
            (x - y).abs() <= RELATIVE * y,
            "{name}, {i}: {x:e}, expected {y:e}"
        );
    }
}

#[test]
fn closed_forms_to_high_relative_accuracy() {
    for n in [1, 2, 3, 4, 10, 150] {
        // Ones on both diagonals: σ_k = 2 cos(kπ/(2n+1)).
        let known: Vec<f64> = (1..=n)
            .map(|k| 2.0 * (k as f64 * std::f64::consts::PI / (2 * n + 1) as f64).cos())
            .collect();
        // The cosine itself has few digits near zero; its argument's rounding is the larger error.
        let found = values(&vec![1.0; n], &vec![1.0; n - 1]).unwrap();
        for (x, y) in found.iter().zip(&known) {
            assert!((x - y).abs() <= 1e-14, "{n}: {x}, expected {y}");
        }
        assert_eq!(
            values(&vec![-2.5; n], &vec![0.0; n - 1]).unwrap(),
            vec![2.5; n]
        );
        assert_eq!(
            values(&vec![0.0; n], &vec![0.0; n - 1]).unwrap(),
            vec![0.0; n]
        );
    }
    assert_eq!(values(&[], &[]).unwrap(), Vec::<f64>::new());
    let (large, small) = (f64::MAX / 2.0, f64::MIN_POSITIVE / 8.0);
    assert_relative(
        "large",
        &values(&[large, large], &[0.0]).unwrap(),
        &[large, large],
    );
    assert_eq!(values(&[small, small], &[0.0]).unwrap(), [small, small]);
}

#[test]
fn zeros_on_the_diagonals_split_the_matrix() {
    // A zero on the diagonal is a singular value of zero; the rest is two matrices.
    let s = values(&[3.0, 0.0, 4.0], &[4.0, 3.0]).unwrap();
    assert_relative("zero", &s, &[5.0, 5.0, 0.0]);
    let s = values(&[0.0; 4], &[1.0, 2.0, 3.0]).unwrap();
    assert_relative("shift", &s, &[3.0, 2.0, 1.0, 0.0]);
    let s = values(&[1.0, 1.0, 0.0, 0.0], &[0.0, 0.0, 7.0]).unwrap();
    assert_relative("both", &s, &[7.0, 1.0, 1.0, 0.0]);
}

#[test]
fn what_is_not_finite_has_no_values() {
    assert!(values(&[1.0, f64::NAN], &[1.0]).is_none());
    assert!(values(&[1.0, 1.0], &[f64::INFINITY]).is_none());
}

/// Parts that nearly repeat, joined by small entries: clusters that converge slowly and splits.
#[test]
fn glued_parts_agree_with_nalgebra() {
    for glue in [1e-4, 1e-8, 1e-12] {
        let part: Vec<f64> = (0..21).map(|i| (f64::from(i) - 10.0).abs() + 0.5).collect();
        let diagonal = part.repeat(5);
        let above: Vec<f64> = (1..diagonal.len())
            .map(|i| if i % 21 == 0 { glue } else { 1.0 })
            .collect();
        agree(&diagonal, &above).unwrap();
    }
}

fn agree(diagonal: &[f64], above: &[f64]) -> Result<(), TestCaseError> {
    let n = diagonal.len();
    let matrix = nalgebra::DMatrix::from_fn(n, n, |i, j| match j.wrapping_sub(i) {
        0 => diagonal[i],
        1 => above[i],
        _ => 0.0,
    });
    let mut known: Vec<f64> = matrix.singular_values().iter().copied().collect();
    known.sort_by(|x, y| y.total_cmp(x));
    let found = values(diagonal, above).unwrap();
    for (x, y) in found.iter().zip(&known) {
        // nalgebra's values are exact to the largest one only.
        prop_assert!((x - y).abs() <= 1e-13 * known[0], "{x}, nalgebra {y}");
    }
    Ok(())
}

#[derive(Deserialize)]
struct Fixture {
    bidiagonals: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    diagonal: Vec<f64>,
    above: Vec<f64>,
    singular_values: Vec<f64>,
}

/// See `tests/fixtures/make_linalg_fixtures.py`.
#[test]
fn graded_matrices_have_mpmaths_values() {
    let text = include_str!("../../../tests/fixtures/linalg.json");
    let fixture: Fixture = serde_json::from_str(text).unwrap();
    assert_eq!(fixture.bidiagonals.len(), 7);
    for case in fixture.bidiagonals {
        let found = values(&case.diagonal, &case.above).unwrap();
        assert_relative(&case.name, &found, &case.singular_values);
        // Powers of two change nothing but the exponents.
        let scaled = |x: &[f64]| x.iter().map(|x| x * 2_f64.powi(-10)).collect::<Vec<_>>();
        let again = values(&scaled(&case.diagonal), &scaled(&case.above)).unwrap();
        assert_relative(&case.name, &again, &scaled(&case.singular_values));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn any_bidiagonal_matrix_agrees_with_nalgebra(
        entries in prop::collection::vec((-4.0..4.0_f64, -4.0..4.0_f64, 0..12_u8), 1..60),
        base in 0.01..1.0_f64,
    ) {
        // Exponents and zeros mixed in.
        let entry = |x: f64, kind: u8| match kind {
            0 => 0.0,
            1..5 => x * base.powf(8.0 * x.abs()),
            _ => x,
        };
        let diagonal: Vec<f64> = entries.iter().map(|e| entry(e.0, e.2)).collect();
        let above: Vec<f64> = entries.iter().map(|e| entry(e.1, e.2 / 2)).collect();
        agree(&diagonal, &above[..above.len() - 1])?;
    }

    /// The products q_i keep the determinant, which sees every digit of every value.
    #[test]
    fn the_product_of_the_values_is_the_determinants_magnitude(
        exponents in prop::collection::vec((-2.0..2.0_f64, -2.0..2.0_f64), 2..40),
    ) {
        let diagonal: Vec<f64> = exponents.iter().map(|e| 10_f64.powf(e.0)).collect();
        let above: Vec<f64> = exponents.iter().map(|e| 10_f64.powf(e.1)).collect();
        let found = values(&diagonal, &above[1..]).unwrap();
        let sum = |x: &[f64]| x.iter().map(|x| x.ln()).sum::<f64>();
        prop_assert!((sum(&found) - sum(&diagonal)).abs() <= RELATIVE * 40.0);
    }
}
