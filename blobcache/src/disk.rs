//! The one thing about a disk that tests cannot do for real: what survives a power loss.

use std::fs::File;
use std::io;
use std::path::Path;

/// Makes written data durable. A seam: tests put a recorder here that remembers what was synced.
///
/// Everything else goes to the file system directly.
pub trait Disk: Send + Sync + std::fmt::Debug {
    /// Returns when the data written to `file`, through whichever descriptor or mapping, survives a power loss.
    fn sync_data(&self, file: &File, path: &Path) -> io::Result<()>;

    /// Returns when the entries of the directory `path` survive a power loss.
    fn sync_directory(&self, path: &Path) -> io::Result<()>;
}

/// The disk of this machine: fdatasync and fsync.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealDisk;

impl Disk for RealDisk {
    fn sync_data(&self, file: &File, _path: &Path) -> io::Result<()> {
        file.sync_data()
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }
}
