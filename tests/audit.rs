//! `rankwise audit` as a user meets it: what it writes, joins, refuses and exits with.

use std::fs;
use std::path::{Path, PathBuf};

use assert_cmd::Command;
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
