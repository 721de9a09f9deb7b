//! The language of rules: its grammar, its errors, and what rules say of audits known in closed form.

mod support;

use proptest::prelude::*;
use rankwise_analysis::{Audit, AuditOptions, Error, Rule, Violation, audit};
use serde_json::json;
use tempfile::TempDir;

/// An adapter whose modules have these singular values, in 6 × 5 with R = 4, and scale 1.
fn adapter(modules: &[(&str, [f32; 4])]) -> TempDir {
    let names: Vec<(String, String)> = modules
        .iter()
        .map(|(name, _)| {
            let key = |factor: &str| format!("base_model.model.{name}.lora_{factor}.weight");
            (key("A"), key("B"))
        })
        .collect();
    let mut tensors = Vec::new();
    for ((a, b), (_, sigma)) in names.iter().zip(modules) {
        let (mut down, mut up) = ([0.0; 20], [0.0; 24]);
        for i in 0..4 {
            down[5 * i + i] = 1.0;
            up[4 * i + i] = sigma[i];
        }
        tensors.extend(support::tensor(a, &[4, 5], &down));
        tensors.extend(support::tensor(b, &[6, 4], &up));
    }
    support::folder(&tensors, Some(json!({"r": 4, "lora_alpha": 4})))
}

/// Effective ranks 4 (flat), 1, 2 and missing; energy ranks 4, 1, 2 and 0.
fn four() -> Audit {
    let folder = adapter(&[
        ("layers.0.q_proj", [2.0; 4]),
        ("layers.0.v_proj", [3.0, 0.0, 0.0, 0.0]),
        ("layers.1.q_proj", [1.0, 1.0, 0.0, 0.0]),
        ("layers.1.v_proj", [0.0; 4]),
    ]);
    audit(folder.path(), &AuditOptions::default()).unwrap()
}

fn rule(text: &str) -> Rule {
    Rule::parse(text).unwrap_or_else(|error| panic!("{error}"))
}

fn check(text: &str, audit: &Audit) -> Vec<Violation> {
    rule(text).check(audit)
}

#[test]
fn rules_in_closed_form() {
    let audit = four();
    for (text, fails) in [
        // A condition on modules means any of them.
        ("effective_rank < 1.5", true),
        ("any(effective_rank < 1.5)", true),
        ("effective_rank < 0.9", false),
        ("all(effective_rank < 5)", true),
        ("all(effective_rank < 3)", false),
        // Of one and the same module.
        ("effective_rank < 1.5 and spectral_norm == 3", true),
        ("effective_rank < 1.5 and spectral_norm == 2", false),
        (
            "any(effective_rank < 1.5) and any(spectral_norm == 2)",
            true,
        ),
        // Functions pass over what is missing: three effective ranks, four energy ranks.
        ("count(effective_rank > 0) == 3", true),
        ("share(effective_rank > 3.5) == 1 / 3", true),
        ("share(energy_rank_99 > 3) == 0.25", true),
        ("median(energy_rank_99) == 1.5", true),
        ("mean(energy_rank_99) == 7 / 4", true),
        (
            "sum(energy_rank_99) == 7 and min(energy_rank_99) == 0",
            true,
        ),
        ("min(numerical_rank / rank_budget) < 0.5", true),
        ("max(numerical_rank / rank_budget) > 1", false),
        ("sum(energy_rank_99) == modules + 3", true),
        // Zero updates: missing ratios are neither small nor large, zero ranks are small.
        ("name == \"layers.1.v_proj\" and effective_rank < 2", false),
        (
            "name == \"layers.1.v_proj\" and not effective_rank >= 2",
            false,
        ),
        ("name == \"layers.1.v_proj\" and numerical_rank < 2", true),
        ("zero_update", true),
        ("count(zero_update) > 1", false),
        ("count(zero_update) == 1", true),
        ("zero_update and name ~ \"q_proj\"", false),
        // Kleene's logic.
        ("zero_update and (effective_rank < 2 or layer == 1)", true),
        ("zero_update and (effective_rank < 2 or layer == 0)", false),
        (
            "zero_update and not (effective_rank < 2 and layer == 0)",
            true,
        ),
        // Missing and infinite results.
        ("spectral_norm / 0 > 1", false),
        ("not spectral_norm / 0 > 1", false),
        ("1e308 * 10 > 1", false),
        ("min(effective_rank / 0) < 1", false),
        // Texts.
        ("name ~ \"q_proj\"", true),
        ("all(name ~ \"_proj\")", true),
        ("name !~ \"_proj\"", false),
        ("kind == \"linear\"", true),
        ("kind != 'linear'", false),
        ("format == \"peft\" and role == \"layers.v_proj\"", true),
        ("base_model ~ \"llama\" or base_model !~ \"llama\"", false),
        // Precedence.
        ("1 + 2 * 3 == 7", true),
        ("(1 + 2) * 3 == 9", true),
        ("8 / 4 / 2 == 1", true),
        ("8 - 4 - 2 == 2", true),
        ("-2 * -3 == 6", true),
        ("2 - -1 == 3", true),
        ("1 == 1 or 1 == 1 and 1 == 2", true),
        ("(1 == 1 or 1 == 1) and 1 == 2", false),
        ("not 1 == 2 and 1 == 1", true),
        ("not (1 == 1 or 1 == 2)", false),
        ("1.5e1 == 15 and .5 == 5e-1", true),
        // Functions within functions: q of layer 0 is above the mean 7/3, v below half of it.
        ("count(effective_rank > mean(effective_rank)) == 1", true),
        ("any(effective_rank < mean(effective_rank) / 2)", true),
        // A zero update is wrong; one of four directions holding 99 % of the energy is a note.
        ("wrong", true),
        ("count(wrong) == 1 and count(note) > 1", true),
        ("wrong and name ~ \"q_proj\"", false),
        ("wrong and not zero_update", false),
        (
            "count(suspicious) >= count(wrong) and count(note) >= count(suspicious)",
            true,
        ),
        ("share(note) <= 1 and not all(note)", true),
        ("adapters == 1 and refused == 0 and not_adapters == 0", true),
        ("refused > 0", false),
        ("findings > 0", true),
    ] {
        assert_eq!(!check(text, &audit).is_empty(), fails, "{text}");
    }
}

#[test]
fn violations_say_where_and_by_how_much() {
    let audit = four();
    let path = &audit.adapters[0].path;
    let violations = check("effective_rank < median(effective_rank) - 0.5", &audit);
    let [violation] = &violations[..] else {
        panic!("{violations:?}")
    };
    assert_eq!(violation.adapter.as_ref(), Some(path));
    let median = ("median(effective_rank)".to_owned(), Some(2.0));
    assert!(violation.values[0].0 == median.0);
    assert!((violation.values[0].1.unwrap() - 2.0).abs() < 1e-12);
    assert_eq!(violation.modules.len(), 1);
    assert_eq!(violation.modules[0].name, "layers.0.v_proj");
    assert_eq!(violation.modules[0].values[0].0, "effective_rank");
    let text = violation.to_string();
    let expected = format!(
        "rule \"effective_rank < median(effective_rank) - 0.5\" fails in {path}: \
         median(effective_rank) = 2"
    );
    assert!(text.starts_with(&expected), "{text}");
    assert!(
        text.contains("; in layers.0.v_proj (effective_rank = 1"),
        "{text}"
    );

    let counted = check("count(zero_update) >= 1", &audit);
    assert_eq!(
        counted[0].values,
        [("count(zero_update)".to_owned(), Some(1.0))]
    );
    assert_eq!(counted[0].modules[0].name, "layers.1.v_proj");
    // A severity is told with what was found.
    let text = check("wrong", &audit)[0].to_string();
    assert_eq!(
        text,
        format!("rule \"wrong\" fails in {path}; in layers.1.v_proj (zero_update)")
    );
    // The reason for a refusal of everything is of the audit, not of an adapter.
    let nothing = Audit {
        adapters: Vec::new(),
        ..audit
    };
    assert_eq!(check("adapters == 0", &nothing)[0].adapter, None);
    assert_eq!(
        check("adapters == 0 or effective_rank < 2", &nothing).len(),
        1
    );
    assert!(check("effective_rank < 2", &nothing).is_empty());
    assert!(check("min(effective_rank) < 2", &nothing).is_empty());
}

#[test]
fn every_adapter_is_judged_for_itself() {
    let (good, bad) = (four(), adapter(&[("q", [1.0, 0.0, 0.0, 0.0])]));
    let mut both = audit(bad.path(), &AuditOptions::default()).unwrap();
    both.adapters.extend(good.adapters);
    let violations = check("max(effective_rank) < 2", &both);
    assert_eq!(violations.len(), 1);
    assert_eq!(violations[0].adapter.as_ref(), Some(&both.adapters[0].path));
    assert_eq!(check("effective_rank < 2", &both).len(), 2);
    assert_eq!(check("adapters > 1", &both).len(), 1);
}

#[test]
fn errors_say_what_where_and_what_was_meant() {
    for (text, position, message) in [
        ("", 1, "expected a number, a name or (, found the end"),
        ("effective_rnk < 2", 1, "perhaps effective_rank or"),
        ("1 < 2 and zero_updat", 11, "perhaps zero_update"),
        ("medan(stable_rank) < 2", 1, "perhaps median"),
        (
            "xyzzy",
            1,
            "expected the name of a quantity, a finding or a function",
        ),
        (
            "effective_rank",
            1,
            "expected a condition, found the number effective_rank",
        ),
        (
            "1 + zero_update > 2",
            5,
            "expected a number, found the condition zero_update",
        ),
        ("not 3", 5, "expected a condition, found the number 3"),
        ("1 < 2 < 3", 7, "comparisons do not chain"),
        ("stable_rank = 2", 13, "expected == to compare, found \"=\""),
        (
            "zero_update && refused > 0",
            13,
            "expected and, found \"&&\"",
        ),
        ("!zero_update", 1, "expected not, != or !~"),
        (
            "count(zero_update, non_finite) > 1",
            18,
            "functions have one argument",
        ),
        (
            "any(refused > 0)",
            5,
            "expected something that depends on the module, found refused > 0",
        ),
        ("min(modules) > 0", 5, "depends on the module"),
        (
            "min(zero_update) > 0",
            5,
            "expected a number, found the condition",
        ),
        (
            "any(effective_rank)",
            5,
            "expected a condition, found the number",
        ),
        ("any effective_rank < 2", 5, "expected ( after a function"),
        (
            "(effective_rank < 2",
            20,
            "expected an operator or ), found the end",
        ),
        (
            "effective_rank < 2)",
            19,
            "expected an operator or the end, found \")\"",
        ),
        (
            "effective_rank < 2 3",
            20,
            "expected an operator or the end, found 3",
        ),
        ("name", 1, "found the end"),
        ("name < \"q\"", 6, "expected ==, !=, ~ or !~ after name"),
        (
            "name ~ q_proj",
            8,
            "expected a string between quotes, found \"q_proj\"",
        ),
        (
            "\"q\" == name",
            1,
            "expected the text's name before the string",
        ),
        (
            "stable_rank ~ \"q\"",
            1,
            "expected a text such as name or kind",
        ),
        ("kind == \"linaer\"", 9, "perhaps linear"),
        ("name ~ \"q", 10, "expected \" at the end of the string"),
        ("name ~ \"\\q\"", 10, "expected a quote or a backslash"),
        ("stable_rank < 1e999", 15, "expected a finite number"),
        ("stable_rank < .", 15, "expected a finite number"),
        // Positions count characters, not bytes.
        (
            "name ~ \"σσ\" and σ > 1",
            17,
            "expected a number, a string, a name or an operator",
        ),
    ] {
        match Rule::parse(text) {
            Err(
                error @ Error::Rule {
                    position: found, ..
                },
            ) => {
                let error = error.to_string();
                // The end of a text alone is where its operator is missing.
                let position = if text == "name" { 5 } else { position };
                assert_eq!(found, position, "{text}: {error}");
                assert!(error.contains(message), "{text}: {error}");
            }
            other => panic!("{text}: {other:?}"),
        }
    }
}

#[test]
fn nesting_is_bounded_and_length_is_not() {
    let nested = |n: usize| format!("{}1 < 2{}", "(".repeat(n), ")".repeat(n));
    assert!(Rule::parse(&nested(64)).is_ok());
    for text in [
        nested(65),
        nested(100_000),
        format!("{}1 < 2", "not ".repeat(100_000)),
        format!("{}1 < 2", "-".repeat(100_000)),
        "any(".repeat(100_000),
    ] {
        let error = Rule::parse(&text).unwrap_err();
        let Error::Rule { expected, .. } = &error else {
            panic!("{error}")
        };
        assert_eq!(expected, "at most 64 levels of nesting");
    }
    let long = rule(&vec!["1 + 1 * 2 > 4"; 20_000].join(" or "));
    assert!(long.check(&four()).is_empty());
    assert_eq!(rule(&long.to_string()), long);
}

#[test]
fn rules_are_written_without_needless_parentheses() {
    for (text, written) in [
        ("((effective_rank)<(2))", "effective_rank < 2"),
        ("(1<2 and 3<4)or(5<6)", "1 < 2 and 3 < 4 or 5 < 6"),
        ("1<2 and (3<4 or 5<6)", "1 < 2 and (3 < 4 or 5 < 6)"),
        ("not (not (zero_update))", "not not zero_update"),
        ("not (1<2 and 3<4)", "not (1 < 2 and 3 < 4)"),
        ("1-(2-3)<(4*5)/6", "1 - (2 - 3) < 4 * 5 / 6"),
        ("-(1+2)< - -3", "-(1 + 2) < --3"),
        ("name~'a\"b\\\\c'", "name ~ \"a\\\"b\\\\c\""),
        ("1e300 > 1e-9", "1e300 > 1e-9"),
    ] {
        // The product of a product keeps its parentheses: the tree has them.
        let expected = written.replace("4 * 5 / 6", "(4 * 5) / 6");
        let expected = if text.contains("(4*5)") {
            expected
        } else {
            written.to_owned()
        };
        assert_eq!(rule(text).to_string(), expected);
    }
}

/// Texts of rules: conditions and numbers that depend on the module, with and without parentheses.
fn rules() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("effective_rank".to_owned()),
        Just("rank_budget".to_owned()),
        Just("layer".to_owned()),
        Just("findings".to_owned()),
        Just("refused".to_owned()),
        Just("not_adapters".to_owned()),
        (0.0..1e20_f64).prop_map(|value| format!("{value:?}")),
        (0_u32..100).prop_map(|value| value.to_string()),
    ];
    let number = leaf.prop_recursive(3, 16, 2, |inner| {
        prop_oneof![
            (inner.clone(), "[-+*/]", inner.clone()).prop_map(|(x, op, y)| format!("{x} {op} {y}")),
            (inner.clone(), "[-+*/]", inner.clone())
                .prop_map(|(x, op, y)| format!("({x}){op}({y})")),
            inner.clone().prop_map(|x| format!("-{x}")),
            inner.clone().prop_map(|x| format!("-({x})")),
            ("min|max|mean|median|sum", inner).prop_map(|(f, x)| format!("{f}(tau + ({x}))")),
        ]
    });
    let comparison = (number.clone(), "<|<=|>|>=|==|!=", number);
    let leaf = prop_oneof![
        comparison.prop_map(|(x, op, y)| format!("{x} {op} {y}")),
        Just("zero_update".to_owned()),
        Just("suspicious".to_owned()),
        "[ -~]{0,6}".prop_map(|text| {
            format!(
                "name ~ \"{}\"",
                text.replace('\\', "\\\\").replace('"', "\\\"")
            )
        }),
    ];
    leaf.prop_recursive(4, 24, 2, |inner| {
        prop_oneof![
            (inner.clone(), "and|or", inner.clone()).prop_map(|(x, op, y)| format!("{x} {op} {y}")),
            (inner.clone(), "and|or", inner.clone())
                .prop_map(|(x, op, y)| format!("({x}) {op} ({y})")),
            inner.clone().prop_map(|x| format!("not ({x})")),
            inner.clone().prop_map(|x| format!("not {x}")),
            ("any|all", inner.clone()).prop_map(|(f, x)| format!("{f}(zero_update or ({x}))")),
            ("count|share", inner).prop_map(|(f, x)| format!("{f}(zero_update or ({x})) > 0.5")),
        ]
    })
}

proptest! {
    #[test]
    fn what_is_written_is_read_again(text in rules()) {
        let first = rule(&text);
        let written = first.to_string();
        prop_assert_eq!(&rule(&written), &first, "{}", written);
        prop_assert_eq!(rule(&written).to_string(), written);
    }

    #[test]
    fn anything_can_be_given_to_the_parser(text in any::<String>()) {
        let _ = Rule::parse(&text);
    }

    /// Made of the language's own pieces, so that it gets further than the first character.
    #[test]
    fn no_order_of_words_is_too_much(
        words in proptest::collection::vec(
            prop_oneof![
                Just("effective_rank"), Just("zero_update"), Just("name"), Just("any"), Just("min"),
                Just("("), Just(")"), Just("not"), Just("and"), Just("or"), Just("<"), Just("=="),
                Just("~"), Just("-"), Just("+"), Just("/"), Just("2"), Just("\"q\""), Just("σ"),
            ],
            0..24,
        )
    ) {
        if let Ok(rule) = Rule::parse(&words.join(" ")) {
            prop_assert_eq!(Rule::parse(&rule.to_string()).unwrap(), rule);
        }
    }

    /// The two ways to say that a measure is not small differ only where it is missing.
    #[test]
    fn negation_keeps_missing_missing(threshold in 0.5_f64..5.0) {
        let audit = four();
        let count = |text: String| check(&text, &audit).first().map_or(0, |v| v.modules.len());
        let below = count(format!("effective_rank < {threshold}"));
        let above = count(format!("not effective_rank < {threshold}"));
        prop_assert_eq!(below + above, 3);
    }
}
