use super::{Metric, check_pairs};
use crate::Error;

/// Pearson's correlation; `None` where it is not defined: fewer than two pairs, one side constant,
/// or a value that is not finite.
///
/// ```
/// let found = rankwise_training::pearson(&[1.0, 2.0, 3.0], &[1.0, 2.0, 4.0])?.unwrap();
/// assert!((found - 3.0 / (28.0_f64 / 3.0).sqrt()).abs() < 1e-15);
/// assert_eq!(rankwise_training::pearson(&[0.1, 0.1, 0.1], &[1.0, 2.0, 4.0])?, None);
/// # Ok::<(), rankwise_training::Error>(())
/// ```
///
/// # Errors
/// [`Error::Metric`] if the lengths differ or are 0.
pub fn pearson(predictions: &[f64], labels: &[f64]) -> Result<Option<f64>, Error> {
    check_pairs(Metric::Pearson, predictions.len(), labels.len())?;
    let (Some(x), Some(y)) = (direction(predictions), direction(labels)) else {
        return Ok(None);
    };
    let cosine: f64 = x.iter().zip(&y).map(|(x, y)| x * y).sum();
    // Rounding may lead a hair beyond 1.
    Ok(Some(cosine.clamp(-1.0, 1.0)))
}

/// The deviations from the mean, of length 1; `None` for a constant or what is not finite.
fn direction(values: &[f64]) -> Option<Vec<f64>> {
    // Equality, not a deviation of 0: the mean of equal numbers may round to another.
    let is_constant = values.iter().all(|value| *value == values[0]);
    if is_constant || values.iter().any(|value| !value.is_finite()) {
        return None;
    }
    // Scaled by the largest value first, so that neither sums nor squares overflow.
    let largest = |values: &[f64]| values.iter().fold(0.0, |most: f64, v| most.max(v.abs()));
    let scale = largest(values);
    let scaled: Vec<f64> = values.iter().map(|value| value / scale).collect();
    let mean = scaled.iter().sum::<f64>() / values.len() as f64;
    let mut deviations: Vec<f64> = scaled.iter().map(|value| value - mean).collect();
    let spread = largest(&deviations);
    deviations.iter_mut().for_each(|value| *value /= spread);
    let norm = deviations.iter().map(|v| v * v).sum::<f64>().sqrt();
    deviations.iter_mut().for_each(|value| *value /= norm);
    Some(deviations)
}
