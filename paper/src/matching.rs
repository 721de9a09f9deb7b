//! Which adapter a row of metrics means.

use std::collections::BTreeMap;
use std::path::{Component, Path};

use crate::metrics::AdapterRanks;

/// Rows and the adapters that they name, one each; the rest goes to `notes`.
pub(crate) fn matches(
    ranks: &[AdapterRanks],
    keys: &[String],
    notes: &mut Vec<String>,
) -> Vec<(usize, usize)> {
    let paths: Vec<Vec<String>> = ranks.iter().map(|ranks| parts(&ranks.path)).collect();
    let mut rows_of: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (row, key) in keys.iter().enumerate() {
        let name = || format!("row {} (`{key}`)", row + 1);
        match &candidates(&paths, &parts(key))[..] {
            [] => notes.push(format!("No adapter for {}.", name())),
            [adapter] => rows_of.entry(*adapter).or_default().push(row),
            several => {
                let found: Vec<&str> = several.iter().map(|&i| ranks[i].path.as_str()).collect();
                notes.push(format!(
                    "Left out: {} fits {} adapters: {}.",
                    name(),
                    several.len(),
                    found.join(", ")
                ));
            }
        }
    }
    for (adapter, ranks) in ranks.iter().enumerate() {
        match rows_of.get(&adapter).map(Vec::as_slice) {
            None => notes.push(format!("No row for the adapter {}.", ranks.path)),
            Some([_]) => {}
            Some(rows) => {
                let rows: Vec<String> = rows.iter().map(|row| (row + 1).to_string()).collect();
                notes.push(format!(
                    "Left out: rows {} all name the adapter {}.",
                    rows.join(", "),
                    ranks.path
                ));
            }
        }
    }
    let single = rows_of.into_iter().filter(|(_, rows)| rows.len() == 1);
    let mut matched: Vec<(usize, usize)> =
        single.map(|(adapter, rows)| (rows[0], adapter)).collect();
    matched.sort_unstable();
    matched
}

/// The adapters that a key may mean, by the first rule that fits any.
fn candidates(paths: &[Vec<String>], key: &[String]) -> Vec<usize> {
    if key.is_empty() {
        return Vec::new();
    }
    type Rule = fn(&[String], &[String]) -> bool;
    let rules: [Rule; 4] = [
        |path, key| path == key,
        |path, key| path.ends_with(key) || (!path.is_empty() && key.ends_with(path)),
        |path, key| key.len() == 1 && stem(path).is_some() && stem(path) == stem(key),
        |path, key| path.windows(key.len()).any(|window| window == key),
    ];
    let fitting = rules.iter().map(|rule| -> Vec<usize> {
        let all = 0..paths.len();
        all.filter(|&index| rule(&paths[index], key)).collect()
    });
    fitting
        .into_iter()
        .find(|found| !found.is_empty())
        .unwrap_or_default()
}

/// The last component without its ending.
fn stem(parts: &[String]) -> Option<&str> {
    Path::new(parts.last()?).file_stem()?.to_str()
}

/// The components of a path without `.` and a weight file's name.
fn parts(path: &str) -> Vec<String> {
    let trimmed = path.trim();
    let components = Path::new(trimmed).components();
    let mut parts: Vec<String> = components
        .filter(|part| !matches!(part, Component::CurDir))
        .map(|part| part.as_os_str().to_string_lossy().into_owned())
        .collect();
    let is_weights = |name: &String| name.starts_with("adapter_model.");
    if parts.len() > 1 && parts.last().is_some_and(is_weights) {
        parts.pop();
    }
    parts
}
