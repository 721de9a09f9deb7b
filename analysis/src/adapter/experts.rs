//! LoRA of a parameter that holds one matrix for every expert (PEFT's `target_parameters`).
//!
//! A is (E·R) × in with the expert as the slower index, B out × (R·E) with the expert as the faster:
//! ΔW_e = s·B[:, e::E]·A[eR:(e+1)R]. Where the base keeps experts × in × out, ΔW_e is its transpose.
//!
//! mlx-lm keeps A as E × R × in and B as E × out × R.
//!
//! Sources: `ParamWrapper` of huggingface/peft; `LoRASwitchLinear` of ml-explore/mlx-lm.

use super::base::flat;
use super::bounds::check_count;
use super::key::Part;
use super::module::{Context, Parts};
use super::recipe::{Factor, Recipe, Stored};
use crate::audit::Kind;

/// Name, kind, R, recipe and whether the base keeps it transposed.
type Draft = (String, Kind, usize, Recipe, bool);

/// One draft an expert; none if the module is not a parameter of experts.
pub(super) fn drafts(
    name: &str,
    parts: &Parts<'_>,
    context: &Context<'_>,
) -> Result<Vec<Draft>, String> {
    let Some(config) = context.config else {
        return mlx(name, parts, context);
    };
    // Every further parameter of a module is wrapped around the one before it.
    let owner = name.trim_end_matches(".base_layer");
    let depth = (name.len() - owner.len()) / ".base_layer".len();
    let parameters = config.parameters_of(owner);
    let (Some(&a), Some(&b)) = (parts.get(&Part::A), parts.get(&Part::B)) else {
        return mlx(name, parts, context);
    };
    if parameters.is_empty() {
        return Ok(Vec::new());
    }
    let shape = |tensor: &str| context.tensors.get(tensor).map(|info| info.shape.clone());
    let (first, second) = (shape(a).unwrap_or_default(), shape(b).unwrap_or_default());
    let ([directions, inputs], [outputs, also]) = (&first[..], &second[..]) else {
        return Err(format!(
            "expected two matrices, found {first:?} and {second:?}"
        ));
    };
    let sides = (*inputs, *outputs);
    let weight = |parameter: &str| context.base?.weight(&format!("{owner}.{parameter}"));
    let fits = |parameter: &&str| {
        weight(parameter).is_some_and(|weight| match weight.shape[..] {
            [_, m, n] | [m, n] => (m, n) == sides || (n, m) == sides,
            _ => false,
        })
    };
    // In the order of their names in the configuration, the last one outermost; which one is inside
    // is up to the model, and only the base's shapes tell for sure.
    let by_order = parameters
        .len()
        .checked_sub(depth + 1)
        .and_then(|place| parameters.get(place));
    let fitting: Vec<&&str> = parameters.iter().filter(|p| fits(p)).collect();
    let parameter = match (by_order, &fitting[..]) {
        (Some(parameter), _) if fits(parameter) => parameter,
        (_, [parameter]) => parameter,
        (Some(parameter), _) => parameter,
        (None, _) => {
            return Err(format!(
                "target_parameters: expected {} adapters of {owner}, found one more",
                parameters.len()
            ));
        }
    };
    let full = format!("{owner}.{parameter}");
    let rank = config.rank(&full).filter(|&rank| rank > 0).ok_or_else(|| {
        "target_parameters: expected r in adapter_config.json, found none".to_owned()
    })?;
    if directions != also || *directions == 0 || !directions.is_multiple_of(rank) {
        return Err(format!(
            "expected factors (E·{rank}) x in and out x ({rank}·E), found {first:?} and {second:?}"
        ));
    }
    if *directions == rank && *parameter == "weight" {
        // The only matrix of a layer is an ordinary layer's.
        return Ok(Vec::new());
    }
    let experts = directions / rank;
    let numbers = first.iter().product::<usize>();
    let numbers = numbers.min(second.iter().product());
    check_count(experts, "experts", numbers)?;
    let is_transposed = weight(parameter).is_some_and(|weight| match weight.shape[..] {
        [_, m, n] => m != n && (m, n) == sides,
        _ => false,
    });
    let whole = |tensor: &str, shape: &[usize]| {
        let (rows, columns) = flat(shape);
        Stored::rows_first(tensor, rows, columns)
    };
    Ok((0..experts)
        .map(|e| {
            let a = whole(a, &first).some_rows(e * rank, 1, rank);
            let b = whole(b, &second).some_columns(e, experts, rank);
            let recipe = Recipe::Product {
                b: Factor::Stored(b),
                a: Factor::Stored(a),
            };
            let name = if experts == 1 {
                full.clone()
            } else {
                format!("{full}.{e}")
            };
            (name, Kind::Expert, rank, recipe, is_transposed)
        })
        .collect())
}

/// mlx-lm's factors of three dimensions.
fn mlx(name: &str, parts: &Parts<'_>, context: &Context<'_>) -> Result<Vec<Draft>, String> {
    let (Some(&a), Some(&b)) = (parts.get(&Part::MlxA), parts.get(&Part::MlxB)) else {
        return Ok(Vec::new());
    };
    let shape = |tensor: &str| context.tensors.get(tensor).map(|info| &info.shape[..]);
    let (Some(first), Some(second)) = (shape(a), shape(b)) else {
        return Ok(Vec::new());
    };
    let (&[experts, rank, inputs], &[also, outputs, same]) = (first, second) else {
        return Ok(Vec::new());
    };
    if experts != also || rank != same {
        return Err(format!(
            "expected factors E x R x in and E x out x R, found {first:?} and {second:?}"
        ));
    }
    let numbers = first.iter().product::<usize>();
    let numbers = numbers.min(second.iter().product());
    check_count(experts, "experts", numbers)?;
    let whole = |tensor, rows, columns| Stored::rows_first(tensor, experts * rows, columns);
    Ok((0..experts)
        .map(|e| {
            let recipe = Recipe::Product {
                b: Factor::Stored(whole(b, outputs, rank).some_rows(e * outputs, 1, outputs)),
                a: Factor::Stored(whole(a, rank, inputs).some_rows(e * rank, 1, rank)),
            };
            (format!("{name}.{e}"), Kind::Expert, rank, recipe, false)
        })
        .collect())
}
