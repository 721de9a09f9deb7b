//! The printed bound fails for every choice of adapters, not only for the constructed ones.
//!
//! # Claim
//! L = L̄ = 1, x uniform on √D e_1, …, √D e_D, W̄ = I/(2√D), W = W̄ − eI, b̄ = c·1 with c = e D^{3/2}.
//! For rank budget R, every adapter and bias has E‖f(x) − f̄(x)‖₂ ≥ e √D (1 − (R+1)/D), while for
//! e ≤ D^{1/4}/(2D²) the right side of Eq. 8 as printed is D^{1/4} e. For R = 1 the ratio
//! D^{1/4}(1 − 2/D) exceeds one from D = 6 on.
//!
//! | symbol | identifier |
//! |---|---|
//! | D | `width` |
//! | e | `gap` |
//! | D^{1/4}(1 − (R+1)/D) | `Counterexample::ratio` |
//!
//! # Proof sketch
//! f̄(√D e_j) = e_j/2 + c·1 is positive. If the adapted network clips some pre-activation, that
//! coordinate is wrong by at least c there, and the mean error is at least c/D = e√D. Otherwise its
//! residual on the points is the matrix √D(ΔW − eI) + (b̂ − b̄)1ᵀ: −e√D I plus a matrix of rank at
//! most R + 1, of which by Mirsky the column norms add up to at least e√D(D − R − 1). On the other
//! side Σ = I, so √‖Σ‖_F = D^{1/4}, F = ½ and ‖b̄‖ = e D² leaves β = D^{1/4}.

use ndarray::{Array1, Array2};
use serde::Serialize;

use crate::{Domain, Error, Fnn, Partition, Problem, Sample, measured_error};

/// A problem, and the input, on which Eq. 8 as printed is false.
#[derive(Debug, Clone, PartialEq)]
pub struct Counterexample {
    /// One frozen layer, one target layer.
    pub problem: Problem,
    /// √D e_1, …, √D e_D, equally likely; Σ = I.
    pub sample: Sample,
    /// e = σ_{1+R}(E) for every R < D.
    pub gap: f64,
}

/// The counterexample at one width and rank, flat for tables.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CounterexampleRecord {
    /// D.
    pub width: usize,
    /// R.
    pub rank: usize,
    /// e = σ_{1+R}(E).
    pub e: f64,
    /// e√D(1 − (R+1)/D): no choice of adapter and bias has a smaller mean error.
    pub lower_bound: f64,
    /// The mean error of the constructed adapter.
    pub measured: f64,
    /// Eq. 8 as printed.
    pub bound_literal: f64,
    /// Eq. 8 with the β that its proof needs.
    pub bound_corrected: f64,
    /// Whether Eq. 8 as printed is below the lower bound, so that every adapter violates it.
    pub violated_by_all: bool,
}

impl Counterexample {
    /// The counterexample of width D, with e = D^{1/4}/(2D²).
    ///
    /// ```
    /// use rankwise_theory::{Counterexample, Lift};
    ///
    /// let counterexample = Counterexample::new(16)?;
    /// let sigma = counterexample.sample.second_moment()?;
    /// let bounds = counterexample.problem.bounds(&[1], &sigma)?;
    /// assert!((bounds.literal / (2.0 * counterexample.gap) - 1.0).abs() < 1e-12);
    /// assert_eq!(Counterexample::ratio(16, 1), 1.75);
    /// # Ok::<(), rankwise_theory::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Invalid`] if `width` is zero.
    pub fn new(width: usize) -> Result<Self, Error> {
        let d = width as f64;
        let gap = d.powf(0.25) / (2.0 * d * d);
        let target = Array2::<f64>::eye(width) / (2.0 * d.sqrt());
        let frozen = &target - &(Array2::<f64>::eye(width) * gap);
        let bias = Array1::from_elem(width, gap * d.powf(1.5));
        let problem = Problem::new(
            Fnn::new(vec![target], vec![bias])?,
            Fnn::without_biases(vec![frozen])?,
            Partition::uniform(1, 1)?,
        )?;
        let sample = Sample::new(Array2::eye(width) * d.sqrt(), None)?;
        Ok(Self {
            problem,
            sample,
            gap,
        })
    }

    /// What the counterexample shows for rank `rank`: the lower bound for every adapter, what the
    /// constructed one does, and both readings of Eq. 8.
    ///
    /// # Errors
    /// [`Error::Linalg`] if a decomposition fails.
    pub fn record(&self, rank: usize) -> Result<CounterexampleRecord, Error> {
        let width = self.problem.target().width();
        let sigma = self.sample.second_moment()?;
        let bounds = self.problem.bounds(&[rank], &sigma)?;
        let built = self
            .problem
            .construct(&[rank], Domain::Sample(&self.sample))?;
        let d = width as f64;
        let least = self.gap * d.sqrt() * (1.0 - (rank + 1) as f64 / d).max(0.0);
        Ok(CounterexampleRecord {
            width,
            rank,
            e: self.gap,
            lower_bound: least,
            measured: measured_error(built.adapted(), self.problem.target(), &self.sample)?,
            bound_literal: bounds.literal,
            bound_corrected: bounds.corrected,
            violated_by_all: least > bounds.literal,
        })
    }

    /// The least ratio of any adapters' error to Eq. 8 as printed: D^{1/4}(1 − (R+1)/D).
    pub fn ratio(width: usize, rank: usize) -> f64 {
        let d = width as f64;
        d.powf(0.25) * (1.0 - (rank + 1) as f64 / d)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Lift, Outcome, Strategy};

    #[test]
    fn the_printed_bound_fails_and_the_proved_ones_hold() {
        for (width, least) in [(6, 1.04), (16, 1.75), (256, 3.97)] {
            assert!((Counterexample::ratio(width, 1) - least).abs() < 0.005);
            let Counterexample {
                problem,
                sample,
                gap,
            } = Counterexample::new(width).expect("valid");
            let sigma = sample.second_moment().expect("finite");
            let result = problem
                .verify(&[1], &sample, &sigma, Lift::Sample, Strategy::default())
                .expect("finite");
            let right_side = (width as f64).powf(0.25) * gap;
            assert!((result.bounds.literal / right_side - 1.0).abs() < 1e-9);
            let Outcome::Measured(measured) = result.outcome else {
                panic!("one layer needs no inverse");
            };
            let record = Counterexample::new(width).expect("valid").record(1);
            let record = record.expect("finite");
            assert!(record.violated_by_all && record.lower_bound <= record.measured);
            assert!(record.measured <= record.bound_corrected * (1.0 + 1e-12));
            assert!(measured.error / right_side >= Counterexample::ratio(width, 1));
            let violated = measured.violated;
            assert!(violated.literal, "{width}");
            assert!(
                !violated.corrected && !violated.spectral && !violated.tail,
                "{violated:?}"
            );
        }
    }

    /// The lower bound holds for any adapters: here the best of many random ones and their biases.
    #[test]
    fn no_random_adapter_beats_the_lower_bound() {
        use ndarray_rand::rand_distr::StandardNormal;
        use rand::{Rng, SeedableRng};
        let width = 8;
        let Counterexample {
            problem,
            sample,
            gap,
        } = Counterexample::new(width).expect("valid");
        let literal = (width as f64).powf(0.25) * gap;
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(3);
        for _ in 0..200 {
            let mut draw = || rng.sample::<f64, _>(StandardNormal) * gap.sqrt();
            let b = Array2::from_shape_simple_fn((width, 1), &mut draw);
            let a = Array2::from_shape_simple_fn((1, width), &mut draw);
            let weight = &problem.frozen().weights()[0] + &b.dot(&a);
            let bias = &problem.target().biases()[0] * (1.0 + draw());
            let adapted = Fnn::new(vec![weight], vec![bias]).expect("finite");
            let error = crate::measured_error(&adapted, problem.target(), &sample).expect("fits");
            assert!(error / literal >= Counterexample::ratio(width, 1));
        }
    }
}
