//! One error type for building images; each variant names the entry that is to blame.

use std::io;
use std::path::{Path, PathBuf};

/// The result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Why an image could not be built or looked into.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The system refused to do something with a file.
    #[error("cannot {action} {path}: {source}", path = .path.display())]
    Io {
        /// What was tried, a verb.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file is not what it was when the tree was listed. Building again may help.
    #[error("{path}: changed while it was read: {detail}", path = .path.display())]
    Changed {
        /// The file.
        path: PathBuf,
        /// What was expected and what was found, with the offset.
        detail: String,
    },
    /// An entry that the format cannot hold, or that a source may not have.
    #[error("{path}: {detail}", path = .path.display())]
    Entry {
        /// The entry, as the source names it.
        path: PathBuf,
        /// What is wrong with it.
        detail: String,
    },
    /// A tar archive that is damaged, or has what a source may not have.
    #[error("{archive}: {entry}at offset {offset}: {detail}", archive = .archive.display(), entry = named(.entry))]
    Archive {
        /// The archive.
        archive: PathBuf,
        /// The entry, as the archive names it; empty between entries.
        entry: String,
        /// Where in the archive, uncompressed.
        offset: u64,
        /// What is wrong.
        detail: String,
    },
    /// Options that do not go together, or a value out of its range.
    #[error("{0}")]
    Usage(String),
    /// A function that does not exist yet.
    #[error("{0}: not supported yet")]
    Unsupported(&'static str),
    /// Images that do not fit together. The status of the command is 2, as the reference implementation has it.
    #[error("Inconsistent RAFS Filesystem: {0}")]
    Inconsistent(String),
    /// A bootstrap could not be read or written.
    #[error(transparent)]
    Rafs(#[from] rafs::Error),
    /// A configuration cannot be used.
    #[error(transparent)]
    Config(#[from] nydus_config::Error),
    /// A blob could not be written.
    #[error(transparent)]
    Blob(#[from] storage::Error),
    /// No thread could be started.
    #[error("cannot start a thread: {source}")]
    Threads {
        /// What the system said.
        source: io::Error,
    },
    /// What this program worked out contradicts itself: a mistake of ours, found before it became a wrong image.
    #[error("contradiction: {0}; this is a mistake of nydus-image")]
    Contradiction(String),
    /// Another thread failed, and says why.
    #[error("the build was stopped")]
    Cancelled,
}

impl Error {
    /// A function for `map_err` that says what was done to which file.
    pub fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { action, path: path.into(), source }
    }

    /// Shorthand for [`Error::Contradiction`].
    pub fn contradiction(what: impl Into<String>) -> Self {
        Self::Contradiction(what.into())
    }

    /// Shorthand for [`Error::Entry`].
    pub fn entry(path: impl Into<PathBuf>, detail: impl Into<String>) -> Self {
        Self::Entry { path: path.into(), detail: detail.into() }
    }
}

/// The name of an entry, to be followed by something.
fn named(entry: &str) -> String {
    if entry.is_empty() { String::new() } else { format!("{entry:?} ") }
}
