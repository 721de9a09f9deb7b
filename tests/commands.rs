//! The commands as a user meets them: what they print, write and refuse.

use std::fs;
use std::path::Path;
use std::process::Stdio;

use assert_cmd::Command;
use serde_json::Value;

fn rankwise(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rankwise"));
    command.args(arguments);
    command
}

fn train(out: &Path, method: &str) {
    rankwise(&[
        "train",
        "--quiet",
        "--rank",
        "4",
        "--set",
        "schedule.epochs=11",
        "--method",
        method,
    ])
    .arg("--out")
    .arg(out)
    .assert()
    .success();
}

#[test]
fn a_dumped_configuration_gives_the_same_run() {
    let first = [
        "train",
        "--method",
        "rm-lora",
        "--rank",
        "16",
        "--seed",
        "7",
        "--dump-config",
    ];
    let dumped = rankwise(&first).output().unwrap().stdout;
    let text = String::from_utf8(dumped.clone()).unwrap();
    assert!(
        text.contains("directions = 12") && text.contains("seed = 7"),
        "{text}"
    );
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run.toml");
    fs::write(&path, &dumped).unwrap();
    let again = rankwise(&["train", "--dump-config", "--config"])
        .arg(&path)
        .output()
        .unwrap();
    assert_eq!(again.stdout, dumped);
}

/// The audit of a trained adapter finds what the run recorded: an independent path through file,
/// reader and scale.
#[test]
fn the_audit_of_a_run_agrees_with_its_record() {
    let folder = tempfile::tempdir().unwrap();
    train(folder.path(), "r-lora");
    let run = folder.path().join("r-lora-r4-s0");
    let output = rankwise(&["audit", "--json"])
        .arg(run.join("adapter"))
        .output()
        .unwrap();
    let audit: Value = serde_json::from_slice(&output.stdout).unwrap();
    let module = &audit["adapters"][0]["modules"][0];
    assert_eq!(module["name"], "classifier");
    assert_eq!(module["shape"], serde_json::json!([77, 384]));
    let record: Value =
        serde_json::from_str(&fs::read_to_string(run.join("run.json")).unwrap()).unwrap();
    let (last, side) = (
        &record["last"]["measures"],
        &record["last"]["orthogonality"],
    );
    for (ours, theirs) in [
        (&module["spectral_norm"], &last["spectral_norm"]),
        (&module["effective_rank"], &last["effective_rank"]),
        (&module["energy_rank_99"], &last["energy_rank_99"]),
        (&module["orthogonality_loss"], &side["loss"]),
    ] {
        let (ours, theirs) = (ours.as_f64().unwrap(), theirs.as_f64().unwrap());
        assert!(
            (ours - theirs).abs() <= 1e-12 * theirs.abs(),
            "{ours} {theirs}"
        );
    }
}

#[test]
fn figures_and_tables_start_from_the_runs_alone() {
    let folder = tempfile::tempdir().unwrap();
    let runs = folder.path().join("runs");
    train(&runs, "lora,gm-lora,full");
    let figures = folder.path().join("figures");
    let drawn = rankwise(&["figure", "figure1", "--runs"])
        .arg(&runs)
        .arg("--out")
        .arg(&figures)
        .ok();
    assert!(drawn.is_ok());
    let svg = fs::read_to_string(figures.join("figure1.svg")).unwrap();
    for text in [
        "Test Loss v.s. Epoch",
        "GM-LoRA (R = 4)",
        "LoRA (R = 4)",
        "Full fine-tuning",
    ] {
        assert!(svg.contains(text), "{text}");
    }
    let table = rankwise(&["table", "equal-loss", "--json", "--runs"])
        .arg(&runs)
        .output()
        .unwrap();
    let rows: Value = serde_json::from_slice(&table.stdout).unwrap();
    assert_eq!(rows.as_array().unwrap().len(), 3);
    assert_eq!(rows[0]["method"], "GM-LoRA (R = 4)");
    let table = |name: &str, json: bool| {
        let mut command = rankwise(&["table", name, "--runs"]);
        command.arg(&runs).args(json.then_some("--json"));
        String::from_utf8(command.output().unwrap().stdout).unwrap()
    };
    let rows: Value = serde_json::from_str(&table("equal-accuracy", true)).unwrap();
    assert_eq!(rows.as_array().unwrap().len(), 3);
    let rows = table("against-lora", true);
    assert!(!rows.contains('−'), "{rows}");
    let rows: Value = serde_json::from_str(&rows).unwrap();
    let places: Vec<&str> = rows
        .as_array()
        .unwrap()
        .iter()
        .map(|row| row["read"].as_str().unwrap())
        .collect();
    let expected = [
        "at the end",
        "at equal training loss",
        "at equal training accuracy",
    ];
    assert_eq!(places, expected);
    assert!(table("end", false).contains("Mean ± standard error over n seeds."));
}

/// The folder of another seed is not gone on with, and both are named.
#[test]
fn a_reproduction_is_not_mixed_with_another() {
    let out = tempfile::tempdir().unwrap();
    let settings = out.path().join("settings.toml");
    fs::write(&settings, "version = \"0.0.1\"\nseed = 7\n").unwrap();
    let output = rankwise(&["reproduce", "--quick", "--seed", "1", "--out"])
        .arg(out.path())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        said.contains("with --seed 1, found one of version 0.0.1 with --seed 7"),
        "{said}"
    );
    assert_eq!(fs::read_dir(out.path()).unwrap().count(), 1);
}

#[test]
fn the_theorem_holds_on_a_small_grid() {
    let families = "gaussian,orthogonal,low-rank:2,rank-deficient:3";
    let out = tempfile::tempdir().unwrap();
    let output = rankwise(&[
        "verify", "--width", "6", "--draws", "3", "--json", "--oracle",
    ])
    .args(["--target-layers", "1,2", "--block-layers", "2"])
    .args(["--families", families, "--out"])
    .arg(out.path())
    .output()
    .unwrap();
    assert_eq!(output.status.code(), Some(0));
    for file in [
        "theory.parquet",
        "theory.csv",
        "bounds.svg",
        "bounds.png",
        "ratios.svg",
    ] {
        assert!(
            out.path().join(file).metadata().unwrap().len() > 500,
            "{file}"
        );
    }
    let records: Value = serde_json::from_slice(&output.stdout).unwrap();
    let records = records.as_array().unwrap();
    assert_eq!(records.len(), 2 * 4 * 2 * 3 * 7);
    let exact = |record: &&Value| record["exact"] == true && record["measured"].is_number();
    let worst = records
        .iter()
        .filter(exact)
        .map(|r| r["measured"].as_f64().unwrap());
    assert!(worst.fold(0.0, f64::max) < 1e-8);
}

/// The closed forms: e = D^(1/4)/(2D²), every adapter at least e√D(1 − 2/D), the printed bound
/// D^(1/4) e, the corrected one √D e.
#[test]
fn the_counterexample_is_a_table_of_closed_forms() {
    let output = rankwise(&["verify", "--counterexample"]).output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    let text = String::from_utf8(output.stdout).unwrap();
    let rows: Vec<Vec<&str>> = text
        .lines()
        .skip(1)
        .take(9)
        .map(|line| line.split_whitespace().collect())
        .collect();
    for (power, row) in (2..).zip(&rows) {
        let d = f64::from(1 << power);
        let e = d.powf(0.25) / (2.0 * d * d);
        assert_eq!(row[0], d.to_string());
        assert_eq!(row[2], format!("{:.4e}", e * d.sqrt() * (1.0 - 2.0 / d)));
        assert_eq!(row[4], format!("{:.4e}", d.powf(0.25) * e));
        assert_eq!(row[6], format!("{:.4e}", d.sqrt() * e));
        let verdict = if d < 6.0 {
            "fails here"
        } else {
            "fails for all"
        };
        assert_eq!(row[7..].join(" "), verdict);
    }
}

#[test]
fn a_case_is_answered_in_full_and_its_faults_by_their_place() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("case.json");
    let case = r#"{"id": "by hand", "D": 2, "L_target": 1, "L_frozen": 1, "expected": 1,
        "target_W": [[[2, 0], [0, 1]]], "target_b": [[0, 0]], "frozen_W": [[[0, 0], [0, 0]]],
        "partition": [[1]], "R": [1], "Sigma": [[1, 0], [0, 1]]}"#;
    let verify = |text: &str| {
        fs::write(&file, text).unwrap();
        rankwise(&["verify", "--json", "--oracle", "--case"])
            .arg(&file)
            .output()
            .unwrap()
    };
    let output = verify(case);
    assert_eq!(output.status.code(), Some(0));
    let note = String::from_utf8(output.stderr).unwrap();
    assert!(note.contains("the key expected is not read"), "{note}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["rank_E"], serde_json::json!([2]));
    assert_eq!(report["e"], serde_json::json!([1.0]));
    assert_eq!(report["linear_rms_plain"], 1.0);
    assert_eq!(report["bound_corrected"], 2_f64.sqrt());
    assert!(report["oracle_difference"].as_f64().unwrap() < 1e-14);
    for (good, bad, place) in [
        (
            r#""R": [1]"#,
            r#""R": [3]"#,
            "R[0]: expected a rank from 0 to D = 2, found 3",
        ),
        ("[[1]]", "[[2]]", "partition: order of layers"),
        ("[[1]]", "[[1, 1]]", "partition: order of layers"),
        (
            r#""D": 2"#,
            r#""D": 0"#,
            "D: expected a whole number from 1, found 0",
        ),
        (
            "[[[2, 0], [0, 1]]]",
            "[[[2, 0], [0]]]",
            "target_W[0][1]: expected a list of 2",
        ),
        (
            "[[[2, 0], [0, 1]]]",
            "[[[2, 0], [0, 1e999]]]",
            "expected JSON",
        ),
        (
            "[[1, 0], [0, 1]]}",
            "[[1, 0.5], [0, 1]]}",
            "Sigma: second moment: expected a symm",
        ),
        (
            "[[1, 0], [0, 1]]}",
            "[[1, 0], [0, -1]]}",
            "Sigma: second moment: expected no neg",
        ),
        (r#""by hand""#, "7", "id: expected text, found 7"),
        ("{", "[", "expected JSON"),
    ] {
        assert!(case.contains(good), "{good}");
        let output = verify(&case.replacen(good, bad, 1));
        let message = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{message}");
        assert!(
            message.contains(place) && message.contains("case.json"),
            "{message}"
        );
        assert!(output.stdout.is_empty());
    }
}

/// Full fine-tuning moves the whole layer: more than float32's rounding, at most its 77 rows.
#[test]
fn two_checkpoints_of_a_run_are_compared() {
    let folder = tempfile::tempdir().unwrap();
    let runs = folder.path().join("runs");
    let trained = rankwise(&[
        "train",
        "--method",
        "full",
        "--set",
        "schedule.epochs=2",
        "-q",
    ])
    .arg("--out")
    .arg(&runs)
    .output()
    .unwrap();
    assert!(trained.status.success());
    let compare = |command: &str, tuned: &str| {
        rankwise(&[command, "--json", "--base"])
            .arg(runs.join("full-s0/base"))
            .arg("--tuned")
            .arg(runs.join("full-s0").join(tuned))
            .output()
            .unwrap()
    };
    for command in ["verify", "audit"] {
        let output = compare(command, "tuned");
        assert_eq!(output.status.code(), Some(0));
        let audit: Value = serde_json::from_slice(&output.stdout).unwrap();
        let matrix = &audit["matrices"][0];
        assert_eq!(matrix["shape"], serde_json::json!([77, 384]));
        assert_eq!(matrix["singular_values"].as_array().unwrap().len(), 77);
        assert!(
            matrix["rank_above_noise"].as_u64().unwrap() > 10,
            "{matrix}"
        );
        // The bias is no matrix.
        assert_eq!(audit["unmatched"].as_array().unwrap().len(), 1);
        let same = compare(command, "base");
        let audit: Value = serde_json::from_slice(&same.stdout).unwrap();
        assert_eq!(audit["matrices"][0]["rank_above_noise"], 0);
        let none = compare(command, "none");
        let message = String::from_utf8(none.stderr).unwrap();
        assert_eq!(none.status.code(), Some(2));
        assert!(message.contains("full-s0/none"), "{message}");
    }
}

#[test]
fn transformers_are_exact_from_half_their_width_on() {
    let folder = tempfile::tempdir().unwrap();
    let output = rankwise(&["verify", "--transformer", "--json", "--out"])
        .arg(folder.path())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0));
    let records: Value = serde_json::from_slice(&output.stdout).unwrap();
    for record in records.as_array().unwrap() {
        let exact = record["rank"].as_u64() >= record["threshold"].as_u64();
        let error = record["relative_error"].as_f64().unwrap();
        assert_eq!(record["threshold"].as_u64().unwrap() * 2, record["width"]);
        assert_eq!(error < 1e-6, exact, "{record}");
    }
    for file in ["transformer.json", "transformer.svg", "transformer.png"] {
        assert!(folder.path().join(file).is_file(), "{file}");
    }
}

#[test]
fn bad_input_is_answered_with_exit_code_2_and_a_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (file, foreign, out) = (path("file"), path("foreign"), path("out"));
    fs::write(&file, "not an adapter").unwrap();
    fs::create_dir_all(folder.path().join("foreign/lora-r4-s0")).unwrap();
    fs::write(folder.path().join("foreign/lora-r4-s0/mine.txt"), "mine").unwrap();
    let table = path("table.csv");
    fs::write(&table, "query,category\na,b\n").unwrap();
    let pointer = path("adapter_model.safetensors");
    fs::write(
        &pointer,
        "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
    )
    .unwrap();
    let recipe = path("recipe.toml");
    fs::write(&recipe, "[schedule]\nepoch = 3\n").unwrap();
    let cases: [(&[&str], &[&str]); 13] = [
        (
            &["train", "--rank", "78", "--out", &out],
            &["method.rank", "between 1 and 77", "78"],
        ),
        (
            &["train", "--method", "lorra", "--out", &out],
            &["did you mean \"lora\"?"],
        ),
        (
            &["train", "--config", &recipe, "--out", &out],
            &["recipe.toml", "schedule.epoch", "\"epochs\""],
        ),
        (
            &["train", "--set", "optimizer.beta1=1.5", "--out", &out],
            &["optimizer.beta1", "1.5"],
        ),
        (
            &["train", "--set", "task.features=/none", "--out", &out],
            &["/none", "No such file"],
        ),
        (
            &[
                "train",
                "--set",
                &format!("task.features={file}"),
                "--out",
                &out,
            ],
            &["file", "safetensors"],
        ),
        (
            &["train", "--rank", "4", "--out", &foreign],
            &["lora-r4-s0", "mine.txt", "nothing was changed"],
        ),
        (
            &["train", "--rank", "4", "--out", &file],
            &["file", "create folder failed"],
        ),
        (&["train", "--rank", "4"], &["--out DIR"]),
        (
            &["train", "--device", "gpu", "--out", &out],
            &["cpu or cuda:N"],
        ),
        (
            &[
                "features", "--model", "/none", "--data", &table, "--test", &table, "--out", &out,
            ],
            &["table.csv", "column text", "only query, category"],
        ),
        (&["audit", &pointer], &["git-lfs"]),
        (
            &["figure", "figure1", "--runs", &foreign, "--out", &out],
            &["foreign", "found none"],
        ),
    ];
    for (arguments, parts) in cases {
        let output = rankwise(arguments).output().unwrap();
        let message =
            String::from_utf8(output.stderr).unwrap() + &String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {message}");
        for part in parts {
            assert!(
                message.contains(part),
                "{arguments:?}: {part} is not in: {message}"
            );
        }
    }
    assert_eq!(fs::read_to_string(&file).unwrap(), "not an adapter");
    assert!(!Path::new(&out).join("lora-r78-s0").exists());
}

/// An adapter of a short run, cut to rank 2 and extracted anew from the weights: what is printed is
/// what is written.
#[test]
fn adapters_are_resized_and_extracted() {
    let folder = tempfile::tempdir().unwrap();
    train(folder.path(), "r-lora");
    let adapter = folder.path().join("r-lora-r4-s0/adapter");
    let small = folder.path().join("small");
    let resize = |rule: &[&str], out: &Path| {
        rankwise(&["resize", "--json"])
            .arg(&adapter)
            .args(rule)
            .arg("--out")
            .arg(out)
            .output()
            .unwrap()
    };
    let output = resize(&["--rank-per-module", "{\"classifier\": 2}"], &small);
    assert_eq!(output.status.code(), Some(0));
    let record: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(record["modules"][0]["new_rank"], 2);
    let kept = fs::read_to_string(small.join("resize.json")).unwrap();
    assert_eq!(serde_json::from_str::<Value>(&kept).unwrap(), record);
    let output = rankwise(&["audit", "--json"]).arg(&small).output().unwrap();
    let audit: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(audit["adapters"][0]["modules"][0]["numerical_rank"], 2);

    let none = folder.path().join("none");
    for (rule, part) in [
        (&["--rank", "0"][..], "at least 1"),
        (&["--energy", "1.1"], "at most 1"),
        (&["--rank-per-module", "{\"k\": 2}"], "\"k\""),
        (
            &["--rank-per-module", "{\"k\": 0.5}"],
            "expected a rank, found 0.5",
        ),
        (&["--rank-per-module", "/none.json"], "/none.json"),
        (&["--rank", "1", "--energy", "0.9"], "cannot be used with"),
        (&[], "required"),
    ] {
        let output = resize(rule, &none);
        let message = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{rule:?}: {message}");
        assert!(message.contains(part), "{rule:?}: {message}");
    }
    let taken = resize(&["--rank", "1"], &adapter);
    assert_eq!(taken.status.code(), Some(2));
    assert!(
        String::from_utf8(taken.stderr)
            .unwrap()
            .contains("something in it")
    );

    let runs = folder.path().join("full");
    train(&runs, "full");
    let run = runs.join("full-s0");
    let out = folder.path().join("extracted");
    let extract = |tuned: &str, out: &Path| {
        rankwise(&["extract", "--above-noise", "--base"])
            .arg(run.join("base"))
            .arg("--tuned")
            .arg(run.join(tuned))
            .arg("--out")
            .arg(out)
            .output()
            .unwrap()
    };
    let output = extract("tuned", &out);
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(
        text.contains("classifier") && text.contains("classifier.bias"),
        "{text}"
    );
    assert!(out.join("adapter_model.safetensors").is_file());
    let same = extract("base", &none);
    assert_eq!(same.status.code(), Some(2));
    assert!(!none.exists());
}

/// A run's adapter merged into the run's base: its head with the update in it, in both forms of the
/// record; and what is refused.
#[test]
fn an_adapter_is_merged_into_its_base() {
    let folder = tempfile::tempdir().unwrap();
    train(folder.path(), "lora");
    let run = folder.path().join("lora-r4-s0");
    let out = folder.path().join("merged");
    let merge = |adapter: &Path, extra: &[&str]| {
        rankwise(&["merge", "--base"])
            .arg(run.join("base"))
            .arg("--adapter")
            .arg(adapter)
            .arg("--out")
            .arg(&out)
            .args(extra)
            .output()
            .unwrap()
    };
    let output = merge(&run.join("adapter"), &["--json"]);
    let record: Value = serde_json::from_slice(&output.stdout).unwrap();
    let kept = fs::read_to_string(out.join("merge.json")).unwrap();
    assert_eq!(record, serde_json::from_str::<Value>(&kept).unwrap());
    let open = |path: &Path| rankwise_analysis::Checkpoint::open(path).unwrap();
    let adapter = open(&run.join("adapter/adapter_model.safetensors"));
    let factor = |side: &str| {
        adapter
            .read_f64(&format!("base_model.model.classifier.{side}.weight"))
            .unwrap()
    };
    let (a, b) = (factor("lora_A"), factor("lora_B"));
    let scale = record["tensors"]
        .as_array()
        .unwrap()
        .iter()
        .find_map(|tensor| tensor["scale"].as_f64())
        .unwrap();
    let base = Path::new(record["base"].as_str().unwrap()).to_owned();
    let (before, after) = (open(&base), open(&out));
    let [before, after] = [before, after].map(|c| c.read_f64("classifier.weight").unwrap());
    let columns = a.len() / 4;
    for (at, (before, after)) in before.iter().zip(&after).enumerate() {
        let (i, j) = (at / columns, at % columns);
        let change: f64 = (0..4).map(|r| b[i * 4 + r] * a[r * columns + j]).sum();
        // Rounded once to float32.
        let expected = before + scale * change;
        assert!((after - expected).abs() <= 1e-7 * expected.abs().max(1e-3));
    }
    assert_ne!(before, after);

    let taken = merge(&run.join("adapter"), &[]);
    assert_eq!(taken.status.code(), Some(2));
    fs::remove_dir_all(&out).unwrap();
    let shown = merge(&run.join("adapter"), &["--dtype", "bf16"]);
    let text = String::from_utf8(shown.stdout).unwrap();
    assert!(
        text.contains("classifier.weight") && text.contains("BF16"),
        "{text}"
    );
    fs::remove_dir_all(&out).unwrap();
    let none = merge(&run.join("base"), &[]);
    assert_eq!(none.status.code(), Some(2));
    assert!(!out.exists());
}

#[test]
fn every_command_has_help_with_an_example_and_there_are_completions() {
    for command in [
        "reproduce",
        "verify",
        "train",
        "audit",
        "resize",
        "extract",
        "merge",
        "features",
        "figure",
        "table",
        "bench",
    ] {
        let output = rankwise(&[command, "--help"]).output().unwrap();
        let help = String::from_utf8(output.stdout).unwrap();
        assert!(
            help.contains("Example") && help.contains(&format!("rankwise {command}")),
            "{help}"
        );
    }
    let output = rankwise(&["completions", "bash"]).output().unwrap();
    assert!(
        String::from_utf8(output.stdout)
            .unwrap()
            .contains("reproduce")
    );
}

/// A closed pipe is no error, as for `| head`; a full device is one.
#[test]
fn a_standard_output_that_fails_ends_the_command_without_a_panic() {
    let ended = |arguments: &[&str], stdout: Stdio| {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_rankwise"))
            .args(arguments)
            .stdout(stdout)
            .output()
            .unwrap();
        let message = String::from_utf8(output.stderr).unwrap();
        (output.status.code(), message)
    };
    let full = Path::new("/dev/full");
    for arguments in [
        &["params", "--model", "gpt2"][..],
        &["verify", "--counterexample", "--json"],
        &["completions", "bash"],
    ] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let closed = ended(arguments, writer.into());
        assert_eq!(closed, (Some(0), String::new()), "{arguments:?}");
        if cfg!(unix) && full.exists() {
            let device = fs::OpenOptions::new().write(true).open(full).unwrap();
            let (code, message) = ended(arguments, device.into());
            assert_eq!(code, Some(2), "{arguments:?}: {message}");
            assert_eq!(
                message,
                "error: standard output: write failed: No space left on device (os error 28)\n",
                "{arguments:?}"
            );
        }
    }
}

#[test]
fn a_number_of_classes_that_no_head_has_is_refused() {
    let params = |classes: &str| {
        rankwise(&["params", "--model", "gpt2", "--classes", classes])
            .output()
            .unwrap()
    };
    for classes in [
        "0",
        "1000001",
        "18446744073709551615",
        "18446744073709551616",
    ] {
        let output = params(classes);
        let message = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{classes}: {message}");
        assert!(
            message.contains(classes) && message.contains("--classes"),
            "{message}"
        );
        assert!(output.stdout.is_empty());
    }
    for classes in ["1", "1000000"] {
        assert_eq!(params(classes).status.code(), Some(0), "{classes}");
    }
}
