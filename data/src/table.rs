use std::fs::File;
use std::path::Path;

use polars::prelude::{
    self as pl, CsvWriter, DataFrame, DataType, NamedFrom, ParquetReader, ParquetWriter, SerReader,
    SerWriter, Series,
};

use crate::{Error, write_atomic};

/// One named column of a [`Table`].
#[derive(Debug, Clone, PartialEq)]
pub enum Column {
    /// Real numbers; `None` where a quantity is not defined.
    Real(Vec<Option<f64>>),
    /// Whole numbers.
    Whole(Vec<i64>),
    /// Texts.
    Text(Vec<String>),
}

impl Column {
    fn len(&self) -> usize {
        match self {
            Self::Real(values) => values.len(),
            Self::Whole(values) => values.len(),
            Self::Text(values) => values.len(),
        }
    }
}

impl FromIterator<f64> for Column {
    /// Real numbers; NaN becomes `None`.
    fn from_iter<I: IntoIterator<Item = f64>>(values: I) -> Self {
        let defined = |value: f64| (!value.is_nan()).then_some(value);
        Self::Real(values.into_iter().map(defined).collect())
    }
}

impl FromIterator<Option<f64>> for Column {
    fn from_iter<I: IntoIterator<Item = Option<f64>>>(values: I) -> Self {
        Self::Real(values.into_iter().collect())
    }
}

impl FromIterator<usize> for Column {
    fn from_iter<I: IntoIterator<Item = usize>>(values: I) -> Self {
        let whole = |value| i64::try_from(value).expect("counts stay below 2⁶³");
        Self::Whole(values.into_iter().map(whole).collect())
    }
}

impl FromIterator<String> for Column {
    fn from_iter<I: IntoIterator<Item = String>>(values: I) -> Self {
        Self::Text(values.into_iter().collect())
    }
}

/// Columns of equal length with names: what a record file holds.
#[derive(Debug, Clone)]
pub struct Table(DataFrame);

impl Table {
    /// Puts columns side by side.
    ///
    /// # Errors
    /// [`Error::Column`] if one differs in length from the first, or a name comes twice.
    pub fn new(columns: Vec<(&str, Column)>) -> Result<Self, Error> {
        let rows = columns.first().map_or(0, |(_, column)| column.len());
        let mut series = Vec::with_capacity(columns.len());
        for (name, column) in columns {
            if column.len() != rows {
                return Err(Error::Column {
                    name: name.to_owned(),
                    expected: format!("{rows} rows"),
                    found: column.len().to_string(),
                });
            }
            let values = match column {
                Column::Real(values) => Series::new(name.into(), values),
                Column::Whole(values) => Series::new(name.into(), values),
                Column::Text(values) => Series::new(name.into(), values),
            };
            series.push(pl::Column::from(values));
        }
        DataFrame::new(rows, series)
            .map(Self)
            .map_err(|error| Error::Column {
                name: "names".to_owned(),
                expected: "each once".to_owned(),
                found: error.to_string(),
            })
    }

    /// The number of rows.
    pub fn rows(&self) -> usize {
        self.0.height()
    }

    /// A column of numbers; null is NaN.
    ///
    /// # Errors
    /// [`Error::Column`] if there is none of that name, or it holds text.
    pub fn numbers(&self, name: &str) -> Result<Vec<f64>, Error> {
        let column = self.column(name)?;
        let wrong = || Error::Column {
            name: name.to_owned(),
            expected: "numbers".to_owned(),
            found: column.dtype().to_string(),
        };
        if !column.dtype().is_primitive_numeric() {
            return Err(wrong());
        }
        let numbers = column.cast(&DataType::Float64).map_err(|_| wrong())?;
        let numbers = numbers.f64().map_err(|_| wrong())?;
        Ok(numbers
            .iter()
            .map(|value| value.unwrap_or(f64::NAN))
            .collect())
    }

    /// A column of texts.
    ///
    /// # Errors
    /// [`Error::Column`] if there is none of that name, or it does not hold text.
    pub fn texts(&self, name: &str) -> Result<Vec<String>, Error> {
        let column = self.column(name)?;
        let texts = column.str().map_err(|_| Error::Column {
            name: name.to_owned(),
            expected: "text".to_owned(),
            found: column.dtype().to_string(),
        })?;
        Ok(texts
            .iter()
            .map(|text| text.unwrap_or_default().to_owned())
            .collect())
    }

    /// Writes Parquet (zstd is not asked for: the tables are small), whole or not at all.
    ///
    /// # Errors
    /// [`Error::Io`] if that fails.
    pub fn write_parquet(&self, path: &Path) -> Result<(), Error> {
        write_atomic(path, |out| {
            ParquetWriter::new(out)
                .with_compression(pl::ParquetCompression::Uncompressed)
                .set_parallel(false)
                .finish(&mut self.0.clone())
                .map(drop)
                .map_err(std::io::Error::other)
        })
    }

    /// Writes CSV with a header, whole or not at all.
    ///
    /// # Errors
    /// [`Error::Io`] if that fails.
    pub fn write_csv(&self, path: &Path) -> Result<(), Error> {
        write_atomic(path, |out| {
            CsvWriter::new(out)
                .finish(&mut self.0.clone())
                .map_err(std::io::Error::other)
        })
    }

    /// Reads Parquet.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be opened, [`Error::Format`] if it is not Parquet or cut.
    pub fn read_parquet(path: &Path) -> Result<Self, Error> {
        let file = File::open(path).map_err(Error::io(path, "open"))?;
        ParquetReader::new(file)
            .finish()
            .map(Self)
            .map_err(|error| Error::format(path, "file", "Parquet", error.to_string()))
    }

    fn column(&self, name: &str) -> Result<&pl::Column, Error> {
        self.0.column(name).map_err(|_| {
            let names = self.0.get_column_names().into_iter();
            Error::Column {
                name: name.to_owned(),
                expected: "present".to_owned(),
                found: names
                    .map(|name| name.as_str())
                    .collect::<Vec<_>>()
                    .join(", "),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        Table::new(vec![
            ("epoch", [1_usize, 2].into_iter().collect()),
            ("loss", [0.1_f64, f64::NAN].into_iter().collect()),
            (
                "method",
                ["lora".to_owned(), "full".to_owned()].into_iter().collect(),
            ),
        ])
        .unwrap()
    }

    #[test]
    fn parquet_keeps_numbers_nulls_and_texts() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.parquet");
        table().write_parquet(&path).unwrap();
        let read = Table::read_parquet(&path).unwrap();
        assert_eq!(read.rows(), 2);
        assert_eq!(read.numbers("epoch").unwrap(), [1.0, 2.0]);
        let loss = read.numbers("loss").unwrap();
        assert_eq!(loss[0], 0.1);
        assert!(loss[1].is_nan());
        assert_eq!(read.texts("method").unwrap(), ["lora", "full"]);
        let bytes = std::fs::read(&path).unwrap();
        table().write_parquet(&path).unwrap();
        assert_eq!(bytes, std::fs::read(&path).unwrap());
    }

    #[test]
    fn csv_has_the_same_columns() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.csv");
        table().write_csv(&path).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text, "epoch,loss,method\n1,0.1,lora\n2,,full\n");
    }

    #[test]
    fn faults_are_named() {
        let missing = table().numbers("los").unwrap_err().to_string();
        assert!(
            missing.contains("column los") && missing.contains("epoch, loss"),
            "{missing}"
        );
        assert!(
            table()
                .numbers("method")
                .unwrap_err()
                .to_string()
                .contains("expected numbers")
        );
        let uneven = Table::new(vec![
            ("a", [1_usize].into_iter().collect()),
            ("b", [1_usize, 2].into_iter().collect()),
        ]);
        assert!(
            uneven
                .unwrap_err()
                .to_string()
                .contains("column b: expected 1 rows, found 2")
        );
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.parquet");
        table().write_parquet(&path).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
        assert!(
            Table::read_parquet(&path)
                .unwrap_err()
                .to_string()
                .contains("t.parquet")
        );
    }
}
