//! What a user is told before anything runs: options, formats, completions, near names.

use std::fs;
use std::process::{Command, Output};

use serde_json::Value;

fn rankwise(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rankwise"));
    command.args(arguments).output().unwrap()
}

fn help(command: &[&str]) -> String {
    let output = rankwise(&[command, &["--help"]].concat());
    assert_eq!(output.status.code(), Some(0));
    String::from_utf8(output.stdout).unwrap()
}

fn message(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// Every command with those of `--out --seed --threads --json --quiet` that it obeys.
const OFFERS: [(&[&str], &str); 18] = [
    (&["features"], "out threads json quiet"),
    (&["train"], "out seed threads json quiet"),
    (&["params"], "threads json quiet"),
    (&["reproduce"], "out seed threads json quiet"),
    (&["verify"], "out seed threads json quiet"),
    (&["audit"], "out seed threads json quiet"),
    (&["resize"], "out threads json quiet"),
    (&["extract"], "out threads json quiet"),
    (&["merge"], "out threads json quiet"),
    (&["compare"], "out threads json quiet"),
    (&["figure"], "out threads quiet"),
    (&["table"], "out seed threads json quiet"),
    (&["bench", "spectra"], "out seed threads json quiet"),
    (&["bench", "theorem"], "out seed threads json quiet"),
    (&["bench", "train"], "out threads json quiet"),
    (&["bench", "device"], "out threads json quiet"),
    (&["bench"], ""),
    (&["completions"], ""),
];

#[test]
fn a_command_offers_what_it_obeys_and_refuses_the_rest() {
    for (command, offers) in OFFERS {
        let text = help(command);
        let offers: Vec<&str> = offers.split(' ').collect();
        for option in ["out", "seed", "threads", "json", "quiet"] {
            let flag = format!("--{option}");
            let is_offered = text.lines().any(|line| {
                line.trim_start()
                    .trim_start_matches("-q, ")
                    .starts_with(&flag)
                    && !line.trim_start().starts_with("--seeds")
            });
            assert_eq!(is_offered, offers.contains(&option), "{command:?} {flag}");
            if !is_offered && !command.contains(&"bench") {
                let value: &[&str] = match option {
                    "json" | "quiet" => &[],
                    _ => &["1"],
                };
                let output = rankwise(&[command, &[&flag], value].concat());
                let refusal = message(&output);
                assert_eq!(output.status.code(), Some(2), "{command:?} {flag}");
                assert!(refusal.contains("unexpected argument"), "{refusal}");
                assert!(refusal.contains(&flag), "{refusal}");
            }
        }
    }
    // Every command of the help is in the list.
    let all = help(&[]);
    let all = all.split("Commands:").nth(1).unwrap();
    let all = all.split("Options:").next().unwrap();
    let names = all
        .lines()
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    for name in names.filter_map(|line| line.split_whitespace().next()) {
        let is_listed = OFFERS.iter().any(|(command, _)| command[0] == name);
        assert!(is_listed || name == "help", "{name}");
    }
}

/// Options that would do nothing beside the others.
#[test]
fn options_that_have_no_effect_together_are_refused() {
    for arguments in [
        &["verify", "--counterexample", "--seed", "1"][..],
        &["verify", "--counterexample", "--widths", "8"],
        &["verify", "--transformer", "--oracle"],
        &["verify", "--random", "3", "--draws", "2"],
        &["audit", "adapter", "--seed", "1"],
        &["table", "end", "--runs", "runs", "--seed", "1"],
        &["table", "runs", "--runs", "runs", "--peer", "file"],
        &[
            "figure", "curves", "--runs", "runs", "--out", "o", "--peer", "file",
        ],
        &["bench", "theorem", "--sizes", "4"],
    ] {
        let output = rankwise(arguments);
        let refusal = message(&output);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {refusal}");
        let named = arguments
            .iter()
            .filter(|argument| argument.starts_with("--"));
        let is_named = named.clone().any(|argument| refusal.contains(argument));
        assert!(is_named, "{arguments:?}: {refusal}");
    }
}

/// The file in the help is read as it stands; E = [[−2, −1], [1, −2]] has σ = (√5, √5), and the budget
/// of one direction leaves the second.
#[test]
fn the_example_of_a_case_in_the_help_runs() {
    let text = help(&["verify"]);
    let start = text.find("\n{").unwrap();
    let end = text[start..].find("\n}").unwrap() + start + 2;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("case.json");
    fs::write(&file, &text[start..end]).unwrap();
    let output = rankwise(&["verify", "--case", file.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(0), "{}", message(&output));
    assert!(output.stderr.is_empty());
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["rank_E"], serde_json::json!([2]));
    let e = report["e"][0].as_f64().unwrap();
    assert!((e - 5_f64.sqrt()).abs() < 1e-14, "{e}");
    assert_eq!(report["exact_with_given_R"], false);
    // Every key of it is explained, and every key that is explained is in it or optional.
    let case: Value = serde_json::from_str(&text[start..end]).unwrap();
    let explained = &text[end..];
    for key in case.as_object().unwrap().keys() {
        let is_explained = explained
            .lines()
            .any(|line| line.starts_with("  ") && line.contains(key.as_str()));
        assert!(is_explained, "{key}");
    }
}

#[test]
fn completions_offer_names_and_nothing_hidden() {
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let output = rankwise(&["completions", shell]);
        assert_eq!(output.status.code(), Some(0), "{shell}");
        let script = String::from_utf8(output.stdout).unwrap();
        assert!(!script.contains("read-table"), "{shell}");
        assert!(script.contains("reproduce"), "{shell}");
        // Elvish and PowerShell complete names of options only.
        if matches!(shell, "bash" | "zsh" | "fish") {
            for value in [
                "rm-lora",
                "cifar100",
                "deberta-v3-small",
                "cuda:0",
                "second-moment",
            ] {
                let escaped = value.replace(':', "\\:");
                let is_there = script.contains(value) || script.contains(&escaped);
                assert!(is_there, "{shell}: {value}");
            }
        }
    }
    let bash = rankwise(&["completions", "bash"]).stdout;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("rankwise.bash");
    fs::write(&file, bash).unwrap();
    // As bash asks: all words, the unfinished one and the one before it.
    let completed = |words: &str| {
        let all: Vec<&str> = words.split(' ').collect();
        let (last, before) = (all.len() - 1, all[all.len() - 2]);
        let script = format!(
            "source {}; COMP_WORDS=({words}); COMP_CWORD={last}; _rankwise rankwise {} {before}; \
             printf '%s\\n' \"${{COMPREPLY[@]}}\"",
            file.display(),
            all[last]
        );
        let output = Command::new("bash").args(["-c", &script]).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    if Command::new("bash").arg("--version").output().is_ok() {
        assert_eq!(
            completed("rankwise train --task cif"),
            ["cifar10", "cifar100"]
        );
        assert_eq!(completed("rankwise train --method rm"), ["rm-lora"]);
        assert_eq!(completed("rankwise params --model gp"), ["gpt2"]);
        assert_eq!(completed("rankwise bench sp"), ["spectra"]);
        assert_eq!(completed("rankwise figure cur"), ["curves"]);
    }
}

#[test]
fn what_is_misspelt_is_answered_once_with_what_is_near() {
    let none = rankwise(&[]);
    assert_eq!(none.status.code(), Some(2));
    assert!(message(&none).contains("Commands:"));
    for (arguments, near) in [
        (&["adit"][..], "'audit'"),
        (&["bench", "spectrum"], "'spectra'"),
        (
            &["figure", "curvs", "--runs", "r", "--out", "o"],
            "'curves'",
        ),
        (&["table", "equal", "--runs", "r"], "equal-loss"),
        (&["audit", "x", "--fail_on", "refused"], "'--fail-on'"),
        (&["audit", "x", "--side", "row"], "'rows'"),
        (&["audit", "x", "--fail-on", "zero_updates"], "zero_update"),
        (&["params", "--model", "gtp2"], "\"gpt2\""),
        (
            &["params", "--model", "gpt2", "--method", "lorra"],
            "\"lora\"",
        ),
        (&["verify", "--lift", "bal"], "'ball'"),
        (&["completions", "bsh"], "'bash'"),
    ] {
        let output = rankwise(arguments);
        let text = message(&output);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {text}");
        assert!(text.contains(near), "{arguments:?}: {text}");
        assert_eq!(text.matches("error:").count(), 1, "{arguments:?}: {text}");
        assert!(output.stdout.is_empty(), "{arguments:?}");
    }
}
