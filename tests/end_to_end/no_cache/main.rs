//! Mounts without a cache directory: the tutorial that newcomers follow, and how much memory they take.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod memory;
mod tutorial;
