//! Singular values through a band, the largest ones with their certificate, and thread counts.

use ndarray::{Array1, Array2};
use ndarray_rand::RandomExt;
use ndarray_rand::rand::SeedableRng;
use ndarray_rand::rand_distr::StandardNormal;
use rand_chacha::ChaCha8Rng;
use rankwise_analysis::linalg::{Top, TopOptions, qr, singular_values, svd, top_singular_values};
use rankwise_analysis::{Error, product_singular_values};

/// The backward error of orthogonal transformations, in units of ε σ₁: far below the dimension.
const BACKWARD: f64 = 64.0 * f64::EPSILON;

fn normal(rows: usize, columns: usize, seed: u64) -> Array2<f64> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    Array2::random_using((rows, columns), StandardNormal, &mut rng)
}

/// Orthonormal columns.
fn orthonormal(rows: usize, columns: usize, seed: u64) -> Array2<f64> {
    qr(normal(rows, columns, seed).view()).q
}

fn with_values(rows: usize, columns: usize, values: &[f64], seed: u64) -> Array2<f64> {
    let u = orthonormal(rows, values.len(), seed) * &Array1::from(values.to_vec());
    u.dot(&orthonormal(columns, values.len(), seed ^ 1).t())
}

fn assert_close(found: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len());
    for (i, (x, y)) in found.iter().zip(expected).enumerate() {
        let error = (x - y).abs();
        assert!(error <= tolerance * expected[0], "{i}: {x}, expected {y}");
    }
}

/// Bits at one and at two threads.
fn at_thread_counts<T: PartialEq + std::fmt::Debug + Send>(work: impl Fn() -> T + Sync + Send) {
    let pool = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
        pool.unwrap().install(&work)
    };
    assert_eq!(pool(1), pool(2));
}

#[test]
fn known_values_come_back_through_the_band() {
    // Sizes around the multiples of the band's width, and shapes that are first made square.
    for (m, n) in [(400, 400), (417, 385), (416, 416), (449, 1000), (900, 390)] {
        let count = m.min(n);
        let values: Vec<f64> = (0..count).map(|i| 0.97_f64.powi(i as i32)).collect();
        let found = singular_values(with_values(m, n, &values, 1).view()).unwrap();
        assert_close(&found, &values, BACKWARD);
    }
}

#[test]
fn a_matrix_of_low_rank_has_zeros_through_the_band() {
    let values = [3.0, 3.0, 1.0];
    let s = singular_values(with_values(500, 450, &values, 2).view()).unwrap();
    assert_close(&s[..3], &values, BACKWARD);
    assert!(s[3..].iter().all(|&x| x <= BACKWARD * 3.0));
    // All ones: sums of equal terms are rounded the same way every time, so that errors add up.
    let sums = 512.0 * f64::EPSILON;
    let s = singular_values(Array2::ones((512, 512)).view()).unwrap();
    let errors = ((s[0] / 512.0 - 1.0).abs(), s[1] / 512.0);
    assert!(errors.0 <= sums && errors.1 <= sums, "{errors:?}");
}

#[test]
fn the_path_through_the_band_agrees_with_the_one_with_vectors() {
    for (m, n) in [(500, 500), (390, 600)] {
        let a = normal(m, n, 3);
        let s = singular_values(a.view()).unwrap();
        assert_close(&s, &svd(a.view()).unwrap().s, BACKWARD);
    }
}

#[test]
fn bits_do_not_depend_on_the_number_of_threads() {
    let a = normal(600, 520, 4);
    at_thread_counts(|| singular_values(a.view()).unwrap());
    at_thread_counts(|| top(&a, 5, &TopOptions::default()));
    let (b, a) = (normal(3000, 16, 5), normal(16, 2500, 6));
    at_thread_counts(|| product_singular_values(b.view(), a.view(), 2.0).unwrap());
}

fn top(a: &Array2<f64>, k: usize, options: &TopOptions) -> Top {
    top_singular_values(a.view(), k, options, &mut ChaCha8Rng::seed_from_u64(9)).unwrap()
}

fn tail(values: &[f64]) -> f64 {
    values.iter().map(|x| x * x).sum::<f64>().sqrt()
}

#[test]
fn an_update_and_noise_are_told_apart_with_a_certificate() {
    let (m, n, rank) = (700, 600, 24);
    let values: Vec<f64> = (0..rank).map(|i| 100.0 * 0.9_f64.powi(i)).collect();
    let a = with_values(m, n, &values, 7) + normal(m, n, 8) * 0.01;
    let known = singular_values(a.view()).unwrap();
    let found = top(&a, rank as usize, &TopOptions::default());
    assert!(found.is_converged && found.steps <= 6, "{found:?}");
    for ((x, residual), y) in found.values.iter().zip(&found.residuals).zip(&known) {
        assert!((x - y).abs() <= residual + BACKWARD * known[0]);
        assert!(*residual <= 1e-8 * known[0]);
    }
    let rest = tail(&known[rank as usize..]);
    assert!(found.rest >= rest * (1.0 - 1e-9) && found.rest <= rest * (1.0 + 1e-6));
}

#[test]
fn a_flat_spectrum_is_reported_as_such() {
    let a = orthonormal(300, 300, 10) + normal(300, 300, 11) * 1e-3;
    let known = singular_values(a.view()).unwrap();
    let options = TopOptions {
        steps: 3,
        ..TopOptions::default()
    };
    let found = top(&a, 4, &options);
    assert!(!found.is_converged && found.steps == 3);
    for (x, residual) in found.values.iter().zip(&found.residuals) {
        let nearest = known
            .iter()
            .map(|y| (x - y).abs())
            .fold(f64::INFINITY, f64::min);
        assert!(nearest <= residual + BACKWARD && *residual > 1e-8);
    }
    // What was not found is about all of it.
    assert!(found.rest >= tail(&known[4..]) * (1.0 - 1e-12));
}

#[test]
fn every_shape_and_count_has_its_largest_values() {
    for (m, n, k) in [
        (1, 1, 1),
        (5, 100, 5),
        (100, 5, 9),
        (60, 60, 60),
        (50, 70, 0),
        (0, 4, 2),
    ] {
        let a = normal(m, n, 12);
        let known = singular_values(a.view()).unwrap();
        let k = k.min(known.len());
        let found = top(&a, k, &TopOptions::default());
        assert!(found.is_converged, "{m} x {n}, {k}: {found:?}");
        assert_eq!(found.values.len(), k);
        for (x, y) in found.values.iter().zip(&known) {
            assert!((x - y).abs() <= 1e-8 * known[0]);
        }
        assert!(found.rest >= tail(&known[k..]) * (1.0 - 1e-9));
    }
    // Scaled to the ends of the range, and the zero matrix.
    let a = normal(40, 30, 13);
    let (power, usual) = (2_f64.powi(990), top(&a, 3, &TopOptions::default()));
    let large = top(&(&a * power), 3, &TopOptions::default());
    assert_eq!(
        large.values,
        usual.values.iter().map(|x| x * power).collect::<Vec<_>>()
    );
    let zero = top(&Array2::zeros((20, 30)), 2, &TopOptions::default());
    assert_eq!((zero.values, zero.rest), (vec![0.0, 0.0], 0.0));
}

#[test]
fn options_that_cannot_be_met_are_refused() {
    let a = normal(4, 4, 1);
    for options in [
        TopOptions {
            tolerance: 0.0,
            steps: 1,
        },
        TopOptions {
            tolerance: f64::NAN,
            steps: 1,
        },
        TopOptions {
            tolerance: 1e-8,
            steps: 0,
        },
    ] {
        let found = top_singular_values(a.view(), 2, &options, &mut ChaCha8Rng::seed_from_u64(1));
        assert!(matches!(found, Err(Error::Mismatch { .. })));
    }
}
