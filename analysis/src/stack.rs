//! Parameters that hold one matrix, or one vector, for every expert: never one matrix.

/// Why a parameter of this name and shape is no matrix, if it is a stack: more than one matrix in
/// three dimensions that are no convolution's (whose weights are called so), or the experts' biases.
pub(crate) fn stack(name: &str, shape: &[usize]) -> Option<String> {
    let (owner, last) = name.rsplit_once('.').unwrap_or(("", name));
    let is_of_experts = owner.rsplit('.').next() == Some("experts");
    match shape {
        [count, _, _, ..] if *count > 1 && (is_of_experts || last != "weight") => Some(format!(
            "a stack of {count} matrices, as experts are kept, which is not one matrix"
        )),
        [_, _] if is_of_experts && last.ends_with("bias") => {
            Some("the biases of experts: vectors, which have no rank".to_owned())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::stack;

    #[test]
    fn experts_are_told_from_kernels_and_tables() {
        for (name, shape) in [
            ("model.layers.0.mlp.experts.down_proj", &[4, 48, 32][..]),
            ("mlp.experts.weight", &[4, 48, 32]),
            ("mlp.experts.down_proj_bias", &[4, 32]),
        ] {
            assert!(stack(name, shape).is_some(), "{name}");
        }
        for (name, shape) in [
            ("conv1.weight", &[4, 3, 5][..]),
            (
                "embeddings.patch_embeddings.projection.weight",
                &[32, 3, 4, 4],
            ),
            ("embeddings.position_embeddings", &[1, 17, 32]),
            ("mlp.experts.0.down_proj.weight", &[48, 32]),
            ("classifier.bias", &[4]),
        ] {
            assert_eq!(stack(name, shape), None, "{name}");
        }
    }
}
