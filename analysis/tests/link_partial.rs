//! Partial rank correlations, permutation tests and leave-one-out against NumPy and SciPy, in closed
//! form, and by what must not change them.

use proptest::prelude::*;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rankwise_analysis::{
    Observation, Sample, Unit, associate, correlate, leave_one_out, partial_kendall,
    partial_spearman, permutation_p, smallest_significant, spearman,
};
use serde::Deserialize;

#[derive(Deserialize)]
struct Fixture {
    partials: Vec<PartialCase>,
    permutations: Vec<PermutationCase>,
}

#[derive(Deserialize)]
struct PartialCase {
    x: Vec<f64>,
    y: Vec<f64>,
    covariates: Vec<Vec<f64>>,
    spearman: f64,
    kendall: Option<f64>,
}

#[derive(Deserialize)]
struct PermutationCase {
    x: Vec<f64>,
    y: Vec<f64>,
    p: f64,
}

/// Least squares on some forty ranks: conditioned well, a few hundred roundings.
const TOLERANCE: f64 = 1e-12;

fn fixture() -> Fixture {
    serde_json::from_str(include_str!("fixtures/link.json")).unwrap()
}

fn columns(covariates: &[Vec<f64>]) -> Vec<&[f64]> {
    covariates.iter().map(Vec::as_slice).collect()
}

fn rng() -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(4)
}

/// Every pair by itself, or three to a configuration.
fn runs(x: &[f64], y: &[f64], each: usize) -> Vec<Observation> {
    let pairs = x.iter().zip(y).enumerate();
    pairs
        .map(|(i, (&x, &y))| Observation {
            x,
            y,
            configuration: i / each,
            seed: (i % each) as u64,
        })
        .collect()
}

#[test]
fn partial_correlations_are_numpys() {
    for case in fixture().partials {
        let z = columns(&case.covariates);
        let partial = partial_spearman(&case.x, &case.y, &z).unwrap();
        assert!((partial.rho - case.spearman).abs() < TOLERANCE);
        assert_eq!(partial.degrees_of_freedom, case.x.len() - 2 - z.len());
        if let Some(tau) = case.kendall {
            let found = partial_kendall(&case.x, &case.y, z[0]).unwrap();
            assert!((found - tau).abs() < TOLERANCE);
        }
    }
}

#[test]
fn permutation_tests_are_scipys() {
    for case in fixture().permutations {
        let test = permutation_p(&runs(&case.x, &case.y, 1), 10, &mut rng()).unwrap();
        assert!(test.exact && test.unit == Unit::Observation);
        assert!((test.p - case.p).abs() < 1e-15, "{} {}", test.p, case.p);
    }
}

#[test]
fn random_orders_agree_with_all() {
    // 8 units by all orders; the same correlation among 9 by random ones.
    let x: Vec<f64> = (0..9).map(f64::from).collect();
    let y = [2.0, 0.0, 1.0, 5.0, 3.0, 4.0, 8.0, 6.0, 7.0];
    let test = permutation_p(&runs(&x, &y, 1), 9999, &mut rng()).unwrap();
    assert!(!test.exact && test.orders == 9999);
    // ρ = 0.85 of 9 pairs: p = 0.0061 of all 9! orders, four standard deviations are 0.0031.
    assert!((test.p - 0.0061).abs() < 0.0032, "{}", test.p);
}

#[test]
fn runs_of_a_configuration_are_exchanged_together() {
    let x: Vec<f64> = (0..12).map(|i| f64::from(i / 3)).collect();
    let y: Vec<f64> = (0..12).map(f64::from).collect();
    let test = permutation_p(&runs(&x, &y, 3), 100, &mut rng()).unwrap();
    assert_eq!((test.unit, test.units), (Unit::Configuration, 4));
    // The rising and the falling order of four blocks.
    assert_eq!(test.p, 2.0 / 24.0);
    let uneven = permutation_p(&runs(&x[..11], &y[..11], 3), 100, &mut rng()).unwrap();
    assert_eq!(
        (uneven.unit, uneven.p),
        (Unit::ConfigurationMean, 2.0 / 24.0)
    );
}

#[test]
fn what_explains_everything_leaves_nothing() {
    let x = [1.0, 3.0, 2.0, 5.0, 4.0];
    let y = [2.0, 1.0, 4.0, 3.0, 5.0];
    assert_eq!(partial_spearman(&x, &y, &[&x.map(f64::exp)]), None);
    assert_eq!(partial_kendall(&x, &y, &x.map(|x| -x)), None);
    assert_eq!(
        partial_spearman(&x[..3], &y[..3], &[&[1.0, 3.0, 2.0][..]]),
        None
    );
    // A constant and a repeated covariate cost no degree of freedom.
    let z = [1.0, 2.0, 4.0, 3.0, 5.0];
    let once = partial_spearman(&x, &y, &[&z]).unwrap();
    let again = partial_spearman(&x, &y, &[&[7.0; 5], &z, &z.map(|z| 2.0 * z)]).unwrap();
    assert_eq!(again.degrees_of_freedom, 2);
    assert!((once.rho - again.rho).abs() < TOLERANCE);
}

#[test]
fn one_far_point_is_found_out() {
    let x = [1.0, 2.0, 1.0, 2.0, 1.5, 9.0];
    let y = [1.0, 2.0, 2.0, 1.0, 1.5, 9.0];
    let (each, _) = leave_one_out(&runs(&x, &y, 1));
    let each = each.unwrap();
    assert_eq!((each.most, each.without_most), (5, 0.0));
    assert!(!each.keeps_sign());
    // Two configurations: without either, x is constant.
    let (_, together) = leave_one_out(&runs(&[1.0, 1.0, 2.0, 2.0], &[1.0, 2.0, 3.0, 4.0], 2));
    assert_eq!(together, None);
}

#[test]
fn critical_values_are_zars() {
    // J. H. Zar, J. Am. Stat. Assoc. 67 (1972), two-sided 5 %.
    for (n, rho, tolerance) in [
        (5, 1.0, 5e-4),
        (6, 0.886, 5e-4),
        (7, 0.786, 5e-4),
        (8, 0.738, 5e-4),
        (9, 0.700, 5e-4),
        // From here on Fisher's transform.
        (12, 0.587, 0.02),
        (30, 0.362, 0.01),
    ] {
        let found = smallest_significant(n).unwrap();
        assert!((found - rho).abs() < tolerance, "{n}: {found}");
    }
    assert!((0..5).all(|n| smallest_significant(n).is_none()));
    let verdict = Sample::new(6, 6).verdict("adapters");
    assert!(
        verdict.contains("too few") && verdict.contains("|ρ| ≥ 0.89"),
        "{verdict}"
    );
}

#[test]
fn an_association_has_the_correlations_own_intervals() {
    let case = &fixture().partials[2];
    let runs = runs(&case.x, &case.y, 2);
    let z = columns(&case.covariates);
    let found = associate(&runs, &z, 300, &mut rng());
    assert_eq!(found.correlation, correlate(&runs, 300, &mut rng()));
    let (partial, interval) = (found.partial.unwrap(), found.partial_interval.unwrap());
    assert!((partial.rho - case.spearman).abs() < TOLERANCE);
    assert!(interval.low < partial.rho && partial.rho < interval.high);
    assert_eq!(found.partial_kendall, None);
    assert!(
        associate(&runs, &z[..1], 50, &mut rng())
            .partial_kendall_interval
            .is_some()
    );
}

proptest! {
    #[test]
    fn ranks_alone_count(
        rows in prop::collection::vec((-9_i32..9, -9_i32..9, -9_i32..9), 4..20),
    ) {
        let column = |of: fn(&(i32, i32, i32)) -> i32| -> Vec<f64> {
            rows.iter().map(|row| f64::from(of(row))).collect()
        };
        let (x, y, z) = (column(|r| r.0), column(|r| r.1), column(|r| r.2));
        let grown: Vec<f64> = x.iter().map(|x| x.exp()).collect();
        let turned: Vec<f64> = x.iter().map(|x| -x).collect();
        let partial = partial_spearman(&x, &y, &[&z]);
        prop_assert_eq!(partial, partial_spearman(&grown, &y, &[&z]));
        let rho = partial.map(|p| p.rho);
        if let Some(rho) = rho {
            prop_assert!((-1.0..=1.0).contains(&rho));
            let swapped = partial_spearman(&y, &x, &[&z]).unwrap().rho;
            prop_assert!((rho - swapped).abs() < TOLERANCE);
            let turned = partial_spearman(&turned, &y, &[&z]).unwrap().rho;
            prop_assert!((rho + turned).abs() < TOLERANCE);
            // Pearson's formula of one covariate, where z is not constant.
            if let (Some(xy), Some(xz), Some(yz)) =
                (spearman(&x, &y), spearman(&x, &z), spearman(&y, &z))
            {
                let left = (1.0 - xz * xz) * (1.0 - yz * yz);
                prop_assert!((rho - (xy - xz * yz) / left.sqrt()).abs() < 1e-9);
            }
        }
        prop_assert_eq!(partial_kendall(&x, &y, &z), partial_kendall(&grown, &y, &z));
        if let Some(tau) = partial_kendall(&x, &y, &z) {
            prop_assert!((-1.0..=1.0).contains(&tau));
            prop_assert!((tau - partial_kendall(&y, &x, &z).unwrap()).abs() < TOLERANCE);
        }
    }
}
