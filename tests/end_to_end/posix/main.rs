//! A mount is compared with what it stands for: the tree it was built from, on the file system of this machine; an
//! overlay on it with an overlay on that tree; and the kernel's EROFS on the same bootstrap.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod acls;
mod attributes;
mod copy_up;
mod erofs;
mod handles;
mod idmap;
mod names;
mod owners;
mod support;
