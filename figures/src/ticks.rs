//! Round values along an axis, and how they are written.

/// A place worth a grid line, with its label.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Tick {
    /// In drawn units.
    pub at: f64,
    pub label: String,
}

/// Slack for the last bits of a quotient or logarithm at the ends of an axis,
/// far below a pixel.
const SLACK: f64 = 1e-9;

/// No axis needs more.
const MOST_TICKS: usize = 16;

/// Multiples of 1, 2 or 5 times a power of ten within `[low, high]`: about
/// `target`, more where that would leave fewer than two.
pub(crate) fn linear_ticks(low: f64, high: f64, target: usize) -> Vec<Tick> {
    let rough = (high - low) / target.max(1) as f64;
    let mut exponent = rough.log10().floor() as i32;
    let lead = [1.0, 2.0, 5.0]
        .into_iter()
        .find(|lead| lead * 10_f64.powi(exponent) >= rough)
        .unwrap_or_else(|| {
            exponent += 1;
            1.0
        });
    let step = lead * 10_f64.powi(exponent);
    let size = low.abs().max(high.abs());
    let magnitude = size.log10().floor() as i32;
    let shared = if (-3..6).contains(&magnitude) {
        None
    } else {
        Some(magnitude)
    };
    let first = (low / step - SLACK).ceil();
    let ticks: Vec<Tick> = (0..=2 * target)
        .map(|k| first + k as f64)
        .take_while(|multiple| *multiple <= high / step + SLACK)
        .map(|multiple| {
            // Adding zero turns a negative zero into a positive one.
            let at = multiple * step + 0.0;
            let label = match shared {
                None => decimal(at, -exponent),
                Some(_) if at == 0.0 => "0".to_owned(),
                Some(power) => format!(
                    "{}×{}",
                    decimal(at / 10_f64.powi(power), power - exponent),
                    power_of_ten(power)
                ),
            };
            Tick { at, label }
        })
        .collect();
    if ticks.len() < 2 && target < MOST_TICKS {
        return linear_ticks(low, high, 2 * target);
    }
    ticks
}

fn decimal(value: f64, decimals: i32) -> String {
    let decimals = decimals.clamp(0, 12) as usize;
    format!("{value:.decimals$}").replace('-', "−")
}

/// Powers of ten between `10^low` and `10^high`, evenly thinned to about
/// `target`; round values where that would leave fewer than two.
pub(crate) fn logarithmic_ticks(low: f64, high: f64, target: usize) -> Vec<Tick> {
    let first = (low - SLACK).ceil() as i32;
    let last = (high + SLACK).floor() as i32;
    if last <= first {
        let mut ticks = linear_ticks(10_f64.powf(low), 10_f64.powf(high), target);
        ticks.iter_mut().for_each(|tick| tick.at = tick.at.log10());
        ticks.retain(|tick| tick.at.is_finite());
        return ticks;
    }
    let target = target.max(1) as i32;
    let stride = (last - first + target) / target;
    (first..=last)
        .filter(|exponent| exponent.rem_euclid(stride) == 0)
        .map(|exponent| Tick {
            at: f64::from(exponent),
            label: power_of_ten(exponent),
        })
        .collect()
}

/// `10ᵏ` with a raised exponent.
pub(crate) fn power_of_ten(exponent: i32) -> String {
    let raised = |c| match c {
        '-' => '⁻',
        '1' => '¹',
        '2' => '²',
        '3' => '³',
        '4' => '⁴',
        '5' => '⁵',
        '6' => '⁶',
        '7' => '⁷',
        '8' => '⁸',
        '9' => '⁹',
        _ => '⁰',
    };
    let exponent: String = exponent.to_string().chars().map(raised).collect();
    format!("10{exponent}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn labels(ticks: Vec<Tick>) -> Vec<String> {
        ticks.into_iter().map(|tick| tick.label).collect()
    }

    #[test]
    fn linear_labels_are_round() {
        let shown = labels(linear_ticks(0.0, 0.5, 5));
        assert_eq!(shown, ["0.0", "0.1", "0.2", "0.3", "0.4", "0.5"]);
        let shown = labels(linear_ticks(-40.0, 60.0, 5));
        assert_eq!(shown, ["−40", "−20", "0", "20", "40", "60"]);
        let shown = labels(linear_ticks(0.0, 4e-5, 4));
        assert_eq!(shown, ["0", "1×10⁻⁵", "2×10⁻⁵", "3×10⁻⁵", "4×10⁻⁵"]);
    }

    #[test]
    fn logarithmic_labels_are_decades() {
        let shown = labels(logarithmic_ticks(-3.0, 2.0, 8));
        assert_eq!(shown, ["10⁻³", "10⁻²", "10⁻¹", "10⁰", "10¹", "10²"]);
        let shown = labels(logarithmic_ticks(-15.0, 3.0, 7));
        assert_eq!(
            shown,
            ["10⁻¹⁵", "10⁻¹²", "10⁻⁹", "10⁻⁶", "10⁻³", "10⁰", "10³"]
        );
    }

    #[test]
    fn within_a_decade_round_values_stand_at_their_logarithms() {
        let ticks = logarithmic_ticks(2_f64.log10(), 8_f64.log10(), 3);
        assert_eq!(ticks[1].at, 4_f64.log10());
        assert_eq!(labels(ticks), ["2", "4", "6", "8"]);
    }

    proptest! {
        #[test]
        fn linear_ticks_lie_inside_and_are_few_and_distinct(
            low in -1e3_f64..1e3, range in 1e-6_f64..1e6, target in 2_usize..9,
        ) {
            let ticks = linear_ticks(low, low + range, target);
            prop_assert!((2..=target.max(4) + 1).contains(&ticks.len()), "{ticks:?}");
            for tick in &ticks {
                prop_assert!((-1e-6..=1.0 + 1e-6).contains(&((tick.at - low) / range)));
            }
            for pair in ticks.windows(2) {
                prop_assert!(pair[0].at < pair[1].at && pair[0].label != pair[1].label);
            }
        }

        #[test]
        fn a_linear_label_reads_as_its_tick(low in -1e3_f64..1e3, range in 1e-2_f64..1e3) {
            for tick in linear_ticks(low, low + range, 5) {
                let Ok(read) = tick.label.replace('−', "-").parse::<f64>() else {
                    // Written with a power of ten.
                    prop_assert!(tick.label.contains('×'), "{}", tick.label);
                    continue;
                };
                // A label has every digit of its multiple; a tick is rounded.
                prop_assert!((read - tick.at).abs() <= 1e-12 * (low.abs() + range));
            }
        }

        #[test]
        fn logarithmic_ticks_are_few_and_ascending(
            low in -300_f64..300.0, range in 1e-2_f64..600.0, target in 3_usize..9,
        ) {
            let ticks = logarithmic_ticks(low, (low + range).min(308.0), target);
            prop_assert!((1..=2 * target + 1).contains(&ticks.len()), "{ticks:?}");
            prop_assert!(ticks.windows(2).all(|pair| pair[0].at < pair[1].at));
        }
    }
}
