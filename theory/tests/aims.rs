//! Updates that are fitted to the inputs: optimal where the theory says so, exact where the plain
//! construction is.

use ndarray::{Array1, Array2, array};
use ndarray_rand::RandomExt;
use ndarray_rand::rand_distr::StandardNormal;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rankwise_theory::{
    Aim, Domain, Error, Family, Fnn, Partition, Problem, Sample, Strategy, measured_error,
    oracle_singular_values,
};

fn strategy(aim: Aim) -> Strategy {
    Strategy {
        aim,
        ..Strategy::default()
    }
}

/// Inputs whose second moment has the eigenvalues k⁻².
fn anisotropic(count: usize, width: usize, rng: &mut ChaCha8Rng) -> Sample {
    let scales = Array1::from_shape_fn(width, |k| 1.0 / (k + 1) as f64);
    let points = Array2::random_using((count, width), StandardNormal, rng) * &scales;
    Sample::new(points, None).expect("finite")
}

/// √E‖(∏Ŵ − W̄) x‖² of the only block.
fn linear_error(problem: &Problem, sample: &Sample, rank: usize, aim: Aim) -> f64 {
    let built = problem
        .construct_with(&[rank], Domain::Sample(sample), strategy(aim))
        .expect("one layer");
    let delta = &built.blocks()[0].product - &problem.target().weights()[0];
    let left = sample.points().dot(&delta.t());
    (left.mapv(|value| value * value).sum() / sample.points().nrows() as f64).sqrt()
}

#[test]
fn the_second_moments_update_leaves_the_smaller_weighted_singular_values() {
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let partition = Partition::uniform(1, 1).expect("valid");
    let problem = Family::Gaussian
        .draw(32, partition, 0.0, &mut rng)
        .expect("valid");
    let sample = anisotropic(400, 32, &mut rng);
    let weighted = problem.discrepancies()[0]
        .matrix()
        .dot(&sample.points().t());
    let sigma = oracle_singular_values(weighted.view()).expect("converges");
    for rank in [0, 1, 4, 8, 31] {
        let rest: f64 = sigma[rank..].iter().map(|s| s * s / 400.0).sum();
        let aware = linear_error(&problem, &sample, rank, Aim::SecondMoment);
        assert!((aware / rest.sqrt() - 1.0).abs() < 1e-11, "{rank}: {aware}");
        let plain = linear_error(&problem, &sample, rank, Aim::Plain);
        assert!(aware <= plain * (1.0 + 1e-12), "{rank}");
        if rank == 8 {
            // The design's measurement: 0.29 to 0.46 of the plain error.
            assert!(aware / plain < 0.6, "{}", aware / plain);
        }
    }
}

/// Over the whole rank the regression finds W̄ and b̄ again.
#[test]
fn regression_is_exact_with_the_whole_rank_and_better_than_plain_without() {
    let mut rng = ChaCha8Rng::seed_from_u64(6);
    let mut ratios = Vec::new();
    for depth in 1..=3 {
        let mut ratio = 0.0;
        for _ in 0..5 {
            let partition = Partition::uniform(2 * depth, depth).expect("valid");
            let problem = Family::Gaussian
                .draw(16, partition, 1.0, &mut rng)
                .expect("valid");
            let sample = Sample::gaussian(1000, 16, &mut rng).expect("valid");
            let error = |rank: usize, aim| {
                let ranks = vec![rank; 2 * depth];
                let built = problem
                    .construct_with(&ranks, Domain::Sample(&sample), strategy(aim))
                    .expect("not singular");
                measured_error(built.adapted(), problem.target(), &sample).expect("fits")
            };
            assert!(error(8, Aim::Regression) < 1e-9);
            assert!(error(8, Aim::SecondMoment) < 1e-9);
            ratio += error(4, Aim::Regression) / error(4, Aim::Plain) / 5.0;
        }
        ratios.push(ratio);
    }
    // Measured by the design for L̄ = 1, 2, 3: 1.0, 0.76, 0.61.
    assert!(
        ratios[0] < 1.02 && ratios[1] < 0.9 && ratios[2] < 0.8,
        "{ratios:?}"
    );
    assert!(ratios[2] < ratios[0], "{ratios:?}");
}

/// Rank 1 by hand: the inputs are (±1, 0) and (0, ±1/4), E = diag(1, 2).
#[test]
fn the_aims_differ_where_the_inputs_are_small() {
    let target = Fnn::without_biases(vec![array![[1.0, 0.0], [0.0, 2.0]]]).expect("square");
    let frozen = Fnn::without_biases(vec![Array2::zeros((2, 2))]).expect("square");
    let partition = Partition::uniform(1, 1).expect("valid");
    let problem = Problem::new(target, frozen, partition).expect("fits");
    let points = array![[1.0, 0.0], [-1.0, 0.0], [0.0, 0.25], [0.0, -0.25]];
    let sample = Sample::new(points, None).expect("finite");
    let product = |aim| {
        let domain = Domain::Sample(&sample);
        let built = problem.construct_with(&[1], domain, strategy(aim));
        built.expect("one layer").blocks()[0].product.clone()
    };
    let close = |a: Array2<f64>, b: Array2<f64>| (a - b).iter().all(|gap| gap.abs() < 1e-14);
    assert!(close(product(Aim::Plain), array![[0.0, 0.0], [0.0, 2.0]]));
    for aim in [Aim::SecondMoment, Aim::Regression] {
        assert!(
            close(product(aim), array![[1.0, 0.0], [0.0, 0.0]]),
            "{aim:?}"
        );
    }
}

#[test]
fn fitted_aims_need_a_sample() {
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    let partition = Partition::uniform(1, 1).expect("valid");
    let problem = Family::Gaussian.draw(4, partition, 0.0, &mut rng);
    let ball = Domain::Ball { radius: 1.0 };
    let error = problem
        .expect("valid")
        .construct_with(&[1], ball, strategy(Aim::Regression))
        .expect_err("no inputs to fit");
    assert!(matches!(error, Error::Invalid { .. }), "{error}");
}
