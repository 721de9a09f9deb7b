//! Which findings the fixtures of all formats give rise to: a finding that a CI fails on must not be a
//! false alarm, and none may get lost.
//!
//! `fixtures/formats/findings.txt` has a line for every fixture with findings, alone and beside the base
//! weights or the initial adapter where it has them. The fixtures' factors are random numbers of full
//! rank, so that what the table says beyond `definitions_disagree` and `unused_budget` is known of each.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use rankwise_analysis::{AuditOptions, audit};
use serde_json::Value;

/// The kinds of findings of one fixture, with how many there are of each.
fn kinds(path: &Path, base: Option<PathBuf>, initial: Option<PathBuf>) -> String {
    let beside = base.clone();
    let options = AuditOptions {
        base,
        initial,
        ..AuditOptions::default()
    };
    let audit = audit(path, &options).unwrap();
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    let own = audit.adapters.iter().filter(|adapter| {
        let path = Path::new(&adapter.path);
        Some(path) != beside.as_deref() && path.file_name() != Some("initial".as_ref())
    });
    for finding in own.flat_map(|adapter| &adapter.findings) {
        *counts.entry(finding.kind.name()).or_default() += 1;
    }
    let list: Vec<String> = counts
        .iter()
        .map(|(kind, count)| format!("{kind} {count}"))
        .collect();
    list.join(", ")
}

#[test]
fn fixtures_have_the_findings_of_the_table_and_no_others() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/formats");
    let mut fixtures: Vec<PathBuf> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.join("expected.json").is_file())
        .collect();
    fixtures.sort();
    assert!(fixtures.len() > 160, "{}", fixtures.len());
    let mut table = String::new();
    for fixture in fixtures {
        let text = std::fs::read_to_string(fixture.join("expected.json")).unwrap();
        let expected: Value = serde_json::from_str(&text).unwrap();
        let beside = |field: &str| Some(fixture.join(expected[field].as_str()?));
        let path = match expected["file"].as_str() {
            Some(".") | None => fixture.clone(),
            Some(file) => fixture.join(file),
        };
        let name = fixture.file_name().unwrap().to_string_lossy();
        let mut line = |how: &str, kinds: String| {
            if !kinds.is_empty() {
                writeln!(table, "{name}{how}: {kinds}").unwrap();
            }
        };
        line("", kinds(&path, None, None));
        let (base, initial) = (beside("base"), beside("initial"));
        if base.is_some() || initial.is_some() {
            line(" (with what it needs)", kinds(&path, base, initial));
        }
    }
    let known = std::fs::read_to_string(folder.join("findings.txt")).unwrap_or_default();
    if std::env::var_os("RANKWISE_WRITE_FINDINGS").is_some() {
        std::fs::write(folder.join("findings.txt"), &table).unwrap();
        return;
    }
    let new: Vec<&str> = table.lines().filter(|line| !known.contains(line)).collect();
    let lost: Vec<&str> = known.lines().filter(|line| !table.contains(line)).collect();
    assert!(
        new.is_empty() && lost.is_empty(),
        "new: {new:#?}\nlost: {lost:#?}"
    );
}
