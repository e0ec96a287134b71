//! The content of a file in the source directory, read piece by piece by whoever needs a piece.
//!
//! Invariant: what is read is what was listed. A file that was replaced, written to, or has become shorter since
//! the tree was listed is an error, never a chunk of something else.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::{FileStat, Mode, fstat};
use nix::unistd::{Whence, lseek};

use crate::error::{Error, Result};

/// The longest path that is given to the system at once; longer ones are walked in steps.
const MAX_PATH: usize = 3000;

/// What tells that a file is still the one that was listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprint {
    /// The device that holds it.
    pub device: u64,
    /// Its number there.
    pub inode: u64,
    /// Bytes.
    pub size: u64,
    /// Seconds and nanoseconds of the last change of the content.
    pub mtime: (i64, i64),
    /// The same of the inode: `mtime` can be set back, this one cannot.
    pub ctime: (i64, i64),
}

impl Fingerprint {
    /// Of a file as the system describes it.
    pub fn of(stat: &FileStat) -> Self {
        Self {
            device: stat.st_dev,
            inode: stat.st_ino,
            size: u64::try_from(stat.st_size).unwrap_or(0),
            mtime: (stat.st_mtime, stat.st_mtime_nsec),
            ctime: (stat.st_ctime, stat.st_ctime_nsec),
        }
    }
}

/// A regular file of the source, opened when the first piece is read.
#[derive(Debug)]
pub struct SourceFile {
    path: PathBuf,
    expected: Fingerprint,
    file: OnceLock<File>,
}

impl SourceFile {
    /// The file at `path`, which was listed with this fingerprint.
    pub fn new(path: PathBuf, expected: Fingerprint) -> Self {
        Self { path, expected, file: OnceLock::new() }
    }

    /// Its size in bytes.
    pub fn size(&self) -> u64 {
        self.expected.size
    }

    /// Fills `data` with the bytes from `offset` on.
    pub fn read(&self, offset: u64, data: &mut [u8]) -> Result<()> {
        let file = self.open()?;
        let mut filled = 0;
        while let Some(rest) = data.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match file.read_at(rest, offset + filled as u64) {
                Ok(0) => {
                    let end = offset + filled as u64;
                    return Err(
                        self.changed(format!("it ends at {end}, expected {} bytes", self.expected.size))
                    );
                }
                Ok(count) => filled += count,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => {
                    // What took the file's place may not be readable; then that is what is wrong.
                    self.verify(file)?;
                    return Err(Error::io("read", &self.path)(error));
                }
            }
        }
        // A write between listing and now leaves its mark here, and so does another file in the place of this one.
        self.verify(file)
    }

    /// Where the first data at or behind `offset` begins: the size of the file if only a hole follows. The answer
    /// is a hint from the filesystem; `verify_holes` afterwards makes it a fact.
    pub fn next_data(&self, offset: u64) -> Result<u64> {
        let file = self.open()?;
        let Ok(from) = i64::try_from(offset) else { return Ok(offset) };
        match lseek(file, from, Whence::SeekData) {
            Ok(found) => Ok(u64::try_from(found).unwrap_or(offset)),
            Err(Errno::ENXIO) => Ok(self.expected.size),
            // A filesystem that does not know holes has none.
            Err(_) => Ok(offset),
        }
    }

    /// An error if the file has changed since it was listed.
    pub fn verify_holes(&self) -> Result<()> {
        self.verify(self.open()?)
    }

    fn open(&self) -> Result<&File> {
        if let Some(file) = self.file.get() {
            return Ok(file);
        }
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let file = match open_path(&self.path, flags) {
            Ok(file) => File::from(file),
            Err(Errno::ELOOP | Errno::ENOENT | Errno::ENOTDIR | Errno::ENXIO) => {
                return Err(self.changed("it is gone or of another type".into()));
            }
            Err(error) => return Err(Error::io("open", &self.path)(error.into())),
        };
        // Another worker may have been faster.
        Ok(self.file.get_or_init(|| file))
    }

    fn verify(&self, file: &File) -> Result<()> {
        let stat = fstat(file).map_err(|errno| Error::io("read", &self.path)(errno.into()))?;
        let (found, expected) = (Fingerprint::of(&stat), &self.expected);
        if found == *expected {
            return Ok(());
        }
        let times = |what: &str, found: (i64, i64), expected: (i64, i64)| {
            format!("{what} at {}.{:09}, expected {}.{:09}", found.0, found.1, expected.0, expected.1)
        };
        Err(self.changed(if (found.device, found.inode) != (expected.device, expected.inode) {
            "another file has taken its place".into()
        } else if found.size != expected.size {
            format!("{} bytes, expected {}", found.size, expected.size)
        } else if found.mtime != expected.mtime {
            times("modified", found.mtime, expected.mtime)
        } else {
            times("its inode changed", found.ctime, expected.ctime)
        }))
    }

    fn changed(&self, detail: String) -> Error {
        Error::Changed { path: self.path.clone(), detail }
    }
}

/// Opens a path of any length.
pub fn open_path(path: &Path, flags: OFlag) -> std::result::Result<OwnedFd, Errno> {
    let bytes = path.as_os_str().as_bytes();
    let mut at: Option<OwnedFd> = None;
    let mut rest = bytes;
    while rest.len() > MAX_PATH {
        // A name has at most 255 bytes, so there is a slash.
        let window = rest.get(..MAX_PATH).unwrap_or(rest);
        let Some(slash) = window.iter().rposition(|byte| *byte == b'/').filter(|slash| *slash > 0) else {
            return Err(Errno::ENAMETOOLONG);
        };
        let (head, tail) = rest.split_at(slash);
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        at = Some(open_one(at.as_ref(), head, flags)?);
        rest = tail.get(1..).unwrap_or_default();
    }
    open_one(at.as_ref(), rest, flags)
}

fn open_one(at: Option<&OwnedFd>, path: &[u8], flags: OFlag) -> std::result::Result<OwnedFd, Errno> {
    let path = OsStr::from_bytes(path);
    match at {
        Some(directory) => openat(directory.as_fd(), path, flags, Mode::empty()),
        None => nix::fcntl::open(path, flags, Mode::empty()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn listed(path: &Path) -> SourceFile {
        SourceFile::new(path.into(), Fingerprint::of(&nix::sys::stat::stat(path).unwrap()))
    }

    #[test]
    fn what_changes_after_it_was_listed_is_an_error_that_names_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, "0123456789").unwrap();
        let read = |file: &SourceFile| {
            let mut data = [0; 4];
            file.read(3, &mut data).map(|()| data).map_err(|error| error.to_string())
        };
        assert_eq!(&read(&listed(&path)).unwrap(), b"3456");

        let shrunk = listed(&path);
        read(&shrunk).unwrap();
        fs::write(&path, "01234").unwrap();
        let error = read(&shrunk).unwrap_err();
        assert!(error.contains("file: changed while it was read: it ends at 5"), "{error}");

        fs::write(&path, "0123456789").unwrap();
        let replaced = listed(&path);
        fs::write(dir.path().join("other"), "0123456789").unwrap();
        fs::rename(dir.path().join("other"), &path).unwrap();
        assert!(read(&replaced).unwrap_err().contains("another file has taken its place"));

        // Somebody who sets the time back is found out by the time that nobody can set.
        let touched = listed(&path);
        let modified = fs::metadata(&path).unwrap().modified().unwrap();
        // The system's clock ticks a few hundred times a second.
        while Fingerprint::of(&nix::sys::stat::stat(&path).unwrap()).ctime == touched.expected.ctime {
            fs::write(&path, "9876543210").unwrap();
        }
        fs::File::options().write(true).open(&path).unwrap().set_modified(modified).unwrap();
        let error = read(&touched).unwrap_err();
        assert!(error.contains("its inode changed at "), "{error}");

        let gone = listed(&path);
        fs::remove_file(&path).unwrap();
        assert!(read(&gone).unwrap_err().contains("it is gone"));
    }

    #[test]
    fn paths_of_any_length_are_opened() {
        let dir = tempfile::tempdir().unwrap();
        let mut path = dir.path().to_owned();
        let mut at = open_path(&path, OFlag::O_PATH).unwrap();
        let name = "d".repeat(200);
        for _ in 0..60 {
            nix::sys::stat::mkdirat(&at, name.as_str(), Mode::S_IRWXU).unwrap();
            at = openat(&at, name.as_str(), OFlag::O_PATH, Mode::empty()).unwrap();
            path.push(&name);
        }
        assert!(path.as_os_str().len() > 12_000);
        open_path(&path, OFlag::O_RDONLY | OFlag::O_DIRECTORY).unwrap();
        assert_eq!(open_path(&path.join("none"), OFlag::O_RDONLY).unwrap_err(), Errno::ENOENT);
    }
}
