//! Settings on their way from where they were typed to a checked configuration, and back as TOML with
//! a comment for every key.

mod dump;
mod given;
mod keys;
#[cfg(test)]
mod tests;

pub(crate) use dump::commented;
pub use given::Given;
pub use keys::{Configuration, Key};
pub(crate) use keys::{Fault, check_keys, documented, fields, nearest};
