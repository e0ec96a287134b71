//! Why a read of the cache failed, in a form that many readers of one flight can share.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// The result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// What a caller can do about an [`Error`]; a transport chooses its errno from this.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The blob does not exist where it was looked for.
    NotFound,
    /// The blob exists, but may not be read.
    Denied,
    /// The bytes are not what the format or a digest promises, and fetching them again did not help.
    Corrupt,
    /// The deadline passed.
    TimedOut,
    /// The backend or the local disk failed in a way that may pass.
    Unavailable,
    /// The request or a setting is impossible.
    Invalid,
    /// The work was given up before it had a result: its task panicked or was cancelled.
    Aborted,
}

impl ErrorKind {
    /// Its name in metrics and traces.
    pub fn name(self) -> &'static str {
        match self {
            Self::NotFound => "not_found",
            Self::Denied => "denied",
            Self::Corrupt => "corrupt",
            Self::TimedOut => "timed_out",
            Self::Unavailable => "unavailable",
            Self::Invalid => "invalid",
            Self::Aborted => "aborted",
        }
    }
}

/// A failure, cheap to clone: every reader that waited for the same chunk gets the same one.
#[derive(Clone)]
pub struct Error {
    kind: ErrorKind,
    source: Arc<storage::Error>,
}

impl Error {
    /// What a caller can do about it.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    pub(crate) fn timed_out(what: impl Into<String>, waited: Duration) -> Self {
        storage::Error::TimedOut { what: what.into(), waited }.into()
    }

    pub(crate) fn aborted(what: impl Into<String>) -> Self {
        let source = io::Error::other("the task that worked on it ended without a result");
        let source = Arc::new(storage::Error::Unavailable { what: what.into(), source });
        Self { kind: ErrorKind::Aborted, source }
    }

    pub(crate) fn io(what: impl Into<String>, source: io::Error) -> Self {
        storage::Error::Unavailable { what: what.into(), source }.into()
    }

    pub(crate) fn invalid(what: impl Into<String>, detail: impl Into<String>) -> Self {
        storage::Error::invalid(what, detail).into()
    }

    pub(crate) fn corrupt(what: impl Into<String>, detail: impl Into<String>) -> Self {
        storage::Error::corrupt(what, detail).into()
    }
}

impl From<storage::Error> for Error {
    fn from(source: storage::Error) -> Self {
        let kind = match &source {
            storage::Error::NotFound { .. } => ErrorKind::NotFound,
            storage::Error::Denied { .. } => ErrorKind::Denied,
            storage::Error::Corrupt { .. } => ErrorKind::Corrupt,
            storage::Error::TimedOut { .. } => ErrorKind::TimedOut,
            storage::Error::Invalid { .. } => ErrorKind::Invalid,
            _ => ErrorKind::Unavailable,
        };
        Self { kind, source: Arc::new(source) }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}({})", self.kind, self.source)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.source, f)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        std::error::Error::source(self.source.as_ref())
    }
}
