//! What a sample says: median, mean, standard error, and Student's interval of the mean.
//!
//! | symbol | identifier |
//! |---|---|
//! | x̄, s, n | mean, sample standard deviation, number of values |
//! | s/√n | `Spread::standard_error` |
//! | x̄ ± t s/√n, P(\|T\| > t) = 0.05 with n − 1 degrees of freedom | `Spread::interval` |
//! | P(\|T\| > t) | `beyond_by_chance` |
//!
//! Source: M. Abramowitz and I. A. Stegun, Handbook of Mathematical Functions (1964), 26.7.3 and 26.7.4.

use std::f64::consts::FRAC_PI_2;

use rankwise_analysis::Interval;
use serde::{Serialize, Serializer};

/// The middle value; of an even count the mean of the two in the middle. `None` of no values.
pub fn median(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let half = values.len() / 2;
    match values.len() {
        0 => None,
        odd if odd % 2 == 1 => Some(values[half]),
        _ => Some(values[half - 1].midpoint(values[half])),
    }
}

/// The mean of some values and how far it can be trusted.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    /// Mean.
    pub mean: f64,
    /// How many values.
    pub count: usize,
    /// Sample standard deviation.
    deviation: f64,
}

/// P(|T| > t) of the intervals.
const LEVEL: f64 = 0.05;

impl Spread {
    /// Of some values.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let values: Vec<f64> = values.into_iter().collect();
        let count = values.len();
        let mean = values.iter().sum::<f64>() / count as f64;
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        Self {
            mean,
            count,
            deviation: (squares / count.saturating_sub(1) as f64).sqrt(),
        }
    }

    /// Standard error of the mean, which one value does not have.
    pub fn standard_error(&self) -> Option<f64> {
        (self.count > 1).then(|| self.deviation / (self.count as f64).sqrt())
    }

    /// Student's 95 % interval of the mean. `None` of one value, and of values that are the same to
    /// rounding: they do not say how far others would lie.
    pub fn interval(&self) -> Option<Interval> {
        const ROUNDING: f64 = 1e-12;
        let error = self.standard_error()?;
        if error <= ROUNDING * self.mean.abs() || !error.is_finite() {
            return None;
        }
        let reach = students_limit(self.count - 1) * error;
        Some(Interval {
            low: self.mean - reach,
            high: self.mean + reach,
        })
    }

    /// 1 or −1 where the interval lies above or below zero, 0 where it does not or there is none.
    pub fn sign(&self) -> i8 {
        match self.interval() {
            Some(interval) if interval.low > 0.0 => 1,
            Some(interval) if interval.high < 0.0 => -1,
            _ => 0,
        }
    }
}

impl Serialize for Spread {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Estimate {
            mean: f64,
            standard_error: Option<f64>,
            interval_95: Option<[f64; 2]>,
            count: usize,
        }
        Estimate {
            mean: self.mean,
            standard_error: self.standard_error(),
            interval_95: self.interval().map(|i| [i.low, i.high]),
            count: self.count,
        }
        .serialize(serializer)
    }
}

/// P(|T| > limit) for Student's t of ν degrees of freedom, by the finite series in cos θ,
/// θ = arctan(limit/√ν).
pub(crate) fn beyond_by_chance(limit: f64, freedom: usize) -> f64 {
    let theta = (limit / (freedom as f64).sqrt()).atan();
    let (sin, cos) = theta.sin_cos();
    // Σ over the terms that follow the first, each from the one before.
    let series = |first: f64, start: usize| {
        let mut term = first;
        let mut sum = first;
        for k in (start..freedom.saturating_sub(2)).step_by(2) {
            term *= cos * cos * (k + 1) as f64 / (k + 2) as f64;
            sum += term;
        }
        sum
    };
    let within = match (freedom, freedom % 2) {
        (0, _) => return f64::NAN,
        (1, _) => theta / FRAC_PI_2,
        (_, 1) => (theta + sin * series(cos, 1)) / FRAC_PI_2,
        _ => sin * series(1.0, 0),
    };
    1.0 - within
}

/// The t with P(|T| > t) = 0.05: between 1.95 and 12.71 for every ν ≥ 1.
fn students_limit(freedom: usize) -> f64 {
    let (mut low, mut high) = (1.9, 12.8);
    // Halved until two neighbours are left.
    while low < (low + high) / 2.0 && (low + high) / 2.0 < high {
        let middle = (low + high) / 2.0;
        match beyond_by_chance(middle, freedom) > LEVEL {
            true => low = middle,
            false => high = middle,
        }
    }
    high
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_of_odd_and_even_counts() {
        assert_eq!(median([3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median([4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median([]), None);
    }

    #[test]
    fn spread_in_closed_form() {
        let spread = Spread::of([1.0, 2.0, 3.0]);
        assert_eq!(spread.mean, 2.0);
        assert!((spread.standard_error().unwrap() - 1.0 / 3_f64.sqrt()).abs() < 1e-15);
        // t of two degrees of freedom is √2 x/√(1 − x²) at P(|T| ≤ t) = x.
        let reach = 2_f64.sqrt() * 0.95 / (1.0_f64 - 0.95 * 0.95).sqrt() / 3_f64.sqrt();
        let interval = spread.interval().unwrap();
        assert!((interval.low - (2.0 - reach)).abs() < 1e-12);
        assert!((interval.high - (2.0 + reach)).abs() < 1e-12);
        let one = Spread::of([5.0]);
        assert_eq!((one.mean, one.standard_error()), (5.0, None));
        assert_eq!((one.interval(), one.sign()), (None, 0));
    }

    /// A mean three standard errors from zero is beyond Student's limit of ten values, not of three.
    #[test]
    fn the_limit_depends_on_the_count() {
        // Values ±1 about the mean: the standard error is √(n/(n − 1))/√n for even n.
        let about = |mean: f64, pairs: usize| {
            let values = (0..2 * pairs).map(|i| mean + if i % 2 == 0 { 1.0 } else { -1.0 });
            Spread::of(values)
        };
        for pairs in [1, 2, 5] {
            let n = 2.0 * pairs as f64;
            let mean = 3.0 / (n - 1.0).sqrt();
            let sign = about(mean, pairs).sign();
            assert_eq!(sign, i8::from(pairs == 5), "{n}");
            assert_eq!(about(-mean, pairs).sign(), -sign);
        }
    }

    #[test]
    fn the_same_number_twice_has_no_interval() {
        for value in [0.25, 0.1 + 0.2, 0.0] {
            let flat = Spread::of([value; 3]);
            assert_eq!((flat.interval(), flat.sign()), (None, 0), "{value}");
        }
        // 0.85 − 0.6 and 0.75 − 0.5 are a quarter, to rounding.
        assert_eq!(Spread::of([0.85 - 0.6, 0.75 - 0.5]).sign(), 0);
    }

    #[test]
    fn students_t_at_two() {
        // Closed forms for ν = 1, 2 and 4; from tables for 3 and 10; the normal distribution's 0.0455.
        let cauchy = 1.0 - 2.0 / std::f64::consts::PI * 2.0_f64.atan();
        for (freedom, expected, tolerance) in [
            (1, cauchy, 1e-15),
            (2, 1.0 - 2.0 / 6.0_f64.sqrt(), 1e-15),
            (3, 0.139_326, 1e-6),
            (4, 1.0 - 5.0 / (4.0 * 2.0_f64.sqrt()), 1e-15),
            (10, 0.073_388, 1e-6),
            (100_000, 0.045_503, 1e-5),
        ] {
            let found = beyond_by_chance(2.0, freedom);
            assert!((found - expected).abs() < tolerance, "{freedom}: {found}");
        }
    }

    #[test]
    fn students_limits_are_those_of_tables() {
        for (freedom, expected) in [
            (1, 12.706_205),
            (2, 4.302_653),
            (3, 3.182_446),
            (4, 2.776_445),
            (9, 2.262_157),
            (30, 2.042_272),
        ] {
            let found = students_limit(freedom);
            assert!((found - expected).abs() < 1e-6, "{freedom}: {found}");
        }
    }
}
