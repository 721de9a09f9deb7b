//! Case files: one problem with everything about it written out, for anyone to check.
//!
//! A file holds one JSON object or a list of them. Matrices are lists of rows; the layers of the
//! partition count from 1.
//!
//! | key | shape | |
//! |---|---|---|
//! | `id` | text | |
//! | `D`, `L_target`, `L_frozen` | numbers | |
//! | `target_W`, `target_b` | L̄ × D × D, L̄ × D | W̄, b̄ |
//! | `frozen_W` | L × D × D | W |
//! | `partition` | such as `[[1,2],[3]]` | P |
//! | `R` | L | a rank for every frozen layer |
//! | `Sigma` | D × D | E[x xᵀ] |
//! | `x_points` | n × D | optional: a finite input distribution with that Σ |
//! | `x_probs` | n | its probabilities, equal if absent |
//!
//! Other keys are ignored and listed in [`Case::unknown_keys`]. A complete one is
//! [`Case::EXAMPLE`]:
//!
//! ```
//! use rankwise_theory::Case;
//! let cases = Case::parse(Case::EXAMPLE, "example.json")?;
//! let report = cases[0].verify()?;
//! assert_eq!(report.rank_e, [2]);
//! assert!(!report.exact_with_given_r && cases[0].unknown_keys.is_empty());
//! # Ok::<(), rankwise_theory::Error>(())
//! ```

use std::path::Path;

use ndarray::{Array1, Array2};
use serde_json::{Map, Value};

use crate::{Error, Fnn, Partition, Problem, Sample, SecondMoment};

const KEYS: [&str; 12] = [
    "id",
    "D",
    "L_target",
    "L_frozen",
    "target_W",
    "target_b",
    "frozen_W",
    "partition",
    "R",
    "Sigma",
    "x_points",
    "x_probs",
];

/// How far the points' own second moment may be from `Sigma`, relative to its trace: both may have
/// been printed with ten digits.
const SIGMA_TOLERANCE: f64 = 1e-9;

/// One case, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Case {
    /// Its name.
    pub id: String,
    /// The networks and the partition.
    pub problem: Problem,
    /// R_l for every frozen layer.
    pub ranks: Vec<usize>,
    /// Σ.
    pub sigma: SecondMoment,
    /// The input distribution, if there is one.
    pub sample: Option<Sample>,
    /// Keys that mean nothing here.
    pub unknown_keys: Vec<String>,
}

impl Case {
    /// A complete file of one case.
    pub const EXAMPLE: &str = include_str!("example.json");

    /// Reads a file of one case or a list of cases.
    ///
    /// # Errors
    /// [`Error::File`] if it cannot be read; otherwise as [`Case::parse`].
    pub fn read(path: &Path) -> Result<Vec<Self>, Error> {
        Self::parse(
            &rankwise_data::read_text(path)?,
            &path.display().to_string(),
        )
    }

    /// Reads one case or a list of cases from JSON; messages call it `file`.
    ///
    /// # Errors
    /// [`Error::Json`] if it is not JSON, [`Error::Invalid`] with the path inside the file of what
    /// is missing, misshapen or out of range, [`Error::Linalg`] if a decomposition fails.
    pub fn parse(text: &str, file: &str) -> Result<Vec<Self>, Error> {
        let json = |found| Error::Json {
            file: file.to_owned(),
            found,
        };
        match serde_json::from_str(text).map_err(json)? {
            Value::Array(cases) => {
                let located = cases.iter().enumerate();
                located
                    .map(|(i, case)| Self::from_value(case, &format!("{file}: [{i}]")))
                    .collect()
            }
            case => Ok(vec![Self::from_value(&case, &format!("{file}: "))?]),
        }
    }

    fn from_value(value: &Value, place: &str) -> Result<Self, Error> {
        let Value::Object(object) = value else {
            return Err(Error::invalid(
                place.trim_end_matches([':', ' ']),
                "an object",
                kind(value),
            ));
        };
        let root = Object { object, place };
        let width = root.field("D")?.size(1)?;
        let target_layers = root.field("L_target")?.size(1)?;
        let frozen_layers = root.field("L_frozen")?.size(1)?;
        let target = Fnn::new(
            root.field("target_W")?
                .each(Some(target_layers), |w| w.matrix(Some(width), width))?,
            root.field("target_b")?
                .each(Some(target_layers), |b| b.vector(width))?,
        )?;
        let frozen = Fnn::without_biases(
            root.field("frozen_W")?
                .each(Some(frozen_layers), |w| w.matrix(Some(width), width))?,
        )?;
        let partition = root.field("partition")?;
        let blocks = partition.each(Some(target_layers), |block| {
            block.each(None, |layer| layer.size(1))
        })?;
        let blocks = Partition::from_layers(&blocks).map_err(|error| partition.locate(error))?;
        let sigma = root.field("Sigma")?;
        let matrix = sigma.matrix(Some(width), width)?;
        let case = Self {
            id: root.field("id")?.text()?,
            problem: Problem::new(target, frozen, blocks)
                .map_err(|error| partition.locate(error))?,
            ranks: root
                .field("R")?
                .each(Some(frozen_layers), |rank| match rank.size(0)? {
                    size if size <= width => Ok(size),
                    _ => Err(rank.invalid(format!("a rank from 0 to D = {width}"))),
                })?,
            sigma: SecondMoment::new(matrix).map_err(|error| sigma.locate(error))?,
            sample: root.sample(width)?,
            unknown_keys: object
                .keys()
                .filter(|key| !KEYS.contains(&key.as_str()))
                .cloned()
                .collect(),
        };
        case.check_moment().map_err(|error| sigma.locate(error))?;
        Ok(case)
    }

    /// The bounds are for Σ, the measured error is over the points: they must be the same input.
    fn check_moment(&self) -> Result<(), Error> {
        let Some(sample) = &self.sample else {
            return Ok(());
        };
        let own = sample.second_moment()?;
        let difference = &own.matrix() - &self.sigma.matrix();
        let largest = difference.iter().fold(0.0, |a: f64, b| a.max(b.abs()));
        if largest > SIGMA_TOLERANCE * own.trace() {
            let found = format!("entries up to {largest:.1e} away from it");
            return Err(Error::invalid("second moment", "that of x_points", found));
        }
        Ok(())
    }
}

struct Object<'a> {
    object: &'a Map<String, Value>,
    place: &'a str,
}

impl<'a> Object<'a> {
    fn optional(&self, key: &str) -> Option<Field<'a>> {
        let separator = if self.place.ends_with(']') { "." } else { "" };
        let place = format!("{}{separator}{key}", self.place);
        match self.object.get(key) {
            None | Some(Value::Null) => None,
            Some(value) => Some(Field { value, place }),
        }
    }

    fn field(&self, key: &str) -> Result<Field<'a>, Error> {
        self.optional(key).ok_or_else(|| {
            let place = self.place.trim_end_matches([':', ' ']);
            Error::invalid(place, format!("a key {key}"), "none")
        })
    }

    fn sample(&self, width: usize) -> Result<Option<Sample>, Error> {
        let probabilities = self.optional("x_probs");
        let Some(points) = self.optional("x_points") else {
            return match probabilities {
                None => Ok(None),
                Some(_) => self.field("x_points").map(|_| None),
            };
        };
        let rows = points.matrix(None, width)?;
        let probabilities = probabilities.map(|field| field.vector(rows.nrows()));
        let sample = Sample::new(rows, probabilities.transpose()?);
        Ok(Some(sample.map_err(|error| points.locate(error))?))
    }
}

/// A value and the way to it.
struct Field<'a> {
    value: &'a Value,
    place: String,
}

impl Field<'_> {
    fn invalid(&self, expected: impl Into<String>) -> Error {
        Error::invalid(self.place.as_str(), expected, kind(self.value))
    }

    /// Says where an error of a checked type arose.
    fn locate(&self, error: Error) -> Error {
        match error {
            Error::Invalid {
                what,
                expected,
                found,
            } => Error::Invalid {
                what: format!("{}: {what}", self.place),
                expected,
                found,
            },
            other => other,
        }
    }

    fn text(&self) -> Result<String, Error> {
        let text = self.value.as_str().ok_or_else(|| self.invalid("text"))?;
        Ok(text.to_owned())
    }

    fn number(&self) -> Result<f64, Error> {
        self.value.as_f64().ok_or_else(|| self.invalid("a number"))
    }

    fn size(&self, least: u64) -> Result<usize, Error> {
        let size = self.value.as_u64().filter(|&size| size >= least);
        size.and_then(|size| usize::try_from(size).ok())
            .ok_or_else(|| self.invalid(format!("a whole number from {least}")))
    }

    /// The elements of a list, of the given length if there is one.
    fn each<T>(
        &self,
        length: Option<usize>,
        read: impl Fn(&Field<'_>) -> Result<T, Error>,
    ) -> Result<Vec<T>, Error> {
        let list = self
            .value
            .as_array()
            .ok_or_else(|| self.invalid("a list"))?;
        if let Some(length) = length.filter(|&length| length != list.len()) {
            return Err(self.invalid(format!("a list of {length}")));
        }
        let fields = list.iter().enumerate();
        fields
            .map(|(i, value)| {
                read(&Field {
                    value,
                    place: format!("{}[{i}]", self.place),
                })
            })
            .collect()
    }

    fn vector(&self, length: usize) -> Result<Array1<f64>, Error> {
        Ok(Array1::from(
            self.each(Some(length), |entry| entry.number())?,
        ))
    }

    /// A list of rows, of which there are `rows` if that is given.
    fn matrix(&self, rows: Option<usize>, columns: usize) -> Result<Array2<f64>, Error> {
        let rows = self.each(rows, |row| row.each(Some(columns), |entry| entry.number()))?;
        Ok(Array2::from_shape_fn((rows.len(), columns), |(i, j)| {
            rows[i][j]
        }))
    }
}

fn kind(value: &Value) -> String {
    match value {
        Value::Array(list) => format!("a list of {}", list.len()),
        Value::Object(_) => "an object".to_owned(),
        Value::String(_) => "text".to_owned(),
        Value::Null | Value::Bool(_) | Value::Number(_) => value.to_string(),
    }
}
