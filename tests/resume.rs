//! Runs are the same bits at any thread count and after any interruption.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

const EPOCHS: &str = "schedule.epochs=12";

fn train(out: &Path, threads: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rankwise"));
    command
        .args(["train", "--quiet", "--threads", threads])
        .args([
            "--method",
            "full,lora,r-lora,gm-lora,rm-lora",
            "--rank",
            "8",
        ])
        .args([
            "--set",
            EPOCHS,
            "--set",
            "schedule.checkpoint_every=1",
            "--out",
        ])
        .arg(out)
        .stdout(Stdio::null());
    command
}

/// Every file below `folder` by its relative path, less the wall times.
fn contents(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.file_name().unwrap() != "run.json" {
                let name = path.strip_prefix(folder).unwrap().to_path_buf();
                files.insert(name, fs::read(&path).unwrap());
            }
        }
    }
    files
}

#[test]
fn threads_and_kills_leave_the_bits_alone() {
    let folder = tempfile::tempdir().unwrap();
    let whole = folder.path().join("whole");
    assert!(train(&whole, "1").status().unwrap().success());
    let expected = contents(&whole);
    // Five runs: config, metrics and base each; a trained weight once, adapters of two files.
    assert_eq!(expected.len(), 5 * 3 + 1 + 4 * 2);

    let two_threads = folder.path().join("two");
    assert!(train(&two_threads, "2").status().unwrap().success());
    assert_eq!(contents(&two_threads), expected);

    let killed = folder.path().join("killed");
    for milliseconds in [40, 90, 140, 60, 200] {
        let mut child = train(&killed, "2").spawn().unwrap();
        std::thread::sleep(Duration::from_millis(milliseconds));
        // SIGKILL; a run that was quicker has simply ended.
        let _ = child.kill();
        child.wait().unwrap();
    }
    assert!(train(&killed, "1").status().unwrap().success());
    assert_eq!(contents(&killed), expected);
}

/// Whatever the moment of the kill, this is a checkpoint that training goes on from.
#[test]
fn a_checkpoint_is_gone_on_from() {
    let folder = tempfile::tempdir().unwrap();
    let name = "gm-lora-r8-s0";
    let resumed = folder.path().join("resumed");
    let mut child = train_slowly(&resumed);
    let checkpoint = resumed.join(name).join("checkpoint.safetensors");
    while !checkpoint.exists() {
        assert!(
            child.try_wait().unwrap().is_none(),
            "the run ended before a checkpoint was seen"
        );
        std::thread::sleep(Duration::from_millis(1));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(checkpoint.exists() && !resumed.join(name).join("run.json").exists());
    let again = train_slowly(&resumed).wait().unwrap();
    assert!(again.success());
    let uninterrupted = folder.path().join("uninterrupted");
    assert!(train_slowly(&uninterrupted).wait().unwrap().success());
    assert_eq!(contents(&resumed), contents(&uninterrupted));
}

/// Long enough to be killed between two checkpoints.
fn train_slowly(out: &Path) -> std::process::Child {
    Command::new(env!("CARGO_BIN_EXE_rankwise"))
        .args(["train", "--quiet", "--method", "gm-lora", "--rank", "8"])
        .args([
            "--set",
            "schedule.epochs=60",
            "--set",
            "schedule.checkpoint_every=1",
            "--out",
        ])
        .arg(out)
        .spawn()
        .unwrap()
}

#[test]
fn another_configurations_folder_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    assert!(train(folder.path(), "2").status().unwrap().success());
    let before = contents(folder.path());
    let output = train(folder.path(), "2")
        .args(["--set", "optimizer.beta1=0.8"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(
        message.contains("expected `optimizer.beta1 = 0.8`, found `optimizer.beta1 = 0.9`"),
        "{message}"
    );
    assert_eq!(contents(folder.path()), before);
}
