//! What a command leaves behind: every file is named, quiet commands are quiet, JSON is alone on the
//! standard output.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

fn rankwise(arguments: &[&str], out: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rankwise"));
    let output = command.args(arguments).arg("--out").arg(out).output();
    let output = output.unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {text}");
    output
}

/// Checks that a command names the files that are in `out` afterwards, and no others.
fn check(output: &Output, out: &Path) {
    let text = String::from_utf8(output.stderr.clone()).unwrap();
    let (mut files, mut folders) = (BTreeSet::new(), BTreeSet::new());
    let shown = out.join("").display().to_string();
    for line in text.lines() {
        let rest = line.strip_prefix(&format!("wrote {shown}"));
        let rest = rest.unwrap_or_else(|| panic!("{line}"));
        match rest.split_once("/: ") {
            Some((folder, count)) => {
                let inside = files_below(&out.join(folder));
                let files = if inside == 1 { "file" } else { "files" };
                assert_eq!(count, format!("{inside} {files}"));
                folders.insert(folder.to_owned());
            }
            None => files.extend(rest.trim_start_matches(": ").split(", ").map(str::to_owned)),
        }
    }
    for entry in fs::read_dir(out).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        let named = match entry.path().is_dir() {
            true => folders.remove(&name),
            false => files.remove(&name),
        };
        assert!(named, "{name} is not in: {text}");
    }
    assert!(files.is_empty() && folders.is_empty(), "{text}");
}

fn files_below(folder: &Path) -> usize {
    let entries = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let count = |path: std::path::PathBuf| match path.is_dir() {
        true => files_below(&path),
        false => 1,
    };
    entries.map(count).sum()
}

#[test]
fn every_out_names_what_it_wrote() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let text = |name: &str| at(name).display().to_string();
    let runs = text("runs");
    let train = |methods: &str| {
        let short = ["--rank", "4", "--set", "schedule.epochs=2"];
        let arguments = [&["train", "--method", methods], &short[..]].concat();
        rankwise(&arguments, &at("runs"))
    };
    check(&train("lora,gm-lora,full"), &at("runs"));
    // Finished runs are left as they are.
    let again = String::from_utf8(train("lora").stderr).unwrap();
    assert_eq!(again, format!("nothing new was written to {runs}\n"));

    let adapter = text("runs/lora-r4-s0/adapter");
    let (base, tuned) = (text("runs/full-s0/base"), text("runs/full-s0/tuned"));
    let second = text("runs/gm-lora-r4-s0/adapter");
    let checkpoints = ["--base", &base, "--tuned", &tuned];
    let cases: [(&str, Vec<&str>); 14] = [
        ("audit", vec!["audit", &adapter]),
        ("linked", vec!["audit", &runs, "--metrics", &runs]),
        ("pair", [&["audit"], &checkpoints[..]].concat()),
        ("errors", [&["verify"], &checkpoints[..]].concat()),
        ("resized", vec!["resize", &adapter, "--rank", "2"]),
        (
            "extracted",
            [&["extract", "--above-noise"], &checkpoints[..]].concat(),
        ),
        (
            "merged",
            vec!["merge", "--base", &base, "--adapter", &adapter],
        ),
        ("compared", vec!["compare", &adapter, &second]),
        ("table", vec!["table", "end", "--runs", &runs]),
        ("runs-table", vec!["table", "runs", "--runs", &runs]),
        ("equal", vec!["table", "equal-loss", "--runs", &runs]),
        ("link-table", vec!["table", "link", "--runs", &runs]),
        ("counterexample", vec!["verify", "--counterexample"]),
        (
            "theory",
            vec!["verify", "--widths", "4", "--target-layers", "1"],
        ),
    ];
    for (name, arguments) in &cases {
        check(&rankwise(arguments, &at(name)), &at(name));
        let quiet = [&arguments[..], &["--quiet"]].concat();
        let silent = rankwise(&quiet, &at(&format!("{name}-quiet")));
        assert!(
            silent.stdout.is_empty() && silent.stderr.is_empty(),
            "{name}"
        );
        let json = [&arguments[..], &["--json"]].concat();
        let json = rankwise(&json, &at(&format!("{name}-json")));
        let parsed: Result<Value, _> = serde_json::from_slice(&json.stdout);
        assert!(parsed.is_ok(), "{name}");
        check(&json, &at(&format!("{name}-json")));
    }
    // A figure's files are its output.
    let figure = rankwise(&["figure", "figure1", "--runs", &runs], &at("figures"));
    let named: BTreeSet<String> = String::from_utf8(figure.stdout)
        .unwrap()
        .lines()
        .map(str::to_owned)
        .collect();
    let there: BTreeSet<String> = ["figures/figure1.svg", "figures/figure1.png"]
        .map(text)
        .into();
    assert_eq!(named, there);
    assert!(figure.stderr.is_empty());
}

/// A peer that only says what it would have measured.
#[cfg(unix)]
#[test]
fn bench_prints_json_or_nothing_if_asked_for() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let peer = folder.path().join("python");
    let answer = r#"{"numpy": "2", "torch": null, "seconds": [{"values": 0.5, "thin": 0.25}]}"#;
    fs::write(&peer, format!("#!/bin/sh\necho '{answer}'\n")).unwrap();
    fs::set_permissions(&peer, fs::Permissions::from_mode(0o755)).unwrap();
    let out = folder.path().join("out");
    let bench = |how: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rankwise"));
        command.args(["bench", "spectra", "--sizes", "16", "--repeats", "1"]);
        command.args(how).env("RANKWISE_PYTHON", &peer);
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(0));
        output
    };
    let out_text = out.to_str().unwrap();
    let json = bench(&["--json", "--out", out_text]);
    check(&json, &out);
    let report: Value = serde_json::from_slice(&json.stdout).unwrap();
    let kept = fs::read_to_string(out.join("spectra.json")).unwrap();
    assert_eq!(report, serde_json::from_str::<Value>(&kept).unwrap());
    assert_eq!(report["records"][0]["numpy_f64"], 0.5);
    assert_eq!(report["records"][1]["decomposition"], "thin");
    assert!(report["records"][1]["rankwise_f64"].as_f64().unwrap() > 0.0);
    assert!(bench(&["--quiet"]).stdout.is_empty());
    let shown = String::from_utf8(bench(&[]).stdout).unwrap();
    assert!(
        shown.contains("singular values") && shown.contains("500.00"),
        "{shown}"
    );
}
