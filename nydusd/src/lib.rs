//! The daemon: configuration, mounts, transports, administration, telemetry.

pub mod cli;
pub mod config;
pub mod control;
pub mod limits;
pub mod telemetry;
pub mod version;
