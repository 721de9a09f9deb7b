//! What an update is multiplied with: α by R or √R, where both are known.

use super::key::{Format, Part};
use super::module::{Context, Parts};
use super::recipe::{Recipe, Side};
use crate::audit::Method;

/// What the product is multiplied with, if that is known.
pub(super) fn scale(
    name: &str,
    rank: usize,
    method: Method,
    recipe: &Recipe,
    parts: &Parts<'_>,
    context: &Context<'_>,
) -> Result<Option<f64>, String> {
    let is_fixed = matches!(
        method,
        Method::Full | Method::Ia3 | Method::Tokens | Method::Vera
    );
    if is_fixed {
        return Ok(Some(1.0));
    }
    let inner = match recipe {
        Recipe::Directions { inside, .. } => inside,
        other => other,
    };
    let general = context.config.and_then(|c| c.rank(name));
    // R as the formats mean it: not the squared one of LoHa, nor LoKr's bound.
    let divisor = match inner {
        Recipe::Hadamard { first, .. } => first.0.shape().1,
        // loralib's R is that of one output; the groups of a convolution share PEFT's.
        Recipe::Stacked { b, .. } if context.format == Format::Loralib => b.columns,
        Recipe::Stacked { a, .. } => a.rows,
        Recipe::Kronecker { left, right } => match (left, right) {
            (_, Side::Product(b, _)) | (Side::Product(b, _), _) => b.shape().1,
            // LyCORIS sets α to R where both matrices are whole.
            _ if context.format == Format::Lycoris => return Ok(Some(1.0)),
            _ => general.unwrap_or(0),
        },
        Recipe::Product { b, .. } => b.shape().1,
        Recipe::Groups { a, .. } => a.rows,
        Recipe::Glora { b, .. } => b.0.columns,
        _ => rank,
    };
    let by_rank = |alpha: f64| {
        let divisor = match context.config.and_then(|c| c.use_rslora) {
            Some(true) => (divisor as f64).sqrt(),
            _ => divisor as f64,
        };
        (divisor > 0.0).then_some(alpha / divisor)
    };
    if let Some(scale) = context.settings.scale(name, divisor) {
        return Ok(Some(scale));
    }
    if let Some(alpha) = parts.get(&Part::Alpha) {
        return match context.numbers.get(alpha) {
            Some(&alpha) => Ok(by_rank(alpha)),
            None => Err(format!("{alpha}: expected a single number")),
        };
    }
    if method == Method::Adalora {
        return Ok(adalora_scale(rank, parts, context));
    }
    match context.format {
        Format::Mlx => Ok(context
            .config
            .and_then(|c| c.lora_parameters.as_ref())
            .and_then(|parameters| parameters.scale)),
        // Their loaders take α = R where the file says nothing.
        Format::Kohya | Format::Lycoris | Format::Diffusers | Format::Cloneofsimo => Ok(Some(1.0)),
        Format::Peft | Format::Loralib | Format::Torchtune => match context.config {
            Some(config) => Ok(config.alpha(name)?.and_then(by_rank)),
            None => Ok(None),
        },
    }
}

/// AdaLoRA goes on dividing by the R that it began with, whatever was pruned.
fn adalora_scale(rank: usize, parts: &Parts<'_>, context: &Context<'_>) -> Option<f64> {
    let config = context.config?;
    let stored = parts
        .get(&Part::RankNumber)
        .and_then(|name| context.numbers.get(name));
    let initial = match rank {
        0 => 0.0,
        _ => stored.copied().or(config.init_r).unwrap_or(rank as f64),
    };
    let numerator = match config.lora_alpha {
        Some(alpha) if alpha > 0.0 => alpha,
        _ => rank as f64,
    };
    Some(numerator / (initial + 1e-5))
}
