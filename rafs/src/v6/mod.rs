//! RAFS v6, the format that the kernel can mount as EROFS (spec/rafs-v6.md).
//!
//! `layout` holds the records, `reader` opens a bootstrap and answers for it, `blobs` reads the tables that
//! describe blobs, `node` makes sense of one inode, and `directory`, `chunks` and `xattr` walk through its parts.

mod blobs;
mod chunks;
mod directory;
pub(crate) mod layout;
mod node;
mod reader;
mod xattr;

pub(crate) use chunks::Extents;
pub(crate) use directory::Entries;
pub(crate) use reader::Tree;
pub(crate) use xattr::Xattrs;
