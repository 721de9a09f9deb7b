//! The choice of shifts, after Parlett and Marques; the numbers of the cases are theirs.
//!
//! A shift should be a little below the smallest eigenvalue. The least d of the last transform is an
//! upper bound of it, and how fast e falls off from the last row upwards says how far it can be below.

use super::Pair;
use super::transform::Minima;

/// How the last shift was found; only what the next choice depends on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Guess {
    Informed,
    /// Case 6, with the part of the least d that was taken.
    Blind(f64),
    /// Case 6, and the shift was too large.
    BlindFailed,
}

/// The next shift, a lower bound of the smallest eigenvalue that is close to it if the end of the
/// block has begun to converge, and how it was found. Of the block's rows now and before the last
/// transform, at least three; `deflated` counts the rows that went since then.
pub(super) fn next_shift(
    (z, old): (&[Pair], &[Pair]),
    deflated: usize,
    m: &Minima,
    guess: Guess,
) -> (f64, Guess) {
    if m.least <= 0.0 {
        return (-m.least, Guess::Informed);
    }
    let n = z.len() - 1;
    let tau = match deflated {
        0 if m.least == m.last && m.least1 == m.last1 => converging(z, m),
        0 if m.least == m.last || m.least == m.last1 => near_the_end(z, old, m),
        0 if m.least == m.last2 => two_above_the_end(z, old, m),
        // Case 6: nothing is known.
        0 => {
            let part = match guess {
                Guess::Blind(part) => part + (1.0 - part) / 3.0,
                Guess::BlindFailed => 1.0 / 12.0,
                Guess::Informed => 0.25,
            };
            return (part * m.least, Guess::Blind(part));
        }
        1 if m.least1 == m.last1 && m.least2 == m.last2 => {
            after_deflation(z, m.least1, 0.5 * m.least2)
        }
        // Case 9.
        1 if m.least1 == m.last1 => 0.5 * m.least1,
        1 => 0.25 * m.least1,
        2 if m.least2 == m.last2 && 2.0 * z[n - 1][1] < z[n - 1][0] => {
            let [q, e] = z[n - 2];
            after_deflation(z, m.least2, z[n - 1][0] + e - q.sqrt() * e.sqrt())
        }
        // Cases 11 and 12.
        2 => 0.25 * m.least2,
        _ => 0.0,
    };
    (tau, Guess::Informed)
}

/// Cases 2 and 3: the last two d are the least ones, as in the end game.
fn converging(z: &[Pair], m: &Minima) -> f64 {
    let n = z.len() - 1;
    let b1 = z[n][0].sqrt() * z[n - 1][1].sqrt();
    let b2 = z[n - 1][0].sqrt() * z[n - 2][1].sqrt();
    let a2 = z[n - 1][0] + z[n - 1][1];
    let gap2 = 0.75 * m.least2 - a2;
    let gap1 = if gap2 > 0.0 && gap2 > b2 {
        a2 - m.last - (b2 / gap2) * b2
    } else {
        a2 - m.last - (b1 + b2)
    };
    if gap1 > 0.0 && gap1 > b1 {
        return (m.last - (b1 / gap1) * b1).max(0.5 * m.least);
    }
    let mut s = (m.last - b1).max(0.0);
    if a2 > b1 + b2 {
        s = s.min(a2 - (b1 + b2));
    }
    s.max(m.least / 3.0)
}

/// Case 4: the least d is one of the last two.
fn near_the_end(z: &[Pair], old: &[Pair], m: &Minima) -> f64 {
    let n = z.len() - 1;
    let default = 0.25 * m.least;
    let (gap, above, norm) = if m.least == m.last {
        (m.last, n - 1, 0.0)
    } else {
        if old[n - 1][1] > old[n][0] {
            return default;
        }
        (m.last1, n - 2, old[n - 1][1] / old[n][0])
    };
    match decay(&z[..=above], norm) {
        Some(norm) => rayleigh(gap, norm).unwrap_or(default),
        None => default,
    }
}

/// Case 5: the least d is the third from the end.
fn two_above_the_end(z: &[Pair], old: &[Pair], m: &Minima) -> f64 {
    let n = z.len() - 1;
    let default = 0.25 * m.least;
    let (b1, b2) = (old[n][0], old[n - 1][0]);
    if old[n - 2][1] > b2 || old[n - 1][1] > b1 {
        return default;
    }
    let below = old[n - 2][1] / b2 * (1.0 + old[n - 1][1] / b1);
    match decay(&z[..n - 2], below) {
        Some(norm) => rayleigh(m.last2, norm).unwrap_or(default),
        None => default,
    }
}

/// Cases 7, 8 and 10: after a deflation, from the least d that remains and the gap to the next
/// eigenvalue.
fn after_deflation(z: &[Pair], least: f64, gap: f64) -> f64 {
    let default = least / 3.0;
    let Some(norm) = decay(&z[..z.len() - 1], 0.0) else {
        return default;
    };
    let norm = (1.05 * norm).sqrt();
    let a2 = least / (1.0 + norm * norm);
    let gap = gap - a2;
    default.max(if gap > 0.0 && gap > norm * a2 {
        a2 * (1.0 - 1.01 * a2 * (norm / gap) * norm)
    } else {
        a2 * (1.0 - 1.01 * norm)
    })
}

/// The squared norm, relative to its last entry, of the eigenvector's part above the end: the sum of
/// the products of e_i / q_i from the last row upwards, added to `norm`. `None` if a ratio exceeds
/// one, so that the sum says nothing.
fn decay(rows: &[Pair], norm: f64) -> Option<f64> {
    let (mut sum, mut term) = (norm, 1.0_f64);
    for [q, e] in rows.iter().rev() {
        if e > q {
            return None;
        }
        let before = term;
        term *= e / q;
        sum += term;
        // NaN, from 0 / 0, ends it too.
        if term == 0.0 || 100.0 * term.max(before) < sum || sum.is_nan() || sum >= 0.563 {
            break;
        }
    }
    Some(sum)
}

/// The Rayleigh quotient's residual bound with the squared norm of [`decay`], if it is of use.
fn rayleigh(gap: f64, norm: f64) -> Option<f64> {
    let norm = 1.05 * norm;
    (norm < 0.563).then(|| gap * (1.0 - norm.sqrt()) / (1.0 + norm))
}
