//! What the theorem promises, on random problems of every kind.

use ndarray::Array2;
use ndarray_rand::RandomExt;
use ndarray_rand::rand_distr::StandardNormal;
use proptest::prelude::*;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rankwise_analysis::linalg::qr;
use rankwise_theory::{
    Domain, Error, Family, Fnn, Grid, Lift, Outcome, Partition, Problem, Sample,
    oracle_singular_values, verify_cell, verify_grid,
};

/// Two SVDs of the same matrix, or of one with rotated sides, agree to rounding: D ε σ₁ is below
/// this share of σ₁ for every width used here.
const SPECTRUM: f64 = 1e-12;

fn rng(seed: u64) -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(seed)
}

/// A problem with a sample: any width, partition, family, ranks and lift.
#[derive(Debug, Clone)]
struct Setting {
    width: usize,
    sizes: Vec<usize>,
    family: Family,
    bias_scale: f64,
    ranks: Vec<usize>,
    lift: Lift,
    seed: u64,
}

fn settings() -> impl Strategy<Value = Setting> {
    let shape = (2_usize..=8, prop::collection::vec(1_usize..=3, 1..=3));
    shape.prop_flat_map(|(width, sizes)| {
        let family = prop_oneof![
            Just(Family::Gaussian),
            (0.0..1.0).prop_map(|noise| Family::NearIdentity { noise }),
            (0..=width).prop_map(|rank| Family::LowRank { rank }),
        ];
        let layers: usize = sizes.iter().sum();
        (
            Just((width, sizes)),
            family,
            prop_oneof![Just(0.0), 0.0..3.0],
            prop::collection::vec(0..=width, layers),
            prop_oneof![Just(Lift::Sample), Just(Lift::Ball)],
            any::<u64>(),
        )
            .prop_map(
                |((width, sizes), family, bias_scale, ranks, lift, seed)| Setting {
                    width,
                    sizes,
                    family,
                    bias_scale,
                    ranks,
                    lift,
                    seed,
                },
            )
    })
}

impl Setting {
    fn draw(&self) -> (Problem, Sample) {
        let mut rng = rng(self.seed);
        let partition = Partition::from_sizes(&self.sizes).expect("no empty block");
        let problem = self
            .family
            .draw(self.width, partition, self.bias_scale, &mut rng);
        let sample = Sample::gaussian(50, self.width, &mut rng);
        (problem.expect("valid numbers"), sample.expect("50 points"))
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn proved_bounds_hold(setting in settings()) {
        let (problem, sample) = setting.draw();
        let sigma = sample.second_moment().expect("finite");
        let result = problem.verify(&setting.ranks, &sample, &sigma, setting.lift, rankwise_theory::Strategy::default()).expect("finite");
        let Outcome::Measured(measured) = result.outcome else {
            return Err(TestCaseError::reject("singular product"));
        };
        prop_assert!(!measured.violated.corrected, "{measured:?}");
        prop_assert!(!measured.violated.spectral, "{measured:?}");
        prop_assert!(!measured.violated.tail, "{measured:?}");
        if setting.sizes.len() <= 2 {
            prop_assert!(!measured.violated.trace, "{measured:?}");
        }
        // The allowance must not be what makes the bounds hold.
        let size = problem.target().forward(sample.points()).expect("fits");
        let size = size.iter().fold(1.0, |a: f64, b| a.max(*b));
        prop_assert!(measured.rounding < 1e-6 * size, "{measured:?}");
        prop_assert!(result.bounds.spectral <= result.bounds.corrected * (1.0 + 1e-12));
    }

    #[test]
    fn adapters_keep_their_ranks(setting in settings()) {
        let (problem, sample) = setting.draw();
        let construction = match problem.construct(&setting.ranks, setting.lift.domain(&sample)) {
            Err(Error::Singular { .. }) => return Err(TestCaseError::reject("singular product")),
            other => other.expect("finite"),
        };
        let layers = problem.frozen().weights().iter().zip(construction.adapted().weights());
        for ((adapter, (frozen, adapted)), &rank) in
            construction.adapters().iter().zip(layers).zip(&setting.ranks)
        {
            prop_assert!(adapter.b.ncols() <= rank);
            prop_assert_eq!(&(frozen + &adapter.delta()), adapted);
        }
    }

    #[test]
    fn layer_errors_fall_with_every_rank(setting in settings(), layer in any::<prop::sample::Index>()) {
        let (problem, _) = setting.draw();
        let before = problem.layer_errors(&setting.ranks).expect("one rank a layer");
        let mut ranks = setting.ranks.clone();
        ranks[layer.index(setting.ranks.len())] += 1;
        let after = problem.layer_errors(&ranks).expect("one rank a layer");
        prop_assert!(before.iter().zip(&after).all(|(before, after)| after <= before));
        let full = vec![setting.width; ranks.len()];
        let full = problem.layer_errors(&full).expect("one rank a layer");
        prop_assert!(full.iter().all(|&e| e == 0.0));
    }

    #[test]
    fn rotating_both_sides_leaves_the_spectra(setting in settings()) {
        let (problem, _) = setting.draw();
        let mut rng = rng(setting.seed ^ 1);
        let mut rotation = || {
            let size = (setting.width, setting.width);
            qr(Array2::random_using(size, StandardNormal, &mut rng).view()).q
        };
        let (u, v) = (rotation(), rotation());
        let mut frozen = problem.frozen().weights().to_vec();
        for block in problem.partition().blocks() {
            frozen[block.start] = frozen[block.start].dot(&v.t());
            frozen[block.end - 1] = u.dot(&frozen[block.end - 1]);
        }
        let target = problem.target().weights().iter().map(|w| u.dot(w).dot(&v.t())).collect();
        let rotated = Problem::new(
            Fnn::without_biases(target).expect("square"),
            Fnn::without_biases(frozen).expect("square"),
            problem.partition().clone(),
        );
        let rotated = rotated.expect("same shapes");
        for (i, (a, b)) in problem.discrepancies().iter().zip(rotated.discrepancies()).enumerate() {
            // E is a difference: its rounding is that of its terms.
            let scale = problem.norms().spectral[i] + a.singular_values()[0];
            for (x, y) in a.singular_values().iter().zip(b.singular_values()) {
                prop_assert!((x - y).abs() <= SPECTRUM * scale, "{x} {y}");
            }
        }
    }

    #[test]
    fn spectra_agree_with_the_oracle(setting in settings()) {
        let (problem, _) = setting.draw();
        for gap in problem.discrepancies() {
            let oracle = oracle_singular_values(gap.matrix()).expect("converges");
            for (x, y) in gap.singular_values().iter().zip(&oracle) {
                prop_assert!((x - y).abs() <= SPECTRUM * oracle[0], "{x} {y}");
            }
        }
    }
}

/// Exact at ΣR_l = rank E and not one less, wherever the ranks are spent.
#[test]
fn exact_from_the_discrepancys_rank_on() {
    let width = 12;
    for (seed, rank) in [(0, 3), (1, 5), (2, 8)] {
        let mut rng = rng(seed);
        let partition = Partition::from_sizes(&[2, 3]).expect("valid");
        let problem = Family::LowRank { rank }
            .draw(width, partition, 1.0, &mut rng)
            .expect("valid");
        let sample = Sample::gaussian(200, width, &mut rng).expect("valid");
        let sigma = sample.second_moment().expect("finite");
        let error = |ranks: &[usize]| {
            let result = problem
                .verify(
                    ranks,
                    &sample,
                    &sigma,
                    Lift::Sample,
                    rankwise_theory::Strategy::default(),
                )
                .expect("finite");
            let Outcome::Measured(measured) = result.outcome else {
                panic!("Gaussian products are not singular");
            };
            (result.exact, measured.error)
        };
        for spent in [[1, rank - 1, 1, 0, rank - 1], [rank, 0, 0, 1, rank - 1]] {
            let (exact, measured) = error(&spent);
            assert!(exact && measured < 1e-10, "{spent:?} {measured}");
            let mut less = spent;
            less[4] -= 1;
            let (exact, measured) = error(&less);
            assert!(!exact && measured > 1e-3, "{less:?} {measured}");
        }
    }
}

/// Two blocks of one layer each need no inverse: even zero weights are no obstacle.
#[test]
fn blocks_of_one_layer_take_singular_weights() {
    let zeros = || vec![Array2::zeros((3, 3)); 2];
    let target = vec![
        Array2::eye(3),
        Array2::from_diag(&ndarray::array![3.0, 2.0, 1.0]),
    ];
    let problem = Problem::new(
        Fnn::without_biases(target).expect("square"),
        Fnn::without_biases(zeros()).expect("square"),
        Partition::uniform(2, 2).expect("valid"),
    )
    .expect("fits");
    let construction = problem
        .construct(&[3, 2], Domain::Ball { radius: 1.0 })
        .expect("no inverse");
    let product = &construction.blocks()[1].product;
    let best = Array2::from_diag(&ndarray::array![3.0, 2.0, 0.0]);
    assert!(
        (product - &best).iter().all(|gap| gap.abs() < 1e-15),
        "{product}"
    );
}

#[test]
fn a_grid_is_its_cells_in_order_at_any_number_of_threads() {
    let grid = Grid {
        widths: vec![6],
        families: vec![Family::Gaussian, Family::LowRank { rank: 2 }],
        seeds: vec![4, 5],
        ranks: Some(vec![0, 2, 6]),
        samples: 40,
        ..Grid::default()
    };
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .expect("threads");
        let seen = std::sync::atomic::AtomicUsize::new(0);
        let count = |n| {
            seen.fetch_add(n, std::sync::atomic::Ordering::Relaxed);
        };
        let records = pool
            .install(|| verify_grid(&grid, count))
            .expect("valid grid");
        assert_eq!(seen.into_inner(), records.len());
        records
    };
    let records = run(1);
    assert_eq!(records, run(3));
    assert_eq!(records.len(), grid.records());
    let cells = grid.cells();
    let singly = cells
        .iter()
        .flat_map(|cell| [0, 2, 6].map(|rank| verify_cell(cell, rank)));
    for (record, alone) in records.iter().zip(singly) {
        assert_eq!(record, &alone.expect("valid cell"));
    }
    // Twelve of each depth; within a cell the error falls to rounding.
    for cell in records.chunks(3) {
        let error = |i: usize| cell[i].measured.expect("not singular");
        assert!(error(0) > error(1) && error(1) >= error(2) && error(2) < 1e-10);
    }
}

#[test]
fn what_fits_no_network_is_refused() {
    let grid = |change: fn(&mut Grid)| {
        let mut grid = Grid {
            widths: vec![4],
            samples: 10,
            ..Grid::default()
        };
        change(&mut grid);
        verify_grid(&grid, |_| {})
            .expect_err("malformed")
            .to_string()
    };
    assert_eq!(
        grid(|grid| grid.depths = vec![(3, 2)]),
        "target layers of a partition: expected 1 to 2, the number of frozen layers, found 3"
    );
    assert_eq!(
        grid(|grid| grid.ranks = Some(vec![5])),
        "rank: expected at most the width, 4, found 5"
    );
    assert!(grid(|grid| grid.samples = 0).starts_with("sample: "));
    assert!(grid(|grid| grid.bias_scales = vec![f64::NAN]).starts_with("bias scale: "));
    for huge in [1 << 20, usize::MAX] {
        let mut grid = Grid {
            widths: vec![huge],
            ..Grid::default()
        };
        let error = verify_grid(&grid, |_| {}).expect_err("too large");
        assert!(error.to_string().starts_with("size of a cell: "), "{error}");
        (grid.widths, grid.samples) = (vec![4], huge << 8);
        grid.depths = vec![(huge, huge)];
        let error = verify_grid(&grid, |_| {}).expect_err("too large");
        assert!(error.to_string().starts_with("size of a cell: "), "{error}");
    }
    assert!(grid(|grid| grid.widths = vec![0]).starts_with("sample: "));
}
