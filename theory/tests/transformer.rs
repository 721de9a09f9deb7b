//! The transformer theorem: exact from the threshold on, and only from there.

use ndarray::Array2;
use ndarray_rand::RandomExt;
use ndarray_rand::rand_distr::StandardNormal;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rankwise_theory::{Transformer, TransformerGrid, TransformerPair, transformer_curve};

/// Full-rank gaps: exact at R = D/2, far off at D/2 − 1, whatever the number of blocks.
#[test]
fn exact_at_half_the_width_and_not_below() {
    let grid = TransformerGrid {
        widths: vec![8],
        seeds: vec![0, 1, 2],
        samples: 20,
        ..TransformerGrid::default()
    };
    let records = transformer_curve(&grid, |_| {}).expect("finite");
    assert_eq!(records.len(), grid.records());
    for record in &records {
        assert_eq!(record.threshold, 4);
        let error = record.relative_error.expect("Gaussian factors are regular");
        match record.exact {
            true => assert!(error < 1e-8, "{record:?}"),
            false => assert!(error > 0.02, "{record:?}"),
        }
    }
    let one = rayon::ThreadPoolBuilder::new()
        .num_threads(1)
        .build()
        .expect("a thread");
    assert_eq!(
        one.install(|| transformer_curve(&grid, |_| {}))
            .expect("finite"),
        records
    );
}

/// The gaps have the ranks that the target was moved by, and those ranks are enough.
#[test]
fn a_target_moved_by_rank_two_needs_adapters_of_rank_one() {
    let mut rng = ChaCha8Rng::seed_from_u64(4);
    let frozen = Transformer::random(6, 2, 2, &mut rng).expect("valid");
    let mut target = frozen.clone();
    let mut moved = |w: &mut Array2<f64>| {
        let mut factor =
            |rows, columns| Array2::<f64>::random_using((rows, columns), StandardNormal, &mut rng);
        *w += &factor(6, 2).dot(&factor(2, 6));
    };
    for block in &mut target.blocks {
        moved(&mut block.heads[0].query);
        moved(&mut block.heads[1].value);
    }
    moved(&mut target.output);
    let pair = TransformerPair::new(target, frozen).expect("same size");
    assert_eq!(pair.gap_ranks(), [2, 0, 0, 2, 2, 0, 0, 2, 2]);
    assert_eq!(pair.threshold(), 1);
    let tokens = Array2::random_using((6, 5), StandardNormal, &mut rng);
    let error = |rank| {
        let adapted = pair.adapt(rank).expect("regular").adapted;
        let gap = adapted.forward(tokens.view()).expect("fits")
            - pair.target().forward(tokens.view()).expect("fits");
        gap.iter().fold(0.0, |a: f64, b| a.max(b.abs()))
    };
    assert!(error(1) < 1e-10, "{}", error(1));
    assert!(error(0) > 1e-2, "{}", error(0));
}

#[test]
fn adapters_keep_their_rank_and_leave_the_first_layer() {
    let mut rng = ChaCha8Rng::seed_from_u64(9);
    let mut draw = || Transformer::random(6, 1, 2, &mut rng).expect("valid");
    let (target, frozen) = (draw(), draw());
    let pair = TransformerPair::new(target, frozen.clone()).expect("same size");
    let adapted = pair.adapt(2).expect("regular").adapted;
    let rank = |a: &Array2<f64>, b: &Array2<f64>| {
        let sigma = rankwise_theory::oracle_singular_values((a - b).view()).expect("converges");
        sigma
            .iter()
            .filter(|&&s| s > 1e-9 * sigma[0].max(1.0))
            .count()
    };
    for (a, b) in adapted.blocks.iter().zip(&frozen.blocks) {
        assert_eq!(a.first, b.first);
        assert_eq!(rank(&a.heads[0].query, &b.heads[0].query), 2);
        assert_eq!(rank(&a.heads[0].key, &b.heads[0].key), 2);
        assert_eq!(rank(&a.heads[0].value, &b.heads[0].value), 2);
        assert_eq!(rank(&a.heads[0].output, &b.heads[0].output), 2);
    }
    assert_eq!(rank(&adapted.output, &frozen.output), 2);
    assert_eq!(rank(&adapted.blocks[0].second, &frozen.blocks[0].second), 0);
    assert_eq!(rank(&adapted.blocks[1].second, &frozen.blocks[1].second), 2);
}

#[test]
fn sizes_that_differ_and_tokens_that_do_not_fit_are_refused() {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let small = Transformer::random(2, 1, 1, &mut rng).expect("valid");
    let large = Transformer::random(2, 2, 1, &mut rng).expect("valid");
    assert!(TransformerPair::new(small.clone(), large).is_err());
    assert!(small.forward(Array2::zeros((3, 4)).view()).is_err());
    assert!(Transformer::random(0, 1, 1, &mut rng).is_err());
}
