//! Methods and layouts that have no reader here: every one is refused by its own name, with the reason.
//!
//! Sources: the methods of huggingface/peft 0.21 (`PeftType`) and the names of their tensors; LyCORIS;
//! `comfy/lora.py` of comfyanonymous/ComfyUI; OneTrainer.

const UNREAD: &str = "it has an update, which is not read yet";
const PROMPTS: &str =
    "it trains tokens or states beside the input and changes no weight: there is no ΔW";
const ROUTED: &str = "its update depends on the input or the task: there is no one ΔW";
const VECTORS: &str = "it trains vectors, which have no rank";

/// A method without a reader.
struct Method {
    /// PEFT's name of it, if it is PEFT's.
    peft_type: &'static str,
    name: &'static str,
    /// What a segment of its tensors' names begins with.
    marks: &'static [&'static str],
    reason: &'static str,
}

const fn method(
    peft_type: &'static str,
    name: &'static str,
    marks: &'static [&'static str],
    reason: &'static str,
) -> Method {
    Method {
        peft_type,
        name,
        marks,
        reason,
    }
}

/// The first mark that fits counts.
#[rustfmt::skip]
static METHODS: [Method; 47] = [
    method("ADAMSS", "AdaMSS", &["adamss_"], UNREAD),
    method("ADAPTION_PROMPT", "adaption prompt", &["adaption_gate", "adaption_prompt"], PROMPTS),
    method("BEFT", "BEFT", &["beft_"], VECTORS),
    method("BOFT", "BOFT", &["boft_"], UNREAD),
    method("BONE", "Bone", &["bone_block"], UNREAD),
    method("C3A", "C3A", &["c3a_"], UNREAD),
    method("CARTRIDGE", "Cartridge", &[], PROMPTS),
    method("CPT", "CPT", &[], PROMPTS),
    method("DEFT", "DEFT", &["deft_"], UNREAD),
    method("DELORA", "DeLoRA", &["delora_"], UNREAD),
    method("FOURIERFT", "FourierFT", &["fourierft_"], UNREAD),
    method("FROD", "FRoD", &["frod_"], UNREAD),
    method("GLORA", "PEFT's GLoRA", &["glora_"], UNREAD),
    method("GRALORA", "GraLoRA", &["gralora_"], UNREAD),
    method("HIRA", "HiRA", &["hira_"], UNREAD),
    method("HRA", "HRA", &["hra_"], UNREAD),
    method("LILY", "LILY", &["lily_"], ROUTED),
    method("LN_TUNING", "LN tuning", &["ln_tuning_"], VECTORS),
    method("MISS", "MiSS", &["miss_block"], UNREAD),
    method("MULTITASK_PROMPT_TUNING", "multitask prompt tuning", &["prefix_task_cols", "prefix_task_rows"], PROMPTS),
    method("OFT", "OFT", &["oft_"], UNREAD),
    method("OSF", "OSF", &["osf_svd_params"], UNREAD),
    method("P_TUNING", "P-tuning", &[], PROMPTS),
    method("PEANUT", "PEANUT", &["peanut_"], UNREAD),
    method("POLY", "Poly", &["poly_lora_", "poly_router"], ROUTED),
    method("PREFIX_TUNING", "prefix tuning", &[], PROMPTS),
    method("PROMPT_TUNING", "prompt tuning", &[], PROMPTS),
    method("PSOFT", "PSOFT", &["psoft_"], UNREAD),
    method("PVERA", "PVeRA", &["pvera_"], UNREAD),
    method("RANDLORA", "RandLoRA", &["randlora_"], UNREAD),
    method("ROAD", "RoAd", &["road_theta", "road_alpha"], UNREAD),
    method("SHADOW", "Shadow", &["shadow_down", "shadow_up", "shadow_update_gate", "shadow_backbone"], ROUTED),
    method("SHIRA", "SHiRA", &["shira_"], UNREAD),
    method("SUPERTUNING", "Supertuning", &["supertuning_"], UNREAD),
    method("TINYLORA", "TinyLoRA", &["tinylora_"], UNREAD),
    method("UNILORA", "UniLoRA", &["unilora_"], UNREAD),
    method("VBLORA", "VB-LoRA", &["vblora_"], UNREAD),
    method("WAVEFT", "WaveFT", &["waveft_"], UNREAD),
    method("XLORA", "X-LoRA", &["internal_xlora_classifier", "xlora_"], ROUTED),
    method("", "prompt tuning or one of its kin", &["prompt_embeddings"], PROMPTS),
    method("", "DyLoRA's list of directions", &[], UNREAD),
    method("", "T-LoRA", &["lambda_layer", "p_layer", "q_layer"], UNREAD),
    method("", "OneTrainer's bundle_emb", &["bundle_emb"], "the embedding of a text, which changes no weight"),
    method("", "ComfyUI's set_weight", &["set_weight"], "a weight in place of the base's, which is not read yet"),
    method("", "ComfyUI's reshape_weight", &["reshape_weight"], "the shape that the base's weight is brought to, which is not read yet"),
    method("", "LoRA with a name that is not understood", &["lora_A", "lora_B", "lora_E", "lora_embedding_A", "lora_embedding_B", "lora_magnitude_vector"], "more stands between the part's name and the tensor's than one adapter's name"),
    method("", "an unknown kohya network", &["lora_unet_", "lora_te_", "lora_te1_", "lora_te2_", "lora_te3_"], "its tensors have names that are not known here"),
];

/// DyLoRA's tensors are known by what follows their parts' names.
pub(super) const DYLORA: &str = "DyLoRA's list of directions";

/// The method that a tensor's name is a part of.
pub(super) fn of_tensor(path: &str) -> Option<&'static str> {
    let is_marked = |method: &&Method| {
        let mut segments = path.split('.');
        segments.any(|segment| method.marks.iter().any(|mark| segment.starts_with(mark)))
    };
    Some(METHODS.iter().find(is_marked)?.name)
}

/// Why the method of that name is not audited.
pub(super) fn reason(name: &str) -> &'static str {
    let method = METHODS.iter().find(|method| method.name == name);
    method.map_or(UNREAD, |method| method.reason)
}

/// Why an adapter of this `peft_type` is not audited.
pub(super) fn of_type(peft_type: &str) -> String {
    match METHODS.iter().find(|method| method.peft_type == peft_type) {
        Some(method) => format!("peft_type {peft_type} ({}): {}", method.name, method.reason),
        None => format!("peft_type {peft_type}: no method that is known here"),
    }
}
