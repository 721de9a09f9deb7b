//! Classes by name through `rankwise train` and `rankwise merge`: of a checkpoint, of an adapter, of
//! what is left of a run.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use rankwise_data::Table;
use serde_json::{Value, json};

/// A model of three outputs, and texts whose first word says the class.
struct Bench(tempfile::TempDir);

impl Bench {
    fn new(fixture: &str, classes: [&str; 3]) -> Self {
        let bench = Self(tempfile::tempdir().unwrap());
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("training/tests/fixtures/models");
        fs::create_dir(bench.path("model")).unwrap();
        for file in ["config.json", "model.safetensors"] {
            fs::copy(
                fixtures.join(fixture).join(file),
                bench.path("model").join(file),
            )
            .unwrap();
        }
        let mut words = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n".to_owned();
        for letter in 'a'..='z' {
            writeln!(words, "{letter}").unwrap();
        }
        fs::write(bench.path("model/vocab.txt"), words).unwrap();
        bench.data("data", classes);
        bench
    }

    fn data(&self, name: &str, classes: [&str; 3]) {
        fs::create_dir_all(self.path(name)).unwrap();
        for (part, rows) in [("train", 60), ("validation", 30)] {
            let mut text = "text,label\n".to_owned();
            for row in 0..rows {
                let word = char::from(b'd' + (row * 7 % 20) as u8);
                let first = char::from(b'a' + (row % 3) as u8);
                writeln!(text, "{first} {word},{}", classes[row % 3]).unwrap();
            }
            fs::write(self.path(name).join(format!("{part}.csv")), text).unwrap();
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn train(&self, model: &Path, data: &str, out: &str, extra: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_rankwise"))
            .args(["train", "--quiet", "--task", "text"])
            .args(["--set", "schedule.batch_size=8", "--model"])
            .arg(model)
            .arg("--data")
            .arg(self.path(data))
            .arg("--out")
            .arg(self.path(out))
            .args(extra)
            .output()
            .unwrap()
    }

    /// The run's folder and what it says of itself.
    fn run(&self, model: &Path, data: &str, out: &str, extra: &[&str]) -> (PathBuf, Value) {
        let output = self.train(model, data, out, extra);
        let message = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{message}");
        let mut runs = fs::read_dir(self.path(out))
            .unwrap()
            .map(|entry| entry.unwrap().path());
        let run = runs.find(|path| path.is_dir()).unwrap();
        let summary = json_of(&run.join("run.json"));
        (run, summary)
    }
}

fn json_of(path: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

fn accuracy(run: &Path) -> f64 {
    let table = Table::read_parquet(&run.join("epochs.parquet")).unwrap();
    *table
        .numbers("validation_accuracy")
        .unwrap()
        .last()
        .unwrap()
}

fn has_note(summary: &Value, wanted: &str) -> bool {
    let notes = summary["notes"].as_array().unwrap();
    notes
        .iter()
        .any(|note| note.as_str().unwrap().contains(wanted))
}

const LONG: [&str; 4] = ["--epochs", "30", "--learning-rate", "5e-3"];
/// Nothing is trained, so that the accuracy is that of what the run begins with.
const STILL: [&str; 4] = ["--epochs", "1", "--learning-rate", "0"];

fn with<'a>(first: &[&'a str], more: &[&'a str]) -> Vec<&'a str> {
    [first, more].concat()
}

#[test]
fn a_checkpoints_head_is_used_by_name() {
    let bench = Bench::new("bert-cls", ["frost", "rain", "sun"]);
    let full = with(&LONG, &["--method", "full"]);
    let (run, summary) = bench.run(&bench.path("model"), "data", "first", &full);
    assert!(accuracy(&run) > 0.95, "{}", accuracy(&run));
    assert_eq!(summary["classes"], json!(["frost", "rain", "sun"]));
    // The fixture's head is used, by number as it has no names.
    assert!(has_note(&summary, "the checkpoint names no classes"));
    let tuned = run.join("tuned");
    let config = json_of(&tuned.join("config.json"));
    assert_eq!(
        config["id2label"],
        json!({"0": "frost", "1": "rain", "2": "sun"})
    );
    assert_eq!(config["label2id"], json!({"frost": 0, "rain": 1, "sun": 2}));
    assert_eq!(config["problem_type"], "single_label_classification");

    // The same words in capitals, in an order of the user's own.
    bench.data("capitals", ["Frost", "Rain", "Sun"]);
    let order = "task.columns.classes=[\"Sun\", \"Frost\", \"Rain\"]";
    let still = with(&STILL, &["--rank", "2", "--set", order]);
    let (run, summary) = bench.run(&tuned, "capitals", "second", &still);
    assert!(accuracy(&run) > 0.95, "{}", accuracy(&run));
    assert!(has_note(&summary, "another order"), "{summary}");
    assert_eq!(summary["classes"], json!(["Frost", "Rain", "Sun"]));
    let beside = json_of(&run.join("adapter/rankwise.json"));
    assert_eq!(beside["classes"], json!(["Frost", "Rain", "Sun"]));

    // Other classes than the checkpoint's: its outputs mean nothing here.
    bench.data("others", ["no", "perhaps", "yes"]);
    let still = with(&STILL, &["--rank", "2"]);
    let (_, summary) = bench.run(&tuned, "others", "third", &still);
    assert!(has_note(
        &summary,
        "not used of the checkpoint: its classifier, of other classes, frost, rain, sun"
    ));
    assert!(has_note(
        &summary,
        "drawn from the seed: classifier.weight, classifier.bias"
    ));

    // Numbers are an order and no names.
    bench.data("numbers", ["0", "1.0", "2"]);
    let (run, summary) = bench.run(&tuned, "numbers", "fourth", &still);
    assert!(accuracy(&run) > 0.95, "{}", accuracy(&run));
    assert!(has_note(&summary, "the task's are numbers"), "{summary}");
    let anew = with(&still, &["--set", "model.new_head=true"]);
    let (_, summary) = bench.run(&tuned, "numbers", "fifth", &anew);
    assert!(
        has_note(&summary, "drawn from the seed: classifier.weight"),
        "{summary}"
    );

    // A configuration that contradicts itself names nothing.
    let mut config = config;
    config["label2id"] = json!({"frost": 2, "rain": 1, "sun": 0});
    fs::write(tuned.join("config.json"), config.to_string()).unwrap();
    let (_, summary) = bench.run(&tuned, "data", "sixth", &still);
    assert!(
        has_note(&summary, "id2label and label2id differ in \"frost\""),
        "{summary}"
    );
}

/// An adapter out of two checkpoints says what its head predicts, and what it is merged into as well.
#[test]
fn an_extracted_adapter_has_the_names_of_the_tuned_model() {
    let bench = Bench::new("bert-cls", ["frost", "rain", "sun"]);
    let full = with(&LONG, &["--method", "full"]);
    let (run, _) = bench.run(&bench.path("model"), "data", "first", &full);
    let rankwise = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rankwise"));
        command.args(arguments).arg("--quiet").arg("--base");
        let output = command.arg(bench.path("model"));
        let output = output.output().unwrap();
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{message}");
    };
    let tuned = run.join("tuned").display().to_string();
    let text = |name: &str| bench.path(name).display().to_string();
    for (out, extra) in [("factors", None), ("whole", Some("--whole"))] {
        let (adapter, merged) = (text(out), text(&format!("{out}-merged")));
        let mut extract = vec![
            "extract", "--tuned", &tuned, "--rank", "2", "--out", &adapter,
        ];
        extract.extend(extra);
        rankwise(&extract);
        let config = json_of(&bench.path(out).join("adapter_config.json"));
        assert_eq!(config["task_type"], "SEQ_CLS");
        let beside = json_of(&bench.path(out).join("rankwise.json"));
        assert_eq!(beside["classes"], json!(["frost", "rain", "sun"]));
        rankwise(&["merge", "--adapter", &adapter, "--out", &merged]);
        let config = json_of(&Path::new(&merged).join("config.json"));
        assert_eq!(
            config["id2label"],
            json!({"0": "frost", "1": "rain", "2": "sun"})
        );
    }
}

#[test]
fn an_adapters_head_is_used_by_name_or_not_at_all() {
    let bench = Bench::new("bert-cls", ["frost", "rain", "sun"]);
    let mut config = json_of(&bench.path("model/config.json"));
    config["id2label"] = json!({"0": "joy", "1": "anger", "2": "fear"});
    config["label2id"] = json!({"joy": 0, "anger": 1, "fear": 2});
    config["problem_type"] = json!("multi_label_classification");
    fs::write(bench.path("model/config.json"), config.to_string()).unwrap();
    let model = bench.path("model");
    let first = with(&LONG, &["--rank", "4"]);
    let (run, summary) = bench.run(&model, "data", "first", &first);
    assert!(accuracy(&run) > 0.95, "{}", accuracy(&run));
    assert!(
        has_note(&summary, "of other classes, joy, anger, fear"),
        "{summary}"
    );
    let adapter = run.join("adapter");
    let beside = json_of(&adapter.join("rankwise.json"));
    assert_eq!(beside["predicts"], "classes");
    assert_eq!(beside["classes"], json!(["frost", "rain", "sun"]));
    let config = json_of(&adapter.join("adapter_config.json"));
    assert_eq!(config["task_type"], "SEQ_CLS");
    assert_eq!(config["modules_to_save"], json!(["classifier"]));

    let given = adapter.to_string_lossy().into_owned();
    let order = "task.columns.classes=[\"sun\", \"frost\", \"rain\"]";
    let on = with(&STILL, &["--method", "lora", "--adapter", &given]);
    let (run, summary) = bench.run(&model, "data", "second", &with(&on, &["--set", order]));
    assert!(accuracy(&run) > 0.95, "{}", accuracy(&run));
    assert!(
        has_note(
            &summary,
            "the adapter has the task's classes in another order"
        ),
        "{summary}"
    );
    assert_eq!(summary["classes"], json!(["frost", "rain", "sun"]));

    bench.data("others", ["no", "perhaps", "yes"]);
    let output = bench.train(&model, "others", "third", &on);
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{message}");
    assert!(
        message.contains("rankwise.json: classes: expected the task's, no, perhaps, yes")
            && message.contains("found frost, rain, sun"),
        "{message}"
    );
    let anew = with(&on, &["--set", "model.new_head=true"]);
    let (_, summary) = bench.run(&model, "others", "third", &anew);
    assert!(
        has_note(&summary, "drawn from the seed: classifier.weight"),
        "{summary}"
    );

    // What is merged answers with the adapter's classes, with what was resized as well.
    let rankwise = |args: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_rankwise"))
            .args(args)
            .output()
            .unwrap();
        let message = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{message}");
    };
    let (small, merged) = (bench.path("small"), bench.path("merged"));
    let [small, merged] = [&small, &merged].map(|path| path.to_str().unwrap());
    rankwise(&["resize", &given, "--rank", "2", "--out", small, "--quiet"]);
    rankwise(&[
        "merge",
        "--base",
        model.to_str().unwrap(),
        "--adapter",
        small,
        "--out",
        merged,
        "--quiet",
    ]);
    let config = json_of(&bench.path("merged/config.json"));
    assert_eq!(
        config["id2label"],
        json!({"0": "frost", "1": "rain", "2": "sun"})
    );
    assert_eq!(config["problem_type"], "single_label_classification");
    let notes = json_of(&bench.path("merged/merge.json"))["notes"].to_string();
    assert!(
        notes.contains("the classes frost, rain, sun in place of the base's joy, anger, fear"),
        "{notes}"
    );

    // Of an adapter that says nothing, the user is told.
    fs::remove_file(adapter.join("rankwise.json")).unwrap();
    let (_, summary) = bench.run(&model, "others", "fourth", &on);
    assert!(
        has_note(&summary, "nothing beside the adapter names its classes"),
        "{summary}"
    );
}

#[test]
fn one_class_is_none_and_a_missing_one_is_said() {
    let bench = Bench::new("bert-cls", ["same", "same", "same"]);
    let output = bench.train(&bench.path("model"), "data", "runs", &STILL);
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{message}");
    assert!(
        message.contains("expected at least two classes"),
        "{message}"
    );
    assert!(message.contains("same"), "{message}");
    // Classes 1 and 2 have no example in the training part, 2 none at all.
    bench.data("gaps", ["0", "3", "0"]);
    let validation = "text,label\na d,1\nb e,3\n";
    fs::write(bench.path("gaps/validation.csv"), validation).unwrap();
    let (_, summary) = bench.run(&bench.path("model"), "gaps", "runs", &STILL);
    assert!(
        has_note(&summary, "no training example of the classes 1, 2"),
        "{summary}"
    );
    assert!(
        has_note(
            &summary,
            "validation: examples of classes that no training example has: 1"
        ),
        "{summary}"
    );
    let limited = with(&STILL, &["--set", "task.limit=1"]);
    let (_, summary) = bench.run(&bench.path("model"), "gaps", "limited", &limited);
    assert!(
        has_note(&summary, "train: every example is of the class 0"),
        "{summary}"
    );
}
