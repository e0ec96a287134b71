//! The daemon: configuration, mounts, transports, administration, telemetry.

pub mod cli;
pub mod control;
pub mod daemon;
pub mod demo;
pub mod filesystem;
pub mod limits;
pub mod memory;
pub mod mounts;
mod owners;
pub mod telemetry;
pub mod transport;
pub mod version;
