//! LoRA of a parameter that holds one matrix for every expert (PEFT's `target_parameters`).
//!
//! A is (E·R) × in with the expert as the slower index, B out × (R·E) with the expert as the faster:
//! ΔW_e = s·B[:, e::E]·A[eR:(e+1)R]. Where the base keeps experts × in × out, ΔW_e is its transpose.
//!
//! Source: `ParamWrapper` of huggingface/peft.

use super::base::flat;
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
        return Ok(Vec::new());
    };
    // Every further parameter of a module is wrapped around the one before it.
    let owner = name.trim_end_matches(".base_layer");
    let depth = (name.len() - owner.len()) / ".base_layer".len();
    let parameters = config.parameters_of(owner);
    let (Some(&a), Some(&b)) = (parts.get(&Part::A), parts.get(&Part::B)) else {
        return Ok(Vec::new());
    };
    if parameters.is_empty() {
        return Ok(Vec::new());
    }
    let parameter = parameters
        .len()
        .checked_sub(depth + 1)
        .and_then(|place| parameters.get(place))
        .ok_or_else(|| {
            format!(
                "target_parameters: expected {} adapters of {owner}, found one more",
                parameters.len()
            )
        })?;
    let full = format!("{owner}.{parameter}");
    let rank = config.rank(&full).filter(|&rank| rank > 0).ok_or_else(|| {
        "target_parameters: expected r in adapter_config.json, found none".to_owned()
    })?;
    let shape = |tensor: &str| context.tensors.get(tensor).map(|info| info.shape.clone());
    let (first, second) = (shape(a).unwrap_or_default(), shape(b).unwrap_or_default());
    let ([directions, inputs], [outputs, also]) = (&first[..], &second[..]) else {
        return Err(format!(
            "expected two matrices, found {first:?} and {second:?}"
        ));
    };
    if directions != also || *directions == 0 || !directions.is_multiple_of(rank) {
        return Err(format!(
            "expected factors (E·{rank}) x in and out x ({rank}·E), found {first:?} and {second:?}"
        ));
    }
    let experts = directions / rank;
    let base = context.base.and_then(|base| base.weight(&full));
    let is_transposed = base.is_some_and(|weight| match weight.shape[..] {
        [_, m, n] => m != n && (m, n) == (*inputs, *outputs),
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
