//! Inputs: a finite distribution, and the second moment Σ = E[x xᵀ] that the bounds ask for.
//!
//! Gaussian inputs violate the theorem's boundedness, and their Σ is known only in the limit. A
//! finite sample with its *own* second moment satisfies every hypothesis, so comparing the measured
//! error with a bound is deterministic, not statistical.

use ndarray::{Array1, Array2, ArrayView2, Axis};
use ndarray_rand::RandomExt;
use ndarray_rand::rand_distr::StandardNormal;
use rand::Rng;
use rankwise_analysis::linalg::svd;

use crate::{Error, Fnn};

/// How far probabilities may be from adding up to one: they are often printed with few digits.
const PROBABILITY_TOLERANCE: f64 = 1e-9;

/// How far Σ may be from symmetric and positive semidefinite, relative to its trace: products of
/// matrices in double precision come out within D ε of it.
const MOMENT_TOLERANCE: f64 = 1e-9;

/// A finite input distribution: points with probabilities.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    points: Array2<f64>,
    probabilities: Array1<f64>,
}

impl Sample {
    /// The points are the rows of an n × D matrix; without probabilities all are equally likely.
    ///
    /// # Errors
    /// [`Error::Invalid`] unless there is a point, all numbers are finite, and the probabilities
    /// are n non-negative numbers that add up to one.
    pub fn new(points: Array2<f64>, probabilities: Option<Array1<f64>>) -> Result<Self, Error> {
        let n = points.nrows();
        if points.is_empty() {
            let found = format!("{n} x {}", points.ncols());
            return Err(Error::invalid("sample", "at least one point", found));
        }
        if let Some(value) = points.iter().find(|value| !value.is_finite()) {
            return Err(Error::invalid("sample", "finite numbers", value));
        }
        let Some(probabilities) = probabilities else {
            let probabilities = Array1::from_elem(n, 1.0 / n as f64);
            return Ok(Self {
                points,
                probabilities,
            });
        };
        if probabilities.len() != n {
            let expected = format!("one for each of {n} points");
            return Err(Error::invalid(
                "probabilities",
                expected,
                probabilities.len(),
            ));
        }
        if let Some(value) = probabilities
            .iter()
            .find(|value| value.is_nan() || **value < 0.0)
        {
            return Err(Error::invalid(
                "probabilities",
                "numbers from 0 to 1",
                value,
            ));
        }
        let total = probabilities.sum();
        if (total - 1.0).abs() > PROBABILITY_TOLERANCE {
            return Err(Error::invalid("sum of the probabilities", "1", total));
        }
        Ok(Self {
            points,
            probabilities,
        })
    }

    /// `count` independent draws from N(0, I), equally likely.
    ///
    /// # Errors
    /// [`Error::Invalid`] if `count` or `width` is zero.
    pub fn gaussian(count: usize, width: usize, rng: &mut impl Rng) -> Result<Self, Error> {
        Self::new(
            Array2::random_using((count, width), StandardNormal, rng),
            None,
        )
    }

    /// The points, n × D.
    pub fn points(&self) -> ArrayView2<'_, f64> {
        self.points.view()
    }

    /// Their probabilities, n.
    pub fn probabilities(&self) -> &Array1<f64> {
        &self.probabilities
    }

    /// D.
    pub fn width(&self) -> usize {
        self.points.ncols()
    }

    /// The largest ‖x‖₂.
    pub fn radius(&self) -> f64 {
        row_norms(&self.points).fold(0.0, f64::max)
    }

    /// Σ = E[x xᵀ].
    ///
    /// # Errors
    /// [`Error::Linalg`] if the decomposition fails.
    pub fn second_moment(&self) -> Result<SecondMoment, Error> {
        let weighted = &self.points * &self.probabilities.view().insert_axis(Axis(1));
        SecondMoment::new(self.points.t().dot(&weighted))
    }

    /// E‖x‖₂ over rows that stand for this sample's points.
    pub(crate) fn mean_norm(&self, rows: &Array2<f64>) -> f64 {
        row_norms(rows)
            .zip(&self.probabilities)
            .map(|(norm, p)| p * norm)
            .sum()
    }

    /// √E‖x‖₂² over rows that stand for this sample's points.
    pub(crate) fn root_mean_square(&self, rows: &Array2<f64>) -> f64 {
        let squares = row_norms(rows).zip(&self.probabilities);
        squares.map(|(norm, p)| p * norm * norm).sum::<f64>().sqrt()
    }
}

/// E‖f(x) − f̄(x)‖₂ over the sample: the left side of every bound.
///
/// # Errors
/// [`Error::Invalid`] if the widths differ or an activation overflows.
pub fn measured_error(adapted: &Fnn, target: &Fnn, sample: &Sample) -> Result<f64, Error> {
    let difference = adapted.forward(sample.points())? - target.forward(sample.points())?;
    let error = sample.mean_norm(&difference);
    if !error.is_finite() {
        return Err(Error::invalid("measured error", "a finite number", error));
    }
    Ok(error)
}

/// The second moment Σ = E[x xᵀ] of an input; not the covariance.
#[derive(Debug, Clone, PartialEq)]
pub struct SecondMoment {
    matrix: Array2<f64>,
    root: Array2<f64>,
}

impl SecondMoment {
    /// Σ, D × D.
    ///
    /// # Errors
    /// [`Error::Invalid`] unless it is square, finite, symmetric and positive semidefinite.
    pub fn new(matrix: Array2<f64>) -> Result<Self, Error> {
        let what = "second moment";
        if !matrix.is_square() || matrix.is_empty() {
            let found = format!("{} x {}", matrix.nrows(), matrix.ncols());
            return Err(Error::invalid(what, "a square matrix", found));
        }
        let spectrum = svd(matrix.view())?;
        let trace = matrix.diag().sum();
        let tolerance = MOMENT_TOLERANCE * trace.abs();
        let asymmetry = (&matrix - &matrix.t())
            .iter()
            .fold(0.0, |a: f64, b| a.max(b.abs()));
        if asymmetry > tolerance {
            let found = format!("entries that differ by {asymmetry:.1e} from their mirror images");
            return Err(Error::invalid(what, "a symmetric matrix", found));
        }
        // The singular values are the eigenvalues' magnitudes: they add up to more than the trace
        // if, and only if, some eigenvalue is negative.
        let negative = (spectrum.s.iter().sum::<f64>() - trace) / 2.0;
        if negative > tolerance {
            let found = format!("eigenvalues that add up to -{negative:.1e}");
            return Err(Error::invalid(what, "no negative eigenvalue", found));
        }
        let scales: Array1<f64> = spectrum.s.iter().map(|s| s.sqrt()).collect();
        Ok(Self {
            matrix,
            root: spectrum.u * scales,
        })
    }

    /// Σ itself.
    pub fn matrix(&self) -> ArrayView2<'_, f64> {
        self.matrix.view()
    }

    /// A D × D matrix C with C Cᵀ = Σ.
    pub fn root(&self) -> ArrayView2<'_, f64> {
        self.root.view()
    }

    /// tr Σ = E‖x‖₂².
    pub fn trace(&self) -> f64 {
        self.matrix.diag().sum()
    }

    /// ‖Σ‖_F.
    pub fn frobenius_norm(&self) -> f64 {
        frobenius(self.matrix.view())
    }
}

fn row_norms(rows: &Array2<f64>) -> impl Iterator<Item = f64> {
    rows.rows().into_iter().map(|row| row.dot(&row).sqrt())
}

/// ‖M‖_F.
pub(crate) fn frobenius(matrix: ArrayView2<'_, f64>) -> f64 {
    matrix.iter().map(|value| value * value).sum::<f64>().sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::array;

    #[test]
    fn moments_of_two_points() {
        let points = array![[3.0, 4.0], [0.0, 1.0]];
        let sample = Sample::new(points, Some(array![0.25, 0.75])).expect("valid");
        let sigma = sample.second_moment().expect("finite");
        assert_eq!(sigma.matrix(), array![[2.25, 3.0], [3.0, 4.75]]);
        assert_eq!((sigma.trace(), sample.radius()), (7.0, 5.0));
        assert_eq!(sample.mean_norm(&sample.points), 2.0);
        assert!((sample.root_mean_square(&sample.points) - 7_f64.sqrt()).abs() < 1e-15);
        let again = sigma.root().dot(&sigma.root().t());
        assert!(frobenius((&again - &sigma.matrix()).view()) < 1e-14);
    }

    #[test]
    fn what_is_no_distribution_is_refused() {
        let two = || array![[1.0, 0.0], [0.0, 1.0]];
        assert!(Sample::new(Array2::zeros((0, 2)), None).is_err());
        assert!(Sample::new(two(), Some(array![0.5, 0.4])).is_err());
        assert!(Sample::new(two(), Some(array![1.5, -0.5])).is_err());
        assert!(Sample::new(two(), Some(array![1.0])).is_err());
        assert!(SecondMoment::new(array![[1.0, 0.0], [0.5, 1.0]]).is_err());
        assert!(SecondMoment::new(array![[1.0, 2.0], [2.0, 1.0]]).is_err());
        assert!(SecondMoment::new(array![[1.0, 1.0], [1.0, 1.0]]).is_ok());
    }
}
