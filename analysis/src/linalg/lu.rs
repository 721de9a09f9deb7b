use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::lu::partial_pivoting::{factor as lu_factor, solve as lu_solve};
use faer::{Mat, Par, Spec};
use ndarray::{Array2, ArrayView1, ArrayView2};

use super::{check_finite, to_faer, to_ndarray};
use crate::Error;

/// Steps of the condition estimate; it almost always stands still after two or three.
const CONDITION_STEPS: usize = 5;

/// Solves M X = RHS for square M by LU with partial pivoting; `rhs` has a column per system. The
/// transposed system is `solve(m.t(), rhs)`.
///
/// # Errors
/// [`Error::Mismatch`] if M is not square or `rhs` has another number of rows,
/// [`Error::NonFinite`], and [`Error::Singular`] if the estimated condition number reaches 1/ε, so
/// that no digit of X can be relied on.
pub fn solve(a: ArrayView2<'_, f64>, rhs: ArrayView2<'_, f64>) -> Result<Array2<f64>, Error> {
    let n = a.nrows();
    if a.ncols() != n {
        return Err(Error::Mismatch {
            what: "matrix of a linear system",
            expected: format!("{n} x {n}"),
            found: format!("{n} x {}", a.ncols()),
        });
    }
    if rhs.nrows() != n {
        return Err(Error::Mismatch {
            what: "rows of the right-hand side",
            expected: n.to_string(),
            found: rhs.nrows().to_string(),
        });
    }
    check_finite("matrix of a linear system", a)?;
    check_finite("right-hand side", rhs)?;
    if n == 0 {
        return Ok(Array2::zeros(rhs.dim()));
    }
    let lu = Lu::new(a);
    let limit = f64::EPSILON.recip();
    let condition = lu.condition();
    // NaN comes of a factor that overflowed.
    if condition.is_nan() || condition >= limit {
        return Err(Error::Singular {
            size: n,
            condition,
            limit,
        });
    }
    let mut x = to_faer(rhs);
    lu.solve(&mut x, Transposed::No);
    Ok(to_ndarray(x.as_ref()))
}

#[derive(Clone, Copy)]
enum Transposed {
    No,
    Yes,
}

/// P M = L U, with L and U in one matrix.
struct Lu {
    factors: Mat<f64>,
    forward: Vec<usize>,
    inverse: Vec<usize>,
    norm_1: f64,
}

impl Lu {
    fn new(a: ArrayView2<'_, f64>) -> Self {
        let n = a.nrows();
        let mut factors = to_faer(a);
        let (mut forward, mut inverse) = (vec![0; n], vec![0; n]);
        let params = Spec::default();
        let mut memory = MemBuffer::new(lu_factor::lu_in_place_scratch::<usize, f64>(
            n,
            n,
            Par::Seq,
            params,
        ));
        lu_factor::lu_in_place(
            factors.as_mut(),
            &mut forward,
            &mut inverse,
            Par::Seq,
            MemStack::new(&mut memory),
            params,
        );
        let column_sum = |column: ArrayView1<'_, f64>| column.iter().map(|x| x.abs()).sum();
        let norm_1 = a.columns().into_iter().map(column_sum).fold(0.0, f64::max);
        Self {
            factors,
            forward,
            inverse,
            norm_1,
        }
    }

    fn solve(&self, rhs: &mut Mat<f64>, transposed: Transposed) {
        let n = self.factors.nrows();
        let lu = self.factors.as_ref();
        let rows = faer::perm::PermRef::new_checked(&self.forward, &self.inverse, n);
        let columns = rhs.ncols();
        let mut memory = MemBuffer::new(match transposed {
            Transposed::No => lu_solve::solve_in_place_scratch::<usize, f64>(n, columns, Par::Seq),
            Transposed::Yes => {
                lu_solve::solve_transpose_in_place_scratch::<usize, f64>(n, columns, Par::Seq)
            }
        });
        let stack = MemStack::new(&mut memory);
        match transposed {
            Transposed::No => lu_solve::solve_in_place(lu, lu, rows, rhs.as_mut(), Par::Seq, stack),
            Transposed::Yes => {
                lu_solve::solve_transpose_in_place(lu, lu, rows, rhs.as_mut(), Par::Seq, stack);
            }
        }
    }

    /// κ₁ from below, almost always within a factor of three: W. W. Hager, “Condition estimates”,
    /// SIAM J. Sci. Stat. Comput. 5 (1984), with the alternating vector that N. J. Higham, ACM TOMS
    /// 14 (1988), Algorithm 4.1, adds against its known failures.
    fn condition(&self) -> f64 {
        let n = self.factors.nrows();
        if (0..n).any(|i| self.factors[(i, i)] == 0.0) {
            return f64::INFINITY;
        }
        let mut x = Mat::from_fn(n, 1, |_, _| 1.0 / n as f64);
        let mut estimate = 0.0_f64;
        for _ in 0..CONDITION_STEPS {
            let mut y = x.clone();
            self.solve(&mut y, Transposed::No);
            let norm = norm_1(&y);
            if norm <= estimate {
                break;
            }
            estimate = norm;
            let mut z = Mat::from_fn(n, 1, |i, _| f64::signum(y[(i, 0)]));
            self.solve(&mut z, Transposed::Yes);
            let steepest = (0..n)
                .max_by(|&i, &j| z[(i, 0)].abs().total_cmp(&z[(j, 0)].abs()))
                .expect("n is at least 1");
            x = Mat::from_fn(n, 1, |i, _| if i == steepest { 1.0 } else { 0.0 });
        }
        let mut alternating = Mat::from_fn(n, 1, |i, _| {
            let sign = if i % 2 == 0 { 1.0 } else { -1.0 };
            sign * (1.0 + i as f64 / (n.max(2) - 1) as f64)
        });
        self.solve(&mut alternating, Transposed::No);
        let lower = 2.0 * norm_1(&alternating) / (3.0 * n as f64);
        self.norm_1 * estimate.max(lower)
    }
}

fn norm_1(column: &Mat<f64>) -> f64 {
    (0..column.nrows()).map(|i| column[(i, 0)].abs()).sum()
}
