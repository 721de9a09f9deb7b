//! A rule against an audit. Functions are replaced by their values first, innermost first; what is
//! left needs one pass over the modules.

use std::collections::HashMap;
use std::fmt;

use serde::Serialize;

use super::Rule;
use super::expression::{
    Comparison, Condition, Field, Matching, Number, Power, Scope, Sign, Statistic, Total,
};
use crate::audit::quantile;
use crate::{AdapterAudit, Audit, FindingKind, ModuleAudit, Quantity, RefusalClass, Severity};

/// Where a rule fails, with the numbers that it rests on.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Violation {
    /// The rule.
    pub rule: String,
    /// The adapter's path; `None` if the rule is about the audit as a whole.
    pub adapter: Option<String>,
    /// The functions and counts of the rule with their values; `None` is missing.
    pub values: Vec<(String, Option<f64>)>,
    /// The modules for which the rule, or the condition inside one of its functions, is true.
    pub modules: Vec<FailingModule>,
}

/// A module for which a condition is true.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FailingModule {
    /// Its name.
    pub name: String,
    /// The quantities in the condition with their values; `None` is missing.
    pub values: Vec<(&'static str, Option<f64>)>,
    /// What was found there, and on the whole adapter, where the condition names a severity.
    pub findings: Vec<FindingKind>,
}

/// Modules that are named by [`Violation`]'s text.
const NAMED: usize = 5;

/// One line: the rule, the adapter, the numbers and the first modules.
impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rule {:?} fails", self.rule)?;
        if let Some(adapter) = &self.adapter {
            write!(f, " in {adapter}")?;
        }
        let values = self.values.iter().map(|(name, value)| text(name, *value));
        let values: Vec<String> = values.collect();
        if !values.is_empty() {
            write!(f, ": {}", values.join(", "))?;
        }
        for (i, module) in self.modules.iter().take(NAMED).enumerate() {
            f.write_str(if i == 0 { "; in " } else { ", " })?;
            f.write_str(&module.name)?;
            let kinds = module.findings.iter().map(|kind| kind.name().to_owned());
            let values = module.values.iter().map(|&(name, value)| text(name, value));
            let reasons: Vec<String> = kinds.chain(values).collect();
            if !reasons.is_empty() {
                write!(f, " ({})", reasons.join(", "))?;
            }
        }
        match self.modules.len().saturating_sub(NAMED) {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

fn text(name: &str, value: Option<f64>) -> String {
    match value {
        Some(value) if value.fract() == 0.0 && value.abs() < 1e15 => format!("{name} = {value}"),
        // Four digits are for reading; the record has them all.
        Some(value) if (1e-3..1e6).contains(&value.abs()) => format!("{name} = {value:.4}"),
        Some(value) => format!("{name} = {value:.4e}"),
        None => format!("{name} is missing"),
    }
}

pub(super) fn check(rule: &Rule, condition: &Condition, audit: &Audit) -> Vec<Violation> {
    let is_whole = condition.scope() == Scope::Audit || audit.adapters.is_empty();
    if is_whole {
        return violation(rule, condition, &Place::new(audit, None))
            .into_iter()
            .collect();
    }
    audit
        .adapters
        .iter()
        .filter_map(|adapter| violation(rule, condition, &Place::new(audit, Some(adapter))))
        .collect()
}

fn violation(rule: &Rule, condition: &Condition, place: &Place<'_>) -> Option<Violation> {
    let mut trace = Trace::default();
    let known = place.settled(condition, &mut trace);
    // Where there are no modules, what depends on one is missing.
    let fails = if condition.scope() == Scope::Module && !place.modules().is_empty() {
        let failing = place.where_true(&known);
        trace.add_modules(condition, &failing, place);
        !failing.is_empty()
    } else {
        place.condition(&known, None) == Some(true)
    };
    fails.then(|| Violation {
        rule: rule.to_string(),
        adapter: place.adapter.map(|adapter| adapter.path.clone()),
        values: trace.values,
        modules: trace.modules,
    })
}

/// The numbers that a verdict rests on, as they come up.
#[derive(Default)]
struct Trace {
    values: Vec<(String, Option<f64>)>,
    modules: Vec<FailingModule>,
    /// Places in `modules` by name.
    places: HashMap<String, usize>,
}

impl Trace {
    fn add(&mut self, name: String, value: Option<f64>) {
        if !self.values.iter().any(|(own, _)| *own == name) {
            self.values.push((name, value));
        }
    }

    fn add_modules(&mut self, condition: &Condition, modules: &[&ModuleAudit], place: &Place<'_>) {
        let mut quantities = Vec::new();
        quantities_of(condition, &mut quantities);
        let least = least_severity(condition);
        for module in modules {
            let fresh = self.modules.len();
            let at = *self.places.entry(module.name.clone()).or_insert(fresh);
            if at == fresh {
                self.modules.push(FailingModule {
                    name: module.name.clone(),
                    values: Vec::new(),
                    findings: Vec::new(),
                });
            }
            let FailingModule {
                values, findings, ..
            } = &mut self.modules[at];
            if let Some(least) = least {
                findings.extend(place.found(module).filter(|kind| kind.severity() <= least));
                findings.sort_unstable();
                findings.dedup();
            }
            for quantity in &quantities {
                if !values.iter().any(|(name, _)| *name == quantity.name) {
                    values.push((quantity.name, quantity.of(module)));
                }
            }
        }
    }
}

/// The mildest severity that is asked for, not inside functions.
fn least_severity(condition: &Condition) -> Option<Severity> {
    match condition {
        Condition::Severity(severity) => Some(*severity),
        Condition::Or(terms) | Condition::And(terms) => {
            terms.iter().filter_map(least_severity).max()
        }
        _ => None,
    }
}

/// Quantities that are asked of the module itself, not inside functions.
fn quantities_of(condition: &Condition, found: &mut Vec<&'static Quantity>) {
    match condition {
        Condition::Or(terms) | Condition::And(terms) => {
            terms.iter().for_each(|term| quantities_of(term, found));
        }
        Condition::Not(term) => quantities_of(term, found),
        Condition::Compare(left, _, right) => {
            quantities_in(left, found);
            quantities_in(right, found);
        }
        _ => {}
    }
}

fn quantities_in(number: &Number, found: &mut Vec<&'static Quantity>) {
    match number {
        Number::Quantity(quantity) if !found.contains(quantity) => found.push(quantity),
        Number::Negative(term) => quantities_in(term, found),
        Number::Sum(first, rest) => {
            quantities_in(first, found);
            rest.iter().for_each(|(_, term)| quantities_in(term, found));
        }
        Number::Product(first, rest) => {
            quantities_in(first, found);
            rest.iter().for_each(|(_, term)| quantities_in(term, found));
        }
        _ => {}
    }
}

/// What a rule is evaluated for.
struct Place<'a> {
    audit: &'a Audit,
    adapter: Option<&'a AdapterAudit>,
    /// Findings by module.
    findings: HashMap<&'a str, Vec<FindingKind>>,
    /// Findings on the whole adapter.
    common: Vec<FindingKind>,
}

impl<'a> Place<'a> {
    fn new(audit: &'a Audit, adapter: Option<&'a AdapterAudit>) -> Self {
        let (mut findings, mut common) = (HashMap::<_, Vec<_>>::new(), Vec::new());
        for finding in adapter.into_iter().flat_map(|adapter| &adapter.findings) {
            match &finding.module {
                Some(module) => findings.entry(&module[..]).or_default().push(finding.kind),
                None => common.push(finding.kind),
            }
        }
        Self {
            audit,
            adapter,
            findings,
            common,
        }
    }

    fn modules(&self) -> &'a [ModuleAudit] {
        self.adapter.map_or(&[], |adapter| &adapter.modules)
    }

    /// The findings on a module and on the whole adapter.
    fn found<'s>(&'s self, module: &ModuleAudit) -> impl Iterator<Item = FindingKind> + 's {
        let own = self.findings.get(&module.name[..]).into_iter().flatten();
        self.common.iter().chain(own).copied()
    }

    fn where_true(&self, condition: &Condition) -> Vec<&'a ModuleAudit> {
        let is_true = |module: &&ModuleAudit| self.condition(condition, Some(module)) == Some(true);
        self.modules().iter().filter(is_true).collect()
    }

    /// The condition with functions and totals replaced by their values, which are noted.
    fn settled(&self, condition: &Condition, trace: &mut Trace) -> Condition {
        let mut all = |terms: &[Condition]| {
            let settled = terms.iter().map(|term| self.settled(term, trace));
            settled.collect::<Vec<_>>()
        };
        match condition {
            Condition::Or(terms) => Condition::Or(all(terms)),
            Condition::And(terms) => Condition::And(all(terms)),
            Condition::Not(term) => Condition::Not(Box::new(self.settled(term, trace))),
            Condition::Compare(left, comparison, right) => Condition::Compare(
                self.settled_number(left, trace),
                *comparison,
                self.settled_number(right, trace),
            ),
            Condition::Any(term) => {
                let known = self.settled(term, trace);
                let found = self.where_true(&known);
                trace.add_modules(term, &found, self);
                Condition::Known(!found.is_empty())
            }
            Condition::All(term) => {
                let known = self.settled(term, trace);
                let is_false =
                    |module: &ModuleAudit| self.condition(&known, Some(module)) == Some(false);
                Condition::Known(!self.modules().iter().any(is_false))
            }
            Condition::Match(..)
            | Condition::Finding(_)
            | Condition::Severity(_)
            | Condition::Known(_) => condition.clone(),
        }
    }

    fn settled_number(&self, number: &Number, trace: &mut Trace) -> Number {
        let value = match number {
            Number::Literal(_) | Number::Quantity(_) | Number::Known(_) => return number.clone(),
            Number::Negative(term) => {
                return Number::Negative(Box::new(self.settled_number(term, trace)));
            }
            Number::Sum(first, rest) => {
                let first = Box::new(self.settled_number(first, trace));
                let rest = rest.iter();
                let rest = rest.map(|(sign, term)| (*sign, self.settled_number(term, trace)));
                return Number::Sum(first, rest.collect());
            }
            Number::Product(first, rest) => {
                let first = Box::new(self.settled_number(first, trace));
                let rest = rest.iter();
                let rest = rest.map(|(power, term)| (*power, self.settled_number(term, trace)));
                return Number::Product(first, rest.collect());
            }
            Number::Total(total) => Some(self.total(*total) as f64),
            Number::Count(term) | Number::Share(term) => {
                let known = self.settled(term, trace);
                let found = self.where_true(&known);
                trace.add_modules(term, &found, self);
                let holds = found.len() as f64;
                if matches!(number, Number::Count(_)) {
                    Some(holds)
                } else {
                    let is_decided =
                        |module: &&ModuleAudit| self.condition(&known, Some(module)).is_some();
                    let decided = self.modules().iter().filter(is_decided).count();
                    finite(holds / decided as f64)
                }
            }
            Number::Statistic(statistic, term) => {
                let known = self.settled_number(term, trace);
                let modules = self.modules().iter();
                let values = modules.filter_map(|module| self.number(&known, Some(module)));
                statistic.of(values.collect())
            }
        };
        trace.add(number.to_string(), value);
        Number::Known(value)
    }

    fn total(&self, total: Total) -> usize {
        match total {
            Total::Modules => self.modules().len(),
            Total::Findings => self.adapter.map_or(0, |adapter| adapter.findings.len()),
            Total::Adapters => self.audit.adapters.len(),
            Total::Refused => self.audit.refusals(RefusalClass::NotAudited),
            Total::NotAdapters => self.audit.refusals(RefusalClass::NoAdapter),
        }
    }

    /// Of a settled condition; `None` is neither true nor false.
    fn condition(&self, condition: &Condition, module: Option<&ModuleAudit>) -> Option<bool> {
        match condition {
            Condition::Known(value) => Some(*value),
            Condition::Or(terms) => {
                // True wins over missing, and missing over false.
                let mut result = Some(false);
                for term in terms {
                    match self.condition(term, module) {
                        Some(true) => return Some(true),
                        Some(false) => {}
                        None => result = None,
                    }
                }
                result
            }
            Condition::And(terms) => {
                let mut result = Some(true);
                for term in terms {
                    match self.condition(term, module) {
                        Some(false) => return Some(false),
                        Some(true) => {}
                        None => result = None,
                    }
                }
                result
            }
            Condition::Not(term) => self.condition(term, module).map(|value| !value),
            Condition::Compare(left, comparison, right) => {
                let (left, right) = (self.number(left, module)?, self.number(right, module)?);
                Some(comparison.holds(left, right))
            }
            Condition::Match(field, matching, text) => {
                Some(matching.holds(&self.field(*field, module)?, text))
            }
            Condition::Finding(kind) => Some(self.found(module?).any(|found| found == *kind)),
            Condition::Severity(least) => {
                Some(self.found(module?).any(|found| found.severity() <= *least))
            }
            // Settled before: for an adapter without modules there is nothing to be true.
            Condition::Any(_) | Condition::All(_) => None,
        }
    }

    /// Of a settled number; `None` is missing.
    fn number(&self, number: &Number, module: Option<&ModuleAudit>) -> Option<f64> {
        match number {
            Number::Literal(value) => Some(*value),
            Number::Known(value) => *value,
            Number::Quantity(quantity) => quantity.of(module?),
            Number::Negative(term) => self.number(term, module).map(|value| -value),
            Number::Sum(first, rest) => {
                let first = self.number(first, module);
                rest.iter().fold(first, |sum, (sign, term)| {
                    let (sum, term) = (sum?, self.number(term, module)?);
                    finite(match sign {
                        Sign::Plus => sum + term,
                        Sign::Minus => sum - term,
                    })
                })
            }
            Number::Product(first, rest) => {
                let first = self.number(first, module);
                rest.iter().fold(first, |product, (power, term)| {
                    let (product, term) = (product?, self.number(term, module)?);
                    finite(match power {
                        Power::Times => product * term,
                        Power::Over => product / term,
                    })
                })
            }
            // Settled before.
            Number::Total(_) | Number::Count(_) | Number::Share(_) | Number::Statistic(..) => None,
        }
    }

    fn field(&self, field: Field, module: Option<&ModuleAudit>) -> Option<String> {
        Some(match field {
            Field::Name => module?.name.clone(),
            Field::Role => module?.role(),
            Field::Kind => module?.kind.name().to_owned(),
            Field::Path => self.adapter?.path.clone(),
            Field::Format => self.adapter?.format.to_owned(),
            Field::BaseModel => self.adapter?.base_model.clone()?,
        })
    }
}

fn finite(value: f64) -> Option<f64> {
    value.is_finite().then_some(value)
}

impl Comparison {
    fn holds(self, left: f64, right: f64) -> bool {
        match self {
            Self::Less => left < right,
            Self::LessOrEqual => left <= right,
            Self::Greater => left > right,
            Self::GreaterOrEqual => left >= right,
            Self::Equal => left == right,
            Self::NotEqual => left != right,
        }
    }
}

impl Matching {
    fn holds(self, text: &str, wanted: &str) -> bool {
        match self {
            Self::Is => text == wanted,
            Self::IsNot => text != wanted,
            Self::Contains => text.contains(wanted),
            Self::Lacks => !text.contains(wanted),
        }
    }
}

impl Statistic {
    fn of(self, mut values: Vec<f64>) -> Option<f64> {
        let sum = values.iter().sum::<f64>();
        values.sort_unstable_by(f64::total_cmp);
        match self {
            Self::Sum => finite(sum),
            Self::Min => values.first().copied(),
            Self::Max => values.last().copied(),
            Self::Mean => finite(sum / values.len() as f64),
            Self::Median if values.is_empty() => None,
            Self::Median => Some(quantile(&values, 0.5)),
        }
    }
}
