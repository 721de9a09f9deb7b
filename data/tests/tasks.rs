//! Text tasks: the layouts by hand, Parquet as the Hub has it (`fixtures/hub.py`), and the real sets
//! where they are present, in `data` of the folder that `RANKWISE_SHARED` names or of `shared` beside
//! the repository.
#![cfg(feature = "texts")]

use std::path::{Path, PathBuf};

use proptest::prelude::*;
use rankwise_data::{GlueTask, Part, SkipBad, Target, TextColumns, TextSet};

fn hub() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/hub")
}

/// A folder of real data, or `None`, with the reason printed, where there is none.
fn shared(name: &str) -> Option<PathBuf> {
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared");
    let shared = std::env::var_os("RANKWISE_SHARED").map_or_else(beside, PathBuf::from);
    let folder = shared.join("data").join(name);
    if folder.is_dir() {
        return Some(folder);
    }
    eprintln!("skipped: no folder {}", folder.display());
    None
}

fn read(task: GlueTask, folder: &Path, part: Part) -> Result<TextSet, rankwise_data::Error> {
    task.read(folder, part, &mut SkipBad::default())
}

/// Rows of every file here, whether it is the whole official part, and the share of class 1 (or the
/// mean score) that NumPy finds in it.
#[test]
fn real_glue() {
    let Some(folder) = shared("glue") else { return };
    let parts = [
        (GlueTask::Cola, 8551, 1043),
        (GlueTask::Sst2, 67_349, 872),
        (GlueTask::Mrpc, 3668, 408),
        (GlueTask::Stsb, 5749, 1500),
        (GlueTask::Qqp, 8999, 1000),
        (GlueTask::Mnli, 8999, 1000),
        (GlueTask::Qnli, 8999, 5463),
        (GlueTask::Rte, 2490, 277),
        (GlueTask::Wnli, 635, 71),
    ];
    for (task, train, validation) in parts {
        for (part, rows) in [(Part::Train, train), (Part::Validation, validation)] {
            let set = read(task, &folder, part).unwrap();
            assert_eq!(set.examples.len(), rows, "{task:?} {part}");
            assert_eq!(set.outputs(), task.outputs());
            assert_eq!(
                set.provenance.notes.is_empty(),
                task.official(part) == Some(rows),
                "{task:?}: {:?}",
                set.provenance.notes
            );
            let is_pair = !matches!(task, GlueTask::Cola | GlueTask::Sst2);
            assert!(
                set.examples
                    .iter()
                    .all(|example| example.second.is_some() == is_pair)
            );
            assert!(set.examples.iter().all(|example| !example.first.is_empty()));
        }
    }
    let notes = read(GlueTask::Mnli, &folder, Part::Validation)
        .unwrap()
        .provenance
        .notes;
    assert_eq!(
        notes,
        ["train.heldout-1000.tsv: 1000 of the official 9815 examples of validation"]
    );
    assert!(read(GlueTask::Mnli, &folder, Part::Mismatched).is_err());
}

/// Class shares that are published, and single examples of the official files.
#[test]
fn real_labels() {
    let Some(folder) = shared("glue") else { return };
    let shares = |task, part| {
        let set = read(task, &folder, part).unwrap();
        let mut counts = vec![0; set.outputs()];
        for example in &set.examples {
            match example.target {
                Target::Class(class) => counts[class as usize] += 1,
                Target::Score(_) => counts[0] += 1,
            }
        }
        counts
    };
    // awk over the files: unacceptable 2528 and acceptable 6023, and so on.
    assert_eq!(shares(GlueTask::Cola, Part::Train), [2528, 6023]);
    assert_eq!(shares(GlueTask::Sst2, Part::Validation), [428, 444]);
    assert_eq!(shares(GlueTask::Mrpc, Part::Validation), [129, 279]);
    assert_eq!(shares(GlueTask::Rte, Part::Validation), [146, 131]);
    assert_eq!(shares(GlueTask::Wnli, Part::Validation), [40, 31]);
    let mrpc = read(GlueTask::Mrpc, &folder, Part::Train).unwrap();
    assert_eq!(
        mrpc.examples[0].first,
        "Amrozi accused his brother , whom he called \" the witness \" , of deliberately \
         distorting his evidence ."
    );
    assert_eq!(mrpc.examples[0].target, Target::Class(1));
    let stsb = read(GlueTask::Stsb, &folder, Part::Validation).unwrap();
    assert_eq!(
        stsb.examples[0].second.as_deref(),
        Some("A man wearing a hard hat is dancing.")
    );
    assert_eq!(stsb.examples[0].target, Target::Score(5.0));
    let rte = read(GlueTask::Rte, &folder, Part::Train).unwrap();
    assert_eq!(rte.examples[0].target, Target::Class(1));
    let mnli = read(GlueTask::Mnli, &folder, Part::Train).unwrap();
    assert_eq!(mnli.examples[0].target, Target::Class(0));
}

#[test]
fn real_banking77() {
    let Some(folder) = shared("banking77") else {
        return;
    };
    let mut skip = SkipBad::default();
    let columns = TextColumns::banking77();
    let train = columns
        .read(&[folder.join("train.csv")], &mut skip)
        .unwrap();
    assert_eq!((train.examples.len(), train.classes.len()), (10_003, 77));
    let columns = TextColumns {
        classes: Some(train.classes.clone()),
        ..columns
    };
    let test = columns.read(&[folder.join("test.csv")], &mut skip).unwrap();
    assert_eq!(test.examples.len(), 3080);
    // 40 of every class.
    let mut counts = [0; 77];
    for example in &test.examples {
        let Target::Class(class) = example.target else {
            panic!()
        };
        counts[class as usize] += 1;
    }
    assert_eq!(counts, [40; 77]);
    assert_eq!(train.classes, rankwise_data::banking77().unwrap().classes());
}

fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    folder
}

#[test]
fn official_layouts_by_hand() {
    let folder = folder(&[
        (
            "CoLA/train.tsv",
            "gj04\t1\t\tA \"quoted sentence.\nks08\t0\t*\tBad it is.\n",
        ),
        (
            "MNLI/dev_mismatched.tsv",
            "index\tgenre\tsentence1\tsentence2\tlabel1\tgold_label\n0\tx\tp\th\tneutral\tcontradiction\n",
        ),
        (
            "QQP/train.tsv",
            "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n1\t2\t3\ta?\tb?\t1\n4\t5\tbroken\n",
        ),
    ]);
    let cola = read(GlueTask::Cola, folder.path(), Part::Train).unwrap();
    assert_eq!(cola.examples[0].first, "A \"quoted sentence.");
    assert_eq!(cola.examples[1].target, Target::Class(0));
    let mnli = read(GlueTask::Mnli, folder.path(), Part::Mismatched).unwrap();
    assert_eq!(mnli.examples[0].second.as_deref(), Some("h"));
    assert_eq!(mnli.examples[0].target, Target::Class(2));
    let qqp = read(GlueTask::Qqp, folder.path(), Part::Train).unwrap();
    assert_eq!(qqp.examples.len(), 1);
    assert_eq!(
        qqp.provenance.notes[0],
        "1 lines with missing fields left out, as the reference does"
    );
    let missing = read(GlueTask::Rte, folder.path(), Part::Train)
        .unwrap_err()
        .to_string();
    assert!(
        missing.contains("RTE: expected train or validation files of GLUE"),
        "{missing}"
    );
}

#[test]
fn bad_lines_of_glue_are_named_and_counted() {
    let folder = folder(&[(
        "train.tsv",
        "index\tsentence1\tsentence2\tlabel\n0\ta\tb\tentailment\n1\ta\tb\tmaybe\n2\ta\n3\tc\td\t1\n",
    )]);
    let fault = read(GlueTask::Rte, folder.path(), Part::Train)
        .unwrap_err()
        .to_string();
    assert!(
        fault.ends_with(
            "train.tsv: line 3: expected one of entailment, not_entailment, found the label \"maybe\""
        ),
        "{fault}"
    );
    let mut skip = SkipBad::new(2);
    let set = GlueTask::Rte
        .read(folder.path(), Part::Train, &mut skip)
        .unwrap();
    assert_eq!(set.examples.len(), 2);
    assert!(
        skip.skipped()[1].contains("line 4: expected at least 4 fields"),
        "{skip:?}"
    );
}

#[test]
fn hub_parquet() {
    let mut skip = SkipBad::new(1);
    let mrpc = GlueTask::Mrpc.read(&hub(), Part::Train, &mut skip).unwrap();
    assert_eq!(mrpc.examples.len(), 2);
    assert_eq!(mrpc.examples[0].first, "A \"b\"");
    assert_eq!(mrpc.examples[0].target, Target::Class(1));
    assert!(
        skip.skipped()[0]
            .contains("row 3: expected one of not_equivalent, equivalent, found the label \"-1\""),
        "{skip:?}"
    );
    let stsb = read(GlueTask::Stsb, &hub(), Part::Validation).unwrap();
    assert_eq!(stsb.examples[0].target, Target::Score(3.8));
    let mnli = read(GlueTask::Mnli, &hub(), Part::Mismatched).unwrap();
    assert_eq!(mnli.examples[0].first, "p");
    assert_eq!(mnli.examples[0].target, Target::Class(2));
    let columns = TextColumns {
        label: "intent".to_owned(),
        ..TextColumns::default()
    };
    let file = [hub().join("texts/train.parquet")];
    let fault = columns
        .read(&file, &mut SkipBad::default())
        .unwrap_err()
        .to_string();
    assert!(
        fault.contains("column text, row 3: expected a text, found nothing"),
        "{fault}"
    );
    let texts = columns.read(&file, &mut SkipBad::new(1)).unwrap();
    assert_eq!(texts.classes, ["greet", "leave"]);
    assert_eq!(texts.examples[0].target, Target::Class(1));
    let fault = TextColumns::default()
        .read(&file, &mut skip)
        .unwrap_err()
        .to_string();
    assert!(
        fault.contains("columns: expected column label, found only text, intent"),
        "{fault}"
    );
}

fn columns(label: &str) -> TextColumns {
    TextColumns {
        label: label.to_owned(),
        ..TextColumns::default()
    }
}

#[test]
fn one_table_in_every_format() {
    let folder = folder(&[
        ("t.csv", "label,text\nyes,\"a, \"\"b\"\"\nc\"\nno, d\n"),
        ("t.tsv", "label\ttext\nyes\t\"a, \"\"b\"\"\nc\"\nno\t d\n"),
        (
            "t.jsonl",
            "{\"text\": \"a, \\\"b\\\"\\nc\", \"label\": \"yes\"}\n\n{\"label\": \"no\", \"text\": \" d\"}\n",
        ),
        (
            "t.json",
            "[{\"text\": \"a, \\\"b\\\"\\nc\", \"label\": \"yes\"}, {\"label\": \"no\", \"text\": \" d\"}]",
        ),
    ]);
    for name in ["t.csv", "t.tsv", "t.jsonl", "t.json"] {
        let set = columns("label")
            .read(&[folder.path().join(name)], &mut SkipBad::default())
            .unwrap();
        assert_eq!(set.classes, ["no", "yes"], "{name}");
        assert_eq!(set.examples[0].first, "a, \"b\"\nc", "{name}");
        assert_eq!(set.examples[1].first, " d", "{name}");
        let targets = set.examples.iter().map(|example| example.target);
        assert!(targets.eq([Target::Class(1), Target::Class(0)]), "{name}");
    }
}

#[test]
fn labels_that_are_numbers() {
    let read = |text: &str, columns: &TextColumns| {
        let folder = folder(&[("t.csv", text)]);
        columns.read(&[folder.path().join("t.csv")], &mut SkipBad::default())
    };
    let classes = |text| read(text, &columns("label")).unwrap().classes;
    // Sorted as numbers; indices that begin at 0 keep their places; names like 007 stay texts.
    assert_eq!(classes("text,label\na,10\nb,9\nc,1\n"), ["1", "9", "10"]);
    assert_eq!(classes("text,label\na,0\nb,2\n"), ["0", "1", "2"]);
    assert_eq!(classes("text,label\na,007\nb,08\n"), ["007", "08"]);
    let named = TextColumns {
        classes: Some(vec!["good".to_owned(), "bad".to_owned()]),
        ..TextColumns::default()
    };
    let set = read("text,label\na,1\nb,good\n", &named).unwrap();
    assert_eq!(set.examples[0].target, Target::Class(1));
    assert_eq!(set.examples[1].target, Target::Class(0));
    let fault = read("text,label\na,2\n", &named).unwrap_err().to_string();
    assert!(
        fault.contains("line 2: expected one of 2 classes or its index, found the label \"2\""),
        "{fault}"
    );
    let only = folder(&[("t.csv", "text,label\na,2\n")]);
    let only = named.read(&[only.path().join("t.csv")], &mut SkipBad::new(1));
    assert!(
        only.unwrap_err()
            .to_string()
            .contains("examples: expected at least one, found none")
    );
    let numbers = TextColumns {
        classes: Some(vec!["5".to_owned(), "6".to_owned()]),
        ..TextColumns::default()
    };
    assert!(read("text,label\na,0\n", &numbers).is_err());
    let scores = TextColumns {
        regression: true,
        ..TextColumns::default()
    };
    let set = read("text,label\na,-1.5\n", &scores).unwrap();
    assert_eq!(
        (set.examples[0].target, set.outputs()),
        (Target::Score(-1.5), 1)
    );
    let fault = read("text,label\na,nan\n", &scores)
        .unwrap_err()
        .to_string();
    assert!(
        fault.contains("expected a number, found the label \"nan\""),
        "{fault}"
    );
}

#[test]
fn bad_records_of_tables_are_passed_over() {
    let folder = folder(&[
        ("t.csv", "text,label\na,x\nb\n\"open,y\nc,x\nd,y,z\ne,y\n"),
        (
            "t.jsonl",
            "{\"text\": \"a\", \"label\": 1}\nnot json\n{\"text\": 5, \"label\": 0}\n[]\n{\"text\": \"b\", \"label\": true}\n",
        ),
    ]);
    let mut skip = SkipBad::new(3);
    let set = columns("label")
        .read(&[folder.path().join("t.csv")], &mut skip)
        .unwrap();
    let texts: Vec<&str> = set
        .examples
        .iter()
        .map(|example| example.first.as_str())
        .collect();
    assert_eq!(texts, ["a", "c", "e"]);
    for (skipped, wanted) in skip.skipped().iter().zip([
        "t.csv: line 3: expected 2 fields as in the header, found 1",
        "t.csv: line 4, column 1: expected a closing quote",
        "t.csv: line 6: expected 2 fields as in the header, found 3",
    ]) {
        assert!(skipped.contains(wanted), "{skipped}");
    }
    let mut skip = SkipBad::new(3);
    let set = columns("label")
        .read(&[folder.path().join("t.jsonl")], &mut skip)
        .unwrap();
    assert_eq!(set.examples.len(), 2);
    assert_eq!(set.examples[0].target, set.examples[1].target);
    for (skipped, wanted) in skip.skipped().iter().zip([
        "t.jsonl: line 2: expected a JSON object",
        "t.jsonl: line 3: expected key text with a text, found 5",
        "t.jsonl: line 4: expected key text with a text, found none",
    ]) {
        assert!(skipped.contains(wanted), "{skipped}");
    }
    let fault = columns("class")
        .read(&[folder.path().join("t.csv")], &mut skip)
        .unwrap_err();
    assert!(
        fault
            .to_string()
            .contains("line 1: expected column class, found only text, label")
    );
}

proptest! {
    /// Whatever a file holds, it is read or refused, and what is passed over is counted.
    #[test]
    fn any_file_is_read_or_refused(
        ending in prop::sample::select(vec!["csv", "tsv", "json", "jsonl"]),
        text in "(text,label\n|text\tlabel\n|\\[)?([a-c01\",\t\n\r é]|\\{\"text\": \"a\", \"label\": 1\\}){0,40}",
    ) {
        let name = format!("t.{ending}");
        let folder = folder(&[(&name, &text), ("train.tsv", &text)]);
        let mut skip = SkipBad::new(20);
        let files = [folder.path().join(&name)];
        let set = TextColumns::default().read(&files, &mut skip);
        prop_assert!(skip.skipped().len() <= 20);
        if let Ok(set) = set {
            let classes = set.classes.len() as u32;
            let known = |target| matches!(target, Target::Class(class) if class < classes);
            prop_assert!(set.examples.iter().all(|example| known(example.target)));
        }
        for task in GlueTask::ALL {
            let _ = task.read(folder.path(), Part::Train, &mut SkipBad::new(20));
        }
    }
}
