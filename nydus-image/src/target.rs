//! Files that a build writes: under their final name only when they are whole.
//!
//! Invariant: whatever ends the build, a name that was to be written holds what it held before, or all that was to
//! be written; a loss of power included, for the content is on the disk before the name is. What a killed process leaves
//! behind has a name of its own, `.NAME.PID.N.tmp`; a process that is asked to end removes it first, see
//! [`remove_temporaries`].

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};

use crate::error::{Error, Result};

/// Small chunks are written together.
const BUFFER: usize = 256 << 10;
/// After so many bytes the disk begins to write them, so that little is left to wait for at the end.
const WRITE_BACK: u64 = 8 << 20;

/// The temporary files of this process that have not got their names.
static TEMPORARIES: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

fn temporaries() -> MutexGuard<'static, BTreeSet<PathBuf>> {
    TEMPORARIES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Removes all files that have not got their names, and sees to it that no more come or get one while `end`, which
/// ends the process, is run.
pub fn remove_temporaries(end: impl FnOnce()) {
    let temporaries = temporaries();
    for path in temporaries.iter() {
        // There is nothing else to be done.
        let _ = fs::remove_file(path);
    }
    end();
}

/// A file that is being written.
#[derive(Debug)]
pub struct Target {
    file: BufWriter<File>,
    /// Bytes written, and those of them that are on their way to the disk.
    written: u64,
    sent: u64,
    /// What errors call it.
    path: PathBuf,
    /// What it is called until it is whole. `None`: FIFOs and devices are written to as they are.
    temporary: Option<PathBuf>,
}

impl Target {
    /// A file that will be called `path`; if that is a FIFO or a device, it is written to directly.
    pub fn create(path: &Path) -> Result<Self> {
        let is_stream = fs::metadata(path).is_ok_and(|metadata| {
            let kind = metadata.file_type();
            kind.is_fifo() || kind.is_char_device()
        });
        if is_stream {
            let file = OpenOptions::new().write(true).open(path).map_err(Error::io("open", path))?;
            return Ok(Self::new(file, path, None));
        }
        if path.file_name().is_none() || path.is_dir() {
            return Err(Error::entry(path, "is no name for a file"));
        }
        Self::temporary(path.parent().unwrap_or(Path::new("")), path)
    }

    /// A file in `directory` that will get a name later.
    pub fn create_in(directory: &Path) -> Result<Self> {
        Self::temporary(directory, &directory.join("BLOB"))
    }

    fn new(file: File, path: &Path, temporary: Option<PathBuf>) -> Self {
        let file = BufWriter::with_capacity(BUFFER, file);
        Self { file, written: 0, sent: 0, path: path.into(), temporary }
    }

    fn temporary(directory: &Path, path: &Path) -> Result<Self> {
        /// Tells apart what this process writes.
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        let name = path.file_name().unwrap_or_default();
        loop {
            let mut temporary = std::ffi::OsString::from(".");
            // Names end at 255 bytes, and this one must stay below.
            let kept = if name.len() > 200 { "image".as_ref() } else { name };
            temporary.push(kept);
            temporary.push(format!(".{}.{}.tmp", process::id(), COUNTER.fetch_add(1, Ordering::Relaxed)));
            let temporary = directory.join(temporary);
            let mut temporaries = temporaries();
            match OpenOptions::new().write(true).create_new(true).open(&temporary) {
                Ok(file) => {
                    temporaries.insert(temporary.clone());
                    return Ok(Self::new(file, path, Some(temporary)));
                }
                // Left behind by a process that had our number.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(Error::io("create", path)(error)),
            }
        }
    }

    /// Where it will be.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where it is until it has its name.
    pub fn current_path(&self) -> &Path {
        self.temporary.as_deref().unwrap_or(&self.path)
    }

    /// Gives the file its name.
    pub fn commit(self) -> Result<()> {
        let path = self.path.clone();
        self.commit_as(&path)
    }

    /// Gives the file this name, in the directory it was created in.
    pub fn commit_as(mut self, path: &Path) -> Result<()> {
        self.file.flush().map_err(Error::io("write", path))?;
        let Some(temporary) = &self.temporary else { return Ok(()) };
        self.file.get_ref().sync_data().map_err(Error::io("write to the disk", path))?;
        let mut temporaries = temporaries();
        fs::rename(temporary, path).map_err(Error::io("rename a temporary file to", path))?;
        temporaries.remove(temporary);
        self.temporary = None;
        drop(temporaries);
        sync_directory(path.parent().unwrap_or(Path::new("")))
    }

    /// There is nothing to write. `remove` says that what has the name shall go, unless it is a stream.
    pub fn discard(self, remove: bool) -> Result<()> {
        if remove && self.temporary.is_some() && self.path.is_file() {
            fs::remove_file(&self.path).map_err(Error::io("remove", &self.path))?;
        }
        Ok(())
    }

    /// Writes a whole file.
    pub fn write(path: &Path, bytes: &[u8]) -> Result<()> {
        let mut target = Self::create(path)?;
        target.put(bytes)?;
        target.commit()
    }

    /// Writes a piece, whose error needs nobody to name the target.
    pub fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(Error::io("write", &self.path))
    }
}

impl Target {
    /// Has the disk write what was written since the last time, without waiting for it.
    fn send(&mut self) {
        let range = |offset| i64::try_from(offset).unwrap_or(i64::MAX);
        // What memory need not keep is written at once. It is a hint: what it misses is waited for at the end.
        let (from, len) = (range(self.sent), range(self.written - self.sent));
        let _ = posix_fadvise(self.file.get_ref(), from, len, PosixFadviseAdvice::POSIX_FADV_DONTNEED);
        self.sent = self.written;
    }

    fn failed(&self, error: &io::Error) -> io::Error {
        io::Error::new(error.kind(), format!("cannot write {}: {error}", self.path.display()))
    }
}

/// Errors name the target.
impl Write for Target {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.file.write(bytes).map_err(|error| self.failed(&error))?;
        self.written += count as u64;
        if self.written - self.sent >= WRITE_BACK && self.temporary.is_some() {
            self.send();
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush().map_err(|error| self.failed(&error))?;
        if self.written > self.sent && self.temporary.is_some() {
            self.send();
        }
        Ok(())
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        if let Some(temporary) = &self.temporary {
            let mut temporaries = temporaries();
            // Nobody else knows the name; if this fails there is nothing to be done.
            let _ = fs::remove_file(temporary);
            temporaries.remove(temporary);
        }
    }
}

/// Makes a new name in a directory last. Filesystems that cannot say so have nothing to be waited for.
fn sync_directory(directory: &Path) -> Result<()> {
    let directory = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
    match File::open(directory).and_then(|file| file.sync_all()) {
        Err(error) if error.kind() != io::ErrorKind::InvalidInput => {
            Err(Error::io("write to the disk", directory)(error))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_its_name_only_when_it_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("boot");
        fs::write(&path, "old").unwrap();
        let mut target = Target::create(&path).unwrap();
        target.write_all(b"half").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"old");
        drop(target);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        Target::write(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_file_can_get_its_name_at_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let mut target = Target::create_in(dir.path()).unwrap();
        target.write_all(b"data").unwrap();
        target.commit_as(&dir.path().join("id")).unwrap();
        assert_eq!(fs::read(dir.path().join("id")).unwrap(), b"data");
    }

    #[test]
    fn directories_are_no_targets() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Target::create(dir.path()).is_err());
        assert!(Target::create(&dir.path().join("none/boot")).is_err());
    }
}
