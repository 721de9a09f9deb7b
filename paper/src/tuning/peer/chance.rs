use crate::findings::STANDARD_ERRORS;

/// P(|t| > 2) for Student's t of ν degrees of freedom, by the finite series in cos θ, θ = arctan(2/√ν)
/// (Abramowitz & Stegun 26.7.3 and 26.7.4).
pub(super) fn beyond_by_chance(freedom: usize) -> f64 {
    let theta = (STANDARD_ERRORS / (freedom as f64).sqrt()).atan();
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
        (1, _) => theta / std::f64::consts::FRAC_PI_2,
        (_, 1) => (theta + sin * series(cos, 1)) / std::f64::consts::FRAC_PI_2,
        _ => sin * series(1.0, 0),
    };
    1.0 - within
}

#[cfg(test)]
mod tests {
    use super::*;

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
            let found = beyond_by_chance(freedom);
            assert!((found - expected).abs() < tolerance, "{freedom}: {found}");
        }
    }
}
