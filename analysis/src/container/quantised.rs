//! Weights that a checkpoint keeps as small numbers and their scales: which they are, and what they mean.
//!
//! | stored | scales | W |
//! |---|---|---|
//! | `q.weight` in eight bits | `q.weight_scale_inv`, `q.weight_scale`, `q.scale_weight`: one number, one a row or column, or one a block | q · scale |
//! | `q.weight` in I8 (bitsandbytes) | `q.SCB`, one number a row | q · scale / 127 |
//!
//! Blocks have the configuration's `weight_block_size`; without it 128 × 128 where that gives the count,
//! else parts of equal size. Everything else (NF4, GPTQ, AWQ, compressed-tensors' packed numbers, MXFP4,
//! zero points) is known by name and not read: the small numbers alone are no weights.
//!
//! Source: `integrations/finegrained_fp8.py` and `fbgemm_fp8.py` of huggingface/transformers;
//! `int8_vectorwise_dequant` of bitsandbytes; the quantisation schemes of compressed-tensors.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use ::safetensors::Dtype;
use serde_json::Value;

use super::TensorInfo;

/// Beside a weight `X.weight`: the end of its scales' name after `X.`, and what they are divided by.
const SCALES: [(&str, f64); 4] = [
    ("weight_scale_inv", 1.0),
    ("weight_scale", 1.0),
    ("scale_weight", 1.0),
    ("SCB", 127.0),
];

/// Ends of names after `X.` that show that `X.weight` is stored in another way.
const UNREAD: [(&str, &str); 13] = [
    ("weight.absmax", "bitsandbytes' four or eight bits"),
    ("weight.quant_map", "bitsandbytes' four or eight bits"),
    ("qweight", "GPTQ or AWQ"),
    ("weight_packed", "packed by compressed-tensors"),
    ("weight_zero_point", "with zero points"),
    ("weight_scale_2", "NVFP4"),
    ("weight_global_scale", "NVFP4"),
    ("weight_scales", "EETQ"),
    ("weight._data", "Quanto"),
    ("weight._scale", "Quanto"),
    ("weight_blocks", "MXFP4"),
    ("codebooks", "AQLM or VPTQ"),
    ("Wscale", "SpQR, HIGGS or another scheme"),
];

/// What is said of a tensor beside the scales that no weight goes with.
const OTHERS: [&str; 9] = [
    "qzeros",
    "scales",
    "g_idx",
    "weight.nested_absmax",
    "weight.nested_quant_map",
    "weight_shape",
    "weight_format",
    "input_scale",
    "scale_input",
];

/// Numbers in a side of the blocks of finely grained FP8 where nothing else is said.
const BLOCK: usize = 128;

/// How a weight follows from what is stored.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Quantised {
    /// Its numbers times the scales'.
    Scaled {
        scales: String,
        divisor: f64,
        /// Rows and columns that share a scale.
        block: (usize, usize),
        /// Scales in a row of blocks.
        across: usize,
    },
    /// In a way that is not read, in words.
    Unread(String),
}

/// By the weights' names.
pub(super) type Weights = BTreeMap<String, Quantised>;

/// Which weights of a model are quantised, and the tensors that only say how. `folder` is where the
/// model's `config.json` is.
pub(super) fn find(
    tensors: &BTreeMap<String, TensorInfo>,
    folder: &Path,
) -> (Weights, BTreeSet<String>) {
    let (mut weights, mut beside) = (Weights::new(), BTreeSet::new());
    // MXFP4 keeps any parameter as its blocks and their scales, both in bytes.
    for (name, info) in tensors.iter().filter(|(_, info)| info.dtype == Dtype::U8) {
        if let Some(parameter) = name.strip_suffix("_blocks") {
            let scales = format!("{parameter}_scales");
            if tensors
                .get(&scales)
                .is_some_and(|other| other.dtype == info.dtype)
            {
                let how = format!("quantised (MXFP4: {name})");
                weights.insert(parameter.to_owned(), Quantised::Unread(how));
                beside.extend([name.clone(), scales]);
            }
        }
    }
    let known = beside.clone();
    for name in tensors.keys().filter(|name| !known.contains(*name)) {
        if let Some((module, what)) = ending(name, UNREAD.iter().map(|(end, _)| *end)) {
            let scheme = UNREAD
                .iter()
                .find(|(end, _)| *end == what)
                .map_or("", |(_, s)| s);
            let how = format!("quantised ({scheme}: {name})");
            weights.insert(format!("{module}weight"), Quantised::Unread(how));
            beside.insert(name.clone());
        } else if let Some((_, what)) = ending(name, OTHERS.into_iter()) {
            // `scales` alone is an ordinary word.
            let is_alone = |module: &str| !tensors.contains_key(&format!("{module}qweight"));
            let module = name.strip_suffix(what).unwrap_or(name);
            if what != "scales" || !is_alone(module) {
                beside.insert(name.clone());
            }
        }
    }
    let small: Vec<(&String, &TensorInfo)> = tensors
        .iter()
        .filter(|(name, info)| is_small(info.dtype) && !beside.contains(*name))
        .collect();
    if small.is_empty() {
        return (weights, beside);
    }
    let configuration = quantisation(folder);
    let size = configuration.as_ref().and_then(block_size);
    let mut unscaled = Vec::new();
    for (name, info) in small {
        if weights.contains_key(name) {
            continue;
        }
        let scales = scales_of(name, tensors);
        let Some((scales, divisor)) = scales else {
            unscaled.push((name, info.dtype));
            continue;
        };
        let how = match layout(info, &tensors[&scales], size) {
            Some((block, across)) => Quantised::Scaled {
                scales: scales.clone(),
                divisor,
                block,
                across,
            },
            None => Quantised::Unread(format!(
                "quantised ({:?} of shape {:?} with the scales {scales} of shape {:?}, which fit in no \
                 way that is known)",
                info.dtype, info.shape, tensors[&scales].shape
            )),
        };
        beside.insert(scales);
        weights.insert(name.clone(), how);
    }
    // A cast to eight bits has no scales; where others have some, or are said to, these are missing.
    let are_missing = configuration.is_some() || !weights.is_empty();
    for (name, dtype) in unscaled {
        if dtype == Dtype::I8 || are_missing {
            let how = format!("quantised ({dtype:?} without its scales)");
            weights.insert(name.clone(), Quantised::Unread(how));
        }
    }
    (weights, beside)
}

fn is_small(dtype: Dtype) -> bool {
    matches!(dtype, Dtype::I8 | Dtype::F8_E4M3 | Dtype::F8_E5M2)
}

/// The module with its dot, and which of the ends the name has.
fn ending(
    name: &str,
    mut ends: impl Iterator<Item = &'static str>,
) -> Option<(&str, &'static str)> {
    ends.find_map(|end| {
        let module = name.strip_suffix(end)?;
        (module.is_empty() || module.ends_with('.')).then_some((module, end))
    })
    .or_else(|| {
        // bitsandbytes writes its settings under a name with the type in it.
        let (module, _) = name.split_once("weight.quant_state.bitsandbytes__")?;
        Some((module, "weight.quant_map"))
    })
    .filter(|(module, _)| *module != name)
}

/// The scales of a weight or of another parameter, and what they are divided by.
fn scales_of(name: &str, tensors: &BTreeMap<String, TensorInfo>) -> Option<(String, f64)> {
    let has = |scales: &String| tensors.contains_key(scales);
    if let Some(module) = name.strip_suffix("weight") {
        let known = SCALES
            .iter()
            .map(|(end, divisor)| (format!("{module}{end}"), *divisor));
        return known.into_iter().find(|(scales, _)| has(scales));
    }
    let parameter = ["_scale_inv", "_scale"].map(|end| format!("{name}{end}"));
    parameter.into_iter().find(has).map(|scales| (scales, 1.0))
}

/// Rows and columns of a weight that share a scale, and how many scales lie side by side.
fn layout(
    weight: &TensorInfo,
    scales: &TensorInfo,
    size: Option<(usize, usize)>,
) -> Option<((usize, usize), usize)> {
    use Dtype::{BF16, F16, F32, F64};
    if !matches!(scales.dtype, F64 | F32 | F16 | BF16) {
        return None;
    }
    let (m, n) = match weight.shape[..] {
        [m, n] if m > 0 && n > 0 => (m, n),
        // One number is the scale of any shape.
        ref other => (1, other.iter().product::<usize>().max(1)),
    };
    if scales.shape.iter().product::<usize>() == 1 {
        return Some(((m, n), 1));
    }
    let (down, across) = match (&weight.shape[..], &scales.shape[..]) {
        ([_, _], &[count]) if count == m => (m, 1),
        ([_, _], &[down, across]) if down > 0 && across > 0 => (down, across),
        _ => return None,
    };
    let fits = |(rows, columns): &(usize, usize)| {
        *rows > 0 && *columns > 0 && m.div_ceil(*rows) == down && n.div_ceil(*columns) == across
    };
    // One a row or column is that, whatever the configuration says of blocks.
    let is_even = m.is_multiple_of(down) && n.is_multiple_of(across);
    let even = is_even.then(|| (m / down, n / across));
    let lines = even.filter(|(rows, columns)| *rows == 1 || *columns == 1);
    let block = [lines, size, Some((BLOCK, BLOCK)), even];
    let block = block.into_iter().flatten().find(fits)?;
    Some((block, across))
}

/// Multiplies the numbers of a weight with `columns` columns by their scales.
pub(super) fn scale(
    values: &mut [f64],
    columns: usize,
    scales: &[f64],
    divisor: f64,
    (block, across): ((usize, usize), usize),
) {
    for (i, row) in values.chunks_mut(columns.max(1)).enumerate() {
        let scales = &scales[i / block.0 * across..];
        for (values, scale) in row.chunks_mut(block.1).zip(scales) {
            values
                .iter_mut()
                .for_each(|value| *value *= scale / divisor);
        }
    }
}

/// What a model's configuration says of its quantisation.
fn quantisation(folder: &Path) -> Option<Value> {
    let text = rankwise_data::read_text(&folder.join("config.json")).ok()?;
    let config: Value = serde_json::from_str(&text).ok()?;
    let nested = |name: &str| config.get(name)?.get("quantization_config").cloned();
    let own = config.get("quantization_config").cloned();
    own.or_else(|| nested("text_config"))
        .filter(|value| !value.is_null())
}

fn block_size(configuration: &Value) -> Option<(usize, usize)> {
    let side = |at: usize| {
        let value = configuration.get("weight_block_size")?.get(at)?.as_u64()?;
        usize::try_from(value).ok()
    };
    Some((side(0)?, side(1)?))
}
