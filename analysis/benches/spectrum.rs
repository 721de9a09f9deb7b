//! Microseconds for the spectrum of one update, as training measures it every epoch.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use ndarray::{Array2, ArrayView2};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rankwise_analysis::linalg::singular_values;
use rankwise_analysis::product_singular_values;

fn uniform(rows: usize, columns: usize, rng: &mut impl Rng) -> Array2<f32> {
    Array2::from_shape_simple_fn((rows, columns), || rng.random_range(-1.0..1.0))
}

fn factored(b: ArrayView2<'_, f32>, a: ArrayView2<'_, f32>) -> Vec<f64> {
    product_singular_values(b, a, 1.0).expect("finite factors")
}

fn spectra(criterion: &mut Criterion) {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let mut group = criterion.benchmark_group("spectrum");
    for (m, n, rank) in [
        (77, 384, 16),
        (77, 384, 32),
        (77, 384, 64),
        (4096, 4096, 16),
        (11008, 4096, 16),
        (4096, 4096, 64),
    ] {
        let (b, a) = (uniform(m, rank, &mut rng), uniform(rank, n, &mut rng));
        let id = BenchmarkId::new("factored", format!("{m}x{n}, R {rank}"));
        group.bench_function(id, |bench| {
            bench.iter(|| factored(black_box(b.view()), black_box(a.view())));
        });
    }
    for (m, n) in [(77, 384), (256, 256), (768, 768)] {
        let w = uniform(m, n, &mut rng).mapv(f64::from);
        group.bench_function(BenchmarkId::new("dense", format!("{m}x{n}")), |bench| {
            bench.iter(|| singular_values(black_box(w.view())).expect("finite entries"));
        });
    }
    group.finish();
}

criterion_group!(benches, spectra);
criterion_main!(benches);
