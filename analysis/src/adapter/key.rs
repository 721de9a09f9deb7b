//! What a tensor's name says: the module, the part of an adapter, and whose layout it is.
//!
//! | layout | name |
//! |---|---|
//! | PEFT | `[base_model.model.]MODULE.PART[.ADAPTER][.weight]`, ADAPTER a free name that PEFT leaves out |
//! | kohya, LyCORIS | `lora_unet_MODULE.PART[.weight]`, the module's dots written as underscores |
//! | diffusers | `unet.MODULE.lora.down.weight`, `….processor.to_q_lora.down.weight`, `….lora_linear_layer.…` |
//! | mlx-lm | `MODULE.lora_a`, `MODULE.lora_b` |
//! | torchtune | `MODULE.lora_a.weight`, `MODULE.lora_b.weight` |
//! | XLabs (Flux) | `double_blocks.N.processor.qkv_lora1.down.weight`: 1 is the image's stream, 2 the text's |
//! | loralib | `MODULE.lora_A` without `.weight` |
//! | cloneofsimo | `unet:NUMBER:up`, `unet:NUMBER:down` |

use std::borrow::Cow;

use super::method;

/// What a tensor is to its module.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Part {
    /// A, R × inputs.
    A,
    /// B, outputs × R.
    B,
    /// A of an embedding, R × entries.
    EmbeddingA,
    /// B of an embedding, dimension × R.
    EmbeddingB,
    /// AdaLoRA's or loralib's A, named without `.weight`.
    BareA,
    /// Their B.
    BareB,
    /// AdaLoRA's singular values, R × 1.
    E,
    /// What AdaLoRA divides by.
    RankNumber,
    /// A vector that is added to the module's output (`lora_bias`) or replaces its bias.
    Bias,
    /// DoRA's magnitudes.
    Magnitude,
    /// R × inputs, by kohya's or diffusers' name.
    Down,
    /// outputs × R.
    Up,
    /// R × R × height × width, between the two.
    Mid,
    /// α, a single number.
    Alpha,
    /// mlx-lm's A, inputs × R.
    MlxA,
    /// Its B, R × outputs.
    MlxB,
    /// LoHa: first product's left factor.
    HadaW1A,
    /// First product's right factor.
    HadaW1B,
    /// Second product's left factor.
    HadaW2A,
    /// Second product's right factor.
    HadaW2B,
    /// First product's core.
    HadaT1,
    /// Second product's core.
    HadaT2,
    /// LoKr: left matrix.
    LokrW1,
    /// Left matrix's left factor.
    LokrW1A,
    /// Left matrix's right factor.
    LokrW1B,
    /// Right matrix.
    LokrW2,
    /// Right matrix's left factor.
    LokrW2A,
    /// Right matrix's right factor.
    LokrW2B,
    /// Right matrix's core.
    LokrT2,
    /// VeRA's d.
    VeraD,
    /// VeRA's b.
    VeraB,
    /// VeRA's A, one for all modules.
    VeraProjectionA,
    /// VeRA's B, one for all modules.
    VeraProjectionB,
    /// (IA)³'s vector.
    Ia3,
    /// LyCORIS's (IA)³: whether its vector scales the inputs.
    OnInput,
    /// LyCORIS's (IA)³: its vector.
    Multiplier,
    /// GLoRA: the left factor of what is multiplied to the weight.
    GloraA1,
    /// Its right factor.
    GloraA2,
    /// GLoRA: the left factor of what is added.
    GloraB1,
    /// Its right factor.
    GloraB2,
    /// New rows of an embedding.
    Tokens,
    /// ΔW itself.
    Difference,
    /// A bias's difference, which has no rank.
    BiasDifference,
    /// A normalisation's weight's difference.
    NormWeight,
    /// A normalisation's bias's difference.
    NormBias,
    /// What a variant keeps beside factors that are to be read as ever.
    Harmless,
    /// A part of a LoRA variant, by which the module cannot be audited.
    Variant(&'static str),
}

/// Whose way of writing names it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Format {
    Peft,
    Kohya,
    Lycoris,
    Diffusers,
    Mlx,
    Loralib,
    Cloneofsimo,
    Torchtune,
}

impl Format {
    pub fn name(self) -> &'static str {
        match self {
            Self::Peft => "peft",
            Self::Kohya => "kohya",
            Self::Lycoris => "lycoris",
            Self::Diffusers => "diffusers",
            Self::Mlx => "mlx-lm",
            Self::Loralib => "loralib",
            Self::Cloneofsimo => "cloneofsimo",
            Self::Torchtune => "torchtune",
        }
    }
}

/// A tensor name, understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Key<'a> {
    /// A part of a module's adapter, and the adapter's name where there is one.
    Part {
        module: Cow<'a, str>,
        adapter: Option<&'a str>,
        part: Part,
        format: Format,
    },
    /// A part of another family's adapter.
    Foreign(&'static str),
    /// A tensor of the model itself, trained as a whole.
    Full,
}

/// Parts whose name is one segment, perhaps followed by the adapter's name.
const SINGLE: [(&str, Part, Format); 26] = [
    ("hada_w1_a", Part::HadaW1A, Format::Lycoris),
    ("hada_w1_b", Part::HadaW1B, Format::Lycoris),
    ("hada_w2_a", Part::HadaW2A, Format::Lycoris),
    ("hada_w2_b", Part::HadaW2B, Format::Lycoris),
    ("hada_t1", Part::HadaT1, Format::Lycoris),
    ("hada_t2", Part::HadaT2, Format::Lycoris),
    ("lokr_w1", Part::LokrW1, Format::Lycoris),
    ("lokr_w1_a", Part::LokrW1A, Format::Lycoris),
    ("lokr_w1_b", Part::LokrW1B, Format::Lycoris),
    ("lokr_w2", Part::LokrW2, Format::Lycoris),
    ("lokr_w2_a", Part::LokrW2A, Format::Lycoris),
    ("lokr_w2_b", Part::LokrW2B, Format::Lycoris),
    ("lokr_t2", Part::LokrT2, Format::Lycoris),
    ("vera_lambda_d", Part::VeraD, Format::Peft),
    ("vera_lambda_b", Part::VeraB, Format::Peft),
    ("vera_A", Part::VeraProjectionA, Format::Peft),
    ("vera_B", Part::VeraProjectionB, Format::Peft),
    ("ia3_l", Part::Ia3, Format::Peft),
    ("trainable_tokens_delta", Part::Tokens, Format::Peft),
    ("dora_scale", Part::Magnitude, Format::Kohya),
    ("diff", Part::Difference, Format::Lycoris),
    ("diff_b", Part::BiasDifference, Format::Lycoris),
    ("w_norm", Part::NormWeight, Format::Lycoris),
    ("b_norm", Part::NormBias, Format::Lycoris),
    ("on_input", Part::OnInput, Format::Lycoris),
    ("alpha", Part::Alpha, Format::Kohya),
];

impl<'a> Key<'a> {
    pub fn parse(name: &'a str) -> Self {
        if let Some(key) = cloneofsimo(name) {
            return key;
        }
        let path = name
            .strip_prefix("base_model.model.")
            .or_else(|| {
                name.strip_prefix("base_model.")
                    .filter(|rest| rest.starts_with("vera_"))
            })
            .unwrap_or(name);
        if let Some(module) = path.strip_suffix(".base_layer.bias") {
            return part(module, None, Part::Bias, Format::Peft);
        }
        let mut begin = 0;
        for segment in path.split('.') {
            let rest = path[begin + segment.len()..]
                .strip_prefix('.')
                .unwrap_or("");
            let module = path[..begin].strip_suffix('.').unwrap_or("");
            if let Some(key) = understood(module, segment, rest) {
                return key;
            }
            begin += segment.len() + 1;
        }
        method::of_tensor(path).map_or(Self::Full, Self::Foreign)
    }
}

/// The name without the adapter's own, as PEFT writes it.
pub(super) fn without_adapter(name: &str) -> String {
    let Key::Part {
        adapter: Some(adapter),
        ..
    } = Key::parse(name)
    else {
        return name.to_owned();
    };
    let end = format!(".{adapter}");
    if let Some(own) = name.strip_suffix(&end) {
        return own.to_owned();
    }
    let own = name.rsplit_once('.').and_then(|(own, suffix)| {
        let own = own.strip_suffix(&end)?;
        Some(format!("{own}.{suffix}"))
    });
    own.unwrap_or_else(|| name.to_owned())
}

fn part<'a>(
    module: impl Into<Cow<'a, str>>,
    adapter: Option<&'a str>,
    part: Part,
    format: Format,
) -> Key<'a> {
    Key::Part {
        module: module.into(),
        adapter,
        part,
        format,
    }
}

/// The key, if `segment` begins the name of a part and `rest` is how such a name goes on.
fn understood<'a>(module: &'a str, segment: &str, rest: &'a str) -> Option<Key<'a>> {
    let is_shared = matches!(segment, "vera_A" | "vera_B");
    if module.is_empty() && !is_shared {
        return None;
    }
    let tail: Vec<&str> = rest.split('.').filter(|text| !text.is_empty()).collect();
    if let Some(&(name, what, format)) = SINGLE.iter().find(|(name, ..)| *name == segment) {
        let is_end = matches!(
            name,
            "diff" | "diff_b" | "w_norm" | "b_norm" | "alpha" | "dora_scale"
        );
        let adapter = match tail[..] {
            [] => None,
            [adapter] if !is_end => Some(adapter),
            _ => return None,
        };
        let module = module.strip_suffix(".token_adapter").unwrap_or(module);
        return Some(part(module, adapter, what, format));
    }
    let (down, up) = (Part::Down, Part::Up);
    match (segment, &tail[..]) {
        ("lora_down", ["weight"]) => Some(part(module, None, down, Format::Kohya)),
        ("lora_up", ["weight"]) => Some(part(module, None, up, Format::Kohya)),
        ("lora_mid", ["weight"]) => Some(part(module, None, Part::Mid, Format::Kohya)),
        ("a1", ["weight"]) => Some(part(module, None, Part::GloraA1, Format::Lycoris)),
        ("a2", ["weight"]) => Some(part(module, None, Part::GloraA2, Format::Lycoris)),
        ("b1", ["weight"]) => Some(part(module, None, Part::GloraB1, Format::Lycoris)),
        ("b2", ["weight"]) => Some(part(module, None, Part::GloraB2, Format::Lycoris)),
        ("lora_a", []) => Some(part(module, None, Part::MlxA, Format::Mlx)),
        ("lora_b", []) => Some(part(module, None, Part::MlxB, Format::Mlx)),
        ("lora_a", ["weight"]) => Some(part(module, None, Part::A, Format::Torchtune)),
        ("lora_b", ["weight"]) => Some(part(module, None, Part::B, Format::Torchtune)),
        ("lora" | "lora_linear_layer", ["down", "weight"]) => {
            Some(part(module, None, down, Format::Diffusers))
        }
        ("lora" | "lora_linear_layer", ["up", "weight"]) => {
            Some(part(module, None, up, Format::Diffusers))
        }
        (_, [side @ ("down" | "up"), "weight"]) => {
            let what = if *side == "down" { down } else { up };
            let ends = [("_lora1", "img_attn"), ("_lora2", "txt_attn")];
            let stream = |(end, stream)| {
                let parent = module.strip_suffix(".processor")?;
                Some(format!("{parent}.{stream}.{}", segment.strip_suffix(end)?))
            };
            let name = match ends.into_iter().find_map(stream) {
                Some(name) => name,
                None => attention(module, segment.strip_suffix("_lora")?),
            };
            Some(part(name, None, what, Format::Diffusers))
        }
        ("ranknum", []) => Some(part(module, None, Part::RankNumber, Format::Peft)),
        ("ranknum", [adapter]) => Some(part(module, Some(adapter), Part::RankNumber, Format::Peft)),
        _ => peft(module, segment, &tail),
    }
}

/// The module that an attention processor's `to_q_lora` belongs to.
fn attention(module: &str, inner: &str) -> String {
    let parent = module.strip_suffix(".processor").unwrap_or(module);
    let is_text = parent.ends_with("self_attn");
    let layer = match inner {
        "to_q" if is_text => "q_proj",
        "to_k" if is_text => "k_proj",
        "to_v" if is_text => "v_proj",
        "to_out" if is_text => "out_proj",
        "to_out" => "to_out.0",
        other => other,
    };
    format!("{parent}.{layer}")
}

/// PEFT's own parts: `lora_` and a name, perhaps an adapter's name, perhaps `weight` or `bias`.
fn peft<'a>(module: &'a str, segment: &str, tail: &[&'a str]) -> Option<Key<'a>> {
    if !segment.starts_with("lora_") || ["lora_down", "lora_up", "lora_mid"].contains(&segment) {
        return None;
    }
    // What MonteCLoRA draws with during training.
    if segment.starts_with("lora_monteclora") {
        return Some(part(module, None, Part::Harmless, Format::Peft));
    }
    let (adapter, suffix) = match *tail {
        [] => (None, None),
        [suffix @ ("weight" | "bias")] => (None, Some(suffix)),
        [adapter] => (Some(adapter), None),
        [adapter, suffix] => (Some(adapter), Some(suffix)),
        _ => return None,
    };
    // DyLoRA keeps every direction for itself: lora_A.0, lora_A.1, …
    let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if suffix.is_none() && adapter.is_some_and(is_number) {
        return Some(Key::Foreign(method::DYLORA));
    }
    let what = match (segment, suffix) {
        ("lora_A", Some("weight")) => Part::A,
        ("lora_B", Some("weight")) => Part::B,
        ("lora_B", Some("bias")) => Part::Bias,
        ("lora_embedding_A", None | Some("weight")) => Part::EmbeddingA,
        ("lora_embedding_B", None | Some("weight")) => Part::EmbeddingB,
        ("lora_A", None) => Part::BareA,
        ("lora_B", None) => Part::BareB,
        ("lora_E", None) => Part::E,
        ("lora_magnitude_vector", None | Some("weight")) => Part::Magnitude,
        ("lora_diag", _) => Part::Variant("KaSA: its update is not s B A and is not read yet"),
        ("lora_velora_embed", _) => Part::Harmless,
        _ => Part::Variant("a part that is not known here, so that the update is not either"),
    };
    let format = match what {
        Part::BareA | Part::BareB => Format::Loralib,
        _ => Format::Peft,
    };
    Some(part(module, adapter, what, format))
}

/// `unet:3:up`: the factors are numbered in the order in which the model lists its modules.
fn cloneofsimo(name: &str) -> Option<Key<'_>> {
    let (module, side) = name.rsplit_once(':')?;
    let what = match side {
        "up" => Part::Up,
        "down" => Part::Down,
        _ => return None,
    };
    let (_, number) = module.rsplit_once(':')?;
    number.parse::<u32>().ok()?;
    Some(part(module, None, what, Format::Cloneofsimo))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(name: &str) -> (String, Option<&str>, Part, Format) {
        match Key::parse(name) {
            Key::Part {
                module,
                adapter,
                part,
                format,
            } => (module.into_owned(), adapter, part, format),
            other => panic!("{name}: {other:?}"),
        }
    }

    #[test]
    fn names_of_every_layout_are_taken_apart() {
        use Format as F;
        for (name, module, adapter, what, format) in [
            (
                "base_model.model.h.0.attn.lora_A.weight",
                "h.0.attn",
                None,
                Part::A,
                F::Peft,
            ),
            ("q.lora_B.mine.weight", "q", Some("mine"), Part::B, F::Peft),
            ("q.lora_B.bias", "q", None, Part::Bias, F::Peft),
            (
                "base_model.model.q.base_layer.bias",
                "q",
                None,
                Part::Bias,
                F::Peft,
            ),
            (
                "wte.lora_embedding_B",
                "wte",
                None,
                Part::EmbeddingB,
                F::Peft,
            ),
            (
                "wte.lora_embedding_A.default.weight",
                "wte",
                Some("default"),
                Part::EmbeddingA,
                F::Peft,
            ),
            (
                "q.lora_A.default",
                "q",
                Some("default"),
                Part::BareA,
                F::Loralib,
            ),
            ("q.lora_E", "q", None, Part::E, F::Peft),
            (
                "q.lora_magnitude_vector",
                "q",
                None,
                Part::Magnitude,
                F::Peft,
            ),
            (
                "q.lora_magnitude_vector.default.weight",
                "q",
                Some("default"),
                Part::Magnitude,
                F::Peft,
            ),
            (
                "base_model.vera_A",
                "",
                None,
                Part::VeraProjectionA,
                F::Peft,
            ),
            (
                "base_model.model.q.vera_lambda_d",
                "q",
                None,
                Part::VeraD,
                F::Peft,
            ),
            (
                "base_model.model.q.hada_w1_a",
                "q",
                None,
                Part::HadaW1A,
                F::Lycoris,
            ),
            ("base_model.model.q.ia3_l", "q", None, Part::Ia3, F::Peft),
            (
                "m.embed.token_adapter.trainable_tokens_delta",
                "m.embed",
                None,
                Part::Tokens,
                F::Peft,
            ),
            (
                "lora_unet_x_y.lora_down.weight",
                "lora_unet_x_y",
                None,
                Part::Down,
                F::Kohya,
            ),
            (
                "lora_unet_x_y.lora_mid.weight",
                "lora_unet_x_y",
                None,
                Part::Mid,
                F::Kohya,
            ),
            (
                "lora_unet_x_y.alpha",
                "lora_unet_x_y",
                None,
                Part::Alpha,
                F::Kohya,
            ),
            (
                "lora_te1_x.lokr_w2_b",
                "lora_te1_x",
                None,
                Part::LokrW2B,
                F::Lycoris,
            ),
            (
                "lora_te1_x.diff",
                "lora_te1_x",
                None,
                Part::Difference,
                F::Lycoris,
            ),
            (
                "layers.0.q_proj.lora_a",
                "layers.0.q_proj",
                None,
                Part::MlxA,
                F::Mlx,
            ),
            (
                "unet.mid.to_q.lora.up.weight",
                "unet.mid.to_q",
                None,
                Part::Up,
                F::Diffusers,
            ),
            (
                "down.0.attn1.processor.to_out_lora.down.weight",
                "down.0.attn1.to_out.0",
                None,
                Part::Down,
                F::Diffusers,
            ),
            (
                "text_encoder.layers.0.self_attn.to_q_lora.up.weight",
                "text_encoder.layers.0.self_attn.q_proj",
                None,
                Part::Up,
                F::Diffusers,
            ),
            (
                "text_encoder.q_proj.lora_linear_layer.up.weight",
                "text_encoder.q_proj",
                None,
                Part::Up,
                F::Diffusers,
            ),
            ("unet:3:up", "unet:3", None, Part::Up, F::Cloneofsimo),
            (
                "layers.0.attn.q_proj.lora_b.weight",
                "layers.0.attn.q_proj",
                None,
                Part::B,
                F::Torchtune,
            ),
            (
                "double_blocks.3.processor.proj_lora2.down.weight",
                "double_blocks.3.txt_attn.proj",
                None,
                Part::Down,
                F::Diffusers,
            ),
        ] {
            let expected = (module.to_owned(), adapter, what, format);
            assert_eq!(parsed(name), expected, "{name}");
        }
    }

    #[test]
    fn other_families_are_named() {
        for (name, family) in [
            ("base_model.model.q.randlora_lambda", "RandLoRA"),
            ("lora_unet_a.oft_diag", "OFT"),
            ("lora_unet_a.lora_A.0", "DyLoRA's list of directions"),
            ("lora_unet_a.something", "an unknown kohya network"),
        ] {
            assert_eq!(Key::parse(name), Key::Foreign(family), "{name}");
        }
        let doubled = Key::parse("q.lora_A.default.default.weight");
        assert_eq!(
            doubled,
            Key::Foreign("LoRA with a name that is not understood")
        );
        let set = Key::parse("diffusion_model.head.set_weight");
        assert_eq!(set, Key::Foreign("ComfyUI's set_weight"));
        for name in [
            "base_model.model.classifier.weight",
            "model.shadow_map.weight",
            "prefix_encoder.embedding.weight",
            "",
            "...",
            "a:b:up",
            "lora_A.weight",
        ] {
            assert!(
                matches!(Key::parse(name), Key::Full | Key::Foreign(_)),
                "{name}"
            );
        }
        assert_eq!(
            parsed("q.lora_diag.weight").2,
            Part::Variant("KaSA: its update is not s B A and is not read yet")
        );
        assert_eq!(
            parsed("q.lora_new.weight").2,
            Part::Variant("a part that is not known here, so that the update is not either")
        );
        assert_eq!(parsed("lora_unet_q.a1.weight").2, Part::GloraA1);
    }
}
