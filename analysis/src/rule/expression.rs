//! The tree of a rule. Chains of one operator are one node, so a tree is as deep as the rule's
//! parentheses are, and no deeper.

use std::fmt::{self, Display, Formatter};

use crate::{FindingKind, Quantity, Severity};

/// True, false or neither.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Condition {
    /// Two or more, as are the terms of `And`.
    Or(Vec<Condition>),
    And(Vec<Condition>),
    Not(Box<Condition>),
    Compare(Number, Comparison, Number),
    Match(Field, Matching, String),
    Finding(FindingKind),
    /// A finding of this severity or a worse one.
    Severity(Severity),
    Any(Box<Condition>),
    All(Box<Condition>),
    /// The value of a function, once its adapter is known. No rule is written with it.
    Known(bool),
}

/// A number, if it is not missing.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Number {
    /// Finite and not negative.
    Literal(f64),
    Quantity(&'static Quantity),
    Total(Total),
    Negative(Box<Number>),
    /// One or more terms after the first, as are the factors of `Product`.
    Sum(Box<Number>, Vec<(Sign, Number)>),
    Product(Box<Number>, Vec<(Power, Number)>),
    Count(Box<Condition>),
    Share(Box<Condition>),
    Statistic(Statistic, Box<Number>),
    /// As for conditions.
    Known(Option<f64>),
}

/// What a rule can be evaluated for; later ones have what earlier ones have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Scope {
    Audit,
    Adapter,
    Module,
}

/// A closed list of names.
macro_rules! names {
    ($(#[$note:meta])* $list:ident { $($variant:ident = $name:literal),+ }) => {
        $(#[$note])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(super) enum $list { $($variant),+ }

        impl $list {
            #[allow(dead_code, reason = "not every list is searched")]
            pub const ALL: [Self; [$($name),+].len()] = [$(Self::$variant),+];

            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),+ }
            }
        }
    };
}

names!(Comparison {
    Less = "<", LessOrEqual = "<=", Greater = ">", GreaterOrEqual = ">=", Equal = "==",
    NotEqual = "!="
});
names!(Matching { Is = "==", IsNot = "!=", Contains = "~", Lacks = "!~" });
names!(Sign { Plus = "+", Minus = "-" });
names!(Power { Times = "*", Over = "/" });
names!(
    /// Texts of a module or its adapter.
    Field {
        Name = "name", Role = "role", Kind = "kind", Path = "path", Format = "format",
        BaseModel = "base_model"
    }
);
names!(
    /// How many there are in an adapter, or in the audit.
    Total {
        Modules = "modules", Findings = "findings", Adapters = "adapters", Refused = "refused",
        NotAdapters = "not_adapters"
    }
);
names!(Statistic { Min = "min", Max = "max", Mean = "mean", Median = "median", Sum = "sum" });

/// Everything that is written with parentheses after its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Function {
    Any,
    All,
    Count,
    Share,
    Statistic(Statistic),
}

impl Condition {
    pub fn scope(&self) -> Scope {
        match self {
            Self::Or(terms) | Self::And(terms) => {
                terms.iter().map(Self::scope).max().unwrap_or(Scope::Audit)
            }
            Self::Not(term) => term.scope(),
            Self::Compare(left, _, right) => left.scope().max(right.scope()),
            Self::Match(Field::Name | Field::Role | Field::Kind, _, _) => Scope::Module,
            Self::Match(..) | Self::Any(_) | Self::All(_) => Scope::Adapter,
            Self::Finding(_) | Self::Severity(_) => Scope::Module,
            Self::Known(_) => Scope::Audit,
        }
    }

    /// How tightly its operator binds.
    fn level(&self) -> u8 {
        match self {
            Self::Or(_) => 0,
            Self::And(_) => 1,
            Self::Not(_) => 2,
            Self::Compare(..) | Self::Match(..) => 3,
            Self::Finding(_) | Self::Severity(_) | Self::Any(_) | Self::All(_) | Self::Known(_) => {
                7
            }
        }
    }
}

impl Number {
    pub fn scope(&self) -> Scope {
        match self {
            Self::Literal(_) | Self::Known(_) => Scope::Audit,
            Self::Quantity(_) => Scope::Module,
            Self::Total(Total::Adapters | Total::Refused | Total::NotAdapters) => Scope::Audit,
            Self::Total(_) | Self::Count(_) | Self::Share(_) | Self::Statistic(..) => {
                Scope::Adapter
            }
            Self::Negative(term) => term.scope(),
            Self::Sum(first, rest) => {
                let rest = rest.iter().map(|(_, term)| term.scope());
                rest.fold(first.scope(), Scope::max)
            }
            Self::Product(first, rest) => {
                let rest = rest.iter().map(|(_, term)| term.scope());
                rest.fold(first.scope(), Scope::max)
            }
        }
    }

    fn level(&self) -> u8 {
        match self {
            Self::Sum(..) => 4,
            Self::Product(..) => 5,
            Self::Negative(_) => 6,
            _ => 7,
        }
    }
}

/// Writes a term, in parentheses if it binds less tightly than `least`.
fn within(f: &mut Formatter<'_>, term: &impl Display, level: u8, least: u8) -> fmt::Result {
    if level < least {
        write!(f, "({term})")
    } else {
        write!(f, "{term}")
    }
}

impl Display for Condition {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let chain = |f: &mut Formatter<'_>, word: &str, terms: &[Self]| {
            for (i, term) in terms.iter().enumerate() {
                if i > 0 {
                    write!(f, " {word} ")?;
                }
                within(f, term, term.level(), self.level() + 1)?;
            }
            Ok(())
        };
        match self {
            Self::Or(terms) => chain(f, "or", terms),
            Self::And(terms) => chain(f, "and", terms),
            Self::Not(term) => {
                f.write_str("not ")?;
                within(f, term, term.level(), 2)
            }
            Self::Compare(left, comparison, right) => {
                write!(f, "{left} {} {right}", comparison.name())
            }
            Self::Match(field, matching, text) => {
                let text = text.replace('\\', "\\\\").replace('"', "\\\"");
                write!(f, "{} {} \"{text}\"", field.name(), matching.name())
            }
            Self::Finding(kind) => f.write_str(kind.name()),
            Self::Severity(severity) => f.write_str(severity.name()),
            Self::Any(term) => write!(f, "any({term})"),
            Self::All(term) => write!(f, "all({term})"),
            Self::Known(value) => write!(f, "{value}"),
        }
    }
}

impl Display for Number {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            // The shortest digits that give the same bits; without 300 zeros.
            Self::Literal(value) if *value == 0.0 || (1e-5..1e15).contains(value) => {
                write!(f, "{value}")
            }
            Self::Literal(value) => write!(f, "{value:e}"),
            Self::Quantity(quantity) => f.write_str(quantity.name),
            Self::Total(total) => f.write_str(total.name()),
            Self::Negative(term) => {
                f.write_str("-")?;
                within(f, term, term.level(), 6)
            }
            Self::Sum(first, rest) => {
                within(f, first, first.level(), 5)?;
                for (sign, term) in rest {
                    write!(f, " {} ", sign.name())?;
                    within(f, term, term.level(), 5)?;
                }
                Ok(())
            }
            Self::Product(first, rest) => {
                within(f, first, first.level(), 6)?;
                for (power, term) in rest {
                    write!(f, " {} ", power.name())?;
                    within(f, term, term.level(), 6)?;
                }
                Ok(())
            }
            Self::Count(term) => write!(f, "count({term})"),
            Self::Share(term) => write!(f, "share({term})"),
            Self::Statistic(statistic, term) => write!(f, "{}({term})", statistic.name()),
            Self::Known(Some(value)) => write!(f, "{value}"),
            Self::Known(None) => f.write_str("missing"),
        }
    }
}
