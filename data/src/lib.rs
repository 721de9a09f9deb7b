//! What every other room of rankwise stands on: the embedded Banking77 sentence features, tokenizers,
//! text and image tasks, text tables, columnar records, named random streams, batches made in the
//! background, and files that are written whole or not at all.
//!
//! ```
//! let banking77 = rankwise_data::banking77()?;
//! assert_eq!(banking77.classes().len(), 77);
//! assert_eq!(banking77.train().rows(), 3_075);
//! assert_eq!(banking77.test().rows(), 3_080);
//! # Ok::<(), rankwise_data::Error>(())
//! ```
//!
//! Features, all on by default: `tables` (columnar records and text tables, by way of polars), `texts`
//! (tokenizers and text tasks), `images` (decoding, the reference processor, image tasks), `hub`
//! (models and data sets by their ids of the Hub, downloaded where the cache does not have them).

mod banking77;
mod column;
mod csv;
mod documented;
mod error;
mod features;
mod files;
#[doc(hidden)]
pub mod fuzzing;
mod hub;
#[cfg(feature = "images")]
mod image;
mod journal;
mod json;
mod model_files;
mod naming;
mod part;
mod prefetch;
mod rows;
#[cfg(any(feature = "images", feature = "texts"))]
mod shard;
mod skip;
mod stream;
#[cfg(feature = "tables")]
mod table;
#[cfg(feature = "texts")]
mod task;
#[cfg(feature = "tables")]
mod text;
#[cfg(feature = "texts")]
mod tokenizer;

pub use banking77::{BANKING77_ATTRIBUTION, banking77, banking77_sha256};
pub use column::{Column, ColumnKind};
pub use documented::Documented;
pub use error::Error;
pub use features::{FeatureSet, Split};
pub use files::{
    check_free, create_folder, discard_leftovers, read_text, sha256_file, sha256_hex, sha256_path,
    write_atomic, write_folder,
};
#[cfg(feature = "hub")]
pub use hub::{Hub, HubFiles, HubProgress, Patience};
pub use hub::{HubCache, RepoId, RepoKind};
#[cfg(feature = "images")]
pub use image::{
    Augment, Cifar, Filter, Fit, Image, ImageColumns, ImageProcessor, ImageSet, RandomCrop,
    ResizedTo,
};
pub use journal::{abandon_unfinished, written_files};
pub use model_files::{is_model_file, model_patterns};
pub use naming::first_names;
pub use part::{Part, parquet_files};
pub use prefetch::Prefetch;
pub use skip::{Provenance, SkipBad};
pub use stream::stream;
#[cfg(feature = "tables")]
pub use table::Table;
#[cfg(feature = "texts")]
pub use task::{
    Answer, GlueTask, Question, Squad, Target, TextColumns, TextExample, TextSet, Window, Windowing,
};
#[cfg(feature = "tables")]
pub use text::TextTable;
#[cfg(feature = "texts")]
pub use tokenizer::{Encoding, Side, Tokenizer};
