//! Flat records in JSON: an array of objects, or objects one after another.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::path::Path;

use serde::de::{self, Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::rows::{MOST_CELLS, Rows, check_names, utf8};
use crate::{Column, Error};

/// Cells for every value in the file: records that share no keys would ask for the square of it.
const MOST_SPARSE: usize = 16;
/// So many cells are never too many.
const FEW_CELLS: usize = 16_384;

pub(crate) fn read(origin: &Path, bytes: &[u8]) -> Result<Rows, Error> {
    let text = utf8(origin, bytes)?;
    let not_json = |error: serde_json::Error| {
        let what = format!("line {}, column {}", error.line(), error.column());
        let mut found = error.to_string();
        // serde_json adds the place, which is said already.
        if let Some(end) = found.rfind(" at line ") {
            found.truncate(end);
        }
        // What Python's json module writes although JSON has no such numbers.
        let line = text.lines().nth(error.line().saturating_sub(1));
        let rest = line.and_then(|line| line.get(error.column().saturating_sub(1)..));
        let mut words = ["NaN", "Infinity"].into_iter();
        if let Some(word) = words.find(|word| rest.is_some_and(|rest| rest.starts_with(word))) {
            found = format!("{word}, which JSON lacks (null is nothing)");
        }
        Error::format(
            origin,
            what,
            "an array of flat JSON objects or one object a line",
            found,
        )
    };
    let records = if text.trim_start().starts_with('[') {
        let Records(records) = serde_json::from_str(text).map_err(not_json)?;
        records
    } else {
        let stream = serde_json::Deserializer::from_str(text).into_iter::<Record>();
        stream.collect::<Result<_, _>>().map_err(not_json)?
    };
    if records.is_empty() {
        return Err(Error::format(origin, "file", "at least one record", "none"));
    }
    columns(origin, records)
}

fn columns(origin: &Path, records: Vec<Record>) -> Result<Rows, Error> {
    let rows = records.len();
    let mut places: HashMap<String, usize> = HashMap::new();
    let mut names: Vec<String> = Vec::new();
    for Record(entries) in &records {
        for (key, _) in entries {
            if !places.contains_key(key) {
                places.insert(key.clone(), names.len());
                names.push(key.clone());
            }
        }
    }
    check_names(origin, 1, &names)?;
    if names.len().saturating_mul(rows) > MOST_CELLS {
        let found = format!("{rows} records of {} keys", names.len());
        let expected = format!("at most {MOST_CELLS} cells");
        return Err(Error::format(origin, "size", expected, found));
    }
    let values: usize = records.iter().map(|Record(entries)| entries.len()).sum();
    if names.len() * rows > FEW_CELLS.max(MOST_SPARSE.saturating_mul(values)) {
        return Err(Error::format(
            origin,
            "keys",
            format!("records that have one in {MOST_SPARSE} of all keys, on the whole"),
            format!(
                "{rows} records of {} keys with {values} values",
                names.len()
            ),
        ));
    }
    let mut cells: Vec<Vec<Cell>> = names.iter().map(|_| vec![Cell::Missing; rows]).collect();
    for (row, Record(entries)) in records.into_iter().enumerate() {
        for (key, cell) in entries {
            cells[places[&key]][row] = cell;
        }
    }
    let columns = names.iter().zip(cells);
    let columns = columns
        .map(|(name, cells)| column(origin, name, cells))
        .collect::<Result<_, _>>()?;
    Ok(Rows { names, columns })
}

/// Texts if one is a text, otherwise numbers; what is of the other kind is refused.
fn column(origin: &Path, name: &str, cells: Vec<Cell>) -> Result<Column, Error> {
    let is_text = |cell: &Cell| matches!(cell, Cell::Text(_));
    let is_number = |cell: &Cell| matches!(cell, Cell::Whole(_) | Cell::Real(_));
    let first = cells.iter().find(|cell| is_text(cell) || is_number(cell));
    let odd: fn(&Cell) -> bool = match first {
        Some(Cell::Text(_)) => |cell| matches!(cell, Cell::Whole(_) | Cell::Real(_)),
        _ => |cell| matches!(cell, Cell::Text(_)),
    };
    if let Some(row) = cells.iter().position(odd) {
        let (expected, found) = match &cells[row] {
            Cell::Text(text) => ("a number as before", format!("{text:?}")),
            other => ("a text as before", other.to_string()),
        };
        let what = format!("record {}, key {name:?}", row + 1);
        return Err(Error::format(origin, what, expected, found));
    }
    if first.is_some_and(is_text) {
        let texts = cells.into_iter().map(|cell| match cell {
            Cell::Text(text) => text,
            _ => String::new(),
        });
        return Ok(Column::Text(texts.collect()));
    }
    let whole: Option<Vec<i64>> = cells
        .iter()
        .map(|cell| match cell {
            Cell::Whole(value) => Some(*value),
            _ => None,
        })
        .collect();
    Ok(match whole {
        Some(values) => Column::Whole(values),
        None => Column::Real(
            cells
                .iter()
                .map(|cell| match cell {
                    Cell::Whole(value) => Some(*value as f64),
                    Cell::Real(value) => Some(*value),
                    _ => None,
                })
                .collect(),
        ),
    })
}

struct Records(Vec<Record>);

impl<'de> Deserialize<'de> for Records {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Array;
        impl<'de> Visitor<'de> for Array {
            type Value = Records;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array of objects")
            }

            /// No size is taken from the file before what it counts is read.
            fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<Records, A::Error> {
                let mut records = Vec::new();
                while let Some(record) = array.next_element()? {
                    records.push(record);
                }
                Ok(Records(records))
            }
        }
        deserializer.deserialize_seq(Array)
    }
}

/// An object's entries, in order.
struct Record(Vec<(String, Cell)>);

impl<'de> Deserialize<'de> for Record {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Record;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Record, A::Error> {
                let mut entries = Vec::new();
                let mut keys = HashSet::new();
                while let Some(key) = map.next_key::<String>()? {
                    if !keys.insert(key.clone()) {
                        return Err(de::Error::custom(format!("the key {key:?} twice")));
                    }
                    let cell = map.next_value()?;
                    if matches!(cell, Cell::Nested) {
                        return Err(de::Error::custom(format!(
                            "an array or object as the value of {key:?}"
                        )));
                    }
                    entries.push((key, cell));
                }
                Ok(Record(entries))
            }
        }
        deserializer.deserialize_map(Object)
    }
}

/// A value.
#[derive(Debug, Clone)]
enum Cell {
    Missing,
    Whole(i64),
    Real(f64),
    Text(String),
    /// An array or object: refused where its key is known.
    Nested,
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("null"),
            Self::Whole(value) => value.fmt(f),
            Self::Real(value) => value.fmt(f),
            Self::Text(text) => write!(f, "{text:?}"),
            Self::Nested => f.write_str("an array or object"),
        }
    }
}

impl<'de> Deserialize<'de> for Cell {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Value;
        impl<'de> Visitor<'de> for Value {
            type Value = Cell;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number, a text, true, false or null")
            }

            fn visit_unit<E>(self) -> Result<Cell, E> {
                Ok(Cell::Missing)
            }

            /// As a text: what is counted says so with 0 and 1.
            fn visit_bool<E>(self, value: bool) -> Result<Cell, E> {
                Ok(Cell::Text(value.to_string()))
            }

            fn visit_i64<E>(self, value: i64) -> Result<Cell, E> {
                Ok(Cell::Whole(value))
            }

            fn visit_u64<E>(self, value: u64) -> Result<Cell, E> {
                Ok(i64::try_from(value).map_or(Cell::Real(value as f64), Cell::Whole))
            }

            fn visit_f64<E>(self, value: f64) -> Result<Cell, E> {
                Ok(Cell::Real(value))
            }

            fn visit_str<E>(self, value: &str) -> Result<Cell, E> {
                Ok(Cell::Text(value.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<Cell, A::Error> {
                while array.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Cell::Nested)
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Cell, A::Error> {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Cell::Nested)
            }
        }
        deserializer.deserialize_any(Value)
    }
}

#[cfg(all(test, feature = "tables"))]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{ColumnKind, Table};

    fn read(text: &str) -> Result<Table, Error> {
        Table::from_json(Path::new("m.json"), text.as_bytes())
    }

    #[test]
    fn arrays_and_lines_say_the_same() {
        let array = r#"[{"adapter": "a", "seed": 0, "loss": 1, "best": true},
            {"seed": 1, "adapter": "b", "loss": 0.5, "extra": null}]"#;
        let lines = "{\"adapter\": \"a\", \"seed\": 0, \"loss\": 1, \"best\": true}\n\n\
            {\"seed\": 1, \"adapter\": \"b\", \"loss\": 0.5, \"extra\": null}\n";
        for text in [array, lines] {
            let table = read(text).unwrap();
            assert_eq!(table.names(), ["adapter", "seed", "loss", "best", "extra"]);
            assert_eq!(table.numbers("loss").unwrap(), [1.0, 0.5]);
            assert_eq!(table.kind("seed").unwrap(), ColumnKind::Whole);
            assert_eq!(table.texts("best").unwrap(), ["true", ""]);
            assert!(table.numbers("extra").unwrap()[1].is_nan());
        }
    }

    #[test]
    fn faults_name_their_place() {
        let cases = [
            ("", "file: expected at least one record, found none"),
            ("[]", "file: expected at least one record, found none"),
            (
                "[{\"a\": 1, \"a\": 2}]",
                "expected an array of flat JSON objects or one object a line, found the key \"a\" twice",
            ),
            ("{\"a\": 1}\n{\"a\": [1]}", "m.json: line 2, column"),
            (
                "{\"a\": {\"b\": 1}}",
                "found an array or object as the value of \"a\"",
            ),
            (
                "[{\"a\": 1}, {\"a\": \"x\"}]",
                "record 2, key \"a\": expected a number as before, found \"x\"",
            ),
            (
                "[{\"a\": \"x\"}, {}, {\"a\": 1}]",
                "record 3, key \"a\": expected a text as before, found 1",
            ),
            ("[{\"a\": NaN}]", "found NaN, which JSON lacks"),
            ("[{\"a\": -Infinity}]", "found Infinity, which JSON lacks"),
            ("[1]", "invalid type: integer `1`, expected an object"),
            ("7", "expected an object"),
            ("[{\"\": 1}]", "expected a name"),
        ];
        for (text, expected) in cases {
            let found = read(text).unwrap_err().to_string();
            assert!(
                found.starts_with("m.json: ") && found.contains(expected),
                "{found}"
            );
        }
        let latin = Table::from_json(Path::new("m.json"), b"[{\"\xE9\": 1}]");
        assert!(latin.unwrap_err().to_string().contains("expected UTF-8"));
    }

    #[test]
    fn hostile_shapes_are_refused() {
        // Nested deeper than any stack.
        let deep = format!("[{{\"a\": {}", "[".repeat(1_000_000));
        assert!(read(&deep).is_err());
        // Every record has keys of its own: rows × columns would be 16 · 10⁶ · …
        let wide: String = (0..5000).map(|i| format!("{{\"k{i}\": 1}}\n")).collect();
        assert!(
            read(&wide)
                .unwrap_err()
                .to_string()
                .contains("at most 4096 columns")
        );
        let many: String = (0..6000)
            .map(|i| format!("{{\"k{}\": 1}}\n", i % 4000))
            .collect();
        assert!(
            read(&many)
                .unwrap_err()
                .to_string()
                .contains("at most 20000000 cells")
        );
        let lonely: String = (0..400).map(|i| format!("{{\"k{i}\": 1}}\n")).collect();
        assert!(
            read(&lonely)
                .unwrap_err()
                .to_string()
                .contains("keys: expected records that have one in 16 of all keys")
        );
    }

    proptest! {
        #[test]
        fn numbers_survive(values in prop::collection::vec(-1e300_f64..1e300, 1..20)) {
            let records: Vec<_> = values.iter().map(|x| serde_json::json!({ "x": x })).collect();
            let table = read(&serde_json::to_string(&records).unwrap()).unwrap();
            prop_assert_eq!(table.numbers("x").unwrap(), values);
        }

        #[test]
        fn any_text_is_read_or_refused(text in "[\\[\\]{}\":,a1 \n.enult-]{0,60}") {
            let _ = read(&text);
        }
    }
}
