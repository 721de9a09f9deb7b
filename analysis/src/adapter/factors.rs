//! Updates that follow from factors alone: products, element-wise products of products (LoHa) and
//! Kronecker products (LoKr), in the layouts of the libraries that write them.

use super::base::flat;
use super::bounds::check_count;
use super::key::Part;
use super::module::{Context, Draft, Parts};
use super::recipe::{Factor, Recipe, Side, Stored};
use crate::audit::{Kind, Method};

/// B A in its several layouts: PEFT, kohya, diffusers, mlx-lm, loralib; with AdaLoRA's diagonal and a
/// Tucker core between.
pub(super) fn product(
    name: &str,
    parts: &Parts<'_>,
    context: &Context<'_>,
) -> Result<Option<Draft>, String> {
    let pair = |a, b| Some((*parts.get(&a)?, *parts.get(&b)?));
    let plain = |kind, rank, recipe| Draft {
        kind,
        method: Method::Lora,
        rank,
        recipe,
        is_transposed: false,
        remark: None,
    };
    if let Some((a, b)) = pair(Part::EmbeddingA, Part::EmbeddingB) {
        let (a, b) = (context.matrix(a), context.matrix(b));
        agree(&a, &b, context)?;
        return Ok(Some(Draft {
            is_transposed: true,
            ..plain(Kind::Embedding, a.rows, stored_product(b, a))
        }));
    }
    if let Some((a, b)) = pair(Part::MlxA, Part::MlxB) {
        let both = (context.shape(a), context.shape(b));
        if !matches!(both, ([_, r], [s, _]) if r == s) {
            let (a, b) = both;
            return Err(format!(
                "expected factors inputs x R and R x outputs, found {a:?} and {b:?}"
            ));
        }
        let (a, b) = (
            context.matrix(a).transposed(),
            context.matrix(b).transposed(),
        );
        // The shapes do not tell a layer from a table of embeddings; only the name does.
        let last = name.rsplit('.').next().unwrap_or(name);
        let is_table = last.contains("embed") || last == "wte" || last == "wpe";
        return Ok(Some(Draft {
            is_transposed: is_table,
            ..plain(
                if is_table {
                    Kind::Embedding
                } else {
                    Kind::Linear
                },
                a.rows,
                stored_product(b, a),
            )
        }));
    }
    let (a, b, method) = if let Some((a, b)) = pair(Part::A, Part::B) {
        (a, b, Method::Lora)
    } else if let Some((a, b)) = pair(Part::Down, Part::Up) {
        (a, b, Method::Lora)
    } else if let Some((a, b)) = pair(Part::BareA, Part::BareB) {
        let is_adaptive = parts.contains_key(&Part::E);
        (
            a,
            b,
            if is_adaptive {
                Method::Adalora
            } else {
                Method::Lora
            },
        )
    } else {
        return Ok(None);
    };
    let (shape, kernel) = (context.shape(b), context.shape(a));
    let (a, b) = (context.matrix(a), context.matrix(b));
    if let Some(&core) = parts.get(&Part::Mid) {
        let core_shape = context.shape(core);
        let recipe = tucker(context.matrix(core), b, a);
        return match recipe {
            Some((recipe, rank)) => Ok(Some(plain(kernel_kind(core_shape), rank, recipe))),
            None => Err(format!(
                "expected factors R x in, R x R x window and out x R, found {kernel:?}, \
                 {core_shape:?} and {shape:?}"
            )),
        };
    }
    let is_transposed = transposed(name, &a, &b, context);
    let kind = match kernel.len() {
        2 if is_transposed => Kind::Conv1d,
        _ => kernel_kind(kernel),
    };
    if let Some(&diagonal) = parts.get(&Part::E) {
        agree(&a, &b, context)?;
        let length: usize = context.shape(diagonal).iter().product();
        if length != a.rows {
            return Err(format!(
                "expected {} numbers in lora_E, found {length}",
                a.rows
            ));
        }
        let rank = a.rows;
        let recipe = Recipe::Product {
            b: Factor::Stored(b),
            a: Factor::ScaledRows {
                matrix: a,
                scales: diagonal.to_owned(),
            },
        };
        return Ok(Some(Draft {
            method,
            is_transposed,
            ..plain(kind, rank, recipe)
        }));
    }
    let is_point = shape.len() >= 2 && shape.iter().skip(2).all(|&length| length == 1);
    let count = match b.columns {
        rank if is_point && rank > 0 && a.rows.is_multiple_of(rank) => a.rows / rank,
        _ => 1,
    };
    // The groups of a convolution and the several outputs of one layer (loralib's MergedLinear)
    // each have rows of A for themselves.
    let is_grouped = kernel.len() > 2 || parts.contains_key(&Part::BareA);
    if count > 1 && is_grouped && b.rows.is_multiple_of(count) {
        let numbers = (a.rows * a.columns).min(b.rows * b.columns);
        check_count(count, "groups", numbers)?;
        let weight = context.weight(name);
        let own_inputs = weight.is_some_and(|w| w.shape.get(1) == kernel.get(1));
        let rank = a.rows;
        let recipe = if own_inputs && kernel.len() > 2 {
            Recipe::Groups {
                b,
                a,
                groups: count,
            }
        } else {
            Recipe::Stacked { b, a, count }
        };
        return Ok(Some(plain(kind, rank, recipe)));
    }
    agree(&a, &b, context)?;
    let rank = a.rows;
    Ok(Some(Draft {
        is_transposed,
        ..plain(kind, rank, stored_product(b, a))
    }))
}

fn stored_product(b: Stored, a: Stored) -> Recipe {
    Recipe::Product {
        b: Factor::Stored(b),
        a: Factor::Stored(a),
    }
}

/// Checks that A is R × in [× window] and B out × R [× 1 × 1].
fn agree(a: &Stored, b: &Stored, context: &Context<'_>) -> Result<(), String> {
    let (first, second) = (context.shape(&a.tensor), context.shape(&b.tensor));
    let is_plain = |shape: &[usize]| shape.len() >= 2;
    let is_point = second.iter().skip(2).all(|&length| length == 1);
    if is_plain(first) && is_plain(second) && is_point && first[0] == second[1] {
        return Ok(());
    }
    Err(format!(
        "expected factors R x in and out x R, or R x in x h x w and out x R x 1 x 1, found \
         {first:?} and {second:?}"
    ))
}

/// Whether the base keeps this layer's weight as inputs × outputs: by the base itself if its sides
/// tell, else by the configuration.
fn transposed(name: &str, a: &Stored, b: &Stored, context: &Context<'_>) -> bool {
    let by_config = context.config.and_then(|c| c.fan_in_fan_out) == Some(true);
    match context.weight(name).map(|weight| flat(&weight.shape)) {
        Some(shape) if a.columns != b.rows && shape == (a.columns, b.rows) => true,
        Some(shape) if a.columns != b.rows && shape == (b.rows, a.columns) => false,
        _ => by_config,
    }
}

/// core p × (q, k), B out × p, D q × in.
pub(super) fn tucker(core: Stored, b: Stored, down: Stored) -> Option<(Recipe, usize)> {
    let fits = core.rows == b.columns
        && down.rows > 0
        && core.columns.is_multiple_of(down.rows)
        && core.columns > 0;
    let rank = b.columns.min(down.rows);
    let recipe = Recipe::Product {
        b: Factor::Stored(b),
        a: Factor::Tucker { core, down },
    };
    fits.then_some((recipe, rank))
}

pub(super) fn kernel_kind(shape: &[usize]) -> Kind {
    match shape.len() {
        3 => Kind::Conv1,
        4 => Kind::Conv2d,
        5.. => Kind::Conv3d,
        _ => Kind::Linear,
    }
}

/// Kernels that a product's factors could not have come from.
pub(super) fn check_ranks(recipe: &Recipe) -> Result<(), String> {
    let sides = |b: &Factor, a: &Factor| (b.shape(), a.shape());
    let check = |((_, r), (s, _)): ((usize, usize), (usize, usize))| {
        if r == s {
            Ok(())
        } else {
            Err(format!(
                "expected one rank, found {r} in the left factor and {s} in the right"
            ))
        }
    };
    match recipe {
        Recipe::Product { b, a } => check(sides(b, a)),
        Recipe::Hadamard { first, second } => {
            check(sides(&first.0, &first.1))?;
            check(sides(&second.0, &second.1))
        }
        Recipe::Kronecker { left, right } => {
            for side in [left, right] {
                if let Side::Product(b, a) = side {
                    check(sides(b, a))?;
                }
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

/// LoHa.
pub(super) fn hadamard(parts: &Parts<'_>, context: &Context<'_>) -> Result<Option<Draft>, String> {
    let names = [Part::HadaW1A, Part::HadaW1B, Part::HadaW2A, Part::HadaW2B];
    let found = names.map(|part| parts.get(&part).copied());
    if found.iter().all(Option::is_none) {
        return Ok(None);
    }
    let [Some(w1a), Some(w1b), Some(w2a), Some(w2b)] = found else {
        return Err("expected hada_w1_a, _w1_b, _w2_a and _w2_b, found only some".to_owned());
    };
    let side = |core: Part, a: &str, b: &str| -> Result<(Factor, Factor, usize), String> {
        let (left, right) = (context.matrix(a), context.matrix(b));
        match parts.get(&core) {
            // With a core the left factor is kept as R × out.
            Some(&core) => match tucker(context.matrix(core), left.transposed(), right) {
                Some((Recipe::Product { b, a }, rank)) => Ok((b, a, rank)),
                _ => Err(format!(
                    "{core}: expected R x R x window beside R x out and R x in"
                )),
            },
            None => {
                let rank = left.columns;
                Ok((Factor::Stored(left), Factor::Stored(right), rank))
            }
        }
    };
    let (b1, a1, r1) = side(Part::HadaT1, w1a, w1b)?;
    let (b2, a2, r2) = side(Part::HadaT2, w2a, w2b)?;
    if (b1.shape().0, a1.shape().1) != (b2.shape().0, a2.shape().1) {
        return Err("expected two products of one shape".to_owned());
    }
    let kind = match parts.get(&Part::HadaT1) {
        Some(core) => kernel_kind(context.shape(core)),
        None => Kind::Linear,
    };
    let recipe = Recipe::Hadamard {
        first: (b1, a1),
        second: (b2, a2),
    };
    Ok(Some(Draft {
        kind,
        method: Method::Loha,
        rank: r1.saturating_mul(r2),
        recipe,
        is_transposed: false,
        remark: None,
    }))
}

/// LoKr.
pub(super) fn kronecker(
    name: &str,
    parts: &Parts<'_>,
    context: &Context<'_>,
) -> Result<Option<Draft>, String> {
    let get = |part| parts.get(&part).copied();
    let side = |whole, a, b, core| -> Result<Option<Side>, String> {
        let matrix = |tensor| context.matrix(tensor);
        match (get(whole), get(a), get(b)) {
            (Some(whole), _, _) => Ok(Some(Side::Whole(matrix(whole)))),
            (None, Some(a), Some(b)) => match core {
                Some(core) => match tucker(matrix(core), matrix(a).transposed(), matrix(b)) {
                    Some((Recipe::Product { b, a }, _)) => Ok(Some(Side::Product(b, a))),
                    _ => Err(format!(
                        "{core}: expected R x R x window beside R x out and R x in"
                    )),
                },
                None => Ok(Some(Side::Product(
                    Factor::Stored(matrix(a)),
                    Factor::Stored(matrix(b)),
                ))),
            },
            (None, None, None) => Ok(None),
            _ => Err(
                "expected both factors of a side of the Kronecker product, found one".to_owned(),
            ),
        }
    };
    let left = side(Part::LokrW1, Part::LokrW1A, Part::LokrW1B, None)?;
    let right = side(
        Part::LokrW2,
        Part::LokrW2A,
        Part::LokrW2B,
        get(Part::LokrT2),
    )?;
    let (left, right) = match (left, right) {
        (Some(left), Some(right)) => (left, right),
        (None, None) => return Ok(None),
        _ => return Err("expected lokr_w1 and lokr_w2, found only one".to_owned()),
    };
    let ((m, n), (p, q)) = (left.shape(), right.shape());
    if m.checked_mul(p).is_none() || n.checked_mul(q).is_none() {
        return Err(format!(
            "a Kronecker product of {m} x {n} and {p} x {q} is too large"
        ));
    }
    let kernel = get(Part::LokrT2).or(get(Part::LokrW2));
    let kind = match (kernel, context.weight(name)) {
        (_, Some(weight)) => kernel_kind(&weight.shape),
        (Some(kernel), None) => kernel_kind(context.shape(kernel)),
        (None, None) => Kind::Linear,
    };
    Ok(Some(Draft {
        kind,
        method: Method::Lokr,
        rank: left.budget().saturating_mul(right.budget()),
        recipe: Recipe::Kronecker { left, right },
        is_transposed: false,
        remark: None,
    }))
}
