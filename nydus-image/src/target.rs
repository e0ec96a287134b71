//! Files that a build writes: under their final name only when they are whole.
//!
//! Invariant: whatever ends the build, a name that was to be written holds what it held before, or all that was to
//! be written. What is left behind by a killed process has a name of its own, `.NAME.PID.N.tmp`.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{Error, Result};

/// A file that is being written.
#[derive(Debug)]
pub struct Target {
    file: File,
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
            return Ok(Self { file, path: path.into(), temporary: None });
        }
        if path.file_name().is_none() || path.is_dir() {
            return Err(Error::entry(path, "is no name for a file"));
        }
        Self::temporary(path.parent().unwrap_or(Path::new("")), path)
    }

    /// A file in `directory` that will get a name later.
    pub fn create_in(directory: &Path) -> Result<Self> {
        Self::temporary(directory, &directory.join("blob"))
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
            match OpenOptions::new().write(true).create_new(true).open(&temporary) {
                Ok(file) => return Ok(Self { file, path: path.into(), temporary: Some(temporary) }),
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

    /// Gives the file its name.
    pub fn commit(self) -> Result<()> {
        let path = self.path.clone();
        self.commit_as(&path)
    }

    /// Gives the file this name, in the directory it was created in.
    pub fn commit_as(mut self, path: &Path) -> Result<()> {
        if let Some(temporary) = self.temporary.take() {
            fs::rename(&temporary, path).map_err(|error| {
                // Back, to be removed.
                self.temporary = Some(temporary);
                Error::io("rename a temporary file to", path)(error)
            })?;
        }
        Ok(())
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
        target.write_all(bytes).map_err(Error::io("write", path))?;
        target.commit()
    }
}

impl Write for Target {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        if let Some(temporary) = &self.temporary {
            // Nobody else knows the name; if this fails there is nothing to be done.
            let _ = fs::remove_file(temporary);
        }
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
