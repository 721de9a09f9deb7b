//! Configurations that are refused, and what is said about them.

use std::path::PathBuf;

use super::known::known;
use super::{Architecture, Head, ModelConfig};
use crate::Error;

/// What is refused, with the key, what is supported and what was found.
#[test]
fn values_that_are_not_supported_are_named() {
    let classes = Head::Classes(2);
    let cases = [
        (
            "gpt2",
            classes,
            "reorder_and_upcast_attn",
            "true",
            "false",
            "true",
        ),
        (
            "gpt2",
            classes,
            "add_cross_attention",
            "true",
            "false",
            "true",
        ),
        (
            "gpt2",
            classes,
            "n_head",
            "7",
            "a divisor of the width 768",
            "7",
        ),
        ("gpt2", classes, "pad_token_id", "-1", "a token's id", "-1"),
        (
            "gpt2",
            Head::NextToken,
            "tie_word_embeddings",
            "false",
            "true",
            "false",
        ),
        (
            "gpt2",
            classes,
            "activation_function",
            "\"mish\"",
            "gelu_new",
            "\"mish\"",
        ),
        (
            "vit-b-16",
            classes,
            "patch_size",
            "[16, 16]",
            "a size",
            "[16,16]",
        ),
        (
            "vit-b-16",
            classes,
            "patch_size",
            "300",
            "image_size 224",
            "300",
        ),
        (
            "vit-b-16",
            Head::Span,
            "model_type",
            "\"vit\"",
            "a model of text",
            "vit",
        ),
        (
            "deberta-v3-base",
            classes,
            "pos_att_type",
            "\"c2p|p2p\"",
            "c2p, p2c",
            "\"p2p\"",
        ),
        (
            "deberta-v3-base",
            classes,
            "norm_rel_ebd",
            "\"batch\"",
            "layer_norm, none",
            "\"batch\"",
        ),
        (
            "deberta-v3-base",
            classes,
            "conv_kernel_size",
            "4",
            "an odd number",
            "4",
        ),
        (
            "deberta-v3-base",
            classes,
            "attention_head_size",
            "32",
            "64",
            "32",
        ),
        (
            "deberta-v3-base",
            classes,
            "position_buckets",
            "1",
            "at least 2",
            "1",
        ),
        (
            "deberta-v3-base",
            Head::NextToken,
            "model_type",
            "\"deberta-v2\"",
            "gpt2",
            "deberta",
        ),
        (
            "bert-base",
            classes,
            "model_type",
            "\"deberta\"",
            "deberta-v2",
            "\"deberta\"",
        ),
        (
            "bert-base",
            classes,
            "num_hidden_layers",
            "100000",
            "at most 1000",
            "100000",
        ),
        ("bert-base", classes, "is_decoder", "true", "false", "true"),
    ];
    for (name, head, key, value, expected, found) in cases {
        let changes = format!("{{\"{key}\": {value}}}");
        let changes = ModelConfig::parse(&changes, PathBuf::from(name)).unwrap();
        let config = known(name).unwrap().with(changes);
        let error = Architecture::declare(&config, head).unwrap_err();
        let Error::Model {
            what,
            expected: said,
            found: named,
            ..
        } = &error
        else {
            panic!("{name}, {key}: {error}");
        };
        assert_eq!(what, &format!("key {key}"));
        assert!(said.contains(expected), "{name}, {key}: {error}");
        assert!(named.contains(found), "{name}, {key}: {error}");
    }
}
