//! RAFS bootstraps, v5 and v6: the tree of an image.
//!
//! Owns the two metadata formats (spec/rafs-v5.md, spec/rafs-v6.md): finding the format, validating it, looking
//! names up, listing directories, and telling which chunks of which blobs hold a file. It knows nothing of FUSE,
//! caches or networks. The writers, `v5/writer.rs` and `v6/writer.rs`, live beside the readers, on the same
//! `layout.rs`; [`build`] has the trees that they write.
//!
//! A bootstrap is mapped and read in place: opening one costs the same for ten files and for ten million. What
//! later arithmetic relies on is validated at open; what would need a walk of the tree is checked where it is
//! used, each time. [`Bootstrap::check`] is that walk, for tools.
//!
//! Invariant: whatever the bytes, a call ends in an answer or an [`Error`], after work bounded by the size of the
//! bootstrap, without a panic. An entry that [`Bootstrap::lookup`] or [`Bootstrap::read_dir`] yields has an inode
//! that was checked to be of the entry's type, and a directory that was found so is found under one parent only,
//! which makes loops impossible from the root.

mod blob_limits;
mod bootstrap;
pub mod build;
mod check;
mod chunk_record;
mod directory;
mod error;
mod extent;
mod flags;
#[doc(hidden)]
pub mod fuzzing;
mod image;
mod inlined;
mod inode;
mod merkle;
mod number_set;
mod prefetch_table;
mod reachable;
mod superblock;
mod tables;
mod v5;
mod v6;
mod xattr;

pub use bootstrap::{Bootstrap, OpenOptions, Version};
pub use check::Summary;
pub use directory::{DirEntry, Entries};
pub use error::{Error, Result};
pub use extent::Extents;
pub use inode::{Attributes, FileType, Ino, SYMLINK_MAX};
pub use superblock::Superblock;
pub use xattr::Xattrs;
