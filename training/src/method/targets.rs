//! Which modules get an update: by the ends of their names, or by regular expressions.

use regex::Regex;

use super::setting;
use crate::Error;
use crate::module::{Declared, Kind};

/// Ends in messages that are similar enough to be what was meant.
const NEAREST: usize = 3;

/// A list of names or regular expressions, compiled.
///
/// A pattern of letters, digits, `_` and `.` fits a module that is called so or whose name ends in
/// `.` and the pattern, as in PEFT; any other pattern is a regular expression for the whole name.
#[derive(Debug, Clone)]
pub struct Targets {
    patterns: Vec<(String, Option<Regex>)>,
}

impl Targets {
    /// Compiles `patterns`; `key` names the setting in errors.
    ///
    /// # Errors
    /// [`Error::Setting`] for a regular expression that does not compile.
    pub fn new<'a>(key: &str, patterns: impl IntoIterator<Item = &'a str>) -> Result<Self, Error> {
        let patterns = patterns
            .into_iter()
            .map(|pattern| {
                let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '.';
                if pattern.chars().all(plain) {
                    return Ok((pattern.to_owned(), None));
                }
                match Regex::new(&format!("^(?:{pattern})$")) {
                    Ok(regex) => Ok((pattern.to_owned(), Some(regex))),
                    Err(error) => {
                        let expected = "names, or regular expressions for whole names";
                        Err(setting(key, expected, format!("{pattern:?}: {error}")))
                    }
                }
            })
            .collect::<Result<_, _>>()?;
        Ok(Self { patterns })
    }

    /// The number of the first pattern that fits `name`.
    pub fn find(&self, name: &str) -> Option<usize> {
        (0..self.patterns.len()).find(|at| self.fits_at(*at, name))
    }

    /// Whether the pattern of that number fits `name`.
    fn fits_at(&self, at: usize, name: &str) -> bool {
        match &self.patterns[at] {
            (_, Some(regex)) => regex.is_match(name),
            (pattern, None) => {
                let before = name.strip_suffix(pattern.as_str());
                before.is_some_and(|before| before.is_empty() || before.ends_with('.'))
            }
        }
    }

    /// Checks that every pattern, also one that comes after another's modules, fits some of `modules`.
    ///
    /// # Errors
    /// [`Error::Setting`] for `key`, with the nearest names.
    pub(crate) fn check(&self, key: &str, modules: &[Declared]) -> Result<(), Error> {
        for (at, (pattern, _)) in self.patterns.iter().enumerate() {
            if !modules.iter().any(|module| self.fits_at(at, &module.name)) {
                let expected = format!("modules of the model{}", nearest(modules, pattern));
                return Err(setting(
                    key,
                    expected,
                    format!("{pattern:?}, which fits none"),
                ));
            }
        }
        Ok(())
    }

    /// Whether a pattern fits `name`.
    pub fn fits(&self, name: &str) -> bool {
        self.find(name).is_some()
    }
}

/// The modules that get an update, by number: those that `targets` fit, or every linear layer of the
/// blocks if there are none.
///
/// # Errors
/// [`Error::Setting`] if a target fits nothing (with the nearest names) or a module that takes no
/// update.
pub(crate) fn adapted(modules: &[Declared], targets: &[String]) -> Result<Vec<usize>, Error> {
    if targets.is_empty() {
        let in_block = |name: &str| name.split('.').any(|part| part.parse::<usize>().is_ok());
        let linear = |module: &Declared| {
            let is_linear = matches!(module.kind, Kind::Linear | Kind::Conv1d);
            is_linear && in_block(&module.name) && !module.is_head
        };
        return Ok((0..modules.len())
            .filter(|at| linear(&modules[*at]))
            .collect());
    }
    let compiled = Targets::new("targets", targets.iter().map(String::as_str))?;
    compiled.check("targets", modules)?;
    let mut chosen = Vec::new();
    for (at, module) in modules.iter().enumerate() {
        let Some(target) = compiled.find(&module.name) else {
            continue;
        };
        if !module.kind.takes_adapter() {
            let is_name = compiled.patterns[target].1.is_none();
            if is_name {
                let expected = "linear layers, Conv1D, embeddings or convolutions";
                return Err(setting("targets", expected, &module.name));
            }
            continue;
        }
        chosen.push(at);
    }
    Ok(chosen)
}

/// `; the nearest are …`.
fn nearest(modules: &[Declared], target: &str) -> String {
    let last = |name: &str| name.rsplit('.').next().unwrap_or(name).to_owned();
    let mut names: Vec<(f64, String)> = Vec::new();
    for module in modules.iter().filter(|module| module.kind.takes_adapter()) {
        let name = if target.contains('.') {
            module.name.clone()
        } else {
            last(&module.name)
        };
        if !names.iter().any(|(_, known)| *known == name) {
            names.push((strsim::jaro_winkler(target, &name), name));
        }
    }
    names.sort_by(|a, b| b.0.total_cmp(&a.0));
    let names: Vec<_> = names
        .into_iter()
        .take(NEAREST)
        .map(|(_, name)| name)
        .collect();
    format!("; the nearest are {}", names.join(", "))
}
