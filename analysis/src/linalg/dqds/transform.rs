//! The transforms themselves, and the closed form for two rows.

use super::{Pair, TOLERANCE_SQUARED};

/// What a transform saw of d.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Minima {
    pub least: f64,
    pub least1: f64,
    pub least2: f64,
    pub last: f64,
    pub last1: f64,
    pub last2: f64,
    /// The least new e.
    pub e: f64,
}

/// The transform with shift τ; at least three rows.
pub(super) fn transform(from: &[Pair], to: &mut [Pair], tau: f64) -> Minima {
    let n = from.len();
    let mut m = Minima {
        e: f64::INFINITY,
        ..Minima::default()
    };
    let mut d = from[0][0] - tau;
    let mut least = d;
    let inner = from.iter().zip(&from[1..]).zip(to.iter_mut()).take(n - 3);
    for ((&[_, e], &[next, _]), to) in inner {
        let q = d + e;
        let ratio = next / q;
        d = d * ratio - tau;
        least = if d < least { d } else { least };
        let e = e * ratio;
        m.e = if e < m.e { e } else { m.e };
        *to = [q, e];
    }
    for i in n - 3..n - 1 {
        (m.last2, m.least2) = (m.last1, m.least1);
        (m.last1, m.least1) = (d, least);
        let [_, e] = from[i];
        let q = d + e;
        d = from[i + 1][0] * (d / q) - tau;
        least = if d < least { d } else { least };
        let e = from[i + 1][0] * (e / q);
        m.e = if e < m.e { e } else { m.e };
        to[i] = [q, e];
    }
    to[n - 1] = [d, 0.0];
    m.last = d;
    m.least = if d.is_nan() { d } else { least };
    m
}

/// The transform without a shift for any number of rows, with care for zeros and overflow.
pub(super) fn transform_safely(from: &[Pair], to: &mut [Pair]) -> Minima {
    let n = from.len();
    let mut m = Minima {
        e: f64::INFINITY,
        ..Minima::default()
    };
    let mut d = from[0][0];
    let mut least = d;
    for i in 0..n - 1 {
        (m.last2, m.least2) = (m.last1, m.least1);
        (m.last1, m.least1) = (d, least);
        let ([_, e], [next, _]) = (from[i], from[i + 1]);
        let q = d + e;
        let mut new_e = 0.0;
        if q == 0.0 {
            d = next;
            least = d;
        } else {
            let (small, large) = (f64::MIN_POSITIVE * next < q, f64::MIN_POSITIVE * q < next);
            if small && large {
                let ratio = next / q;
                new_e = e * ratio;
                d *= ratio;
            } else {
                new_e = next * (e / q);
                d = next * (d / q);
            }
        }
        least = least.min(d);
        m.e = m.e.min(new_e);
        to[i] = [q, new_e];
    }
    to[n - 1] = [d, 0.0];
    m.last = d;
    m.least = least;
    m
}

/// Both eigenvalues of two rows, the larger one first.
pub(super) fn two_by_two(first: f64, second: f64, e: f64) -> (f64, f64) {
    let (large, small) = if second > first {
        (second, first)
    } else {
        (first, second)
    };
    let half = 0.5 * ((large - small) + e);
    if e <= small * TOLERANCE_SQUARED || half == 0.0 {
        return (large, small);
    }
    let s = small * (e / half);
    let s = if s <= half {
        small * (e / (half * (1.0 + (1.0 + s / half).sqrt())))
    } else {
        small * (e / (half + half.sqrt() * (half + s).sqrt()))
    };
    let sum = large + (s + e);
    (sum, small * (large / sum))
}
