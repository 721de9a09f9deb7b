//! The readers of text tables on bytes in memory, for the fuzz targets in `fuzz/`. No stable
//! interface.

use std::path::Path;

use crate::rows::Rows;
use crate::{Error, csv, json};

/// Reads CSV, and the same bytes with tabs between the fields.
///
/// # Errors
/// [`Error::Format`] if the first is refused.
pub fn csv(bytes: &[u8]) -> Result<(), Error> {
    let origin = Path::new("input");
    if let Ok(rows) = csv::read(origin, bytes, '\t') {
        check(&rows);
    }
    csv::read(origin, bytes, ',').map(|rows| check(&rows))
}

/// Reads an array of objects, or objects one after another.
///
/// # Errors
/// [`Error::Format`] if it is refused.
pub fn json(bytes: &[u8]) -> Result<(), Error> {
    json::read(Path::new("input"), bytes).map(|rows| check(&rows))
}

/// What a table may rely on.
fn check(rows: &Rows) {
    let length = rows.columns.first().map_or(0, crate::Column::len);
    assert_eq!(rows.names.len(), rows.columns.len());
    assert!(rows.columns.iter().all(|column| column.len() == length));
}
