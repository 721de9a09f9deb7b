//! Rank correlations against SciPy, and the bootstrap against what is known of it.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rankwise_analysis::{Observation, correlate, kendall_tau_b, spearman};
use serde::Deserialize;

#[derive(Deserialize)]
struct Fixture {
    correlations: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    x: Vec<f64>,
    y: Vec<f64>,
    spearman: f64,
    kendall: f64,
}

/// Sums of at most a thousand products, each rounded once.
const TOLERANCE: f64 = 1e-13;

#[test]
fn correlations_are_scipys() {
    let fixture: Fixture = serde_json::from_str(include_str!("fixtures/numpy_scipy.json")).unwrap();
    assert_eq!(fixture.correlations.len(), 5);
    for case in fixture.correlations {
        assert!((spearman(&case.x, &case.y).unwrap() - case.spearman).abs() < TOLERANCE);
        assert!((kendall_tau_b(&case.x, &case.y).unwrap() - case.kendall).abs() < TOLERANCE);
    }
}

#[test]
fn correlations_in_closed_form() {
    let x = [1.0, 2.0, 2.0, 3.0];
    assert_eq!(spearman(&x, &x.map(|x: f64| x.exp())), Some(1.0));
    assert_eq!(kendall_tau_b(&x, &x.map(|x| -x)), Some(-1.0));
    // Five concordant pairs of which y unties six and x five: 5/√(5·6).
    let tau = kendall_tau_b(&x, &[1.0, 2.0, 3.0, 4.0]).unwrap();
    assert!((tau - 5.0 / 30_f64.sqrt()).abs() < 1e-15);
    assert_eq!(spearman(&[0.0, -0.0, 1.0], &[1.0, 1.0, 2.0]), Some(1.0));
    assert_eq!(
        kendall_tau_b(&[f64::INFINITY, f64::INFINITY, 0.0], &[2.0, 2.0, 1.0]),
        Some(1.0)
    );
}

#[test]
fn what_has_no_correlation_gives_none() {
    for (x, y) in [
        (vec![], vec![]),
        (vec![1.0], vec![2.0]),
        (vec![1.0; 5], vec![2.0; 5]),
    ] {
        assert_eq!((spearman(&x, &y), kendall_tau_b(&x, &y)), (None, None));
    }
    let x = [1.0, f64::NAN, 2.0];
    assert_eq!((spearman(&x, &x), kendall_tau_b(&x, &x)), (None, None));
}

/// `configurations` × 3 seeds: x by the configuration, y = x + noise shared within the configuration
/// + noise of the run.
fn runs(configurations: usize, shared: f64, own: f64, rng: &mut impl Rng) -> Vec<Observation> {
    let mut runs = Vec::new();
    for configuration in 0..configurations {
        let together = shared * rng.random_range(-1.0..1.0);
        for seed in 0..3 {
            let x = configuration as f64;
            let y = x + together + own * rng.random_range(-1.0..1.0);
            runs.push(Observation {
                x,
                y,
                configuration,
                seed,
            });
        }
    }
    runs
}

#[test]
fn what_configurations_share_widens_the_interval() {
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let clustered = runs(12, 12.0, 0.1, &mut rng);
    // The same pairs, taken for independent.
    let single: Vec<_> = clustered
        .iter()
        .enumerate()
        .map(|(configuration, &run)| Observation {
            configuration,
            ..run
        })
        .collect();
    let width = |runs: &[Observation], rng: &mut ChaCha8Rng| {
        let interval = correlate(runs, 1000, rng).spearman_interval.unwrap();
        interval.high - interval.low
    };
    let (wide, narrow) = (width(&clustered, &mut rng), width(&single, &mut rng));
    // Three runs that lie together are worth one: the width falls by about √3.
    assert!((1.3..2.3).contains(&(wide / narrow)), "{wide} and {narrow}");
}

#[test]
fn intervals_hold_the_truth_about_as_often_as_they_say() {
    let mut rng = ChaCha8Rng::seed_from_u64(8);
    let trials = 200;
    // y is independent of x up to the configuration: ρ = 0.
    let held = (0..trials)
        .filter(|_| {
            let mut runs = runs(20, 1.0, 1.0, &mut rng);
            runs.iter_mut().for_each(|run| run.y -= run.x);
            let interval = correlate(&runs, 200, &mut rng).spearman_interval.unwrap();
            interval.low <= 0.0 && 0.0 <= interval.high
        })
        .count();
    // 95 % nominal; drawing seeds too makes the two-stage bootstrap a little wide, 20 clusters and
    // 200 resamples a little narrow. Four standard deviations of the count are 6 % of the trials.
    assert!((178..=200).contains(&held), "{held} of {trials}");
}

#[test]
fn the_same_generator_gives_the_same_bits() {
    let runs = runs(5, 1.0, 1.0, &mut ChaCha8Rng::seed_from_u64(1));
    let again = || correlate(&runs, 300, &mut ChaCha8Rng::seed_from_u64(2));
    assert_eq!(again(), again());
    assert_ne!(
        again().spearman_interval,
        correlate(&runs, 300, &mut ChaCha8Rng::seed_from_u64(3)).spearman_interval
    );
}

#[test]
fn small_and_degenerate_samples_say_so() {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    // Two configurations: a sample has only one of them, and is constant in x, half of the time.
    let few = correlate(&runs(2, 0.0, 0.1, &mut rng), 1000, &mut rng);
    assert!((400..600).contains(&few.degenerate), "{}", few.degenerate);
    let note = few.note.unwrap();
    assert!(
        note.starts_with("6 observations of 2 configurations are too few"),
        "{note}"
    );
    assert_eq!(
        correlate(&runs(4, 0.0, 0.1, &mut rng), 10, &mut rng).note,
        None
    );
    let none = correlate(&[], 10, &mut rng);
    assert_eq!(
        (none.spearman, none.spearman_interval, none.observations),
        (None, None, 0)
    );
}
