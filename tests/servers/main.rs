//! Images whose blobs are in servers as they are in use: a registry, buckets, web servers, with proxies before them.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod buckets;
mod matrix;
mod mounting;
mod proofs;
mod proxies;
mod refusals;
mod registry;
mod tools;
mod web;
