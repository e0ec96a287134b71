//! RAFS v6, the format that the kernel can mount as EROFS (spec/rafs-v6.md).
//!
//! `layout` holds the records, `reader` opens a bootstrap and answers for it, `blobs` reads the tables that
//! describe blobs, `node` makes sense of one inode, and `directory`, `chunks` and `xattr` walk through its parts.
//!
//! `writer` makes bootstraps: `placement` says where everything lies, `dirents`, `chunk_table` and `blob_table` write
//! their parts.

mod blob_table;
mod blobs;
mod chunk_table;
mod chunks;
mod directory;
mod dirents;
pub(crate) mod layout;
mod node;
mod placement;
mod reader;
mod writer;
mod xattr;

pub(crate) use chunk_table::ChunkRecords;
pub(crate) use chunks::Extents;
pub(crate) use directory::Entries;
pub(crate) use node::Node;
pub(crate) use reader::Tree;
pub(crate) use writer::write;
pub(crate) use xattr::Xattrs;
