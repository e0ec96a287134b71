//! The command lines of image converters and snapshotters (spec/orchestrators.md §9 and §10), word for word.
#![allow(clippy::unwrap_used)]

mod command_lines;
mod converter;
mod layer;
#[path = "../support/mod.rs"]
#[allow(dead_code)]
mod support;
mod tarfs;
#[path = "../support/tree.rs"]
#[allow(dead_code)]
mod tree;
mod unpack;
