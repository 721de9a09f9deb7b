use super::record::ModuleAudit;

impl ModuleAudit {
    /// What the module does in its block: its name without the numbers, so that the same matrix has
    /// the same role in every block.
    ///
    /// Numbers are segments between dots; in a name without dots (of kohya's layout), between
    /// underscores.
    pub fn role(&self) -> String {
        role(&self.name)
    }
}

/// A name without its numbers: see [`ModuleAudit::role`].
///
/// ```
/// use rankwise_analysis::role;
/// assert_eq!(role("model.layers.10.self_attn.q_proj"), "model.layers.self_attn.q_proj");
/// ```
pub fn role(name: &str) -> String {
    let separator = if name.contains('.') { "." } else { "_" };
    let is_number =
        |part: &&str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let parts: Vec<&str> = name
        .split(separator)
        .filter(|part| !is_number(part))
        .collect();
    if parts.is_empty() {
        return name.to_owned();
    }
    parts.join(separator)
}

#[cfg(test)]
mod tests {
    use super::role;

    #[test]
    fn a_role_is_the_name_without_numbers() {
        for (name, expected) in [
            (
                "model.layers.10.self_attn.q_proj",
                "model.layers.self_attn.q_proj",
            ),
            ("decoder.block.3.layer.0.q", "decoder.block.layer.q"),
            ("down_blocks_0_attn1_to_q", "down_blocks_attn1_to_q"),
            ("layers.0.proj_1", "layers.proj_1"),
            ("classifier", "classifier"),
            ("0", "0"),
            ("", ""),
        ] {
            assert_eq!(role(name), expected);
        }
    }
}
