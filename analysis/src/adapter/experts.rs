//! LoRA of a parameter that holds one matrix for every expert (PEFT's `target_parameters`).
//!
//! A is (E·R) × in with the expert as the slower index, B out × (R·E) with the expert as the faster:
//! ΔW_e = s·B[:, e::E]·A[eR:(e+1)R]. Where the base keeps experts × in × out, ΔW_e is its transpose.
//! Unsloth also writes B with the expert as the slower index and says so (`lora_B_layout`).
//!
//! The tensors are called by the module, not by the parameter. Every further parameter of a module is
//! wrapped around those before it: `.base_layer` once for every one that the module registers later.
//! PEFT keeps `target_parameters` as a set, so that their order in the file says nothing.
//!
//! mlx-lm keeps A as E × R × in and B as E × out × R.
//!
//! Sources: `ParamWrapper` and `_inject_parameters` of huggingface/peft 0.21; `moe_utils.py` of
//! unslothai/unsloth-zoo; `LoRASwitchLinear` of ml-explore/mlx-lm.

use super::bounds::check_count;
use super::config::Columns;
use super::key::Part;
use super::module::{Context, Draft, Parts};
use super::recipe::{Factor, Recipe, Stored};
use crate::audit::{Kind, Method};

/// The parameters of experts' modules in the order in which the models register them: that of every
/// module of experts in transformers 5.24.
const REGISTERED: [&str; 9] = [
    "gate_up_proj",
    "gate_up_proj_bias",
    "gate_proj",
    "up_proj",
    "w1",
    "v1",
    "w2",
    "down_proj",
    "down_proj_bias",
];

/// The parameters whose adapters Unsloth trains by code of its own.
const FUSED: [&str; 2] = ["gate_up_proj", "down_proj"];

/// What the factors under one name are for.
pub(super) struct Experts {
    /// The parameter as PEFT's patterns of ranks and α name it.
    pub configured: String,
    /// The modules, one an expert, by their names.
    pub drafts: Vec<(String, Draft)>,
}

/// The experts' modules; `None` if the factors are those of an ordinary layer.
pub(super) fn experts(
    name: &str,
    parts: &Parts<'_>,
    context: &Context<'_>,
) -> Result<Option<Experts>, String> {
    let (Some(&a), Some(&b)) = (parts.get(&Part::A), parts.get(&Part::B)) else {
        return mlx(name, parts, context);
    };
    let (Some(parameter), Some(config)) = (parameter(name, a, context)?, context.config) else {
        return Ok(None);
    };
    let owner = name.trim_end_matches(".base_layer");
    let full = format!("{owner}.{parameter}");
    let (first, second) = (context.shape(a), context.shape(b));
    let (&[directions, inputs], &[outputs, also]) = (first, second) else {
        return Err(format!(
            "target_parameters: expected two matrices, found {first:?} and {second:?}"
        ));
    };
    let weight = context.weight(&full).map(|weight| weight.shape);
    let stacked = match weight.as_deref() {
        Some(&[experts, _, _]) => Some(experts),
        Some(&[_, _]) => Some(1),
        _ => config.experts(parameter),
    };
    let (experts, rank) = match (stacked, config.rank(&full)) {
        (Some(experts), _) if experts > 0 && directions.is_multiple_of(experts) => {
            (experts, directions / experts)
        }
        (Some(experts), _) => {
            return Err(format!(
                "target_parameters: expected factors of {experts} experts, found {first:?} and \
                 {second:?}"
            ));
        }
        (None, Some(rank)) if rank > 0 && directions.is_multiple_of(rank) => {
            (directions / rank, rank)
        }
        (None, Some(rank)) => {
            return Err(format!(
                "target_parameters: expected factors (E·{rank}) x in and out x ({rank}·E), found \
                 {first:?} and {second:?}"
            ));
        }
        (None, None) => {
            return Err(
                "target_parameters: expected r in adapter_config.json, found none, so the number of \
                 experts is unknown"
                    .to_owned(),
            );
        }
    };
    if directions != also || rank == 0 {
        return Err(format!(
            "target_parameters: expected factors (E·{rank}) x in and out x ({rank}·E), found \
             {first:?} and {second:?}"
        ));
    }
    let numbers = (directions * inputs).min(outputs * also);
    check_count(experts, "experts", numbers)?;
    let columns = match experts.min(rank) {
        1 => Columns::ExpertFastest,
        _ => config.columns(parameter, FUSED.contains(&parameter))?,
    };
    let is_transposed = matches!(
        weight.as_deref(), Some(&[_, m, n]) if m != n && (m, n) == (inputs, outputs)
    );
    let whole = |tensor: &str| context.matrix(tensor);
    let draft = |e: usize| {
        let a = whole(a).some_rows(e * rank, 1, rank);
        let b = match columns {
            Columns::ExpertFastest => whole(b).some_columns(e, experts, rank),
            Columns::ExpertSlowest => whole(b).some_columns(e * rank, 1, rank),
        };
        Draft {
            kind: if experts == 1 {
                Kind::Linear
            } else {
                Kind::Expert
            },
            ..of_expert(rank, is_transposed, b, a)
        }
    };
    let shown = |e: usize| match (experts, parameter) {
        (1, "weight") => owner.to_owned(),
        (1, _) => full.clone(),
        _ => format!("{full}.{e}"),
    };
    Ok(Some(Experts {
        drafts: (0..experts).map(|e| (shown(e), draft(e))).collect(),
        configured: full,
    }))
}

fn of_expert(rank: usize, is_transposed: bool, b: Stored, a: Stored) -> Draft {
    Draft {
        kind: Kind::Expert,
        method: Method::Lora,
        rank,
        recipe: Recipe::Product {
            b: Factor::Stored(b),
            a: Factor::Stored(a),
        },
        is_transposed,
        remark: None,
    }
}

/// The parameter that the factors under `name` belong to, by its last name; `None` if they are an
/// ordinary layer's. `tensor` is the name of A.
fn parameter<'a>(
    name: &str,
    tensor: &str,
    context: &Context<'a>,
) -> Result<Option<&'a str>, String> {
    let owner = name.trim_end_matches(".base_layer");
    let depth = (name.len() - owner.len()) / ".base_layer".len();
    // So many parameters of the module have factors.
    let levels = match tensor.find(".lora_A") {
        Some(place) => {
            let (head, tail) = tensor.split_at(place);
            let head = head.trim_end_matches(".base_layer");
            let at = |depth| format!("{head}{}{tail}", ".base_layer".repeat(depth));
            (0..)
                .take_while(|&depth| context.tensors.contains_key(&at(depth)))
                .count()
        }
        None => 1,
    };
    let rows = context.shape(tensor).first().copied();
    let is_nested = depth > 0 || levels > 1;
    let is_stack = is_nested || owner.rsplit('.').next() == Some("experts");
    let Some(config) = context.config else {
        return match is_stack {
            true => Err(
                "factors of experts' parameters, one below the other: which parameter's and of what \
                 rank says adapter_config.json, which is missing"
                    .to_owned(),
            ),
            false => Ok(None),
        };
    };
    let (sure, bare) = config.parameters_of(owner);
    let is_layer = !is_nested && config.is_target(owner) == Some(true);
    let mut named = match sure.len() == levels || is_layer {
        true => sure,
        // A name without its module's is a parameter of any module that has one.
        false => [sure, bare].concat(),
    };
    let weight = |parameter: &str| context.weight(&format!("{owner}.{parameter}"));
    if named.len() != levels && named.iter().any(|parameter| weight(parameter).is_some()) {
        named.retain(|parameter| weight(parameter).is_some());
    }
    let is_plain = !is_nested && rows.is_some() && config.rank(owner) == rows;
    if named.is_empty() && (!is_stack || is_plain) {
        return Ok(None);
    }
    let of_the_order = |parameter: &&str| REGISTERED.iter().position(|known| known == parameter);
    named.sort_by_key(of_the_order);
    if named.len() != levels || depth >= levels {
        // The experts' factors have E·R rows.
        if is_plain {
            return Ok(None);
        }
        let list = match named[..] {
            [] => "none".to_owned(),
            _ => named.join(", "),
        };
        return Err(format!(
            "target_parameters: expected {levels} parameters of {owner} for as many pairs of factors, \
             found {list}, so that it is unknown whose they are"
        ));
    }
    let by_order = named[levels - 1 - depth];
    if levels == 1 {
        return Ok(Some(by_order));
    }
    let fits = |parameter: &&&str| {
        let sides = context.tensors.get(tensor).map(|info| info.shape.clone());
        let b = tensor.replacen(".lora_A", ".lora_B", 1);
        let (Some(a), Some(b)) = (sides, context.tensors.get(&b)) else {
            return false;
        };
        let sides = (a.get(1), b.shape.first());
        weight(parameter).is_some_and(|weight| match &weight.shape[..] {
            [_, m, n] | [m, n] => (Some(n), Some(m)) == sides || (Some(m), Some(n)) == sides,
            _ => false,
        })
    };
    let fitting: Vec<&&str> = named.iter().filter(fits).collect();
    match fitting[..] {
        [only] => Ok(Some(only)),
        _ if named.iter().all(|p| of_the_order(p).is_some()) => Ok(Some(by_order)),
        _ => Err(format!(
            "target_parameters: which of {} the factors belong to follows the order in which {owner} \
             registers them, which is not known of these names; the shapes of the base's weights may \
             tell (--base)",
            named.join(", ")
        )),
    }
}

/// mlx-lm's factors of three dimensions.
fn mlx(name: &str, parts: &Parts<'_>, context: &Context<'_>) -> Result<Option<Experts>, String> {
    let (Some(&a), Some(&b)) = (parts.get(&Part::MlxA), parts.get(&Part::MlxB)) else {
        return Ok(None);
    };
    let (first, second) = (context.shape(a), context.shape(b));
    let (&[experts, rank, inputs], &[also, outputs, same]) = (first, second) else {
        return Ok(None);
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
    let draft = |e: usize| {
        let b = whole(b, outputs, rank).some_rows(e * outputs, 1, outputs);
        of_expert(
            rank,
            false,
            b,
            whole(a, rank, inputs).some_rows(e * rank, 1, rank),
        )
    };
    Ok(Some(Experts {
        configured: name.to_owned(),
        drafts: (0..experts)
            .map(|e| (format!("{name}.{e}"), draft(e)))
            .collect(),
    }))
}
