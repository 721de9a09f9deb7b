use super::expression::{Field, Function, Statistic, Total};
use crate::{FindingKind, QUANTITIES, Quantity, Severity};

/// What a word can stand for.
#[derive(Debug)]
pub(super) enum Meaning {
    Quantity(&'static Quantity),
    Finding(FindingKind),
    Severity(Severity),
    Field(Field),
    Total(Total),
    Function(Function),
}

const FUNCTIONS: [(&str, Function); 9] = [
    ("any", Function::Any),
    ("all", Function::All),
    ("count", Function::Count),
    ("share", Function::Share),
    ("min", Function::Statistic(Statistic::Min)),
    ("max", Function::Statistic(Statistic::Max)),
    ("mean", Function::Statistic(Statistic::Mean)),
    ("median", Function::Statistic(Statistic::Median)),
    ("sum", Function::Statistic(Statistic::Sum)),
];

/// How far a known name may be from a misspelt one to be offered (Jaro–Winkler similarity), and how
/// many are.
const NEAR: f64 = 0.75;
const OFFERED: usize = 3;

/// The meaning of a name; if it has none, what could have been meant.
pub(super) fn meaning(word: &str) -> Result<Meaning, String> {
    let quantity = || Quantity::named(word).map(Meaning::Quantity);
    let finding = || FindingKind::named(word).map(Meaning::Finding);
    let severity = || Severity::named(word).map(Meaning::Severity);
    let field = || named(Field::ALL, Field::name, word).map(Meaning::Field);
    let total = || named(Total::ALL, Total::name, word).map(Meaning::Total);
    let function = || {
        let found = FUNCTIONS.iter().find(|(name, _)| *name == word);
        found.map(|&(_, function)| Meaning::Function(function))
    };
    quantity()
        .or_else(finding)
        .or_else(severity)
        .or_else(field)
        .or_else(total)
        .or_else(function)
        .ok_or_else(|| match nearest(word, names()) {
            near if near.is_empty() => "the name of a quantity, a finding or a function".to_owned(),
            near => format!("a known name, perhaps {near}"),
        })
}

fn named<T: Copy>(
    all: impl IntoIterator<Item = T>,
    name: fn(T) -> &'static str,
    word: &str,
) -> Option<T> {
    all.into_iter().find(|&one| name(one) == word)
}

fn names() -> impl Iterator<Item = &'static str> {
    let quantities = QUANTITIES.iter().map(|quantity| quantity.name);
    let texts = Field::ALL.into_iter().map(Field::name);
    let totals = Total::ALL.into_iter().map(Total::name);
    let functions = FUNCTIONS.iter().map(|(name, _)| *name);
    quantities
        .chain(FindingKind::names().iter().copied())
        .chain(Severity::names().iter().copied())
        .chain(texts)
        .chain(totals)
        .chain(functions)
}

/// The names most like `word`, best first, as a phrase; empty if none is near.
pub(super) fn nearest(word: &str, names: impl Iterator<Item = &'static str>) -> String {
    let mut near: Vec<(f64, &str)> = names
        .map(|name| (strsim::jaro_winkler(word, name), name))
        .filter(|(likeness, _)| *likeness >= NEAR)
        .collect();
    near.sort_by(|x, y| y.0.total_cmp(&x.0).then_with(|| x.1.cmp(y.1)));
    let near: Vec<&str> = near
        .into_iter()
        .take(OFFERED)
        .map(|(_, name)| name)
        .collect();
    near.join(" or ")
}
