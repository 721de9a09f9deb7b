//! Differences of checkpoints: the update's rank comes out whatever type it was stored in.

use std::fs;
use std::path::Path;

use half::{bf16, f16};
use nalgebra::DMatrix;
use ndarray::Array2;
use ndarray_rand::RandomExt;
use ndarray_rand::rand_distr::StandardNormal;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rankwise_analysis::{PairOptions, audit_pair};
use safetensors::Dtype;
use safetensors::tensor::TensorView;

fn bytes(values: &Array2<f64>, dtype: Dtype) -> Vec<u8> {
    let values = values.iter().copied();
    match dtype {
        Dtype::BF16 => values
            .flat_map(|v| bf16::from_f64(v).to_le_bytes())
            .collect(),
        Dtype::F16 => values
            .flat_map(|v| f16::from_f64(v).to_le_bytes())
            .collect(),
        Dtype::F32 => values.flat_map(|v| (v as f32).to_le_bytes()).collect(),
        _ => values.flat_map(f64::to_le_bytes).collect(),
    }
}

fn write(path: &Path, tensors: &[(&str, &Array2<f64>)], dtype: Dtype) {
    let bytes: Vec<_> = tensors.iter().map(|(_, w)| bytes(w, dtype)).collect();
    let views = tensors.iter().zip(&bytes).map(|((name, w), bytes)| {
        let view = TensorView::new(dtype, vec![w.nrows(), w.ncols()], bytes);
        (*name, view.expect("fits"))
    });
    safetensors::serialize_to_file(views, None, path).expect("written");
}

fn gaussian(shape: (usize, usize), std: f64, rng: &mut ChaCha8Rng) -> Array2<f64> {
    std * Array2::<f64>::random_using(shape, StandardNormal, rng)
}

/// Every entry as the type stores it: what training starts from.
fn stored(w: &Array2<f64>, dtype: Dtype) -> Array2<f64> {
    w.mapv(|v| match dtype {
        Dtype::BF16 => bf16::from_f64(v).to_f64(),
        Dtype::F16 => f16::from_f64(v).to_f64(),
        Dtype::F32 => f64::from(v as f32),
        _ => v,
    })
}

#[test]
fn the_rank_of_a_merged_update_is_told_from_rounding() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    for dtype in [Dtype::F64, Dtype::F32, Dtype::F16, Dtype::BF16] {
        for (m, n) in [(96, 96), (200, 64), (64, 300)] {
            let mut base = gaussian((m, n), 0.05, &mut rng);
            // Two rows of large entries, as real feed-forward layers have.
            base.row_mut(3).mapv_inplace(|value| 30.0 * value);
            base.row_mut(7).mapv_inplace(|value| 10.0 * value);
            let base = stored(&base, dtype);
            let update = gaussian((m, 8), 0.06, &mut rng).dot(&gaussian((8, n), 0.3, &mut rng));
            let tuned = &base + &update;
            let paths = [
                folder.path().join("base.safetensors"),
                folder.path().join("tuned.safetensors"),
            ];
            write(&paths[0], &[("w", &base)], dtype);
            write(&paths[1], &[("w", &tuned)], dtype);
            let audit = audit_pair(&paths[0], &paths[1], &PairOptions::default(), |_, _| {})
                .expect("reads");
            let change = &audit.matrices[0];
            assert_eq!(change.rank_above_noise, 8, "{dtype:?} {m} x {n}");
            assert_eq!(change.measures.as_ref().unwrap().numerical_rank, 8);
            // At R = r what is left is the rounding, and not far below its edge.
            let left = change.layer_error(8) / change.noise.floor();
            assert!(
                left < 1.0 && (dtype == Dtype::F64 || left > 0.2),
                "{dtype:?} {left}"
            );
            let difference = stored(&tuned, dtype) - &base;
            let oracle = DMatrix::from_fn(m, n, |i, j| difference[[i, j]]).singular_values();
            let mut oracle: Vec<f64> = oracle.iter().copied().collect();
            oracle.sort_by(|a, b| b.total_cmp(a));
            for (ours, theirs) in change.singular_values.iter().zip(&oracle) {
                assert!((ours - theirs).abs() < 1e-12 * oracle[0], "{ours} {theirs}");
            }
        }
    }
}

#[test]
fn shards_are_found_and_what_does_not_match_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    let (a, b) = (
        gaussian((4, 3), 1.0, &mut rng),
        gaussian((3, 5), 1.0, &mut rng),
    );
    let (base, tuned) = (folder.path().join("base"), folder.path().join("tuned"));
    for path in [&base, &tuned] {
        fs::create_dir(path).expect("made");
    }
    let only = gaussian((2, 2), 1.0, &mut rng);
    write(
        &base.join("model.safetensors"),
        &[("a", &a), ("b", &b), ("old", &only)],
        Dtype::F32,
    );
    write(&tuned.join("one.safetensors"), &[("a", &a)], Dtype::F32);
    write(
        &tuned.join("two.safetensors"),
        &[("b", &b.t().to_owned()), ("new", &only)],
        Dtype::F32,
    );
    let index = tuned.join("model.safetensors.index.json");
    let map = r#"{"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}"#;
    fs::write(&index, map).expect("written");
    let audit = audit_pair(&base, &tuned, &PairOptions::default(), |_, _| {}).expect("reads");
    assert_eq!(audit.matrices.len(), 1);
    assert_eq!(audit.matrices[0].singular_values, [0.0; 3]);
    assert_eq!(audit.matrices[0].rank_above_noise, 0);
    let names: Vec<&str> = audit.unmatched.iter().map(|u| u.name.as_str()).collect();
    assert_eq!(names, ["b", "new", "old"]);
    assert!(audit.unmatched[0].reason.contains("[3, 5], found [5, 3]"));

    for outside in [
        "../base/model.safetensors",
        "/etc/passwd",
        "sub/one.safetensors",
        "..",
    ] {
        let map = serde_json::json!({"weight_map": {"a": outside}});
        fs::write(&index, map.to_string()).expect("written");
        let error =
            audit_pair(&base, &tuned, &PairOptions::default(), |_, _| {}).expect_err("outside");
        assert!(error.to_string().contains("without a folder"), "{error}");
    }
    fs::write(&index, "{}").expect("written");
    let error = audit_pair(&base, &tuned, &PairOptions::default(), |_, _| {}).expect_err("no map");
    assert!(error.to_string().contains("weight_map"), "{error}");
    let error = audit_pair(&base, folder.path(), &PairOptions::default(), |_, _| {})
        .expect_err("no weights");
    assert!(error.to_string().contains("none of them"), "{error}");
}

/// Rounding to half precision hides what single precision errs by; rounding to float64 does not.
#[test]
fn large_matrices_are_decomposed_in_the_precision_that_their_type_asks_for() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let (m, n) = (400, 420);
    for (dtype, size, expected) in [
        (Dtype::BF16, 0.06, "f32"),
        (Dtype::F16, 0.06, "f32"),
        (Dtype::F32, 1e-6, "f32"),
        (Dtype::F32, 0.06, "f64"),
        (Dtype::F64, 0.06, "f64"),
    ] {
        let base = stored(&gaussian((m, n), 0.05, &mut rng), dtype);
        let update = gaussian((m, 8), size, &mut rng).dot(&gaussian((8, n), 0.3, &mut rng));
        let tuned = &base + &update;
        let paths = ["base", "tuned"].map(|name| folder.path().join(format!("{name}.safetensors")));
        write(&paths[0], &[("w", &base)], dtype);
        write(&paths[1], &[("w", &tuned)], dtype);
        let audit =
            audit_pair(&paths[0], &paths[1], &PairOptions::default(), |_, _| {}).expect("reads");
        let change = &audit.matrices[0];
        let record = serde_json::to_value(change).expect("a record");
        assert_eq!(record["arithmetic"], expected, "{dtype:?} {size}");
        assert_eq!(change.rank_above_noise, 8, "{dtype:?} {size}");
        let difference = stored(&tuned, dtype) - &base;
        let known = rankwise_analysis::linalg::singular_values(difference.view()).expect("finite");
        let error = change.noise.decomposition;
        assert!(error <= change.noise.floor());
        for (found, known) in change.singular_values.iter().zip(&known) {
            assert!((found - known).abs() <= error, "{found} {known}");
        }
    }
}

/// A parameter of four experts is four matrices: no rank of all of them flattened.
#[test]
fn stacked_experts_are_named_and_not_one_matrix() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut rng = ChaCha8Rng::seed_from_u64(8);
    for name in ["base", "tuned"] {
        let numbers = bytes(&gaussian((4 * 6, 5), 1.0, &mut rng), Dtype::F32);
        let biases = bytes(&gaussian((4, 5), 1.0, &mut rng), Dtype::F32);
        let view = |shape, numbers| TensorView::new(Dtype::F32, shape, numbers).expect("fits");
        let tensors = [
            ("gate.weight", view(vec![4, 5], &biases)),
            ("mlp.experts.down_proj", view(vec![4, 6, 5], &numbers)),
            ("mlp.experts.down_proj_bias", view(vec![4, 5], &biases)),
        ];
        let path = folder.path().join(format!("{name}.safetensors"));
        safetensors::serialize_to_file(tensors, None, &path).expect("written");
    }
    let at = |name: &str| folder.path().join(name);
    let (base, tuned) = (at("base.safetensors"), at("tuned.safetensors"));
    let audit = audit_pair(&base, &tuned, &PairOptions::default(), |_, _| {}).expect("reads");
    assert_eq!(audit.matrices.len(), 1);
    let said: Vec<&str> = audit.unmatched.iter().map(|one| &*one.reason).collect();
    assert!(said[0].starts_with("a stack of 4 matrices"), "{said:?}");
    assert!(said[1].contains("biases of experts"), "{said:?}");
}
