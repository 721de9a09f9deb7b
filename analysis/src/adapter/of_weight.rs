//! Updates that need more than a module's own factors: the base weight (DoRA, (IA)³, GLoRA, tensors
//! trained as a whole, new tokens), or matrices that all modules share (VeRA).

use super::base::flat;
use super::factors::kernel_kind;
use super::key::{Format, Part};
use super::module::{Context, Draft, Module, Parts, Remark};
use super::recipe::{Of, Recipe};
use super::tie::is_output_layer;
use crate::audit::{Kind, Method};
use crate::stack::stack;

pub(super) fn vera(
    name: &str,
    parts: &Parts<'_>,
    context: &Context<'_>,
) -> Result<Option<Draft>, String> {
    let (d, b) = match (parts.get(&Part::VeraD), parts.get(&Part::VeraB)) {
        (Some(&d), Some(&b)) => (d, b),
        (None, None) => return Ok(None),
        _ => return Err("expected vera_lambda_d and vera_lambda_b, found only one".to_owned()),
    };
    let (rank, columns, rows) = context.projections.clone()?;
    let length = |tensor| context.shape(tensor).iter().product::<usize>();
    let weight = context.weight(name);
    if weight.is_none() && context.base.is_some() {
        // With a base that does not tell them the inputs are not assumed.
        context.needed_weight(name, "VeRA: the module's inputs are the weight's")?;
    }
    let outputs = length(b);
    let is_transposed = context.config.and_then(|c| c.fan_in_fan_out) == Some(true);
    let inputs = match &weight {
        Some(weight) => {
            let (m, n) = flat(&weight.shape);
            if is_transposed { m } else { n }
        }
        None => columns,
    };
    if length(d) != rank || outputs > rows || inputs > columns {
        return Err(format!(
            "expected vectors of {rank} and at most {rows} numbers and at most {columns} inputs, \
             found {}, {outputs} and {inputs}",
            length(d)
        ));
    }
    Ok(Some(Draft {
        kind: if is_transposed {
            Kind::Conv1d
        } else {
            Kind::Linear
        },
        method: Method::Vera,
        rank,
        recipe: Recipe::Vera {
            d: d.to_owned(),
            b: b.to_owned(),
            rank,
            inputs,
            outputs,
        },
        is_transposed,
        remark: weight.is_none().then_some(Remark::InputsAssumed),
    }))
}

/// (IA)³, PEFT's and LyCORIS's.
fn rescaled(
    name: &str,
    vector: &str,
    parts: &Parts<'_>,
    context: &Context<'_>,
) -> Result<Draft, String> {
    let config = context.config;
    let mut weight = context.needed_weight(name, "IA3")?;
    weight.is_transposed = config.and_then(|c| c.fan_in_fan_out) == Some(true);
    let shape = context.shape(vector);
    let length: usize = shape.iter().product();
    let (m, n) = weight.matrix();
    let on_input = parts
        .get(&Part::OnInput)
        .and_then(|name| context.numbers.get(name));
    let is_of_inputs = match (on_input, config.and_then(|c| c.is_feedforward(name))) {
        (Some(&number), _) => number != 0.0,
        (None, Some(feedforward)) => feedforward,
        (None, None) => matches!(shape, [1, ..]),
    };
    let of = of_inputs_or_rows(is_of_inputs, length, (m, n)).ok_or_else(|| {
        format!("IA3: expected a number for every one of {m} rows or {n} columns, found {shape:?}")
    })?;
    let kind = if weight.is_transposed {
        Kind::Conv1d
    } else {
        kernel_kind(&weight.shape)
    };
    Ok(Draft {
        kind,
        method: Method::Ia3,
        rank: m.min(n),
        is_transposed: weight.is_transposed,
        recipe: Recipe::Rescaled {
            vector: vector.to_owned(),
            is_increase: parts.contains_key(&Part::Multiplier),
            of,
            weight,
        },
        remark: None,
    })
}

/// What a vector of `length` numbers scales in an m × n matrix, if it fits.
fn of_inputs_or_rows(is_of_inputs: bool, length: usize, (m, n): (usize, usize)) -> Option<Of> {
    if !is_of_inputs {
        return (length == m).then_some(Of::Rows);
    }
    (length > 0 && n.is_multiple_of(length)).then(|| Of::Columns(n / length))
}

/// What only the base weight tells: (IA)³, GLoRA and new rows of an embedding.
pub(super) fn of_base(
    name: &str,
    parts: &Parts<'_>,
    context: &Context<'_>,
) -> Result<Option<Draft>, String> {
    let config = context.config;
    let vector = parts.get(&Part::Ia3).or(parts.get(&Part::Multiplier));
    if let Some(&vector) = vector {
        return rescaled(name, vector, parts, context).map(Some);
    }
    let glora = [Part::GloraA1, Part::GloraA2, Part::GloraB1, Part::GloraB2];
    let glora = glora.map(|part| parts.get(&part).map(|name| context.matrix(name)));
    if let [Some(a1), Some(a2), Some(b1), Some(b2)] = glora {
        let weight = context.needed_weight(name, "GLoRA")?;
        let (m, n) = weight.matrix();
        let inputs = weight.shape.get(1).copied().unwrap_or(0);
        let fits = (a1.rows, a2.columns, b1.rows, b2.columns) == (inputs, inputs, m, n)
            && a1.columns == a2.rows
            && b1.columns == b2.rows;
        if !fits {
            return Err(format!(
                "GLoRA: expected factors of {inputs} x {inputs} and {m} x {n}"
            ));
        }
        // A kernel's window is not touched by a1 and a2, so their rank bounds nothing there.
        let most = if inputs == n {
            a1.columns + b1.columns
        } else {
            m
        };
        return Ok(Some(Draft {
            kind: kernel_kind(&weight.shape),
            method: Method::Glora,
            rank: most.min(m).min(n),
            recipe: Recipe::Glora {
                a: (a1, a2),
                b: (b1, b2),
                weight,
            },
            is_transposed: false,
            remark: None,
        }));
    }
    if glora.iter().any(Option::is_some) {
        return Err("GLoRA: expected a1, a2, b1 and b2, found only some".to_owned());
    }
    let Some(&tensor) = parts.get(&Part::Tokens) else {
        return Ok(None);
    };
    let weight = context.needed_weight(name, "trainable tokens")?;
    let tuned = context.matrix(tensor);
    let (m, n) = weight.matrix();
    let Some(rows) = config.and_then(|c| c.tokens(name)) else {
        return Err(
            "trainable tokens: expected their indices in adapter_config.json, found none"
                .to_owned(),
        );
    };
    let distinct: std::collections::BTreeSet<_> = rows.iter().collect();
    let beyond: Vec<usize> = rows.iter().copied().filter(|&row| row >= m).collect();
    if let (Some(first), Some(last)) = (beyond.iter().min(), beyond.iter().max()) {
        return Err(format!(
            "trainable tokens: {} of {} rows, from {first} to {last}, are beyond the {m} of the \
             base's {}: new tokens, for which the base has no row",
            beyond.len(),
            rows.len(),
            weight.name
        ));
    }
    if rows.len() != tuned.rows || distinct.len() != rows.len() || tuned.columns != n {
        return Err(format!(
            "trainable tokens: expected {} different rows of length {n}, found {} x {}",
            rows.len(),
            tuned.rows,
            tuned.columns
        ));
    }
    Ok(Some(Draft {
        kind: Kind::Token,
        method: Method::Tokens,
        rank: tuned.rows.min(n),
        recipe: Recipe::Tokens {
            tuned,
            rows,
            weight,
        },
        is_transposed: false,
        remark: None,
    }))
}

/// Wraps an update into DoRA's change of direction, if the base weight is at hand.
pub(super) fn dora(
    name: &str,
    inside: Draft,
    magnitude: &str,
    context: &Context<'_>,
) -> Result<Draft, String> {
    let Some(mut weight) = context.weight(name) else {
        if context.base.is_some() {
            context.needed_weight(name, "DoRA")?;
        }
        return Ok(Draft {
            method: Method::Dora,
            remark: Some(Remark::Directional),
            ..inside
        });
    };
    weight.is_transposed = inside.is_transposed;
    let shape = context.shape(magnitude);
    let (m, n) = inside.recipe.shape();
    if weight.matrix() != (m, n) {
        return Err(format!(
            "DoRA: expected a base weight of {m} x {n}, found {:?}",
            weight.shape
        ));
    }
    let length: usize = shape.iter().product();
    // PEFT's is a vector of the outputs; LyCORIS keeps it out × 1 or 1 × in.
    let is_of_inputs = match shape {
        [1, ..] => context.format != Format::Peft && m != 1,
        _ => false,
    };
    let of = of_inputs_or_rows(is_of_inputs, length, (m, n)).ok_or_else(|| {
        format!("DoRA: expected a magnitude for every one of {m} rows, found {shape:?}")
    })?;
    Ok(Draft {
        method: Method::Dora,
        rank: m.min(n),
        recipe: Recipe::Directions {
            inside: Box::new(inside.recipe),
            magnitude: magnitude.to_owned(),
            of,
            weight,
        },
        ..inside
    })
}

/// A tensor that is no part of an update: it takes the place of the base's.
pub(super) fn whole(name: &str, tensor: &str, context: &Context<'_>) -> Result<Module, String> {
    let what = origin(tensor, context);
    super::module::check_numbers(tensor, context)?;
    let shape = context.shape(tensor);
    if shape.len() < 2 {
        return Err(match context.format {
            Format::Cloneofsimo => {
                "the embedding of a text: a vector, which has no rank".to_owned()
            }
            _ => format!("{what}: a vector, which has no rank"),
        });
    }
    if let Some(why) = stack(tensor, shape) {
        return Err(format!("{what}: {why}"));
    }
    super::bounds::check_sides(tensor, context)?;
    let weight = context.needed_weight(name, what)?;
    if weight.shape != shape {
        return Err(format!(
            "{what}: expected the base's shape {:?}, found {shape:?}",
            weight.shape
        ));
    }
    let tuned = context.matrix(tensor);
    let draft = Draft {
        kind: kernel_kind(shape),
        method: Method::Full,
        rank: tuned.rows.min(tuned.columns),
        recipe: Recipe::Whole { tuned, weight },
        is_transposed: false,
        remark: None,
    };
    Module::finished(name, name, draft, &Parts::new(), context)
}

/// What is known of a whole tensor's reason to be there.
pub(super) fn origin(tensor: &str, context: &Context<'_>) -> &'static str {
    let Some(config) = context.config else {
        return "a whole tensor, without an adapter_config.json that says what it is for";
    };
    let path = tensor.strip_prefix("base_model.model.").unwrap_or(tensor);
    let is_bias = path.ends_with(".bias") && config.bias.is_some() && !config.has_no_bias();
    if config.is_saved(path) {
        "trained as a whole (modules_to_save)"
    } else if config.ensure_weight_tying == Some(true)
        && path.strip_suffix(".weight").is_some_and(is_output_layer)
    {
        "trained as a whole, tied to its table (ensure_weight_tying)"
    } else if config.fine_tune_type.as_deref() == Some("full") {
        "trained as a whole (fine_tune_type: full)"
    } else if is_bias {
        "a trained bias"
    } else {
        "a whole tensor that adapter_config.json does not name"
    }
}
