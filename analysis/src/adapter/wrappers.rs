//! Names within which a trainer's wrappers stand: `_orig_mod` of torch.compile, FSDP's and activation
//! checkpointing's own, and the `module` that DistributedDataParallel puts before everything.

use std::borrow::Cow;

const WRAPPERS: [&str; 3] = [
    "_orig_mod",
    "_fsdp_wrapped_module",
    "_checkpoint_wrapped_module",
];

/// The name that the tensor has without them.
pub(super) fn without(name: &str) -> Cow<'_, str> {
    let whole = name.strip_prefix("module.");
    let name = whole
        .filter(|rest| rest.starts_with("base_model."))
        .unwrap_or(name);
    if !WRAPPERS.iter().any(|wrapper| name.contains(wrapper)) {
        return Cow::Borrowed(name);
    }
    let own = name.split('.').filter(|part| !WRAPPERS.contains(part));
    let name = own.collect::<Vec<_>>().join(".");
    let whole = name.strip_prefix("module.").map(str::to_owned);
    let whole = whole.filter(|rest| rest.starts_with("base_model."));
    Cow::Owned(whole.unwrap_or(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrappers_are_parts_of_names() {
        for (name, own) in [
            (
                "_orig_mod.base_model.model.q.lora_A.weight",
                "base_model.model.q.lora_A.weight",
            ),
            (
                "module.base_model.model.q.lora_A.weight",
                "base_model.model.q.lora_A.weight",
            ),
            ("_orig_mod.module.base_model.q", "base_model.q"),
            (
                "_fsdp_wrapped_module.base_model.model.layers.0._fsdp_wrapped_module._checkpoint_wrapped_module.q",
                "base_model.model.layers.0.q",
            ),
            ("module.q.lora_A.weight", "module.q.lora_A.weight"),
            ("my_orig_mod.q", "my_orig_mod.q"),
        ] {
            assert_eq!(without(name), own);
        }
    }
}
