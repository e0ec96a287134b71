//! The kernel's half: shared mappings seen as atomics, open-file-description locks, preallocation.
//!
//! The only module of the crate that may use `unsafe`.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::AtomicU8;

use memmap2::{MmapOptions, MmapRaw};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl, posix_fallocate};
use nix::libc;

/// The first bytes of a file, shared with every process that maps it. Only ever seen as atomics.
pub(crate) struct SharedMap {
    raw: MmapRaw,
}

impl SharedMap {
    /// Maps the first `len` bytes of `file`, which must have been opened for reading and writing.
    ///
    /// The blocks are allocated first: a page of a mapping whose block cannot be allocated is a SIGBUS when it
    /// is written, so a full disk has to be an error here.
    pub(crate) fn new(file: &File, len: usize) -> io::Result<Self> {
        allocate(file, len as u64)?;
        Ok(Self { raw: MmapOptions::new().len(len).map_raw(file)? })
    }

    /// The mapped bytes.
    pub(crate) fn bytes(&self) -> &[AtomicU8] {
        // SAFETY: the mapping is readable and writable, `len` bytes long and lives as long as `self`. AtomicU8
        // has the layout of u8 and no alignment needs. All accesses of this process go through this function,
        // other processes are as good as foreign threads, and the file is never truncated by us.
        unsafe { std::slice::from_raw_parts(self.raw.as_mut_ptr().cast::<AtomicU8>(), self.raw.len()) }
    }
}

/// Makes the file at least `len` bytes long and gives every byte of that a block.
fn allocate(file: &File, len: u64) -> io::Result<()> {
    let len = len.try_into().map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    loop {
        match posix_fallocate(file.as_fd(), 0, len) {
            Err(Errno::EINTR) => {}
            other => return other.map_err(io::Error::from),
        }
    }
}

/// How a range of lock bytes is held.
#[derive(Clone, Copy)]
pub(crate) enum Lock {
    Shared,
    Exclusive,
}

/// Tries to lock `len` bytes from `offset` for this open file description; false if another one holds them.
/// Never waits.
pub(crate) fn try_lock(file: &File, lock: Lock, offset: u64, len: u64) -> io::Result<bool> {
    let kind = match lock {
        Lock::Shared => libc::F_RDLCK,
        Lock::Exclusive => libc::F_WRLCK,
    };
    match set_lock(file, kind, offset, len) {
        Ok(()) => Ok(true),
        Err(Errno::EAGAIN | Errno::EACCES) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Releases what [`try_lock`] locked.
pub(crate) fn unlock(file: &File, offset: u64, len: u64) -> io::Result<()> {
    set_lock(file, libc::F_UNLCK, offset, len).map_err(io::Error::from)
}

fn set_lock(file: &File, kind: libc::c_int, offset: u64, len: u64) -> Result<(), Errno> {
    let flock = libc::flock {
        l_type: libc::c_short::try_from(kind).map_err(|_| Errno::EINVAL)?,
        l_whence: libc::c_short::try_from(libc::SEEK_SET).map_err(|_| Errno::EINVAL)?,
        l_start: offset.try_into().map_err(|_| Errno::EINVAL)?,
        l_len: len.try_into().map_err(|_| Errno::EINVAL)?,
        l_pid: 0,
    };
    fcntl(file.as_fd(), FcntlArg::F_OFD_SETLK(&flock)).map(drop)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;

    #[test]
    fn two_descriptions_exclude_each_other_and_one_does_not_exclude_itself() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let open =
            || File::options().read(true).write(true).create(true).truncate(false).open(&path).unwrap();
        let (a, b) = (open(), open());
        assert!(try_lock(&a, Lock::Exclusive, 1 << 40, 4).unwrap());
        assert!(try_lock(&a, Lock::Exclusive, 1 << 40, 4).unwrap());
        assert!(!try_lock(&b, Lock::Exclusive, (1 << 40) + 3, 1).unwrap());
        assert!(try_lock(&b, Lock::Exclusive, (1 << 40) + 4, 1).unwrap());
        unlock(&a, 1 << 40, 4).unwrap();
        assert!(try_lock(&b, Lock::Shared, 1 << 40, 4).unwrap());
        assert!(try_lock(&a, Lock::Shared, 1 << 40, 4).unwrap());
        drop(b);
        assert!(try_lock(&a, Lock::Exclusive, 1 << 40, 4).unwrap());
    }

    #[test]
    fn mappings_of_one_file_show_the_same_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let open =
            || File::options().read(true).write(true).create(true).truncate(false).open(&path).unwrap();
        let (a, b) = (SharedMap::new(&open(), 5000).unwrap(), SharedMap::new(&open(), 5000).unwrap());
        a.bytes()[4999].fetch_or(0x81, Ordering::Release);
        assert_eq!(b.bytes()[4999].load(Ordering::Acquire), 0x81);
        assert_eq!(std::fs::read(&path).unwrap()[4999], 0x81);
    }
}
