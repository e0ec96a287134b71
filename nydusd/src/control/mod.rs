//! The administration API: HTTP/1.1 over a unix socket that only its owner may use.
//!
//! [`Listener`] owns the socket, [`Daemon`] is what the requests are about; this module knows nothing of
//! mounts or file systems. Paths are matched exactly. Shapes of answers and errors are those that clients of
//! the reference implementation expect; what is part of the API and not built yet is answered 501.

mod daemon;
mod error;
mod listener;
mod routes;
mod settings;
#[cfg(test)]
mod tests;

pub use daemon::{Daemon, Mount, State};
pub use listener::{BindError, Listener, is_stale};
pub use settings::Setting;
