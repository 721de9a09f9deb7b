//! `rankwise train --model` on every form of task: two epochs of a tiny model on made-up data, and
//! what is left of it.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;

use rankwise_data::Table;

/// A folder with a model of the fixtures in it, and one for data.
struct Bench {
    folder: tempfile::TempDir,
}

impl Bench {
    fn new(fixture: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("training/tests/fixtures/models");
        for part in ["model", "data"] {
            fs::create_dir(folder.path().join(part)).unwrap();
        }
        for file in ["config.json", "model.safetensors"] {
            let to = folder.path().join("model").join(file);
            fs::copy(fixtures.join(fixture).join(file), to).unwrap();
        }
        Self { folder }
    }

    fn write(&self, path: &str, bytes: impl AsRef<[u8]>) {
        let path = self.folder.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    /// Two epochs of LoRA, the training set evaluated as well.
    fn command(&self, task: &str, extra: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rankwise"));
        command
            .args([
                "train", "--quiet", "--task", task, "--epochs", "2", "--rank", "2",
            ])
            .args([
                "--learning-rate",
                "1e-2",
                "--set",
                "evaluation.on_train=true",
            ])
            .args([
                "--set",
                "schedule.batch_size=8",
                "--set",
                "task.max_length=32",
            ])
            .args([
                "--model".as_ref(),
                self.folder.path().join("model").as_os_str(),
            ])
            .args([
                "--data".as_ref(),
                self.folder.path().join("data").as_os_str(),
            ])
            .args([
                "--out".as_ref(),
                self.folder.path().join("runs").as_os_str(),
            ])
            .args(extra);
        command
    }

    /// What is said of a run that is refused.
    fn refused(&self, task: &str, extra: &[&str]) -> String {
        let output = self.command(task, extra).output().unwrap();
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{message}");
        message
    }

    /// The run's table of epochs.
    fn run(&self, task: &str, extra: &[&str]) -> Table {
        let run = self.folder.path().join(format!("runs/{task}-lora-r2-s0"));
        let output = self.command(task, extra).output().unwrap();
        let message = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{task}: {message}");
        let summary = fs::read_to_string(run.join("run.json")).unwrap();
        let summary: serde_json::Value = serde_json::from_str(&summary).unwrap();
        let hashed = summary["data_sha256"].as_array().unwrap();
        assert!(!hashed.is_empty(), "{task}");
        let lengths = hashed.iter().map(|file| file[1].as_str().unwrap().len());
        assert!(
            lengths.into_iter().all(|length| length == 64),
            "{task}: {hashed:?}"
        );
        Table::read_parquet(&run.join("epochs.parquet")).unwrap()
    }
}

/// The column has a number for both epochs.
fn numbers(table: &Table, column: &str) -> Vec<f64> {
    let numbers = table.numbers(column).unwrap();
    assert!(
        numbers.len() == 2 && numbers.iter().all(|x| x.is_finite()),
        "{column}: {numbers:?}"
    );
    numbers
}

#[test]
fn a_language_model_reads_plain_text() {
    let bench = Bench::new("gpt2-lm");
    // Single letters; Ġ is a space and Ċ a new line.
    let letters = ('a'..='z')
        .map(String::from)
        .chain(["Ġ".to_owned(), "Ċ".to_owned()]);
    let entries: Vec<_> = letters
        .enumerate()
        .map(|(id, token)| format!("\"{token}\": {id}"))
        .collect();
    bench.write(
        "model/vocab.json",
        format!("{{{}, \"<|endoftext|>\": 59}}", entries.join(", ")),
    );
    bench.write("model/merges.txt", "#version: 0.2\n");
    let text = "the quick brown fox jumps over the lazy dog\n";
    bench.write("data/train.txt", text.repeat(20));
    bench.write("data/validation.txt", text.repeat(4));
    let table = bench.run("lm", &[]);
    let loss = numbers(&table, "validation_loss");
    assert!(loss[1] < loss[0], "{loss:?}");
    numbers(&table, "train_loss");
}

/// A picture of one colour, as a bitmap of 24 bits.
fn bitmap(side: u32, [red, green, blue]: [u8; 3]) -> Vec<u8> {
    let size = 3 * side * side;
    let mut bytes = b"BM".to_vec();
    for number in [
        54 + size,
        0,
        54,
        40,
        side,
        side,
        1 | (24 << 16),
        0,
        size,
        2835,
        2835,
        0,
        0,
    ] {
        bytes.extend(number.to_le_bytes());
    }
    // Rows of a multiple of four bytes need no filling.
    assert_eq!(3 * side % 4, 0);
    bytes.extend([blue, green, red].repeat((side * side) as usize));
    bytes
}

#[test]
fn pictures_in_folders_of_their_classes() {
    let bench = Bench::new("vit-cls");
    for (class, colour) in [
        ("black", [9, 9, 9]),
        ("blue", [20, 30, 200]),
        ("red", [220, 40, 30]),
    ] {
        for (part, count) in [("train", 8), ("validation", 4)] {
            for number in 0..count {
                let colour = colour.map(|byte| byte + number);
                let path = format!("data/{part}/{class}/{number}.bmp");
                bench.write(&path, bitmap(16, colour));
            }
        }
    }
    // Every picture is of one colour, so no part of one is harder than the whole.
    let parts = ["task.flip=true", "task.random_crop.scale=[0.3, 1.0]"];
    let table = bench.run("images", &["--set", parts[0], "--set", parts[1]]);
    let loss = numbers(&table, "validation_loss");
    assert!(loss[1] < loss[0], "{loss:?}");
    // That of the steps and that of an evaluation are two columns.
    assert_ne!(
        numbers(&table, "train_loss"),
        numbers(&table, "train_evaluated_loss")
    );
    numbers(&table, "train_accuracy");

    // The model reads 32 × 32, in patches of 8.
    let file = "model/preprocessor_config.json";
    bench.write(
        file,
        r#"{"feature_extractor_type": "DeiTFeatureExtractor", "size": 30, "crop_size": 24}"#,
    );
    let output = bench.command("images", &["--seeds", "1"]).output().unwrap();
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{message}");
    let summary = bench.folder.path().join("runs/images-lora-r2-s1/run.json");
    let summary = fs::read_to_string(summary).unwrap();
    assert!(
        summary.contains("images of 24 × 24 pixels: the model's positions, learned for 32 × 32"),
        "{summary}"
    );
    // A class of the validation part that training does not have.
    let part = bench.folder.path().join("data/validation");
    fs::rename(part.join("black"), part.join("zebra")).unwrap();
    let message = bench.refused("images", &["--seeds", "3"]);
    assert!(
        message.contains("validation/zebra: folder: expected"),
        "{message}"
    );
    fs::rename(part.join("zebra"), part.join("black")).unwrap();
    bench.write(file, r#"{"size": 30}"#);
    let message = bench.refused("images", &["--seeds", "2"]);
    assert!(
        message
            .contains("preprocessor_config.json: key size: expected sides that are multiples of"),
        "{message}"
    );
}

#[test]
fn a_model_that_reads_something_else_is_refused() {
    let bench = Bench::new("roberta-cls");
    for part in ["train", "validation"] {
        bench.write(&format!("data/{part}/red/0.bmp"), bitmap(16, [200, 9, 9]));
        bench.write(&format!("data/{part}/blue/0.bmp"), bitmap(16, [9, 9, 200]));
    }
    let message = bench.refused("images", &[]);
    assert!(
        message.contains("config.json: key model_type: expected a model that reads images"),
        "{message}"
    );
}

#[test]
fn questions_get_their_answers_from_a_paragraph() {
    let bench = Bench::new("bert-qa");
    let words = [
        "who", "what", "wrote", "made", "it", "anna", "bert", "carl", "dora", "emil",
    ];
    let mut vocabulary = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n".to_owned();
    for word in words {
        writeln!(vocabulary, "{word}").unwrap();
    }
    bench.write("model/vocab.txt", vocabulary);
    for (file, count) in [("train-v1.1.json", 24), ("dev-v1.1.json", 8)] {
        let questions: Vec<_> = (0..count)
            .map(|number| {
                let name = words[5 + number % 5];
                let context = format!("it wrote {name} it made");
                let answers = format!(r#"[{{"text": "{name}", "answer_start": 9}}]"#);
                format!(
                    r#"{{"context": "{context}", "qas": [{{"id": "q{number}", "question": "who wrote it", "answers": {answers}}}]}}"#
                )
            })
            .collect();
        let text = questions.join(",");
        bench.write(
            &format!("data/{file}"),
            format!(r#"{{"version": "1.1", "data": [{{"title": "t", "paragraphs": [{text}]}}]}}"#),
        );
    }
    let table = bench.run("squad", &["--set", "task.stride=8"]);
    let scores = numbers(&table, "validation_answer_f1");
    assert!(
        scores.iter().all(|score| (0.0..=100.0).contains(score)),
        "{scores:?}"
    );
    numbers(&table, "validation_exact_match");
}

#[test]
fn cifar_in_its_binary_form() {
    let bench = Bench::new("vit-cls");
    let record = |label: u8| {
        let mut bytes = vec![label];
        bytes.extend(std::iter::repeat_n(25 * label, 3072));
        bytes
    };
    let names = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"];
    bench.write("data/batches.meta.txt", names.join("\n"));
    for batch in 1..=5 {
        let records: Vec<u8> = (0..8).flat_map(|at| record((at + batch) % 10)).collect();
        bench.write(&format!("data/data_batch_{batch}.bin"), records);
    }
    bench.write(
        "data/test_batch.bin",
        (0..10).flat_map(record).collect::<Vec<u8>>(),
    );
    let table = bench.run("cifar10", &[]);
    let accuracy = numbers(&table, "validation_accuracy");
    assert!(
        accuracy.iter().all(|share| (0.0..=1.0).contains(share)),
        "{accuracy:?}"
    );
}

/// Single letters; Ġ is a space and Ċ a new line.
fn letters(bench: &Bench) {
    let letters = ('a'..='z').map(String::from);
    let tokens = letters.chain(["Ġ".to_owned(), "Ċ".to_owned()]).zip(1..);
    let entries = tokens.map(|(token, id)| format!("\"{token}\": {id}, "));
    let entries: String = entries.collect();
    bench.write(
        "model/vocab.json",
        format!("{{{entries}\"<|endoftext|>\": 0}}"),
    );
    bench.write("model/merges.txt", "#version: 0.2\n");
}

/// `run.json` of a run, and what was said at its beginning.
fn summary(bench: &Bench, task: &str, extra: &[&str]) -> (serde_json::Value, String) {
    let mut command = bench.command(task, extra);
    let arguments: Vec<_> = command.get_args().map(|one| one.to_owned()).collect();
    let told = arguments.iter().filter(|one| *one != "--quiet");
    command = Command::new(env!("CARGO_BIN_EXE_rankwise"));
    let output = command.args(told).output().unwrap();
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{task}: {message}");
    let run = bench.folder.path().join(format!("runs/{task}-lora-r2-s0"));
    let text = fs::read_to_string(run.join("run.json")).unwrap();
    fs::remove_dir_all(run).unwrap();
    (serde_json::from_str(&text).unwrap(), message)
}

/// Notes of a run with a text in them; each was also said at the beginning.
fn notes(summary: &serde_json::Value, said: &str, part: &str) -> Vec<String> {
    let notes = summary["notes"].as_array().unwrap().iter();
    let notes = notes.map(|note| note.as_str().unwrap().to_owned());
    let notes: Vec<String> = notes.filter(|note| note.contains(part)).collect();
    assert!(
        notes.iter().all(|note| said.contains(note)),
        "{notes:?}: {said}"
    );
    notes
}

#[test]
fn a_language_model_reads_the_texts_of_tables() {
    let bench = Bench::new("gpt2-lm");
    letters(&bench);
    let lines = ["the quick brown fox", "jumps over", "", "the lazy dog"].repeat(9);
    let write = |part: &str, ending: &str, line: &dyn Fn(usize, &str) -> String, head: &str| {
        let lines = lines.iter().enumerate().map(|(at, text)| line(at, text));
        let text = format!("{head}{}", lines.collect::<String>());
        bench.write(&format!("data/{part}.{ending}"), text);
    };
    let json = |key: &'static str| {
        move |at: usize, text: &str| format!("{{\"n\": {at}, \"{key}\": \"{text}\"}}\n")
    };
    for part in ["train", "validation"] {
        write(part, "txt", &|_, text| format!("{text}\n"), "");
        write(
            part,
            "csv",
            &|at, text| format!("{at},\"{text}\"\n"),
            "n,text\n",
        );
        write(part, "jsonl", &json("body"), "");
    }
    let given = |ending: &str, extra: &[&str]| {
        let data = bench.folder.path().join("data");
        let set = |part: &str| format!("task.{part}={:?}", data.join(format!("{part}.{ending}")));
        let (train, validation) = (set("train"), set("validation"));
        let whole = [&["--set", &*train, "--set", &*validation][..], extra].concat();
        let (summary, said) = summary(&bench, "lm", &whole);
        let notes = notes(&summary, &said, "of each record");
        (summary["last"]["scores"].clone(), notes.len())
    };
    let (plain, none) = given("txt", &[]);
    assert_eq!(none, 0);
    assert_eq!(given("csv", &[]), (plain.clone(), 2));
    assert_eq!(
        given("jsonl", &["--set", "task.columns.text=body"]),
        (plain, 2)
    );
    let lost = format!(
        "task.train={:?}",
        bench.folder.path().join("data/train.jsonl")
    );
    let message = bench.refused("lm", &["--set", &lost]);
    assert!(
        message.contains("train.jsonl: line 1: expected key text"),
        "{message}"
    );
}

#[test]
fn texts_without_a_token_are_named_before_a_step() {
    let bench = Bench::new("gpt2-cls");
    letters(&bench);
    // Of 🙂 the vocabulary has no byte.
    let rows = "text,label\nred,a\ngreen,b\n,b\nblue,c\n🙂,c\n";
    bench.write("data/train.csv", rows);
    bench.write(
        "data/validation.csv",
        "text,label\nred,a\ngreen,b\nblue,c\n",
    );
    let message = bench.refused("text", &[]);
    assert!(
        message.contains("train.csv: line 4: expected a text with at least one token")
            && message.contains("found \"\""),
        "{message}"
    );
    assert!(!bench.folder.path().join("runs/text-lora-r2-s0").exists());
    assert!(
        bench
            .refused("text", &["--skip-bad", "1"])
            .contains("line 6")
    );
    let (run, said) = summary(
        &bench,
        "text",
        &["--skip-bad", "2", "--set", "schedule.batch_size=1"],
    );
    assert_eq!(notes(&run, &said, "passed over: ").len(), 2);
    assert_eq!(run["steps"], 2 * 3);
    // One empty side of a pair is no empty text, and the validation part is read alike.
    let pairs = "text,other,label\nred,,a\n,green,b\nx,blue,c\n";
    bench.write("data/train.csv", pairs);
    bench.write("data/validation.csv", format!("{pairs},,c\n"));
    let pair = ["--set", "task.columns.text_pair=other"];
    let message = bench.refused("text", &pair);
    assert!(
        message.contains("validation.csv: line 5: expected a text"),
        "{message}"
    );
    bench.write("data/validation.csv", pairs);
    summary(&bench, "text", &pair);
    // A tokenizer that adds a token has no such texts.
    bench.write("data/train.csv", rows);
    bench.write("data/validation.csv", rows);
    bench.write("model/tokenizer_config.json", r#"{"add_bos_token": true}"#);
    summary(&bench, "text", &[]);
    // An added token has a row of the embedding or is refused.
    let mut spelt = rows.replace('🙂', "x<user>");
    bench.write("data/train.csv", &spelt);
    bench.write("model/added_tokens.json", r#"{"<user>": 29}"#);
    let (run, _) = summary(&bench, "text", &[]);
    let read = run["model_sha256"].as_array().unwrap().iter();
    let read: Vec<_> = read.map(|file| file[0].as_str().unwrap()).collect();
    for file in [
        "added_tokens.json",
        "merges.txt",
        "tokenizer_config.json",
        "vocab.json",
    ] {
        assert!(read.contains(&file), "{read:?}");
    }
    let many = (29..=120).map(|id| format!("\"<{id}>\": {id}"));
    let many = many.collect::<Vec<_>>().join(", ");
    bench.write("model/added_tokens.json", format!("{{{many}}}"));
    spelt = rows.replace('🙂', "x<120>");
    bench.write("data/train.csv", &spelt);
    let message = bench.refused("text", &[]);
    assert!(
        message.contains("token \"<120>\": expected an id below 120, the rows"),
        "{message}"
    );
}

#[test]
fn images_that_are_left_out_are_counted_and_a_limit_is_obeyed() {
    let bench = Bench::new("vit-cls");
    for part in ["train", "validation"] {
        for (class, file) in [
            ("black", "0.bmp"),
            ("black", "deep/er/1.bmp"),
            ("red", "2.bmp"),
        ] {
            bench.write(
                &format!("data/{part}/{class}/{file}"),
                bitmap(16, [90, 40, 30]),
            );
        }
    }
    bench.write("data/validation/red/._2.bmp", "x");
    bench.write("data/validation/red/3.heic", "x");
    let each = ["--set", "schedule.batch_size=1"];
    let (run, said) = summary(&bench, "images", &each);
    assert_eq!(run["steps"], 2 * 3);
    let [note] = &notes(&run, &said, "left out")[..] else {
        panic!("{run}")
    };
    assert!(
        note.contains("validation: 3 images (3 .bmp); left out: 1 image of a format that is not read (1 .heic), 1 hidden file"),
        "{note}"
    );
    let limited = [&each[..], &["--set", "task.limit=2"]].concat();
    let (run, said) = summary(&bench, "images", &limited);
    assert_eq!(run["steps"], 2 * 2);
    let note = &notes(&run, &said, "task.limit")[0];
    assert_eq!(
        note,
        "task.limit: the first 2 of 3 training examples, none of 1 of the 2 classes"
    );
    fs::remove_file(bench.folder.path().join("data/train/red/2.bmp")).unwrap();
    let message = bench.refused("images", &each);
    assert!(
        message.contains("train/red: class: expected an image that ends in .jpg")
            && message.contains("found nothing"),
        "{message}"
    );
}
