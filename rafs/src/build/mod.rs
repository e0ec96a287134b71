//! Trees in memory, as builders fill them, and the way to bootstraps and back.
//!
//! Owns what v5 and v6 have in common when they are written: the [`Tree`], its [`Numbering`], and the rules that a
//! node must keep to be stored in either format. The layouts are the writers' (`v5/writer.rs`, `v6/writer.rs`).
//!
//! Invariant: the same tree, blobs and options give the same bytes, whatever the order in which children were added
//! and extended attributes were listed. What the format cannot hold is an error that names the entry and the limit;
//! what was written opens, and passes [`crate::Bootstrap::check`].

mod inodes;
mod numbering;
mod options;
mod read;
mod tree;

pub(crate) use inodes::{Inodes, Rule};
pub use numbering::Numbering;
pub use options::{BlobEntry, ImageOptions, OWN_BLOB_ID};
pub use read::{FileChunks, read_blobs, read_tree};
pub use tree::{Chunk, Content, Node, NodeId, Recorded, Tree};

use crate::bootstrap::{Bootstrap, OpenOptions, Version};
#[cfg(doc)]
use crate::error::Error;
use crate::error::Result;
use crate::{v5, v6};

/// The bootstrap of a tree whose chunks are in `blobs`.
///
/// Memory: the bootstrap itself, and some 50 bytes for each entry while it is written.
///
/// # Errors
///
/// [`Error::Unwritable`] for what the format cannot hold, with the path of the entry, the limit and what was found
/// there. The bootstrap is opened before it is returned: blobs whose numbers contradict each other are the
/// [`Error::Corrupt`] that a reader would get.
pub fn write_bootstrap(tree: &Tree, blobs: &[BlobEntry], options: &ImageOptions) -> Result<Vec<u8>> {
    inodes::check_image(blobs, options).map_err(Rule::broken)?;
    let inodes = Inodes::of(tree, blobs, options)?;
    let bytes = match options.version {
        Version::V5 => v5::write(&inodes)?,
        Version::V6 => v6::write(&inodes)?,
    };
    Ok(Bootstrap::from_bytes(bytes, "new-bootstrap", &OpenOptions::default())?.into_bytes())
}
