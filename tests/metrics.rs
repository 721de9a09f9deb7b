//! Tables of metrics that nobody should have written: the command says so and goes on living.

use std::fs;
use std::path::Path;

use assert_cmd::Command;
use rankwise_analysis::PeftAdapter;
use rankwise_data::Table;

fn audited(adapters: &Path, metrics: &Path) -> std::process::Output {
    Command::new(env!("CARGO_BIN_EXE_rankwise"))
        .args(["audit", "--json", "--metrics"])
        .args([metrics, adapters])
        .output()
        .unwrap()
}

/// Five adapters `a0` to `a4` and a Parquet file with a row for each.
fn experiment(folder: &Path) -> Vec<u8> {
    for index in 0..5_u8 {
        let x = f32::from(index);
        let adapter = PeftAdapter {
            module: "q".to_owned(),
            rank: 2,
            inputs: 2,
            outputs: 2,
            alpha: 2.0,
            a: vec![1.0, 0.0, 0.0, 1.0],
            b: vec![1.0, x, 0.0, 1.0 + x * x],
            bias: None,
        };
        let path = folder.join("adapters").join(format!("a{index}"));
        adapter.write(&path).unwrap();
    }
    let names = (0..5).map(|index| format!("a{index}"));
    let table = Table::new(vec![
        ("adapter", names.collect()),
        ("seed", (0..5_usize).collect()),
        (
            "loss",
            [0.5, 0.25, 0.125, f64::NAN, 1.0].into_iter().collect(),
        ),
    ]);
    let path = folder.join("metrics.parquet");
    table.unwrap().write_parquet(&path).unwrap();
    fs::read(path).unwrap()
}

/// What a child process read is what would have been read here: CSV is not read by a child.
#[test]
fn parquet_and_csv_give_the_same_links() {
    let folder = tempfile::tempdir().unwrap();
    experiment(folder.path());
    let csv = "adapter,seed,loss\na0,0,0.5\na1,1,0.25\na2,2,0.125\na3,3,\na4,4,1\n";
    fs::write(folder.path().join("metrics.csv"), csv).unwrap();
    let adapters = folder.path().join("adapters");
    let by = |file: &str| audited(&adapters, &folder.path().join(file));
    let (parquet, csv) = (by("metrics.parquet"), by("metrics.csv"));
    assert!(
        parquet.status.success(),
        "{}",
        String::from_utf8_lossy(&parquet.stderr)
    );
    assert_eq!(
        String::from_utf8(parquet.stdout).unwrap(),
        String::from_utf8(csv.stdout).unwrap()
    );
}

#[test]
fn a_damaged_parquet_file_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let sound = experiment(folder.path());
    let adapters = folder.path().join("adapters");
    let path = folder.path().join("damaged.parquet");
    let mut refused = 0;
    for seed in 0..200 {
        let mut state: u64 = seed;
        let mut below = |n: usize| {
            // Knuth's MMIX: enough to pick places.
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize % n
        };
        let mut bytes = sound.clone();
        for _ in 0..1 + below(4) {
            let place = 4 + below(bytes.len() - 12);
            bytes[place] ^= 1 << below(8);
        }
        fs::write(&path, &bytes).unwrap();
        let output = audited(&adapters, &path);
        let said = String::from_utf8_lossy(&output.stderr);
        match output.status.code() {
            Some(0) => {}
            Some(2) => {
                refused += 1;
                assert!(said.starts_with("error: "), "{seed}: {said}");
                assert_eq!(said.matches("error: ").count(), 1, "{seed}: {said}");
            }
            other => panic!("{seed}: exit code {other:?}, {said}"),
        }
    }
    assert!(refused > 20, "only {refused} of 200 were refused");
}

#[test]
fn the_message_names_the_file_once() {
    let folder = tempfile::tempdir().unwrap();
    let sound = experiment(folder.path());
    let path = folder.path().join("cut.parquet");
    fs::write(&path, &sound[..sound.len() / 2]).unwrap();
    let output = audited(&folder.path().join("adapters"), &path);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(
        said.contains("cut.parquet: file: expected Parquet"),
        "{said}"
    );
    assert_eq!(said.matches("cut.parquet").count(), 1, "{said}");
}
