//! Configurations of published models, so that what trains in them can be counted without files.

use std::path::PathBuf;

use serde_json::{Map, Value, json};

use super::config::ModelConfig;

/// Names of published models whose shapes are known without their files.
pub const KNOWN: [&str; 9] = [
    "bert-base",
    "deberta-v3-base",
    "deberta-v3-large",
    "deberta-v3-small",
    "gpt2",
    "minilm",
    "roberta-base",
    "vit-b-16",
    "vit-b-32",
];

/// The configuration of a published model: shapes and switches that a forward pass depends on, as
/// its `config.json` has them.
///
/// | name | published as |
/// |---|---|
/// | `bert-base` | google-bert/bert-base-uncased |
/// | `deberta-v3-base`, `-large`, `-small` | microsoft/deberta-v3-… |
/// | `gpt2` | openai-community/gpt2 |
/// | `minilm` | sentence-transformers/all-MiniLM-L6-v2 |
/// | `roberta-base` | FacebookAI/roberta-base |
/// | `vit-b-16`, `vit-b-32` | google/vit-base-patch16-224, google/vit-base-patch32-384 |
pub(crate) fn known(name: &str) -> Option<ModelConfig> {
    let values = match name {
        "bert-base" => bert([768, 12, 12, 3072]),
        "minilm" => bert([384, 6, 12, 1536]),
        "roberta-base" => json!({
            "model_type": "roberta",
            "vocab_size": 50265,
            "hidden_size": 768,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            "intermediate_size": 3072,
            "max_position_embeddings": 514,
            "type_vocab_size": 1,
            "layer_norm_eps": 1e-5,
            "pad_token_id": 1,
        }),
        "deberta-v3-base" => deberta([768, 12, 12, 3072]),
        "deberta-v3-small" => deberta([768, 6, 12, 3072]),
        "deberta-v3-large" => deberta([1024, 24, 16, 4096]),
        "gpt2" => json!({
            "model_type": "gpt2",
            "vocab_size": 50257,
            "n_positions": 1024,
            "n_embd": 768,
            "n_layer": 12,
            "n_head": 12,
        }),
        "vit-b-16" => vit(16, 224),
        "vit-b-32" => vit(32, 384),
        _ => return None,
    };
    let values = match values {
        Value::Object(values) => values,
        _ => Map::new(),
    };
    Some(ModelConfig::of(values, PathBuf::from(name)))
}

fn bert([width, layers, heads, inner]: [usize; 4]) -> Value {
    json!({
        "model_type": "bert",
        "vocab_size": 30522,
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": inner,
        "max_position_embeddings": 512,
        "type_vocab_size": 2,
        "layer_norm_eps": 1e-12,
        "pad_token_id": 0,
    })
}

fn deberta([width, layers, heads, inner]: [usize; 4]) -> Value {
    json!({
        "model_type": "deberta-v2",
        "vocab_size": 128_100,
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": inner,
        "max_position_embeddings": 512,
        "type_vocab_size": 0,
        "layer_norm_eps": 1e-7,
        "relative_attention": true,
        "position_buckets": 256,
        "norm_rel_ebd": "layer_norm",
        "share_att_key": true,
        "pos_att_type": "p2c|c2p",
        "position_biased_input": false,
        "pooler_dropout": 0,
        "pooler_hidden_act": "gelu",
        "pad_token_id": 0,
    })
}

fn vit(patch: usize, image: usize) -> Value {
    json!({
        "model_type": "vit",
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "intermediate_size": 3072,
        "image_size": image,
        "patch_size": patch,
        "num_channels": 3,
        "qkv_bias": true,
        "layer_norm_eps": 1e-12,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Architecture, Head};
    use crate::module::{Declaration, Declared, Kind};

    fn declaration(name: &str, head: Head) -> Declaration {
        let (_, declaration) = Architecture::declare(&known(name).unwrap(), head).unwrap();
        declaration
    }

    fn count(modules: &Declaration, chosen: impl Fn(&Declared) -> bool) -> usize {
        let modules = modules.modules().iter();
        modules
            .filter(|module| chosen(module))
            .map(Declared::count)
            .sum()
    }

    /// Counted by the reference implementation from the same configurations.
    #[test]
    fn whole_models_have_the_published_counts() {
        let classes = Head::Classes(2);
        for (name, head, backbone) in [
            ("bert-base", classes, 109_482_240),
            ("minilm", classes, 22_713_216),
            ("roberta-base", classes, 124_055_040),
            ("deberta-v3-base", classes, 183_831_552),
            ("deberta-v3-small", classes, 141_304_320),
            ("deberta-v3-large", classes, 434_012_160),
            ("gpt2", Head::NextToken, 124_439_808),
            ("vit-b-16", classes, 85_798_656),
            ("vit-b-32", classes, 87_528_192),
        ] {
            let modules = declaration(name, head);
            assert_eq!(
                count(&modules, |module| !module.is_head),
                backbone,
                "{name}"
            );
        }
        for name in KNOWN {
            assert!(known(name).is_some(), "{name}");
        }
        let whole = count(&declaration("vit-b-16", Head::Classes(1000)), |_| true);
        assert_eq!(whole, 86_567_656);
    }

    /// Of the paper: DeBERTa-v3-base, adapters on all six linear kinds of a block, and GPT-2's.
    #[test]
    fn adapters_have_the_counts_of_the_paper() {
        let units = |modules: &Declaration, chosen: &dyn Fn(&Declared) -> bool| -> usize {
            let modules = modules.modules().iter().filter(|module| chosen(module));
            modules
                .map(|module| module.inputs() + module.outputs())
                .sum()
        };
        let deberta = declaration("deberta-v3-base", Head::Classes(2));
        let in_blocks =
            |module: &Declared| module.kind == Kind::Linear && module.name.contains(".layer.");
        let unit = units(&deberta, &in_blocks);
        assert_eq!(unit, 165_888);
        assert_eq!((4 * unit, 8 * unit), (663_552, 1_327_104));
        let pooler = count(&deberta, |module| module.name == "pooler.dense");
        let classifier = count(&deberta, |module| module.name == "classifier");
        assert_eq!((pooler, classifier), (590_592, 1_538));
        let head = count(&deberta, |module| module.is_head);
        assert_eq!((4 * unit + head, 8 * unit + head), (1_255_682, 1_919_234));

        let gpt2 = declaration("gpt2", Head::NextToken);
        let conv1d = |module: &Declared| module.kind == Kind::Conv1d;
        assert_eq!(units(&gpt2, &conv1d), 147_456);
        let without_c_fc = |module: &Declared| conv1d(module) && !module.name.ends_with("c_fc");
        assert_eq!(units(&gpt2, &without_c_fc), 101_376);
    }
}
