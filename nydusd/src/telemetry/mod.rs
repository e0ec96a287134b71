//! What the daemon tells about itself while it runs.

pub mod events;
pub mod logs;
pub mod metrics;
mod sink;
pub mod traces;
pub mod utc;
