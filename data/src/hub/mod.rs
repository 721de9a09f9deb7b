//! Models and data sets of the Hub by id: from the local cache, else downloaded into it.
//!
//! The cache has the layout that all of the Hub's libraries share, so what one has downloaded the
//! others find ([`HubCache`]):
//!
//! ```text
//! models--OWNER--NAME/refs/REVISION              the commit that a branch or tag stands for
//! models--OWNER--NAME/snapshots/COMMIT/FILE      a link to ../../blobs/ETAG
//! models--OWNER--NAME/blobs/ETAG                 the bytes
//! models--OWNER--NAME/blobs/ETAG.incomplete      those of a download that has not ended
//! .locks/models--OWNER--NAME/ETAG.lock           held by the process that downloads it
//! ```
//!
//! What a download promises: a blob gets its name only when its size is what the Hub said and its
//! hash is its etag (SHA-256 of large files, git's SHA-1 of the others); a broken download goes on
//! where it ended; a branch stands for a commit only when the commit's files are there. What the
//! server says is not trusted: names that lead out of the folder, etags that are no plain words,
//! endless answers and redirects are refused, and a token goes to no other host.
//!
//! The protocol is our own over `ureq`. The `hf-hub` crate (1.0) has the same cache, but starts every
//! broken download from the beginning, compares no hash or size before it renames, and brings an
//! asynchronous runtime and the client of a second storage protocol; ours needs neither.
//!
//! Feature `hub` (on by default): [`Hub`]. Names and cache need no network and are always there.

#[cfg(feature = "hub")]
mod address;
mod cache;
#[cfg(feature = "hub")]
mod client;
#[cfg(feature = "hub")]
mod download;
#[cfg(feature = "hub")]
mod environment;
mod repo;
#[cfg(feature = "hub")]
mod resolve;
#[cfg(feature = "hub")]
mod wanted;

pub use cache::HubCache;
#[cfg(feature = "hub")]
pub use client::Patience;
pub use repo::{RepoId, RepoKind};
#[cfg(feature = "hub")]
pub use resolve::{Hub, HubFiles, HubProgress};
