//! The two types that a reduction calculates in.

use faer::traits::RealField;
use pulp::Simd;

/// Numbers of one or the other precision, and vectors of them.
pub(crate) trait Real: RealField + Copy + Into<f64> + 'static {
    /// A vector register's worth.
    type Vector<S: Simd>: Copy;

    /// Squares below it have lost digits.
    const LEAST_SQUARE: f64;

    /// The nearest number of the type.
    fn rounded(x: f64) -> Self;

    /// Whole vectors, and the numbers that are left.
    fn vectors<S: Simd>(x: &[Self]) -> (&[Self::Vector<S>], &[Self]);

    /// The same to be written to.
    fn vectors_mut<S: Simd>(x: &mut [Self]) -> (&mut [Self::Vector<S>], &mut [Self]);

    /// A vector of one number.
    fn splat<S: Simd>(simd: S, x: Self) -> Self::Vector<S>;

    /// x y + z, rounded once.
    fn mul_add<S: Simd>(
        simd: S,
        x: Self::Vector<S>,
        y: Self::Vector<S>,
        z: Self::Vector<S>,
    ) -> Self::Vector<S>;

    /// The sum of a vector's numbers.
    fn sum<S: Simd>(simd: S, x: Self::Vector<S>) -> Self;
}

macro_rules! real {
    ($type:ident, $vector:ident, $as:ident, $as_mut:ident, $splat:ident, $mul_add:ident, $sum:ident) => {
        impl Real for $type {
            type Vector<S: Simd> = S::$vector;

            const LEAST_SQUARE: f64 = $type::MIN_POSITIVE as f64 / $type::EPSILON as f64;

            #[inline(always)]
            fn rounded(x: f64) -> Self {
                x as Self
            }

            #[inline(always)]
            fn vectors<S: Simd>(x: &[Self]) -> (&[S::$vector], &[Self]) {
                S::$as(x)
            }

            #[inline(always)]
            fn vectors_mut<S: Simd>(x: &mut [Self]) -> (&mut [S::$vector], &mut [Self]) {
                S::$as_mut(x)
            }

            #[inline(always)]
            fn splat<S: Simd>(simd: S, x: Self) -> S::$vector {
                simd.$splat(x)
            }

            #[inline(always)]
            fn mul_add<S: Simd>(
                simd: S,
                x: S::$vector,
                y: S::$vector,
                z: S::$vector,
            ) -> S::$vector {
                simd.$mul_add(x, y, z)
            }

            #[inline(always)]
            fn sum<S: Simd>(simd: S, x: S::$vector) -> Self {
                simd.$sum(x)
            }
        }
    };
}

real!(
    f32,
    f32s,
    as_simd_f32s,
    as_mut_simd_f32s,
    splat_f32s,
    mul_add_f32s,
    reduce_sum_f32s
);
real!(
    f64,
    f64s,
    as_simd_f64s,
    as_mut_simd_f64s,
    splat_f64s,
    mul_add_f64s,
    reduce_sum_f64s
);
