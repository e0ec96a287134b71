//! Images: built, checked and looked into.
//!
//! ```text
//!   source::directory ──▶ rafs::build::Tree ──▶ overlay ──▶ Numbering ──▶ prefetch: order of data
//!                                                                             │
//!   rafs::build::write_bootstrap ◀── builder ◀── store ◀── pipeline ◀── source::files
//! ```
//!
//! A `source::tar` takes the same way, but that its tree grows while its chunks flow, in the order of the archive.
//!
//! The library owns sources, layers and the way of chunks into a blob; the formats are those of [`rafs`] and
//! [`storage`]. Invariant: an image follows from its source and its options. Number of threads, order of directory
//! entries and time of day make no difference; where the source changes under the build, the build fails.

pub mod blob_source;
pub mod builder;
pub mod cache_files;
pub mod chunkdict;
pub mod cipher;
pub mod cli;
pub mod command;
pub mod compact;
pub mod dictionary;
pub mod error;
pub mod export;
pub mod image;
pub mod inspect;
pub mod layers;
pub mod logs;
pub mod merge;
pub mod optimize;
pub mod output;
pub mod overlay;
pub mod pipeline;
pub mod prefetch;
pub mod progress;
pub mod reference;
pub mod repack;
pub mod serial;
pub mod signals;
pub mod source;
pub mod stat;
pub mod store;
pub mod stored;
pub mod target;
pub mod unpack;
pub mod verity;
pub mod version;
pub mod walk;

#[doc(hidden)]
pub mod fuzzing;

pub use error::{Error, Result};
