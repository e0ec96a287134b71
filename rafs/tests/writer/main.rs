//! The writers against images of the reference implementation, and against the reader.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that panics has failed")]

#[allow(dead_code, reason = "the reader's tests need more of it")]
#[path = "../reader/fixtures.rs"]
mod fixtures;
mod normal;
mod rebuild;
