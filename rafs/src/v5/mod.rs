//! RAFS v5 (spec/rafs-v5.md).
//!
//! `layout` holds the records, `reader` opens a bootstrap and answers for it, `record` makes sense of one inode,
//! and `directory`, `extent` and `xattr` walk through its parts. `writer` makes bootstraps.

mod blobs;
mod directory;
mod extent;
pub(crate) mod layout;
mod reader;
mod record;
mod writer;
mod xattr;

pub(crate) use directory::Entries;
pub(crate) use extent::Extents;
pub(crate) use reader::{ROOT, Tree};
pub(crate) use record::Record;
pub(crate) use writer::write;
pub(crate) use xattr::Xattrs;
