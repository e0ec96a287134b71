//! One error type for blobs; its variants say what a caller can do about it.

use std::time::Duration;
use std::{fmt, io};

/// The result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a blob could not be read or decoded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The object does not exist. Asking again does not help.
    #[error("{what}: not found in {place}")]
    NotFound {
        /// The blob asked for.
        what: String,
        /// Where it was looked for.
        place: String,
    },
    /// The object exists, but may not be read.
    #[error("{what}: access denied: {source}")]
    Denied {
        /// The blob and its place.
        what: String,
        /// What the system or server said.
        source: io::Error,
    },
    /// The bytes are not what the format or a digest promises. Another copy may be right.
    #[error("{what}: {detail}")]
    Corrupt {
        /// The blob, and the chunk or structure in it.
        what: String,
        /// The offset, what was expected and what was found.
        detail: String,
    },
    /// Nothing came before the deadline.
    #[error("{what}: no answer within {waited:?}")]
    TimedOut {
        /// What was waited for.
        what: String,
        /// How long.
        waited: Duration,
    },
    /// The place failed in a way that may pass.
    #[error("{what}: {source}")]
    Unavailable {
        /// The blob and its place.
        what: String,
        /// The failure.
        source: io::Error,
    },
    /// The caller asked for something impossible: a bad setting, or a description that contradicts itself.
    #[error("{what}: {detail}")]
    Invalid {
        /// The setting or structure.
        what: String,
        /// What was expected.
        detail: String,
    },
}

impl Error {
    /// What kind of failure it is, in metrics and traces.
    pub fn name(&self) -> &'static str {
        match self {
            Self::NotFound { .. } => "not_found",
            Self::Denied { .. } => "denied",
            Self::Corrupt { .. } => "corrupt",
            Self::TimedOut { .. } => "timed_out",
            Self::Unavailable { .. } => "unavailable",
            Self::Invalid { .. } => "invalid",
        }
    }

    /// Shorthand for [`Error::Corrupt`].
    pub fn corrupt(what: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::Corrupt { what: what.into(), detail: detail.into() }
    }

    /// The same failure, told of the larger thing `what` that it happened in.
    pub fn within(mut self, whole: impl fmt::Display) -> Self {
        match &mut self {
            Self::NotFound { what, .. }
            | Self::Denied { what, .. }
            | Self::Corrupt { what, .. }
            | Self::TimedOut { what, .. }
            | Self::Unavailable { what, .. }
            | Self::Invalid { what, .. } => *what = format!("{whole}: {what}"),
        }
        self
    }

    /// Shorthand for [`Error::Invalid`].
    pub fn invalid(what: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::Invalid { what: what.into(), detail: detail.into() }
    }
}
