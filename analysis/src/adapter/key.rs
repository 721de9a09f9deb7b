//! What a tensor's name says in PEFT's layout, and which other methods a name betrays.
//!
//! `[base_model.model.]MODULE.PART[.ADAPTER][.weight]`, with ADAPTER a free name that PEFT itself
//! leaves out of files (`default`).

/// Names of adapter families that are not audited: what their keys contain, first match first.
const FAMILIES: [(&str, &str); 37] = [
    (".lokr_w", "LoKr"),
    (".lokr_t", "LoKr"),
    (".hada_", "LoHa"),
    ("dora_scale", "LyCORIS DoRA"),
    (".vera_", "VeRA"),
    (".randlora_", "RandLoRA"),
    (".vblora_", "VB-LoRA"),
    (".fourierft_", "FourierFT"),
    (".ia3_l", "IA3"),
    (".boft_", "BOFT"),
    (".oft_", "OFT"),
    (".hra_u", "HRA"),
    (".hira_", "HiRA"),
    (".bone_", "Bone"),
    (".miss_block", "MiSS"),
    (".road_", "RoAd"),
    (".shira_", "SHiRA"),
    ("lora_down.", "kohya LoRA"),
    ("lora_up.", "kohya LoRA"),
    ("lora_mid.", "kohya LoCon"),
    ("lora.down.", "diffusers LoRA"),
    ("lora.up.", "diffusers LoRA"),
    ("_lora.down", "diffusers LoRA"),
    ("_lora.up", "diffusers LoRA"),
    ("lora_linear_layer", "diffusers LoRA"),
    (".lora_a", "mlx LoRA"),
    (".lora_b", "mlx LoRA"),
    ("unet:", "cloneofsimo LoRA"),
    ("text_encoder:", "cloneofsimo LoRA"),
    ("lora_unet_", "kohya LoRA"),
    ("lora_te", "kohya LoRA"),
    (".diff_b", "LyCORIS full difference"),
    (".w_norm", "LyCORIS norm difference"),
    ("prompt_embeddings", "prompt tuning"),
    ("token_adapter", "trainable tokens"),
    ("trainable_tokens", "trainable tokens"),
    (".alpha", "separate alpha"),
];

/// Which of a LoRA pair's two shapes a part belongs to: an embedding keeps its factors transposed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Layout {
    Layer,
    Embedding,
}

/// What a tensor is to its module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part<'a> {
    /// A, R × inputs.
    A(Layout),
    /// B, outputs × R.
    B(Layout),
    /// A vector that is added to the module's output (`lora_bias`) or replaces its bias.
    Bias,
    /// A part of a LoRA variant, by which the module cannot be audited.
    Variant(&'a str),
}

/// A tensor name, understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Key<'a> {
    /// A part of a module's adapter, and the adapter's name where there is one.
    Part {
        module: &'a str,
        adapter: Option<&'a str>,
        part: Part<'a>,
    },
    /// A part of another family's adapter.
    Foreign(&'static str),
    /// A tensor of the model itself, trained as a whole.
    Full,
}

impl<'a> Key<'a> {
    pub fn parse(name: &'a str) -> Self {
        let path = name.strip_prefix("base_model.model.").unwrap_or(name);
        if let Some(module) = path.strip_suffix(".base_layer.bias") {
            return Self::Part {
                module,
                adapter: None,
                part: Part::Bias,
            };
        }
        if let Some((module, part, tail)) = split(path) {
            let (adapter, suffix) = match *tail {
                [] => (None, None),
                ["weight"] => (None, Some("weight")),
                ["bias"] => (None, Some("bias")),
                [adapter] => (Some(adapter), None),
                [adapter, suffix] => (Some(adapter), Some(suffix)),
                _ => return Self::Full,
            };
            let part = match (part, suffix) {
                ("lora_A", Some("weight")) => Part::A(Layout::Layer),
                ("lora_B", Some("weight")) => Part::B(Layout::Layer),
                ("lora_B", Some("bias")) => Part::Bias,
                ("lora_embedding_A", None | Some("weight")) => Part::A(Layout::Embedding),
                ("lora_embedding_B", None | Some("weight")) => Part::B(Layout::Embedding),
                // Without `.weight`, lora_A and lora_B are AdaLoRA's.
                ("lora_A" | "lora_B" | "lora_E" | "ranknum", None) => Part::Variant("AdaLoRA"),
                ("lora_magnitude_vector", _) => Part::Variant("DoRA"),
                (other, _) => Part::Variant(other),
            };
            return Self::Part {
                module,
                adapter,
                part,
            };
        }
        match FAMILIES.iter().find(|(mark, _)| path.contains(mark)) {
            Some((_, family)) => Self::Foreign(family),
            None => Self::Full,
        }
    }
}

/// Module, the segment that names a LoRA part, and what follows it.
fn split(path: &str) -> Option<(&str, &str, Vec<&str>)> {
    let mut begin = 0;
    for segment in path.split('.') {
        // Variants bring parts of their own, such as `lora_diag`; other layouts' parts are known.
        let is_part = segment
            .strip_prefix("lora_")
            .is_some_and(|rest| !["a", "b", "up", "down", "mid", "linear_layer"].contains(&rest));
        if begin > 0 && (is_part || segment == "ranknum") {
            let rest = &path[begin + segment.len()..];
            let tail = rest.split('.').skip(1).collect();
            return Some((&path[..begin - 1], segment, tail));
        }
        begin += segment.len() + 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peft_names_are_taken_apart() {
        let parsed = |name| match Key::parse(name) {
            Key::Part {
                module,
                adapter,
                part,
            } => (module, adapter, part),
            other => panic!("{name}: {other:?}"),
        };
        let layer = Layout::Layer;
        assert_eq!(
            parsed("base_model.model.h.0.attn.c_attn.lora_A.weight"),
            ("h.0.attn.c_attn", None, Part::A(layer))
        );
        assert_eq!(
            parsed("q.lora_B.mine.weight"),
            ("q", Some("mine"), Part::B(layer))
        );
        assert_eq!(parsed("q.lora_B.bias"), ("q", None, Part::Bias));
        assert_eq!(
            parsed("base_model.model.q.base_layer.bias"),
            ("q", None, Part::Bias)
        );
        assert_eq!(parsed("wte.lora_embedding_B").2, Part::B(Layout::Embedding));
        assert_eq!(
            parsed("wte.lora_embedding_A.default.weight").1,
            Some("default")
        );
        assert_eq!(parsed("q.lora_A.default").2, Part::Variant("AdaLoRA"));
        assert_eq!(parsed("q.lora_magnitude_vector").2, Part::Variant("DoRA"));
        assert_eq!(parsed("q.lora_diag.weight").2, Part::Variant("lora_diag"));
    }

    #[test]
    fn other_families_are_named() {
        for (name, family) in [
            (
                "lora_te_text_model_encoder_layers_0_mlp_fc1.lokr_w1_a",
                "LoKr",
            ),
            ("lora_unet_down_blocks_0.lora_down.weight", "kohya LoRA"),
            ("lora_unet_down_blocks_0.alpha", "kohya LoRA"),
            ("unet:3:up", "cloneofsimo LoRA"),
            ("model.layers.0.self_attn.q_proj.lora_a", "mlx LoRA"),
            (
                "down_blocks.0.attn1.processor.to_q_lora.down.weight",
                "diffusers LoRA",
            ),
            ("unet.mid.to_q.lora.up.weight", "diffusers LoRA"),
            ("base_model.vera_A", "VeRA"),
            ("base_model.model.h.0.attn.ia3_l", "IA3"),
        ] {
            assert_eq!(Key::parse(name), Key::Foreign(family), "{name}");
        }
        assert_eq!(Key::parse("base_model.model.classifier.weight"), Key::Full);
        assert_eq!(Key::parse(""), Key::Full);
        assert_eq!(Key::parse("..."), Key::Full);
    }
}
