//! What the cross-crate tests share: fixture images, a reference listing, a daemon under test, a backend that
//! stalls, and seeded randomness.
//!
//! Invariant: whatever happens to a test (a panic included), its daemons are dead and its mounts are gone when its
//! values are dropped. A daemon that hangs is killed by a watchdog, so no test can hang on its mount.
//!
//! Everything here runs inside tests only, where a panic is how a test fails.
#![allow(clippy::unwrap_used, clippy::expect_used)]

pub mod allocation;
pub mod api;
pub mod collector;
pub mod config;
pub mod daemon;
#[cfg(test)]
mod documents;
pub mod exposition;
pub mod fixtures;
pub mod in_process;
pub mod latency;
pub mod layout;
pub mod manifest;
pub mod mounts;
pub mod mutation;
pub mod program;
pub mod readers;
pub mod registry;
pub mod requirements;
pub mod rng;
pub mod seeds;
pub mod servers;
pub mod span_names;
pub mod stall_fs;
pub mod telemetry;
pub mod unprivileged;
