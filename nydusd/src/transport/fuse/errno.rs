//! The one place where an error becomes an errno.

use std::cell::Cell;
use std::io;

use blobcache::ErrorKind;
use nix::errno::Errno;
use tracing::{error, warn};

use crate::filesystem::Error;

thread_local! {
    /// Whether the request that this thread is at has failed.
    static FAILED: Cell<bool> = const { Cell::new(false) };
}

/// Whether a request was refused by this thread since this was last asked.
pub(super) fn take_failed() -> bool {
    FAILED.take()
}

/// An answer that refuses a request, and is counted as such.
pub(super) fn refuse(errno: Errno) -> io::Error {
    FAILED.set(true);
    errno.into()
}

/// The errno of an error. What a user of the mount cannot see from the errno alone is logged here, once.
pub(super) fn errno(error: &Error) -> Errno {
    FAILED.set(true);
    match error {
        Error::NotDirectory(_) => Errno::ENOTDIR,
        Error::OutOfRange(_) => Errno::EINVAL,
        Error::NameTooLong { .. } => Errno::ENAMETOOLONG,
        Error::Metadata(rafs::Error::NoSuchInode { .. }) => {
            warn!("{error}");
            Errno::ENOENT
        }
        Error::Metadata(rafs::Error::WrongType { .. }) => Errno::EINVAL,
        Error::Data(cause) if cause.kind() == ErrorKind::TimedOut => {
            warn!("{error}");
            Errno::ETIMEDOUT
        }
        Error::Metadata(_) | Error::Data(_) | Error::Inconsistent { .. } => {
            error!("{error}");
            Errno::EIO
        }
    }
}
