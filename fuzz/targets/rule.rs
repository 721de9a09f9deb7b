#![no_main]
//! A rule of `--fail-on`: what is read is written so that the same rule is read again, and holds or
//! breaks for the same adapters.

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use rankwise_analysis::{Audit, AuditOptions, PeftAdapter, Rule, audit};
use rankwise_fuzz::within_bounds;

fuzz_target!(|input: &[u8]| {
    let Ok(text) = std::str::from_utf8(input) else {
        return;
    };
    let audit = example();
    within_bounds(input.to_vec(), |_| {
        let Ok(rule) = Rule::parse(text) else {
            return;
        };
        let written = rule.to_string();
        let again = match Rule::parse(&written) {
            Ok(again) => again,
            Err(error) => panic!("{text:?} is written as {written:?}: {error}"),
        };
        assert_eq!(rule, again, "{text:?} is written as {written:?}");
        assert_eq!(rule.check(audit).len(), again.check(audit).len(), "{text:?}");
    });
});

/// An adapter of one module, and one that is refused.
fn example() -> &'static Audit {
    static EXAMPLE: OnceLock<Audit> = OnceLock::new();
    EXAMPLE.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let adapter = PeftAdapter {
            module: "layers.3.q".to_owned(),
            rank: 2,
            inputs: 3,
            outputs: 2,
            alpha: 4.0,
            a: vec![1.0, 0.0, 0.0, 0.0, 1.0, 0.0],
            b: vec![0.0, 0.0, 2.0, 0.0],
            bias: None,
        };
        adapter.write(&folder.path().join("a")).expect("written");
        std::fs::create_dir(folder.path().join("b")).expect("made");
        std::fs::write(folder.path().join("b/adapter_config.json"), "{}").expect("written");
        audit(folder.path(), &AuditOptions::default()).expect("the folder is there")
    })
}
