//! `rankwise compare` as a user meets it: what it prints, writes and refuses.

mod browser;

use std::fs;
use std::path::{Path, PathBuf};

use assert_cmd::Command;
use browser::opened;
use serde_json::Value;

fn fixture(name: &str) -> PathBuf {
    let fixtures = "analysis/tests/fixtures/compare";
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join(fixtures)
        .join(name)
}

fn compare() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rankwise"));
    command.arg("compare");
    command
}

/// The exit code and the message on standard error.
fn refused(command: &mut Command) -> (Option<i32>, String) {
    let output = command.output().unwrap();
    assert!(
        output.stdout.is_empty(),
        "{:?}",
        String::from_utf8_lossy(&output.stdout)
    );
    let message = String::from_utf8(output.stderr).unwrap();
    (output.status.code(), message)
}

#[test]
fn two_adapters_and_their_base_in_every_form() {
    let out = tempfile::tempdir().unwrap();
    let output = compare()
        .args([fixture("linear/one"), fixture("linear/other")])
        .args([
            "--json",
            "--intruder-k",
            "5",
            "--intruder-cosine",
            "0.7",
            "--base",
        ])
        .arg(fixture("linear/base"))
        .arg("--out")
        .arg(out.path())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let printed: Value = serde_json::from_slice(&output.stdout).unwrap();
    let kept = fs::read_to_string(out.path().join("comparison.json")).unwrap();
    assert_eq!(serde_json::from_str::<Value>(&kept).unwrap(), printed);
    let expected = fs::read_to_string(fixture("linear/expected.json")).unwrap();
    let expected: Value = serde_json::from_str(&expected).unwrap();
    let pairs = printed["pairs"].as_array().unwrap();
    assert_eq!(pairs.len(), 3);
    let csv = fs::read_to_string(out.path().join("pairs.csv")).unwrap();
    let header: Vec<&str> = csv.lines().next().unwrap().split(',').collect();
    for (pair, line) in pairs.iter().zip(csv.lines().skip(1)) {
        let expected = &expected["modules"][pair["module"].as_str().unwrap()];
        let phi = expected["phi_left"].as_array().unwrap().last().unwrap();
        let all = pair["left"]["all"]["phi"].as_f64().unwrap();
        let theirs = phi.as_array().unwrap().last().unwrap().as_f64().unwrap();
        // As in the library's own test: singular vectors of small random matrices.
        assert!((all - theirs).abs() < 1e-11, "{all} {theirs}");
        let column = header
            .iter()
            .position(|&name| name == "left_all_phi")
            .unwrap();
        let written: f64 = line.split(',').nth(column).unwrap().parse().unwrap();
        assert_eq!(written, all);
    }
    for update in printed["updates"].as_array().unwrap() {
        let of = &expected["modules"][update["module"].as_str().unwrap()]["against"];
        let expected = &of[update["adapter"].as_u64().unwrap() as usize]["intruders"];
        assert_eq!(&update["against_weight"]["intruders"], expected);
    }
    for name in [
        "similarity.svg",
        "layers.svg",
        "similarity.png",
        "updates.parquet",
    ] {
        assert!(
            fs::metadata(out.path().join(name)).unwrap().len() > 100,
            "{name}"
        );
    }
    let section = fs::read_to_string(out.path().join("section.html")).unwrap();
    assert!(section.contains("<h2>one and other</h2>"), "{section}");
    let page = fs::read_to_string(out.path().join("compare.html")).unwrap();
    for text in [
        "<h1>one and other</h1>",
        "default-src 'none'",
        "<h2>Beside the base model</h2>",
        "<li>one and other share 3 of 3 and 3 modules.</li>",
    ] {
        assert!(page.contains(text), "{text}");
    }
    // Both figures, and nothing that is fetched.
    assert_eq!(page.matches("<figure ").count(), 2);
    let elsewhere = page.replace("http://www.w3.org/2000/svg", "");
    for text in ["http:", "https:", "src=\"", "@import"] {
        assert!(!elsewhere.contains(text), "{text}");
    }
    let Some(dom) = opened(&page, "sort=left_all_phi&order=descending") else {
        return;
    };
    // As the CSV file has them, the largest first.
    let mut phi: Vec<(f64, usize)> = pairs
        .iter()
        .enumerate()
        .map(|(row, pair)| (pair["left"]["all"]["phi"].as_f64().unwrap(), row))
        .collect();
    phi.sort_by(|x, y| y.0.total_cmp(&x.0));
    let rows: Vec<String> = phi.iter().map(|(_, row)| row.to_string()).collect();
    let found = dom.split("<tr data-row=\"").skip(1);
    let found: Vec<&str> = found.map(|part| part.split('"').next().unwrap()).collect();
    assert_eq!(found, rows);
}

#[test]
fn the_table_fits_100_columns_and_names_what_was_found() {
    let output = compare()
        .args([fixture("linear/one"), fixture("linear/other")])
        .arg("--base")
        .arg(fixture("linear/base"))
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let tables = text.lines().take_while(|line| !line.starts_with("- "));
    let widest = tables.map(|line| line.chars().count()).max().unwrap();
    assert!(widest <= 100, "{widest}:\n{text}");
    assert!(
        text.contains("- one and other share 3 of 3 and 3 modules."),
        "{text}"
    );
    assert!(
        text.contains("one: 4 intruder dimensions in 2 of 3 modules"),
        "{text}"
    );
}

/// Less itself an adapter has learned nothing.
#[test]
fn the_initial_adapter_is_taken_away() {
    let one = fixture("linear/one");
    let output = compare()
        .args([&one, &fixture("linear/other")])
        .args(["--json", "--initial"])
        .arg(&one)
        .output()
        .unwrap();
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    for pair in json["pairs"].as_array().unwrap() {
        assert_eq!(pair["ranks"][0], 0, "{pair}");
        assert!(pair["ranks"][1].as_u64().unwrap() > 0, "{pair}");
    }
    let (code, message) = refused(compare().args([&one, &one]).args(["--initial", "nowhere"]));
    assert_eq!(code, Some(2));
    assert!(message.contains("nowhere"), "{message}");
}

#[test]
fn directions_are_all_or_numbers() {
    let grid = |directions: &str| {
        let output = compare()
            .args([fixture("linear/one"), fixture("linear/other")])
            .args(["--json", "--directions", directions])
            .output()
            .unwrap();
        let json: Value = serde_json::from_slice(&output.stdout).unwrap();
        json["pairs"][0]["left"]["grid"]["second"].clone()
    };
    assert_eq!(grid("all"), serde_json::json!([1, 2, 3, 4]));
    assert_eq!(grid("4,1,1"), serde_json::json!([1, 4]));
    let (code, message) = refused(compare().args(["a", "b", "--directions", "0"]));
    assert_eq!(code, Some(2));
    assert!(
        message.contains("expected all or numbers from 1 on, found \"0\""),
        "{message}"
    );
}

/// The checkpoints of one run: the first is the trained adapter halved, the last doubled.
#[test]
fn a_run_over_time_and_many_adapters() {
    let folder = tempfile::tempdir().unwrap();
    let names = ["checkpoint-10", "checkpoint-9", "checkpoint-200"];
    for (name, from) in names.into_iter().zip(["one", "other", "one"]) {
        let to = folder.path().join(name);
        fs::create_dir(&to).unwrap();
        for file in ["adapter_model.safetensors", "adapter_config.json"] {
            fs::copy(fixture("linear").join(from).join(file), to.join(file)).unwrap();
        }
    }
    let out = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| {
        let output = compare()
            .arg(folder.path())
            .args(arguments)
            .arg("--out")
            .arg(out.path())
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap()
    };
    let course = run(&["--over-time"]);
    let steps: Vec<&str> = course
        .lines()
        .filter_map(|line| line.split_whitespace().next()?.strip_prefix("checkpoint-"))
        .collect();
    assert_eq!(steps, ["9", "10", "200"], "{course}");
    assert!(
        course.contains("those of the last checkpoint to 0.9 from checkpoint-10 on"),
        "{course}"
    );
    assert!(out.path().join("course.svg").is_file());
    let page = || fs::read_to_string(out.path().join("compare.html")).unwrap();
    assert!(page().contains("<h2>The run over time, means over modules</h2>"));
    let many = run(&[]);
    assert!(
        many.contains("The most alike in their updates are checkpoint-10 and checkpoint-200"),
        "{many}"
    );
    assert!(out.path().join("likeness.svg").is_file());
    let page = page();
    assert!(page.contains("<h2>Every two adapters, means over shared modules</h2>"));
    // Three adapters with a section each, and no curves to draw.
    assert_eq!(page.matches("<details id=\"group-").count(), 3);
    if let Some(dom) = opened(&page, "open=2") {
        assert_eq!(dom.matches("<tr data-row=").count(), 3);
        assert!(!dom.contains("class=\"mini\""));
    }
}

#[test]
fn what_cannot_be_compared_ends_with_code_2() {
    let one = fixture("linear/one");
    for (other, expected) in [
        (
            fixture("conv1d/one"),
            "modules: expected one of the name and shape of one in",
        ),
        (
            fixture("linear/base"),
            "adapters: expected two or more, found 1; model.safetensors in",
        ),
        (fixture("nothing"), "nothing"),
    ] {
        let (code, message) = refused(compare().args([&one, &other]));
        assert_eq!(code, Some(2), "{message}");
        assert!(message.contains(expected), "{message}");
    }
    let (code, message) = refused(compare().arg(&one));
    assert_eq!(code, Some(2));
    assert!(
        message.contains("adapters: expected two or more, found 1"),
        "{message}"
    );
    let (code, message) = refused(compare().args([&one, &one]).args(["--rank", "0"]));
    assert_eq!(code, Some(2));
    assert!(
        message.contains("rank of the comparison: expected 1 or more, found 0"),
        "{message}"
    );
}
