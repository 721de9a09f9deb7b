use std::fs::File;
use std::io::{Cursor, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use polars::prelude::{
    self as pl, CsvWriter, DataFrame, DataType, NamedFrom, ParquetReader, ParquetWriter, SerReader,
    SerWriter, Series,
};

use crate::rows::{MOST_CELLS, MOST_COLUMNS, Rows};
use crate::{Column, ColumnKind, Error, csv, json, write_atomic};

/// Larger files are no tables of metrics; it bounds the memory that a reader takes.
const MOST_BYTES: u64 = 256 << 20;
/// Numbers and texts of a Parquet file when decompressed.
const MOST_DECOMPRESSED: i64 = 1 << 30;

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

    /// What a reader of text found in the file `origin`.
    pub(crate) fn of_rows(origin: &Path, rows: Rows) -> Result<Self, Error> {
        let columns = rows.names.iter().map(String::as_str).zip(rows.columns);
        Self::new(columns.collect())
            .map_err(|error| Error::format(origin, "columns", "a table", error.to_string()))
    }

    /// The number of rows.
    pub fn rows(&self) -> usize {
        self.0.height()
    }

    /// The names of the columns, in order.
    pub fn names(&self) -> Vec<String> {
        let names = self.0.get_column_names().into_iter();
        names.map(|name| name.to_string()).collect()
    }

    /// What a column holds.
    ///
    /// # Errors
    /// [`Error::Column`] if there is none of that name.
    pub fn kind(&self, name: &str) -> Result<ColumnKind, Error> {
        let column = self.column(name)?;
        Ok(match column.dtype() {
            dtype if dtype.is_integer() && column.null_count() == 0 => ColumnKind::Whole,
            dtype if dtype.is_primitive_numeric() => ColumnKind::Real,
            DataType::String => ColumnKind::Text,
            _ => ColumnKind::Other,
        })
    }

    /// A column as texts, whatever it holds: whole numbers without a point, other numbers as short as
    /// they can be read back, nothing as the empty text.
    ///
    /// # Errors
    /// [`Error::Column`] if there is none of that name, or it holds neither numbers, texts nor truth
    /// values.
    pub fn labels(&self, name: &str) -> Result<Vec<String>, Error> {
        let column = self.column(name)?;
        match column.dtype() {
            DataType::Float32 | DataType::Float64 => {
                let label = |value: f64| match value.is_nan() {
                    true => String::new(),
                    false => value.to_string(),
                };
                Ok(self.numbers(name)?.into_iter().map(label).collect())
            }
            DataType::String => self.texts(name),
            dtype if dtype.is_integer() || *dtype == DataType::Boolean => {
                let wrong = |_| Error::Column {
                    name: name.to_owned(),
                    expected: "numbers or texts".to_owned(),
                    found: dtype.to_string(),
                };
                let texts = column.cast(&DataType::String).map_err(wrong)?;
                let texts = texts.str().map_err(wrong)?;
                let label = |text: Option<&str>| text.unwrap_or_default().to_owned();
                Ok(texts.iter().map(label).collect())
            }
            dtype => Err(Error::Column {
                name: name.to_owned(),
                expected: "numbers or texts".to_owned(),
                found: dtype.to_string(),
            }),
        }
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

    /// Reads a table by its file's ending: `.csv`, `.tsv` (tabs between the fields), `.parquet`,
    /// `.json` (an array of objects) or `.jsonl` and `.ndjson` (one object a line).
    ///
    /// A column of CSV or TSV holds whole numbers if all of its fields are, numbers if the fields that
    /// are not empty (or `NA`, `NaN`, `null`, `None`) are, and texts otherwise. In JSON every value
    /// has its own type, and a column's values must agree.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be read; [`Error::Format`] naming the line or record, the
    /// column or key, what was expected and what is there.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let ending = path.extension().unwrap_or_default().to_string_lossy();
        match ending.to_ascii_lowercase().as_str() {
            "csv" => Self::from_csv(path, &read_bytes(path)?, ','),
            "tsv" => Self::from_csv(path, &read_bytes(path)?, '\t'),
            "json" | "jsonl" | "ndjson" => Self::from_json(path, &read_bytes(path)?),
            "parquet" => Self::read_parquet(path),
            other => Err(Error::format(
                path,
                "file name",
                "one that ends in .csv, .tsv, .parquet, .json, .jsonl or .ndjson",
                format!("the ending {other:?}"),
            )),
        }
    }

    /// Reads the bytes of a CSV file with a header (RFC 4180): `separator` between fields, quotes
    /// doubled inside quotes, any line end, a byte order mark skipped, empty lines skipped, spaces
    /// around fields without quotes dropped. `origin` names the file in errors.
    ///
    /// ```
    /// use std::path::Path;
    /// use rankwise_data::{ColumnKind, Table};
    /// let text = "adapter,seed,test_loss\n\"a, b\",0,\nc,1,0.25\n";
    /// let table = Table::from_csv(Path::new("metrics.csv"), text.as_bytes(), ',')?;
    /// assert_eq!(table.texts("adapter")?, ["a, b", "c"]);
    /// assert_eq!(table.kind("seed")?, ColumnKind::Whole);
    /// assert_eq!(table.numbers("test_loss")?[1], 0.25);
    /// # Ok::<(), rankwise_data::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Format`], as [`read`](Self::read).
    pub fn from_csv(origin: &Path, bytes: &[u8], separator: char) -> Result<Self, Error> {
        Self::of_rows(origin, csv::read(origin, bytes, separator)?)
    }

    /// Reads the bytes of a JSON array of flat objects, or of objects one after another (JSON Lines).
    /// A key that an object lacks is missing there, as is `null`. `origin` names the file in errors.
    ///
    /// # Errors
    /// [`Error::Format`], as [`read`](Self::read).
    pub fn from_json(origin: &Path, bytes: &[u8]) -> Result<Self, Error> {
        Self::of_rows(origin, json::read(origin, bytes)?)
    }

    /// Reads Parquet.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be read, [`Error::Format`] if it is not Parquet, cut, or too
    /// large to be a table of metrics.
    pub fn read_parquet(path: &Path) -> Result<Self, Error> {
        Self::from_parquet(path, &read_bytes(path)?)
    }

    /// Reads the bytes of a Parquet file. `origin` names the file in errors.
    ///
    /// Sizes in the file's footer are checked and a panic of the decoder becomes an error; a run
    /// length forged inside a page can still ask the decoder for more memory than there is, which
    /// ends the process. Tables from strangers are better taken as CSV or JSON.
    ///
    /// # Errors
    /// As [`read_parquet`](Self::read_parquet).
    pub fn from_parquet(origin: &Path, bytes: &[u8]) -> Result<Self, Error> {
        let not_parquet = |found: String| Error::format(origin, "file", "Parquet", found);
        // The decoder panics at some damaged files.
        let read = catch_unwind(AssertUnwindSafe(|| {
            let mut reader = ParquetReader::new(Cursor::new(bytes)).set_low_memory(true);
            let metadata = reader
                .get_metadata()
                .map_err(|error| not_parquet(error.to_string()))?;
            let groups = metadata.row_groups.iter();
            let rows = groups.clone().map(|group| group.num_rows() as u64);
            let rows = rows.fold(0, u64::saturating_add);
            let chunks = groups.flat_map(|group| group.parquet_columns());
            let size = chunks.map(|chunk| chunk.uncompressed_size().max(0));
            let size = size.fold(0, i64::saturating_add);
            let columns = metadata.schema_descr.columns().len() as u64;
            if columns > MOST_COLUMNS as u64
                || rows.saturating_mul(columns) > MOST_CELLS as u64
                || size > MOST_DECOMPRESSED
            {
                return Err(Error::format(
                    origin,
                    "size",
                    format!(
                        "at most {MOST_COLUMNS} columns, {MOST_CELLS} cells and \
                         {MOST_DECOMPRESSED} bytes"
                    ),
                    format!("{columns} columns, {rows} rows and {size} bytes"),
                ));
            }
            reader
                .finish()
                .map(Self)
                .map_err(|error| not_parquet(error.to_string()))
        }));
        read.unwrap_or_else(|_| Err(not_parquet("a damaged file".to_owned())))
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

/// The whole of a file that is not too large.
fn read_bytes(path: &Path) -> Result<Vec<u8>, Error> {
    let file = File::open(path).map_err(Error::io(path, "open"))?;
    let mut bytes = Vec::new();
    let mut limited = file.take(MOST_BYTES + 1);
    limited
        .read_to_end(&mut bytes)
        .map_err(Error::io(path, "read"))?;
    if bytes.len() as u64 > MOST_BYTES {
        let expected = format!("at most {MOST_BYTES} bytes");
        return Err(Error::format(path, "size", expected, "more"));
    }
    Ok(bytes)
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

    #[test]
    fn files_are_read_by_their_ending() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        table().write_csv(&at("t.csv")).unwrap();
        table().write_parquet(&at("t.PARQUET")).unwrap();
        let tabs = "epoch\tloss\tmethod\n1\t0.1\tlora\n2\t\tfull\n";
        std::fs::write(at("t.tsv"), tabs).unwrap();
        let records = "{\"epoch\": 1, \"loss\": 0.1, \"method\": \"lora\"}\n\
                       {\"epoch\": 2, \"loss\": null, \"method\": \"full\"}\n";
        std::fs::write(at("t.jsonl"), records).unwrap();
        for name in ["t.csv", "t.PARQUET", "t.tsv", "t.jsonl"] {
            let read = Table::read(&at(name)).unwrap();
            assert_eq!(read.names(), ["epoch", "loss", "method"], "{name}");
            assert_eq!(read.labels("epoch").unwrap(), ["1", "2"], "{name}");
            assert_eq!(read.kind("loss").unwrap(), ColumnKind::Real, "{name}");
            assert_eq!(read.labels("loss").unwrap(), ["0.1", ""], "{name}");
            assert_eq!(read.texts("method").unwrap(), ["lora", "full"], "{name}");
        }
        let other = Table::read(&at("t.xlsx")).unwrap_err().to_string();
        assert!(other.contains("found the ending \"xlsx\""), "{other}");
        let absent = Table::read(&at("no.csv")).unwrap_err().to_string();
        assert!(absent.contains("no.csv: open failed"), "{absent}");
    }

    #[test]
    fn cut_parquet_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.parquet");
        table().write_parquet(&path).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        let origin = Path::new("t.parquet");
        for end in 0..bytes.len() {
            let fault = Table::from_parquet(origin, &bytes[..end]).unwrap_err();
            assert!(fault.to_string().starts_with("t.parquet: "), "{fault}");
        }
    }
}
