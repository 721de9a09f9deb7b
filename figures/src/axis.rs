//! From values to places on an axis.
//!
//! An axis works in *drawn units*: the value itself on a linear scale, its
//! decimal logarithm on a logarithmic one.

use crate::Error;
use crate::ticks::{Tick, linear_ticks, logarithmic_ticks};

/// The floor that [`Scale::log`] uses: below half an ulp of one in `f64`
/// (1.1e-16), so a relative error there is indistinguishable from exact.
pub const LOG_FLOOR: f64 = 1e-16;

/// How values are spread along an axis.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Scale {
    /// Equal steps are equally far apart.
    #[default]
    Linear,
    /// Equal ratios are equally far apart.
    ///
    /// Zero, negative values and anything at or below `floor` are drawn at
    /// the floor with open markers, and the panel says so.
    Log {
        /// The smallest value told apart from zero; positive.
        floor: f64,
    },
}

impl Scale {
    /// Logarithmic, with the floor [`LOG_FLOOR`].
    pub const fn log() -> Self {
        Self::Log { floor: LOG_FLOOR }
    }

    pub(crate) fn check(self, title: &str) -> Result<(), Error> {
        match self {
            Self::Log { floor } if !(floor.is_normal() && floor > 0.0) => Err(Error::Floor {
                title: title.to_owned(),
                found: floor,
            }),
            _ => Ok(()),
        }
    }

    /// `None` for a value that is not finite: it leaves a gap.
    pub(crate) fn read(self, value: f64) -> Option<Reading> {
        if !value.is_finite() {
            return None;
        }
        Some(match self {
            Self::Linear => Reading {
                at: value,
                floored: false,
            },
            Self::Log { floor } => Reading {
                at: value.max(floor).log10(),
                floored: value <= floor,
            },
        })
    }
}

/// A value in drawn units.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Reading {
    pub at: f64,
    /// Whether the value was raised to a logarithmic floor.
    pub floored: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Axis {
    scale: Scale,
    low: f64,
    high: f64,
}

/// Ranges narrower than this, relative to their ends, would need tick labels of
/// more than nine digits: they are taken for constant.
const NARROWEST: f64 = 1e-9;

/// Ends smaller than this are taken for zero; it keeps powers of ten normal.
const SMALLEST: f64 = 1e-290;

impl Axis {
    /// The axis that shows all `readings`, with `padding` (a share of the
    /// range) to spare at both ends of a linear scale, and whole decades on a
    /// logarithmic one. `what` and `title` are for the error.
    pub fn covering(
        readings: impl IntoIterator<Item = Reading>,
        scale: Scale,
        padding: f64,
        what: &'static str,
        title: &str,
    ) -> Result<Self, Error> {
        let mut any_floored = false;
        let (low, high) = readings
            .into_iter()
            .inspect(|reading| any_floored |= reading.floored)
            .fold(
                (f64::INFINITY, f64::NEG_INFINITY),
                |(low, high), reading| (low.min(reading.at), high.max(reading.at)),
            );
        if low > high {
            return Err(Error::Empty {
                title: title.to_owned(),
            });
        }
        let (low, high) = match scale {
            Scale::Linear if is_narrow(low, high) => {
                let middle = low / 2.0 + high / 2.0;
                let pad = if middle.abs() < SMALLEST {
                    0.5
                } else {
                    0.05 * middle.abs()
                };
                (middle - pad, middle + pad)
            }
            Scale::Linear => {
                let pad = padding * (high - low);
                (low - pad, high + pad)
            }
            Scale::Log { .. } => {
                let (below, above) = (low.floor(), high.ceil());
                let (below, above) = if below == above {
                    (below - 1.0, above + 1.0)
                } else {
                    (below, above)
                };
                // Half a decade keeps the markers at the floor off the frame.
                (if any_floored { low - 0.5 } else { below }, above)
            }
        };
        if !(high - low).is_finite() {
            return Err(Error::Range {
                title: title.to_owned(),
                what,
                low,
                high,
            });
        }
        Ok(Self { scale, low, high })
    }

    /// The axis from `range.0` to `range.1`, as values.
    pub fn fixed(
        range: (f64, f64),
        scale: Scale,
        what: &'static str,
        title: &str,
    ) -> Result<Self, Error> {
        let unfit = || Error::Range {
            title: title.to_owned(),
            what,
            low: range.0,
            high: range.1,
        };
        let low = scale.read(range.0).ok_or_else(unfit)?.at;
        let high = scale.read(range.1).ok_or_else(unfit)?.at;
        if low >= high || is_narrow(low, high) || !(high - low).is_finite() {
            return Err(unfit());
        }
        Ok(Self { scale, low, high })
    }

    /// Where `at` (drawn units) lies: 0 at the low end, 1 at the high end. Far
    /// outside it is cut off, so that page coordinates stay small.
    pub fn fraction(&self, at: f64) -> f64 {
        ((at - self.low) / (self.high - self.low)).clamp(-1e3, 1e3)
    }

    /// About `target` ticks at round values.
    pub fn ticks(&self, target: usize) -> Vec<Tick> {
        match self.scale {
            Scale::Linear => linear_ticks(self.low, self.high, target),
            Scale::Log { .. } => logarithmic_ticks(self.low, self.high, target),
        }
    }
}

fn is_narrow(low: f64, high: f64) -> bool {
    // Halved, so that the widest range does not overflow.
    let (range, size) = (high / 2.0 - low / 2.0, low.abs().max(high.abs()) / 2.0);
    range <= NARROWEST * size || range < SMALLEST
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cover(values: &[f64], scale: Scale) -> Axis {
        let readings = values.iter().filter_map(|v| scale.read(*v));
        Axis::covering(readings, scale, 0.0, "range", "t").unwrap()
    }

    #[test]
    fn zero_is_read_as_the_floor() {
        let reading = Scale::log().read(0.0).unwrap();
        assert_eq!(reading.at, LOG_FLOOR.log10());
        assert!(reading.floored);
        assert!(!Scale::log().read(2e-16).unwrap().floored);
    }

    #[test]
    fn a_constant_is_centred() {
        for value in [0.0, 3.0, -1e-9, 1e300] {
            let axis = cover(&[value], Scale::Linear);
            assert!((axis.fraction(value) - 0.5).abs() < 1e-9, "{value}");
            assert!(axis.ticks(5).len() >= 2, "{value}");
        }
    }

    #[test]
    fn a_range_that_overflows_is_an_error() {
        let readings = [-1.7e308, 1.7e308].map(|v| Scale::Linear.read(v).unwrap());
        let error = Axis::covering(readings, Scale::Linear, 0.0, "x range", "t").unwrap_err();
        assert!(matches!(
            error,
            Error::Range {
                what: "x range",
                ..
            }
        ));
    }
}
