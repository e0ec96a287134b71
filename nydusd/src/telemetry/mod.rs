//! What the daemon tells about itself while it runs.

pub mod logs;
mod sink;
pub mod traces;
pub mod utc;
