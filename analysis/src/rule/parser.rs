use super::expression::{
    Comparison, Condition, Field, Function, Matching, Number, Power, Scope, Sign,
};
use super::token::{Fault, Token, tokens};
use super::vocabulary::{Meaning, meaning, nearest};
use crate::{Error, Kind};

/// The deepest nesting of parentheses and signs that is read: far more than a person writes, and far
/// from filling a stack.
const DEEPEST: usize = 64;

/// Reads a rule, which must be a condition.
pub(super) fn parse(text: &str) -> Result<Condition, Error> {
    whole(text).map_err(|fault| Error::Rule {
        rule: text.to_owned(),
        position: fault.position + 1,
        expected: fault.expected,
        found: fault.found,
    })
}

fn whole(text: &str) -> Result<Condition, Fault> {
    let tokens = tokens(text)?;
    let mut parser = Parser {
        tokens,
        next: 0,
        depth: 0,
    };
    let rule = parser.any_of()?.condition()?;
    match parser.token() {
        Token::End => Ok(rule),
        other => Err(parser.fault("an operator or the end", other.to_string())),
    }
}

/// A part of a rule and the character at which it begins.
struct Part {
    position: usize,
    value: Value,
}

enum Value {
    Condition(Condition),
    Number(Number),
    Field(Field),
    Text(String),
}

impl Part {
    fn condition(self) -> Result<Condition, Fault> {
        match self.value {
            Value::Condition(condition) => Ok(condition),
            _ => Err(self.unlike("a condition")),
        }
    }

    fn number(self) -> Result<Number, Fault> {
        match self.value {
            Value::Number(number) => Ok(number),
            _ => Err(self.unlike("a number")),
        }
    }

    fn unlike(self, expected: &str) -> Fault {
        let found = match &self.value {
            Value::Condition(condition) => format!("the condition {condition}"),
            Value::Number(number) => format!("the number {number}"),
            Value::Field(field) => format!("the text {}", field.name()),
            Value::Text(text) => Token::Text(text.clone()).to_string(),
        };
        Fault::new(self.position, expected, found)
    }
}

struct Parser {
    /// Never empty: the last is the end.
    tokens: Vec<(usize, Token)>,
    next: usize,
    depth: usize,
}

impl Parser {
    fn token(&self) -> &Token {
        &self.tokens[self.next].1
    }

    fn position(&self) -> usize {
        self.tokens[self.next].0
    }

    fn advance(&mut self) {
        self.next = (self.next + 1).min(self.tokens.len() - 1);
    }

    fn fault(&self, expected: impl Into<String>, found: impl Into<String>) -> Fault {
        Fault::new(self.position(), expected, found)
    }

    fn is_word(&self, word: &str) -> bool {
        matches!(self.token(), Token::Word(own) if own == word)
    }

    /// The operator that comes next, if it is one of `all`.
    fn operator<T: Copy>(
        &mut self,
        all: impl IntoIterator<Item = T>,
        name: fn(T) -> &'static str,
    ) -> Option<T> {
        let &Token::Symbol(symbol) = self.token() else {
            return None;
        };
        let found = all.into_iter().find(|&one| name(one) == symbol)?;
        self.advance();
        Some(found)
    }

    /// Goes one level deeper for the time of `read`.
    fn deeper<T>(&mut self, read: impl FnOnce(&mut Self) -> Result<T, Fault>) -> Result<T, Fault> {
        if self.depth == DEEPEST {
            let expected = format!("at most {DEEPEST} levels of nesting");
            return Err(self.fault(expected, "more"));
        }
        self.depth += 1;
        let read = read(self);
        self.depth -= 1;
        read
    }

    fn any_of(&mut self) -> Result<Part, Fault> {
        self.chain("or", Self::all_of, Condition::Or)
    }

    fn all_of(&mut self) -> Result<Part, Fault> {
        self.chain("and", Self::negated, Condition::And)
    }

    fn chain(
        &mut self,
        word: &str,
        read: fn(&mut Self) -> Result<Part, Fault>,
        join: fn(Vec<Condition>) -> Condition,
    ) -> Result<Part, Fault> {
        let first = read(self)?;
        if !self.is_word(word) {
            return Ok(first);
        }
        let position = first.position;
        let mut terms = vec![first.condition()?];
        while self.is_word(word) {
            self.advance();
            terms.push(read(self)?.condition()?);
        }
        let value = Value::Condition(join(terms));
        Ok(Part { position, value })
    }

    fn negated(&mut self) -> Result<Part, Fault> {
        let position = self.position();
        if !self.is_word("not") {
            return self.comparison();
        }
        self.advance();
        let term = self.deeper(|parser| parser.negated()?.condition())?;
        let value = Value::Condition(Condition::Not(Box::new(term)));
        Ok(Part { position, value })
    }

    fn comparison(&mut self) -> Result<Part, Fault> {
        let left = self.sum()?;
        let position = left.position;
        let condition = match left.value {
            Value::Field(field) => self.matching(field)?,
            Value::Text(_) if matches!(self.token(), Token::Symbol(_)) => {
                return Err(left.unlike("the text's name before the string"));
            }
            _ => match self.operator(Comparison::ALL, Comparison::name) {
                Some(comparison) => {
                    let right = self.sum()?.number();
                    Condition::Compare(left.number()?, comparison, right?)
                }
                None if matches!(self.token(), Token::Symbol("~" | "!~")) => {
                    return Err(left.unlike("a text such as name or kind"));
                }
                None => return Ok(left),
            },
        };
        if let Token::Symbol(symbol @ ("<" | "<=" | ">" | ">=" | "==" | "!=" | "~" | "!~")) =
            self.token()
        {
            let expected = "and or or: comparisons do not chain";
            return Err(self.fault(expected, format!("{symbol:?}")));
        }
        let value = Value::Condition(condition);
        Ok(Part { position, value })
    }

    /// What is asked of a text.
    fn matching(&mut self, field: Field) -> Result<Condition, Fault> {
        let Some(matching) = self.operator(Matching::ALL, Matching::name) else {
            let expected = format!("==, !=, ~ or !~ after {}", field.name());
            return Err(self.fault(expected, self.token().to_string()));
        };
        let Token::Text(text) = self.token() else {
            return Err(self.fault("a string between quotes", self.token().to_string()));
        };
        let text = text.clone();
        let is_whole = matches!(matching, Matching::Is | Matching::IsNot);
        // A misspelt kind would never be found, and the rule would never fail.
        if field == Field::Kind && is_whole && Kind::named(&text).is_none() {
            let expected = match nearest(&text, Kind::names().iter().copied()) {
                near if near.is_empty() => format!("one of {}", Kind::names().join(", ")),
                near => format!("a known kind, perhaps {near}"),
            };
            return Err(self.fault(expected, format!("{text:?}")));
        }
        self.advance();
        Ok(Condition::Match(field, matching, text))
    }

    fn sum(&mut self) -> Result<Part, Fault> {
        let first = self.product()?;
        let mut rest = Vec::new();
        while let Some(sign) = self.operator(Sign::ALL, Sign::name) {
            rest.push((sign, self.product()?.number()?));
        }
        joined(first, rest, Number::Sum)
    }

    fn product(&mut self) -> Result<Part, Fault> {
        let first = self.signed()?;
        let mut rest = Vec::new();
        while let Some(power) = self.operator(Power::ALL, Power::name) {
            rest.push((power, self.signed()?.number()?));
        }
        joined(first, rest, Number::Product)
    }

    fn signed(&mut self) -> Result<Part, Fault> {
        let position = self.position();
        if *self.token() != Token::Symbol("-") {
            return self.primary();
        }
        self.advance();
        let term = self.deeper(|parser| parser.signed()?.number())?;
        let value = Value::Number(Number::Negative(Box::new(term)));
        Ok(Part { position, value })
    }

    fn primary(&mut self) -> Result<Part, Fault> {
        let position = self.position();
        let value = match self.token().clone() {
            Token::Number(value) => Value::Number(Number::Literal(value)),
            Token::Text(text) => Value::Text(text),
            Token::Symbol("(") => {
                self.advance();
                return self.inside(position);
            }
            Token::Word(word) if ["and", "or", "not"].contains(&word.as_str()) => {
                return Err(self.fault("a number, a name or (", format!("{word:?}")));
            }
            Token::Word(word) => {
                let meaning =
                    meaning(&word).map_err(|expected| self.fault(expected, format!("{word:?}")))?;
                match meaning {
                    Meaning::Quantity(quantity) => Value::Number(Number::Quantity(quantity)),
                    Meaning::Total(total) => Value::Number(Number::Total(total)),
                    Meaning::Finding(kind) => Value::Condition(Condition::Finding(kind)),
                    Meaning::Severity(severity) => Value::Condition(Condition::Severity(severity)),
                    Meaning::Field(field) => Value::Field(field),
                    Meaning::Function(function) => {
                        self.advance();
                        let value = self.call(function)?;
                        return Ok(Part { position, value });
                    }
                }
            }
            other => return Err(self.fault("a number, a name or (", other.to_string())),
        };
        self.advance();
        Ok(Part { position, value })
    }

    /// What stands in parentheses, the first of which is read.
    fn inside(&mut self, position: usize) -> Result<Part, Fault> {
        let Part { value, .. } = self.deeper(Self::any_of)?;
        if *self.token() != Token::Symbol(")") {
            return Err(self.fault("an operator or )", self.token().to_string()));
        }
        self.advance();
        Ok(Part { position, value })
    }

    fn call(&mut self, function: Function) -> Result<Value, Fault> {
        if *self.token() != Token::Symbol("(") {
            return Err(self.fault("( after a function", self.token().to_string()));
        }
        self.advance();
        let position = self.position();
        let argument = self.inside(position)?;
        let of_condition = |argument: Part| of_modules(argument.condition()?, position);
        Ok(match function {
            Function::Any => Value::Condition(Condition::Any(of_condition(argument)?)),
            Function::All => Value::Condition(Condition::All(of_condition(argument)?)),
            Function::Count => Value::Number(Number::Count(of_condition(argument)?)),
            Function::Share => Value::Number(Number::Share(of_condition(argument)?)),
            Function::Statistic(statistic) => {
                let number = argument.number()?;
                if number.scope() < Scope::Module {
                    return Err(constant(position, &number));
                }
                Value::Number(Number::Statistic(statistic, Box::new(number)))
            }
        })
    }
}

fn joined<T>(
    first: Part,
    rest: Vec<(T, Number)>,
    join: fn(Box<Number>, Vec<(T, Number)>) -> Number,
) -> Result<Part, Fault> {
    if rest.is_empty() {
        return Ok(first);
    }
    let position = first.position;
    let value = Value::Number(join(Box::new(first.number()?), rest));
    Ok(Part { position, value })
}

fn of_modules(condition: Condition, position: usize) -> Result<Box<Condition>, Fault> {
    if condition.scope() < Scope::Module {
        return Err(constant(position, &condition));
    }
    Ok(Box::new(condition))
}

fn constant(position: usize, argument: &dyn std::fmt::Display) -> Fault {
    let expected = "something that depends on the module";
    Fault::new(position, expected, format!("{argument}"))
}
