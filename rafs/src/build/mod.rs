//! Trees in memory, as builders fill them, and the way to bootstraps and back.
//!
//! Owns what v5 and v6 have in common when they are written: the [`Tree`], its [`Numbering`], and the rules that a
//! node must keep to be stored in either format. The layouts are the writers' (`v5/writer.rs`, `v6/writer.rs`).
//!
//! Invariant: the same tree, blobs and options give the same bytes, whatever the order in which children were added
//! and extended attributes were listed. What the format cannot hold is an error that names the entry and the limit;
//! what was written opens, and passes [`crate::Bootstrap::check`].

mod numbering;
mod options;
mod tree;

pub use numbering::Numbering;
pub use options::{BlobEntry, ImageOptions, OWN_BLOB_ID};
pub use tree::{Chunk, Content, Node, NodeId, Recorded, Tree};
