//! Every method of PEFT has a reader, or is refused by its own name with the true reason.

mod support;

use std::path::Path;

use support::{audited, folder, pair, tensor};

/// The methods of PEFT 0.21.2 (`PeftType`) that are read.
const READ: [&str; 7] = [
    "LORA",
    "ADALORA",
    "LOHA",
    "LOKR",
    "VERA",
    "IA3",
    "TRAINABLE_TOKENS",
];

/// The others, and Bone, which MiSS was called before; what their reasons say.
const OTHERS: [(&str, &[&str]); 4] = [
    (
        "changes no weight: there is no ΔW",
        &[
            "PROMPT_TUNING",
            "MULTITASK_PROMPT_TUNING",
            "P_TUNING",
            "PREFIX_TUNING",
            "ADAPTION_PROMPT",
            "CPT",
            "CARTRIDGE",
        ],
    ),
    ("there is no one ΔW", &["XLORA", "POLY", "LILY", "SHADOW"]),
    ("vectors, which have no rank", &["LN_TUNING", "BEFT"]),
    (
        "it has an update, which is not read yet",
        &[
            "ADAMSS",
            "BOFT",
            "BONE",
            "C3A",
            "DEFT",
            "DELORA",
            "FOURIERFT",
            "FROD",
            "GLORA",
            "GRALORA",
            "HIRA",
            "HRA",
            "MISS",
            "OFT",
            "OSF",
            "PEANUT",
            "PSOFT",
            "PVERA",
            "RANDLORA",
            "ROAD",
            "SHIRA",
            "SUPERTUNING",
            "TINYLORA",
            "UNILORA",
            "VBLORA",
            "WAVEFT",
        ],
    ),
];

/// Methods whose tensors' names are those of others too: only the configuration tells.
const BY_CONFIGURATION: [&str; 5] = [
    "PROMPT_TUNING",
    "P_TUNING",
    "PREFIX_TUNING",
    "CPT",
    "CARTRIDGE",
];

fn reasons(path: &Path) -> Vec<String> {
    let audit = audited(path);
    assert_eq!(audit.adapters.len(), 0, "{}", path.display());
    audit
        .refused
        .into_iter()
        .map(|refused| refused.reason)
        .collect()
}

#[test]
fn methods_without_a_reader_are_refused_by_their_names() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/formats");
    let mut count = 0;
    for (why, methods) in OTHERS {
        for method in methods {
            let fixture = fixtures.join(format!(
                "refused-{}",
                method.to_lowercase().replace('_', "-")
            ));
            let found = reasons(&fixture).join("; ");
            assert!(
                found.starts_with(&format!("peft_type {method} (")),
                "{found}"
            );
            assert!(found.contains(why), "{found}");
            count += 1;
            // X-LoRA's has no tensors before its router is trained.
            if *method == "XLORA" {
                continue;
            }
            // The tensors alone tell too, but for prompts.
            let copy = tempfile::tempdir().unwrap();
            let file = copy.path().join("adapter_model.safetensors");
            std::fs::copy(fixture.join("adapter_model.safetensors"), &file).unwrap();
            let alone = reasons(&file);
            assert!(
                alone.iter().all(|reason| reason.contains(why)),
                "{method}: {alone:?}"
            );
            let name = found.split(['(', ')']).nth(1).unwrap();
            let is_said = alone
                .iter()
                .any(|reason| reason.starts_with(&format!("{name}: ")));
            assert_eq!(
                is_said,
                !BY_CONFIGURATION.contains(method),
                "{method}: {alone:?}"
            );
        }
    }
    // PEFT 0.21.2 has 45 methods; Bone is an older one's name.
    assert_eq!(count + READ.len(), 46);
}

#[test]
fn reasons_say_what_is_there() {
    let alpha = || Some(serde_json::json!({ "lora_alpha": 2 }));
    let beside = |name: &'static str, shape: &[usize], config: Option<serde_json::Value>| {
        let mut tensors = pair();
        tensors.extend(tensor(name, shape, &vec![1.0; shape.iter().product()]));
        let folder = folder(&tensors, config);
        let audit = audited(folder.path());
        assert_eq!(audit.refused.len(), 1, "{name}: {:?}", audit.refused);
        audit.refused[0].reason.clone()
    };
    let saved = serde_json::json!({ "lora_alpha": 2, "modules_to_save": ["head"] });
    for (name, shape, config, expected) in [
        (
            "base_model.model.head.weight",
            &[2, 3][..],
            Some(saved),
            "trained as a whole (modules_to_save)",
        ),
        (
            "base_model.model.head.weight",
            &[2, 3],
            alpha(),
            "adapter_config.json does not name",
        ),
        (
            "head.weight",
            &[2, 3],
            None,
            "without an adapter_config.json",
        ),
        (
            "base_model.model.head.weight",
            &[0],
            alpha(),
            "holds no numbers ([0])",
        ),
        (
            "diffusion_model.head.set_weight",
            &[2, 3],
            None,
            "ComfyUI's set_weight",
        ),
        (
            "bundle_emb.tok.clip_l",
            &[2, 3],
            None,
            "OneTrainer's bundle_emb",
        ),
        (
            "base_model.model.k.lora_A.default.default.weight",
            &[2, 3],
            alpha(),
            "not understood",
        ),
        ("lora_unet_k.lora_A.0", &[2, 3], None, "DyLoRA"),
        (
            "base_model.model.k.lora_new.weight",
            &[2, 3],
            alpha(),
            "not known here",
        ),
        (
            "base_model.model.k.lora_A.weight",
            &[0, 3],
            alpha(),
            "holds no numbers ([0, 3])",
        ),
        (
            "base_model.model.k.base_layer.bias",
            &[2],
            alpha(),
            "a bias: a vector",
        ),
    ] {
        let found = beside(name, shape, config);
        assert!(found.contains(expected), "{name}: {found}");
        let is_said = expected.contains("(modules_to_save)");
        assert_eq!(
            found.contains("modules_to_save"),
            is_said,
            "{name}: {found}"
        );
    }
}
