//! The writers against images of the reference implementation, and against the reader.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that panics has failed")]

mod extremes;
#[allow(dead_code, reason = "the reader's tests need more of it")]
#[path = "../reader/fixtures.rs"]
mod fixtures;
mod limits;
mod mutations;
mod normal;
mod random;
mod rebuild;
