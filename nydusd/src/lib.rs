//! The daemon: configuration, mounts, transports, administration, telemetry.

pub mod config;
