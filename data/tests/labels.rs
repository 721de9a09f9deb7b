//! Labels: the same class whoever wrote it, in every format; none, or an error that names the row.
#![cfg(feature = "texts")]

use std::fs;
use std::path::{Path, PathBuf};

use rankwise_data::{Column, Error, GlueTask, Part, SkipBad, Table, Target, TextColumns, TextSet};

/// A label as each format can have it.
enum Cell {
    Text(&'static str),
    Whole(i64),
    Real(f64),
    Truth(bool),
    Nothing,
}

use Cell::{Nothing, Real, Text, Truth, Whole};

impl Cell {
    fn plain(&self) -> String {
        match self {
            Text(text) => (*text).to_owned(),
            Whole(number) => number.to_string(),
            Real(number) => format!("{number:?}"),
            // As pandas writes them.
            Truth(true) => "True".to_owned(),
            Truth(false) => "False".to_owned(),
            Nothing => String::new(),
        }
    }

    fn json(&self) -> String {
        match self {
            Text(text) => format!("{text:?}"),
            Truth(value) => value.to_string(),
            Nothing => "null".to_owned(),
            Whole(_) | Real(_) => self.plain(),
        }
    }
}

/// The same table in every format that can have it.
fn files(folder: &Path, name: &str, labels: &[Cell]) -> Vec<PathBuf> {
    let lines = |separator: char| -> String {
        let rows = labels.iter().enumerate();
        let rows = rows.map(|(at, label)| format!("t{at}{separator}{}\n", label.plain()));
        format!("text{separator}label\n{}", rows.collect::<String>())
    };
    let objects: Vec<String> = labels
        .iter()
        .enumerate()
        .map(|(at, label)| format!("{{\"text\": \"t{at}\", \"label\": {}}}", label.json()))
        .collect();
    let mut paths = Vec::new();
    for (ending, content) in [
        ("csv", lines(',')),
        ("tsv", lines('\t')),
        ("jsonl", objects.join("\n")),
        ("json", format!("[{}]", objects.join(", "))),
    ] {
        let path = folder.join(format!("{name}.{ending}"));
        fs::write(&path, content).unwrap();
        paths.push(path);
    }
    let texts: Column = (0..labels.len()).map(|at| format!("t{at}")).collect();
    let column: Option<Column> = if labels.iter().all(|l| matches!(l, Text(_))) {
        Some(labels.iter().map(Cell::plain).collect())
    } else if labels.iter().all(|l| matches!(l, Real(_) | Nothing)) {
        let number = |label: &Cell| match label {
            Real(number) => Some(*number),
            _ => None,
        };
        Some(labels.iter().map(number).collect())
    } else if labels.iter().all(|l| matches!(l, Whole(_))) {
        let number = |label: &Cell| label.plain().parse::<usize>().unwrap();
        Some(labels.iter().map(number).collect())
    } else {
        None
    };
    if let Some(column) = column {
        let path = folder.join(format!("{name}.parquet"));
        let table = Table::new(vec![("text", texts), ("label", column)]).unwrap();
        table.write_parquet(&path).unwrap();
        paths.push(path);
    }
    paths
}

fn read(columns: &TextColumns, path: &Path) -> Result<TextSet, Error> {
    columns.read(&[path.to_path_buf()], &mut SkipBad::default())
}

fn targets(set: &TextSet) -> Vec<u32> {
    let class = |target| match target {
        Target::Class(class) => class,
        Target::Score(score) => panic!("a score, {score}"),
    };
    set.examples.iter().map(|e| class(e.target)).collect()
}

/// Trained on one table, validated on the other: the classes' names and those of the second table.
#[test]
fn one_class_in_every_format_and_spelling() {
    let folder = tempfile::tempdir().unwrap();
    let mut compared = 0;
    for (number, (train, other, names, expected)) in [
        // pandas makes floats of whole numbers where some are missing.
        (
            vec![Real(1.0), Real(3.0), Real(2.0)],
            vec![Whole(2), Whole(1)],
            vec!["1", "2", "3"],
            vec![1, 0],
        ),
        (
            vec![Whole(1), Whole(3), Whole(2)],
            vec![Real(2.0), Real(1.0)],
            vec!["1", "2", "3"],
            vec![1, 0],
        ),
        (
            vec![Whole(0), Whole(1)],
            vec![Text("1"), Text("0")],
            vec!["0", "1"],
            vec![1, 0],
        ),
        (
            vec![Text("yes "), Text(" no")],
            vec![Text("no"), Text("\tyes")],
            vec!["no", "yes"],
            vec![0, 1],
        ),
        (
            vec![Truth(true), Truth(false)],
            vec![Text("true"), Text("FALSE")],
            vec!["False", "True"],
            vec![1, 0],
        ),
        (
            vec![Whole(1), Whole(0)],
            vec![Truth(false), Truth(true)],
            vec!["0", "1"],
            vec![0, 1],
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let others = files(folder.path(), &format!("other{number}"), &other);
        for path in files(folder.path(), &format!("train{number}"), &train) {
            let set = read(&TextColumns::default(), &path).unwrap();
            assert_eq!(set.classes, names, "{}", path.display());
            let columns = TextColumns {
                classes: Some(set.classes),
                ..TextColumns::default()
            };
            for other in &others {
                // A tab ends a field of TSV.
                let Ok(set) = read(&columns, other) else {
                    assert_eq!(other.extension().unwrap(), "tsv");
                    continue;
                };
                assert_eq!(targets(&set), expected, "{}", other.display());
                assert!(set.provenance.notes.is_empty());
                compared += 1;
            }
        }
    }
    assert!(compared > 100, "{compared}");
}

#[test]
fn no_label_is_no_class() {
    let folder = tempfile::tempdir().unwrap();
    for (number, labels) in [
        vec![Text("a"), Text("b"), Text("")],
        vec![Text("a"), Text("b"), Text(" ")],
        vec![Text("a"), Text("b"), Text("nan")],
        vec![Text("a"), Text("b"), Text("None")],
        vec![Text("a"), Text("b"), Text("null")],
        vec![Real(1.0), Real(0.0), Nothing],
        vec![Text("a"), Text("b"), Nothing],
    ]
    .iter()
    .enumerate()
    {
        for path in files(folder.path(), &format!("t{number}"), labels) {
            let ending = path.extension().unwrap().to_string_lossy().into_owned();
            let place = match ending.as_str() {
                "csv" | "tsv" => "line 4",
                "jsonl" => "line 3",
                "json" => "record 3",
                _ => "row 3",
            };
            let fault = read(&TextColumns::default(), &path)
                .unwrap_err()
                .to_string();
            assert!(fault.contains(place), "{fault}");
            let mut skip = SkipBad::new(1);
            let files = [path.clone()];
            let set = TextColumns::default().read(&files, &mut skip).unwrap();
            assert_eq!((set.classes.len(), set.examples.len()), (2, 2), "{ending}");
            assert_eq!(skip.skipped().len(), 1);
            assert!(skip.skipped()[0].contains(place), "{skip:?}");
        }
    }
    // A class that is called so is one.
    let path = &files(folder.path(), "stance", &[Text("None"), Text("For")])[0];
    let columns = TextColumns {
        classes: Some(vec!["For".to_owned(), "None".to_owned()]),
        ..TextColumns::default()
    };
    assert_eq!(targets(&read(&columns, path).unwrap()), [1, 0]);
    // Not a number in JSON is no JSON; in Parquet it is a float.
    let numbers: Column = [1.0, f64::NAN].into_iter().map(Some).collect();
    let texts: Column = ["a", "b"].into_iter().map(str::to_owned).collect();
    let table = Table::new(vec![("text", texts), ("label", numbers)]).unwrap();
    let path = folder.path().join("nan.parquet");
    table.write_parquet(&path).unwrap();
    let fault = read(&TextColumns::default(), &path)
        .unwrap_err()
        .to_string();
    assert!(fault.contains("row 2"), "{fault}");
}

#[test]
fn scores_are_no_classes() {
    let folder = tempfile::tempdir().unwrap();
    let labels = [Real(3.0), Real(0.25), Real(4.5)];
    for path in files(folder.path(), "scores", &labels) {
        let fault = read(&TextColumns::default(), &path)
            .unwrap_err()
            .to_string();
        assert!(fault.contains("task.columns.regression = true"), "{fault}");
        assert!(fault.contains("the label \"0.25\""), "{fault}");
        let regression = TextColumns {
            regression: true,
            ..TextColumns::default()
        };
        let set = read(&regression, &path).unwrap();
        assert_eq!(set.examples[1].target, Target::Score(0.25));
        let named = TextColumns {
            classes: Some(["0.25", "3", "4.5"].map(str::to_owned).to_vec()),
            ..TextColumns::default()
        };
        assert_eq!(targets(&read(&named, &path).unwrap()), [1, 0, 2]);
    }
    // Versions are names, of which not all are numbers.
    let path = &files(folder.path(), "versions", &[Text("1.5"), Text("v2")])[0];
    let set = read(&TextColumns::default(), path).unwrap();
    assert_eq!(set.classes, ["1.5", "v2"]);
}

#[test]
fn numbers_of_named_classes_are_said() {
    let folder = tempfile::tempdir().unwrap();
    let named = TextColumns {
        classes: Some(["bad", "good"].map(str::to_owned).to_vec()),
        ..TextColumns::default()
    };
    for path in files(folder.path(), "t", &[Whole(1), Whole(0)]) {
        let set = read(&named, &path).unwrap();
        assert_eq!(targets(&set), [1, 0]);
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let note = format!("{name}: 2 labels were read as numbers of classes: 0 is bad, 1 is good");
        assert_eq!(set.provenance.notes, [note]);
    }
}

#[test]
fn labels_of_glue_are_read_alike() {
    let folder = tempfile::tempdir().unwrap();
    let table =
        "index\tsentence1\tsentence2\tlabel\n0\ta\tb\t entailment\n1\ta\tb\t1.0\n2\ta\tb\t\n";
    fs::write(folder.path().join("train.tsv"), table).unwrap();
    let mut skip = SkipBad::new(1);
    let set = GlueTask::Rte.read(folder.path(), Part::Train, &mut skip);
    assert_eq!(targets(&set.unwrap()), [0, 1]);
    assert!(
        skip.skipped()[0].contains("train.tsv: line 4: expected one of"),
        "{skip:?}"
    );
}

/// Which of two columns of a name is meant is nowhere said.
#[test]
fn a_column_that_comes_twice_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("train.csv");
    for (header, column) in [
        ("text,label,label", "label in 2 and 3"),
        ("text,text,label", "text in 1 and 2"),
    ] {
        std::fs::write(&path, format!("{header}\na,x,p\nb,y,q\n")).unwrap();
        let fault = TextColumns::default()
            .read(std::slice::from_ref(&path), &mut SkipBad::default())
            .unwrap_err()
            .to_string();
        let (name, places) = column.split_once(" in ").unwrap();
        let expected = format!("line 1: expected column {name} once, found it in columns {places}");
        assert!(fault.ends_with(&expected), "{fault}");
    }
}
