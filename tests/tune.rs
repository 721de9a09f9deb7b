//! `rankwise train --model`: a small BERT with a vocabulary of words, on texts whose label is the
//! word that they have more of.

mod browser;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use browser::opened;
use rankwise_data::Table;
use serde_json::Value;

/// Words of the vocabulary after the five special tokens.
const WORDS: usize = 115;

/// A model's folder and its data's below `folder`.
fn prepare(folder: &Path) -> (PathBuf, PathBuf) {
    let (model, data) = (folder.join("model"), folder.join("data"));
    fs::create_dir_all(&model).unwrap();
    fs::create_dir_all(&data).unwrap();
    let fixture =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("training/tests/fixtures/models/bert-cls");
    for file in ["config.json", "model.safetensors"] {
        fs::copy(fixture.join(file), model.join(file)).unwrap();
    }
    let mut vocabulary = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n".to_owned();
    for word in 0..WORDS {
        writeln!(vocabulary, "w{}", name(word)).unwrap();
    }
    fs::write(model.join("vocab.txt"), vocabulary).unwrap();
    for (file, rows, start) in [("train", 96, 0), ("validation", 48, 1000)] {
        let mut text = "text,label\n".to_owned();
        for row in 0..rows {
            // A row of pseudo-random words, one of which says which class it is.
            let at = |place: usize| ((start + row) * 31 + place * place * 17 + place * 7) % 100;
            let class = row % 3;
            let mut words: Vec<_> = (0..3 + row % 9).map(|place| at(place) + 15).collect();
            let place = row % words.len();
            words[place] = class;
            let words: Vec<_> = words
                .into_iter()
                .map(|word| format!("w{}", name(word)))
                .collect();
            writeln!(text, "{},class {class}", words.join(" ")).unwrap();
        }
        fs::write(data.join(format!("{file}.csv")), text).unwrap();
    }
    (model, data)
}

/// A word of letters, which the tokenizer leaves whole.
fn name(number: usize) -> String {
    let letter = |value: usize| char::from(b'a' + (value % 26) as u8);
    [letter(number / 26), letter(number)].iter().collect()
}

fn train(folder: &Path, out: &Path, extra: &[&str]) -> Command {
    train_model(&folder.join("model"), folder, out, extra)
}

fn train_model(model: &Path, folder: &Path, out: &Path, extra: &[&str]) -> Command {
    let data = folder.join("data");
    let mut command = Command::new(env!("CARGO_BIN_EXE_rankwise"));
    command
        .args([
            "train",
            "--quiet",
            "--set",
            "task.name=text",
            "--set",
            "schedule.epochs=2",
        ])
        .args([
            "--set",
            "optimizer.learning_rate=5e-3",
            "--set",
            "method.rank=4",
        ])
        .args(["--set", "schedule.batch_size=16"])
        .args(["--set", "method.dropout=0.1"])
        .arg("--model")
        .arg(model)
        .arg("--data")
        .arg(data)
        .arg("--out")
        .arg(out)
        .args(extra)
        .stdout(Stdio::null());
    command
}

/// Every file below `folder` by its relative path, less what tells times; of the epochs' table the
/// columns that do not.
fn contents(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            let file = path.file_name().unwrap().to_string_lossy().into_owned();
            let name = path.strip_prefix(folder).unwrap().to_path_buf();
            match file.as_str() {
                // They tell times.
                "run.json" | "runs.html" => {}
                "epochs.parquet" => {
                    files.insert(name, epochs(&path).into_bytes());
                }
                _ if path.is_dir() => folders.push(path),
                _ => {
                    files.insert(name, fs::read(&path).unwrap());
                }
            }
        }
    }
    files
}

fn epochs(path: &Path) -> String {
    let table = Table::read_parquet(path).unwrap();
    let mut text = String::new();
    for column in table.names() {
        if !column.ends_with("_seconds") {
            let values = table.numbers(&column).unwrap();
            let bits: Vec<_> = values.iter().map(|value| value.to_bits()).collect();
            writeln!(text, "{column} {bits:?}").unwrap();
        }
    }
    text
}

fn refused(command: &mut Command) -> String {
    ended(command, 2)
}

/// What a command that ends with that exit code says.
fn ended(command: &mut Command, code: i32) -> String {
    let Output { status, stderr, .. } = command.output().unwrap();
    let message = String::from_utf8(stderr).unwrap();
    assert_eq!(status.code(), Some(code), "{message}");
    assert!(!message.contains("panicked"), "{message}");
    message
}

#[test]
fn lora_learns_the_task_and_leaves_records() {
    let folder = tempfile::tempdir().unwrap();
    prepare(folder.path());
    let out = folder.path().join("runs");
    let status = train(folder.path(), &out, &["--epochs", "12", "--method", "lora"]).status();
    assert!(status.unwrap().success());
    let run = out.join("text-lora-r4-s0");
    let epochs = Table::read_parquet(&run.join("epochs.parquet")).unwrap();
    let accuracy = epochs.numbers("validation_accuracy").unwrap();
    assert_eq!(accuracy.len(), 12);
    // A third is chance.
    assert!(accuracy[11] > 0.8, "{accuracy:?}");
    let loss = epochs.numbers("train_loss").unwrap();
    assert!(loss[11] < 0.8 * loss[0], "{loss:?}");
    // Twelve linear layers, each measured after each epoch.
    let ranks = Table::read_parquet(&run.join("ranks.parquet")).unwrap();
    assert_eq!(ranks.rows(), 12 * 12);
    let numerical = ranks.numbers("numerical_rank").unwrap();
    assert!(numerical.iter().all(|rank| (1.0..=4.0).contains(rank)));
    let steps = Table::read_parquet(&run.join("steps.parquet")).unwrap();
    assert_eq!(steps.rows(), 12 * 6);
    // What was measured while training is what an audit of the adapter says.
    let audit = Command::new(env!("CARGO_BIN_EXE_rankwise"))
        .args(["audit", "--json"])
        .arg(run.join("adapter"))
        .output()
        .unwrap();
    let audit: serde_json::Value = serde_json::from_slice(&audit.stdout).unwrap();
    let modules = audit["adapters"][0]["modules"].as_array().unwrap();
    let names = ranks.texts("module").unwrap();
    let effective = ranks.numbers("effective_rank").unwrap();
    for at in 11 * 12..12 * 12 {
        let module = modules
            .iter()
            .find(|module| module["name"] == names[at].as_str());
        let measured = &module.unwrap()["effective_rank"];
        let difference = measured.as_f64().unwrap() - effective[at];
        assert!(difference.abs() < 1e-9, "{}: {difference}", names[at]);
    }
}

/// Six runs with an adapter, one without; the numbers are those of the runs' own records.
#[test]
fn runs_are_audited_beside_their_own_metrics() {
    let folder = tempfile::tempdir().unwrap();
    prepare(folder.path());
    let runs = folder.path().join("runs");
    for method in [
        &["--method", "lora,rm-lora", "--seeds", "0,1,2"][..],
        &["--method", "full"],
    ] {
        assert!(
            train(folder.path(), &runs, method)
                .status()
                .unwrap()
                .success()
        );
    }
    let out = folder.path().join("out");
    let audited = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_rankwise"))
            .arg("audit")
            .args([&runs, Path::new("--metrics"), &runs])
            .args(arguments)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    for (arguments, part) in [(&[][..], "adapter"), (&["--best"][..], "best/adapter")] {
        let arguments = [arguments, &["--json"]].concat();
        let record: Value = serde_json::from_str(&audited(&arguments)).unwrap();
        // Of every run the head that was trained as a whole, and nothing else.
        let refused = record["refused"].as_array().unwrap();
        let is_head = |one: &&Value| {
            let name = one["name"].as_str().unwrap();
            one["class"] == "no_adapter" && name.contains("classifier")
        };
        assert_eq!(refused.iter().filter(is_head).count(), refused.len());
        assert_eq!(refused.len(), 2 * 6);
        let joined = record["link"]["join"]["adapters"].as_array().unwrap();
        assert_eq!(joined.len(), 6);
        for adapter in joined {
            let path = Path::new(adapter["path"].as_str().unwrap());
            let (name, below) = adapter["key"]
                .as_str()
                .map(|key| (key.trim_end_matches("/best"), part))
                .unwrap();
            assert_eq!(path, runs.join(name).join(below));
            let summary = fs::read_to_string(runs.join(name).join("run.json")).unwrap();
            let summary: Value = serde_json::from_str(&summary).unwrap();
            let epoch = match part {
                "adapter" => 2,
                _ => summary["best"][0].as_u64().unwrap() as usize,
            };
            let epochs = Table::read_parquet(&runs.join(name).join("epochs.parquet")).unwrap();
            for column in ["train_loss", "validation_loss", "validation_accuracy"] {
                let expected = epochs.numbers(column).unwrap()[epoch - 1];
                assert_eq!(adapter["metrics"][column], expected, "{name}: {column}");
            }
            let gap = adapter["metrics"]["gap_loss"].as_f64().unwrap();
            let loss = |column: &str| epochs.numbers(column).unwrap()[epoch - 1];
            assert_eq!(gap, loss("validation_loss") - loss("train_loss"));
        }
        // Seeds of one setting belong together.
        let mut settings: Vec<&str> = joined
            .iter()
            .map(|adapter| adapter["configuration"].as_str().unwrap())
            .collect();
        settings.sort_unstable();
        settings.dedup();
        assert_eq!(settings, ["text, LoRA (R = 4)", "text, RM-LoRA (R = 4)"]);
    }
    let text = audited(&["--out", out.to_str().unwrap()]);
    assert!(
        text.contains("Runs without an audited adapter: text-full-s0."),
        "{text}"
    );
    assert!(!text.contains("refused "), "{text}");
    assert!(
        text.lines().all(|line| line.matches("best/").count() <= 1),
        "{text}"
    );
    assert!(out.join("link.csv").is_file());
}

/// Heads and fine-tuning runs in one folder: accuracies are per cent, held-out data is a test.
#[test]
fn heads_and_fine_tuning_runs_are_joined_together() {
    let folder = tempfile::tempdir().unwrap();
    prepare(folder.path());
    let runs = folder.path().join("runs");
    let methods = ["--method", "lora", "--seeds", "0,1"];
    assert!(
        train(folder.path(), &runs, &methods)
            .status()
            .unwrap()
            .success()
    );
    let heads = Command::new(env!("CARGO_BIN_EXE_rankwise"))
        .args([
            "train", "--quiet", "--method", "lora", "--rank", "4", "--seeds", "0,1",
        ])
        .args(["--set", "schedule.epochs=2", "--out"])
        .arg(&runs)
        .output()
        .unwrap();
    assert!(heads.status.success(), "{heads:?}");
    let output = Command::new(env!("CARGO_BIN_EXE_rankwise"))
        .args(["audit", "--json", "--metrics"])
        .args([&runs, &runs])
        .output()
        .unwrap();
    let record: Value = serde_json::from_slice(&output.stdout).unwrap();
    let joined = record["link"]["join"]["adapters"].as_array().unwrap();
    assert_eq!(joined.len(), 4);
    for adapter in joined {
        let run = runs.join(adapter["key"].as_str().unwrap());
        let (table, column, factor) = match run.join("metrics.parquet").is_file() {
            true => ("metrics.parquet", "test_accuracy", 1.0),
            false => ("epochs.parquet", "validation_accuracy", 100.0),
        };
        let table = Table::read_parquet(&run.join(table)).unwrap();
        let expected = factor * table.numbers(column).unwrap()[1];
        assert_eq!(adapter["metrics"]["test_accuracy"], expected);
        assert!(adapter["metrics"]["gap_loss"].is_f64());
    }
    let notes = record["link"]["join"]["notes"].to_string();
    assert!(
        notes.contains("Heads and fine-tuning runs stand together"),
        "{notes}"
    );
}

#[test]
fn what_has_no_rank_is_one_run() {
    let folder = tempfile::tempdir().unwrap();
    prepare(folder.path());
    let out = folder.path().join("runs");
    let methods = ["--method", "bitfit,full", "--rank", "2,4", "--epochs", "1"];
    assert!(
        train(folder.path(), &out, &methods)
            .status()
            .unwrap()
            .success()
    );
    let runs = fs::read_dir(&out).unwrap().map(|entry| entry.unwrap());
    let mut runs: Vec<_> = runs.filter(|entry| entry.path().is_dir()).collect();
    runs.sort_by_key(fs::DirEntry::file_name);
    let names: Vec<_> = runs.iter().map(|entry| entry.file_name()).collect();
    assert_eq!(names, ["text-bitfit-s0", "text-full-s0"]);
}

#[test]
fn threads_and_kills_leave_the_bits_alone() {
    let folder = tempfile::tempdir().unwrap();
    prepare(folder.path());
    let methods = [
        "--method",
        "full,lora,rm-lora,bilora",
        "--set",
        "schedule.checkpoint_every=1",
    ];
    let whole = folder.path().join("whole");
    let mut command = train(folder.path(), &whole, &methods);
    assert!(command.args(["--threads", "1"]).status().unwrap().success());
    let expected = contents(&whole);
    // Four runs: config, three tables, and the last and the best of three files each: tensors,
    // configuration, and the vocabulary or what the method was.
    assert_eq!(expected.len(), 4 * (4 + 2 * 3));

    let three = folder.path().join("three");
    let mut command = train(folder.path(), &three, &methods);
    assert!(command.args(["--threads", "3"]).status().unwrap().success());
    assert_eq!(contents(&three), expected);

    let killed = folder.path().join("killed");
    let mut kills = 0;
    loop {
        let mut child = train(folder.path(), &killed, &methods).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(40 + 35 * kills));
        if child
            .try_wait()
            .unwrap()
            .is_some_and(|status| status.success())
        {
            break;
        }
        child.kill().unwrap();
        child.wait().unwrap();
        kills += 1;
        assert!(kills < 200, "the run never ends");
    }
    assert!(kills > 0, "nothing was killed");
    assert_eq!(contents(&killed), expected);
}

/// What a command prints as JSON.
fn json(arguments: &[&str], runs: &Path) -> Value {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rankwise"));
    let output = command.args(arguments).arg("--runs").arg(runs).output();
    let Output { stdout, stderr, .. } = output.unwrap();
    let message = String::from_utf8_lossy(&stderr);
    serde_json::from_slice(&stdout).unwrap_or_else(|error| panic!("{error}: {message}"))
}

#[test]
fn a_page_tables_and_figures_start_from_the_runs_alone() {
    let folder = tempfile::tempdir().unwrap();
    prepare(folder.path());
    let runs = folder.path().join("runs");
    let methods = ["--method", "lora,rm-lora", "--seeds", "0,1"];
    let more = ["--set", "evaluation.on_train=true"];
    let mut command = train(folder.path(), &runs, &methods);
    assert!(command.args(more).status().unwrap().success());
    // The page was written at the end of the training, and nothing beside it is needed.
    let page = fs::read_to_string(runs.join("runs.html")).unwrap();
    assert!(page.contains("<h1>4 fine-tuning runs</h1>"));

    // One run is still going, another was damaged.
    let [going, damaged] = ["text-lora-r4-s7", "text-lora-r4-s8"].map(|name| runs.join(name));
    for copy in [&going, &damaged] {
        fs::create_dir(copy).unwrap();
        let file = "config.toml";
        fs::copy(runs.join("text-lora-r4-s0").join(file), copy.join(file)).unwrap();
    }
    fs::write(damaged.join("run.json"), "{").unwrap();

    let out = folder.path().join("out");
    let out = out.to_str().unwrap();
    let report = json(&["table", "runs", "--json", "--out", out], &runs);
    let rows = report["runs"].as_array().unwrap();
    let names: Vec<&str> = rows
        .iter()
        .map(|row| row["name"].as_str().unwrap())
        .collect();
    let expected = ["lora-r4-s0", "lora-r4-s1", "rm-lora-r4-s0", "rm-lora-r4-s1"];
    assert_eq!(names, expected.map(|name| format!("text-{name}")));
    let left: Vec<&str> = report["left_out"]
        .as_array()
        .unwrap()
        .iter()
        .map(|left| left["name"].as_str().unwrap())
        .collect();
    assert_eq!(left, ["text-lora-r4-s7", "text-lora-r4-s8"]);
    // A row against the run's own record.
    for (row, name) in rows.iter().zip(names) {
        let record = fs::read_to_string(runs.join(name).join("run.json")).unwrap();
        let record: Value = serde_json::from_str(&record).unwrap();
        let scores = &record["last"]["scores"];
        assert_eq!(row["last"], scores[0]["metrics"][0][1], "{name}");
        assert_eq!(row["train_loss"], record["last"]["train_loss"], "{name}");
        assert_eq!(scores[1]["set"], "train");
        let accuracy = |set: usize| scores[set]["metrics"][0][1].as_f64().unwrap();
        assert_eq!(row["gap"], accuracy(1) - accuracy(0), "{name}");
        let modules = record["last"]["ranks"].as_array().unwrap();
        let effective = modules
            .iter()
            .map(|module| &module["measures"]["effective_rank"]);
        let mean = effective.map(|value| value.as_f64().unwrap()).sum::<f64>() / 12.0;
        let found = row["effective_rank"].as_f64().unwrap();
        assert!((found - mean).abs() < 1e-12, "{name}: {found} {mean}");
    }
    // Of two values the standard error is half their distance.
    for (group, pair) in report["summary"]
        .as_array()
        .unwrap()
        .iter()
        .zip(rows.chunks(2))
    {
        let [first, second] = [0, 1].map(|at| pair[at]["train_loss"].as_f64().unwrap());
        let loss = &group["measures"]["train_loss"];
        let near = |key: &str, expected: f64| {
            let found = loss[key].as_f64().unwrap();
            assert!(
                (found - expected).abs() < 1e-12,
                "{key}: {found} {expected}"
            );
        };
        near("mean", first.midpoint(second));
        near("standard_error", (first - second).abs() / 2.0);
    }
    let summary = Table::read(&Path::new(out).join("summary.csv")).unwrap();
    assert_eq!(summary.numbers("runs").unwrap(), [2.0, 2.0]);
    let written = fs::read_to_string(Path::new(out).join("runs.json")).unwrap();
    assert_eq!(serde_json::from_str::<Value>(&written).unwrap(), report);

    figures(&runs, Path::new(out));
    beside_a_peer(&runs, folder.path(), rows);

    let page = fs::read_to_string(Path::new(out).join("runs.html")).unwrap();
    for text in [
        "default-src 'none'",
        "font-src data:",
        "Refused (2)",
        "text-lora-r4-s7",
    ] {
        assert!(page.contains(text), "{text}");
    }
    // Every drawing, and nothing that is fetched.
    assert_eq!(page.matches("<figure ").count(), 3);
    assert_eq!(page.matches("@font-face").count(), 1);
    let elsewhere = page.replace("http://www.w3.org/2000/svg", "");
    for text in ["http:", "https:", "src=\"", "@import"] {
        assert!(!elsewhere.contains(text), "{text}");
    }
    let Some(dom) = opened(&page, "open=1") else {
        return;
    };
    // Of the second run the script has drawn a row for every module.
    assert_eq!(dom.matches("<tr data-row=").count(), 12);
    assert_eq!(dom.matches("class=\"heat\"").count(), 1);
}

fn figures(runs: &Path, out: &Path) {
    for (name, texts) in [
        (
            "curves",
            [
                "text: Accuracy (validation)",
                "text: training loss",
                "RM-LoRA (R = 4)",
            ],
        ),
        (
            "ranks",
            ["text: effective rank of ΔW", "LoRA (R = 4)", "Epoch"],
        ),
        (
            "modules",
            [
                "text: RM-LoRA (R = 4)",
                "attention.self.query",
                "mean of 2 seeds",
            ],
        ),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rankwise"));
        command
            .args(["figure", name, "--quiet", "--runs"])
            .arg(runs);
        assert!(command.arg("--out").arg(out).status().unwrap().success());
        let svg = fs::read_to_string(out.join(name).with_extension("svg")).unwrap();
        for text in texts {
            assert!(svg.contains(text), "{name}: {text}");
        }
        assert!(
            out.join(name)
                .with_extension("png")
                .metadata()
                .unwrap()
                .len()
                > 1000
        );
    }
}

/// A peer with our own numbers, but a training loss of 9 more for LoRA.
fn beside_a_peer(runs: &Path, folder: &Path, rows: &[Value]) {
    let file = folder.join("peer.jsonl");
    let mut lines = String::new();
    for row in rows {
        let more = if row["method"] == "lora" { 9.0 } else { 0.0 };
        let end = serde_json::json!({
            "accuracy": row["last"],
            "train_loss": row["train_loss"].as_f64().unwrap() + more,
        });
        let run = serde_json::json!({
            "task": "text", "method": row["method"], "seed": row["seed"], "epochs": [end, end],
        });
        writeln!(lines, "{run}").unwrap();
    }
    fs::write(&file, lines).unwrap();
    let file = file.to_str().unwrap();
    let comparison = json(&["table", "peer", "--json", "--peer", file], runs);
    let losses: Vec<&Value> = comparison["rows"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|row| row["metric"] == "train_loss")
        .collect();
    let [lora, rm_lora] = losses[..] else {
        panic!("{comparison}");
    };
    assert_eq!(
        (&lora["verdict"], &rm_lora["verdict"]),
        (&"beyond".into(), &"within".into())
    );
    assert!((lora["difference"].as_f64().unwrap() + 9.0).abs() < 1e-9);
    assert_eq!(rm_lora["difference"], 0.0);
    // Both sides have the same spread.
    let own = rm_lora["ours"]["standard_error"].as_f64().unwrap();
    let error = rm_lora["standard_error"].as_f64().unwrap();
    assert!((error - own * 2.0_f64.sqrt()).abs() < 1e-12);

    let mut command = Command::new(env!("CARGO_BIN_EXE_rankwise"));
    command.args(["figure", "peer", "--quiet", "--peer", file, "--runs"]);
    command.arg(runs).arg("--out").arg(folder);
    assert!(command.status().unwrap().success());
    let svg = fs::read_to_string(folder.join("peer.svg")).unwrap();
    assert!(svg.contains("text: Accuracy") && svg.contains("RM-LoRA (R = 4)"));
    let mut command = Command::new(env!("CARGO_BIN_EXE_rankwise"));
    let message = refused(command.args(["table", "peer", "--runs"]).arg(runs));
    assert!(message.contains("--peer"), "{message}");
    let mut command = Command::new(env!("CARGO_BIN_EXE_rankwise"));
    let message = refused(command.args(["table", "end", "--runs"]).arg(runs));
    assert!(
        message.contains("expected runs of heads, found fine-tuning runs"),
        "{message}"
    );
}

#[test]
fn a_run_begins_with_the_adapter_of_another() {
    let folder = tempfile::tempdir().unwrap();
    prepare(folder.path());
    let out = folder.path().join("runs");
    let first = ["--epochs", "12", "--method", "lora"];
    assert!(
        train(folder.path(), &out, &first)
            .status()
            .unwrap()
            .success()
    );
    let adapter = out.join("text-lora-r4-s0/adapter");
    let given = adapter.to_string_lossy().into_owned();
    let on = ["--method", "rm-lora", "--adapter", &given, "--seed", "3"];
    let mut command = train(folder.path(), &out, &on);
    let slow = ["--set", "method.rank=2", "--learning-rate", "1e-4"];
    assert!(command.args(slow).status().unwrap().success());
    let run = out.join("text-rm-lora-r4-s3");
    let table = |run: &Path| Table::read_parquet(&run.join("epochs.parquet")).unwrap();
    let accuracy = |run: &Path| table(run).numbers("validation_accuracy").unwrap();
    let (before, after) = (accuracy(adapter.parent().unwrap()), accuracy(&run));
    // It begins where the other ended: a new run is at a third then.
    assert!((after[0] - before[11]).abs() < 0.1, "{before:?}, {after:?}");
    let text = fs::read_to_string(run.join("run.json")).unwrap();
    let summary: serde_json::Value = serde_json::from_str(&text).unwrap();
    let read = summary["model_sha256"].as_array().unwrap();
    assert_eq!(read.last().unwrap()[0], "adapter_model.safetensors");
    let notes = summary["notes"].as_array().unwrap();
    let is_told = |note: &serde_json::Value| note.as_str().unwrap().contains("12 modules, R = 4");
    assert!(notes.iter().any(is_told), "{notes:?}");

    let message = refused(train(folder.path(), &out, &on).args(["--rank", "8"]));
    assert!(message.contains("--rank: expected 4"), "{message}");
    let other = folder.path().join("other");
    let message = refused(train(folder.path(), &other, &on).args(["--targets", "query"]));
    assert!(message.contains("method.targets"), "{message}");
}

#[test]
fn what_does_not_fit_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let (model, data) = prepare(folder.path());
    let out = folder.path().join("runs");
    let run = |extra: &[&str]| refused(&mut train(folder.path(), &out, extra));
    let message = run(&["--targets", "querry"]);
    assert!(
        message.contains("\"querry\"") && message.contains("nearest are query"),
        "{message}"
    );
    let message = run(&["--rank", "33"]);
    assert!(
        message.contains("between 1 and 32") && message.contains("33"),
        "{message}"
    );
    // Of several, before the first is run.
    let message = run(&["--rank", "4,33"]);
    assert!(message.contains("between 1 and 32"), "{message}");
    assert!(!out.join("text-lora-r4-s0").exists());
    let message = run(&["--method", "lorra"]);
    assert!(message.contains("did you mean \"lora\""), "{message}");
    // Of what was typed, and of nothing else.
    assert!(
        message.starts_with("error: --method lorra: key method.name: "),
        "{message}"
    );
    let message = run(&["--set", "method.lora_alpha=16"]);
    assert!(
        message.starts_with("error: --set method.lora_alpha=16: key method.lora_alpha: expected one of name, rank, alpha"),
        "{message}"
    );
    assert!(
        message.contains("lora_alpha is method.alpha here"),
        "{message}"
    );
    let message = run(&["--learning-rate", "1e-3,-1"]);
    assert!(
        message.contains("--learning-rate -1: key optimizer.learning_rate: expected"),
        "{message}"
    );
    let message = run(&["--rank", "0"]);
    assert!(
        message.contains("--rank 0: key method.rank: expected between 1"),
        "{message}"
    );
    let message = run(&["--task", "mrcp"]);
    assert!(message.contains("did you mean \"mrpc\""), "{message}");
    let message = run(&["--set", "method.lambda=1"]);
    assert!(message.contains("lambda"), "{message}");
    let message = run(&["--set", "precision=bf16"]);
    assert!(message.contains("precision"), "{message}");
    let message = run(&["--set", "task.random_crop.scale=[0.5, 2.0]"]);
    assert!(
        message.contains("task.random_crop.scale") && message.contains("found 0.5, 2"),
        "{message}"
    );
    for (setting, part) in [
        (r#"method.train_also=["querry"]"#, "the nearest are query"),
        ("method.rank_pattern={querry=2}", "the nearest are query"),
        ("task.columns.text=label", "task.columns.label"),
    ] {
        let message = run(&["--set", setting]);
        assert!(message.contains(part), "{setting}: {message}");
    }
    let nowhere = Path::new("no/such/folder");
    let message = refused(&mut train_model(nowhere, folder.path(), &out, &[]));
    assert!(message.contains("no/such/folder"), "{message}");

    // A label that training does not know, a line that is cut, a text that is too long.
    let path = data.join("validation.csv");
    let good = fs::read_to_string(&path).unwrap();
    fs::write(&path, good.replacen("class 1", "class 7", 1)).unwrap();
    let message = run(&[]);
    assert!(
        message.contains("validation.csv") && message.contains("class 7"),
        "{message}"
    );
    let skipping = train(folder.path(), &out, &["--skip-bad", "1", "--seed", "5"]).status();
    assert!(skipping.unwrap().success());
    fs::write(&path, format!("{good}{},class 0\n", "waa ".repeat(60))).unwrap();
    let message = run(&["--seed", "6"]);
    assert!(
        message.contains("at most the model's 40 positions"),
        "{message}"
    );
    fs::write(&path, good).unwrap();

    let config = fs::read_to_string(model.join("config.json")).unwrap();
    let other = config.replace("\"model_type\": \"bert\"", "\"model_type\": \"berd\"");
    fs::write(model.join("config.json"), other).unwrap();
    let message = run(&["--seed", "7"]);
    assert!(
        message.contains("model_type") && message.contains("berd"),
        "{message}"
    );
    let wider = config.replace("\"intermediate_size\": 64", "\"intermediate_size\": 65");
    fs::write(model.join("config.json"), wider).unwrap();
    let message = run(&["--seed", "8"]);
    assert!(
        message.contains("intermediate.dense.weight of [64, 32] instead of [65, 32]"),
        "{message}"
    );
}

/// A limit on the size of files stands for a disk that is full: writing fails half-way.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_ends_a_run_that_goes_on_when_there_is_room() {
    let folder = tempfile::tempdir().unwrap();
    prepare(folder.path());
    let methods = ["--method", "lora"];
    let whole = folder.path().join("whole");
    assert!(
        train(folder.path(), &whole, &methods)
            .status()
            .unwrap()
            .success()
    );
    let expected = contents(&whole);
    let largest = expected.values().map(Vec::len).max().unwrap();

    let full = folder.path().join("full");
    let run = train(folder.path(), &full, &methods);
    let mut limited = Command::new("bash");
    // The signal that a larger file sends is ignored, so that writing it is an error.
    let script = format!(
        "trap '' XFSZ; ulimit -f {}; exec \"$0\" \"$@\"",
        largest / 2048
    );
    limited
        .args(["-c", &script])
        .arg(run.get_program())
        .args(run.get_args());
    let message = refused(limited.stdout(Stdio::null()));
    assert!(
        message.contains("write") && message.contains("text-lora-r4-s0"),
        "{message}"
    );
    // Nothing half-written is left under a name that counts.
    let left = contents(&full);
    assert!(
        left.values().all(|bytes| bytes.len() <= largest / 2),
        "{:?}",
        left.keys()
    );

    assert!(
        train(folder.path(), &full, &methods)
            .status()
            .unwrap()
            .success()
    );
    assert_eq!(contents(&full), expected);
}

#[test]
fn settings_go_to_the_methods_that_have_them() {
    let folder = tempfile::tempdir().unwrap();
    prepare(folder.path());
    let out = folder.path().join("runs");
    let dumped = |extra: &[&str]| {
        let mut command = train(folder.path(), &out, extra);
        let output = command.arg("--dump-config").stdout(Stdio::piped()).output();
        let Output { status, stdout, .. } = output.unwrap();
        assert!(status.success(), "{extra:?}");
        String::from_utf8(stdout).unwrap()
    };
    let lambda = ["--set", "method.lambda=0.03"];
    let one = dumped(&[&["--method", "rm-lora"], &lambda[..]].concat());
    assert!(one.contains("lambda = 0.03"), "{one}");
    let both = dumped(&[&["--method", "lora,rm-lora"], &lambda[..]].concat());
    assert_eq!(both.matches("lambda = 0.03").count(), 1, "{both}");
    let recipe = folder.path().join("recipe.toml");
    fs::write(&recipe, &one).unwrap();
    let again = ["--method", "gm-lora", "--config", recipe.to_str().unwrap()];
    let again = dumped(&again);
    assert!(
        again.contains("name = \"gm-lora\"") && !again.contains("lambda ="),
        "{again}"
    );
    // What no method in play has is still a mistake.
    let typo = ["--method", "lora,rm-lora", "--set", "method.lamda=0.03"];
    let message = refused(&mut train(folder.path(), &out, &typo));
    assert!(message.contains("lamda"), "{message}");
}

#[test]
fn a_folder_belongs_to_one_process_and_to_the_files_it_began_with() {
    let folder = tempfile::tempdir().unwrap();
    prepare(folder.path());
    let out = folder.path().join("runs");
    let long = ["--epochs", "5000", "--set", "schedule.checkpoint_every=1"];
    let mut child = train(folder.path(), &out, &long).spawn().unwrap();
    let checkpoint = out.join("text-lora-r4-s0/checkpoint.safetensors");
    while !checkpoint.exists() {
        assert!(child.try_wait().unwrap().is_none(), "the run has ended");
        std::thread::sleep(Duration::from_millis(5));
    }
    let message = refused(&mut train(folder.path(), &out, &long));
    assert!(
        message.contains("another process is at work there"),
        "{message}"
    );
    child.kill().unwrap();
    child.wait().unwrap();
    let data = folder.path().join("data/train.csv");
    let before = fs::read_to_string(&data).unwrap();
    let line = before.lines().nth(1).unwrap();
    fs::write(&data, format!("{before}{line}\n")).unwrap();
    let message = refused(&mut train(folder.path(), &out, &long));
    assert!(
        message.contains("began with other files: expected train.csv of SHA-256"),
        "{message}"
    );
    assert!(checkpoint.exists());
}

#[test]
fn a_last_step_that_leaves_no_numbers_is_said() {
    let folder = tempfile::tempdir().unwrap();
    prepare(folder.path());
    let out = folder.path().join("runs");
    let steps = [
        "schedule.shape=constant",
        "schedule.warmup_ratio=0",
        "task.limit=16",
    ];
    let mut command = train(
        folder.path(),
        &out,
        &["--epochs", "1", "--learning-rate", "1e39"],
    );
    command.args(steps.iter().flat_map(|setting| ["--set", setting]));
    let message = ended(&mut command, 1);
    assert!(
        message.contains("not a finite number in step 1, first in bert."),
        "{message}"
    );
    assert!(out.join("text-lora-r4-s0/run.json").exists());
}

#[test]
fn numbers_that_are_none_stop_a_run_and_keep_its_last_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    prepare(folder.path());
    let out = folder.path().join("runs");
    let extra = [
        "--learning-rate",
        "1e30",
        "--set",
        "schedule.checkpoint_every=1",
    ];
    let message = ended(&mut train(folder.path(), &out, &extra), 1);
    assert!(message.contains("not a finite number in step"), "{message}");
    let run = fs::read_to_string(out.join("text-lora-r4-s0/run.json")).unwrap();
    let run: serde_json::Value = serde_json::from_str(&run).unwrap();
    assert_eq!(run["stop"]["reason"], "diverged");
    assert!(
        run["stop"]["module"].as_str().unwrap().starts_with("bert."),
        "{}",
        run["stop"]
    );
}

/// What a command that succeeds prints, and what it says.
fn printed(command: &mut Command) -> (String, String) {
    let output = command.stdout(Stdio::piped()).output();
    let Output {
        status,
        stdout,
        stderr,
    } = output.unwrap();
    let said = String::from_utf8(stderr).unwrap();
    assert!(status.success(), "{said}");
    (String::from_utf8(stdout).unwrap(), said)
}

#[test]
fn a_file_says_which_trainer_it_is_for() {
    let folder = tempfile::tempdir().unwrap();
    let (model, data) = prepare(folder.path());
    let (recipe, out) = (folder.path().join("my.toml"), folder.path().join("runs"));
    let task = format!(
        "[task]\nname = \"text\"\ndata = {data:?}\n[schedule]\nepochs = 1\n[method]\nrank = 2\n"
    );
    let command = |extra: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rankwise"));
        command.args(["train", "--config"]).arg(&recipe);
        command.args(extra);
        command
    };
    fs::write(&recipe, format!("[model]\npath = {model:?}\n{task}")).unwrap();
    let (dry, _) = printed(&mut command(&["--dry-run", "--epochs", "2", "--quiet"]));
    assert!(dry.contains("text-lora-r2-s0"), "{dry}");
    let (dumped, _) = printed(&mut command(&[
        "--dump-config",
        "--json",
        "--skip-bad",
        "3",
    ]));
    let dumped: Value = serde_json::from_str(&dumped).unwrap();
    assert_eq!(dumped[0]["task"]["skip_bad"], 3);
    let to = out.to_str().unwrap();
    printed(&mut command(&["--quiet", "--out", to, "--method", "lora"]));
    assert!(out.join("text-lora-r2-s0/run.json").exists());

    // Without a model it is no recipe of heads either.
    fs::write(&recipe, &task).unwrap();
    let message = refused(&mut command(&["--dump-config"]));
    let line = format!("{}:3: key task.data: ", recipe.display());
    assert!(message.contains(&line), "{message}");
    assert!(message.contains("path under [model]"), "{message}");
    fs::write(&recipe, "seed = 1\n").unwrap();
    let message = refused(&mut command(&["--task", "mrpc", "--dump-config"]));
    assert!(
        message.contains("--task: this is for fine-tuning"),
        "{message}"
    );
    let message = refused(&mut command(&["--method", "dora", "--dump-config"]));
    assert!(
        message.contains("--method dora") && message.contains("--model"),
        "{message}"
    );
}

#[test]
fn a_dump_says_what_the_run_comes_to_and_is_the_same_run() {
    let folder = tempfile::tempdir().unwrap();
    prepare(folder.path());
    let out = folder.path().join("runs");
    let dump = |extra: &[&str]| {
        let mut command = train(folder.path(), &out, extra);
        printed(command.arg("--dump-config")).0
    };
    let all = dump(&["--method", "gm-lora"]);
    for line in [
        "alpha = 4.0",
        "directions = 3",
        "targets = [\"attention.self.query\", \"attention.self.key\", \"attention.self.value\", \
         \"attention.output.dense\", \"intermediate.dense\", \"output.dense\"]",
        "# α: an update's scale is α/R; by default R, so that LoRA's scale is 1 as in the paper's Eq. 4.",
    ] {
        assert!(all.lines().any(|own| own == line), "{line}: {all}");
    }
    let some = dump(&["--targets", "query,encoder.layer.1.output.dense"]);
    let names = "targets = [\"bert.encoder.layer.0.attention.self.query\", \
                 \"bert.encoder.layer.1.attention.self.query\", \"bert.encoder.layer.1.output.dense\"]";
    assert!(some.contains(names), "{some}");
    // The run of the dumped file is the run itself: its folder is taken for this one's.
    let recipe = folder.path().join("dumped.toml");
    fs::write(&recipe, &all).unwrap();
    let run = ["--method", "gm-lora", "--epochs", "1"];
    printed(&mut train(folder.path(), &out, &run));
    let mut again = Command::new(env!("CARGO_BIN_EXE_rankwise"));
    again
        .args(["train", "--quiet", "--epochs", "1", "--config"])
        .arg(&recipe);
    printed(again.arg("--out").arg(&out));
    let mut again = Command::new(env!("CARGO_BIN_EXE_rankwise"));
    again
        .args(["train", "--dump-config", "--config"])
        .arg(&recipe);
    assert_eq!(printed(&mut again).0, all);
}

#[test]
fn learning_rates_get_a_folder_each_and_other_settings_another_out() {
    let folder = tempfile::tempdir().unwrap();
    prepare(folder.path());
    let out = folder.path().join("runs");
    let one = ["--epochs", "1", "--method", "lora"];
    let rates = [&one[..], &["--learning-rate", "1e-4,3e-4"]].concat();
    printed(&mut train(folder.path(), &out, &rates));
    for (name, rate) in [("lr1e-4", 1e-4), ("lr3e-4", 3e-4)] {
        let run = out.join(format!("text-lora-r4-{name}-s0"));
        let steps = Table::read_parquet(&run.join("steps.parquet")).unwrap();
        let highest = steps
            .numbers("learning_rate")
            .unwrap()
            .into_iter()
            .fold(0.0, f64::max);
        assert_eq!(highest, rate);
    }
    printed(&mut train(folder.path(), &out, &one));
    let message = refused(&mut train(
        folder.path(),
        &out,
        &[&one[..], &["--learning-rate", "1e-3"]].concat(),
    ));
    for part in [
        "expected `optimizer.learning_rate = 0.001`, found `optimizer.learning_rate = 0.005`",
        "several rates in one --learning-rate get a folder each",
    ] {
        assert!(message.contains(part), "{part}: {message}");
    }
    let message = refused(&mut train(
        folder.path(),
        &out,
        &[&one[..], &["--set", "method.alpha=8"]].concat(),
    ));
    assert!(
        message.contains("expected `method.alpha = 8.0`"),
        "{message}"
    );
    assert!(message.contains("needs another --out"), "{message}");
}

#[test]
fn steps_that_train_nothing_are_said() {
    let folder = tempfile::tempdir().unwrap();
    prepare(folder.path());
    let one = ["--epochs", "1", "--set", "task.limit=16"];
    for (extra, why) in [
        (&["--seed", "0"][..], "schedule.warmup_ratio = 0.06"),
        (
            &["--learning-rate", "0"][..],
            "optimizer.learning_rate is 0",
        ),
    ] {
        let out = folder.path().join(why);
        let (_, said) = printed(&mut train(folder.path(), &out, &[&one[..], extra].concat()));
        assert!(
            said.contains("nothing is trained: the learning rate is 0 in 1 of 1 steps"),
            "{said}"
        );
        assert!(said.contains(why), "{said}");
        let run = fs::read_to_string(out.join("text-lora-r4-s0/run.json")).unwrap();
        let run: Value = serde_json::from_str(&run).unwrap();
        let note = "1 of 1 steps had a learning rate of 0 and trained nothing";
        assert!(
            run["notes"].as_array().unwrap().contains(&note.into()),
            "{}",
            run["notes"]
        );
    }
    let out = folder.path().join("trained");
    let warm = [&one[..], &["--set", "schedule.warmup_ratio=0"]].concat();
    let (_, said) = printed(&mut train(folder.path(), &out, &warm));
    assert!(!said.contains("nothing is trained"), "{said}");
}

#[test]
fn a_finished_run_is_of_its_files_and_of_one_model_however_it_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let (model, data) = prepare(folder.path());
    let out = folder.path().join("runs");
    let one = ["--epochs", "1"];
    printed(&mut train(folder.path(), &out, &one));
    let dotted = model.join(".").join("");
    printed(&mut train_model(&dotted, folder.path(), &out, &one));
    let train_file = data.join("train.csv");
    let before = fs::read_to_string(&train_file).unwrap();
    fs::write(&train_file, before.replacen("class 1", "class 2", 1)).unwrap();
    let message = refused(&mut train(folder.path(), &out, &one));
    assert!(
        message.contains("began with other files: expected train.csv of SHA-256"),
        "{message}"
    );
    fs::write(&train_file, before).unwrap();
    let weights = model.join("model.safetensors");
    let mut bytes = fs::read(&weights).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&weights, bytes).unwrap();
    let message = refused(&mut train(folder.path(), &out, &one));
    assert!(
        message.contains("expected model.safetensors of SHA-256"),
        "{message}"
    );
}

#[test]
fn a_changed_byte_of_a_checkpoint_is_found() {
    let folder = tempfile::tempdir().unwrap();
    prepare(folder.path());
    let out = folder.path().join("runs");
    let long = ["--epochs", "5000", "--set", "schedule.checkpoint_every=1"];
    let mut child = train(folder.path(), &out, &long).spawn().unwrap();
    let checkpoint = out.join("text-lora-r4-s0/checkpoint.safetensors");
    while !checkpoint.exists() {
        assert!(child.try_wait().unwrap().is_none(), "the run has ended");
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let mut bytes = fs::read(&checkpoint).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 4;
    fs::write(&checkpoint, bytes).unwrap();
    let message = refused(&mut train(folder.path(), &out, &long));
    assert!(
        message.contains("removing it restarts the run") && message.contains("damaged"),
        "{message}"
    );
}

/// Nothing is trained, so that no later epoch is better and writes the files anew.
#[test]
fn a_changed_byte_of_the_best_epochs_adapter_is_found() {
    let folder = tempfile::tempdir().unwrap();
    prepare(folder.path());
    let out = folder.path().join("runs");
    let still = [
        "--epochs",
        "300",
        "--learning-rate",
        "0",
        "--set",
        "schedule.checkpoint_every=1",
    ];
    let mut child = train(folder.path(), &out, &still).spawn().unwrap();
    let run = out.join("text-lora-r4-s0");
    // The second epoch's checkpoint knows of the first one's files.
    while Table::read_parquet(&run.join("epochs.parquet")).map_or(0, |table| table.rows()) < 2 {
        assert!(child.try_wait().unwrap().is_none(), "the run has ended");
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let file = run.join("best/adapter/adapter_model.safetensors");
    let mut bytes = fs::read(&file).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 4;
    fs::write(&file, bytes).unwrap();
    let message = refused(&mut train(folder.path(), &out, &still));
    assert!(
        message.contains("best: damaged since it was written"),
        "{message}"
    );
}

#[test]
fn what_gives_way_to_a_flag_is_said() {
    let folder = tempfile::tempdir().unwrap();
    prepare(folder.path());
    let mut command = Command::new(env!("CARGO_BIN_EXE_rankwise"));
    command.args(["train", "--rank", "4", "--dump-config", "--model"]);
    command.arg(folder.path().join("model"));
    let (config, said) = printed(command.args(["--set", "method.rank=2"]));
    assert!(config.contains("rank = 4"), "{config}");
    assert!(
        said.contains("note: --set method.rank=2 gives way to --rank"),
        "{said}"
    );
    let message = refused(command.args(["--seed", "3", "--seeds", "4,5"]));
    assert!(
        message.contains("expected --seed or --seeds, found both"),
        "{message}"
    );
}
