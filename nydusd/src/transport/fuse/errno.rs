//! The one place where an error becomes an errno.

use blobcache::ErrorKind;
use nix::errno::Errno;
use tracing::{error, warn};

use crate::filesystem::Error;

/// The errno of an error. What a user of the mount cannot see from the errno alone is logged here, once.
pub(super) fn errno(error: &Error) -> Errno {
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
