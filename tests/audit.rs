//! `rankwise audit` as a user meets it: what it writes, joins, refuses and exits with.

use std::fs;
use std::path::{Path, PathBuf};

use assert_cmd::Command;
use rankwise_analysis::PeftAdapter;
use rankwise_data::Table;
use serde_json::Value;

fn rankwise(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rankwise"));
    command.args(arguments);
    command
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("analysis/tests/fixtures/formats")
        .join(name)
}

fn json(command: &mut Command) -> Value {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn code(command: &mut Command) -> (Option<i32>, String) {
    let output = command.output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    (output.status.code(), text)
}

#[test]
fn what_is_printed_is_written_too_in_every_form() {
    let out = tempfile::tempdir().unwrap();
    let printed = json(
        rankwise(&["audit", "--json", "--out"])
            .arg(out.path())
            .arg(fixture("peft-lora-linear")),
    );
    let kept = fs::read_to_string(out.path().join("audit.json")).unwrap();
    assert_eq!(printed, serde_json::from_str::<Value>(&kept).unwrap());
    let modules = printed["adapters"][0]["modules"].as_array().unwrap();
    let norms: Vec<f64> = modules
        .iter()
        .map(|module| module["spectral_norm"].as_f64().unwrap())
        .collect();
    for name in ["modules.csv", "modules.parquet"] {
        let table = Table::read(&out.path().join(name)).unwrap();
        assert_eq!(table.numbers("spectral_norm").unwrap(), norms, "{name}");
    }
    let page = fs::read_to_string(out.path().join("audit.html")).unwrap();
    assert!(page.contains("layers.0.q_proj") && page.starts_with("<!DOCTYPE html>"));
}

#[test]
fn a_broken_rule_exits_with_three_and_names_the_numbers() {
    let adapter = fixture("peft-lora-linear");
    let with = |rule: &str| code(rankwise(&["audit", "--quiet", "--fail-on", rule]).arg(&adapter));
    let (status, text) = with("max(numerical_rank) > 2");
    assert_eq!(status, Some(3), "{text}");
    assert!(text.contains("max(numerical_rank) = 3"), "{text}");
    assert_eq!(with("max(numerical_rank) > 3").0, Some(0));
    assert_eq!(with("refused > 0 or non_finite").0, Some(0));
    let (status, text) = with("numerical_rnk > 2");
    assert_eq!(status, Some(2));
    assert!(text.contains("numerical_rank"), "{text}");
}

#[test]
fn what_cannot_be_audited_exits_with_two() {
    let folder = tempfile::tempdir().unwrap();
    let pointer = folder.path().join("adapter_model.safetensors");
    fs::write(
        &pointer,
        "version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
    )
    .unwrap();
    let (status, text) = code(rankwise(&["audit", "--quiet"]).arg(folder.path()));
    assert_eq!(status, Some(2));
    assert!(text.contains("git-lfs pointer"), "{text}");
    let (status, text) = code(rankwise(&["audit"]).arg(folder.path().join("nowhere")));
    assert_eq!(status, Some(2));
    assert!(text.contains("nowhere"), "{text}");
    assert_eq!(code(&mut rankwise(&["audit"])).0, Some(2));
    let both = code(rankwise(&["audit", "--tuned", "x", "--base", "y", "z"]).current_dir("/"));
    assert_eq!(both.0, Some(2));
}

#[test]
fn the_base_and_the_initial_adapter_change_the_update() {
    let of = |arguments: &[&str]| {
        let audit = json(rankwise(&["audit", "--json"]).args(arguments));
        let module = &audit["adapters"][0]["modules"][0];
        let number = |name: &str| module[name].as_f64().unwrap();
        (number("spectral_norm"), number("rank_budget"))
    };
    let (trained, initial) = (fixture("peft-pissa"), fixture("peft-pissa/initial"));
    let adapter = trained.join("adapter_model.safetensors");
    let alone = of(&[adapter.to_str().unwrap()]);
    let less = of(&[
        adapter.to_str().unwrap(),
        "--initial",
        initial.to_str().unwrap(),
    ]);
    assert_eq!(less.1, 2.0 * alone.1);
    assert!(less.0 != alone.0);
    let whole = fixture("peft-ia3-base");
    let refused = code(rankwise(&["audit", "--quiet"]).arg(&whole).current_dir("/"));
    assert!(refused.1.contains("--base"), "{}", refused.1);
    let base = whole.join("base.safetensors");
    let file = whole.join("adapter_model.safetensors");
    assert!(of(&[file.to_str().unwrap(), "--base", base.to_str().unwrap()]).0 > 0.0);
}

#[test]
fn an_id_is_looked_up_in_the_hub_cache() {
    let cache = tempfile::tempdir().unwrap();
    let model = cache.path().join("models--me--mine");
    let snapshot = model.join("snapshots/0123abcd");
    fs::create_dir_all(&snapshot).unwrap();
    fs::create_dir_all(model.join("refs")).unwrap();
    fs::write(model.join("refs/main"), "0123abcd\n").unwrap();
    for name in ["adapter_model.safetensors", "adapter_config.json"] {
        fs::copy(fixture("peft-lora-linear").join(name), snapshot.join(name)).unwrap();
    }
    let with = |id: &str| {
        let mut command = rankwise(&["audit", "--json", id]);
        command.env("HF_HUB_CACHE", cache.path()).current_dir("/");
        command
    };
    assert_eq!(
        json(&mut with("me/mine"))["adapters"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    assert_eq!(
        json(&mut with("me/mine@0123abcd"))["refused"],
        Value::Array(Vec::new())
    );
    let (status, text) = code(&mut with("me/mine@v2"));
    assert_eq!(status, Some(2));
    assert!(text.contains("snapshot of revision v2"), "{text}");
    // No way out of the cache.
    assert_eq!(code(&mut with("../mine")).0, Some(2));
    assert_eq!(code(&mut with("me/mine@../../x")).0, Some(2));
}

#[test]
fn ranks_are_joined_with_metrics_and_too_few_adapters_are_called_so() {
    let folder = tempfile::tempdir().unwrap();
    let names = ["dtype-f16", "dtype-f32", "dtype-f64"];
    let mut csv = "adapter,train_accuracy,test_accuracy\n".to_owned();
    for (i, name) in names.iter().enumerate() {
        let target = folder.path().join(name);
        fs::create_dir(&target).unwrap();
        for entry in fs::read_dir(fixture(name)).unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), target.join(entry.file_name())).unwrap();
        }
        csv += &format!("{name},{}, {}\n", 90 + i, 80 - i).replace(' ', "");
    }
    csv += "nobody,1,2\n";
    let metrics = folder.path().join("results.csv");
    fs::write(&metrics, csv).unwrap();
    let out = folder.path().join("out");
    let output = rankwise(&["audit", "--metrics"])
        .arg(&metrics)
        .arg(folder.path())
        .arg("--out")
        .arg(&out)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        text.contains("too few") && text.contains("nobody"),
        "{text}"
    );
    let record: Value =
        serde_json::from_str(&fs::read_to_string(out.join("audit.json")).unwrap()).unwrap();
    let joined = record["link"]["join"]["adapters"].as_array().unwrap();
    assert_eq!(joined.len(), 3);
    // More is worse: what was lost between train and test.
    assert_eq!(joined[2]["metrics"]["gap_accuracy"], 14.0);
    for name in ["link.csv", "link.parquet", "link.svg", "link.png"] {
        assert!(out.join(name).is_file(), "{name}");
    }
}

/// An adapter of one 4 × 4 module and R = 2, with these two singular values.
fn adapter(folder: &Path, sigma: [f32; 2]) {
    PeftAdapter {
        module: "layers.0.q_proj".to_owned(),
        rank: 2,
        inputs: 4,
        outputs: 4,
        alpha: 2.0,
        a: vec![1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0],
        b: vec![sigma[0], 0.0, 0.0, sigma[1], 0.0, 0.0, 0.0, 0.0],
        bias: None,
    }
    .write(folder)
    .unwrap();
}

fn printed(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Six adapters: one with NaN, one that was not trained, one with a scale of 512, three sound ones.
fn six(folder: &Path) {
    for name in ["sound-1", "sound-2", "sound-3"] {
        adapter(&folder.join(name), [2.0, 1.0]);
    }
    adapter(&folder.join("broken"), [f32::NAN, 1.0]);
    adapter(&folder.join("untrained"), [0.0, 0.0]);
    adapter(&folder.join("scaled"), [2.0, 1.0]);
    let config = folder.join("scaled/adapter_config.json");
    let text = fs::read_to_string(&config).unwrap();
    let text = text.replace("\"lora_alpha\": 2.0", "\"lora_alpha\": 1024.0");
    fs::write(config, text).unwrap();
}

#[test]
fn what_is_wrong_is_named_first_and_every_kind_has_one_line() {
    let folder = tempfile::tempdir().unwrap();
    six(folder.path());
    let text = printed(rankwise(&["audit"]).arg(folder.path()));
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(
        lines[0],
        "- wrong: zero_update in 1 module of 1 of 6 adapters: untrained (every module): \
         layers.0.q_proj: the update is zero: the module does nothing"
    );
    assert!(
        lines[1].starts_with(
            "- wrong: non_finite in 1 module of 1 of 6 adapters: broken (every module): \
             layers.0.q_proj: "
        ),
        "{text}"
    );
    let scaled = "- suspicious: unusual_scale in 1 module of 1 of 6 adapters: scaled, \
                  layers.0.q_proj: the scale 5.12e2 is unusual: is alpha right?";
    assert!(lines.contains(&scaled), "{text}");
    // The table, and nothing cut.
    let row = lines
        .iter()
        .find(|line| line.starts_with(" broken "))
        .unwrap();
    assert!(row.ends_with("    1      0      0"), "{row:?}");
    let findings = lines.iter().filter(|line| line.starts_with("- "));
    assert_eq!(findings.filter(|line| line.contains('…')).count(), 0);
    assert!(lines.contains(&"6 adapters; 0 refused"), "{text}");
}

#[test]
fn severities_are_in_every_form_and_in_rules() {
    let folder = tempfile::tempdir().unwrap();
    let adapters = folder.path().join("adapters");
    six(&adapters);
    let out = folder.path().join("out");
    let record = json(
        rankwise(&["audit", "--json", "--out"])
            .arg(&out)
            .arg(&adapters),
    );
    let of = |adapter: &str| {
        let all = record["adapters"].as_array().unwrap();
        let is_own = |one: &&Value| one["path"].as_str().unwrap().ends_with(adapter);
        all.iter().find(is_own).unwrap()["summary"]["severity"].clone()
    };
    assert_eq!(of("broken"), "wrong");
    assert_eq!(of("untrained"), "wrong");
    assert_eq!(of("scaled"), "suspicious");
    assert_eq!(of("sound-1"), Value::Null);
    for name in ["findings.csv", "findings.parquet"] {
        let table = Table::read(&out.join(name)).unwrap();
        let pairs = table.texts("kind").unwrap().into_iter();
        let pairs: Vec<(String, String)> = pairs.zip(table.texts("severity").unwrap()).collect();
        for (kind, severity) in [
            ("non_finite", "wrong"),
            ("zero_update", "wrong"),
            ("unusual_scale", "suspicious"),
        ] {
            let pair = (kind.to_owned(), severity.to_owned());
            assert!(pairs.contains(&pair), "{name}: {pairs:?}");
        }
    }
    let page = fs::read_to_string(out.join("audit.html")).unwrap();
    assert!(page.contains("<span class=\"severity wrong\">wrong</span> non finite"));

    let fails = |rule: &str, name: &str| {
        let (status, text) =
            code(rankwise(&["audit", "--quiet", "--fail-on", rule]).arg(adapters.join(name)));
        match status {
            Some(3) => true,
            Some(0) => false,
            _ => panic!("{text}"),
        }
    };
    for (name, expected) in [
        ("broken", [true, true, true]),
        ("untrained", [true, true, true]),
        ("scaled", [false, true, true]),
        ("sound-1", [false, false, false]),
    ] {
        let found = ["wrong", "suspicious", "note"].map(|rule| fails(rule, name));
        assert_eq!(found, expected, "{name}");
    }
    // What AdaLoRA pruned away was not forgotten: R = 0 in two modules, with a rank in the third.
    let pruned = json(rankwise(&["audit", "--json"]).arg(fixture("peft-adalora-zero-ranks")));
    let kinds = pruned["adapters"][0]["findings"].as_array().unwrap().iter();
    let kinds: Vec<&str> = kinds
        .map(|finding| finding["kind"].as_str().unwrap())
        .collect();
    assert_eq!(
        kinds
            .iter()
            .filter(|kind| **kind == "pruned_module")
            .count(),
        2
    );
    assert!(!kinds.contains(&"zero_update"), "{kinds:?}");
    // Half of the budget or less unused is a note.
    let fixture = fixture("peft-lora-linear");
    let notes = json(rankwise(&["audit", "--json"]).arg(&fixture));
    let findings = notes["adapters"][0]["findings"].as_array().unwrap();
    for finding in findings {
        let is_note = ["unused_budget", "definitions_disagree", "trained_bias"]
            .contains(&finding["kind"].as_str().unwrap());
        assert_eq!(finding["severity"] == "note", is_note, "{finding}");
    }
}

/// A head beside the factors, a model's weights and an optimiser's state are no adapters; a pointer in
/// an adapter's place is one that cannot be read.
#[test]
fn refusals_tell_what_is_no_adapter_from_what_was_not_read() {
    let folder = tempfile::tempdir().unwrap();
    let head = folder.path().join("with-head");
    fs::create_dir(&head).unwrap();
    for name in ["adapter_model.safetensors", "adapter_config.json"] {
        fs::copy(fixture("peft-modules-to-save").join(name), head.join(name)).unwrap();
    }
    let model = folder.path().join("model");
    fs::create_dir(&model).unwrap();
    fs::copy(
        fixture("peft-ia3-base").join("base.safetensors"),
        model.join("model.safetensors"),
    )
    .unwrap();
    for name in ["optimizer.pt", "tokenizer.bin"] {
        fs::write(model.join(name), "no tensors").unwrap();
    }
    let of = |path: &Path| {
        let record = json(rankwise(&["audit", "--json"]).arg(path));
        let refused = record["refused"].as_array().unwrap().iter();
        let class = |one: &Value| {
            let name = one["name"].as_str().unwrap().to_owned();
            (name, one["class"].as_str().unwrap().to_owned())
        };
        let mut refused: Vec<(String, String)> = refused.map(class).collect();
        refused.sort();
        refused
    };
    let refused = of(folder.path());
    assert!(refused.len() > 2, "{refused:?}");
    assert!(
        refused.iter().all(|(_, class)| class == "no_adapter"),
        "{refused:?}"
    );
    let with =
        |rule: &str| code(rankwise(&["audit", "--quiet", "--fail-on", rule]).arg(folder.path())).0;
    assert_eq!(with("refused > 0"), Some(0));
    assert_eq!(with("not_adapters > 0"), Some(3));

    let pointer = folder.path().join("pointer");
    fs::create_dir(&pointer).unwrap();
    fs::write(
        pointer.join("adapter_model.safetensors"),
        "version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
    )
    .unwrap();
    let expected = (
        "adapter_model.safetensors".to_owned(),
        "not_audited".to_owned(),
    );
    assert!(of(folder.path()).contains(&expected));
    assert_eq!(with("refused > 0"), Some(3));
    let text = printed(rankwise(&["audit"]).arg(folder.path()));
    assert!(text.contains(&format!(
        "\n1 adapter; 1 refused, {} are no adapters\n- refused: ",
        refused.len()
    )));
    // Nothing but a model is nothing to audit.
    let (status, text) = code(rankwise(&["audit", "--quiet"]).arg(&model));
    assert_eq!(status, Some(2));
    assert!(
        text.contains("nothing could be audited: 0 refused, 3 are no adapters"),
        "{text}"
    );
}

/// What `train` leaves, by the names of its files.
fn run_folder(run: &Path, has_adapter: bool) {
    fs::create_dir_all(run).unwrap();
    for name in ["config.toml", "run.json"] {
        fs::write(run.join(name), "").unwrap();
    }
    let weights = fixture("peft-ia3-base").join("base.safetensors");
    let part = if has_adapter { "base" } else { "tuned" };
    fs::create_dir(run.join(part)).unwrap();
    fs::copy(weights, run.join(part).join("model.safetensors")).unwrap();
    if has_adapter {
        adapter(&run.join("adapter"), [2.0, 1.0]);
        adapter(&run.join("best/adapter"), [3.0, 1.0]);
    }
}

#[test]
fn of_a_run_one_adapter_is_audited_and_the_rest_is_counted() {
    let folder = tempfile::tempdir().unwrap();
    let runs = folder.path().join("runs");
    run_folder(&runs.join("one"), true);
    run_folder(&runs.join("other"), true);
    run_folder(&runs.join("full"), false);
    // A run that is not finished has the best epoch's so far.
    run_folder(&runs.join("stopped"), true);
    fs::remove_dir_all(runs.join("stopped/adapter")).unwrap();
    fs::remove_file(runs.join("stopped/run.json")).unwrap();
    fs::write(runs.join("stopped/checkpoint.safetensors"), "").unwrap();
    let of = |arguments: &[&str], path: &Path| {
        let record = json(rankwise(&["audit", "--json"]).args(arguments).arg(path));
        assert_eq!(record["refused"], Value::Array(Vec::new()));
        let adapters = record["adapters"].as_array().unwrap().iter();
        let name = |one: &Value| {
            let path = Path::new(one["path"].as_str().unwrap());
            path.strip_prefix(&runs).unwrap().display().to_string()
        };
        let adapters: Vec<String> = adapters.map(name).collect();
        (adapters, record["passed_over"].clone())
    };
    let (adapters, passed_over) = of(&[], &runs);
    assert_eq!(
        adapters,
        ["one/adapter", "other/adapter", "stopped/best/adapter"]
    );
    let parts = passed_over.as_array().unwrap().iter();
    let parts: Vec<(String, String)> = parts
        .map(|part| {
            let path = Path::new(part["path"].as_str().unwrap());
            let path = path.strip_prefix(&runs).unwrap().display().to_string();
            (path, part["what"].as_str().unwrap().to_owned())
        })
        .collect();
    let expected = [
        ("full/tuned", "weights"),
        ("one/base", "weights"),
        ("one/best", "other_epoch"),
        ("other/base", "weights"),
        ("other/best", "other_epoch"),
        ("stopped/checkpoint.safetensors", "state"),
        ("stopped/base", "weights"),
    ];
    assert_eq!(
        parts,
        expected.map(|(path, what)| (path.to_owned(), what.to_owned()))
    );
    let best = [
        "one/best/adapter",
        "other/best/adapter",
        "stopped/best/adapter",
    ];
    assert_eq!(of(&["--best"], &runs).0, best);
    // One that is named is meant.
    assert_eq!(of(&[], &runs.join("one/best")).0, ["one/best/adapter"]);
    let text = printed(rankwise(&["audit"]).arg(&runs));
    assert_eq!(text.matches("/base").count(), 0, "{text}");
    assert!(
        text.contains(
            "Passed over in folders of runs: 2 adapters of another epoch (the last is taken, with \
             --best the best), 4 folders with a model's weights, 1 state of a run that is not finished, such as "
        ),
        "{text}"
    );
    let (status, text) = code(rankwise(&["audit", "--quiet"]).arg(runs.join("full")));
    assert_eq!(status, Some(2));
    assert!(text.contains("1 passed over in folders of runs"), "{text}");
}
