//! What every other room of rankwise stands on: the embedded Banking77 sentence features, text
//! tables, columnar records, named random streams, and files that are written whole or not at all.
//!
//! ```
//! let banking77 = rankwise_data::banking77()?;
//! assert_eq!(banking77.classes().len(), 77);
//! assert_eq!(banking77.train().rows(), 3_075);
//! assert_eq!(banking77.test().rows(), 3_080);
//! # Ok::<(), rankwise_data::Error>(())
//! ```
//!
//! Feature `tables` (on by default): columnar records and text tables, by way of polars. Feature
//! `hub` (on by default): models and data sets by their ids of the Hub, downloaded where the cache
//! does not have them.

mod banking77;
mod column;
mod csv;
mod error;
mod features;
mod files;
#[doc(hidden)]
pub mod fuzzing;
mod hub;
mod json;
mod rows;
mod stream;
#[cfg(feature = "tables")]
mod table;
#[cfg(feature = "tables")]
mod text;

pub use banking77::{BANKING77_ATTRIBUTION, banking77, banking77_sha256};
pub use column::{Column, ColumnKind};
pub use error::Error;
pub use features::{FeatureSet, Split};
pub use files::{
    check_free, create_folder, discard_leftovers, read_text, sha256_file, sha256_hex, write_atomic,
    write_folder,
};
#[cfg(feature = "hub")]
pub use hub::{Hub, HubFiles, HubProgress, Patience};
pub use hub::{HubCache, RepoId, RepoKind};
pub use stream::stream;
#[cfg(feature = "tables")]
pub use table::Table;
#[cfg(feature = "tables")]
pub use text::TextTable;
