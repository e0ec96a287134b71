//! The reader of bootstraps against images of the reference implementation, and against hostile bytes.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that panics has failed")]

mod allocation;
mod compact;
mod digests;
mod directories;
mod extents;
mod fixtures;
mod hostile;
mod mutations;
mod opening;
mod tarfs;
mod trees;
