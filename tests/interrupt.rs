//! Signals that end a command: what it says, what it leaves, and that the same command goes on.
#![cfg(unix)]

use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

fn begin(arguments: &[&str]) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rankwise"));
    command
        .args(arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command.spawn().unwrap()
}

/// Sends the signal as soon as `is_time`, and waits for the end.
fn interrupt(mut child: Child, signal: &str, is_time: impl Fn() -> bool) -> Output {
    let start = Instant::now();
    while !is_time() {
        assert!(child.try_wait().unwrap().is_none(), "it ended by itself");
        assert!(start.elapsed() < Duration::from_secs(120));
        thread::sleep(Duration::from_millis(20));
    }
    let id = child.id().to_string();
    let sent = Command::new("kill").args([signal, &id]).status().unwrap();
    assert!(sent.success());
    child.wait_with_output().unwrap()
}

fn leftovers(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(leftovers(&path));
        }
        let name = path.file_name().unwrap().to_string_lossy();
        if name.contains("unfinished") {
            found.push(name.into_owned());
        }
    }
    found
}

#[test]
fn a_training_says_what_is_finished_and_goes_on_with_the_same_command() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("runs");
    let shown = out.display().to_string();
    // The second run is long enough to be met at work.
    let first = [
        "train",
        "--method",
        "lora",
        "--rank",
        "4",
        "--set",
        "schedule.epochs=2",
    ];
    let done = begin(&[&first[..], &["--out", &shown]].concat()).wait_with_output();
    assert!(done.unwrap().status.success());
    let long = [
        "train",
        "--method",
        "gm-lora",
        "--rank",
        "4",
        "--threads",
        "1",
        "--set",
        "schedule.epochs=2000",
        "--set",
        "schedule.checkpoint_every=1",
        "--out",
        &shown,
    ];
    let checkpoint = out.join("gm-lora-r4-s0/checkpoint.safetensors");
    let output = interrupt(begin(&long), "-INT", || checkpoint.is_file());
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(130), "{message}");
    let expected = format!(
        "interrupted: runs in {shown}: 1 finished, 1 with a checkpoint; the same command goes on from \
         the last checkpoint\n"
    );
    assert_eq!(message, expected);
    assert!(output.stdout.is_empty());
    assert!(leftovers(&out).is_empty());
    // A checkpoint that is whole is gone on with: its time does not go back.
    let before = std::fs::read(&checkpoint).unwrap();
    let output = interrupt(begin(&long), "-INT", || {
        std::fs::read(&checkpoint).unwrap() != before
    });
    assert_eq!(output.status.code(), Some(130));
}

#[test]
fn a_command_that_keeps_nothing_says_that_it_begins_anew() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("theory");
    let shown = out.display().to_string();
    let endless = ["verify", "--random", "100000000", "--out", &shown];
    let output = interrupt(begin(&endless), "-TERM", || out.is_dir());
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(143), "{message}");
    let expected =
        format!("interrupted: nothing was written to {shown}; the same command begins anew\n");
    assert_eq!(message, expected);
    assert_eq!(std::fs::read_dir(&out).unwrap().count(), 0);
}
