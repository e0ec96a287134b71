//! The backends that speak HTTP, against servers on the loopback that answer as each test says.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helper functions too")]

mod buckets;
mod counts;
mod double;
mod proxies;
mod range;
mod recorder;
mod registry;
mod secrets;
mod setup;
mod spans;
mod tls;
mod verify;
