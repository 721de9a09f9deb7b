//! A product of Householder reflections in one block, and the QR decomposition that makes it.
//!
//! Q = H_1 ⋯ H_k = I − V T Vᵀ with T upper triangular. Columns are reflected a few at a time; two
//! neighbouring blocks become one, T₁₂ = −T₁ (V₁ᵀV₂) T₂, so that all of the work but the smallest
//! blocks' is matrix products. V has its zeros and ones written out, and R lies apart.
//!
//! No column is skipped because it is small: what is left of a column that depends on those before
//! it is rounding, and its reflection is as orthogonal as any other.
//!
//! | symbol | identifier |
//! |---|---|
//! | V, T, R | `v`, `t`, `r` |
//! | H = I − τ v vᵀ, v₁ = 1 | `reflect` |
//!
//! Sources: R. Schreiber and C. Van Loan, “A storage-efficient WY representation for products of
//! Householder transformations”, SIAM J. Sci. Stat. Comput. 10 (1989); E. Elmroth and
//! F. G. Gustavson, “Applying recursion to serial and parallel QR factorization leads to better
//! performance”, IBM J. Res. Dev. 44 (2000).

use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, MatMut, MatRef, Par};
use pulp::{Arch, Simd, WithSimd};

use super::real::Real;

/// Columns that are reflected one by one.
const LEAF: usize = 8;

/// A = QR of an m × n matrix, with k = min(m, n).
pub(crate) struct Reflections<T> {
    /// m × k, lower trapezoidal.
    pub v: Mat<T>,
    /// k × k, upper triangular.
    pub t: Mat<T>,
    /// k × n, upper trapezoidal.
    pub r: Mat<T>,
}

impl<T: Real> Reflections<T> {
    /// Of a matrix whose largest entry is near one.
    pub fn new(a: MatRef<'_, T>) -> Self {
        let (m, n) = a.shape();
        let k = m.min(n);
        let (mut r, mut t) = (Mat::zeros(k, n), Mat::zeros(k, k));
        let mut columns = Vec::with_capacity(m * k);
        for column in a.subcols(0, k).col_iter() {
            columns.extend(column.iter().copied());
        }
        if k > 0 {
            reduce(&mut columns, m, 0, &mut r, &mut t);
        }
        let v = MatRef::from_column_major_slice(&columns, m, k).to_owned();
        if n > k {
            let mut rest = a.subcols(k, n - k).to_owned();
            apply_transposed(v.as_ref(), t.as_ref(), rest.as_mut());
            r.subcols_mut(k, n - k).copy_from(rest.subrows(0, k));
        }
        Self { v, t, r }
    }
}

/// Reflects the columns, `rows` numbers each, to upper triangular form from row `top` on, which is also
/// the place of the first of them among all columns: V is left in them.
fn reduce<T: Real>(columns: &mut [T], rows: usize, top: usize, r: &mut Mat<T>, t: &mut Mat<T>) {
    let count = columns.len() / rows;
    if count <= LEAF {
        let taus = Arch::new().dispatch(Leaf {
            columns,
            rows,
            top,
            r,
        });
        let v = MatRef::from_column_major_slice(columns, rows, count);
        let v = v.subrows(top, rows - top);
        let mut gram = Mat::zeros(count, count);
        multiply(gram.as_mut(), v.transpose(), v);
        for (j, &tau) in taus[..count].iter().enumerate() {
            for i in 0..j {
                let mut sum = 0.0;
                for l in i..j {
                    sum += t[(top + i, top + l)].into() * gram[(l, j)].into();
                }
                t[(top + i, top + j)] = T::rounded(-tau * sum);
            }
            t[(top + j, top + j)] = T::rounded(tau);
        }
        return;
    }
    let half = (count.div_ceil(LEAF) / 2) * LEAF;
    let (left, right) = columns.split_at_mut(half * rows);
    reduce(left, rows, top, r, t);
    let middle = top + half;
    let v = |columns, count| {
        MatRef::<T>::from_column_major_slice(columns, rows, count)
            .split_at_row(top)
            .1
    };
    let first = t.as_ref().submatrix(top, top, half, half).to_owned();
    let mut rest = MatMut::from_column_major_slice_mut(right, rows, count - half)
        .split_at_row_mut(top)
        .1;
    apply_transposed(v(left, half), first.as_ref(), rest.as_mut());
    let mut above = rest.subrows_mut(0, half);
    r.as_mut()
        .submatrix_mut(top, middle, half, count - half)
        .copy_from(above.as_ref());
    above.fill(T::rounded(0.0));
    reduce(right, rows, middle, r, t);
    let mut cross = Mat::zeros(half, count - half);
    multiply(
        cross.as_mut(),
        v(left, half).transpose(),
        v(right, count - half),
    );
    let mut turned = Mat::zeros(half, count - half);
    multiply(turned.as_mut(), first.as_ref(), cross.as_ref());
    let second = t
        .as_ref()
        .submatrix(middle, middle, count - half, count - half)
        .to_owned();
    matmul(
        t.as_mut().submatrix_mut(top, middle, half, count - half),
        Accum::Replace,
        turned.as_ref(),
        second.as_ref(),
        T::rounded(-1.0),
        Par::Seq,
    );
}

/// A ← Qᵀ A.
fn apply_transposed<T: Real>(v: MatRef<'_, T>, t: MatRef<'_, T>, a: MatMut<'_, T>) {
    let mut inner = Mat::zeros(v.ncols(), a.ncols());
    multiply(inner.as_mut(), v.transpose(), a.as_ref());
    let mut turned = Mat::zeros(v.ncols(), a.ncols());
    multiply(turned.as_mut(), t.transpose(), inner.as_ref());
    matmul(
        a,
        Accum::Add,
        v,
        turned.as_ref(),
        T::rounded(-1.0),
        Par::Seq,
    );
}

pub(crate) fn multiply<T: Real>(to: MatMut<'_, T>, x: MatRef<'_, T>, y: MatRef<'_, T>) {
    matmul(to, Accum::Replace, x, y, T::rounded(1.0), Par::Seq);
}

/// Reflects a few columns one after the other; gives their τ.
struct Leaf<'a, T> {
    columns: &'a mut [T],
    rows: usize,
    top: usize,
    r: &'a mut Mat<T>,
}

impl<T: Real> WithSimd for Leaf<'_, T> {
    type Output = [f64; LEAF];

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Self::Output {
        let Self {
            columns,
            rows,
            top,
            r,
        } = self;
        let mut taus = [0.0; LEAF];
        let count = columns.len() / rows;
        for j in 0..count {
            let (before, after) = columns.split_at_mut((j + 1) * rows);
            let column = &mut before[j * rows..];
            let at = top + j;
            // What is above has its final value.
            for i in top..at {
                r[(i, at)] = column[i];
                column[i] = T::rounded(0.0);
            }
            let (head, tau) = reflect(simd, &mut column[at..]);
            r[(at, at)] = head;
            taus[j] = tau;
            if tau != 0.0 {
                let v = &column[at..];
                for other in after.chunks_exact_mut(rows) {
                    let other = &mut other[at..];
                    let factor = -tau * dot(simd, v, other).into();
                    add_multiple(simd, T::rounded(factor), v, other);
                }
            }
        }
        taus
    }
}

/// Makes v, v₁ = 1, of I − τ v vᵀ that takes `v` to (head, 0, …, 0): the head and τ. Without anything to
/// clear v and τ are zero.
#[inline(always)]
fn reflect<T: Real, S: Simd>(simd: S, v: &mut [T]) -> (T, f64) {
    let head = v[0];
    let tail = &mut v[1..];
    let square: f64 = dot(simd, tail, tail).into();
    // The largest entry of the whole matrix is near one: what vanishes here is no digit of it.
    if square < T::LEAST_SQUARE {
        v.fill(T::rounded(0.0));
        return (head, 0.0);
    }
    let first: f64 = head.into();
    let norm = (first * first + square).sqrt();
    let length = norm + first.abs();
    let divisor = if first > 0.0 { length } else { -length };
    scale(simd, T::rounded(1.0 / divisor), tail);
    v[0] = T::rounded(1.0);
    let head = if first > 0.0 { -norm } else { norm };
    (T::rounded(head), length / norm)
}

/// In a fixed order for each width of vectors.
#[inline(always)]
fn dot<T: Real, S: Simd>(simd: S, x: &[T], y: &[T]) -> T {
    let ((x, x_rest), (y, y_rest)) = (T::vectors::<S>(x), T::vectors::<S>(y));
    let mut sums = [T::splat(simd, T::rounded(0.0)); 4];
    let ((x, x_last), (y, y_last)) = (x.as_chunks::<4>(), y.as_chunks::<4>());
    for (x, y) in x.iter().zip(y) {
        for ((sum, &x), &y) in sums.iter_mut().zip(x).zip(y) {
            *sum = T::mul_add(simd, x, y, *sum);
        }
    }
    for ((sum, &x), &y) in sums.iter_mut().zip(x_last).zip(y_last) {
        *sum = T::mul_add(simd, x, y, *sum);
    }
    let mut sum = T::rounded(0.0);
    for part in sums {
        sum += T::sum(simd, part);
    }
    for (&x, &y) in x_rest.iter().zip(y_rest) {
        sum += x * y;
    }
    sum
}

/// y ← y + c x.
#[inline(always)]
fn add_multiple<T: Real, S: Simd>(simd: S, c: T, x: &[T], y: &mut [T]) {
    let ((x, x_rest), (y, y_rest)) = (T::vectors::<S>(x), T::vectors_mut::<S>(y));
    let factor = T::splat(simd, c);
    for (y, &x) in y.iter_mut().zip(x) {
        *y = T::mul_add(simd, factor, x, *y);
    }
    for (y, &x) in y_rest.iter_mut().zip(x_rest) {
        *y += c * x;
    }
}

#[inline(always)]
fn scale<T: Real, S: Simd>(simd: S, c: T, x: &mut [T]) {
    let zero = T::splat(simd, T::rounded(0.0));
    let factor = T::splat(simd, c);
    let (x, rest) = T::vectors_mut::<S>(x);
    for x in x {
        *x = T::mul_add(simd, factor, *x, zero);
    }
    for x in rest {
        *x *= c;
    }
}
