//! Every adapter format against the library that writes it.
//!
//! `fixtures/formats/` has a folder for each: the adapter as the library saves it and the numbers that
//! the library itself arrives at (`expected.json`, whose fields `common.py` explains; the programs that
//! made them lie beside). All differences of all fixtures are collected into one message.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use rankwise_analysis::{Audit, AuditOptions, Refused, audit};
use serde_json::Value;

/// Scales are quotients of numbers that both sides read exactly.
const SCALE: f64 = 1e-14;

/// What a format puts before a module's name in its keys.
const PREFIXES: [&str; 8] = [
    "base_model.model.",
    "lora_unet_",
    "lora_te_",
    "lora_te1_",
    "lora_te2_",
    "lycoris_",
    "unet.",
    "text_encoder.",
];

/// The folders at or below `folder` that have numbers, in the order of their names.
fn fixtures(folder: &Path, found: &mut Vec<PathBuf>) {
    if folder.join("expected.json").is_file() {
        found.push(folder.to_path_buf());
    }
    let mut entries: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    entries.sort();
    for entry in entries.iter().filter(|entry| entry.is_dir()) {
        fixtures(entry, found);
    }
}

/// One fixture: what is expected, what the audit says, and where they differ.
struct Comparison {
    folder: PathBuf,
    expected: Value,
    mismatches: Vec<String>,
}

impl Comparison {
    fn new(folder: PathBuf) -> Self {
        let text = std::fs::read_to_string(folder.join("expected.json")).unwrap();
        let mut comparison = Self {
            folder,
            expected: serde_json::from_str(&text).unwrap(),
            mismatches: Vec::new(),
        };
        let options = AuditOptions {
            base: comparison.file("base"),
            initial: comparison.file("initial"),
            ..AuditOptions::default()
        };
        let path = match comparison.expected["file"].as_str().unwrap() {
            "." => comparison.folder.clone(),
            file => comparison.folder.join(file),
        };
        match audit(&path, &options) {
            Ok(audit) => {
                comparison.modules(&audit);
                comparison.refused(&audit);
                comparison.findings(&audit);
            }
            Err(error) => comparison.mismatches.push(error.to_string()),
        }
        comparison
    }

    fn file(&self, field: &str) -> Option<PathBuf> {
        Some(self.folder.join(self.expected[field].as_str()?))
    }

    fn names(&self, field: &str) -> impl Iterator<Item = &str> {
        let names = self.expected[field].as_array().unwrap();
        names.iter().map(|name| name.as_str().unwrap())
    }

    /// Whether a path of the audit is this fixture's: the folder, or a file in it but the base weights.
    /// Adapters in subfolders, such as the initial one, are not.
    fn has(&self, path: &str) -> bool {
        let path = Path::new(path);
        let is_here = path == self.folder || path.is_file() && path.parent() == Some(&self.folder);
        is_here && self.file("base").as_deref() != Some(path)
    }

    fn modules(&mut self, audit: &Audit) {
        let found: Vec<Value> = audit
            .adapters
            .iter()
            .filter(|adapter| self.has(&adapter.path))
            .flat_map(|adapter| &adapter.modules)
            .map(|module| serde_json::to_value(module).unwrap())
            .collect();
        let expected = self.expected["modules"].as_object().unwrap().clone();
        for module in &found {
            let name = module["name"].as_str().unwrap();
            if !expected.contains_key(name) {
                self.mismatches
                    .push(format!("{name}: a module that the library does not have"));
            }
        }
        for (name, expected) in &expected {
            let mut of_name = found.iter().filter(|module| module["name"] == **name);
            match (of_name.next(), of_name.next()) {
                (Some(found), None) => self.module(name, expected, found),
                (None, _) => self
                    .mismatches
                    .push(format!("{name}: missing from the audit")),
                (Some(_), Some(_)) => self
                    .mismatches
                    .push(format!("{name}: more than once in the audit")),
            }
        }
    }

    fn module(&mut self, name: &str, expected: &Value, found: &Value) {
        let is_kind = match &expected["kind"] {
            Value::Array(kinds) => kinds.contains(&found["kind"]),
            kind => *kind == found["kind"],
        };
        let is_scale = match expected["scale"].as_f64() {
            Some(scale) => {
                found["scaled"] == true
                    && found["scale"]
                        .as_f64()
                        .is_some_and(|s| (s - scale).abs() <= SCALE * scale.abs())
            }
            None => found["scaled"] == false,
        };
        let checks = [
            ("kind", is_kind),
            ("shape", expected["shape"] == found["shape"]),
            (
                "rank_budget",
                expected["rank_budget"] == found["rank_budget"],
            ),
            ("scale", is_scale),
        ];
        for (field, _) in checks.iter().filter(|(_, agrees)| !agrees) {
            self.mismatches.push(format!(
                "{name}: {field} {} (scaled: {}), expected {}",
                found[field], found["scaled"], expected[field]
            ));
        }
        if let Some(difference) = self.spectra_differ(expected, found) {
            self.mismatches.push(format!("{name}: {difference}"));
        }
    }

    /// Compares the singular values, of which the longer list must end in zeros.
    fn spectra_differ(&self, expected: &Value, found: &Value) -> Option<String> {
        let numbers = |module: &Value| -> Option<Vec<f64>> {
            let values = module["singular_values"].as_array()?;
            values.iter().map(Value::as_f64).collect()
        };
        let Some(found) = numbers(found) else {
            return Some("no singular values".to_owned());
        };
        let expected = numbers(expected).unwrap();
        let tolerance =
            self.expected["tolerance"].as_f64().unwrap() * expected.first().unwrap_or(&0.0);
        (0..expected.len().max(found.len())).find_map(|i| {
            let at = |values: &[f64]| values.get(i).copied().unwrap_or(0.0);
            let (expected, found) = (at(&expected), at(&found));
            // Written so that NaN is a difference.
            let is_close = (expected - found).abs() <= tolerance;
            (!is_close).then(|| format!("σ{} is {found}, expected {expected}", i + 1))
        })
    }

    /// Looks for the word that a finding must have, and for the one that none may have.
    fn findings(&mut self, audit: &Audit) {
        let messages: Vec<String> = audit
            .adapters
            .iter()
            .filter(|adapter| self.has(&adapter.path))
            .flat_map(|adapter| &adapter.findings)
            .map(|finding| finding.message.to_lowercase())
            .collect();
        for (field, is_wanted) in [("finding", true), ("no_finding", false)] {
            if let Some(word) = self.expected[field].as_str()
                && messages.iter().any(|message| message.contains(word)) != is_wanted
            {
                self.mismatches.push(format!(
                    "{field}: {word:?}, but the findings are {messages:?}"
                ));
            }
        }
    }

    fn refused(&mut self, audit: &Audit) {
        let found: Vec<&Refused> = audit
            .refused
            .iter()
            .filter(|refused| self.has(&refused.path))
            .collect();
        let family = plain(self.expected["family"].as_str().unwrap_or_default());
        let mut mismatches = Vec::new();
        for name in self.names("refused") {
            let mut reasons = found
                .iter()
                .filter(|refused| is_whole(refused) || is_of(&refused.name, name))
                .map(|refused| &refused.reason)
                .peekable();
            let Some(&first) = reasons.peek() else {
                mismatches.push(format!("{name}: not refused"));
                continue;
            };
            if !reasons.any(|reason| plain(reason).contains(&family)) {
                mismatches.push(format!(
                    "{name}: refused without a word about {}: {first}",
                    self.expected["family"]
                ));
            }
        }
        let has_refusals = self.names("refused").next().is_some();
        for refused in found {
            let is_expected = if is_whole(refused) {
                has_refusals
            } else {
                let mut names = self.names("refused").chain(self.names("may_refuse"));
                names.any(|name| is_of(&refused.name, name))
            };
            if !is_expected {
                mismatches.push(format!("{}: refused: {}", refused.name, refused.reason));
            }
        }
        self.mismatches.extend(mismatches);
    }
}

/// Whether the file is meant, not a module in it.
fn is_whole(refused: &Refused) -> bool {
    Path::new(&refused.path).file_name() == Some(refused.name.as_ref())
}

/// Whether a refusal's name is a module's or one of its tensors'.
fn is_of(found: &str, module: &str) -> bool {
    let bare = |name| PREFIXES.iter().find_map(|p| str::strip_prefix(name, p));
    [Some(found), bare(found)].into_iter().flatten().any(|f| {
        f.strip_prefix(module)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', ' ']))
    })
}

/// Letters and digits only, in lower case: “BD-LoRA” is BDLoRA.
fn plain(text: &str) -> String {
    text.chars()
        .filter(|c| c.is_alphanumeric())
        .flat_map(char::to_lowercase)
        .collect()
}

#[test]
fn every_format_has_the_numbers_of_its_library() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/formats");
    let mut folders = Vec::new();
    fixtures(&root, &mut folders);
    // One for each of the makers' functions; a walk that finds none would agree with anything.
    assert!(folders.len() > 100, "only {} fixtures", folders.len());
    let mut report = String::new();
    let mut failed = 0;
    for folder in &folders {
        let comparison = Comparison::new(folder.clone());
        if comparison.mismatches.is_empty() {
            continue;
        }
        failed += 1;
        let name = folder.strip_prefix(&root).unwrap().display();
        writeln!(report, "{name}").unwrap();
        for mismatch in comparison.mismatches {
            writeln!(report, "    {mismatch}").unwrap();
        }
    }
    assert!(
        failed == 0,
        "{failed} of {} fixtures differ:\n{report}",
        folders.len()
    );
}
