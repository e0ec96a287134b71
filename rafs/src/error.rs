//! One error type for bootstraps; its variants say what a caller can do about it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use storage::digest::Digest;

use crate::inode::{FileType, Ino};

/// The result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a bootstrap could not be opened, or a question about it not be answered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file is neither a bootstrap nor a blob that holds one. Another file may be meant.
    #[error("{path}: not a RAFS bootstrap: {detail}", path = .path.display())]
    NotBootstrap {
        /// The file.
        path: Arc<Path>,
        /// What was looked for and what was found.
        detail: String,
    },
    /// The bytes contradict the format. Another copy may be right.
    #[error("{path}: corrupt at offset {offset:#x}: {what}: expected {expected}, found {found}", path = .path.display())]
    Corrupt {
        /// The bootstrap.
        path: Arc<Path>,
        /// Where in the bootstrap.
        offset: u64,
        /// The field or structure.
        what: &'static str,
        /// What the format allows there.
        expected: String,
        /// What is there.
        found: String,
    },
    /// A valid image of a kind that this reader does not serve.
    #[error("{path}: not supported: {feature}", path = .path.display())]
    Unsupported {
        /// The bootstrap.
        path: Arc<Path>,
        /// What it needs.
        feature: String,
    },
    /// No inode has this number.
    #[error("no inode {ino}")]
    NoSuchInode {
        /// The number.
        ino: Ino,
    },
    /// The inode is of another type than the call is for.
    #[error("inode {ino} is a {found}, not a {expected}")]
    WrongType {
        /// The inode.
        ino: Ino,
        /// What the call works on.
        expected: FileType,
        /// What the inode is.
        found: FileType,
    },
    /// A digest does not match what it covers. Another copy may be right.
    #[error("{path}: digest of {what}: expected {expected}, found {found}", path = .path.display())]
    DigestMismatch {
        /// The bootstrap.
        path: Arc<Path>,
        /// What the digest covers.
        what: String,
        /// The digest that was recorded or given.
        expected: Digest,
        /// The digest of what is there.
        found: Digest,
    },
    /// The image to be written cannot hold an entry, or what the image needs as a whole. Another tree could be.
    #[error("{path}: cannot be stored: {what}: expected {expected}, found {found}", path = .path.display())]
    Unwritable {
        /// The entry, from the root of the tree; `/` for the image as a whole.
        path: PathBuf,
        /// The property.
        what: &'static str,
        /// What the format allows.
        expected: String,
        /// What the tree has.
        found: String,
    },
    /// The file could not be read.
    #[error("{path}: {source}", path = .path.display())]
    Io {
        /// The file.
        path: Arc<Path>,
        /// The failure.
        source: io::Error,
    },
    /// The bootstrap inside a blob could not be taken out.
    #[error("{path}: {source}", path = .path.display())]
    Blob {
        /// The blob.
        path: Arc<Path>,
        /// The failure.
        source: storage::Error,
    },
}

impl Error {
    /// An [`Error::Unwritable`].
    #[cold]
    pub(crate) fn unwritable(
        path: &Path,
        what: &'static str,
        expected: impl Into<String>,
        found: impl ToString,
    ) -> Self {
        Self::Unwritable { path: path.into(), what, expected: expected.into(), found: found.to_string() }
    }
}
