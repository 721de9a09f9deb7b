use std::fmt;

/// The pieces of a rule.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Token {
    Number(f64),
    Text(String),
    Word(String),
    Symbol(&'static str),
    End,
}

/// As an error message shows it.
impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(value) => write!(f, "{value:?}"),
            Self::Text(text) => write!(f, "the string {text:?}"),
            Self::Word(word) => write!(f, "{word:?}"),
            Self::Symbol(symbol) => write!(f, "{symbol:?}"),
            Self::End => f.write_str("the end"),
        }
    }
}

/// What is wrong with a rule, and the character where, from 0.
#[derive(Debug)]
pub(super) struct Fault {
    pub position: usize,
    pub expected: String,
    pub found: String,
}

impl Fault {
    pub fn new(position: usize, expected: impl Into<String>, found: impl Into<String>) -> Self {
        Self {
            position,
            expected: expected.into(),
            found: found.into(),
        }
    }
}

/// Longer ones first.
const SYMBOLS: [&str; 14] = [
    "<=", ">=", "==", "!=", "!~", "<", ">", "~", "+", "-", "*", "/", "(", ")",
];

/// What other languages write, and what this one does.
const FOREIGN: [(&str, &str); 5] = [
    ("&&", "and"),
    ("||", "or"),
    ("!", "not, != or !~"),
    ("=", "== to compare"),
    (",", "an operator; functions have one argument"),
];

/// The tokens of a rule with their places (characters, from 0); the last is the end.
pub(super) fn tokens(text: &str) -> Result<Vec<(usize, Token)>, Fault> {
    let characters: Vec<char> = text.chars().collect();
    let mut tokens = Vec::new();
    let mut at = 0;
    while at < characters.len() {
        let start = at;
        let first = characters[at];
        let token = if first.is_whitespace() {
            at += 1;
            continue;
        } else if first.is_ascii_alphabetic() || first == '_' {
            let is_part = |c: &char| c.is_ascii_alphanumeric() || *c == '_';
            at = end_of(&characters, at, is_part);
            Token::Word(characters[start..at].iter().collect())
        } else if first.is_ascii_digit() || first == '.' {
            at = end_of_number(&characters, at);
            let digits: String = characters[start..at].iter().collect();
            match digits.parse::<f64>() {
                Ok(value) if value.is_finite() => Token::Number(value),
                _ => return Err(Fault::new(start, "a finite number", format!("{digits:?}"))),
            }
        } else if first == '"' || first == '\'' {
            let (string, end) = string(&characters, at)?;
            at = end;
            Token::Text(string)
        } else {
            let symbol = symbol(&characters[at..]).ok_or_else(|| unknown(&characters, at))?;
            at += symbol.len();
            Token::Symbol(symbol)
        };
        tokens.push((start, token));
    }
    tokens.push((characters.len(), Token::End));
    Ok(tokens)
}

fn end_of(characters: &[char], from: usize, is_part: impl Fn(&char) -> bool) -> usize {
    from + characters[from..].iter().take_while(|c| is_part(c)).count()
}

/// Digits with a point and an exponent.
fn end_of_number(characters: &[char], from: usize) -> usize {
    let digit = |c: &char| c.is_ascii_digit();
    let mut end = end_of(characters, from, digit);
    if characters.get(end) == Some(&'.') {
        end = end_of(characters, end + 1, digit);
    }
    if matches!(characters.get(end), Some('e' | 'E')) {
        let sign = usize::from(matches!(characters.get(end + 1), Some('+' | '-')));
        if characters.get(end + 1 + sign).is_some_and(digit) {
            end = end_of(characters, end + 1 + sign, digit);
        }
    }
    end
}

/// The string that begins at `from`, and where it ends.
fn string(characters: &[char], from: usize) -> Result<(String, usize), Fault> {
    let quote = characters[from];
    let mut text = String::new();
    let mut at = from + 1;
    while let Some(&c) = characters.get(at) {
        at += 1;
        match c {
            _ if c == quote => return Ok((text, at)),
            '\\' => match characters.get(at) {
                Some(&escaped @ ('"' | '\'' | '\\')) => {
                    text.push(escaped);
                    at += 1;
                }
                other => {
                    let found = other.map_or("the end".to_owned(), |c| format!("{c:?}"));
                    return Err(Fault::new(at, "a quote or a backslash after \\", found));
                }
            },
            _ => text.push(c),
        }
    }
    let expected = format!("{quote} at the end of the string");
    Err(Fault::new(characters.len(), expected, "the end"))
}

fn symbol(rest: &[char]) -> Option<&'static str> {
    SYMBOLS.into_iter().find(|symbol| begins(rest, symbol))
}

fn begins(rest: &[char], symbol: &str) -> bool {
    rest.iter().copied().take(symbol.len()).eq(symbol.chars())
}

fn unknown(characters: &[char], at: usize) -> Fault {
    let foreign = FOREIGN
        .iter()
        .find(|(symbol, _)| begins(&characters[at..], symbol));
    match foreign {
        Some((symbol, own)) => Fault::new(at, *own, format!("{symbol:?}")),
        None => {
            let expected = "a number, a string, a name or an operator";
            Fault::new(at, expected, format!("{:?}", characters[at]))
        }
    }
}
