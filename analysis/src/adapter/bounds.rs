//! What the making of an update may ask for: no small file may take much memory or time.
//!
//! The forms grow differently beyond what the file keeps of them:
//!
//! | form | numbers that are made |
//! |---|---|
//! | Tucker core | R × in·window |
//! | outputs one below the other | (out + in)·count·R, or out × in |
//! | LoHa | (out + in)·R₁R₂, or out × in |
//! | LoKr | its singular values |
//! | VeRA, drawn anew | R·(in + out), once |
//! | less an initial update that is no product | out × in |
//!
//! Real adapters stay far below the limits: LoHa with R = 64 on a layer of 14336 × 4096 makes 25 numbers
//! for one, and a Tucker core on a kernel of 27 places at most 27.

use super::base::flat;
use super::module::Context;
use super::recipe::{Factor, Recipe, Side};

/// The longest side of a matrix that is understood. Only tensors without any number can be longer in
/// a file of any size; it keeps products of two sides from overflowing.
const LONGEST: usize = 1 << 31;

/// Numbers that may be made for every one that the file keeps,
const GROWTH: usize = 32;

/// in LoHa, whose factors grow with R/2,
const HADAMARD_GROWTH: usize = 128;

/// for VeRA's projections beside the base weights whose sizes they have,
const PROJECTION_GROWTH: usize = 8;

/// and so many in any case.
const FEW: usize = 1 << 15;

/// The most numbers of the difference of a trained and an initial update, where both are formed: two
/// Kronecker products that share no side are of full rank together, however few numbers they have. It
/// is half a gigabyte in float64, of which a thread holds two at most, and has room for 4096 × 14336;
/// a larger one needs a base model whose weight has that size.
const LARGEST_DIFFERENCE: usize = 1 << 26;

/// The most experts of one parameter; the largest model has 2,048.
pub(super) const MOST_EXPERTS: usize = 4096;

/// Whether a tensor's sides can be multiplied.
pub(super) fn are_sides(shape: &[usize]) -> bool {
    let (rows, columns) = flat(shape);
    rows <= LONGEST && columns <= LONGEST
}

/// Checks that a tensor's sides can be multiplied.
pub(super) fn check_sides(tensor: &str, context: &Context<'_>) -> Result<(), String> {
    let shape = context.shape(tensor);
    if are_sides(shape) {
        return Ok(());
    }
    Err(format!(
        "{tensor}: expected at most {LONGEST} rows and columns, found {shape:?}"
    ))
}

/// Checks that experts, groups or outputs of one tensor are not more than its numbers.
pub(super) fn check_count(count: usize, what: &str, numbers: usize) -> Result<(), String> {
    let most = numbers.min(MOST_EXPERTS);
    if count <= most {
        return Ok(());
    }
    Err(format!(
        "expected at most {most} {what} in factors of {numbers} numbers, found {count}"
    ))
}

/// Checks that an update's making is in proportion to its tensors.
pub(super) fn check(recipe: &Recipe, context: &Context<'_>) -> Result<(), String> {
    let kept = recipe.tensors().into_iter().fold(0_usize, |sum, tensor| {
        sum.saturating_add(context.shape(tensor).iter().product())
    });
    let (what, made) = made(recipe);
    let growth = match recipe {
        Recipe::Hadamard { .. } => HADAMARD_GROWTH,
        _ => GROWTH,
    };
    let most = FEW.max(kept.saturating_mul(growth));
    if made <= most {
        return Ok(());
    }
    Err(format!(
        "{what}: expected an update of at most {most} numbers for the {kept} in its factors, found \
         {made}"
    ))
}

/// Checks the difference of a trained and an initial update that are no plain products: it may be
/// formed. `kept` is the more of the numbers in the factors and in the base weight.
pub(super) fn check_difference(shape: (usize, usize), kept: usize) -> Result<(), String> {
    let made = shape.0.saturating_mul(shape.1);
    let most = LARGEST_DIFFERENCE.max(kept);
    if made <= most {
        return Ok(());
    }
    Err(format!(
        "the difference from the initial adapter: expected at most {most} numbers or a base weight of \
         its size (--base), found {} x {}",
        shape.0, shape.1
    ))
}

/// Checks the sizes of projections that would be drawn beside base weights of `kept` numbers.
pub(super) fn check_projections(
    rank: usize,
    (inputs, outputs): (usize, usize),
    kept: usize,
) -> Result<(), String> {
    let made = rank.saturating_mul(inputs.saturating_add(outputs));
    let most = FEW.max(kept.saturating_mul(PROJECTION_GROWTH));
    if made <= most {
        return Ok(());
    }
    Err(format!(
        "VeRA: expected projections of at most {most} numbers beside base weights of {kept}, found \
         {rank} x {inputs} and {outputs} x {rank}"
    ))
}

/// The form with the most numbers, and how many.
fn made(recipe: &Recipe) -> (&'static str, usize) {
    let area = |(m, n): (usize, usize)| m.saturating_mul(n);
    let factor = |factor: &Factor| match factor {
        Factor::Tucker { .. } => area(factor.shape()),
        Factor::Stored(_) | Factor::ScaledRows { .. } => 0,
    };
    let side = |side: &Side| match side {
        Side::Whole(_) => 0,
        Side::Product(b, a) => factor(b).max(factor(a)),
    };
    match recipe {
        Recipe::Product { b, a } => ("a Tucker core", factor(b).max(factor(a))),
        Recipe::Stacked { b, a, .. } => {
            let wide = area((b.rows, a.rows));
            (
                "several outputs in one layer",
                wide.min(area(recipe.shape())),
            )
        }
        Recipe::Hadamard { first, second } => {
            let (m, n) = recipe.shape();
            let rank = area((first.0.shape().1, second.0.shape().1));
            let thin = area((m.saturating_add(n), rank));
            let inner = [&first.0, &first.1, &second.0, &second.1].map(factor);
            let inner = inner.into_iter().max().unwrap_or(0);
            ("LoHa", thin.min(area((m, n))).max(inner))
        }
        Recipe::Kronecker { left, right } => {
            let values = area((left.budget(), right.budget()));
            ("LoKr", values.max(side(left)).max(side(right)))
        }
        Recipe::Directions { inside, .. } => made(inside),
        Recipe::Groups { .. }
        | Recipe::Vera { .. }
        | Recipe::Rescaled { .. }
        | Recipe::Glora { .. }
        | Recipe::Whole { .. }
        | Recipe::Tokens { .. }
        | Recipe::Difference(_) => ("an update", 0),
    }
}
