//! Real servers that tests read from, and doubles of those that cannot be had: each on a free port of loopback, with all its
//! files in a temporary directory.
//!
//! | module | what |
//! |---|---|
//! | [`docker_registry`], [`token_server`] | Debian's `docker-registry`, and who gives its tokens |
//! | [`moto`], [`signed_store`] | a server of S3 that checks signatures, and one for signed addresses before it |
//! | [`oss`], [`signature`] | a double of OSS that checks signatures |
//! | [`nginx`] | a web server, and a mirror |
//! | [`forward_proxy`] | `tinyproxy` |
//! | [`client`] | puts blobs there |
//! | [`authority`] | certificates |
//! | [`process`], [`service`], [`python`] | servers that are programs, in the test's own process, or in Python |
//!
//! Invariant: a server ends with its value; one that is a program also with the thread that started it.

pub mod authority;
pub mod client;
pub mod docker_registry;
pub mod forward_proxy;
pub mod moto;
pub mod nginx;
pub mod oss;
mod ports;
pub mod process;
pub mod python;
pub mod service;
pub mod signature;
pub mod signed_store;
pub mod token_server;
