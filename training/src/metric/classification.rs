use std::collections::BTreeMap;

use super::{Metric, check_pairs};
use crate::Error;

/// Share of the predictions that equal their labels.
///
/// # Errors
/// [`Error::Metric`] if the lengths differ or are 0.
pub fn accuracy(predictions: &[u32], labels: &[u32]) -> Result<f64, Error> {
    check_pairs(Metric::Accuracy, predictions.len(), labels.len())?;
    let hits = pairs(predictions, labels).filter(|(p, l)| p == l).count();
    Ok(hits as f64 / labels.len() as f64)
}

/// F₁ of class 1 among the classes 0 and 1, and 0 where class 1 is neither predicted nor meant:
/// scikit-learn's `f1_score`.
///
/// ```
/// // 1 true, 1 false and 1 missed positive.
/// assert_eq!(rankwise_training::f1(&[1, 1, 0, 0], &[1, 0, 1, 0])?, 0.5);
/// # Ok::<(), rankwise_training::Error>(())
/// ```
///
/// # Errors
/// [`Error::Metric`] if the lengths differ or are 0, or if there are other classes.
pub fn f1(predictions: &[u32], labels: &[u32]) -> Result<f64, Error> {
    check_pairs(Metric::F1, predictions.len(), labels.len())?;
    if let Some(other) = predictions.iter().chain(labels).find(|&&class| class > 1) {
        return Err(Error::Metric {
            metric: Metric::F1.key(),
            expected: "the classes 0 and 1".to_owned(),
            found: format!("class {other}"),
        });
    }
    let (mut hits, mut positives) = (0_u64, 0_u64);
    for (prediction, label) in pairs(predictions, labels) {
        hits += u64::from(prediction & label);
        positives += u64::from(prediction + label);
    }
    Ok(match positives {
        0 => 0.0,
        _ => 2.0 * hits as f64 / positives as f64,
    })
}

/// Matthews' correlation of any number of classes, and 0 where one side is constant:
/// scikit-learn's `matthews_corrcoef`.
///
/// ```
/// // One hit of a class, three of the other, one of each missed: 3/4 − 1/2.
/// let found = rankwise_training::matthews(&[1, 1, 0, 0, 0, 0], &[1, 0, 1, 0, 0, 0])?;
/// assert!((found - 0.25).abs() < 1e-15);
/// # Ok::<(), rankwise_training::Error>(())
/// ```
///
/// # Errors
/// [`Error::Metric`] if the lengths differ or are 0.
pub fn matthews(predictions: &[u32], labels: &[u32]) -> Result<f64, Error> {
    check_pairs(Metric::Matthews, predictions.len(), labels.len())?;
    // How often a class is predicted and meant. A map, as a class may be any number.
    let mut counts: BTreeMap<u32, [i128; 2]> = BTreeMap::new();
    let mut hits = 0_i128;
    for (prediction, label) in pairs(predictions, labels) {
        counts.entry(prediction).or_default()[0] += 1;
        counts.entry(label).or_default()[1] += 1;
        hits += i128::from(prediction == label);
    }
    // Integers: all is exact until the square root, for fewer than 2³¹ pairs.
    let n = labels.len() as i128;
    let product = |i: usize, j: usize| counts.values().map(|c| c[i] * c[j]).sum::<i128>();
    let covariance = hits * n - product(0, 1);
    let squares = (n * n - product(0, 0)) * (n * n - product(1, 1));
    Ok(match squares {
        0 => 0.0,
        _ => covariance as f64 / (squares as f64).sqrt(),
    })
}

fn pairs<'a>(predictions: &'a [u32], labels: &'a [u32]) -> impl Iterator<Item = (u32, u32)> + 'a {
    predictions.iter().copied().zip(labels.iter().copied())
}
