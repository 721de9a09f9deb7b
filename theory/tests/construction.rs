//! How many digits the construction keeps, and what it does where it cannot work.

use ndarray::{Array2, array};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rankwise_theory::{Domain, Error, Family, Fnn, Order, Partition, Problem, Sample, Strategy};

fn problem(target: Array2<f64>, frozen: Vec<Array2<f64>>) -> Problem {
    let partition = Partition::uniform(frozen.len(), 1).expect("valid");
    let net = |weights| Fnn::without_biases(weights).expect("square");
    Problem::new(net(vec![target]), net(frozen), partition).expect("same width")
}

const UNIT_BALL: Domain<'static> = Domain::Ball { radius: 1.0 };

/// The order of the paper's lemma has a median defect of 2e-9 here, with explicit inverses in
/// single precision nothing is left: 1e-10 tells small first from either.
#[test]
fn four_layers_of_width_64_keep_ten_digits() {
    let mut defects: Vec<f64> = (0..9)
        .map(|seed| {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            let partition = Partition::uniform(4, 1).expect("valid");
            let problem = Family::Gaussian
                .draw(64, partition, 1.0, &mut rng)
                .expect("valid");
            let sample = Sample::gaussian(100, 64, &mut rng).expect("valid");
            let domain = Domain::Sample(&sample);
            problem
                .construct(&[8; 4], domain)
                .expect("not singular")
                .defect()
        })
        .collect();
    defects.sort_by(f64::total_cmp);
    assert!(defects[4] <= 1e-10, "{defects:?}");
}

/// E = diag(−1, ½), P = I: the largest triplet first makes the first layer singular.
#[test]
fn small_first_works_where_large_first_is_singular() {
    let eye = Array2::eye(2);
    let target = array![[0.0, 0.0], [0.0, 1.5]];
    let problem = problem(target.clone(), vec![eye.clone(), eye]);
    let construction = problem
        .construct(&[1, 1], UNIT_BALL)
        .expect("the swapped order works");
    let gap = &construction.blocks()[0].product - &target;
    assert!(gap.iter().all(|value| value.abs() < 1e-15), "{gap}");
    let first = &construction.adapters()[0].delta() - &array![[0.0, 0.0], [0.0, 0.5]];
    assert!(first.iter().all(|value| value.abs() < 1e-15), "{first}");
}

#[test]
fn the_singular_layer_is_named() {
    let eye = Array2::<f64>::eye(3);
    let flat = Array2::from_diag(&array![1.0, 1.0, 0.0]);
    let singular = |ranks: &[usize], frozen: Vec<Array2<f64>>| match problem(&eye * 2.0, frozen)
        .construct(ranks, UNIT_BALL)
    {
        Err(Error::Singular {
            layer, condition, ..
        }) => (layer, condition),
        other => panic!("expected a singular product, found {other:?}"),
    };
    // A later frozen layer, met from the first that gets a share.
    assert_eq!(
        singular(&[1, 1, 1], vec![eye.clone(), eye.clone(), flat.clone()]),
        (3, f64::INFINITY)
    );
    // An earlier one that got none.
    assert_eq!(
        singular(&[0, 0, 3], vec![eye.clone(), flat.clone(), eye.clone()]),
        (2, f64::INFINITY)
    );
    // No share, no inverse: a singular first layer is no obstacle to the others before it is used.
    let problem = problem(&eye * 2.0, vec![flat, eye.clone(), eye.clone()]);
    assert!(problem.construct(&[3, 0, 0], UNIT_BALL).is_ok());
}

#[test]
fn a_product_without_a_digit_left_is_singular() {
    let scales = |last: f64| Array2::from_diag(&array![1.0, 1.0, last]);
    let target = Array2::from_diag(&array![2.0, 3.0, 5.0]);
    let attempt = |last| {
        problem(target.clone(), vec![Array2::eye(3), scales(last)]).construct(&[3, 0], UNIT_BALL)
    };
    assert!(matches!(
        attempt(1e-16),
        Err(Error::Singular { layer: 2, .. })
    ));
    assert!(attempt(1e-3).expect("well conditioned").defect() < 1e-14);
}

#[test]
fn ranks_and_domains_that_do_not_fit_are_refused() {
    let problem = problem(Array2::eye(2), vec![Array2::eye(2); 2]);
    let message = |ranks: &[usize], domain| {
        problem
            .construct(ranks, domain)
            .expect_err("malformed")
            .to_string()
    };
    assert_eq!(
        message(&[1], UNIT_BALL),
        "ranks: expected one for each of 2 frozen layers, found 1"
    );
    assert_eq!(
        message(&[1, 1], Domain::Ball { radius: f64::NAN }),
        "radius: expected a finite number from 0, found NaN"
    );
    let sample = Sample::new(array![[1.0, 2.0, 3.0]], None).expect("valid");
    assert_eq!(
        message(&[1, 1], Domain::Sample(&sample)),
        "width of the sample: expected 2, found 3"
    );
    assert!(
        problem
            .construct(&[usize::MAX, usize::MAX], UNIT_BALL)
            .is_ok()
    );
}

/// E = diag(−1, −2), P = I: the smallest triplet first makes the first layer singular, and the
/// paper's order works.
#[test]
fn the_other_order_is_tried_where_the_first_is_singular() {
    let eye = Array2::eye(2);
    let target = array![[0.0, 0.0], [0.0, -1.0]];
    let problem = problem(target.clone(), vec![eye.clone(), eye]);
    let construction = problem.construct(&[1, 1], UNIT_BALL).expect("works");
    assert_eq!(construction.blocks()[0].order, Order::LargeFirst);
    let gap = &construction.blocks()[0].product - &target;
    assert!(gap.iter().all(|value| value.abs() < 1e-15), "{gap}");
}

/// Both orders reach the same product; the paper's loses more digits on the way.
#[test]
fn the_papers_order_loses_more_digits() {
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    let partition = Partition::uniform(4, 1).expect("valid");
    let problem = Family::Gaussian.draw(64, partition, 1.0, &mut rng);
    let problem = problem.expect("valid");
    let build = |order| {
        let strategy = Strategy {
            order,
            ..Strategy::default()
        };
        problem
            .construct_with(&[8; 4], UNIT_BALL, strategy)
            .expect("not singular")
    };
    let (small, large) = (build(Order::SmallFirst), build(Order::LargeFirst));
    assert!(large.defect() < 1e-5, "{}", large.defect());
    assert!(small.defect() < large.defect());
    for adapter in large.adapters() {
        assert_eq!(adapter.b.ncols(), 8);
    }
}
